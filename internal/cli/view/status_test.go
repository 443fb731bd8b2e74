package view

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
)

// TestStatusNamesFailedStores checks that a stack whose database failed is not called serving, whatever its instances answer.
func TestStatusNamesFailedStores(t *testing.T) {
	s := &ops.Status{
		Stack: "demo", Project: "demo-project", Healthy: 1, Target: 1, Stable: true, Certificate: "SELF_MANAGED",
		Stores:    []ops.Store{{Name: "demo-main", What: "PostgreSQL 16", State: "FAILED", Address: "10.0.0.1"}, {Name: "demo-redis", What: "Redis 7.2", State: "READY"}},
		Instances: []ops.Instance{{Name: "demo-x", Zone: "z", Status: "RUNNING", Action: "NONE", Health: "HEALTHY"}},
	}
	var out bytes.Buffer
	Status(&out, Palette{}, "local cloud", "https://127.0.0.1", s, time.Now())
	want := `demo in demo-project (local cloud)  degraded: demo-main is FAILED
  https://127.0.0.1 certificate self_managed

  instances  1 of 1 healthy
    demo-x  z  RUNNING  HEALTHY

  stores
    demo-main   PostgreSQL 16  FAILED  10.0.0.1
    demo-redis  Redis 7.2      READY   

`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s.Ready() {
		t.Error("it counts as ready")
	}
}

// TestStatusTellsWhatInstancesSay shows instances that were asked what they say of themselves: one that serves, one that waits, one
// that has fallen silent, and one that cannot be asked.
func TestStatusTellsWhatInstancesSay(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	running := func(name string) ops.Instance {
		return ops.Instance{Name: name, Zone: "z", Status: "RUNNING", Action: "NONE", Health: "HEALTHY"}
	}
	serves, waits, silent, closed := running("demo-a"), running("demo-b"), running("demo-c"), running("demo-d")
	serves.Report = &report.Document{At: now, Dify: "1.17.1", Phase: report.Serves, Scheduler: "demo-a", Checks: []report.Check{
		{Name: "the database", Well: true, Took: 3}, {Name: "the vector database", Says: "refuses the login"}, {Name: "Redis", Well: true, Took: 12},
	}}
	waits.Report = &report.Document{At: now.Add(-time.Minute), Dify: "1.17.1", Phase: report.Stores, Waiting: "the vector database refuses the login"}
	silent.Report = &report.Document{At: now.Add(-time.Hour), Dify: "1.17.1", Phase: report.Serves, Scheduler: "demo-c"}
	closed.Silent, closed.Serial = "its report cannot be read", "Kernel panic"
	s := &ops.Status{Stack: "demo", Project: "p", Healthy: 4, Target: 4, Stable: true, Instances: []ops.Instance{serves, waits, silent, closed}, Warnings: []string{"the plugin a/b:1 runs on no instance, and is installed"}}
	var out bytes.Buffer
	Status(&out, Palette{}, "Google Cloud", "", s, now)
	want := `demo in p (Google Cloud)  serving

  instances  4 of 4 healthy
    demo-a  z  RUNNING  HEALTHY
      serves Dify 1.17.1
      the vector database refuses the login
      2 checks pass; the slowest, Redis, in 12 ms
    demo-b  z  RUNNING  HEALTHY
      waits for its stores: the vector database refuses the login; it said so 1m0s ago
    demo-c  z  RUNNING  HEALTHY
      has not reported for 1h0m0s; then: serves Dify 1.17.1
    demo-d  z  RUNNING  HEALTHY
      its report cannot be read
      its serial port says last: Kernel panic
    the scheduler runs on demo-a
    the plugin a/b:1 runs on no instance, and is installed

  stores

`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for scheduler, want := range map[string]string{"": "runs on no instance", "demo-b": "runs on no instance", "demo-a": "runs on demo-a\n"} {
		serves.Report.Scheduler = scheduler
		out.Reset()
		Status(&out, Palette{}, "Google Cloud", "", s, now)
		if !strings.Contains(out.String(), "the scheduler "+want) {
			t.Errorf("of the scheduler on %q it says:\n%s", scheduler, out.String())
		}
	}
}
