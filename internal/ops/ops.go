package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/difyup/difyup/internal/apply"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// parallel bounds the steps that run at once: a stack is wide, and most of a step is waiting.
const parallel = 32

// Options say which stack, where, and who listens.
type Options struct {
	Spec     *config.Spec
	Identity config.Identity // in place of a Spec that cannot be read; enough for Destroy
	Endpoint string          // "" = Google; else the local cloud's URL
	Token    string          // the access token at Endpoint
	Dial     gcp.Dial        // connects to Endpoint; nil = whoever answers there
	Agent    topology.Agent
	ReadFile func(path string) ([]byte, error) // gives the agent; nil = os.ReadFile
	// Digest gives the digest of the image that a tag stands for on a platform; nil = instances run images by their tags.
	Digest  func(ctx context.Context, image, platform string) (string, error)
	Version string // of difyup, for the history and the user agent
	Events  event.Sink
}

// Stack is a stack that can be worked on.
type Stack struct {
	opts   Options
	graph  *resource.Graph // by the file and the pins alone: a plan's may have another template; nil when there is no Spec
	pins   []state.Pin     // that the graph has
	client *gcp.Client
	store  *state.Store
}

// Open builds the stack's graph and makes a client. It sends no request.
func Open(ctx context.Context, o Options) (*Stack, error) {
	var g *resource.Graph
	if o.Spec != nil {
		o.Identity = o.Spec.Identity()
		var err error
		if g, err = topology.Build(o.Spec, o.Agent, topology.Given{}); err != nil {
			return nil, err
		}
	}
	c, err := gcp.New(ctx, gcp.Options{
		Project: o.Identity.Project, Endpoint: o.Endpoint, Token: o.Token, Dial: o.Dial, Events: o.Events, UserAgent: "difyup/" + o.Version, Drivers: driver.All(),
		ReadFile: o.ReadFile,
	})
	if err != nil {
		return nil, err
	}
	region := o.Identity.Region
	if g == nil {
		region = "" // a state that is not there is not made for what nobody can describe
	}
	return &Stack{opts: o, graph: g, client: c, store: state.Open(c, o.Identity.Stack, region)}, nil
}

// Close drops connections.
func (s *Stack) Close() { s.client.Close() }

// Graph is what is wanted, as far as the file alone says it.
func (s *Stack) Graph() *resource.Graph { return s.graph }

// Requests counts the HTTP requests so far.
func (s *Stack) Requests() int64 { return s.client.Requests() }

// read gives the state. With it comes the project's number, for which only a stack without a state asks by itself; and the client is
// told what was enabled a short time ago.
func (s *Stack) read(ctx context.Context) (*state.State, error) {
	st, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	for _, service := range st.Lately(s.client.Now()) {
		s.client.EnabledLately(service)
	}
	_, err = s.client.ProjectNumber(ctx)
	return st, err
}

// owner is the stack, as plans tell its own from others'.
func (s *Stack) owner(ctx context.Context) (resource.Owner, error) {
	number, err := s.client.ProjectNumber(ctx)
	id := s.opts.Identity
	return resource.Owner{Stack: id.Stack, Project: id.Project, Number: number, Account: topology.Account(id.Stack, id.Project)}, err
}

// Plan compares what is wanted with the cloud. It changes nothing.
func (s *Stack) Plan(ctx context.Context) (*plan.Plan, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	return s.plan(ctx, st)
}

// plan compares what is wanted with the cloud, and has Google's own lists refuse what it would refuse later.
func (s *Stack) plan(ctx context.Context, st *state.State) (*plan.Plan, error) {
	if err := s.pin(ctx, st); err != nil {
		return nil, err
	}
	owner, err := s.owner(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.compare(ctx, owner, st)
	var faults fault.List
	if err != nil || p.Count(plan.Create) > 0 {
		// In a place that there is not, not even reading goes well.
		wrong, placesErr := s.places(ctx)
		if len(wrong) > 0 || err == nil {
			faults, err = wrong, placesErr
		}
	}
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, faults
	}
	refused, err := s.refused(ctx, p)
	if err != nil {
		return nil, err
	}
	faults = append(faults, refused...)
	change, err := s.release(ctx, p, st)
	var older *fault.Fault
	switch {
	case errors.As(err, &older):
		faults = append(faults, older)
	case err != nil:
		return nil, err
	}
	p.Release, p.Lost = change, s.lost(p, st)
	if len(faults) > 0 {
		slices.SortStableFunc(faults, byLine)
		return nil, faults
	}
	return p, nil
}

// PlanFromNothing is the plan for a cloud in which nothing is. It sends no request.
func (s *Stack) PlanFromNothing(ctx context.Context) (*plan.Plan, error) {
	p, err := plan.Make(ctx, resource.Owner{}, s.graph, nothing{}, nil, kind.ByName)
	if err != nil {
		return nil, err
	}
	p.Notes = topology.Notes(s.opts.Spec)
	return p, nil
}

type nothing struct{}

func (nothing) ReadAll(context.Context, []*resource.Resource) (map[resource.ID]map[string]any, error) {
	return map[resource.ID]map[string]any{}, nil
}

func (nothing) Whole(*resource.Resource, map[string]any) bool { return true }

// Holder gives who is at work on the stack; nil for nobody.
func (s *Stack) Holder(ctx context.Context) (*state.Holder, error) { return s.store.Holder(ctx) }

// Locked gives a fault when another run is at work on the stack.
func (s *Stack) Locked(ctx context.Context) error {
	h, err := s.store.Holder(ctx)
	if err != nil || h == nil {
		return err
	}
	return h.Fault()
}

// Result is how a run ended.
type Result struct {
	Plan    *plan.Plan
	Created int
	Updated int
	Deleted int
	Failed  int
	Skipped int
	Left    int // owned resources that still exist, as far as is known

	Unseen []string // after a destruction: services, "compute.googleapis.com", that are not enabled, so that nothing could be looked for there
}

// RunOptions say how a run treats the lock, and what it may do.
type RunOptions struct {
	Command   string   // for the lock and the history: "apply"
	Args      []string // as given on the command line, for the state: nothing secret
	BreakLock bool
	Migrate   bool // a plan may migrate the databases of a stack that serves
	// Recreate names what may be made again although what it held is lost, as "sql.instances/demo-main".
	Recreate []string
	// Confirm is asked under the lock, when the plan is made and not empty. False ends the run with ErrDeclined.
	Confirm func(*plan.Plan) (bool, error)
}

// ErrDeclined says that Confirm said no. Nothing was changed.
var ErrDeclined = errors.New("declined")

// Apply makes the cloud as wanted. The plan is made under the lock. What is going to be made is written to the state
// first, so that nothing can be made that no state knows.
func (s *Stack) Apply(ctx context.Context, o RunOptions) (res *Result, err error) {
	return s.run(ctx, o, func(ctx context.Context, st *state.State) (*plan.Plan, []resource.Ref, error) {
		p, err := s.plan(ctx, st)
		if err != nil {
			return nil, nil, err
		}
		if s.opts.Digest != nil {
			st.Pins = s.pins
		}
		return p, plan.Owned(p.Graph, st.Owned), nil
	})
}

// Destroy deletes everything that the stack owns, and at last its state. What does not bear the stack's mark it leaves
// alone, and gives a fault that says so.
func (s *Stack) Destroy(ctx context.Context, o RunOptions) (*Result, error) {
	res, err := s.run(ctx, o, s.unmake)
	if err == nil && len(res.Plan.Kept) > 0 {
		err = s.notOurs(res.Plan.Kept)
	}
	return res, err
}

// PlanDestroy is the plan that Destroy would carry out. It changes nothing.
func (s *Stack) PlanDestroy(ctx context.Context) (*plan.Plan, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	p, _, err := s.unmake(ctx, st)
	return p, err
}

func (s *Stack) unmake(ctx context.Context, st *state.State) (*plan.Plan, []resource.Ref, error) {
	owned := s.owned(st)
	if len(st.Owned) == 0 {
		if s.graph == nil {
			return nil, nil, &fault.Fault{
				Summary: "Neither a state nor a description",
				Detail:  fmt.Sprintf("The project %s holds no state of the stack %s, and without its description nothing says what belongs to it.", s.opts.Identity.Project, s.opts.Identity.Stack),
				Remedy:  "Fix the file, then destroy the stack:\n    difyup destroy",
			}
		}
		var err error
		if owned, err = s.withMarked(ctx, owned); err != nil {
			return nil, nil, err
		}
	}
	owner, err := s.owner(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, err := plan.Destroy(ctx, owner, owned, s.client, kind.ByName)
	return p, owned, err
}

// owned is what the state says. A state that was lost says nothing; then it is what the description says, as far as it
// bears the stack's mark.
func (s *Stack) owned(st *state.State) []resource.Ref {
	if len(st.Owned) > 0 || s.graph == nil {
		return st.Owned
	}
	return s.graph.Refs()
}

// run makes a plan under the lock and carries it out. Make also gives what the stack will own, at most.
func (s *Stack) run(ctx context.Context, o RunOptions, make func(context.Context, *state.State) (*plan.Plan, []resource.Ref, error)) (res *Result, err error) {
	held, lock, err := s.store.Lock(ctx, o.Command, o.BreakLock)
	if err != nil {
		return nil, err
	}
	gone := false // the state, and the lock with it
	defer func() {
		if gone {
			return
		}
		err = errors.Join(err, atLast(ctx, lock.Release))
	}()
	st, err := s.read(held)
	if err != nil {
		return nil, err
	}
	if st.Intent != nil {
		s.tell("`%s` of %s did not end; waiting for what it left at work", st.Intent.Command, cmp.Or(st.Intent.By, "somebody"))
		// What is being deleted still seems to be there, and would be missing when the plan is carried out.
		rs, err := plan.Resources(st.Owned, kind.ByName)
		if err != nil {
			return nil, err
		}
		if err := s.client.Settle(held, rs); err != nil {
			return nil, err
		}
	}
	pins := st.Pins
	p, owned, err := make(held, st)
	if err != nil {
		return nil, err
	}
	res = &Result{Plan: p}
	if !p.Empty() && o.Confirm != nil {
		ok, err := o.Confirm(p)
		if err != nil {
			return res, err
		}
		if !ok {
			return res, ErrDeclined
		}
	}
	if p.Release != nil && p.Release.Migrates && !o.Migrate {
		return res, s.migrates(p.Release)
	}
	destroying := p.Graph == nil
	if !destroying {
		if err := again(p.Graph, p.Lost, o.Recreate); err != nil {
			return res, err
		}
		if !s.holdsSchema(p) {
			st.Schema = nil // it was of databases that are gone
		}
		for _, r := range p.Kept {
			s.tell("%s is not wanted any more, and is not deleted: it does not bear the stack's mark. To delete it by hand: %s", r.ID(), s.byHand(r))
		}
	}
	if len(p.Steps) == 0 && !destroying {
		// A run that was killed may have left the state behind what it did.
		now := left(p, owned, &apply.Result{})
		if res.Left = len(now); sameRefs(st.Owned, now) && st.Intent == nil && !st.Stale() && samePins(pins, st.Pins) {
			return res, nil
		}
		st.Owned, st.Intent = now, nil
		return res, s.store.Write(held, st)
	}
	st.Owned = owned
	s.store.Intend(st, o.Command, o.Args, s.opts.Version)
	st.Enable(missing(p), s.client.Now())
	if err := s.store.Write(held, st); err != nil {
		return res, err
	}
	done, runErr := apply.Run(held, p, s.checked(p, apply.NewSteps(s.client, p)), parallel, s.opts.Events)
	res.count(p, done)
	st.Owned = left(p, owned, done)
	if destroying && runErr == nil {
		st.Owned, runErr = s.look(held, owned)
	}
	if runErr == nil {
		st.Intent = nil
	}
	if res.Left = len(st.Owned); destroying && runErr == nil {
		// Nobody renews the lock while it is deleted; its lease lasts longer than that.
		remove, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		lock.Forget()
		if err := s.store.Remove(remove); err != nil {
			return res, err
		}
		gone, res.Unseen = true, s.client.Disabled()
		return res, nil
	}
	st.Record(state.Run{
		At: time.Now().UTC().Truncate(time.Second), By: state.Me(), Command: o.Command, Version: s.opts.Version,
		Created: res.Created, Updated: res.Updated, Deleted: res.Deleted, Failed: res.Failed,
	})
	if errors.Is(context.Cause(held), state.ErrLockLost) {
		return res, runErr // the state is somebody else's now
	}
	return res, errors.Join(runErr, atLast(ctx, func(ctx context.Context) error { return s.store.Write(ctx, st) }))
}

// How long is waited for what ends a run, and for one try at it: three of them, the last one short, so that it does not end when all does.
// The client waits longer for an answer than a person would at the end.
const (
	atLastWait = 11 * time.Second
	atLastTry  = 4 * time.Second
)

// atLast does what ends a run, even one that was cancelled; not for ever, should the network be gone. What got no answer is done
// again, which it must bear.
func atLast(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), atLastWait)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, atLastTry)
		err := do(try)
		late := try.Err() != nil
		cancel()
		if err == nil || !late || ctx.Err() != nil {
			return err
		}
	}
}

func sameRefs(a, b []resource.Ref) bool {
	key := func(refs []resource.Ref) []resource.ID {
		ids := make([]resource.ID, len(refs))
		for i, r := range refs {
			ids[i] = r.ID
		}
		slices.Sort(ids)
		return ids
	}
	return slices.Equal(key(a), key(b))
}

// left gives what is still owned after a run.
func left(p *plan.Plan, owned []resource.Ref, done *apply.Result) []resource.Ref {
	undone := slices.Concat(done.Failed, done.Skipped)
	if p.Graph == nil {
		if len(undone) > 0 {
			return owned
		}
		return nil
	}
	var out []resource.Ref
	for _, ref := range owned {
		// What is not wanted any more goes when its deletion is done, or when it was not there.
		// What is not the stack's after all is not owned.
		kept := slices.Contains(undone, ref.ID) || p.Live[ref.ID] != nil && !slices.Contains(done.Done, ref.ID)
		kept = kept && !slices.ContainsFunc(p.Kept, func(r *resource.Resource) bool { return r.ID() == ref.ID })
		if p.Graph.Get(ref.ID) != nil || kept {
			out = append(out, ref)
		}
	}
	for i, ref := range out { // nor does anybody need what is gone
		out[i].Needs = slices.DeleteFunc(slices.Clone(ref.Needs), func(n resource.ID) bool {
			return !slices.ContainsFunc(out, func(r resource.Ref) bool { return r.ID == n })
		})
	}
	return out
}

func (r *Result) count(p *plan.Plan, done *apply.Result) {
	actions := map[resource.ID]plan.Action{}
	for _, s := range p.Steps {
		actions[s.ID] = s.Action
	}
	for _, id := range done.Done {
		switch actions[id] {
		case plan.Create:
			r.Created++
		case plan.Update:
			r.Updated++
		case plan.Delete:
			r.Deleted++
		}
	}
	r.Failed, r.Skipped = len(done.Failed), len(done.Skipped)
}

// Value is an output with its value.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Doc   string `json:"doc"`
}

// Outputs reads the outputs. It gives a fault when the stack is not there.
func (s *Stack) Outputs(ctx context.Context) ([]Value, error) {
	all := topology.Outputs(s.opts.Spec)
	var rs []*resource.Resource
	for _, o := range all {
		if r := s.graph.Get(o.From.Of); r != nil && !slices.Contains(rs, r) {
			rs = append(rs, r)
		}
	}
	live, err := s.client.ReadAll(ctx, rs)
	if err != nil {
		return nil, err
	}
	if len(live) == 0 {
		return nil, s.absent()
	}
	values := make([]Value, 0, len(all))
	for _, o := range all {
		v := Value{Name: o.Name, Doc: o.Doc, Value: o.Text}
		if o.From != (resource.Output{}) {
			v.Value = "" // not there yet
			if decided, ok := resource.Lookup(live[o.From.Of], o.From.Path); ok {
				v.Value = o.Text + fmt.Sprint(decided)
			}
		}
		values = append(values, v)
	}
	return values, nil
}

func (s *Stack) absent() *fault.Fault {
	return &fault.Fault{
		Summary: "The stack does not exist",
		Detail:  fmt.Sprintf("Nothing of the stack %s exists in the project %s.", s.opts.Identity.Stack, s.opts.Identity.Project),
		Remedy:  "Create it:\n    difyup apply",
	}
}
