package ops

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestAtLast has the end of a run be answered, refused and not answered, also when the run was cancelled.
func TestAtLast(t *testing.T) {
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		silent int   // so many tries are not answered
		answer error // of the one after them
		want   error
		tries  int
		took   time.Duration
	}{
		"answered":         {0, nil, nil, 1, 0},
		"refused":          {0, refused, refused, 1, 0},
		"answered late":    {1, nil, nil, 2, atLastTry},
		"refused late":     {2, refused, refused, 3, 2 * atLastTry},
		"never answered":   {99, nil, context.DeadlineExceeded, 3, atLastWait},
		"a deadline of it": {0, context.DeadlineExceeded, context.DeadlineExceeded, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cancelled, cancel := context.WithCancel(t.Context())
				cancel()
				tries, began := 0, time.Now()
				err := atLast(cancelled, func(ctx context.Context) error {
					if tries++; tries <= tc.silent {
						<-ctx.Done()
						return ctx.Err()
					}
					return tc.answer
				})
				if !errors.Is(err, tc.want) || tries != tc.tries || time.Since(began) != tc.took {
					t.Errorf("it gives %v after %d tries in %s", err, tries, time.Since(began))
				}
			})
		})
	}
}
