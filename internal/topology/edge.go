package topology

import (
	"strings"

	"google.golang.org/api/compute/v1"

	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// healthCheck asks the agent on the service port, every so many seconds; passes in a row make an instance healthy, fails
// in a row unhealthy.
func (b *builder) healthCheck(purpose, path string, interval, timeout, passes, fails int64) *resource.Resource {
	return b.add(kind.HealthChecks.New(b.name(purpose), b.params(), &compute.HealthCheck{
		Name: b.name(purpose), Description: b.mark(), Type: "HTTP", CheckIntervalSec: interval, TimeoutSec: timeout, HealthyThreshold: passes, UnhealthyThreshold: fails,
		HttpHealthCheck: &compute.HTTPHealthCheck{Port: servicePort, PortSpecification: "USE_FIXED_PORT", RequestPath: path, ProxyHeader: "NONE"},
		LogConfig:       &compute.HealthCheckLogConfig{Enable: false, ForceSendFields: []string{"Enable"}},
	}))
}

// edgeLayer gives the address at which the stack is reached.
func (b *builder) edgeLayer(group *resource.Resource) *resource.Resource {
	o := b.spec.LoadBalancer
	logs := &compute.BackendServiceLogConfig{Enable: o.AccessLogs, ForceSendFields: []string{"Enable"}}
	if o.AccessLogs {
		logs.SampleRate = 1
	}
	address := b.add(kind.GlobalAddresses.New(b.name("ip"), b.params(), &compute.Address{
		Name: b.name("ip"), Description: b.mark(), AddressType: "EXTERNAL", IpVersion: "IPV4",
	}))
	health := b.healthCheck("lb-health", "/health", 5, 5, 2, 2)
	service := b.add(kind.BackendServices.New(b.name("backend"), b.params(), &compute.BackendService{
		Name: b.name("backend"), Description: b.mark(), Protocol: "HTTP", PortName: "http", LoadBalancingScheme: "EXTERNAL_MANAGED",
		TimeoutSec: int64(o.TimeoutSeconds), ConnectionDraining: &compute.ConnectionDraining{DrainingTimeoutSec: int64(o.DrainSeconds), ForceSendFields: []string{"DrainingTimeoutSec"}},
		Backends:  []*compute.Backend{{BalancingMode: "UTILIZATION", MaxUtilization: 0.8, CapacityScaler: 1}},
		LogConfig: logs,
	}).Refer("healthChecks[0]", health, health.URL()).
		Refer("backends[0].group", group, strings.Replace(group.URL(), "/instanceGroupManagers/", "/instanceGroups/", 1)))
	urls := b.add(kind.URLMaps.New(b.name("urls"), b.params(), &compute.UrlMap{
		Name: b.name("urls"), Description: b.mark(),
	}).Refer("defaultService", service, service.URL()))
	profile := b.add(kind.SSLPolicies.New(b.name("tls"), b.params(), &compute.SslPolicy{
		Name: b.name("tls"), Description: b.mark(), Profile: strings.ToUpper(o.TLSProfile), MinTlsVersion: "TLS_" + strings.ReplaceAll(o.MinTLS, ".", "_"),
	}))
	certificate := b.certificate()
	secure := b.add(kind.TargetHTTPSProxies.New(b.name("https"), b.params(), &compute.TargetHttpsProxy{
		Name: b.name("https"), Description: b.mark(), SslCertificates: append([]string{certificate.URL()}, b.given.Certificates...),
	}).Refer("urlMap", urls, urls.URL()).Refer("sslCertificates[0]", certificate, certificate.URL()).Refer("sslPolicy", profile, profile.URL()))
	b.forward(address, "https", "443-443", secure)

	if o.HTTPRedirect {
		redirect := b.add(kind.URLMaps.New(b.name("redirect"), b.params(), &compute.UrlMap{
			Name: b.name("redirect"), Description: b.mark(),
			DefaultUrlRedirect: &compute.HttpRedirectAction{HttpsRedirect: true, StripQuery: false, RedirectResponseCode: "MOVED_PERMANENTLY_DEFAULT", ForceSendFields: []string{"StripQuery"}},
		}))
		plain := b.add(kind.TargetHTTPProxies.New(b.name("http"), b.params(), &compute.TargetHttpProxy{
			Name: b.name("http"), Description: b.mark(),
		}).Refer("urlMap", redirect, redirect.URL()))
		b.forward(address, "http", "80-80", plain)
	}
	return address
}

// certificate is managed by Google or signed by itself. Like a template it cannot be changed, so that its name follows
// its contents.
func (b *builder) certificate() *resource.Resource {
	body := &kind.Certificate{Description: b.mark(), Type: "SELF_MANAGED", Domains: []string{b.spec.Domain}}
	if b.spec.Domain == "" {
		body.Domains = []string{b.spec.Stack + ".internal"}
	}
	if b.spec.LoadBalancer.Certificate == "managed" {
		body.Type = "MANAGED"
	}
	body.Name = b.name("cert-" + hash(body))
	return b.add(kind.SSLCertificates.New(body.Name, b.params(), body))
}

// forward opens a port of an address.
func (b *builder) forward(address *resource.Resource, purpose, ports string, target *resource.Resource) {
	b.add(kind.GlobalForwardingRules.New(b.name(purpose), b.params(), &compute.ForwardingRule{
		Name: b.name(purpose), Description: b.mark(), IPProtocol: "TCP", PortRange: ports,
		LoadBalancingScheme: "EXTERNAL_MANAGED", NetworkTier: "PREMIUM",
	}).Take("IPAddress", address.Output("address")).Refer("target", target, target.URL()))
}
