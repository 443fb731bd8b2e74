package resource

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// Graph is the resources of a stack and the edges between them. It is immutable once made.
type Graph struct {
	order []*Resource // every resource after all it needs; the same order for the same input
	byID  map[ID]*Resource
	needs map[ID][]ID // sorted
}

// NewGraph finds the edges and orders the resources. It refuses a resource given twice, a reference or a Needs entry
// that names none of them, and a circle: all of these are bugs in the topology, not mistakes of a user.
func NewGraph(rs ...*Resource) (*Graph, error) {
	g := &Graph{byID: map[ID]*Resource{}, needs: map[ID][]ID{}}
	links := map[string]ID{}
	for _, r := range rs {
		if _, twice := g.byID[r.ID()]; twice {
			return nil, bug("Resource given twice", "%s is in the graph twice", r.ID())
		}
		g.byID[r.ID()] = r
		links[r.Kind.API.Name+" "+r.Link()] = r.ID()
	}
	for _, r := range rs {
		found := map[ID]bool{}
		for _, id := range r.Needs {
			found[id] = true
		}
		// A nested resource needs what it is nested in.
		for parent := r.CollectionPath(); parent != "."; {
			if id, ok := links[r.Kind.API.Name+" "+parent]; ok {
				found[id] = true
			}
			i := strings.LastIndexByte(parent, '/')
			if i < 0 {
				break
			}
			parent = parent[:i]
		}
		for _, ref := range r.References {
			found[ref.To] = true
		}
		delete(found, r.ID())
		for id := range found {
			if g.byID[id] == nil {
				return nil, bug("Reference to an unknown resource", "%s refers to %s, which is not in the graph", r.ID(), id)
			}
		}
		g.needs[r.ID()] = slices.Sorted(maps.Keys(found))
	}
	order, circle := Order(slices.Sorted(maps.Keys(g.byID)), func(id ID) []ID { return g.needs[id] })
	if circle != nil {
		return nil, bug("Resources need each other", "a circle among %v", circle)
	}
	for _, id := range order {
		g.order = append(g.order, g.byID[id])
	}
	return g, nil
}

func bug(summary, format string, args ...any) error {
	return &fault.Fault{Summary: summary, Detail: fmt.Sprintf(format, args...), Remedy: "This is a bug in difyup. Please report it with your difyup.yaml."}
}

// Resources gives every resource, each after all that it needs.
func (g *Graph) Resources() []*Resource { return slices.Clone(g.order) }

// Get gives the resource of that ID, or nil.
func (g *Graph) Get(id ID) *Resource { return g.byID[id] }

// Needs gives what id needs directly, sorted.
func (g *Graph) Needs(id ID) []ID { return slices.Clone(g.needs[id]) }

// Order sorts keys so that each comes after all it needs, taking the smallest first among those that are free, so that
// the same input gives the same order. Needs that are not among keys are left out. When there is a circle, it gives
// the keys caught in one.
func Order[K cmp.Ordered](keys []K, needs func(K) []K) (order, circle []K) {
	waits := make(map[K]int, len(keys))
	waiters := make(map[K][]K, len(keys))
	known := make(map[K]bool, len(keys))
	for _, k := range keys {
		known[k] = true
	}
	var free []K
	for _, k := range keys {
		for _, n := range needs(k) {
			if known[n] {
				waits[k]++
				waiters[n] = append(waiters[n], k)
			}
		}
		if waits[k] == 0 {
			free = append(free, k)
		}
	}
	for len(free) > 0 {
		slices.Sort(free)
		k := free[0]
		free = free[1:]
		order = append(order, k)
		for _, w := range waiters[k] {
			if waits[w]--; waits[w] == 0 {
				free = append(free, w)
			}
		}
	}
	if len(order) < len(keys) {
		for _, k := range keys {
			if waits[k] > 0 {
				circle = append(circle, k)
			}
		}
	}
	return order, circle
}

// Ref is what remains of a resource when its configuration is gone: enough to find and delete it, in the right order.
type Ref struct {
	ID     ID                `json:"id"`
	Kind   string            `json:"kind"`
	Name   string            `json:"name"`
	Params map[string]string `json:"params,omitempty"`
	Needs  []ID              `json:"needs,omitempty"` // as when it was last applied
}

// Refs gives the graph as refs, in its order.
func (g *Graph) Refs() []Ref {
	refs := make([]Ref, len(g.order))
	for i, r := range g.order {
		refs[i] = Ref{ID: r.ID(), Kind: r.Kind.Name, Name: r.Name, Params: maps.Clone(r.Params), Needs: g.Needs(r.ID())}
	}
	return refs
}
