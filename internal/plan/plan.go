package plan

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// Action is what a step does.
type Action string

// The actions. Await waits for a resource that an interrupted run left under construction.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
	Await  Action = "await"
)

// Step is one change to one resource.
type Step struct {
	ID      resource.ID        `json:"id"`
	Action  Action             `json:"action"`
	Why     string             `json:"why"`
	Changes []diff.Field       `json:"changes,omitempty"` // for Update
	After   []resource.ID      `json:"after,omitempty"`   // steps of this plan that must be done first, sorted
	Lane    string             `json:"lane,omitempty"`    // steps of one lane run one at a time
	Res     *resource.Resource `json:"-"`                 // wanted, or for Delete what the state remembers
	Live    map[string]any     `json:"-"`                 // as read when planning; nil for Create
}

// Plan is the steps that make the cloud match the graph, in an order in which they could be run one by one.
type Plan struct {
	Steps []Step `json:"steps"`
	// Unchanged is how many resources are as wanted.
	Unchanged int `json:"unchanged"`
	// Release is a change of Dify's release that the steps bring; nil when it stays, or nothing ran yet.
	Release *dify.Change `json:"release,omitempty"`
	// Lost is what held data, was deleted by somebody else, and is made again without them.
	Lost []resource.ID `json:"lost,omitempty"`
	// Notes are what people should know besides the steps.
	Notes []string `json:"notes,omitempty"`
	// Graph is what is wanted; nil for a plan that destroys.
	Graph *resource.Graph `json:"-"`
	// Kept is what the state names and what is not deleted, because nothing shows that it is the stack's.
	Kept []*resource.Resource `json:"-"`
	// Live is what was read, by ID; what is absent, or half made and wanted, has no entry.
	Live map[resource.ID]map[string]any `json:"-"`
}

// Reader reads the cloud.
type Reader interface {
	// ReadAll gives the live bodies of those that exist.
	ReadAll(ctx context.Context, rs []*resource.Resource) (map[resource.ID]map[string]any, error)
	// Whole says whether a live body was made to its end.
	Whole(r *resource.Resource, live map[string]any) bool
}

// Empty says whether there is nothing to do. Waiting for what is under construction is not a change.
func (p *Plan) Empty() bool {
	return !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action != Await })
}

// Count gives the number of steps with this action.
func (p *Plan) Count(a Action) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// Losses gives the steps that would destroy data.
func (p *Plan) Losses() []Step {
	var losses []Step
	for _, s := range p.Steps {
		if s.Action == Delete && s.Res.Kind.HoldsData() {
			losses = append(losses, s)
		}
	}
	return losses
}

// Make compares the graph, and what the stack owns besides (owned, from the state), with the cloud. A change that
// Google cannot make in place to a resource whose name stays is refused with a fault each, and so is a wanted name that
// something bears which is not marked as the stack's, whatever the state says.
func Make(ctx context.Context, owner resource.Owner, g *resource.Graph, cloud Reader, owned []resource.Ref, kinds func(string) (*resource.Kind, bool)) (*Plan, error) {
	all := g.Resources()
	gone, err := orphans(g, owned, kinds)
	if err != nil {
		return nil, err
	}
	live, err := cloud.ReadAll(ctx, append(slices.Clone(all), gone...))
	if err != nil {
		return nil, fmt.Errorf("read the cloud: %w", err)
	}
	p := &Plan{Graph: g, Live: live}
	read := maps.Clone(live) // as it was, half made or not
	var faults fault.List
	for _, r := range all {
		body := live[r.ID()]
		if body != nil && r.Kind.Mark.At != "" && !owner.Marked(r.Kind, body) {
			faults = append(faults, owner.Taken(r, body))
		}
		if body != nil && !cloud.Whole(r, body) {
			delete(live, r.ID()) // what refers to it must take it for new
		}
	}
	for _, r := range all {
		step := Step{ID: r.ID(), Res: r, Live: live[r.ID()], Lane: lane(r)}
		switch step.Live {
		case nil:
			step.Action, step.Why = Create, "does not exist"
			if read[r.ID()] != nil {
				step.Why = "is half made"
			}
		default:
			step.Changes = append(diff.Fields(r.Kind, step.Live, r.Known(live)), renewed(r, live)...)
			stuck := diff.Immutable(r.Kind, step.Changes)
			wait := notReady(r.Kind, step.Live)
			switch {
			case len(stuck) > 0:
				faults = append(faults, cannotReplace(r, stuck))
				continue
			case len(step.Changes) > 0:
				step.Action, step.Why = Update, "differs"
			case r.Kind.HoldsData() && wait != "":
				step.Action, step.Why = Await, wait
			default:
				p.Unchanged++
				continue
			}
		}
		p.Steps = append(p.Steps, step)
	}
	p.delete(owner, "not wanted any more", gone, append(slices.Clone(all), gone...), read)
	p.settle(all, owned)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	p.contents()
	if err := p.order(g, owned); err != nil {
		return nil, err
	}
	return p, nil
}

// delete adds the deletion of those that exist and are the stack's. Live is what was read of all.
func (p *Plan) delete(owner resource.Owner, why string, rs, all []*resource.Resource, live map[resource.ID]map[string]any) {
	known := map[resource.ID]*resource.Resource{}
	for _, r := range all {
		known[r.ID()] = r
	}
	for _, r := range rs {
		body := live[r.ID()]
		holder := known[r.Holder()]
		switch {
		case body == nil || r.Kind.Mark.Shared:
		case owner.Owns(r, body, holder, live[r.Holder()]):
			p.Steps = append(p.Steps, Step{ID: r.ID(), Action: Delete, Why: why, Res: r, Live: body, Lane: lane(r)})
		case holder == nil || !r.Inside(holder) || live[r.Holder()] == nil: // else it is enough to name the holder
			p.Kept = append(p.Kept, r)
		}
	}
}

// Leave takes the step for a resource out of the plan.
func (p *Plan) Leave(id resource.ID) {
	p.Steps = slices.DeleteFunc(p.Steps, func(s Step) bool { return s.ID == id })
	for i, s := range p.Steps {
		p.Steps[i].After = slices.DeleteFunc(slices.Clone(s.After), func(first resource.ID) bool { return first == id })
	}
}

// settle has machines that are still being replaced be waited for, if something is deleted that those before them need: the run that
// began to replace them was cut off.
func (p *Plan) settle(all []*resource.Resource, owned []resource.Ref) {
	goes := func(id resource.ID) bool {
		return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == id && s.Action == Delete })
	}
	for _, ref := range owned {
		i := slices.IndexFunc(all, func(r *resource.Resource) bool { return r.ID() == ref.ID && r.Kind.Holds == resource.Machines })
		if i < 0 || !slices.ContainsFunc(ref.Needs, goes) || slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == ref.ID }) {
			continue
		}
		r := all[i]
		if why := notReady(r.Kind, p.Live[r.ID()]); why != "" && p.Live[r.ID()] != nil {
			p.Unchanged--
			p.Steps = append(p.Steps, Step{ID: r.ID(), Action: Await, Why: why, Res: r, Live: p.Live[r.ID()], Lane: lane(r)})
		}
	}
}

// Destroy plans the removal of everything owned that exists and is the stack's.
func Destroy(ctx context.Context, owner resource.Owner, owned []resource.Ref, cloud Reader, kinds func(string) (*resource.Kind, bool)) (*Plan, error) {
	gone, err := orphans(nil, owned, kinds)
	if err != nil {
		return nil, err
	}
	live, err := cloud.ReadAll(ctx, gone)
	if err != nil {
		return nil, fmt.Errorf("read the cloud: %w", err)
	}
	p := &Plan{Live: live}
	p.delete(owner, "the stack is destroyed", gone, gone, live)
	p.contents()
	if err := p.order(nil, owned); err != nil {
		return nil, err
	}
	return p, nil
}

// orphans gives what is owned and not in the graph, as resources without a body.
func orphans(g *resource.Graph, owned []resource.Ref, kinds func(string) (*resource.Kind, bool)) ([]*resource.Resource, error) {
	var gone []*resource.Resource
	for _, ref := range owned {
		if g != nil && g.Get(ref.ID) != nil {
			continue
		}
		k, ok := kinds(ref.Kind)
		if !ok {
			return nil, &fault.Fault{
				Summary: "The state names a kind this difyup does not know",
				Detail:  fmt.Sprintf("%s is recorded with the kind %q; it was made by a newer difyup.", ref.ID, ref.Kind),
				Remedy:  "Use the difyup that made it, or a newer one.",
			}
		}
		r := &resource.Resource{Kind: k, Name: ref.Name, Params: ref.Params, Needs: ref.Needs}
		if missing := r.MissingParams(); len(missing) > 0 {
			return nil, &fault.Fault{
				Summary: "The state is incomplete",
				Detail:  fmt.Sprintf("It names %s without its %s, so that it cannot be found.", ref.ID, strings.Join(missing, ", ")),
				Remedy:  "Look at the state's older versions, which its bucket keeps, and copy the last good one over it.",
			}
		}
		gone = append(gone, r)
	}
	return gone, nil
}

// Owned gives what a stack owns at most while a plan for the graph is carried out, after it owned what is given. What is not wanted any more is
// among it, and whoever needs it still: if the run is cut off, the next one must know for whom to wait before that is deleted.
func Owned(g *resource.Graph, before []resource.Ref) []resource.Ref {
	owned := g.Refs()
	unwanted, needed := map[resource.ID]bool{}, map[resource.ID][]resource.ID{}
	for _, ref := range before {
		if g.Get(ref.ID) == nil {
			unwanted[ref.ID] = true
			owned = append(owned, ref)
		}
		needed[ref.ID] = ref.Needs
	}
	for i, ref := range owned {
		for _, n := range needed[ref.ID] {
			if unwanted[n] && !slices.Contains(ref.Needs, n) {
				owned[i].Needs = append(slices.Clone(owned[i].Needs), n)
			}
		}
	}
	return owned
}

// Resources gives what the state remembers, as resources without a body.
func Resources(owned []resource.Ref, kinds func(string) (*resource.Kind, bool)) ([]*resource.Resource, error) {
	return orphans(nil, owned, kinds)
}

// contents takes out the deletion of what lies in something that holds data and is deleted too: the databases and users
// of a SQL instance, a bucket's objects, a secret's policy. They go with it, and could not all be deleted before it (a
// user that owns tables, for one).
func (p *Plan) contents() {
	var holders []*resource.Resource
	for _, s := range p.Steps {
		if s.Action == Delete && s.Res.Kind.HoldsData() {
			holders = append(holders, s.Res)
		}
	}
	p.Steps = slices.DeleteFunc(p.Steps, func(s Step) bool {
		return s.Action == Delete && slices.ContainsFunc(holders, func(h *resource.Resource) bool {
			return h != s.Res && h.Kind.API == s.Res.Kind.API && strings.HasPrefix(s.Res.CollectionPath()+"/", h.Link()+"/")
		})
	})
}

// order sets After on every step and sorts the steps. What is created or updated waits for what it needs. What is
// deleted waits for the deletion of all that needed it, and for the update of those that stay and needed it before:
// that is when the last reference to it goes. What holds data goes after the instances that use it, and keys after the data
// that is read with them, so that a destruction which fails or is turned back half way leaves no instance with a database that was
// made anew under it, and no data that nobody can read.
func (p *Plan) order(g *resource.Graph, owned []resource.Ref) error {
	steps := map[resource.ID]*Step{}
	for i := range p.Steps {
		steps[p.Steps[i].ID] = &p.Steps[i]
	}
	after := map[resource.ID]map[resource.ID]bool{}
	wait := func(id, first resource.ID) {
		if steps[id] == nil || steps[first] == nil || id == first {
			return
		}
		if after[id] == nil {
			after[id] = map[resource.ID]bool{}
		}
		after[id][first] = true
	}
	if g != nil {
		for _, r := range g.Resources() {
			for _, n := range g.Needs(r.ID()) {
				wait(r.ID(), n)
			}
		}
	}
	for _, ref := range owned {
		for _, n := range ref.Needs {
			if s := steps[n]; s != nil && s.Action == Delete {
				wait(n, ref.ID)
			}
		}
	}
	for id, s := range steps {
		if s.Action != Delete || s.Res.Kind.Holds != resource.Data {
			continue
		}
		for first, group := range steps {
			if group.Action == Delete && group.Res.Kind.Holds == resource.Machines && !waits(after, first, id) {
				wait(id, first)
			}
		}
	}
	for id, s := range steps {
		if s.Action != Delete || s.Res.Kind.Holds != resource.Keys {
			continue
		}
		for first, data := range steps {
			// What a store itself gave out, as Redis its password, goes before the store.
			if data.Action == Delete && data.Res.Kind.Holds == resource.Data && !waits(after, first, id) {
				wait(id, first)
			}
		}
	}
	for id, s := range steps {
		s.After = slices.Sorted(maps.Keys(after[id]))
	}
	order, circle := resource.Order(slices.Sorted(maps.Keys(steps)), func(id resource.ID) []resource.ID { return steps[id].After })
	if len(circle) > 0 { // a graph has none; a state may say anything
		return &fault.Fault{
			Summary: "Resources wait for each other",
			Detail:  fmt.Sprintf("By the state, each of %s waits for another one of them.", strings.Trim(fmt.Sprint(circle), "[]")),
			Remedy:  "Look at the state's older versions, which its bucket keeps, and copy the last good one over it.",
		}
	}
	sorted := make([]Step, 0, len(p.Steps))
	for _, id := range order {
		sorted = append(sorted, *steps[id])
	}
	p.Steps = sorted
	return nil
}

// waits says whether a step waits for another one, directly or not. A state may have circles.
func waits(after map[resource.ID]map[resource.ID]bool, id, other resource.ID) bool {
	seen := map[resource.ID]bool{}
	var visit func(resource.ID) bool
	visit = func(id resource.ID) bool {
		for first := range after[id] {
			if first == other {
				return true
			}
			if !seen[first] {
				seen[first] = true
				if visit(first) {
					return true
				}
			}
		}
		return false
	}
	return visit(id)
}

// lane keeps the operations on one Cloud SQL instance apart: it takes one at a time.
func lane(r *resource.Resource) string {
	if r.Kind.API.Operation != resource.SQL {
		return ""
	}
	instance, _, _ := strings.Cut(r.Name, "/")
	return "sql/" + instance
}

// notReady says what a resource under construction shows, or "".
func notReady(k *resource.Kind, live map[string]any) string {
	for _, p := range slices.Sorted(maps.Keys(k.Ready)) {
		v, _ := resource.Lookup(live, p)
		if fmt.Sprint(v) != k.Ready[p] {
			return fmt.Sprintf("%s is %v, not yet %s", p, v, k.Ready[p])
		}
	}
	return ""
}

// renewed gives the secret fields whose value comes from something that does not exist and is made anew: nobody can read
// what they are now, and they will not be that.
func renewed(r *resource.Resource, live map[resource.ID]map[string]any) []diff.Field {
	var fields []diff.Field
	for _, ref := range r.References {
		if ref.Output != "" && live[ref.To] == nil && slices.Contains(r.Kind.Secret, ref.At) {
			fields = append(fields, diff.Field{Path: ref.At, Old: nil, New: diff.Unknown})
		}
	}
	return fields
}

func cannotReplace(r *resource.Resource, stuck []diff.Field) *fault.Fault {
	var lines []string
	for _, f := range stuck {
		lines = append(lines, fmt.Sprintf("%s: %v → %v", f.Path, f.Old, f.New))
	}
	f := &fault.Fault{
		Summary: "A change that requires replacement",
		Detail:  fmt.Sprintf("%s: these fields cannot be changed after creation:\n    %s", r.ID(), strings.Join(lines, "\n    ")),
		Remedy:  "Revert the change, or delete the stack and create it again:\n    difyup destroy",
	}
	if r.Kind.HoldsData() {
		f.Detail += "\nIt holds data, which a replacement would lose."
		f.Remedy = "Revert the change. To give up all data of the stack, delete it and create it again:\n    difyup destroy"
	}
	return f
}
