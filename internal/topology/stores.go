package topology

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/api/dns/v1"
	"google.golang.org/api/redis/v1"
	"google.golang.org/api/sqladmin/v1"
	"google.golang.org/api/storage/v1"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// The databases and their user, in both instances.
const (
	mainDatabase   = "dify"
	pluginDatabase = "dify_plugin"
	sqlUser        = "dify"
)

// privateAddress is where Cloud SQL shows an instance's private address.
const privateAddress resource.Path = "ipAddresses[type=PRIVATE].ipAddress"

// MainInstance is the Cloud SQL instance with Dify's main database.
func MainInstance(s *config.Spec) resource.ID {
	b := &builder{spec: s}
	return resource.ID(kind.SQLInstances.Name + "/" + b.name("main"))
}

// MainDatabase is the database in which Dify's schema is.
func MainDatabase(s *config.Spec) resource.ID {
	b := &builder{spec: s}
	return resource.ID(kind.SQLDatabases.Name + "/" + b.name("main") + "/" + mainDatabase)
}

// databases are the two Cloud SQL instances.
type databases struct{ main, vector *resource.Resource }

func (b *builder) databaseLayer(n network, passwords secrets) databases {
	return databases{
		main:   b.sqlInstance(n, "main", b.spec.Database.SQL, passwords[dify.DBPassword], mainDatabase, pluginDatabase),
		vector: b.sqlInstance(n, "vector", b.spec.Vector.SQL, passwords[dify.VectorPassword], mainDatabase),
	}
}

func (b *builder) sqlInstance(n network, purpose string, o config.SQL, password *resource.Resource, names ...string) *resource.Resource {
	flags := []*sqladmin.DatabaseFlags{{Name: "max_connections", Value: strconv.Itoa(o.MaxConnections)}}
	for _, name := range slices.Sorted(maps.Keys(o.Flags)) {
		flags = append(flags, &sqladmin.DatabaseFlags{Name: name, Value: o.Flags[name]})
	}
	availability := "ZONAL"
	if o.HighAvailability {
		availability = "REGIONAL"
	}
	sslMode := "ENCRYPTED_ONLY"
	if o.TLS == "allowed" {
		sslMode = "ALLOW_UNENCRYPTED_AND_ENCRYPTED"
	}
	logDays := o.Backups.LogDays
	if !o.Backups.Enabled || !o.Backups.PointInTimeRecovery { // there is no log, and the number has its limits all the same
		logDays = min(logDays, o.Backups.Retained, 7)
	}
	instance := b.add(kind.SQLInstances.New(b.name(purpose), b.params(), &sqladmin.DatabaseInstance{
		Name: b.name(purpose), Region: b.spec.Region, DatabaseVersion: "POSTGRES_" + strconv.Itoa(o.Version),
		Settings: &sqladmin.Settings{
			Edition: strings.ToUpper(strings.ReplaceAll(o.Edition, "-", "_")), Tier: o.Tier, AvailabilityType: availability, ActivationPolicy: "ALWAYS",
			DataDiskSizeGb: int64(o.DiskGB), DataDiskType: "PD_SSD", StorageAutoResize: boolean(true),
			DeletionProtectionEnabled: o.DeletionProtection,
			BackupConfiguration: &sqladmin.BackupConfiguration{
				Enabled: o.Backups.Enabled, StartTime: o.Backups.StartTime, PointInTimeRecoveryEnabled: o.Backups.PointInTimeRecovery,
				TransactionLogRetentionDays: int64(logDays),
				BackupRetentionSettings:     &sqladmin.BackupRetentionSettings{RetainedBackups: int64(o.Backups.Retained), RetentionUnit: "COUNT"},
				ForceSendFields:             []string{"Enabled", "PointInTimeRecoveryEnabled"},
			},
			IpConfiguration: &sqladmin.IpConfiguration{
				// The authority is the instance's own: what it signs is no other instance's.
				Ipv4Enabled: false, SslMode: sslMode, ServerCaMode: "GOOGLE_MANAGED_INTERNAL_CA", ForceSendFields: []string{"Ipv4Enabled"},
			},
			DatabaseFlags: flags, UserLabels: b.labels(), ForceSendFields: []string{"DeletionProtectionEnabled"},
		},
	}).Refer("settings.ipConfiguration.privateNetwork", n.vpc, n.vpc.Link()).After(n.connection))
	params := b.params("instance", instance.Name)
	for _, name := range names {
		b.add(kind.SQLDatabases.New(instance.Name+"/"+name, params, &sqladmin.Database{
			Name: name, Project: b.spec.Project, Instance: instance.Name, Charset: "UTF8", Collation: "en_US.UTF8",
		}))
	}
	b.add(kind.SQLUsers.New(instance.Name+"/"+sqlUser, params, &sqladmin.User{
		Name: sqlUser, Project: b.spec.Project, Instance: instance.Name,
	}).Take("password", password.Output("payload")))
	return instance
}

// Option gives the option in the description that a part of a resource comes from, "" where that is not known: of database
// flags, which only Google can check.
func Option(s *config.Spec, id resource.ID, path resource.Path) string {
	flag, ok := strings.CutPrefix(string(path), "settings.databaseFlags[name=")
	for purpose, section := range map[string]string{"main": "database", "vector": "vector"} {
		if b := (&builder{spec: s}); !ok || id != resource.ID(kind.SQLInstances.Name+"/"+b.name(purpose)) {
			continue
		}
		if flag = strings.TrimSuffix(flag, "]"); flag == "max_connections" {
			return section + ".max_connections"
		}
		return section + ".flags." + flag
	}
	return ""
}

func boolean(v bool) *bool { return &v }

// cacheLayer gives the Redis instance.
func (b *builder) cacheLayer(n network) *resource.Resource {
	o := b.spec.Redis
	tier := "BASIC"
	if o.HighAvailability {
		tier = "STANDARD_HA"
	}
	persistence := &redis.PersistenceConfig{PersistenceMode: "DISABLED"}
	periods := map[string]string{"1h": "ONE_HOUR", "6h": "SIX_HOURS", "12h": "TWELVE_HOURS", "24h": "TWENTY_FOUR_HOURS"}
	if period := periods[o.Persistence]; period != "" {
		persistence = &redis.PersistenceConfig{PersistenceMode: "RDB", RdbSnapshotPeriod: period}
	}
	encryption := "DISABLED"
	if o.TransitEncryption {
		encryption = "SERVER_AUTHENTICATION"
	}
	return b.add(kind.RedisInstances.New(b.name("redis"), b.params(), &redis.Instance{
		DisplayName: b.name("redis"), Tier: tier, MemorySizeGb: int64(o.MemoryGB), RedisVersion: "REDIS_" + strings.ReplaceAll(o.Version, ".", "_"),
		AuthEnabled: o.Auth, TransitEncryptionMode: encryption, ForceSendFields: []string{"AuthEnabled"}, ConnectMode: "PRIVATE_SERVICE_ACCESS",
		RedisConfigs: map[string]string{"maxmemory-policy": o.MaxmemoryPolicy}, PersistenceConfig: persistence, Labels: b.labels(),
	}).Refer("authorizedNetwork", n.vpc, n.vpc.Link()).After(n.connection))
}

// storageLayer gives the bucket of Dify's files.
func (b *builder) storageLayer() *resource.Resource {
	o := b.spec.Storage
	cors := make([]*storage.BucketCors, 0, len(o.CORS))
	for _, c := range o.CORS {
		cors = append(cors, &storage.BucketCors{
			Origin: c.Origins, Method: c.Methods, ResponseHeader: c.Headers, MaxAgeSeconds: int64(c.MaxAgeSeconds),
			ForceSendFields: []string{"MaxAgeSeconds", "ResponseHeader"},
		})
	}
	rules := make([]*storage.BucketLifecycleRule, 0, len(o.Lifecycle))
	for _, r := range o.Lifecycle {
		rules = append(rules, lifecycleRule(r))
	}
	return b.add(kind.Buckets.New(o.Bucket, b.params(), &storage.Bucket{
		Name: o.Bucket, Location: strings.ToUpper(o.Location), StorageClass: "STANDARD", Labels: b.labels(),
		Versioning: &storage.BucketVersioning{Enabled: o.Versioning, ForceSendFields: []string{"Enabled"}},
		IamConfiguration: &storage.BucketIamConfiguration{
			PublicAccessPrevention: "enforced", UniformBucketLevelAccess: &storage.BucketIamConfigurationUniformBucketLevelAccess{Enabled: true},
		},
		SoftDeletePolicy: &storage.BucketSoftDeletePolicy{RetentionDurationSeconds: int64(o.SoftDeleteDays) * 86400, ForceSendFields: []string{"RetentionDurationSeconds"}},
		Cors:             cors, Lifecycle: &storage.BucketLifecycle{Rule: rules, ForceSendFields: []string{"Rule"}}, ForceSendFields: []string{"Cors"},
	}))
}

// program is what instances run, in a bucket of its own: they may read it, and not write it.
type program struct{ bucket, object *resource.Resource }

func (b *builder) programLayer() program {
	name := b.spec.AgentBucket()
	bucket := b.add(kind.Buckets.New(name, b.params(), &storage.Bucket{
		Name: name, Location: strings.ToUpper(b.spec.Region), StorageClass: "STANDARD", Labels: b.labels(),
		// An agent of other bytes has another name, so that nothing is ever written over.
		Versioning: &storage.BucketVersioning{Enabled: false, ForceSendFields: []string{"Enabled"}},
		IamConfiguration: &storage.BucketIamConfiguration{
			PublicAccessPrevention: "enforced", UniformBucketLevelAccess: &storage.BucketIamConfigurationUniformBucketLevelAccess{Enabled: true},
		},
		SoftDeletePolicy: &storage.BucketSoftDeletePolicy{ForceSendFields: []string{"RetentionDurationSeconds"}},
		Cors:             []*storage.BucketCors{}, Lifecycle: &storage.BucketLifecycle{ForceSendFields: []string{"Rule"}}, ForceSendFields: []string{"Cors"},
	}))
	file := "difyup-agent-" + b.agent.SHA256[:min(12, len(b.agent.SHA256))]
	return program{bucket: bucket, object: b.add(kind.BucketObjects.New(name+"/"+file, b.params("bucket", name), &kind.Object{
		Name: file, SHA256: b.agent.SHA256, Source: b.agent.Path,
	}).Refer("bucket", bucket, bucket.Name))}
}

func lifecycleRule(r config.LifecycleRule) *storage.BucketLifecycleRule {
	action := &storage.BucketLifecycleRuleAction{Type: "SetStorageClass", StorageClass: strings.ToUpper(r.Action)}
	switch r.Action {
	case "delete":
		action = &storage.BucketLifecycleRuleAction{Type: "Delete"}
	case "abort-uploads":
		action = &storage.BucketLifecycleRuleAction{Type: "AbortIncompleteMultipartUpload"}
	}
	condition := &storage.BucketLifecycleRuleCondition{
		DaysSinceNoncurrentTime: int64(r.NoncurrentDays), NumNewerVersions: int64(r.NewerVersions), MatchesPrefix: r.Prefixes,
	}
	if r.AgeDays > 0 {
		days := int64(r.AgeDays)
		condition.Age = &days
	}
	return &storage.BucketLifecycleRule{Action: action, Condition: condition}
}

// namingLayer gives the stores names that stay when what they stand for is replaced, and the stack's address one when there is no
// domain: instances boot with names, and learn what these stand for.
func (b *builder) namingLayer(n network, sql databases, redis, address *resource.Resource) {
	name, suffix := b.name("internal"), b.spec.Stack+".internal."
	b.add(kind.ManagedZones.New(name, b.params(), &dns.ManagedZone{
		Name: name, Description: b.mark(), DnsName: suffix, Visibility: "private", Labels: b.labels(),
	}).Refer("privateVisibilityConfig.networks[0].networkUrl", n.vpc, n.vpc.URL()))
	type record struct {
		name    string
		address resource.Output
	}
	records := []record{{"db", sql.main.Output(privateAddress)}, {"vector", sql.vector.Output(privateAddress)}, {"redis", redis.Output("host")}}
	if b.spec.Domain == "" {
		records = append(records, record{"edge", address.Output("address")})
	}
	for _, r := range records {
		full := b.host(r.name) + "."
		b.add(kind.RecordSets.New(name+"/"+full+"/A", b.params("zone", name), &dns.ResourceRecordSet{
			Name: full, Type: "A", Ttl: 30,
		}).Take("rrdatas[0]", r.address))
	}
}
