package compute

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// reference is a field that names other resources, and the collections these may be in.
type reference struct {
	path string // "backends[].group"
	to   []string
	full bool // nothing shorter than a URL will do: the field's text in the API reference refuses partial ones
}

// collection is a type of Compute resource, as data; the functions are for what only it does.
type collection struct {
	name       string // the collection's name in links: "healthChecks"
	method     string // in method IDs: "healthChecks", "globalAddresses"
	aggregated string // the method prefix of aggregatedList, "" where another row has it or there is none
	kind       string // "compute#healthCheck"
	param      string // the path parameter of the name
	noun       string // in the sentence that refuses a deletion
	refs       []reference
	fixed      []string // fields that cannot be changed, besides the name

	fingerprint        bool // has one
	requireFingerprint bool // and wants it sent back
	patch, put         bool

	// fill checks a body, filled in by the server, and fills it in. old is nil for a new resource.
	fill    func(s *Service, r *front.Request, key string, body, old map[string]any) error
	created func(s *Service, key string)
	gone    func(s *Service, key string, body map[string]any)
	show    func(s *Service, key string, body map[string]any) // adds what is known only when asked

	create, update, remove time.Duration // how long it takes on Google
}

const second = time.Second

// collections gives the table. It is made once for a service.
func collections() []collection {
	return []collection{
		{
			name: "networks", method: "networks", kind: "compute#network", param: "network", noun: "network", patch: true,
			fixed: []string{"autoCreateSubnetworks", "description"}, fill: fillNetwork, show: showNetwork, create: 12 * second, update: 8 * second, remove: 30 * second,
		},
		{
			name: "subnetworks", method: "subnetworks", aggregated: "subnetworks", kind: "compute#subnetwork", param: "subnetwork", noun: "subnetwork",
			refs: []reference{{path: "network", to: []string{"networks"}}}, fixed: []string{"network", "ipCidrRange", "description"},
			fingerprint: true, requireFingerprint: true, patch: true, fill: fillSubnetwork, create: 15 * second, update: 10 * second, remove: 20 * second,
		},
		{
			name: "routers", method: "routers", aggregated: "routers", kind: "compute#router", param: "router", noun: "router",
			refs:  []reference{{path: "network", to: []string{"networks"}}, {path: "nats[].subnetworks[].name", to: []string{"subnetworks"}}},
			fixed: []string{"network"}, patch: true, put: true, fill: fillRouter, create: 8 * second, update: 8 * second, remove: 8 * second,
		},
		{
			name: "addresses", method: "globalAddresses", aggregated: "addresses", kind: "compute#address", param: "address", noun: "address",
			refs: []reference{{path: "network", to: []string{"networks"}}}, fill: fillAddress, show: showAddress,
			gone: func(s *Service, _ string, body map[string]any) {
				if body["addressType"] == "EXTERNAL" {
					s.addresses.Release(fmt.Sprint(body["address"]))
				}
			},
			create: 5 * second, remove: 5 * second,
		},
		{
			name: "firewalls", method: "firewalls", kind: "compute#firewall", param: "firewall", noun: "firewall",
			refs: []reference{{path: "network", to: []string{"networks"}}}, fixed: []string{"direction"}, patch: true, put: true, fill: fillFirewall,
			create: 8 * second, update: 8 * second, remove: 8 * second,
		},
		{
			name: "healthChecks", method: "healthChecks", aggregated: "healthChecks", kind: "compute#healthCheck", param: "healthCheck", noun: "health_check",
			patch: true, put: true, fill: fillHealthCheck, create: 5 * second, update: 5 * second, remove: 5 * second,
		},
		{
			name: "instanceTemplates", method: "instanceTemplates", aggregated: "instanceTemplates", kind: "compute#instanceTemplate", param: "instanceTemplate", noun: "instance_template",
			refs: []reference{{path: "properties.networkInterfaces[].network", to: []string{"networks"}}, {path: "properties.networkInterfaces[].subnetwork", to: []string{"subnetworks"}}},
			fill: fillTemplate, create: 5 * second, remove: 5 * second,
		},
		{
			name: "instanceGroupManagers", method: "regionInstanceGroupManagers", aggregated: "instanceGroupManagers", kind: "compute#instanceGroupManager", param: "instanceGroupManager", noun: "instance_group_manager",
			refs: []reference{
				{path: "instanceTemplate", to: []string{"instanceTemplates"}}, {path: "versions[].instanceTemplate", to: []string{"instanceTemplates"}},
				{path: "autoHealingPolicies[].healthCheck", to: []string{"healthChecks"}},
			},
			fixed: []string{"baseInstanceName", "description"}, fingerprint: true, patch: true, fill: fillGroup, show: showGroup,
			create: 15 * second, update: 8 * second, remove: 60 * second,
		},
		{
			name: "autoscalers", method: "regionAutoscalers", aggregated: "autoscalers", kind: "compute#autoscaler", param: "autoscaler", noun: "autoscaler",
			refs: []reference{{path: "target", to: []string{"instanceGroupManagers"}}}, fixed: []string{"target"}, patch: true, put: true, fill: fillAutoscaler,
			create: 8 * second, update: 8 * second, remove: 8 * second,
		},
		{
			name: "sslCertificates", method: "sslCertificates", aggregated: "sslCertificates", kind: "compute#sslCertificate", param: "sslCertificate", noun: "ssl_certificate",
			fill: fillCertificate, show: showCertificate, create: 5 * second, remove: 5 * second,
			gone: func(s *Service, key string, _ map[string]any) {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.keys, key)
			},
		},
		{
			name: "sslPolicies", method: "sslPolicies", aggregated: "sslPolicies", kind: "compute#sslPolicy", param: "sslPolicy", noun: "ssl_policy",
			fixed: []string{"description"}, fingerprint: true, requireFingerprint: true, patch: true, fill: fillSSLPolicy, create: 5 * second, update: 5 * second, remove: 5 * second,
		},
		{
			name: "backendServices", method: "backendServices", aggregated: "backendServices", kind: "compute#backendService", param: "backendService", noun: "backend_service",
			refs:  []reference{{path: "healthChecks[]", to: []string{"healthChecks"}}, {path: "backends[].group", to: []string{"instanceGroups"}, full: true}},
			fixed: []string{"loadBalancingScheme"}, fingerprint: true, requireFingerprint: true, patch: true, put: true, fill: fillBackendService,
			create: 15 * second, update: 15 * second, remove: 10 * second,
		},
		{
			name: "urlMaps", method: "urlMaps", aggregated: "urlMaps", kind: "compute#urlMap", param: "urlMap", noun: "url_map",
			refs: []reference{
				{path: "defaultService", to: []string{"backendServices"}}, {path: "pathMatchers[].defaultService", to: []string{"backendServices"}},
				{path: "pathMatchers[].pathRules[].service", to: []string{"backendServices"}},
			},
			fingerprint: true, requireFingerprint: true, patch: true, put: true, fill: fillURLMap, create: 8 * second, update: 8 * second, remove: 8 * second,
		},
		{
			name: "targetHttpsProxies", method: "targetHttpsProxies", aggregated: "targetHttpsProxies", kind: "compute#targetHttpsProxy", param: "targetHttpsProxy", noun: "target_https_proxy",
			refs:  []reference{{path: "urlMap", to: []string{"urlMaps"}}, {path: "sslCertificates[]", to: []string{"sslCertificates"}}, {path: "sslPolicy", to: []string{"sslPolicies"}}},
			fixed: []string{"description"}, fingerprint: true, requireFingerprint: true, patch: true,
			fill: func(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
				certs, _ := body["sslCertificates"].([]any)
				if len(certs) == 0 && body["certificateMap"] == nil {
					return required("sslCertificates")
				}
				if len(certs) > 15 {
					return front.Invalid("Invalid value for field 'resource.sslCertificates': at most 15 certificates are allowed.")
				}
				fallback(body, "quicOverride", "NONE")
				fallback(body, "tlsEarlyData", "DISABLED")
				return need(body, "urlMap")
			},
			create: 6 * second, update: 6 * second, remove: 6 * second,
		},
		{
			name: "targetHttpProxies", method: "targetHttpProxies", aggregated: "targetHttpProxies", kind: "compute#targetHttpProxy", param: "targetHttpProxy", noun: "target_http_proxy",
			refs: []reference{{path: "urlMap", to: []string{"urlMaps"}}}, fixed: []string{"description"}, fingerprint: true, requireFingerprint: true, patch: true,
			fill: func(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
				return need(body, "urlMap")
			},
			create: 6 * second, update: 6 * second, remove: 6 * second,
		},
		{
			name: "forwardingRules", method: "globalForwardingRules", aggregated: "forwardingRules", kind: "compute#forwardingRule", param: "forwardingRule", noun: "forwarding_rule",
			refs:  []reference{{path: "target", to: []string{"targetHttpsProxies", "targetHttpProxies"}}},
			fixed: []string{"IPAddress", "IPProtocol", "portRange", "loadBalancingScheme"}, fingerprint: true, patch: true, fill: fillForwardingRule,
			create: 12 * second, update: 8 * second, remove: 10 * second,
			gone: func(s *Service, _ string, body map[string]any) {
				// An address that was not reserved goes with its rule.
				if ip := fmt.Sprint(body["IPAddress"]); s.reserved(ip) == "" {
					s.addresses.Release(ip)
				}
			},
		},
	}
}

func (s *Service) row(name string) *collection {
	for i := range s.table {
		if s.table[i].name == name {
			return &s.table[i]
		}
	}
	panic(fmt.Sprintf("compute: no collection %q. This is a bug in difyup.", name))
}

func fallback(body map[string]any, field string, v any) {
	if body[field] == nil {
		body[field] = v
	}
}

// sub gives the object at a field, made when it is not there.
func sub(body map[string]any, field string) map[string]any {
	m, _ := body[field].(map[string]any)
	if m == nil {
		m = map[string]any{}
		body[field] = m
	}
	return m
}

func required(field string) error {
	return &front.Error{Code: 400, Reason: "required", Message: fmt.Sprintf("Required field 'resource.%s' not specified", field)}
}

func need(body map[string]any, fields ...string) error {
	for _, f := range fields {
		if v := body[f]; v == nil || v == "" {
			return required(f)
		}
	}
	return nil
}

func bad(field string, value any, why string) error {
	return front.Invalid("Invalid value for field 'resource.%s': '%v'. %s", field, value, why)
}

// number reads a number that may have come as text.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case string:
		n, err := strconv.ParseFloat(v, 64)
		return n, err == nil
	}
	return 0, false
}

func within(body map[string]any, field string, least, most float64) error {
	v, ok := body[field]
	if !ok {
		return nil
	}
	if n, isNumber := number(v); !isNumber || n < least || n > most {
		return bad(field, v, fmt.Sprintf("Must be between %g and %g", least, most))
	}
	return nil
}

func fillNetwork(_ *Service, _ *front.Request, _ string, body, old map[string]any) error {
	if body["IPv4Range"] != nil || old == nil && body["autoCreateSubnetworks"] == nil {
		return bad("autoCreateSubnetworks", body["autoCreateSubnetworks"], "Legacy networks cannot be created any more; say true or false.")
	}
	routing := sub(body, "routingConfig")
	fallback(routing, "routingMode", "REGIONAL")
	fallback(routing, "bgpBestPathSelectionMode", "LEGACY")
	fallback(body, "networkFirewallPolicyEnforcementOrder", "AFTER_CLASSIC_FIREWALL")
	if err := within(body, "mtu", 1300, 8896); err != nil {
		return err
	}
	id := fmt.Sprint(body["id"])
	if self, ok := body["selfLink"].(string); ok && body["selfLinkWithId"] == nil {
		body["selfLinkWithId"] = self[:strings.LastIndexByte(self, '/')+1] + id
	}
	return nil
}

func showNetwork(s *Service, key string, body map[string]any) {
	var subnets []any
	for _, k := range s.store.Collection("subnetworks").Keys("") {
		if b, ok := s.store.Collection("subnetworks").Get(k); ok && b["network"] == link(key) {
			subnets = append(subnets, b["selfLink"])
		}
	}
	if subnets != nil {
		body["subnetworks"] = subnets
	}
}

func fillSubnetwork(s *Service, r *front.Request, key string, body, old map[string]any) error {
	if err := need(body, "network", "ipCidrRange"); err != nil {
		return err
	}
	cidr, err := netip.ParsePrefix(fmt.Sprint(body["ipCidrRange"]))
	if err != nil || !cidr.Addr().Is4() || cidr != cidr.Masked() || cidr.Bits() < 4 || cidr.Bits() > 29 {
		return bad("ipCidrRange", body["ipCidrRange"], "Must be a CIDR address range that is contained in the RFC1918 private address blocks.")
	}
	for _, other := range s.store.Collection("subnetworks").Keys("") {
		b, ok := s.store.Collection("subnetworks").Get(other)
		if !ok || other == key || b["network"] != body["network"] {
			continue
		}
		if p, err := netip.ParsePrefix(fmt.Sprint(b["ipCidrRange"])); err == nil && p.Overlaps(cidr) {
			return front.Invalid("Invalid IPCidrRange: %s conflicts with existing subnetwork '%s' in region '%s'.", cidr, b["name"], r.Path["region"])
		}
	}
	body["gatewayAddress"] = cidr.Addr().Next().String()
	fallback(body, "privateIpGoogleAccess", false)
	fallback(body, "purpose", "PRIVATE")
	fallback(body, "stackType", "IPV4_ONLY")
	fallback(body, "privateIpv6GoogleAccess", "DISABLE_GOOGLE_ACCESS")
	fallback(body, "allowSubnetCidrRoutesOverlap", false)
	logs := sub(body, "logConfig")
	fallback(logs, "enable", false)
	if logs["enable"] == true {
		fallback(logs, "aggregationInterval", "INTERVAL_5_SEC")
		fallback(logs, "flowSampling", 0.5)
		fallback(logs, "metadata", "EXCLUDE_ALL_METADATA")
	}
	body["enableFlowLogs"] = logs["enable"]
	return nil
}

func fillRouter(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
	if err := need(body, "network"); err != nil {
		return err
	}
	fallback(body, "encryptedInterconnectRouter", false)
	names := map[string]bool{}
	nats, _ := body["nats"].([]any)
	for i, n := range nats {
		nat, _ := n.(map[string]any)
		at := fmt.Sprintf("nats[%d].", i)
		name := fmt.Sprint(nat["name"])
		if nat["name"] == nil || names[name] {
			return bad(at+"name", nat["name"], "NAT names must be given and unique.")
		}
		names[name] = true
		if nat["natIpAllocateOption"] == nil {
			return required(at + "natIpAllocateOption")
		}
		if nat["sourceSubnetworkIpRangesToNat"] == nil {
			return required(at + "sourceSubnetworkIpRangesToNat")
		}
		if nat["sourceSubnetworkIpRangesToNat"] == "LIST_OF_SUBNETWORKS" && nat["subnetworks"] == nil {
			return required(at + "subnetworks")
		}
		fallback(nat, "type", "PUBLIC")
		fallback(nat, "autoNetworkTier", "PREMIUM")
		fallback(nat, "endpointTypes", []any{"ENDPOINT_TYPE_VM"})
		fallback(nat, "enableEndpointIndependentMapping", false)
	}
	return nil
}

func fillAddress(s *Service, _ *front.Request, key string, body, _ map[string]any) error {
	fallback(body, "addressType", "EXTERNAL")
	body["labelFingerprint"] = store.Fingerprint(map[string]any{"labels": body["labels"]}, 0)
	switch body["addressType"] {
	case "EXTERNAL":
		if body["purpose"] != nil || body["prefixLength"] != nil {
			return bad("purpose", body["purpose"], "Only internal addresses have a purpose or a range.")
		}
		ip, err := s.addresses.Allocate("lb")
		if err != nil {
			return err
		}
		body["address"] = ip
		fallback(body, "networkTier", "PREMIUM")
		fallback(body, "ipVersion", "IPV4")
	default:
		if body["purpose"] != "VPC_PEERING" {
			return bad("purpose", body["purpose"], "The local cloud has global internal addresses for VPC_PEERING only.")
		}
		if err := need(body, "network", "prefixLength"); err != nil {
			return err
		}
		if err := within(body, "prefixLength", 8, 29); err != nil {
			return err
		}
		bits, _ := number(body["prefixLength"])
		chosen, err := s.chooseRange(key, fmt.Sprint(body["network"]), int(bits), body["address"])
		if err != nil {
			return err
		}
		body["address"] = chosen
	}
	body["status"] = "RESERVED"
	return nil
}

// chooseRange gives the first address of a range that overlaps no subnet and no other range of the network.
func (s *Service) chooseRange(key, network string, bits int, wanted any) (string, error) {
	var taken []netip.Prefix
	for _, b := range s.List("subnetworks") {
		if p, err := netip.ParsePrefix(fmt.Sprint(b["ipCidrRange"])); err == nil && b["network"] == network {
			taken = append(taken, p)
		}
	}
	for _, k := range s.store.Collection("addresses").Keys("") {
		b, ok := s.store.Collection("addresses").Get(k)
		if !ok || k == key || b["network"] != network {
			continue
		}
		n, _ := number(b["prefixLength"])
		if a, err := netip.ParseAddr(fmt.Sprint(b["address"])); err == nil {
			taken = append(taken, netip.PrefixFrom(a, int(n)))
		}
	}
	free := func(p netip.Prefix) bool {
		for _, t := range taken {
			if t.Overlaps(p) {
				return false
			}
		}
		return true
	}
	if text, ok := wanted.(string); ok && text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil || netip.PrefixFrom(a, bits).Masked().Addr() != a {
			return "", bad("address", text, "Must be the first address of the range.")
		}
		if !free(netip.PrefixFrom(a, bits)) {
			return "", bad("address", text, "The range overlaps a subnetwork or another range.")
		}
		return text, nil
	}
	for second := range 256 {
		for third := 0; third < 256; third += max(1, 1<<max(0, 24-bits)) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte((second + 64) % 256), byte(third), 0}), bits).Masked()
			if free(p) {
				return p.Addr().String(), nil
			}
		}
	}
	return "", front.Invalid("No free range of /%d is left in 10.0.0.0/8.", bits)
}

func showAddress(s *Service, _ string, body map[string]any) {
	var users []any
	for _, rule := range s.rulesAt(body) {
		users = append(users, rule["selfLink"])
	}
	if users != nil {
		body["users"], body["status"] = users, "IN_USE"
	}
}

// rulesAt gives the forwarding rules that use an address: they keep what it is, and not its link.
func (s *Service) rulesAt(address map[string]any) []map[string]any {
	return slices.DeleteFunc(s.List("forwardingRules"), func(rule map[string]any) bool { return rule["IPAddress"] != address["address"] })
}

// reserved gives the key of the address resource that has an IP address, "" if none has.
func (s *Service) reserved(ip string) string {
	for _, a := range s.List("addresses") {
		if self, ok := a["selfLink"].(string); ok && a["address"] == ip {
			return relative("", self)
		}
	}
	return ""
}

func fillFirewall(_ *Service, r *front.Request, _ string, body, _ map[string]any) error {
	if body["network"] == nil {
		return required("network")
	}
	fallback(body, "direction", "INGRESS")
	fallback(body, "priority", 1000.0)
	fallback(body, "disabled", false)
	fallback(sub(body, "logConfig"), "enable", false)
	if err := within(body, "priority", 0, 65535); err != nil {
		return err
	}
	if body["allowed"] == nil && body["denied"] == nil {
		return required("allowed")
	}
	if body["allowed"] != nil && body["denied"] != nil {
		return bad("denied", "", "A rule allows or denies, not both.")
	}
	for _, field := range []string{"sourceRanges", "destinationRanges"} {
		list, _ := body[field].([]any)
		for i, v := range list {
			if p, err := netip.ParsePrefix(fmt.Sprint(v)); err != nil || p != p.Masked() {
				if a, err := netip.ParseAddr(fmt.Sprint(v)); err != nil || !a.IsValid() {
					return bad(fmt.Sprintf("%s[%d]", field, i), v, "Must be a valid CIDR range.")
				}
			}
		}
	}
	if body["direction"] == "INGRESS" && empty(body["sourceRanges"]) && empty(body["sourceTags"]) && empty(body["sourceServiceAccounts"]) {
		body["sourceRanges"] = []any{"0.0.0.0/0"}
	}
	for _, field := range []string{"allowed", "denied"} {
		list, _ := body[field].([]any)
		for i, v := range list {
			m, _ := v.(map[string]any)
			ports, _ := m["ports"].([]any)
			for j, p := range ports {
				if !portShape.MatchString(fmt.Sprint(p)) {
					return bad(fmt.Sprintf("%s[%d].ports[%d]", field, i, j), p, "Must be an integer or a range of integers.")
				}
			}
		}
	}
	return nil
}

var portShape = regexp.MustCompile(`^\d{1,5}(-\d{1,5})?$`)

func empty(v any) bool {
	list, _ := v.([]any)
	return len(list) == 0
}

func fillHealthCheck(_ *Service, _ *front.Request, _ string, body, old map[string]any) error {
	if old == nil && body["type"] == nil {
		return required("type")
	}
	for field, v := range map[string]float64{"checkIntervalSec": 5, "timeoutSec": 5, "healthyThreshold": 2, "unhealthyThreshold": 2} {
		fallback(body, field, v)
	}
	for _, err := range []error{
		within(body, "checkIntervalSec", 1, 300), within(body, "timeoutSec", 1, 300),
		within(body, "healthyThreshold", 1, 10), within(body, "unhealthyThreshold", 1, 10),
	} {
		if err != nil {
			return err
		}
	}
	timeout, _ := number(body["timeoutSec"])
	if interval, _ := number(body["checkIntervalSec"]); timeout > interval {
		return bad("timeoutSec", body["timeoutSec"], "The timeout must not be greater than the check interval.")
	}
	fallback(sub(body, "logConfig"), "enable", false)
	field := map[string]string{"HTTP": "httpHealthCheck", "HTTPS": "httpsHealthCheck", "TCP": "tcpHealthCheck", "HTTP2": "http2HealthCheck", "SSL": "sslHealthCheck", "GRPC": "grpcHealthCheck"}[fmt.Sprint(body["type"])]
	if field == "" {
		return nil
	}
	probe := sub(body, field)
	if strings.HasPrefix(fmt.Sprint(body["type"]), "HTTP") {
		if probe["portSpecification"] == nil || probe["portSpecification"] == "USE_FIXED_PORT" {
			fallback(probe, "port", 80.0)
		}
		fallback(probe, "requestPath", "/")
	}
	fallback(probe, "proxyHeader", "NONE")
	return within(probe, "port", 1, 65535)
}

var machineShape = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)+$`)

func fillTemplate(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
	p, _ := body["properties"].(map[string]any)
	if p == nil {
		return required("properties")
	}
	machine, _ := p["machineType"].(string)
	if machine == "" {
		return required("properties.machineType")
	}
	if !machineShape.MatchString(machine) {
		return bad("properties.machineType", machine, "Machine type specified is not a valid name.")
	}
	disks, _ := p["disks"].([]any)
	if len(disks) == 0 {
		return required("properties.disks")
	}
	for i, d := range disks {
		disk, _ := d.(map[string]any)
		if params, ok := disk["initializeParams"].(map[string]any); ok && i == 0 && params["sourceImage"] == nil {
			return required("properties.disks[0].initializeParams.sourceImage")
		}
		fallback(disk, "kind", "compute#attachedDisk")
		fallback(disk, "type", "PERSISTENT")
		fallback(disk, "mode", "READ_WRITE")
		fallback(disk, "deviceName", fmt.Sprintf("persistent-disk-%d", i))
		disk["index"] = float64(i)
	}
	nics, _ := p["networkInterfaces"].([]any)
	if len(nics) == 0 {
		return required("properties.networkInterfaces")
	}
	for i, n := range nics {
		nic, _ := n.(map[string]any)
		fallback(nic, "kind", "compute#networkInterface")
		fallback(nic, "name", fmt.Sprintf("nic%d", i))
		accesses, _ := nic["accessConfigs"].([]any)
		for _, a := range accesses {
			if access, ok := a.(map[string]any); ok {
				fallback(access, "kind", "compute#accessConfig")
				fallback(access, "name", "External NAT")
			}
		}
	}
	meta := sub(p, "metadata")
	fallback(meta, "kind", "compute#metadata")
	items, _ := meta["items"].([]any)
	total, seen := 0, map[string]bool{}
	for i, it := range items {
		item, _ := it.(map[string]any)
		k, v := fmt.Sprint(item["key"]), fmt.Sprint(item["value"])
		if seen[k] {
			return bad(fmt.Sprintf("properties.metadata.items[%d].key", i), k, "Duplicate key.")
		}
		seen[k] = true
		if len(v) > 256<<10 {
			return bad(fmt.Sprintf("properties.metadata.items[%d].value", i), "…", "Metadata value is too large (256 KiB).")
		}
		total += len(k) + len(v)
	}
	if total > 512<<10 {
		return bad("properties.metadata", "…", "The total size for all keys and values must be less than 512 KB.")
	}
	meta["fingerprint"] = store.Fingerprint(meta, 0)
	scheduling := sub(p, "scheduling")
	fallback(scheduling, "automaticRestart", true)
	fallback(scheduling, "onHostMaintenance", "MIGRATE")
	fallback(scheduling, "preemptible", false)
	return nil
}

func fillAutoscaler(s *Service, _ *front.Request, key string, body, _ map[string]any) error {
	if err := need(body, "target"); err != nil {
		return err
	}
	for _, k := range s.store.Collection("autoscalers").Keys("") {
		if b, ok := s.store.Collection("autoscalers").Get(k); ok && k != key && b["target"] == body["target"] {
			return front.InUse("instance_group_manager", relative("", fmt.Sprint(body["target"])), k)
		}
	}
	p, _ := body["autoscalingPolicy"].(map[string]any)
	if p == nil {
		return required("autoscalingPolicy")
	}
	most, ok := number(p["maxNumReplicas"])
	if !ok {
		return required("autoscalingPolicy.maxNumReplicas")
	}
	fallback(p, "minNumReplicas", 2.0)
	if least, _ := number(p["minNumReplicas"]); least < 0 || least > most {
		return bad("autoscalingPolicy.minNumReplicas", p["minNumReplicas"], "Must be at most maxNumReplicas.")
	}
	fallback(p, "coolDownPeriodSec", 60.0)
	fallback(p, "stabilizationPeriodSec", 600.0)
	fallback(p, "mode", "ON")
	if cpu, ok := p["cpuUtilization"].(map[string]any); ok {
		fallback(cpu, "utilizationTarget", 0.6)
		fallback(cpu, "predictiveMethod", "NONE")
		if target, _ := number(cpu["utilizationTarget"]); target <= 0 || target > 1 {
			return bad("autoscalingPolicy.cpuUtilization.utilizationTarget", cpu["utilizationTarget"], "Must be greater than 0 and at most 1.")
		}
	} else if p["customMetricUtilizations"] == nil && p["loadBalancingUtilization"] == nil && p["scalingSchedules"] == nil {
		p["cpuUtilization"] = map[string]any{"utilizationTarget": 0.6, "predictiveMethod": "NONE"}
	}
	metrics, _ := p["customMetricUtilizations"].([]any)
	for i, m := range metrics {
		at := fmt.Sprintf("autoscalingPolicy.customMetricUtilizations[%d].", i)
		m, _ := m.(map[string]any)
		each, ok := number(m["singleInstanceAssignment"])
		filter := fmt.Sprint(m["filter"])
		switch {
		case m["metric"] == nil || m["metric"] == "":
			return required(at + "metric")
		case !ok || m["utilizationTarget"] != nil || m["utilizationTargetType"] != nil:
			return front.Unserved("The local cloud scales by metrics of whole groups, with a singleInstanceAssignment and no utilizationTarget.")
		case each <= 0:
			return bad(at+"singleInstanceAssignment", m["singleInstanceAssignment"], "Must be greater than 0.")
		case !strings.Contains(filter, "resource.type") || strings.Contains(filter, "gce_instance"):
			return bad(at+"filter", filter, "A metric with singleInstanceAssignment is one of a whole group: its filter must name a resource type other than gce_instance.")
		}
	}
	fallback(body, "status", "ACTIVE")
	return nil
}

func fillCertificate(s *Service, _ *front.Request, key string, body, _ map[string]any) error {
	fallback(body, "type", "SELF_MANAGED")
	if body["type"] == "MANAGED" {
		m, _ := body["managed"].(map[string]any)
		domains, _ := m["domains"].([]any)
		if len(domains) == 0 || len(domains) > 100 {
			return required("managed.domains")
		}
		states := map[string]any{}
		for _, d := range domains {
			states[fmt.Sprint(d)] = "PROVISIONING"
		}
		m["status"], m["domainStatus"] = "PROVISIONING", states
		body["subjectAlternativeNames"] = domains
		return nil
	}
	self := sub(body, "selfManaged")
	for _, field := range []string{"certificate", "privateKey"} {
		if v, ok := body[field]; ok {
			fallback(self, field, v)
		}
	}
	chain, _ := self["certificate"].(string)
	private, _ := self["privateKey"].(string)
	delete(body, "privateKey")
	delete(self, "privateKey")
	if chain == "" {
		return required("certificate")
	}
	if private == "" {
		return required("privateKey")
	}
	if _, err := tls.X509KeyPair([]byte(chain), []byte(private)); err != nil {
		return &front.Error{Code: 400, Reason: "sslCertificateCouldNotParseKey", Message: "The SSL certificate could not be parsed, or the private key does not match it."}
	}
	block, _ := pem.Decode([]byte(chain))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return &front.Error{Code: 400, Reason: "sslCertificateCouldNotParseCert", Message: "The SSL certificate could not be parsed."}
	}
	body["certificate"] = chain
	body["expireTime"] = cert.NotAfter.Format(front.TimeFormat)
	if len(cert.DNSNames) > 0 {
		names := make([]any, len(cert.DNSNames))
		for i, n := range cert.DNSNames {
			names[i] = n
		}
		body["subjectAlternativeNames"] = names
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[key] = []string{chain, private}
	return nil
}

// showCertificate lets a managed certificate become active once a forwarding rule serves it. There is no public DNS
// here, so that the domain's record is taken for right.
func showCertificate(s *Service, key string, body map[string]any) {
	m, ok := body["managed"].(map[string]any)
	if !ok {
		return
	}
	for _, proxy := range s.store.Collection("targetHttpsProxies").Keys("") {
		b, _ := s.store.Collection("targetHttpsProxies").Get(proxy)
		certs, _ := b["sslCertificates"].([]any)
		for _, c := range certs {
			if c == link(key) && len(s.users(proxy)) > 0 {
				m["status"] = "ACTIVE"
				states, _ := m["domainStatus"].(map[string]any)
				for d := range states {
					states[d] = "ACTIVE"
				}
			}
		}
	}
}

func fillSSLPolicy(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
	fallback(body, "profile", "COMPATIBLE")
	fallback(body, "minTlsVersion", "TLS_1_0")
	if body["minTlsVersion"] == "TLS_1_3" && body["profile"] != "RESTRICTED" {
		return bad("minTlsVersion", "TLS_1_3", "TLS 1.3 is allowed with the RESTRICTED profile only.")
	}
	if body["profile"] == "FIPS_202205" && body["minTlsVersion"] != "TLS_1_2" {
		return bad("minTlsVersion", body["minTlsVersion"], "The FIPS_202205 profile needs TLS_1_2.")
	}
	if !empty(body["customFeatures"]) != (body["profile"] == "CUSTOM") {
		return bad("customFeatures", body["customFeatures"], "Custom features are given with the CUSTOM profile, and only with it.")
	}
	features := []any{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"}
	if body["profile"] == "COMPATIBLE" || body["profile"] == "MODERN" {
		features = append(features, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA")
	}
	if body["profile"] == "CUSTOM" {
		features, _ = body["customFeatures"].([]any)
	}
	body["enabledFeatures"] = features
	return nil
}

func fillBackendService(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
	fallback(body, "loadBalancingScheme", "EXTERNAL")
	fallback(body, "protocol", "HTTP")
	fallback(body, "port", 80.0)
	fallback(body, "portName", "http")
	fallback(body, "timeoutSec", 30.0)
	fallback(body, "sessionAffinity", "NONE")
	fallback(body, "affinityCookieTtlSec", 0.0)
	fallback(body, "description", "")
	fallback(body, "enableCDN", false)
	fallback(sub(body, "connectionDraining"), "drainingTimeoutSec", 0.0)
	if logs, ok := body["logConfig"].(map[string]any); ok {
		fallback(logs, "optionalMode", "EXCLUDE_ALL_OPTIONAL")
	}
	if checks, _ := body["healthChecks"].([]any); len(checks) > 1 {
		return bad("healthChecks", len(checks), "Exactly one health check is allowed.")
	}
	if err := within(body, "timeoutSec", 1, 2147483647); err != nil {
		return err
	}
	if err := within(sub(body, "connectionDraining"), "drainingTimeoutSec", 0, 3600); err != nil {
		return err
	}
	backends, _ := body["backends"].([]any)
	if len(backends) > 0 && empty(body["healthChecks"]) {
		return bad("healthChecks", "", "A backend service with instance group backends must have a health check.")
	}
	seen := map[string]bool{}
	for i, v := range backends {
		b, _ := v.(map[string]any)
		group := fmt.Sprint(b["group"])
		if b["group"] == nil || seen[group] {
			return bad(fmt.Sprintf("backends[%d].group", i), b["group"], "Groups must be given and unique.")
		}
		seen[group] = true
		fallback(b, "balancingMode", "UTILIZATION")
		fallback(b, "capacityScaler", 1.0)
		if b["balancingMode"] == "UTILIZATION" {
			fallback(b, "maxUtilization", 0.8)
		}
		scaler, _ := number(b["capacityScaler"])
		if scaler != 0 && (scaler < 0.1 || scaler > 1) {
			return bad(fmt.Sprintf("backends[%d].capacityScaler", i), b["capacityScaler"], "Must be 0, or between 0.1 and 1.")
		}
	}
	return nil
}

func fillURLMap(_ *Service, _ *front.Request, _ string, body, _ map[string]any) error {
	ways := 0
	for _, field := range []string{"defaultService", "defaultUrlRedirect", "defaultRouteAction"} {
		if body[field] != nil {
			ways++
		}
	}
	if ways != 1 {
		return front.Invalid("Invalid value for field 'resource': ''. Exactly one of defaultService, defaultUrlRedirect and defaultRouteAction must be set.")
	}
	if redirect, ok := body["defaultUrlRedirect"].(map[string]any); ok {
		fallback(redirect, "redirectResponseCode", "MOVED_PERMANENTLY_DEFAULT")
		fallback(redirect, "stripQuery", false)
		fallback(redirect, "httpsRedirect", false)
	}
	matchers := map[string]bool{}
	list, _ := body["pathMatchers"].([]any)
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			matchers[fmt.Sprint(m["name"])] = true
		}
	}
	rules, _ := body["hostRules"].([]any)
	for i, v := range rules {
		if m, ok := v.(map[string]any); ok && !matchers[fmt.Sprint(m["pathMatcher"])] {
			return bad(fmt.Sprintf("hostRules[%d].pathMatcher", i), m["pathMatcher"], "No such path matcher.")
		}
	}
	return nil
}

func fillForwardingRule(s *Service, r *front.Request, key string, body, old map[string]any) error {
	fallback(body, "loadBalancingScheme", "EXTERNAL")
	fallback(body, "IPProtocol", "TCP")
	fallback(body, "networkTier", "PREMIUM")
	fallback(body, "description", "")
	if old != nil {
		return nil
	}
	if err := need(body, "target", "portRange"); err != nil {
		return err
	}
	first, last, isRange := strings.Cut(fmt.Sprint(body["portRange"]), "-")
	if !isRange {
		last = first
	}
	if n, err := strconv.Atoi(first); err != nil || n < 1 || n > 65535 || first != last {
		return bad("portRange", body["portRange"], "Must be one port.")
	}
	body["portRange"] = first + "-" + last
	switch ip, _ := body["IPAddress"].(string); {
	case ip == "":
		allocated, err := s.addresses.Allocate("lb")
		if err != nil {
			return err
		}
		body["IPAddress"] = allocated
	case strings.Contains(ip, "/"):
		at := relative(r.Path["project"], ip)
		address, ok := s.Get(at)
		switch {
		case !ok:
			return front.ResourceNotFound(at)
		case s.state(at) != "":
			return notReady(at)
		}
		body["IPAddress"] = address["address"]
	default:
		at := s.reserved(ip)
		switch {
		case at == "":
			return bad("IPAddress", ip, "Invalid IP address specified.")
		case s.state(at) != "":
			return notReady(at)
		}
	}
	for _, other := range s.List("forwardingRules") {
		if other["IPAddress"] == body["IPAddress"] && other["portRange"] == body["portRange"] && other["selfLink"] != link(key) {
			return bad("IPAddress", body["IPAddress"], fmt.Sprintf("Specified IP address is in-use and would result in a conflict with '%s'.", other["name"]))
		}
	}
	// Labels given here take effect only through setLabels.
	delete(body, "labels")
	body["labelFingerprint"] = store.Fingerprint(map[string]any{}, 0)
	return nil
}
