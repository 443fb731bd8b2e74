package kind

import (
	"google.golang.org/api/compute/v1"

	"github.com/difyup/difyup/internal/resource"
)

type (
	kindData = resource.Kind
	path     = resource.Path
)

// described is the mark of a kind that takes a description and, when it is created, no labels.
func described(gcloud string) resource.Marking {
	return resource.Marking{At: "description", Delete: gcloud}
}

// The kinds of Compute Engine. Their labels cannot be set when they are created, so the ownership mark is the
// description, which most of them cannot change: it never varies.
var (
	Networks = resource.Of[compute.Network]{Kind: &kindData{
		Name: "compute.networks", API: ComputeAPI, Collection: "projects/{project}/global/networks", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "description", "autoCreateSubnetworks"},
		Mark: described("compute networks delete {name}"),
	}}
	Subnetworks = resource.Of[compute.Subnetwork]{Kind: &kindData{
		Name: "compute.subnetworks", API: ComputeAPI, Collection: "projects/{project}/regions/{region}/subnetworks", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint",
		Immutable: []path{"name", "description", "network", "ipCidrRange", "region", "privateIpGoogleAccess"},
		Mark:      described("compute networks subnets delete {name} --region={region}"),
	}}
	Routers = resource.Of[compute.Router]{Kind: &kindData{
		Name: "compute.routers", API: ComputeAPI, Collection: "projects/{project}/regions/{region}/routers", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "network"},
		Mark: described("compute routers delete {name} --region={region}"),
	}}
	GlobalAddresses = resource.Of[compute.Address]{Kind: &kindData{
		Name: "compute.globalAddresses", API: ComputeAPI, Collection: "projects/{project}/global/addresses", List: "items",
		Mark: described("compute addresses delete {name} --global"),
	}}
	Firewalls = resource.Of[compute.Firewall]{Kind: &kindData{
		Name: "compute.firewalls", API: ComputeAPI, Collection: "projects/{project}/global/firewalls", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "direction", "network"},
		Sets: []path{"allowed", "allowed[].ports", "sourceRanges", "targetTags"},
		Mark: described("compute firewall-rules delete {name}"),
	}}
	HealthChecks = resource.Of[compute.HealthCheck]{Kind: &kindData{
		Name: "compute.healthChecks", API: ComputeAPI, Collection: "projects/{project}/global/healthChecks", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "type"},
		Mark: described("compute health-checks delete {name} --global"),
	}}
	SSLPolicies = resource.Of[compute.SslPolicy]{Kind: &kindData{
		Name: "compute.sslPolicies", API: ComputeAPI, Collection: "projects/{project}/global/sslPolicies", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "description"}, Fingerprint: "fingerprint",
		Mark: described("compute ssl-policies delete {name} --global"),
	}}
	SSLCertificates = resource.Of[Certificate]{Kind: &kindData{
		Name: "compute.sslCertificates", API: ComputeAPI, Collection: "projects/{project}/global/sslCertificates", List: "items",
		Ignored: []path{"domains"}, Driver: "certificate",
		Mark: described("compute ssl-certificates delete {name} --global"),
	}}
	InstanceTemplates = resource.Of[compute.InstanceTemplate]{Kind: &kindData{
		Name: "compute.instanceTemplates", API: ComputeAPI, Collection: "projects/{project}/global/instanceTemplates", List: "items",
		Sets: []path{"properties.metadata.items", "properties.tags.items"},
		Mark: described("compute instance-templates delete {name}"),
	}}
	RegionInstanceGroupManagers = resource.Of[compute.InstanceGroupManager]{Kind: &kindData{
		Name: "compute.regionInstanceGroupManagers", API: ComputeAPI, Collection: "projects/{project}/regions/{region}/instanceGroupManagers", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint",
		Immutable: []path{"name", "baseInstanceName", "description", "distributionPolicy.zones"},
		Sets:      []path{"distributionPolicy.zones", "namedPorts"},
		Ignored:   []path{"targetSize"}, // the autoscaler's
		Holds:     resource.Machines, Driver: "group",
		Ready: map[path]string{"status.isStable": "true", "status.versionTarget.isReached": "true"},
		Mark:  described("compute instance-groups managed delete {name} --region={region}"),
	}}
	RegionAutoscalers = resource.Of[compute.Autoscaler]{Kind: &kindData{
		Name: "compute.regionAutoscalers", API: ComputeAPI, Collection: "projects/{project}/regions/{region}/autoscalers", List: "items",
		Update: resource.Patch, PatchParam: "autoscaler", Immutable: []path{"name", "target"},
		Mark: described(""),
	}}
	BackendServices = resource.Of[compute.BackendService]{Kind: &kindData{
		Name: "compute.backendServices", API: ComputeAPI, Collection: "projects/{project}/global/backendServices", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint", Immutable: []path{"name", "loadBalancingScheme"},
		Mark: described("compute backend-services delete {name} --global"),
	}}
	URLMaps = resource.Of[compute.UrlMap]{Kind: &kindData{
		Name: "compute.urlMaps", API: ComputeAPI, Collection: "projects/{project}/global/urlMaps", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint", Immutable: []path{"name"},
		Mark: described("compute url-maps delete {name} --global"),
	}}
	TargetHTTPSProxies = resource.Of[compute.TargetHttpsProxy]{Kind: &kindData{
		Name: "compute.targetHttpsProxies", API: ComputeAPI, Collection: "projects/{project}/global/targetHttpsProxies", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint", Immutable: []path{"name", "description", "httpKeepAliveTimeoutSec"},
		Mark: described("compute target-https-proxies delete {name} --global"),
	}}
	TargetHTTPProxies = resource.Of[compute.TargetHttpProxy]{Kind: &kindData{
		Name: "compute.targetHttpProxies", API: ComputeAPI, Collection: "projects/{project}/global/targetHttpProxies", List: "items",
		Update: resource.Patch, Fingerprint: "fingerprint", Immutable: []path{"name", "description", "httpKeepAliveTimeoutSec"},
		Mark: described("compute target-http-proxies delete {name} --global"),
	}}
	GlobalForwardingRules = resource.Of[compute.ForwardingRule]{Kind: &kindData{
		Name: "compute.globalForwardingRules", API: ComputeAPI, Collection: "projects/{project}/global/forwardingRules", List: "items",
		Mark: described("compute forwarding-rules delete {name} --global"),
	}}
)
