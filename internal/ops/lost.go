package ops

import (
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// vital says whether what is made in the place of a resource that somebody deleted is another one: a database is empty then, and of
// what was encrypted with a key that was lost nobody can read anything. A new Redis lacks what was queued, which is all.
func vital(spec *config.Spec, r *resource.Resource) bool {
	switch r.Kind {
	case kind.SQLInstances.Kind, kind.SQLDatabases.Kind:
		return true
	case kind.Buckets.Kind:
		return r.Leaf() == spec.Storage.Bucket
	case kind.Secrets.Kind:
		return r.ID() == topology.Secret(spec, dify.SecretKey)
	}
	return false
}

// lost gives what of a stack's data is not there any more, and would be made again without what it held. What is in an instance
// of Cloud SQL is not told besides it. While a run has not ended well, what it did not come to is missing without having been lost. Unseen are
// services, as "sqladmin.googleapis.com", that are not enabled: what is there does not show, and is adopted once they are.
func lost(spec *config.Spec, st *state.State, all []*resource.Resource, unseen []string, there func(*resource.Resource) bool) []resource.ID {
	if st.Intent != nil {
		return nil
	}
	var ids []resource.ID
	for _, r := range all {
		had := slices.ContainsFunc(st.Owned, func(o resource.Ref) bool { return o.ID == r.ID() })
		if had && vital(spec, r) && !there(r) && !slices.Contains(unseen, r.Kind.API.Name+".googleapis.com") {
			ids = append(ids, r.ID())
		}
	}
	return slices.DeleteFunc(ids, func(id resource.ID) bool {
		rest, ok := strings.CutPrefix(string(id), kind.SQLDatabases.Name+"/")
		instance, _, _ := strings.Cut(rest, "/")
		return ok && slices.Contains(ids, resource.ID(kind.SQLInstances.Name+"/"+instance))
	})
}

// lost gives what of the stack's data a plan makes again, without what it held.
func (s *Stack) lost(p *plan.Plan, st *state.State) []resource.ID {
	return lost(s.opts.Spec, st, p.Graph.Resources(), s.client.Disabled(), func(r *resource.Resource) bool {
		return !slices.ContainsFunc(p.Steps, func(step plan.Step) bool { return step.ID == r.ID() && step.Action == plan.Create })
	})
}

// again refuses to make what is lost again, unless it is named, and names of what the stack has not.
func again(g *resource.Graph, ids []resource.ID, named []string) error {
	for _, name := range named {
		if g.Get(resource.ID(name)) == nil {
			return &fault.Fault{
				Summary: "Unknown resource",
				Detail:  fmt.Sprintf("--recreate: the stack has no %.200s.", name),
				Remedy:  "Name it as the plan does:\n    difyup plan",
			}
		}
	}
	if !slices.ContainsFunc(ids, func(id resource.ID) bool { return !slices.Contains(named, string(id)) }) {
		return nil
	}
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = string(id)
	}
	return &fault.Fault{
		Summary: "Data of the stack are gone",
		Detail: fmt.Sprintf("Somebody deleted %s. `apply` can make that again, without what it held: databases are empty then, and whoever comes first sets Dify up.",
			strings.Join(all, ", ")),
		Remedy: "See in Google's audit logs who deleted it, and ask Google's support soon whether it can be brought back: a bucket can be, within the days of its soft delete. " +
			"To go on without what it held, name it:\n    difyup apply --recreate " + strings.Join(all, ","),
	}
}
