package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
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

// Engine runs the servers behind instances. Names are "PROJECT/REGION/INSTANCE". The port is 6379, or 6378 of those that take
// TLS alone.
type Engine interface {
	Create(ctx context.Context, name, password string, config map[string]string) (netip.Addr, error)
	CreateEncrypted(ctx context.Context, name, password string, config map[string]string) (netip.Addr, error)
	Authorities(name string) ([]authority.Authority, error)
	SetPassword(ctx context.Context, name, password string) error
	SetConfig(ctx context.Context, name string, config map[string]string) error
	Delete(ctx context.Context, name string) error
}

// How long Memorystore takes.
const (
	createTime = 5 * time.Minute
	updateTime = 30 * time.Second
	resizeTime = 5 * time.Minute
	deleteTime = time.Minute
)

// Service serves redis v1. Instances are in the collection "redis.instances", by
// "projects/p/locations/r/instances/i".
type Service struct {
	server    *front.Server
	store     *store.Store
	engine    Engine
	instances *store.Collection

	mu   sync.Mutex
	busy map[string]bool
	auth map[string]string // AUTH strings, which no body shows
}

// Register serves Memorystore on s.
func Register(s *front.Server, st *store.Store, engine Engine) *Service {
	v := &Service{server: s, store: st, engine: engine, instances: st.Collection("redis.instances"), busy: map[string]bool{}, auth: map[string]string{}}
	for id, h := range map[string]front.Handler{
		"create": v.create, "get": v.get, "list": v.list, "patch": v.patch, "delete": v.delete, "getAuthString": v.authString,
	} {
		s.Handle("redis.projects.locations.instances."+id, h)
	}
	s.Handle("redis.projects.locations.list", v.locations)
	return v
}

func key(r *front.Request) string { return location(r) + "/instances/" + r.Path["instance"] }

func location(r *front.Request) string {
	return "projects/" + r.Path["project"] + "/locations/" + r.Path["location"]
}

func engineName(key string) string {
	p := strings.Split(key, "/")
	return p[1] + "/" + p[3] + "/" + p[5]
}

func (v *Service) find(r *front.Request) (string, map[string]any, error) {
	b, ok := v.instances.Get(key(r))
	if !ok {
		return "", nil, front.NotFound("Resource '%s' was not found", key(r))
	}
	return key(r), b, nil
}

func (v *Service) begin(key string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.busy[key] {
		return &front.Error{Code: 400, Status: "FAILED_PRECONDITION", Reason: "operationInProgress", Message: fmt.Sprintf("Another operation is in progress on '%s'; the instance is not in the state READY.", key)}
	}
	v.busy[key] = true
	return nil
}

func (v *Service) end(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.busy, key)
}

// run starts an operation on an instance that was taken with begin. It answers with the instance, if it is still there.
func (v *Service) run(r *front.Request, key, verb string, latency time.Duration, work front.Work, done front.Done) any {
	metadata := map[string]any{
		"@type": "type.googleapis.com/google.cloud.redis.v1.OperationMetadata", "apiVersion": "v1", "createTime": body.Time(time.Now()), "target": key, "verb": verb,
	}
	return v.server.Ops().LongRunning(r, location(r)+"/operations/operation-", metadata, latency, work, func(err error) {
		done(err)
		v.end(key)
	}, func() map[string]any {
		b, ok := v.instances.Get(key)
		if !ok {
			return map[string]any{"@type": "type.googleapis.com/google.protobuf.Empty"}
		}
		b["@type"] = "type.googleapis.com/google.cloud.redis.v1.Instance"
		return b
	})
}

var (
	names    = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`)
	versions = []string{"REDIS_3_2", "REDIS_4_0", "REDIS_5_0", "REDIS_6_X", "REDIS_7_0", "REDIS_7_2"}
	periods  = map[string]int{"ONE_HOUR": 3600, "SIX_HOURS": 6 * 3600, "TWELVE_HOURS": 12 * 3600, "TWENTY_FOUR_HOURS": 24 * 3600}
	configs  = []string{"maxmemory-policy", "notify-keyspace-events", "activedefrag", "lfu-decay-time", "lfu-log-factor", "maxmemory-gb", "stream-node-max-bytes", "stream-node-max-entries"}
)

func (v *Service) create(_ context.Context, r *front.Request) (any, error) {
	id := r.Query.Get("instanceId")
	if !names.MatchString(id) {
		return nil, front.Invalid("The instance ID %q is invalid: it must be 1 to 40 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen.", id)
	}
	r.Path["instance"] = id
	k := key(r)
	b := store.Clone(r.Body)
	if b == nil {
		b = map[string]any{}
	}
	region := r.Path["location"]
	for _, field := range []string{"authString", "host", "port", "nodes", "createTime", "persistenceIamIdentity", "currentLocationId", "serverCaCerts"} {
		delete(b, field) // Google's to set
	}
	b["name"], b["state"], b["createTime"] = k, "CREATING", body.Time(time.Now())
	for path, value := range map[string]any{
		"tier": "BASIC", "redisVersion": "REDIS_7_0", "authorizedNetwork": "projects/" + r.Path["project"] + "/global/networks/default",
		"connectMode": "DIRECT_PEERING", "persistenceConfig.persistenceMode": "DISABLED", "readReplicasMode": "READ_REPLICAS_DISABLED",
		"transitEncryptionMode": "DISABLED", "locationId": region + "-a",
	} {
		body.Default(b, path, value)
	}
	if body.String(b, "tier") == "STANDARD_HA" {
		body.Default(b, "alternativeLocationId", region+"-b")
		body.Default(b, "replicaCount", 1.0)
	}
	if err := v.check(b); err != nil {
		return nil, err
	}
	networks := v.store.Collection("networks")
	network, err := services.NetworkKey(v.server, networks, body.String(b, "authorizedNetwork"))
	if err != nil && strings.HasSuffix(body.String(b, "authorizedNetwork"), "/global/networks/default") {
		err = nil // every project of Google's has it, and nothing is to be known about it here
	}
	if err != nil {
		return nil, front.Invalid("The network '%s' was not found.", body.String(b, "authorizedNetwork"))
	}
	if body.String(b, "connectMode") == "PRIVATE_SERVICE_ACCESS" && !services.Connected(networks, network) {
		return nil, front.FailedPrecondition("Google private service access is not enabled. Enable private service access on the network '%s' and try again.", network)
	}
	if err := v.begin(k); err != nil {
		return nil, exists(k)
	}
	if !v.instances.Create(k, b) {
		v.end(k)
		return nil, exists(k)
	}
	password := ""
	if body.Bool(b, "authEnabled") {
		password = rand.Text()
	}
	create, port := v.engine.Create, 6379.0
	if body.String(b, "transitEncryptionMode") == encrypted {
		create, port = v.engine.CreateEncrypted, 6378.0
	}
	var addr netip.Addr // once there is a server
	var authorities []authority.Authority
	return v.run(r, k, "create", createTime, func(ctx context.Context) error {
		made, err := create(ctx, engineName(k), password, settings(b))
		if err != nil {
			return err
		}
		addr = made
		v.setAuth(k, password)
		authorities, err = v.engine.Authorities(engineName(k))
		return err
	}, func(err error) {
		if !addr.IsValid() {
			v.instances.Delete(k) // Memorystore leaves nothing behind
		}
		if err != nil {
			return
		}
		v.set(k, func(b map[string]any) {
			b["state"], b["host"], b["port"] = "READY", addr.String(), port
			for _, a := range authorities {
				certs, _ := b["serverCaCerts"].([]any)
				b["serverCaCerts"] = append(certs, map[string]any{
					"serialNumber": a.Serial, "cert": a.PEM, "createTime": body.Time(a.Made), "expireTime": body.Time(a.Ends), "sha1Fingerprint": a.SHA1,
				})
			}
			b["currentLocationId"] = b["locationId"]
			b["persistenceIamIdentity"] = "serviceAccount:service-" + v.server.ProjectNumber(r.Path["project"]) + "@cloud-redis.iam.gserviceaccount.com"
			b["reservedIpRange"] = netip.PrefixFrom(addr, 29).Masked().String()
			nodes := []any{map[string]any{"id": "node-0", "zone": b["locationId"]}}
			if alt := body.String(b, "alternativeLocationId"); alt != "" {
				nodes = append(nodes, map[string]any{"id": "node-1", "zone": alt})
			}
			b["nodes"] = nodes
		})
	}), nil
}

// encrypted is the mode of instances that take TLS alone.
const encrypted = "SERVER_AUTHENTICATION"

func exists(k string) error { return front.AlreadyExists("Resource '%s' already exists", k) }

func (v *Service) set(key string, change func(b map[string]any)) {
	_ = v.instances.Update(key, func(b map[string]any) error { change(b); return nil }) // not found: it was deleted meanwhile
}

func (v *Service) setAuth(key, password string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.auth[key] = password
}

func (v *Service) check(b map[string]any) error {
	memory, _ := body.Int(b, "memorySizeGb")
	version := body.String(b, "redisVersion")
	low := int64(1)
	if body.String(b, "readReplicasMode") == "READ_REPLICAS_ENABLED" {
		low = 5
	}
	switch {
	case memory < low || memory > 300:
		return front.Invalid("memory_size_gb must be between %d and 300, not %d.", low, memory)
	case !slices.Contains(versions, version):
		return front.Invalid("The Redis version %q is not supported.", version)
	}
	for name := range body.Map(b, "redisConfigs") {
		if !slices.Contains(configs, name) {
			return front.Invalid("The Redis configuration parameter %q is not supported.", name)
		}
	}
	if body.String(b, "persistenceConfig.persistenceMode") == "RDB" {
		if periods[body.String(b, "persistenceConfig.rdbSnapshotPeriod")] == 0 {
			return front.Invalid("RDB persistence needs a snapshot period.")
		}
	}
	return nil
}

// settings gives Redis's own settings for a body.
func settings(b map[string]any) map[string]string {
	memory, _ := body.Int(b, "memorySizeGb")
	if less, ok := body.Int(b, "redisConfigs.maxmemory-gb"); ok && less < memory {
		memory = less
	}
	out := map[string]string{"maxmemory": strconv.FormatInt(memory<<30, 10), "maxmemory-policy": "volatile-lru", "save": ""}
	for name, value := range body.Map(b, "redisConfigs") {
		if name != "maxmemory-gb" && name != "activedefrag" { // which needs a Redis built for it
			out[name] = fmt.Sprint(value)
		}
	}
	if body.String(b, "persistenceConfig.persistenceMode") == "RDB" {
		out["save"] = strconv.Itoa(periods[body.String(b, "persistenceConfig.rdbSnapshotPeriod")]) + " 1"
	}
	return out
}

func (v *Service) get(_ context.Context, r *front.Request) (any, error) {
	_, b, err := v.find(r)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	prefix := location(r) + "/instances/"
	if r.Path["location"] == "-" {
		prefix = "projects/" + r.Path["project"] + "/locations/"
	}
	size, _ := body.Int(map[string]any{"n": r.Query.Get("pageSize")}, "n")
	items, next, ok := body.Page(v.instances.List(prefix), int(size), 1000, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid page token.")
	}
	answer := map[string]any{}
	if len(items) > 0 {
		answer["instances"] = items
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

func (v *Service) locations(_ context.Context, r *front.Request) (any, error) {
	found := map[string]any{}
	for _, k := range v.instances.Keys("projects/" + r.Path["project"] + "/locations/") {
		id := strings.Split(k, "/")[3]
		found[id] = map[string]any{"name": "projects/" + r.Path["project"] + "/locations/" + id, "locationId": id}
	}
	var all []any
	for _, id := range slices.Sorted(maps.Keys(found)) {
		all = append(all, found[id])
	}
	return map[string]any{"locations": all}, nil
}

func (v *Service) authString(_ context.Context, r *front.Request) (any, error) {
	k, _, err := v.find(r)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	answer := map[string]any{}
	if v.auth[k] != "" {
		answer["authString"] = v.auth[k]
	}
	return answer, nil
}

// changeable are the fields that an update mask may name.
var changeable = []string{"authEnabled", "displayName", "labels", "redisConfigs", "persistenceConfig", "maintenancePolicy", "memorySizeGb", "replicaCount", "readReplicasMode"}

func (v *Service) patch(_ context.Context, r *front.Request) (any, error) {
	k, old, err := v.find(r)
	if err != nil {
		return nil, err
	}
	mask := body.Mask(r.Query.Get("updateMask"))
	if len(mask) != 1 {
		return nil, front.Invalid("exactly 1 update_mask field must be specified per update request")
	}
	field := mask[0]
	if !slices.Contains(changeable, field) {
		return nil, front.Invalid("The field %q of an instance cannot be updated.", field)
	}
	next := store.Clone(old)
	given := r.Body
	if given == nil {
		given = map[string]any{}
	}
	body.Copy(next, given, field)
	body.Default(next, "persistenceConfig.persistenceMode", "DISABLED")
	if err := v.check(next); err != nil {
		return nil, err
	}
	if err := v.begin(k); err != nil {
		return nil, err
	}
	v.set(k, func(b map[string]any) { b["state"] = "UPDATING" })
	latency := updateTime
	if field == "memorySizeGb" {
		latency = resizeTime
	}
	return v.run(r, k, "update", latency, func(ctx context.Context) error {
		return v.follow(ctx, k, field, old, next)
	}, func(err error) {
		v.set(k, func(b map[string]any) {
			b["state"] = "READY"
			if err == nil {
				body.Copy(b, next, field)
			}
		})
	}), nil
}

// follow makes the server as a changed field says.
func (v *Service) follow(ctx context.Context, k, field string, old, next map[string]any) error {
	switch field {
	case "authEnabled":
		if body.Bool(old, field) == body.Bool(next, field) {
			return nil
		}
		password := ""
		if body.Bool(next, field) {
			password = rand.Text()
		}
		if err := v.engine.SetPassword(ctx, engineName(k), password); err != nil {
			return err
		}
		v.setAuth(k, password)
	case "redisConfigs", "persistenceConfig", "memorySizeGb":
		return v.engine.SetConfig(ctx, engineName(k), settings(next))
	}
	return nil
}

func (v *Service) delete(_ context.Context, r *front.Request) (any, error) {
	k, _, err := v.find(r)
	if err != nil {
		return nil, err
	}
	if err := v.begin(k); err != nil {
		return nil, err
	}
	v.set(k, func(b map[string]any) { b["state"] = "DELETING" })
	return v.run(r, k, "delete", deleteTime, func(ctx context.Context) error {
		return v.engine.Delete(ctx, engineName(k))
	}, func(err error) {
		if err == nil {
			v.setAuth(k, "")
			v.instances.Delete(k)
		}
	}), nil
}
