package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/balancer"
	"github.com/difyup/difyup/internal/localcloud/fleet/group"
	"github.com/difyup/difyup/internal/localcloud/fleet/nameserver"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Addresses gives instances their loopback addresses.
type Addresses interface {
	Addr() (netip.Addr, error)
	Release(netip.Addr)
}

// Users gives instances the users that they run as.
type Users interface {
	Take() (uid int, err error)
	Release(uid int)
}

// Options are what a fleet depends on. All fields are needed, but for KeyPair, Zones and Outside.
type Options struct {
	Store     *store.Store
	Addresses Addresses
	Users     Users
	// Start starts an instance's program. The context is of the starting alone: the process outlives it.
	Start func(ctx context.Context, p group.Program) (group.Process, error)
	// Objects opens an object as the service account asEmail, whose permissions count.
	Objects func(ctx context.Context, bucket, object, asEmail string) (io.ReadCloser, error)
	// Issue gives an access token that the API will know as the service account's, for so long.
	Issue func(email string, life time.Duration) string
	// Number gives a project's number, in digits.
	Number func(project string) string
	// Metric gives the sum of the newest values of a metric's series that a filter is about; not known when there are none.
	Metric func(project, metric, filter string) (sum float64, known bool)
	// Lookup gives the records of a name (lower case, with its final dot) and type; ok is whether the name exists.
	Lookup func(name, qtype string) (data []string, ttl int, ok bool)
	// Zones gives the DNS names of the zones, with their final dots. Without it, names under "internal." are the
	// zones': what Lookup does not know there does not exist, and everything else is refused.
	Zones func() []string
	// KeyPair gives a self-managed certificate's chain and private key, PEM. Without it they are read from the
	// certificate's body.
	KeyPair   func(certificate string) (chain, key string, ok bool)
	DNS       netip.Addr       // where the name server listens
	Outside   []netip.AddrPort // the name servers that know all other names; none = those are refused
	Endpoint  string           // of the API, "http://127.64.0.1:4000/": instances learn it from their project's metadata
	Dir       string           // the instances' directories are made under it
	TimeScale float64          // 0 is instant, 1 realistic
	Log       *slog.Logger
}

// Fleet is a running fleet.
type Fleet struct {
	opts     Options
	names    *nameserver.Server
	groups   *group.Groups
	balancer *balancer.Balancer
}

const (
	// What draining and closing listeners wait for is real: requests in hand. A scaled cloud still gives them this.
	shortestDrain = 5 * time.Second
	// tokenLife is how long an access token says it is good.
	tokenLife = time.Hour
)

// New starts the name server; everything else starts as resources come.
func New(opts Options) (*Fleet, error) {
	f := &Fleet{opts: opts}
	names, err := nameserver.Serve(opts.DNS, nameserver.Options{Lookup: f.lookup, Outside: opts.Outside, Log: opts.Log})
	if err != nil {
		return nil, err
	}
	f.names = names
	resources := reader{opts.Store}
	keyPair := opts.KeyPair
	if keyPair == nil {
		keyPair = resources.keyPair
	}
	// Both parts are made before either works, so that each may call the other.
	f.balancer = balancer.New(balancer.Options{Resources: resources, KeyPair: keyPair, TimeScale: opts.TimeScale, Log: opts.Log,
		Endpoints: func(manager string) []balancer.Endpoint { return f.groups.Endpoints(manager) }})
	f.groups = group.New(group.Options{
		Resources: resources,
		Instances: opts.Store.Collection(collection("instances")),
		Resize: func(manager string, size int) {
			resources.change(manager, map[string]any{"targetSize": size})
		},
		Scaled:  resources.change,
		Address: opts.Addresses.Addr, Release: opts.Addresses.Release,
		User: opts.Users.Take, Vacate: opts.Users.Release,
		Objects: opts.Objects, Start: opts.Start,
		Token:  func(email string) (string, time.Duration, error) { return opts.Issue(email, tokenLife), tokenLife, nil },
		Number: opts.Number, Metric: opts.Metric,
		Project: func(string) map[string]string {
			return map[string]string{
				"difyup-api-endpoint": opts.Endpoint,
				// How long an instance must go on serving follows from how often it is asked for its health.
				"difyup-time-scale": strconv.FormatFloat(opts.TimeScale, 'f', -1, 64),
			}
		},
		DNS: names.Addr().String(), Dir: opts.Dir,
		Members:   f.refresh,
		Drain:     func(ctx context.Context, instance string) { f.balancer.Drain(ctx, instance, shortestDrain) },
		Undrain:   f.balancer.Undrain,
		TimeScale: opts.TimeScale, Log: opts.Log,
	})
	return f, nil
}

func (f *Fleet) refresh() {
	if err := f.balancer.Refresh(); err != nil {
		f.opts.Log.Error("load balancer", "error", err)
	}
}

// Changed follows a resource that was created, changed or deleted. It does not wait for instances.
func (f *Fleet) Changed(_, key string) {
	switch wire.Kind(key) {
	case "instanceGroupManagers", "autoscalers", "instanceTemplates":
		f.groups.Changed(key)
		f.refresh() // named ports
	case "healthChecks":
		f.groups.Changed(key)
		f.refresh()
	case "backendServices", "urlMaps", "targetHttpProxies", "targetHttpsProxies", "sslCertificates", "sslPolicies", "forwardingRules":
		f.refresh()
	}
}

// Deleting empties a group, or closes a forwarding rule's listener, and returns when that is done.
func (f *Fleet) Deleting(ctx context.Context, _, key string) error {
	switch wire.Kind(key) {
	case "instanceGroupManagers":
		return f.groups.Deleting(ctx, key)
	case "forwardingRules":
		return f.balancer.Remove(ctx, key, shortestDrain)
	}
	return nil
}

// Managed gives listManagedInstances' entries of a group manager, ordered by name.
func (f *Fleet) Managed(groupKey string) []map[string]any {
	return f.groups.Managed(managerKey(groupKey))
}

// Health gives getHealth's entries of a group (or its manager), as the first backend service that has it sees them.
func (f *Fleet) Health(groupKey string) []map[string]any {
	return f.balancer.Health("", managerKey(groupKey))
}

// HealthIn is Health as one backend service, by key or link, sees it.
func (f *Fleet) HealthIn(service, groupKey string) []map[string]any {
	return f.balancer.Health(service, managerKey(groupKey))
}

// managerKey gives the key of the manager of a group.
func managerKey(group string) string {
	return strings.Replace(wire.Key(group), "/instanceGroups/", "/instanceGroupManagers/", 1)
}

// Status gives the fields of a group manager's body that the fleet owns: "status" and "currentActions".
func (f *Fleet) Status(groupKey string) map[string]any { return f.groups.Status(managerKey(groupKey)) }

// Errors gives listErrors' entries of a group manager, newest first.
func (f *Fleet) Errors(groupKey string) []map[string]any {
	return f.groups.Errors(managerKey(groupKey))
}

// Recreate has instances, given by name or link, recreated. It returns when that has begun.
func (f *Fleet) Recreate(ctx context.Context, groupKey string, names []string) error {
	return f.groups.Recreate(ctx, managerKey(groupKey), names)
}

// DeleteInstances has instances, given by name or link, deleted. It returns when that has begun. The group replaces
// them unless its target size was lowered before.
func (f *Fleet) DeleteInstances(ctx context.Context, groupKey string, names []string) error {
	return f.groups.Delete(ctx, managerKey(groupKey), names)
}

// Serial gives an instance's serial port output, by its key; "" for none.
func (f *Fleet) Serial(key string) string { return f.groups.Serial(key) }

// GuestAttributes gives what an instance has published, by namespace and key; nil for no such instance.
func (f *Fleet) GuestAttributes(key string) map[string]map[string]string {
	return f.groups.GuestAttributes(key)
}

// Listeners gives the forwarding rules and where they really listen.
func (f *Fleet) Listeners() []balancer.Listener { return f.balancer.Listeners() }

// DNS is where the name server listens, UDP and TCP.
func (f *Fleet) DNS() netip.AddrPort { return f.names.Addr() }

// Close stops listeners, instances and the name server, and returns when no goroutine and no process is left, or ctx
// ends.
func (f *Fleet) Close(ctx context.Context) error {
	return errors.Join(f.groups.Close(ctx), f.balancer.Close(ctx), f.names.Close())
}

// lookup answers for the zones, and for the names that every network gives its instances.
func (f *Fleet) lookup(name, qtype string) ([]string, int, nameserver.Answer) {
	if data, ttl, ok := f.opts.Lookup(name, qtype); ok {
		return data, ttl, nameserver.Found
	}
	if addr, ok := f.instance(name); ok {
		if qtype != "A" {
			return nil, 0, nameserver.Found
		}
		return []string{addr}, 60, nameserver.Found
	}
	zones := []string{"internal."}
	if f.opts.Zones != nil {
		zones = append(f.opts.Zones(), "c.internal.")
	}
	for _, zone := range zones {
		if name == zone || strings.HasSuffix(name, "."+zone) {
			return nil, 0, nameserver.Missing
		}
	}
	return nil, 0, nameserver.Foreign
}

// instance finds the address of NAME.ZONE.c.PROJECT.internal.
func (f *Fleet) instance(name string) (string, bool) {
	parts := strings.Split(strings.TrimSuffix(name, "."), ".")
	if len(parts) != 5 || parts[2] != "c" || parts[4] != "internal" {
		return "", false
	}
	key := fmt.Sprintf("projects/%s/zones/%s/instances/%s", parts[3], parts[1], parts[0])
	i, ok := wire.Get[struct {
		Interfaces []struct {
			IP string `json:"networkIP"`
		} `json:"networkInterfaces"`
	}](reader{f.opts.Store}, key)
	if !ok || len(i.Interfaces) == 0 || i.Interfaces[0].IP == "" {
		return "", false
	}
	return i.Interfaces[0].IP, true
}
