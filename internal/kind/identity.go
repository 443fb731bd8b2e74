package kind

import (
	"google.golang.org/api/dns/v1"
	"google.golang.org/api/iam/v1"
	"google.golang.org/api/servicenetworking/v1"

	"github.com/difyup/difyup/internal/resource"
)

// The kinds of identity, secrets, naming and of the project's own settings.
var (
	Services = resource.Of[ServiceList]{Kind: &kindData{
		Name: "serviceusage.services", API: ServiceUsageAPI, Collection: "projects/{project}/services", List: "services",
		Update: resource.Patch, Sets: []path{"services"}, Driver: "services",
		Mark: resource.Marking{Shared: true},
	}}
	Connections = resource.Of[servicenetworking.Connection]{Kind: &kindData{
		Name: "servicenetworking.connections", API: ServiceNetworkingAPI, Collection: "services/servicenetworking.googleapis.com/connections", List: "connections",
		Update: resource.PatchMask, Immutable: []path{"network"}, Sets: []path{"reservedPeeringRanges"}, Driver: "connection",
		Mark: resource.Marking{Within: "compute.networks"},
	}}
	ServiceAccounts = resource.Of[iam.ServiceAccount]{Kind: &kindData{
		Name: "iam.serviceAccounts", API: IAMAPI, Collection: "projects/{project}/serviceAccounts", List: "accounts",
		Update: resource.PatchMask, Driver: "serviceaccount",
		Mark: described("iam service-accounts delete {name}@{project}.iam.gserviceaccount.com"),
	}}
	ProjectIAM = resource.Of[Policy]{Kind: &kindData{
		Name: "cloudresourcemanager.projectIam", API: ResourceManagerAPI, Collection: "projects/{project}",
		Update: resource.Patch, Sets: []path{"bindings", "bindings[].members"}, Driver: "iam",
		Mark: resource.Marking{Member: true},
	}}
	BucketIAM = resource.Of[Policy]{Kind: &kindData{
		Name: "storage.bucketIam", API: StorageAPI, Collection: "b/{bucket}",
		Update: resource.Patch, Sets: []path{"bindings", "bindings[].members"}, Driver: "iam",
		Mark: resource.Marking{Member: true},
	}}
	SecretIAM = resource.Of[Policy]{Kind: &kindData{
		Name: "secretmanager.secretIam", API: SecretManagerAPI, Collection: "projects/{project}/secrets/{secret}",
		Update: resource.Patch, Sets: []path{"bindings", "bindings[].members"}, Driver: "iam",
		Mark: resource.Marking{Member: true},
	}}
	Secrets = resource.Of[Secret]{Kind: &kindData{
		Name: "secretmanager.secrets", API: SecretManagerAPI, Collection: "projects/{project}/secrets", List: "secrets",
		CreateParam: "secretId", Update: resource.PatchMask, Holds: resource.Keys,
		Secret: []path{"payload"}, Ignored: []path{"generate"}, Driver: "secret",
		Mark: resource.Marking{At: "labels", Delete: "secrets delete {name}"},
	}}
	ManagedZones = resource.Of[dns.ManagedZone]{Kind: &kindData{
		Name: "dns.managedZones", API: DNSAPI, Collection: "projects/{project}/managedZones", List: "managedZones",
		Update: resource.Patch, Immutable: []path{"name", "dnsName", "visibility"},
		Mark: resource.Marking{At: "labels", Delete: "dns managed-zones delete {name}"},
	}}
	RecordSets = resource.Of[dns.ResourceRecordSet]{Kind: &kindData{
		Name: "dns.resourceRecordSets", API: DNSAPI, Collection: "projects/{project}/managedZones/{zone}/rrsets", List: "rrsets",
		Update: resource.Patch, Immutable: []path{"name", "type"}, Sets: []path{"rrdatas"}, Driver: "rrset",
		Mark: resource.Marking{Within: "dns.managedZones"},
	}}
)
