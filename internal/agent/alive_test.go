package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/plugins"
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
		v := newVitals(dir, 0, log)
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
		if alive() {
			t.Error("it is alive before it has its plugins")
		}
		v.served()
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
		if v = newVitals(dir, 0, log); !alive() {
			t.Error("an instance that was ready is replaced because it began again")
		}
	})
}

// TestAge checks that an instance is as old as its machine, also when the agent, or the machine, begins again.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		dir := filepath.Join(t.TempDir(), "agent") // is made
		age := func(v *vitals) time.Duration { return v.facts().Up.Round(time.Minute) }
		if got := age(newVitals(dir, 15*time.Minute, log)); got != 15*time.Minute {
			t.Errorf("the agent begins after 15 minutes: %s", got)
		}
		time.Sleep(5 * time.Minute)
		v := newVitals(dir, 20*time.Minute, log)
		if ok, why := v.facts().alive(BootPatience); age(v) != 20*time.Minute || !ok {
			t.Errorf("the agent begins again after 20 minutes: %s, %s", age(v), why)
		}
		time.Sleep(time.Minute)
		if got := age(newVitals(dir, 30*time.Second, log)); got != 21*time.Minute {
			t.Errorf("the machine begins again after 21 minutes: %s", got)
		}
		for _, garbled := range []string{"", "yesterday", "2999-01-01T00:00:00Z"} {
			if err := os.WriteFile(filepath.Join(dir, "began"), []byte(garbled), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := age(newVitals(dir, 2*time.Minute, log)); got != 2*time.Minute {
				t.Errorf("with %q in the file: %s", garbled, got)
			}
		}
		if got := age(newVitals("", 0, log)); got != 0 {
			t.Errorf("in a rehearsal: %s", got)
		}
	})
}

// unprepared is a runtime that cannot prepare.
type unprepared struct {
	runtime.Runtime
	why error
}

func (u unprepared) Prepare(context.Context, []dify.Service) error { return u.why }

// TestUnprepared has the runtime of an instance that served never prepare. It is replaced where that helps.
func TestUnprepared(t *testing.T) {
	engine := errors.New("docker ps: exit status 1: Cannot connect to the Docker daemon")
	pull := &runtime.Unfetched{Err: errors.New("pull langgenius/dify-api: the registry does not answer")}
	for _, tc := range []struct {
		name   string
		why    error
		stores error
		want   string // why it is not alive in the end; "" = it is
	}{
		{"the engine is broken", engine, nil, "every store can be reached, and the runtime has not answered for 10m"},
		{"the engine is broken, and a store is away", engine, errors.New("the database does not answer"), ""},
		{"images cannot be fetched", errors.Join(pull, pull), nil, ""},
		{"a secret cannot be read by which images are fetched", &runtime.Unfetched{Err: &unready{"the secret mine@2", "is disabled", "is disabled"}}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := slog.New(slog.DiscardHandler)
				a := &agent{log: log, runtime: unprepared{why: tc.why}, vitals: newVitals("", 0, log)}
				a.vitals.served()
				answer := func(context.Context, map[string]string) error { return tc.stores }
				time.Sleep(2 * silentFor) // until secrets can be read, say
				go a.try(t.Context(), report.Stores, "the stores", func(ctx context.Context) error { return a.prepare(ctx, nil, nil, answer) })
				time.Sleep(silentFor - time.Second)
				if ok, why := a.vitals.facts().alive(BootPatience); !ok {
					t.Errorf("it is not given the time that it has: %s", why)
				}
				time.Sleep(30 * time.Second)
				ok, why := a.vitals.facts().alive(BootPatience)
				if ok != (tc.want == "") || !strings.HasPrefix(why, tc.want) {
					t.Errorf("%t %q, want %q", ok, why, tc.want)
				}
				if n := a.vitals.facts().Restarts; n > int(silentFor/countEvery)+1 {
					t.Errorf("it counts as %d restarts", n)
				}
			})
		})
	}
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
		a := &agent{log: log, door: door, runtime: d, report: newReporter(dify.Default, log, nil), vitals: newVitals("", 0, log)}
		phase := func() report.Phase {
			a.report.mu.Lock()
			defer a.report.mu.Unlock()
			return a.report.doc.Phase
		}
		ctx, end := context.WithCancelCause(t.Context())
		seen := &pluginsSeen{look: func(context.Context) (plugins.State, error) { return plugins.State{}, nil }}
		go a.watch(ctx, end, seen)
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

// TestWaitsForPlugins has an instance wait for what other instances run, and then take traffic without what nobody runs. What it
// lacks later is a warning when it is lacking twice, and keeps no traffic away.
func TestWaitsForPlugins(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Backend: func(dify.Name) string { return "" }, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close(t.Context())
	synctest.Test(t, func(t *testing.T) {
		d := &deaf{}
		d.well.Store(true)
		a := &agent{log: log, door: door, runtime: d, scale: 1, report: newReporter(dify.Default, log, nil), vitals: newVitals("", 0, log)}
		var now atomic.Pointer[plugins.State]
		find := func(s plugins.State) { now.Store(&s) }
		find(plugins.State{Elsewhere: []string{"a/b:1"}, Nowhere: []string{"a/c:1"}})
		seen := &pluginsSeen{look: func(context.Context) (plugins.State, error) { return *now.Load(), nil }}
		ctx, end := context.WithCancelCause(t.Context())
		defer end(nil)
		go a.watch(ctx, end, seen)
		go a.keepLooking(ctx, seen)
		says := func(phase report.Phase, waiting string, warnings ...string) {
			t.Helper()
			a.report.mu.Lock()
			defer a.report.mu.Unlock()
			if got := a.report.doc; got.Phase != phase || got.Waiting != waiting || !slices.Equal(got.Warnings, warnings) {
				t.Errorf("it reports %s, %q, %q; want %s, %q, %q", got.Phase, got.Waiting, got.Warnings, phase, waiting, warnings)
			}
		}
		const nobody = "the plugin a/c:1 runs on no instance, and is installed"
		time.Sleep(5*time.Minute + 10*time.Second) // between two looks
		const here = "the plugin a/b:1 runs on other instances and not on this one"
		says(report.Starts, "waits for the plugin a/b:1 of other instances to run here", here, nobody)
		find(plugins.State{Here: []string{"a/b:1"}, Nowhere: []string{"a/c:1"}})
		time.Sleep(30 * time.Second)
		says(report.Starts, "waits for the plugin a/c:1, which no instance runs yet", here, nobody)
		time.Sleep(40 * time.Second)
		says(report.Serves, "", nobody)
		find(plugins.State{Elsewhere: []string{"a/b:1"}, Nowhere: []string{"a/c:1"}})
		time.Sleep(checkEvery)
		says(report.Serves, "", nobody)
		time.Sleep(checkEvery)
		says(report.Serves, "", here, nobody)
		find(plugins.State{Here: []string{"a/b:1", "a/c:1"}})
		time.Sleep(checkEvery)
		says(report.Serves, "")
	})
}
