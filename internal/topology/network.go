package topology

import (
	"net/netip"
	"strconv"

	"google.golang.org/api/compute/v1"
	"google.golang.org/api/servicenetworking/v1"

	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// network is what the other layers need of the network.
type network struct {
	vpc, subnetwork *resource.Resource
	router          *resource.Resource // with the NAT, the way out
	connection      *resource.Resource // to Google's network, in which the stores are
}

// natPorts is how many ports of the NAT an instance has before it needs them, a power of 2: one address has 64512 for all instances.
const natPorts = 512

func (b *builder) networkLayer() network {
	n := b.spec.Network
	vpc := b.add(kind.Networks.New(b.name("net"), b.params(), &compute.Network{
		Name: b.name("net"), Description: b.mark(), AutoCreateSubnetworks: false,
		RoutingConfig:   &compute.NetworkRoutingConfig{RoutingMode: "REGIONAL"},
		ForceSendFields: []string{"AutoCreateSubnetworks"},
	}))
	flowLogs := &compute.SubnetworkLogConfig{Enable: n.FlowLogs, ForceSendFields: []string{"Enable"}}
	subnetwork := b.add(kind.Subnetworks.New(b.name("subnet"), b.params(), &compute.Subnetwork{
		Name: b.name("subnet"), Description: b.mark(), IpCidrRange: n.CIDR, PrivateIpGoogleAccess: true, LogConfig: flowLogs,
	}).Refer("network", vpc, vpc.URL()))
	router := b.add(kind.Routers.New(b.name("router"), b.params(), &compute.Router{
		Name: b.name("router"), Description: b.mark(),
		Nats: []*compute.RouterNat{{
			Name: b.name("nat"), NatIpAllocateOption: "AUTO_ONLY", SourceSubnetworkIpRangesToNat: "LIST_OF_SUBNETWORKS",
			Subnetworks: []*compute.RouterNatSubnetworkToNat{{SourceIpRangesToNat: []string{"ALL_IP_RANGES"}}},
			LogConfig:   &compute.RouterNatLogConfig{Enable: true, Filter: "ERRORS_ONLY"},
			// Without these an instance has 64 ports for all connections to one address, as of a model's API, and a port that was used stays
			// taken for 2 minutes: each answer that streams holds one.
			EnableDynamicPortAllocation: true, MinPortsPerVm: natPorts, MaxPortsPerVm: 65536,
			EnableEndpointIndependentMapping: false, ForceSendFields: []string{"EnableEndpointIndependentMapping"},
		}},
	}).Refer("network", vpc, vpc.URL()).Refer("nats[0].subnetworks[0].name", subnetwork, subnetwork.URL()))

	// Databases and cache get their addresses from a range that is peered to Google's network.
	services := netip.MustParsePrefix(n.ServicesCIDR)
	reserved := b.add(kind.GlobalAddresses.New(b.name("services"), b.params(), &compute.Address{
		Name: b.name("services"), Description: b.mark(), Purpose: "VPC_PEERING", AddressType: "INTERNAL",
		Address: services.Addr().String(), PrefixLength: int64(services.Bits()),
	}).Refer("network", vpc, vpc.URL()))
	connection := b.add(kind.Connections.New(vpc.Name, b.params(), &servicenetworking.Connection{}).
		Refer("network", vpc, vpc.Link()).Refer("reservedPeeringRanges[0]", reserved, reserved.Name))

	// Addresses that Google's load balancers and health checks come from; documented as fixed.
	google := []string{"130.211.0.0/22", "35.191.0.0/16"}
	b.firewall(vpc, "allow-lb", google, servicePort, 443)
	b.firewall(vpc, "allow-health", google, servicePort)
	if len(n.SSHRanges) > 0 { // a rule without ranges would let everybody in
		b.firewall(vpc, "allow-ssh", n.SSHRanges, 22)
	}
	if n.IAPSSH {
		b.firewall(vpc, "allow-iap", []string{"35.235.240.0/20"}, 22) // Identity-Aware Proxy's
	}
	return network{vpc: vpc, subnetwork: subnetwork, router: router, connection: connection}
}

// firewall lets ranges reach TCP ports of the instances.
func (b *builder) firewall(vpc *resource.Resource, purpose string, ranges []string, ports ...int) {
	var texts []string
	for _, p := range ports {
		texts = append(texts, strconv.Itoa(p))
	}
	b.add(kind.Firewalls.New(b.name(purpose), b.params(), &compute.Firewall{
		Name: b.name(purpose), Description: b.mark(), Direction: "INGRESS", Priority: 1000,
		SourceRanges: ranges, TargetTags: []string{b.name("vm")},
		Allowed:   []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: texts}},
		LogConfig: &compute.FirewallLogConfig{Enable: false, ForceSendFields: []string{"Enable"}},
		Disabled:  false, ForceSendFields: []string{"Disabled"},
	}).Refer("network", vpc, vpc.URL()))
}
