package kind

import "github.com/difyup/difyup/internal/resource"

// All gives every kind, by service.
func All() []*resource.Kind {
	return []*resource.Kind{
		Services.Kind, ProjectIAM.Kind, ServiceAccounts.Kind,
		Networks.Kind, Subnetworks.Kind, Routers.Kind, GlobalAddresses.Kind, Firewalls.Kind, Connections.Kind,
		HealthChecks.Kind, SSLPolicies.Kind, SSLCertificates.Kind, InstanceTemplates.Kind, RegionInstanceGroupManagers.Kind,
		RegionAutoscalers.Kind, BackendServices.Kind, URLMaps.Kind, TargetHTTPSProxies.Kind, TargetHTTPProxies.Kind, GlobalForwardingRules.Kind,
		SQLInstances.Kind, SQLDatabases.Kind, SQLUsers.Kind, RedisInstances.Kind, Buckets.Kind, BucketObjects.Kind, BucketIAM.Kind,
		Secrets.Kind, SecretIAM.Kind, ManagedZones.Kind, RecordSets.Kind,
	}
}

// ByName finds a kind by its name, for resources known only from the state.
func ByName(name string) (*resource.Kind, bool) {
	for _, k := range All() {
		if k.Name == name {
			return k, true
		}
	}
	return nil, false
}
