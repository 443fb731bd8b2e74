package group

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// group runs one manager's instances.
type group struct {
	all    *Groups
	key    string
	cancel context.CancelFunc // ends run and all instances, without draining
	wake   chan struct{}      // holds at most one poke
	gone   chan struct{}      // closed when everything is gone
	vmwg   sync.WaitGroup

	mu       sync.Mutex
	vms      map[string]*vm // by name
	seq      int            // machines ever made
	deleting bool
	healing  healing
	errors   []map[string]any // oldest first, at most maxErrors
	missing  string           // the template that was last reported as missing

	scaler scaler // of run's goroutine
}

const maxErrors = 100

// healing is the group's autohealing policy, made ready. changed is closed when it is replaced.
type healing struct {
	ok      bool
	check   probe.Check
	delay   time.Duration
	changed chan struct{}
}

func newGroup(all *Groups, key string) *group {
	return &group{all: all, key: key, wake: make(chan struct{}, 1), gone: make(chan struct{}), vms: map[string]*vm{},
		healing: healing{changed: make(chan struct{})}}
}

// poke has the group look at itself soon.
func (g *group) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run reconciles until the group is deleted and empty, or ctx ends; then it waits for its instances.
func (g *group) run(ctx context.Context) {
	defer g.vmwg.Wait()
	for {
		if g.reconcile(ctx) {
			return
		}
		tick := time.NewTimer(time.Hour)
		if every := g.scale(time.Now()); every > 0 {
			tick.Reset(every)
		}
		select {
		case <-ctx.Done():
		case <-g.wake:
		case <-tick.C:
		}
		tick.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// spec reads what the group should be.
func (g *group) spec() (Spec, error) {
	m, ok := wire.Get[wire.GroupManager](g.all.opts.Resources, g.key)
	if !ok {
		return Spec{}, errNoManager
	}
	return SpecOf(m), nil
}

// members gives the instances as decisions see them, one with an order as what it is going to be: it takes a while until its
// old life has ended. The group is locked.
func (g *group) members() []Member {
	var all []Member
	for _, v := range g.sorted() {
		template, version := v.target()
		all = append(all, Member{Name: v.name, Zone: v.zone, Template: template, Version: version, Leaving: v.leaving,
			Ready: v.status == statusRunning && v.pending == nil && (!g.healing.ok || v.everHealthy)})
	}
	return all
}

// sorted gives the instances by name. The group is locked.
func (g *group) sorted() []*vm {
	all := make([]*vm, 0, len(g.vms))
	for _, v := range g.vms {
		all = append(all, v)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	return all
}

// settled tells whether nothing happens or is to happen, and whether all instances are at their versions.
func (g *group) settled() (stable, reached bool) {
	spec, err := g.spec()
	if err != nil {
		return false, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.deleting {
		return false, false
	}
	_, stable = Decide(spec, g.members())
	reached = true
	for _, v := range g.vms {
		if v.action != actionNone || v.pending != nil {
			stable = false
		}
		known := false
		for _, w := range spec.Versions {
			known = known || w.Template == v.template && w.Name == v.version
		}
		reached = reached && known
	}
	return stable, reached
}

// reconcile does what is to be done now. It is true when the group is deleted and nothing of it is left.
func (g *group) reconcile(ctx context.Context) bool {
	m, exists := wire.Get[wire.GroupManager](g.all.opts.Resources, g.key)
	spec := SpecOf(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.deleting || !exists {
		for _, v := range g.vms {
			v.leave()
		}
		return len(g.vms) == 0
	}
	g.adjustHealing(m)
	steps, _ := Decide(spec, g.members())
	for _, s := range steps {
		switch s.Act {
		case Create:
			if _, ok := g.all.opts.Resources.Get(s.Template); !ok {
				if g.missing != s.Template {
					g.missing = s.Template
					g.report("", "CREATING", s.Template, s.Version, "RESOURCE_NOT_FOUND", fmt.Sprintf("The resource '%s' was not found", s.Template))
				}
				continue
			}
			v := g.newVM(m, s)
			g.vms[v.name] = v
			g.vmwg.Go(func() {
				v.run(ctx)
				g.mu.Lock()
				delete(g.vms, v.name)
				g.mu.Unlock()
				g.poke()
			})
		case Delete:
			g.vms[s.Name].leave()
		case Recreate, Restart:
			g.vms[s.Name].order(order{act: s.Act, template: s.Template, version: s.Version})
		case Relabel:
			g.vms[s.Name].relabel(s.Version)
		}
	}
	if len(steps) > 0 {
		g.poke() // what was done may allow more
	}
	return false
}

// adjustHealing notices a changed policy or health check. The group is locked.
func (g *group) adjustHealing(m wire.GroupManager) {
	next := healing{}
	if len(m.AutoHealing) > 0 && m.AutoHealing[0].HealthCheck != "" {
		var hc wire.HealthCheck
		if hc, next.ok = wire.Get[wire.HealthCheck](g.all.opts.Resources, m.AutoHealing[0].HealthCheck); next.ok {
			next.check = probe.From(hc, g.all.opts.TimeScale, func(name string) int {
				for _, p := range m.NamedPorts {
					if p.Name == name || name == "" {
						return p.Port
					}
				}
				return 80
			})
		}
		next.delay = wire.Scaled(time.Duration(m.AutoHealing[0].InitialDelay)*time.Second, g.all.opts.TimeScale, shortestInitialDelay)
	}
	if next.ok == g.healing.ok && next.check == g.healing.check && next.delay == g.healing.delay {
		return
	}
	next.changed = make(chan struct{})
	close(g.healing.changed)
	g.healing = next
	if !next.ok { // nothing can be verified any more
		for _, v := range g.vms {
			if v.action == actionVerifying {
				v.action = actionNone
			}
		}
	}
}

// newVM makes an instance that does not run yet. The group is locked.
func (g *group) newVM(m wire.GroupManager, s Step) *vm {
	project := wire.Part(g.key, "projects")
	v := &vm{g: g, zone: s.Zone, template: s.Template, version: s.Version, action: actionCreating, created: time.Now(),
		project: project, wake: make(chan struct{}, 1)}
	base := m.BaseInstanceName
	if base == "" {
		base = m.Name
	}
	for v.name == "" || g.vms[v.name] != nil {
		g.seq++
		var suffix string
		suffix, v.id = identity(g.key, g.seq)
		v.name = base + "-" + suffix
	}
	v.key = "projects/" + project + "/zones/" + v.zone + "/instances/" + v.name
	return v
}

// identity gives the nth instance of a group its name's suffix and its ID: the same ones in every rehearsal.
func identity(key string, n int) (suffix, id string) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s#%d", key, n))
	const letters = "0123456789bcdfghjklmnpqrstvwxz" // no vowels, no words
	var b strings.Builder
	for _, c := range sum[:4] {
		b.WriteByte(letters[int(c)%len(letters)])
	}
	return b.String(), fmt.Sprint(1_000_000_000_000_000_000 + binary.BigEndian.Uint64(sum[8:])%8_000_000_000_000_000_000)
}

// report notes an error for listErrors. The group is locked.
func (g *group) report(instance, action, template, version, code, message string) map[string]any {
	e := map[string]any{"code": code, "message": message}
	details := map[string]any{"action": action, "version": versionBody(template, version)}
	if instance != "" {
		details["instance"] = wire.Link(instance)
	}
	g.errors = append(g.errors, map[string]any{"timestamp": time.Now().UTC().Format(time.RFC3339Nano), "error": e, "instanceActionDetails": details})
	if len(g.errors) > maxErrors {
		g.errors = g.errors[len(g.errors)-maxErrors:]
	}
	return e
}

// scaler is what autoscaling remembers between two looks.
type scaler struct {
	key     string // of the autoscaler, "" for none
	next    time.Time
	lastAt  time.Time
	last    map[int]time.Duration // used so far, by PID
	samples []Sample
	told    string // the status last stored
}

// scale measures and resizes, if an autoscaler targets the group and it is time. It gives how long until it is again,
// 0 if there is no autoscaler.
func (g *group) scale(now time.Time) time.Duration {
	o := &g.all.opts
	var a wire.Autoscaler
	key := ""
	for _, body := range o.Resources.List("autoscalers") {
		as, err := wire.Decode[wire.Autoscaler](body)
		link, ok := body["selfLink"].(string)
		if err == nil && ok && wire.Key(as.Target) == g.key {
			a, key = as, wire.Key(link)
		}
	}
	if key == "" {
		g.scaler = scaler{}
		return 0
	}
	m, ok := wire.Get[wire.GroupManager](o.Resources, g.key)
	g.mu.Lock()
	deleting := g.deleting
	g.mu.Unlock()
	if !ok || deleting {
		return 0
	}
	if key != g.scaler.key {
		g.scaler = scaler{key: key}
	}
	sc := &g.scaler
	every := wire.Scaled(10*time.Second, o.TimeScale, time.Second)
	p := PolicyOf(a, o.TimeScale)
	if !now.Before(sc.next) {
		sc.next = now.Add(every)
		if p.Target > 0 || len(p.Metrics) > 0 {
			if err := g.measure(p, now, m.TargetSize); err != nil {
				o.Log.Warn("measure group", "group", m.Name, "error", err)
			}
		}
	}
	size := Desired(p, now, sc.samples, m.TargetSize)
	if status := fmt.Sprint(size); status != sc.told {
		sc.told = status
		o.Scaled(key, map[string]any{"status": "ACTIVE", "recommendedSize": size})
	}
	if size != m.TargetSize {
		o.Log.Info("autoscaler resizes group", "group", m.Name, "from", m.TargetSize, "to", size)
		o.Resize(g.key, size)
		g.poke()
	}
	return max(sc.next.Sub(now), time.Millisecond)
}

// measure adds a sample: how much of their machines the instances used since the last look.
func (g *group) measure(p Policy, now time.Time, size int) error {
	u, err := readUsage()
	if err != nil {
		return err
	}
	sc := &g.scaler
	elapsed := now.Sub(sc.lastAt)
	used := map[int]time.Duration{}
	s := Sample{At: now, Size: size}
	g.mu.Lock()
	for _, v := range g.vms {
		if v.pid == 0 {
			continue
		}
		used[v.pid] = u.tree(v.pid)
		before, seen := sc.last[v.pid]
		if !seen || now.Sub(v.bootedAt) < p.CoolDown {
			continue
		}
		// An instance here cannot use more than this machine has.
		machine := float64(min(v.vcpus, runtime.NumCPU()))
		s.Measured++
		s.Load += max(0, (used[v.pid]-before).Seconds()) / elapsed.Seconds() / machine
	}
	g.mu.Unlock()
	for _, m := range p.Metrics {
		sum, known := g.all.opts.Metric(strings.Split(g.key, "/")[1], m.Metric, m.Filter)
		s.Blind = s.Blind || !known
		s.Wanted = max(s.Wanted, int(math.Ceil(sum/m.Assignment)))
	}
	sc.last, sc.lastAt = used, now
	keep := max(p.Stabilization, p.Window) + time.Minute
	for len(sc.samples) > 0 && now.Sub(sc.samples[0].At) > keep {
		sc.samples = sc.samples[1:]
	}
	sc.samples = append(sc.samples, s)
	return nil
}
