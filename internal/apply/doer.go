package apply

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// Cloud is what a step needs of Google. Each call returns when Google says it is done.
type Cloud interface {
	Read(ctx context.Context, r *resource.Resource) (map[string]any, error) // nil when absent
	Create(ctx context.Context, r *resource.Resource, body map[string]any) error
	Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error
	Delete(ctx context.Context, r *resource.Resource) error
	Await(ctx context.Context, r *resource.Resource) (map[string]any, error) // until Kind.Ready holds
	Output(ctx context.Context, r *resource.Resource, p resource.Path) (string, error)
}

// Steps is the Doer that carries steps out in a Cloud. It takes outputs from what the plan read, and reads again what
// was created or was not there yet.
type Steps struct {
	cloud Cloud
	graph *resource.Graph // nil when destroying

	mu     sync.Mutex
	values map[resource.Output]any // guarded by mu; may hold secrets: never printed
	live   map[resource.ID]map[string]any
}

// NewSteps makes the Doer for this plan.
func NewSteps(c Cloud, p *plan.Plan) *Steps {
	live := make(map[resource.ID]map[string]any, len(p.Live))
	for id, body := range p.Live {
		live[id] = body
	}
	return &Steps{cloud: c, graph: p.Graph, values: map[resource.Output]any{}, live: live}
}

var _ Doer = (*Steps)(nil)

// Do carries out one step.
func (s *Steps) Do(ctx context.Context, step plan.Step) error {
	switch step.Action {
	case plan.Delete:
		return s.cloud.Delete(ctx, step.Res)
	case plan.Await:
		live, err := s.cloud.Await(ctx, step.Res)
		if err == nil {
			s.set(step.ID, live)
		}
		return err
	}
	body, err := step.Res.Resolve(func(o resource.Output) (any, error) {
		v, err := s.value(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("resolve %s of %s: %w", o.Path, o.Of, err)
		}
		return v, nil
	})
	if err != nil {
		return err
	}
	if step.Action == plan.Create {
		err := s.cloud.Create(ctx, step.Res, body)
		s.set(step.ID, nil)
		return err
	}
	changed := diff.Fields(step.Res.Kind, step.Live, body)
	for _, f := range step.Changes { // secrets cannot be compared: the plan knows
		if slices.Contains(step.Res.Kind.Secret, f.Path) {
			changed = append(changed, f)
		}
	}
	if len(changed) == 0 {
		return nil // what was unknown when planning turned out as it was
	}
	paths := make([]resource.Path, len(changed))
	for i, f := range changed {
		paths[i] = f.Path
	}
	if err := s.cloud.Update(ctx, step.Res, body, step.Live, paths); err != nil {
		return err
	}
	s.set(step.ID, nil)
	if len(step.Res.Kind.Ready) > 0 {
		_, err = s.cloud.Await(ctx, step.Res)
	}
	return err
}

func (s *Steps) set(id resource.ID, live map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live == nil {
		delete(s.live, id)
		return
	}
	s.live[id] = live
}

func (s *Steps) value(ctx context.Context, o resource.Output) (any, error) {
	s.mu.Lock()
	v, ok := s.values[o]
	live := s.live[o.Of]
	s.mu.Unlock()
	if ok {
		return v, nil
	}
	if v, ok := resource.Lookup(live, o.Path); ok {
		return v, nil
	}
	of := s.graph.Get(o.Of)
	if of == nil {
		return nil, fmt.Errorf("%s is not in the graph", o.Of)
	}
	for _, secret := range of.Kind.Secret {
		if secret != o.Path {
			continue
		}
		text, err := s.cloud.Output(ctx, of, o.Path)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.values[o] = text
		s.mu.Unlock()
		return text, nil
	}
	live, err := s.cloud.Read(ctx, of)
	if err != nil {
		return nil, err
	}
	s.set(o.Of, live)
	if v, ok := resource.Lookup(live, o.Path); ok {
		return v, nil
	}
	return nil, fmt.Errorf("%s shows no %s", o.Of, o.Path)
}
