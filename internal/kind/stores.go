package kind

import (
	"google.golang.org/api/redis/v1"
	"google.golang.org/api/sqladmin/v1"
	"google.golang.org/api/storage/v1"

	"github.com/difyup/difyup/internal/resource"
)

// The kinds that hold data, and what lives inside them.
var (
	SQLInstances = resource.Of[sqladmin.DatabaseInstance]{Kind: &kindData{
		Name: "sql.instances", API: SQLAPI, Collection: "projects/{project}/instances", List: "items",
		Update: resource.Patch, Holds: resource.Data,
		Immutable: []path{"name", "region", "instanceType", "settings.ipConfiguration.privateNetwork"},
		Sets:      []path{"settings.databaseFlags"},
		Ready:     map[path]string{"state": "RUNNABLE"},
		Driver:    "sqlinstance",
		Mark:      resource.Marking{At: "settings.userLabels", Delete: "sql instances delete {name}"},
	}}
	SQLDatabases = resource.Of[sqladmin.Database]{Kind: &kindData{
		Name: "sql.databases", API: SQLAPI, Collection: "projects/{project}/instances/{instance}/databases", List: "items",
		Update: resource.Patch, Holds: resource.Data, Immutable: []path{"name", "instance", "charset", "collation"},
		Mark: resource.Marking{Within: "sql.instances", Delete: "sql databases delete {name} --instance={instance}"},
	}}
	SQLUsers = resource.Of[sqladmin.User]{Kind: &kindData{
		Name: "sql.users", API: SQLAPI, Collection: "projects/{project}/instances/{instance}/users", List: "items",
		Update: resource.Patch, Immutable: []path{"name", "instance", "type"}, Secret: []path{"password"}, Driver: "sqluser",
		Mark: resource.Marking{Within: "sql.instances"},
	}}
	RedisInstances = resource.Of[redis.Instance]{Kind: &kindData{
		Name: "redis.instances", API: RedisAPI, Collection: "projects/{project}/locations/{region}/instances", List: "instances",
		CreateParam: "instanceId", Update: resource.PatchEach, Holds: resource.Data,
		Immutable: []path{"name", "tier", "locationId", "authorizedNetwork", "connectMode", "transitEncryptionMode", "redisVersion"},
		Ignored:   []path{"name", "reservedIpRange"}, // answered with the project's path, and as a CIDR range
		Secret:    []path{"authString"},
		Ready:     map[path]string{"state": "READY"},
		Mark:      resource.Marking{At: "labels", Delete: "redis instances delete {name} --region={region}"},
	}}
	Buckets = resource.Of[storage.Bucket]{Kind: &kindData{
		Name: "storage.buckets", API: StorageAPI, Collection: "b", List: "items",
		Update: resource.Patch, Holds: resource.Keys, Immutable: []path{"name", "location"}, // Dify's privkeys/
		Sets: []path{"cors[].method", "cors[].origin", "cors[].responseHeader"}, Driver: "bucket",
		Mark: resource.Marking{At: "labels", Number: "projectNumber", Delete: "storage rm --recursive gs://{name}"},
	}}
	BucketObjects = resource.Of[Object]{Kind: &kindData{
		Name: "storage.objects", API: StorageAPI, Collection: "b/{bucket}/o",
		Immutable: []path{"bucket", "name"}, Ignored: []path{"source"}, Driver: "object",
		Mark: resource.Marking{Within: "storage.buckets"},
	}}
)
