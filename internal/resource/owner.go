package resource

import (
	"fmt"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// The ownership mark of a stack.
const (
	ManagedBy  = "managed-by"
	StackLabel = "difyup-stack"
)

// Labels gives the labels that mark what belongs to the stack.
func Labels(stack string) map[string]string {
	return map[string]string{ManagedBy: "difyup", StackLabel: stack}
}

// Description gives the mark for what takes no labels when it is created.
func Description(stack string) string { return ManagedBy + "=difyup;" + StackLabel + "=" + stack }

// Marking is how a resource of a kind shows to which stack it belongs. One of At, Within, Member and Shared is set.
type Marking struct {
	At     Path   // where in a body the mark stands: labels, or a description
	Within string // it bears none, and stands in a resource of this kind that does; the first part of its name is that one's
	Member bool   // what the stack's own account may do: the stack's by its member
	Shared bool   // the project's: never deleted
	Number Path   // its name is global: where a live body shows the number of its project
	Delete string // gcloud's words for deleting one by hand, with {name}, {project}, {region} and {instance}; "" = in the console only
}

// MarkOf gives the stack that a body says it belongs to, or "".
func (k *Kind) MarkOf(body map[string]any) string {
	if k.Mark.At == "" {
		return ""
	}
	switch mark, _ := Lookup(body, k.Mark.At); mark := mark.(type) {
	case map[string]any:
		if mark[ManagedBy] == "difyup" {
			stack, _ := mark[StackLabel].(string)
			return stack
		}
	case string:
		if stack, ok := strings.CutPrefix(mark, Description("")); ok {
			return stack
		}
	}
	return ""
}

// Holder gives the ID of the resource that this one stands in and whose mark counts for it, or "".
func (r *Resource) Holder() ID {
	if r.Kind.Mark.Within == "" {
		return ""
	}
	name, _, _ := strings.Cut(r.Name, "/")
	return ID(r.Kind.Mark.Within + "/" + name)
}

// Owner is a stack, as what is its own can be told from what is others'.
type Owner struct {
	Stack   string // whose mark counts
	Project string // its ID
	Number  string // and number
	Account string // email of the instances' service account
}

// Elsewhere says whether a live body is in another project although its name is ours.
func (o Owner) Elsewhere(k *Kind, live map[string]any) bool {
	if k.Mark.Number == "" {
		return false
	}
	number, _ := Lookup(live, k.Mark.Number)
	return o.Number == "" || number != o.Number
}

// Marked says whether a live body bears the stack's mark.
func (o Owner) Marked(k *Kind, live map[string]any) bool {
	return k.MarkOf(live) == o.Stack && !o.Elsewhere(k, live)
}

// Owns says whether a live resource is the stack's, so that it may be deleted: by its mark, by that of the holder that
// it stands in, or by its member. What the state says is no proof, for it names things before they are made.
func (o Owner) Owns(r *Resource, live map[string]any, holder *Resource, holderLive map[string]any) bool {
	mark := r.Kind.Mark
	switch {
	case r.Params["project"] != o.Project:
		return false
	case mark.At != "":
		return o.Marked(r.Kind, live)
	case mark.Within != "":
		return holder != nil && r.Inside(holder) && o.Marked(holder.Kind, holderLive)
	case mark.Member:
		return r.Params["member"] == "serviceAccount:"+o.Account
	}
	return false
}

// Inside says whether the resource's path leads through its holder, as its name says. Service Networking knows a network
// by its name alone.
func (r *Resource) Inside(holder *Resource) bool {
	if r.Holder() != holder.ID() || r.Params["project"] != holder.Params["project"] {
		return false
	}
	return r.Kind.API != holder.Kind.API || strings.HasPrefix(r.CollectionPath()+"/", holder.Link()+"/")
}

// DeleteByHand gives the command that deletes the resource without difyup, or "".
func (r *Resource) DeleteByHand() string {
	if r.Kind.Mark.Delete == "" {
		return ""
	}
	params := map[string]string{"name": r.Leaf(), "project": r.Params["project"], "region": r.Params["region"], "instance": r.Params["instance"]}
	return fmt.Sprintf("gcloud %s --project=%s", Expand(r.Kind.Mark.Delete, params), params["project"])
}

// Taken is the fault for a wanted name that something bears which is not marked as the stack's.
func (o Owner) Taken(r *Resource, live map[string]any) *fault.Fault {
	f := &fault.Fault{Summary: "A name is taken", Remedy: "Choose another name for the stack, or delete what has this name."}
	switch other := r.Kind.MarkOf(live); {
	case o.Elsewhere(r.Kind, live):
		f.Detail = fmt.Sprintf("%s exists in another project than %s. Names of its kind are global.", r.ID(), o.Project)
		f.Remedy = "Choose another name for it, or for the stack."
		return f
	case other != "":
		f.Detail = fmt.Sprintf("%s exists and belongs to the stack %.80q.", r.ID(), other)
	default:
		f.Detail = fmt.Sprintf("%s exists and does not bear the mark of the stack %s: %s.", r.ID(), o.Stack, o.mark(r.Kind))
		f.Remedy = "If it is this stack's, give it its mark back. If not, choose another name for the stack, or delete what has this name."
	}
	if command := r.DeleteByHand(); command != "" {
		f.Remedy += "\n    " + command
	}
	return f
}

// mark says where a kind bears the mark, for people.
func (o Owner) mark(k *Kind) string {
	if k.Mark.At == "description" {
		return fmt.Sprintf("the description %q", Description(o.Stack))
	}
	return fmt.Sprintf("the labels %s=difyup and %s=%s", ManagedBy, StackLabel, o.Stack)
}
