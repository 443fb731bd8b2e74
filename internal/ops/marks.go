package ops

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

func (s *Stack) tell(format string, args ...any) {
	s.opts.Events.Send(event.Event{Phase: event.Info, Detail: fmt.Sprintf(format, args...)})
}

// withMarked adds to refs whatever else bears the stack's mark, in the regions of the stack and of refs. One round of
// lists.
func (s *Stack) withMarked(ctx context.Context, refs []resource.Ref) ([]resource.Ref, error) {
	regions := map[string]bool{s.opts.Identity.Region: true}
	known := map[resource.ID]bool{}
	for _, ref := range refs {
		known[ref.ID] = true
		regions[ref.Params["region"]] = true
	}
	delete(regions, "")
	var (
		mu    sync.Mutex
		found []resource.Ref
	)
	g, ctx := errgroup.WithContext(ctx)
	look := func(k *resource.Kind, params map[string]string) {
		g.Go(func() error {
			var query url.Values
			if k.API == kind.StorageAPI {
				query = url.Values{"project": {s.opts.Identity.Project}}
			}
			items, err := s.client.List(ctx, k, resource.Expand(k.Collection, params), query)
			if err != nil {
				return fmt.Errorf("look for %s with the stack's mark: %w", k.Name, err)
			}
			for _, item := range items {
				if k.MarkOf(item) != s.opts.Identity.Stack {
					continue
				}
				name, _ := item["name"].(string)
				name, _, _ = strings.Cut(name[strings.LastIndexByte(name, '/')+1:], "@") // an account's ends like an email
				ref := resource.Ref{ID: resource.ID(k.Name + "/" + name), Kind: k.Name, Name: name, Params: params}
				mu.Lock()
				if !known[ref.ID] && name != s.store.Bucket() {
					found = append(found, ref)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	for _, k := range kind.All() {
		switch {
		case k.Mark.At == "" || k.List == "":
		case strings.Contains(k.Collection, "{region}"):
			for region := range regions {
				look(k, map[string]string{"project": s.opts.Identity.Project, "region": region})
			}
		default:
			look(k, map[string]string{"project": s.opts.Identity.Project})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b resource.Ref) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return append(slices.Clone(refs), found...), nil
}

// look makes sure, after everything was deleted, that nothing of the stack is left: neither what it owned nor anything
// else with its mark. It gives what is. What Google deleted may be shown for a moment.
func (s *Stack) look(ctx context.Context, owned []resource.Ref) ([]resource.Ref, error) {
	owner, err := s.owner(ctx)
	if err != nil {
		return owned, err
	}
	all, err := s.withMarked(ctx, owned)
	if err != nil {
		return owned, err
	}
	for try := 0; ; try++ {
		p, err := plan.Destroy(ctx, owner, all, s.client, kind.ByName)
		if err != nil {
			return owned, err
		}
		if len(p.Steps) == 0 {
			return nil, nil
		}
		if try == 5 {
			ids := make([]string, len(p.Steps))
			for i, step := range p.Steps {
				ids[i] = string(step.ID)
			}
			left := slices.DeleteFunc(all, func(ref resource.Ref) bool { return p.Live[ref.ID] == nil })
			return left, &fault.Fault{
				Summary: "Something of the stack is left",
				Detail:  fmt.Sprintf("All that the state named is deleted, and these bear the stack's mark:\n    %s", strings.Join(ids, "\n    ")),
				Remedy:  "Destroy the stack again, which deletes them:\n    difyup destroy",
			}
		}
		if err := gcp.Sleep(ctx, gcp.Backoff(try, 100*time.Millisecond, 3*time.Second)); err != nil {
			return owned, err
		}
	}
}

// notOurs is the fault for what the state named and nothing shows to be the stack's.
func (s *Stack) notOurs(kept []*resource.Resource) error {
	f := &fault.Fault{Summary: "Not everything was deleted"}
	f.Detail = fmt.Sprintf("The state named these, but they do not bear the mark of the stack %s. They were left alone, and difyup has forgotten them:", s.opts.Identity.Stack)
	remedy, with := "", "They are"
	for _, r := range kept {
		f.Detail += "\n    " + string(r.ID())
		if s.client.Google() || r.DeleteByHand() != "" {
			remedy += "\n    " + s.byHand(r)
		}
	}
	if remedy != "" {
		f.Remedy, with = "If they are the stack's, delete them by hand:"+remedy, "\nWhat has no command here is"
	}
	if strings.Count(remedy, "\n") < len(kept) {
		f.Remedy += with + " deleted with all that is in the local cloud:\n    difyup local down"
	}
	return f
}

// byHand says how something is deleted that difyup leaves alone. A local cloud has no console.
func (s *Stack) byHand(r *resource.Resource) string {
	switch command := r.DeleteByHand(); {
	case command != "":
		return command
	case !s.client.Google():
		return "difyup local down, and with it all that is in the local cloud"
	}
	return "in Google's console: " + string(r.ID())
}
