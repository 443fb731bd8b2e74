package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// scaled gives a time of Google's as it passes where the instance is.
func (a *agent) scaled(d, shortest time.Duration) time.Duration {
	return max(time.Duration(float64(d)*a.scale), min(shortest, d))
}

// drain ends the instance's work by dify.Ending: the front door and those of the first step together, then step by step. What
// is not over by its time, or when Options.Cut is closed, is cut off and named in the log. Its error is that the door broke.
func (a *agent) drain() error {
	began := time.Now()
	ctx, cut := context.WithTimeout(context.Background(), dify.EndTime)
	defer cut()
	over := make(chan struct{})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer close(over)
	waiting.Go(func() {
		select {
		case <-a.opts.Cut:
			a.log.Warn("told to end at once: what is still in hand is cut off")
			cut()
		case <-over:
		}
	})
	steps := dify.Ending()
	by := func(d time.Duration) (context.Context, context.CancelFunc) {
		return context.WithDeadline(ctx, began.Add(d))
	}
	var first sync.WaitGroup
	first.Go(func() {
		ctx, cancel := by(steps[0].By)
		defer cancel()
		a.stop(ctx, steps[0].Services)
	})
	draining, cancel := by(dify.DrainTime)
	a.door.Drain(draining)
	cancel()
	first.Wait()
	for _, s := range steps[1:] {
		ctx, cancel := by(s.By)
		a.stop(ctx, s.Services)
		cancel()
	}
	err := a.door.Close(ctx)
	a.log.Info("everything has ended", "took", time.Since(began).Round(time.Millisecond))
	return err
}

// stop has services end, and names those that would not.
func (a *agent) stop(ctx context.Context, services []dify.Name) {
	err := a.runtime.Stop(ctx, services)
	if err == nil {
		return
	}
	all := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		all = many.Unwrap()
	}
	for _, err := range all {
		var f *runtime.Failure
		if !errors.As(err, &f) || f.State != runtime.Killed {
			a.log.Error("services could not be told to end", "services", services, "error", err)
			continue
		}
		lost := "what it had in hand is lost"
		if f.Service == dify.Worker {
			lost = "its tasks are lost, since Celery acknowledges them when they are taken"
		}
		a.log.Warn("a service did not end in time and was killed", "service", f.Service, "so", lost)
	}
}
