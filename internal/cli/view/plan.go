package view

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// Heading says whose plan it is.
type Heading struct {
	Stack, Project, Where string
	Destroy               bool
}

// layers are the parts of the architecture, in the order in which they are shown, with the kinds that belong to each. A
// resource is shown with the first layer that claims it.
var layers = []struct {
	name  string
	kinds []string
}{
	{"project", []string{"serviceusage."}},
	{"network", []string{"compute.networks", "compute.subnetworks", "compute.routers", "compute.firewalls", "compute.globalAddresses", "servicenetworking."}},
	{"identity", []string{"iam.", "cloudresourcemanager.", "storage.bucketIam", "secretmanager.secretIam"}},
	{"secrets", []string{"secretmanager."}},
	{"database", []string{"sql."}},
	{"cache", []string{"redis."}},
	{"storage", []string{"storage."}},
	{"naming", []string{"dns."}},
	{"compute", []string{"compute.instanceTemplates", "compute.regionInstanceGroupManagers", "compute.regionAutoscalers"}},
	{"load balancer", []string{"compute."}},
}

func layerOf(id resource.ID) int {
	for i, l := range layers {
		if slices.ContainsFunc(l.kinds, func(k string) bool { return strings.HasPrefix(string(id), k) }) {
			return i
		}
	}
	return len(layers) - 1
}

// Plan shows a plan as a tree: layers, resources, and for updates the fields that change.
func Plan(w io.Writer, c Palette, h Heading, p *plan.Plan) {
	what := "Plan for"
	if h.Destroy {
		what = "Plan to destroy"
	}
	printf(w, "%s %s %s%s\n", c.bold(what+" "+h.Stack), c.dim("in project"), h.Project, c.dim(" ("+h.Where+")"))
	release(w, c, p.Release)
	for _, id := range p.Lost {
		printf(w, "\n  %s %s %s\n", c.red("!"), c.bold(string(id)), "is gone, and what it held. It is made again without that; `apply` needs --recreate for it.")
	}
	for i, l := range layers {
		var steps []plan.Step
		for _, s := range p.Steps {
			if layerOf(s.ID) == i {
				steps = append(steps, s)
			}
		}
		if len(steps) == 0 {
			continue
		}
		slices.SortStableFunc(steps, func(a, b plan.Step) int { return strings.Compare(string(a.ID), string(b.ID)) })
		printf(w, "\n  %s\n", c.bold(l.name))
		for _, s := range steps {
			step(w, c, s)
		}
	}
	if len(p.Kept) > 0 {
		printf(w, "\n  %s\n", c.bold("not deleted: without the stack's mark"))
		for _, r := range p.Kept {
			printf(w, "    %s %s\n", c.yellow("!"), r.ID())
		}
	}
	if len(p.Notes) > 0 {
		printf(w, "\n")
	}
	for _, note := range p.Notes {
		printf(w, "  %s %s\n", c.yellow("!"), note)
	}
	if len(p.Steps)+len(p.Kept)+len(p.Notes) > 0 {
		printf(w, "\n")
	}
	if p.Empty() {
		if h.Destroy {
			printf(w, "Nothing to destroy.\n")
			return
		}
		printf(w, "Nothing to do: %d resources are as described.\n", p.Unchanged)
		return
	}
	counts := sprintf("%d to create, %d to change, %d to delete", p.Count(plan.Create), p.Count(plan.Update), p.Count(plan.Delete))
	if !h.Destroy {
		counts += sprintf("; %d unchanged", p.Unchanged)
	}
	printf(w, "%s.\n", c.bold(counts))
}

// release shows what a change of Dify's release means.
func release(w io.Writer, c Palette, r *dify.Change) {
	if r == nil {
		return
	}
	printf(w, "\n  %s\n", c.bold(sprintf("Dify %s → %s", r.From, r.To)))
	if r.Migrates {
		printf(w, "    %s The databases are migrated, once, while instances of %s still serve; what those do until they are replaced may fail.\n", c.yellow("!"), r.From)
		printf(w, "    %s There is no way back but a backup of the databases: make one first. `apply` needs --migrate.\n", c.yellow("!"))
	}
	for _, n := range r.Notes {
		versions := styled("")
		if len(n.Versions) > 0 {
			versions = sprintf("%s: ", strings.Join(n.Versions, ", "))
		}
		printf(w, "    %s %s%s\n", c.yellow("!"), versions, n.Text)
	}
}

func step(w io.Writer, c Palette, s plan.Step) {
	mark, note := c.green("+"), ""
	switch s.Action {
	case plan.Update:
		mark = c.yellow("~")
		switch effect(s) {
		case kind.InPlace:
			note = "in place"
		case kind.Rolling:
			note = "rolling: instances are replaced, a few at a time"
		case kind.Restart:
			note = "restart: unavailable for a while"
		}
	case plan.Delete:
		mark = c.red("-")
		if s.Res.Kind.HoldsData() {
			note = "with its data"
		}
	case plan.Await:
		mark, note = c.cyan("…"), s.Why
	}
	if note != "" {
		note = "  (" + note + ")"
	}
	printf(w, "    %s %s%s\n", mark, s.ID, c.dim(note))
	for _, f := range s.Changes {
		printf(w, "        %s: %s %s %s\n", f.Path, shown(f.Old), c.dim("→"), shown(f.New))
	}
}

func effect(s plan.Step) kind.Effect {
	paths := make([]resource.Path, len(s.Changes))
	for i, f := range s.Changes {
		paths[i] = f.Path
	}
	return kind.EffectOf(s.Res.Kind, paths)
}

// longest is how much of a value is shown: a template's metadata are long.
const longest = 100

func shown(v any) string {
	if v == nil {
		return "(none)"
	}
	if v == diff.Unknown {
		return diff.Unknown
	}
	if s, ok := v.(string); ok {
		if link := resource.CanonicalLink(s); strings.HasPrefix(link, "projects/") {
			return link[strings.LastIndexByte(link, '/')+1:] // the rest is the same for all of a kind
		}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	text := []rune(string(raw))
	if len(text) > longest {
		return string(text[:longest]) + "…"
	}
	return string(text)
}

// planStep is a step as JSON has it.
type planStep struct {
	plan.Step
	Effect kind.Effect `json:"effect,omitempty"` // of an update
	Data   bool        `json:"data,omitempty"`   // a deletion loses data
}

// PlanJSON gives a plan as JSON shows it; fields are added over time and never taken away.
func PlanJSON(stack, project string, p *plan.Plan) any {
	steps := make([]planStep, len(p.Steps))
	for i, s := range p.Steps {
		steps[i] = planStep{Step: s, Data: s.Action == plan.Delete && s.Res.Kind.HoldsData()}
		if s.Action == plan.Update {
			steps[i].Effect = effect(s)
		}
	}
	var kept []resource.ID
	for _, r := range p.Kept {
		kept = append(kept, r.ID())
	}
	return struct {
		Stack     string        `json:"stack"`
		Project   string        `json:"project"`
		Empty     bool          `json:"empty"`
		Create    int           `json:"create"`
		Update    int           `json:"update"`
		Delete    int           `json:"delete"`
		Unchanged int           `json:"unchanged"`
		Steps     []planStep    `json:"steps"`
		Kept      []resource.ID `json:"kept,omitempty"`    // not deleted, for they do not bear the stack's mark
		Release   *dify.Change  `json:"release,omitempty"` // a change of Dify's release
		Lost      []resource.ID `json:"lost,omitempty"`    // made again without the data that were in it
		Notes     []string      `json:"notes,omitempty"`
	}{stack, project, p.Empty(), p.Count(plan.Create), p.Count(plan.Update), p.Count(plan.Delete), p.Unchanged, steps, kept, p.Release, p.Lost, p.Notes}
}

// Applied says what a run did.
func Applied(w io.Writer, c Palette, created, updated, deleted int, took time.Duration) {
	printf(w, "%s %d created, %d changed, %d deleted in %s.\n", c.green("Done:"), created, updated, deleted, duration(took))
}

// Destroyed says what a destruction did. Sure says that everything was looked at.
func Destroyed(w io.Writer, c Palette, stack string, deleted int, sure bool, took time.Duration) {
	if !sure {
		printf(w, "%s all that could be seen of %s is deleted; %d deleted in %s.\n", c.green("Done:"), stack, deleted, duration(took))
		return
	}
	printf(w, "%s nothing of %s is left; %d deleted in %s.\n", c.green("Done:"), stack, deleted, duration(took))
}

// Unfinished says how far a run came that failed or was interrupted.
func Unfinished(w io.Writer, c Palette, done, failed, skipped int) {
	printf(w, "%s %d steps done, %d failed, %d not started. Completed steps are kept.\n", c.yellow("Unfinished:"), done, failed, skipped)
}

func duration(d time.Duration) styled {
	switch {
	case d < time.Second:
		return sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return sprintf("%.1f s", d.Seconds())
	}
	return sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}
