package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/balancer"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// Program is an instance's program, ready to start.
type Program struct {
	Name string   // of the instance
	Path string   // absolute
	Env  []string // complete: nothing is inherited
	Dir  string   // working directory
	Log  string   // file that stdout and stderr are appended to
	UID  int      // who it runs as
}

// Process is a running program.
type Process interface {
	// Stop ends it: politely, and after grace by force. It returns when the process is gone.
	Stop(ctx context.Context, grace time.Duration) error
	Done() <-chan struct{}
	Err() error // why it ended, once Done is closed
	PID() int
}

// Instances is where instance bodies are kept, by key.
type Instances interface {
	Put(key string, body map[string]any)
	Delete(key string) bool
}

// Options are what groups depend on. All fields are needed.
type Options struct {
	Resources wire.Reader
	Instances Instances
	// Resize stores a group's target size, for its autoscaler.
	Resize func(manager string, size int)
	// Scaled stores an autoscaler's status fields.
	Scaled func(autoscaler string, fields map[string]any)
	// Address gives an instance its loopback address; Release takes it back.
	Address func() (netip.Addr, error)
	Release func(netip.Addr)
	// User gives an instance the user that it runs as, which is ours or one of its own; Vacate takes it back.
	User   func() (uid int, err error)
	Vacate func(uid int)
	// Objects opens an object as a service account, whose permissions count.
	Objects func(ctx context.Context, bucket, object, asEmail string) (io.ReadCloser, error)
	Start   func(ctx context.Context, p Program) (Process, error)
	Token   func(email string) (token string, life time.Duration, err error)
	Number  func(project string) string            // a project's number, in digits
	Project func(project string) map[string]string // a project's metadata attributes
	// Metric gives the sum of the newest values of a metric's series that a filter is about; not known when there are none.
	Metric func(project, metric, filter string) (sum float64, known bool)
	DNS    string // IP:PORT, what DHCP would give
	Dir    string // the instances' directories are made here
	// Members is called when instances began or ceased to run. It may ask Endpoints.
	Members func()
	// Drain takes an instance out of load balancing and returns when it has nothing in hand; Undrain takes it back.
	Drain     func(ctx context.Context, instance string)
	Undrain   func(instance string)
	TimeScale float64
	Log       *slog.Logger
}

// Groups runs all managed groups of the cloud.
type Groups struct {
	opts Options
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	groups map[string]*group // by manager key
}

// New gives Groups that run nothing until Changed names a manager.
func New(opts Options) *Groups {
	return &Groups{opts: opts, groups: map[string]*group{}}
}

// Changed tells that a resource changed. It never blocks.
func (g *Groups) Changed(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	switch wire.Kind(key) {
	case "instanceGroupManagers":
		gr := g.groups[key]
		if _, exists := g.opts.Resources.Get(key); exists && gr == nil {
			gr = newGroup(g, key)
			g.groups[key] = gr
			// A group outlives the request that made it; Close ends it.
			ctx, cancel := context.WithCancel(context.Background())
			gr.cancel = cancel
			g.wg.Go(func() {
				defer cancel()
				gr.run(ctx)
				g.mu.Lock()
				if g.groups[key] == gr {
					delete(g.groups, key)
				}
				g.mu.Unlock()
				close(gr.gone)
			})
		}
		if gr != nil {
			gr.poke()
		}
	case "autoscalers", "instanceTemplates", "healthChecks":
		for _, gr := range g.groups {
			gr.poke()
		}
	}
}

// Deleting empties a group and returns when all its processes, addresses and directories are gone.
func (g *Groups) Deleting(ctx context.Context, manager string) error {
	gr := g.group(manager)
	if gr == nil {
		return nil
	}
	gr.mu.Lock()
	gr.deleting = true
	gr.mu.Unlock()
	gr.poke()
	select {
	case <-gr.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("delete instances of %s: %w", wire.Name(manager), ctx.Err())
	}
}

// Close stops all instances, without draining, and returns when no goroutine is left or ctx ends.
func (g *Groups) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	for _, gr := range g.groups {
		gr.cancel()
	}
	g.mu.Unlock()
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop instances: %w", ctx.Err())
	}
}

func (g *Groups) group(manager string) *group {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.groups[wire.Key(manager)]
}

// Endpoints gives the running instances of a group, ordered by key.
func (g *Groups) Endpoints(manager string) []balancer.Endpoint {
	gr := g.group(manager)
	if gr == nil {
		return nil
	}
	gr.mu.Lock()
	defer gr.mu.Unlock()
	var all []balancer.Endpoint
	for _, v := range gr.sorted() {
		if v.running {
			all = append(all, balancer.Endpoint{Instance: v.key, Addr: v.addr, User: v.uid})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Instance < all[j].Instance })
	return all
}

// Managed gives listManagedInstances' entries, ordered by name.
func (g *Groups) Managed(manager string) []map[string]any {
	all := []map[string]any{}
	gr := g.group(manager)
	if gr == nil {
		return all
	}
	gr.mu.Lock()
	defer gr.mu.Unlock()
	for _, v := range gr.sorted() {
		m := map[string]any{
			"instance": wire.Link(v.key), "name": v.name, "id": v.id, "currentAction": v.action,
			"version": versionBody(v.template, v.version),
		}
		if v.status != "" {
			m["instanceStatus"] = v.status
		}
		if gr.healing.ok && v.running {
			state := string(v.health.Verdict)
			if state == "" {
				state = "UNKNOWN"
			}
			m["instanceHealth"] = []any{map[string]any{"healthCheck": gr.healing.check.Link, "detailedHealthState": state}}
		}
		if v.lastError != nil {
			m["lastAttempt"] = map[string]any{"errors": map[string]any{"errors": []any{v.lastError}}}
		}
		all = append(all, m)
	}
	return all
}

func versionBody(template, name string) map[string]any {
	v := map[string]any{"instanceTemplate": wire.Link(template)}
	if name != "" {
		v["name"] = name
	}
	return v
}

// The counters of currentActions, by action.
var actionCounters = map[string]string{
	"NONE": "none", "CREATING": "creating", "RECREATING": "recreating", "DELETING": "deleting", "RESTARTING": "restarting",
	"VERIFYING": "verifying", "REFRESHING": "refreshing",
}

// Status gives the fields of a manager's body that this package owns: "status" and "currentActions".
func (g *Groups) Status(manager string) map[string]any {
	counts := map[string]any{"abandoning": 0, "creating": 0, "creatingWithoutRetries": 0, "deleting": 0, "none": 0, "recreating": 0,
		"refreshing": 0, "restarting": 0, "resuming": 0, "starting": 0, "stopping": 0, "suspending": 0, "verifying": 0}
	stable, reached := false, false
	if gr := g.group(manager); gr != nil {
		stable, reached = gr.settled()
		gr.mu.Lock()
		for _, v := range gr.vms {
			counter := actionCounters[v.action]
			counts[counter] = counts[counter].(int) + 1
		}
		gr.mu.Unlock()
	} else if m, ok := wire.Get[wire.GroupManager](g.opts.Resources, manager); ok && m.TargetSize == 0 {
		stable, reached = true, true
	}
	status := map[string]any{
		"isStable":           stable,
		"versionTarget":      map[string]any{"isReached": reached},
		"allInstancesConfig": map[string]any{"effective": true},
		"stateful":           map[string]any{"hasStatefulConfig": false, "perInstanceConfigs": map[string]any{"allEffective": true}},
	}
	for _, a := range wire.List[autoscalerLink](g.opts.Resources, "autoscalers") {
		if wire.Key(a.Target) == wire.Key(manager) {
			status["autoscaler"] = a.SelfLink
		}
	}
	return map[string]any{"status": status, "currentActions": counts}
}

type autoscalerLink struct {
	SelfLink string `json:"selfLink"`
	Target   string `json:"target"`
}

// Errors gives listErrors' entries, newest first.
func (g *Groups) Errors(manager string) []map[string]any {
	all := []map[string]any{}
	gr := g.group(manager)
	if gr == nil {
		return all
	}
	gr.mu.Lock()
	defer gr.mu.Unlock()
	for i := len(gr.errors) - 1; i >= 0; i-- {
		all = append(all, gr.errors[i])
	}
	return all
}

// Recreate has instances, given by name or link, recreated at the version the group wants. It returns when that has
// begun.
func (g *Groups) Recreate(_ context.Context, manager string, names []string) error {
	gr := g.group(manager)
	if gr == nil {
		return fmt.Errorf("recreate instances of %s: no such group", wire.Name(manager))
	}
	spec, err := gr.spec()
	if err != nil {
		return fmt.Errorf("recreate instances of %s: %w", wire.Name(manager), err)
	}
	gr.mu.Lock()
	defer gr.mu.Unlock()
	var unknown []string
	for _, n := range names {
		if v := gr.vms[wire.Name(n)]; v == nil || v.leaving {
			unknown = append(unknown, wire.Name(n))
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("recreate instances of %s: not in the group: %s", wire.Name(manager), strings.Join(unknown, ", "))
	}
	for _, n := range names {
		v := gr.vms[wire.Name(n)]
		template, version := v.target()
		if len(spec.Versions) == 1 {
			template, version = spec.Versions[0].Template, spec.Versions[0].Name
		}
		v.order(order{act: Recreate, template: template, version: version})
	}
	return nil
}

// Delete has instances, given by name or link, deleted. The group then replaces them unless its size was lowered.
func (g *Groups) Delete(_ context.Context, manager string, names []string) error {
	gr := g.group(manager)
	if gr == nil {
		return fmt.Errorf("delete instances of %s: no such group", wire.Name(manager))
	}
	gr.mu.Lock()
	defer gr.mu.Unlock()
	for _, n := range names {
		v := gr.vms[wire.Name(n)]
		if v == nil {
			return fmt.Errorf("delete instances of %s: %s is not in the group", wire.Name(manager), wire.Name(n))
		}
		v.leave()
	}
	gr.poke()
	return nil
}

// Serial gives what an instance has written to its serial port, at most the last MiB; "" for no such instance.
func (g *Groups) Serial(instance string) string {
	v := g.find(instance)
	if v == nil {
		return ""
	}
	return v.serial()
}

// GuestAttributes gives what an instance has published: values by namespace and key.
func (g *Groups) GuestAttributes(instance string) map[string]map[string]string {
	v := g.find(instance)
	if v == nil {
		return nil
	}
	v.g.mu.Lock()
	server := v.metadata
	v.g.mu.Unlock()
	if server == nil {
		return nil
	}
	return server.GuestAttributes()
}

func (g *Groups) find(instance string) *vm {
	g.mu.Lock()
	groups := make([]*group, 0, len(g.groups))
	for _, gr := range g.groups {
		groups = append(groups, gr)
	}
	g.mu.Unlock()
	for _, gr := range groups {
		gr.mu.Lock()
		v := gr.vms[wire.Name(instance)]
		gr.mu.Unlock()
		if v != nil && v.key == wire.Key(instance) {
			return v
		}
	}
	return nil
}

var errNoManager = errors.New("the group manager is gone")
