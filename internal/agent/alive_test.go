package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
)

func TestAlive(t *testing.T) {
	const long, short = silentFor, silentFor - time.Second
	for _, tc := range []struct {
		name string
		facts
		want string // why it is not; "" = it is
	}{
		{"it has just begun", facts{}, "not ready yet"},
		{"it waits for a store", facts{Up: BootPatience - 1, Silent: BootPatience - 1}, "not ready yet"},
		{"it has waited for a store as long as healing waits", facts{Up: BootPatience, Silent: BootPatience}, ""},
		{"it serves", facts{Up: time.Second, Ready: true, Stores: true}, ""},
		{"the agent began again", facts{Ready: true}, ""},
		{"a store is away, and the runtime broke", facts{Up: long, Ready: true, Silent: 100 * long, Restarts: 100}, ""},
		{"it does not answer", facts{Up: long, Ready: true, Stores: true, Silent: short, Restarts: 10}, ""},
		{"it does not answer for long, and was not started again", facts{Up: long, Ready: true, Stores: true, Silent: 10 * long, Restarts: 2}, ""},
		{"it does not answer for long, and after restarts", facts{Up: long, Ready: true, Stores: true, Silent: long, Restarts: 3}, "10m0s and 3 restarts"},
		{"it never answered, after restarts", facts{Up: long, Stores: true, Silent: long, Restarts: 3}, "10m0s and 3 restarts"},
	} {
		ok, why := tc.alive(BootPatience)
		if ok != (tc.want == "") || !strings.Contains(why, tc.want) {
			t.Errorf("%s: %t %q, want %q", tc.name, ok, why, tc.want)
		}
	}
}

// TestVitals tells the story of an instance whose database goes away for an hour, and whose runtime breaks later.
func TestVitals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		dir := t.TempDir()
		v := newVitals(dir, log)
		alive := func() bool { ok, _ := v.facts().alive(BootPatience); return ok }
		// during has something happen every minute.
		during := func(d time.Duration, f func()) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
				f()
			}
		}
		if alive() {
			t.Error("it is alive before it is ready")
		}
		v.stores(true)
		v.answered()
		if !alive() {
			t.Error("it is not alive when it is ready")
		}
		during(time.Hour, func() { v.stores(false); v.restarted() })
		if !alive() {
			t.Error("an instance without a database is replaced")
		}
		v.stores(true) // the database is back, the runtime not yet
		if !alive() {
			t.Error("an instance whose database is back has no time to begin again")
		}
		v.answered()
		during(9*time.Minute, func() { v.stores(true); v.restarted() })
		if !alive() {
			t.Error("it is not given the time that it has")
		}
		during(2*time.Minute, func() { v.stores(true); v.restarted() })
		if alive() {
			t.Error("it stays, though nothing but the runtime is broken")
		}
		time.Sleep(storesKnown) // nobody has looked at the stores since, as when the machine stood still
		if !alive() {
			t.Error("it is replaced by what was known long ago")
		}
		v.stores(true)
		if alive() {
			t.Error("it stays")
		}
		v.answered()
		if !alive() {
			t.Error("it is replaced, though it answers")
		}
		// The agent begins again, as after a reboot.
		if v = newVitals(dir, log); !alive() {
			t.Error("an instance that was ready is replaced because it began again")
		}
	})
}

// deaf is a runtime of which Health is all that is asked. It answers while well is true.
type deaf struct {
	runtime.Runtime
	well atomic.Bool
}

func (d *deaf) Health(context.Context) error {
	if d.well.Load() {
		return nil
	}
	return &runtime.Failure{Service: dify.API, State: "does not answer"}
}

// TestSilence has the runtime stop to answer: the front door is told after three failures, and after a long time all of it is
// started again.
func TestSilence(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Backend: func(dify.Name) string { return "" }, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close(t.Context())
	synctest.Test(t, func(t *testing.T) {
		d := &deaf{}
		d.well.Store(true)
		a := &agent{log: log, door: door, runtime: d, report: newReporter(dify.Default, log, nil), vitals: newVitals("", log)}
		phase := func() report.Phase {
			a.report.mu.Lock()
			defer a.report.mu.Unlock()
			return a.report.doc.Phase
		}
		ctx, end := context.WithCancelCause(t.Context())
		go a.watch(ctx, end)
		time.Sleep(time.Hour)
		if got := phase(); got != report.Serves || ctx.Err() != nil {
			t.Fatalf("it is in the phase %s, and %v", got, ctx.Err())
		}
		d.well.Store(false)
		began := time.Now()
		for phase() == report.Serves {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the front door is told after %s", took)
		}
		<-ctx.Done()
		if took := time.Since(began); !errors.Is(context.Cause(ctx), errSilent) || took < silence-3*time.Second || took > silence+time.Second {
			t.Errorf("it ends after %s: %v", took, context.Cause(ctx))
		}
	})
}
