package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// Doer does one step and returns when Google says it is done.
type Doer interface {
	Do(ctx context.Context, s plan.Step) error
}

// Result is the ledger of a run: every step of the plan is in exactly one list.
type Result struct {
	Done    []resource.ID
	Failed  []resource.ID
	Skipped []resource.ID // waited for a failed step, or not started when the run was cancelled
}

var errInterrupted = errors.New("interrupted; what Google was told to do may go on")

// Run does the plan's steps, at most limit at once, and one at a time within a lane. A failed step skips only what
// waits for it. When ctx ends nothing new starts; what runs is given ctx, so that it can stop waiting, and is awaited.
// The error joins the failures, or is the context's cause when it was cancelled.
func Run(ctx context.Context, p *plan.Plan, d Doer, limit int, watch event.Sink) (*Result, error) {
	if limit < 1 {
		limit = 1
	}
	n := len(p.Steps)
	index := make(map[resource.ID]int, n)
	for i, s := range p.Steps {
		index[s.ID] = i
	}
	waits := make([]int, n)
	waiters := make([][]int, n)
	for i, s := range p.Steps {
		for _, id := range s.After {
			j := index[id]
			waits[i]++
			waiters[j] = append(waiters[j], i)
		}
	}

	type outcome struct {
		step    int
		err     error
		elapsed time.Duration
	}
	var (
		res      Result
		errs     []error
		ready    []int // in plan order
		running  int
		finished int
		busy     = map[string]bool{}
		over     = make([]bool, n)
		outcomes = make(chan outcome)
	)
	for i := range p.Steps {
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	finish := func(i int, phase event.Phase, detail string, err error, elapsed time.Duration) {
		over[i] = true
		finished++
		s := p.Steps[i]
		e := event.Event{Phase: phase, ID: string(s.ID), Action: string(s.Action), Detail: detail, Elapsed: elapsed, Index: finished, Total: n}
		if err != nil {
			e.Error = err.Error()
		}
		watch.Send(e)
	}
	var skip func(i int, because resource.ID)
	skip = func(i int, because resource.ID) {
		for _, w := range waiters[i] {
			if over[w] {
				continue
			}
			res.Skipped = append(res.Skipped, p.Steps[w].ID)
			finish(w, event.Skipped, "waits for "+string(because), nil, 0)
			skip(w, because)
		}
	}
	start := func() {
		for k := 0; k < len(ready) && running < limit && ctx.Err() == nil; {
			i := ready[k]
			s := p.Steps[i]
			if s.Lane != "" && busy[s.Lane] {
				k++
				continue
			}
			ready = append(ready[:k], ready[k+1:]...)
			if s.Lane != "" {
				busy[s.Lane] = true
			}
			running++
			watch.Send(event.Event{Phase: event.Started, ID: string(s.ID), Action: string(s.Action), Index: finished, Total: n})
			go func() {
				began := time.Now()
				err := d.Do(ctx, s)
				outcomes <- outcome{i, err, time.Since(began)}
			}()
		}
	}
	for start(); running > 0; start() {
		o := <-outcomes
		running--
		s := p.Steps[o.step]
		if s.Lane != "" {
			busy[s.Lane] = false
		}
		if o.err != nil {
			res.Failed = append(res.Failed, s.ID)
			if ctx.Err() != nil && errors.Is(o.err, context.Cause(ctx)) {
				o.err = errInterrupted
			} else {
				errs = append(errs, fmt.Errorf("%s %s: %w", s.Action, s.ID, o.err))
			}
			finish(o.step, event.Failed, "", o.err, o.elapsed)
			skip(o.step, s.ID)
			continue
		}
		res.Done = append(res.Done, s.ID)
		finish(o.step, event.Done, "", nil, o.elapsed)
		for _, w := range waiters[o.step] {
			if waits[w]--; waits[w] == 0 && !over[w] {
				at := len(ready)
				for at > 0 && ready[at-1] > w {
					at--
				}
				ready = append(ready[:at], append([]int{w}, ready[at:]...)...)
			}
		}
	}
	for i := range p.Steps {
		if !over[i] {
			res.Skipped = append(res.Skipped, p.Steps[i].ID)
			finish(i, event.Skipped, "cancelled", nil, 0)
		}
	}
	if ctx.Err() != nil {
		errs = append([]error{context.Cause(ctx)}, errs...)
	}
	return &res, errors.Join(errs...)
}
