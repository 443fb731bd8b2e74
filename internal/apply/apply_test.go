package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/apply"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

type doer struct {
	mu      sync.Mutex
	running int
	peak    int
	lanes   map[string]int
	fail    map[resource.ID]error
	t       *testing.T
}

func (d *doer) Do(ctx context.Context, s plan.Step) error {
	d.mu.Lock()
	d.running++
	d.peak = max(d.peak, d.running)
	if s.Lane != "" {
		if d.lanes == nil {
			d.lanes = map[string]int{}
		}
		if d.lanes[s.Lane]++; d.lanes[s.Lane] > 1 {
			d.t.Errorf("two steps at once in lane %s", s.Lane)
		}
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.running--
		if s.Lane != "" {
			d.lanes[s.Lane]--
		}
	}()
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return d.fail[s.ID]
}

func steps(spec ...string) *plan.Plan {
	p := &plan.Plan{}
	for _, s := range spec {
		var step plan.Step
		id := s
		for i, part := range split(s) {
			if i == 0 {
				id = part
				continue
			}
			if part[0] == '@' {
				step.Lane = part[1:]
				continue
			}
			step.After = append(step.After, resource.ID(part))
		}
		step.ID, step.Action = resource.ID(id), plan.Create
		p.Steps = append(p.Steps, step)
	}
	return p
}

func split(s string) []string {
	var parts []string
	for part := range slices.Values([]byte(s)) {
		if len(parts) == 0 || part == ' ' {
			parts = append(parts, "")
		}
		if part != ' ' {
			parts[len(parts)-1] += string(part)
		}
	}
	return parts
}

func TestRunTakesTheLongestChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Twelve steps of a minute; the longest chain has four.
		p := steps("a", "b a", "c b", "d c", "e", "f e", "g", "h", "i", "j", "k", "l a e")
		d := &doer{t: t}
		began := time.Now()
		res, err := apply.Run(t.Context(), p, d, 20, nil)
		if err != nil || len(res.Done) != 12 {
			t.Fatalf("done %v, err %v", res.Done, err)
		}
		if took := time.Since(began); took != 4*time.Minute {
			t.Errorf("took %v, want the longest chain, 4m", took)
		}
	})
}

func TestRunIsBoundedAndKeepsLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steps("a @x", "b @x", "c @x", "d", "e", "f", "g")
		d := &doer{t: t}
		began := time.Now()
		if _, err := apply.Run(t.Context(), p, d, 3, nil); err != nil {
			t.Fatal(err)
		}
		if d.peak != 3 {
			t.Errorf("peak %d, want 3", d.peak)
		}
		if took := time.Since(began); took != 3*time.Minute {
			t.Errorf("took %v, want 3m: the lane's three, the others beside them", took)
		}
	})
}

func TestRunSkipsOnlyWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("quota exceeded")
		p := steps("a", "b a", "c b", "d", "e d b")
		var log []string
		res, err := apply.Run(t.Context(), p, &doer{t: t, fail: map[resource.ID]error{"a": boom}}, 9, func(e event.Event) {
			if e.Phase != event.Started {
				log = append(log, fmt.Sprint(e.Phase, " ", e.ID, " ", e.Detail, e.Error))
			}
		})
		if !errors.Is(err, boom) {
			t.Errorf("err = %v", err)
		}
		want := &apply.Result{Done: []resource.ID{"d"}, Failed: []resource.ID{"a"}, Skipped: []resource.ID{"b", "c", "e"}}
		if d := cmp.Diff(want, res); d != "" {
			t.Errorf("ledger (-want +got):\n%s", d)
		}
		slices.Sort(log)
		wantLog := []string{"done d ", "failed a quota exceeded", "skipped b waits for a", "skipped c waits for a", "skipped e waits for a"}
		if d := cmp.Diff(wantLog, log); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

func TestCancelStartsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(90 * time.Second)
			cancel(stop)
		}()
		res, err := apply.Run(ctx, steps("a", "b a", "c b", "d c"), &doer{t: t}, 2, nil)
		if !errors.Is(err, stop) {
			t.Errorf("err = %v", err)
		}
		want := &apply.Result{Done: []resource.ID{"a"}, Failed: []resource.ID{"b"}, Skipped: []resource.ID{"c", "d"}}
		if d := cmp.Diff(want, res); d != "" {
			t.Errorf("ledger (-want +got):\n%s", d)
		}
	})
}
