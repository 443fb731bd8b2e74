package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/difyup/difyup/internal/apply"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// enables says whether a step enables services.
func enables(s plan.Step) bool {
	return s.Res != nil && s.Res.Kind == kind.Services.Kind && (s.Action == plan.Create || s.Action == plan.Update)
}

// missing gives the services, "compute.googleapis.com", that a plan enables.
func missing(p *plan.Plan) []string {
	var names []string
	for _, s := range p.Steps {
		if enables(s) {
			have := services(s.Live)
			names = append(names, slices.DeleteFunc(services(s.Res.Body), func(name string) bool { return slices.Contains(have, name) })...)
		}
	}
	return names
}

func services(body map[string]any) []string {
	list, _ := body["services"].([]any)
	names := make([]string, len(list))
	for i, name := range list {
		names[i] = fmt.Sprint(name)
	}
	return names
}

// refused gives what Google's own lists refuse of a plan, with its places in the description.
func (s *Stack) refused(ctx context.Context, p *plan.Plan) (fault.List, error) {
	var faults fault.List
	for _, step := range p.Steps {
		var changed []resource.Path
		switch step.Action {
		case plan.Create:
		case plan.Update:
			for _, f := range step.Changes {
				changed = append(changed, f.Path)
			}
		default:
			continue
		}
		refused, err := s.client.Refused(ctx, step.Res, changed)
		if err != nil {
			return nil, err
		}
		for _, r := range refused {
			r.Fault.At = s.opts.Spec.At(topology.Option(s.opts.Spec, step.ID, r.Path))
			faults = append(faults, r.Fault)
		}
	}
	return faults, nil
}

func byLine(a, b *fault.Fault) int { return cmp.Compare(a.At.Line, b.At.Line) }

// checked gives a Doer that asks Google once more, as soon as the services are enabled, for which all other steps wait, what it would
// refuse: in a new project it could not be asked while planning.
func (s *Stack) checked(p *plan.Plan, d apply.Doer) apply.Doer { return &checked{s, p, d} }

type checked struct {
	stack *Stack
	plan  *plan.Plan
	doer  apply.Doer
}

func (c *checked) Do(ctx context.Context, step plan.Step) error {
	if err := c.doer.Do(ctx, step); err != nil || !enables(step) {
		return err
	}
	faults, err := c.stack.refused(ctx, c.plan)
	if err != nil {
		return err
	}
	if slices.Contains(c.stack.client.Disabled(), kind.ComputeAPI.Name+".googleapis.com") {
		wrong, err := c.stack.places(ctx)
		if err != nil {
			return err
		}
		faults = append(wrong, faults...)
	}
	slices.SortStableFunc(faults, byLine)
	return faults.Err()
}
