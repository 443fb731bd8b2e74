package sql

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/services"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Engine runs the servers behind instances. Names are "PROJECT/INSTANCE". Its port is 5432.
type Engine interface {
	Create(ctx context.Context, name string, flags map[string]string) (netip.Addr, error)
	Delete(ctx context.Context, name string) error
	SetFlags(ctx context.Context, name string, flags map[string]string) error
	Restart(ctx context.Context, name string) error
	CreateDatabase(ctx context.Context, name, database string) error
	DropDatabase(ctx context.Context, name, database string) error
	SetUser(ctx context.Context, name, user, password string) error
	DropUser(ctx context.Context, name, user string) error
	Running(name string) bool
	// SetEncrypted says whether a server refuses connections that are not encrypted.
	SetEncrypted(ctx context.Context, name string, encrypted bool) error
	Authorities(name string) (all []authority.Authority, active string, err error)
	AddAuthority(name string) error
	RotateAuthority(ctx context.Context, name, sha1 string) error
}

// How long Cloud SQL takes.
const (
	createTime  = 8 * time.Minute
	deleteTime  = time.Minute
	patchTime   = 15 * time.Second
	restartTime = 90 * time.Second
	userTime    = 3 * time.Second
)

// Service serves sqladmin v1 and v1beta4. Instances are in the collection "sql.instances", by
// "projects/p/instances/i"; databases and users in "sql.databases" and "sql.users", below their instance's key.
type Service struct {
	server    *front.Server
	store     *store.Store
	engine    Engine
	instances *store.Collection
	databases *store.Collection
	users     *store.Collection

	mu   sync.Mutex
	busy map[string]bool // instances with an operation under way
}

// Register serves Cloud SQL on s.
func Register(s *front.Server, st *store.Store, engine Engine) *Service {
	v := &Service{
		server: s, store: st, engine: engine, instances: st.Collection("sql.instances"), databases: st.Collection("sql.databases"),
		users: st.Collection("sql.users"), busy: map[string]bool{},
	}
	for id, h := range map[string]front.Handler{
		"flags.list": v.listFlags, "instances.insert": v.insert, "instances.get": v.get, "instances.list": v.list,
		"instances.patch": v.patch(false), "instances.update": v.patch(true), "instances.delete": v.delete, "instances.restart": v.restart,
		"instances.listServerCas": v.listAuthorities, "instances.addServerCa": v.addAuthority, "instances.rotateServerCa": v.rotateAuthority,
		"databases.insert": v.insertDatabase, "databases.get": v.getDatabase, "databases.list": v.listDatabases, "databases.delete": v.deleteDatabase,
		"users.insert": v.insertUser, "users.get": v.getUser, "users.list": v.listUsers, "users.update": v.updateUser, "users.delete": v.deleteUser,
	} {
		s.Handle("sql."+id, h)
	}
	return v
}

func key(r *front.Request) string {
	return "projects/" + r.Path["project"] + "/instances/" + r.Path["instance"]
}

// engineName is how the engine knows the instance at a key.
func engineName(key string) string {
	parts := strings.Split(key, "/")
	return parts[1] + "/" + parts[3]
}

func notThere() error {
	return &front.Error{Code: 404, Reason: "instanceDoesNotExist", Message: "The Cloud SQL instance does not exist."}
}

func invalid(format string, args ...any) error {
	return front.Invalid("Invalid request: "+format, args...)
}

// begin takes the instance for an operation: Cloud SQL does one at a time.
func (v *Service) begin(key string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.busy[key] {
		return &front.Error{Code: 409, Reason: "operationInProgress", Message: "Operation failed because another operation was already in progress."}
	}
	v.busy[key] = true
	return nil
}

func (v *Service) end(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.busy, key)
}

// run starts an operation on the instance, which must be there and idle.
func (v *Service) run(r *front.Request, opType string, latency time.Duration, work func(ctx context.Context, key string) error) (any, error) {
	return v.runThen(r, opType, latency, work, nil)
}

// runThen is run for an operation with whose good end something becomes so.
func (v *Service) runThen(r *front.Request, opType string, latency time.Duration, work func(ctx context.Context, key string) error, then func(key string)) (any, error) {
	k := key(r)
	if _, ok := v.instances.Get(k); !ok {
		return nil, notThere()
	}
	if err := v.begin(k); err != nil {
		return nil, err
	}
	name := k[strings.LastIndexByte(k, '/')+1:]
	return v.server.Ops().SQL(r, opType, name, latency, func(ctx context.Context) error { return work(ctx, k) }, func(err error) {
		if err == nil && then != nil {
			then(k)
		}
		v.end(k)
	}), nil
}

var (
	names    = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,96}[a-z0-9])?$`)
	versions = regexp.MustCompile(`^POSTGRES_(9_6|1[0-9])$`)
	custom   = regexp.MustCompile(`^db-custom-([0-9]+)-([0-9]+)$`)
	plusTier = regexp.MustCompile(`^db-perf-optimized-N-[0-9]+$|^db-c4a-highmem-[0-9]+$`)
	clock    = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
)

func (v *Service) insert(_ context.Context, r *front.Request) (any, error) {
	b := store.Clone(r.Body)
	name, project := body.String(b, "name"), r.Path["project"]
	switch {
	case !names.MatchString(name) || len(project)+len(name) > 97:
		return nil, invalid("instance name (%s).", name)
	case !versions.MatchString(body.String(b, "databaseVersion")):
		return nil, invalid("database version (%s). The local cloud has PostgreSQL only.", body.String(b, "databaseVersion"))
	case body.String(b, "region") == "":
		return nil, invalid("The region is missing.")
	case body.String(b, "masterInstanceName") != "" || body.String(b, "instanceType") == "READ_REPLICA_INSTANCE":
		return nil, front.Unserved("The local cloud has no read replicas.")
	}
	k := "projects/" + project + "/instances/" + name
	r.Path["instance"] = name
	if err := v.fill(project, name, b, nil); err != nil {
		return nil, err
	}
	network, err := v.network(b, project, name)
	if err != nil {
		return nil, err
	}
	password := body.String(b, "rootPassword")
	delete(b, "rootPassword")
	b["kind"], b["project"], b["state"], b["backendType"] = "sql#instance", project, "PENDING_CREATE", "SECOND_GEN"
	b["selfLink"] = "https://sqladmin.googleapis.com/sql/v1beta4/" + k
	b["connectionName"] = project + ":" + body.String(b, "region") + ":" + name
	b["createTime"] = body.Time(time.Now())
	b["serviceAccountEmailAddress"] = "p" + v.server.ProjectNumber(project) + "-local@gcp-sa-cloud-sql.iam.gserviceaccount.com"
	b["databaseInstalledVersion"] = b["databaseVersion"]
	body.Default(b, "instanceType", "CLOUD_SQL_INSTANCE")
	body.Default(b, "gceZone", body.String(b, "region")+"-b")
	if body.String(b, "settings.availabilityType") == "REGIONAL" {
		body.Default(b, "secondaryGceZone", body.String(b, "region")+"-c")
	}
	stamp(b, "1")
	if err := v.begin(k); err != nil {
		if _, ok := v.instances.Get(k); ok {
			return nil, exists()
		}
		return nil, err
	}
	if !v.instances.Create(k, b) {
		v.end(k)
		return nil, exists()
	}
	services.Used(v.store, network)
	var addr netip.Addr // once there is a server
	return v.server.Ops().SQL(r, "CREATE", name, createTime, func(ctx context.Context) error {
		made, err := v.engine.Create(ctx, engineName(k), flagsOf(b))
		if err != nil {
			return err
		}
		addr = made
		if err := v.engine.SetEncrypted(ctx, engineName(k), encrypted(b)); err != nil {
			return err
		}
		v.databases.Put(k+"/databases/postgres", database(k, map[string]any{"name": "postgres"}))
		v.users.Put(k+"/users/postgres", userBody(k, "postgres", nil))
		if password != "" {
			return v.engine.SetUser(ctx, engineName(k), "postgres", password)
		}
		return nil
	}, func(err error) {
		defer v.end(k)
		v.set(k, func(b map[string]any) {
			switch {
			case !addr.IsValid():
				b["state"] = "FAILED"
			case err == nil:
				b["state"] = "RUNNABLE"
				b["serverCaCert"] = v.authority(k)
				b["ipAddresses"] = []any{map[string]any{"type": "PRIVATE", "ipAddress": addr.String()}}
			}
		})
	}), nil
}

func exists() error {
	return &front.Error{Code: 409, Reason: "instanceAlreadyExists", Message: "The Cloud SQL instance already exists. When you delete an instance, you can't reuse the name of the deleted instance until one week from the deletion date."}
}

// set changes an instance's body, if it is still there.
func (v *Service) set(key string, change func(b map[string]any)) {
	_ = v.instances.Update(key, func(b map[string]any) error { change(b); return nil }) // not found: it was deleted meanwhile
}

func stamp(b map[string]any, version string) {
	body.Set(b, "settings.settingsVersion", version)
	delete(b, "etag")
	b["etag"] = store.Fingerprint(b, 0)
}

// network gives the key of the private network of an instance, which must have private services access.
func (v *Service) network(b map[string]any, project, name string) (string, error) {
	network := body.String(b, "settings.ipConfiguration.privateNetwork")
	if network == "" {
		return "", invalid("At least one of Public IP, Private IP or PSC connectivity must be enabled; the local cloud has Private IP only.")
	}
	networks := v.store.Collection("networks")
	k, err := services.NetworkKey(v.server, networks, network)
	if err != nil || !services.Connected(networks, k) {
		return "", invalid("Incorrect Service Networking config for instance: %s:%s:NETWORK_NOT_PEERED", project, name)
	}
	return k, nil
}

// fill puts Cloud SQL's defaults into a body and refuses what Cloud SQL refuses. Old is the body before an update.
func (v *Service) fill(project, name string, b, old map[string]any) error {
	major, _ := strconv.Atoi(strings.TrimPrefix(body.String(b, "databaseVersion"), "POSTGRES_"))
	edition := "ENTERPRISE"
	if major >= 16 {
		edition = "ENTERPRISE_PLUS"
	}
	body.Default(b, "settings.edition", edition)
	edition = body.String(b, "settings.edition")
	for path, value := range map[string]any{
		"settings.kind": "sql#settings", "settings.availabilityType": "ZONAL", "settings.pricingPlan": "PER_USE", "settings.replicationType": "SYNCHRONOUS",
		"settings.activationPolicy": "ALWAYS", "settings.storageAutoResize": true, "settings.storageAutoResizeLimit": "0", "settings.dataDiskType": "PD_SSD",
		"settings.dataDiskSizeGb": "10", "settings.authorizedGaeApplications": []any{}, "settings.deletionProtectionEnabled": false,
		"settings.connectorEnforcement": "NOT_REQUIRED", "settings.locationPreference.kind": "sql#locationPreference",
		"settings.ipConfiguration.ipv4Enabled": true, "settings.ipConfiguration.authorizedNetworks": []any{}, "settings.ipConfiguration.requireSsl": false,
		"settings.backupConfiguration.kind":    "sql#backupConfiguration",
		"settings.backupConfiguration.enabled": false, "settings.backupConfiguration.startTime": "18:00", "settings.backupConfiguration.transactionLogRetentionDays": 7.0,
		"settings.backupConfiguration.backupRetentionSettings.retentionUnit": "COUNT", "settings.backupConfiguration.backupRetentionSettings.retainedBackups": 7.0,
	} {
		body.Default(b, path, value)
	}
	if err := fillTLS(b); err != nil {
		return err
	}
	if disk, ok := body.Int(b, "settings.dataDiskSizeGb"); ok {
		body.Set(b, "settings.dataDiskSizeGb", strconv.FormatInt(disk, 10))
	}
	if body.Bool(b, "settings.ipConfiguration.ipv4Enabled") {
		return invalid("The local cloud's instances have private addresses only: ipConfiguration.ipv4Enabled must be false.")
	}
	if err := checkTier(body.String(b, "settings.tier"), edition); err != nil {
		return err
	}
	disk, _ := body.Int(b, "settings.dataDiskSizeGb")
	if before, ok := body.Int(old, "settings.dataDiskSizeGb"); disk < 10 || disk > 65536 || ok && disk < before {
		return invalid("Disk size %d GB: it must be between 10 and 65536 GB and cannot shrink.", disk)
	}
	if !clock.MatchString(body.String(b, "settings.backupConfiguration.startTime")) {
		return invalid("Backup start time must be HH:MM.")
	}
	longest := int64(7)
	if edition == "ENTERPRISE_PLUS" {
		longest = 35
	}
	if days, _ := body.Int(b, "settings.backupConfiguration.transactionLogRetentionDays"); days < 1 || days > longest {
		return invalid("Transaction log retention days must be between 1 and %d.", longest)
	}
	if body.Bool(b, "settings.backupConfiguration.pointInTimeRecoveryEnabled") && !body.Bool(b, "settings.backupConfiguration.enabled") {
		return invalid("Point in time recovery must be disabled when backup is disabled.")
	}
	if body.String(b, "settings.availabilityType") == "REGIONAL" && !body.Bool(b, "settings.backupConfiguration.pointInTimeRecoveryEnabled") {
		return invalid("Automated backups and point in time recovery must be enabled when high availability is configured.")
	}
	return checkFlags(b)
}

// checkTier knows the tiers of each edition.
func checkTier(tier, edition string) error {
	if edition == "ENTERPRISE_PLUS" {
		if !plusTier.MatchString(tier) {
			return invalid("Invalid Tier (%s) for (ENTERPRISE_PLUS) Edition. Use a predefined Tier like db-perf-optimized-N-* instead.", tier)
		}
		return nil
	}
	if tier == "db-f1-micro" || tier == "db-g1-small" {
		return nil
	}
	m := custom.FindStringSubmatch(tier)
	if m == nil {
		return invalid("Invalid Tier (%s) for (ENTERPRISE) Edition. Use a Tier like db-custom-* instead.", tier)
	}
	cpus, _ := strconv.Atoi(m[1])
	memory, _ := strconv.Atoi(m[2])
	if cpus < 1 || cpus > 96 || cpus > 1 && cpus%2 == 1 || memory%256 != 0 || memory < 3840 || memory*10 < cpus*9*1024 || memory*10 > cpus*65*1024 {
		return invalid("Invalid custom tier (%s): CPUs are 1 or an even number up to 96; memory is a multiple of 256 MB, at least 3840 MB, and 0.9 to 6.5 GB per CPU.", tier)
	}
	return nil
}

func flagsOf(b map[string]any) map[string]string {
	flags := map[string]string{}
	for _, f := range body.Maps(b, "settings.databaseFlags") {
		flags[body.String(f, "name")] = body.String(f, "value")
	}
	return flags
}

func (v *Service) get(_ context.Context, r *front.Request) (any, error) {
	b, ok := v.instances.Get(key(r))
	if !ok {
		return nil, notThere()
	}
	return b, nil
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	all := v.instances.List("projects/" + r.Path["project"] + "/instances/")
	if filter := r.Query.Get("filter"); filter != "" {
		field, value, ok := strings.Cut(strings.NewReplacer(" ", "", `"`, "").Replace(strings.Replace(filter, "=", ":", 1)), ":")
		if !ok {
			return nil, invalid("filter %q.", filter)
		}
		all = slices.DeleteFunc(all, func(b map[string]any) bool {
			return body.String(b, field) != value && (value != "*" || !body.Has(b, field))
		})
	}
	size, _ := body.Int(map[string]any{"n": r.Query.Get("maxResults")}, "n")
	items, next, ok := body.Page(all, int(size), 1000, r.Query.Get("pageToken"))
	if !ok {
		return nil, invalid("page token.")
	}
	answer := map[string]any{"kind": "sql#instancesList"}
	if len(items) > 0 {
		answer["items"] = items
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

// alone says whether the first of the fields is as it was, or nothing else than these fields is changed.
func alone(old, next map[string]any, fields ...string) bool {
	if body.String(next, fields[0]) == body.String(old, fields[0]) {
		return true
	}
	next = store.Clone(next)
	for _, f := range fields {
		body.Set(next, f, body.String(old, f))
	}
	return reflect.DeepEqual(store.Clone(old), next)
}

// fixed are the fields that no update changes.
var fixed = []string{"name", "region", "instanceType", "masterInstanceName", "project"}

// patch merges a body into the instance's; an update, PUT, replaces its settings.
func (v *Service) patch(replace bool) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		k := key(r)
		old, ok := v.instances.Get(k)
		switch {
		case !ok:
			return nil, notThere()
		case len(r.Body) == 0:
			return nil, invalid("body must not be empty for patch requests")
		case body.String(old, "state") != "RUNNABLE" && !broken(old):
			return nil, invalid("The instance is not in the state RUNNABLE.")
		}
		given := store.Clone(r.Body)
		want := body.String(given, "settings.settingsVersion")
		if replace && want == "" || want != "" && want != body.String(old, "settings.settingsVersion") {
			return nil, front.Precondition("The settings version %q is not the current one.", want)
		}
		for _, field := range fixed {
			if body.Has(given, field) && body.String(given, field) != body.String(old, field) {
				return nil, invalid("%s of an instance cannot be changed.", field)
			}
		}
		next := store.Clone(old)
		if replace {
			next["settings"] = map[string]any{}
		}
		password := body.String(given, "rootPassword")
		delete(given, "rootPassword")
		body.Merge(next, given)
		parts := strings.Split(k, "/")
		if err := v.fill(parts[1], parts[3], next, old); err != nil {
			return nil, err
		}
		if body.String(next, "settings.ipConfiguration.privateNetwork") != body.String(old, "settings.ipConfiguration.privateNetwork") {
			if _, err := v.network(next, parts[1], parts[3]); err != nil {
				return nil, err
			}
		}
		if body.String(next, "databaseVersion") < body.String(old, "databaseVersion") {
			return nil, invalid("A major version cannot be taken back.")
		}
		if !alone(old, next, "databaseVersion") || !alone(old, next, "settings.edition", "settings.tier") {
			return nil, invalid("Upgrading the database version or the edition and changing other fields at the same time is not allowed.")
		}
		latency := patchTime
		restart := slices.ContainsFunc([]string{"settings.tier", "settings.availabilityType", "settings.edition", "databaseVersion"}, func(path string) bool {
			return body.String(next, path) != body.String(old, path)
		})
		reflag := fmt.Sprint(flagsOf(old)) != fmt.Sprint(flagsOf(next))
		if restart || reflag {
			latency = restartTime
		}
		return v.run(r, "UPDATE", latency, func(ctx context.Context, k string) error {
			var err error
			switch {
			case reflag:
				err = v.engine.SetFlags(ctx, engineName(k), flagsOf(next))
			case restart:
				err = v.engine.Restart(ctx, engineName(k))
			}
			if err == nil && encrypted(next) != encrypted(old) {
				err = v.engine.SetEncrypted(ctx, engineName(k), encrypted(next))
			}
			if err == nil && password != "" {
				err = v.engine.SetUser(ctx, engineName(k), "postgres", password)
			}
			if err != nil {
				v.judge(k)
				if front.DiskFull(err) {
					return err
				}
				return &front.Error{Code: 400, Reason: "invalidFlag", Message: err.Error()}
			}
			version, _ := body.Int(old, "settings.settingsVersion")
			v.set(k, func(b map[string]any) {
				for field, value := range next {
					if field != "ipAddresses" && field != "state" && field != "serverCaCert" {
						b[field] = value
					}
				}
				b["databaseInstalledVersion"] = b["databaseVersion"]
				stamp(b, strconv.FormatInt(version+2, 10)) // Google counts its own change along
			})
			v.judge(k)
			return nil
		})
	}
}

// broken says whether an instance was well once and is FAILED now: another change may help it.
func broken(b map[string]any) bool {
	return body.String(b, "state") == "FAILED" && len(body.Maps(b, "ipAddresses")) > 0
}

// judge sets the state of an instance by whether its server runs. One that does not come up after a change, nor without it,
// is FAILED.
func (v *Service) judge(key string) {
	state := "RUNNABLE"
	if !v.engine.Running(engineName(key)) {
		state = "FAILED"
	}
	v.set(key, func(b map[string]any) { b["state"] = state })
}

func (v *Service) delete(_ context.Context, r *front.Request) (any, error) {
	b, ok := v.instances.Get(key(r))
	if ok && body.Bool(b, "settings.deletionProtectionEnabled") && body.String(b, "state") != "FAILED" {
		return nil, front.Invalid("The instance is protected. Please disable the deletion protection and try again. To disable deletion protection, update the instance settings with deletionProtectionEnabled set to false.")
	}
	return v.runThen(r, "DELETE", deleteTime, func(ctx context.Context, k string) error {
		failed := body.String(b, "state") == "FAILED" // nothing runs behind it
		v.set(k, func(b map[string]any) { b["state"] = "PENDING_DELETE" })
		if err := v.engine.Delete(ctx, engineName(k)); err != nil && !failed {
			return err
		}
		return nil
	}, func(k string) {
		for _, c := range []*store.Collection{v.databases, v.users} {
			for _, below := range c.Keys(k + "/") {
				c.Delete(below)
			}
		}
		v.instances.Delete(k)
	})
}

func (v *Service) restart(_ context.Context, r *front.Request) (any, error) {
	return v.run(r, "RESTART", restartTime, func(ctx context.Context, k string) error {
		defer v.judge(k)
		return v.engine.Restart(ctx, engineName(k))
	})
}
