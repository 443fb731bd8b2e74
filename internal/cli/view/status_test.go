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
	Status(&out, Palette{}, "local cloud", "", "https://127.0.0.1", s, time.Now())
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
	serves, waits, silent, closed, well, broken := running("demo-a"), running("demo-b"), running("demo-c"), running("demo-d"), running("demo-e"), running("demo-f")
	serves.Report = &report.Document{At: now, Dify: "1.17.1", Phase: report.Serves, Scheduler: "demo-a", Checks: []report.Check{
		{Name: "the database", Well: true, Took: 3}, {Name: "the vector database", Says: "refuses the login"}, {Name: "Redis", Well: true, Took: 12},
	}}
	waits.Report = &report.Document{At: now.Add(-time.Minute), Dify: "1.17.1", Phase: report.Stores, Waiting: "the vector database refuses the login"}
	silent.Report = &report.Document{At: now.Add(-time.Hour), Dify: "1.17.1", Phase: report.Serves, Scheduler: "demo-c"}
	closed.Silent, closed.Serial = "its report cannot be read", "Kernel panic"
	at := now.Add(-20 * time.Second)
	well.Report = &report.Document{
		At: at, Dify: "1.17.1", Phase: report.Serves, Since: at.Add(-3 * time.Hour), Schema: &report.Schema{Version: "1.17.1", Head: "c3f1"}, Checks: []report.Check{{Name: "Redis", Well: true, Took: 12}},
		Containers: &report.Containers{At: at, All: []report.Container{{Name: "api", Well: true, MiB: 512}, {Name: "web", Well: true}, {Name: "worker", Well: true, Restarts: 2, MiB: 830}}},
		Plugins:    &report.Plugins{At: now.Add(-time.Minute), Installed: 3, Here: 2},
	}
	broken.Health = "UNHEALTHY"
	broken.Report = &report.Document{
		At: at, Dify: "1.17.1", Phase: report.Starts, Since: at.Add(-time.Minute), Waiting: "the runtime cannot run the service worker",
		Containers: &report.Containers{At: at, All: []report.Container{{Name: "; reboot"}, {Name: "worker", Restarts: 7}}},
	}
	s := &ops.Status{Stack: "demo", Project: "p", Healthy: 4, Target: 4, Stable: true, Instances: []ops.Instance{serves, waits, silent, closed, well, broken}, Warnings: []string{"the plugin a/b:1 runs on no instance, and is installed"}}
	var out bytes.Buffer
	Status(&out, Palette{}, "Google Cloud", " --file x.yaml", "", s, now)
	want := `demo in p (Google Cloud)  serving

  instances  4 of 4 healthy
    demo-a  z  RUNNING  HEALTHY
      serves Dify 1.17.1
      the vector database refuses the login
      See how the store is, and whether its settings or rights were changed; apply puts them right: difyup plan --file x.yaml
      it said so 0s ago
      2 checks pass; the slowest, Redis, in 12 ms
    demo-b  z  RUNNING  HEALTHY
      waits for its stores: the vector database refuses the login
      See what was changed of the secrets, rights and stores; apply puts it right: difyup plan --file x.yaml
      it said so 1m0s ago
    demo-c  z  RUNNING  HEALTHY
      has not reported for 1h0m0s; then: serves Dify 1.17.1
      Its agent does not run, or cannot reach Google; what it wrote last: difyup logs demo-c -c agent --since 24h --file x.yaml
      it said so 1h0m0s ago
    demo-d  z  RUNNING  HEALTHY
      its report cannot be read
      its serial port says last: Kernel panic
      Its agent may say why: difyup logs demo-d -c agent --file x.yaml
    demo-e  z  RUNNING  HEALTHY
      serves Dify 1.17.1 on the schema c3f1
      it said so 20s ago, in this phase for 3h0m0s
      1 checks pass; the slowest, Redis, in 12 ms
      containers, 20s ago: api 512 MiB, web, worker 830 MiB (restarts: 2)
      plugins, 1m0s ago: 3 installed, 2 run here
    demo-f  z  RUNNING  UNHEALTHY
      starts Dify 1.17.1: the runtime cannot run the service worker
      the container ; reboot does not run, or does not answer; the container worker does not run, or does not answer; it was started again 7 times
      Read what the container wrote: difyup logs demo-f -c worker --file x.yaml
      it said so 20s ago, in this phase for 1m0s
      containers, 20s ago: ; reboot, worker (restarts: 7)
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
		Status(&out, Palette{}, "Google Cloud", " --file x.yaml", "", s, now)
		if !strings.Contains(out.String(), "the scheduler "+want) {
			t.Errorf("of the scheduler on %q it says:\n%s", scheduler, out.String())
		}
	}
}
