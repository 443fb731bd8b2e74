//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/smoke"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/test/need"
)

// stack runs the programs on a stack and a local cloud of the test's own.
type stack struct {
	t    testing.TB
	dir  string // of the local cloud
	file string
}

func newStack(t testing.TB) *stack {
	t.Helper()
	return newStackIn(t, cloud.Dir(t))
}

// newStackIn is newStack with a directory of the caller's for the local cloud.
func newStackIn(t testing.TB, dir string) *stack {
	t.Helper()
	s := &stack{t: t, dir: dir, file: filepath.Join(t.TempDir(), "difyup.yaml")}
	example, err := os.ReadFile(filepath.Join(root(t), "examples", "difyup.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file, example, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			raw, err := os.ReadFile(filepath.Join(s.dir, "cloud.log"))
			t.Logf("the local cloud's log ends so (%v):\n%s", err, raw[max(0, len(raw)-16<<10):])
		}
		if _, err := localcloud.Down(context.Background(), s.dir, nil); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *stack) command(args ...string) *exec.Cmd {
	if args[0] != "local" {
		args = append(args, "--local", "--file", s.file)
	}
	if args[0] == "apply" {
		args = append(args, "--timeout", "10m") // of the waiting for instances
	}
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(programs, "difyup"), append(args, "--dir", s.dir)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	return cmd
}

// run runs difyup, which must end well, and gives its standard output.
func (s *stack) run(args ...string) string {
	s.t.Helper()
	cmd := s.command(args...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("difyup %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), log.String())
	}
	return out.String()
}

// kill runs difyup and kills it at the answer of its n-th request, counted from 0: the request is carried out, its answer
// held back, and the process killed while it waits. It must come that far.
func (s *stack) kill(n int64, args ...string) {
	s.t.Helper()
	i := s.info()
	rule, err := i.AddFault(s.t.Context(), faults.Rule{
		Name: "kill", Surface: faults.API, Caller: "owner", Rate: 1, Skip: n, Faults: []faults.Fault{{What: faults.Hang}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := s.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for hits := int64(0); hits == 0; time.Sleep(time.Millisecond) {
		select {
		case err := <-ended:
			s.t.Fatalf("difyup %s ended (%v) before its request %d:\n%s", strings.Join(args, " "), err, n, out.String())
		default:
		}
		all, err := i.Faults(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, f := range all {
			if f.ID == rule.ID {
				hits = f.Hits
			}
		}
	}
	if err := cmd.Process.Kill(); err != nil { // SIGKILL
		s.t.Fatal(err)
	}
	<-ended
	if _, err := i.ClearFaults(s.t.Context(), rule.ID, ""); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) info() *localcloud.Info {
	s.t.Helper()
	i, err := localcloud.Find(s.t.Context(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// resources gives what is in the cloud, as numbers by collection.
func (s *stack) resources() map[string]int {
	m := s.info().Resources
	delete(m, "dns.changes")
	return m
}

// TestKilled kills apply, a rolling update and destroy at many of their requests. Whatever was half done, the next apply
// goes on: the stack is complete and nothing exists twice. A run reads with its first 45 requests or so; those behind them
// make something.
func TestKilled(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	want := s.resources()
	s.run("destroy", "--yes")
	if _, err := localcloud.Find(t.Context(), s.dir); err == nil {
		t.Fatal("the local cloud outlived its last stack")
	}

	s.run("local", "up", "--fresh")
	for _, n := range []int64{0, 1, 5, 20, 48, 52, 60, 75, 55, 90, 70, 50} {
		s.kill(n, "apply", "--yes")
	}
	s.complete(want)

	// A rolling update.
	edited, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	edited = bytes.Replace(edited, []byte("e2-standard-2"), []byte("e2-standard-8"), 1)
	if err := os.WriteFile(s.file, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{44, 46, 48} {
		s.kill(n, "apply", "--yes")
	}
	s.complete(want)

	// A destruction that was killed can be turned back, and ends well when it is not.
	s.kill(75, "destroy", "--yes")
	s.complete(want)
	for _, n := range []int64{40, 52, 75} {
		s.kill(n, "destroy", "--yes")
	}
	s.run("destroy", "--yes")
	if i := s.info(); !i.Empty() {
		t.Errorf("left after destroy: %v", i.Resources)
	}
}

// complete applies once more, and checks that everything is there once and works, but for rows of smoke's that may fail.
func (s *stack) complete(want map[string]int, but ...string) {
	s.t.Helper()
	s.run("apply", "--yes")
	if out := s.run("plan", "--exit-code"); !strings.Contains(out, "Nothing to do") {
		s.t.Errorf("the plan is not empty:\n%s", out)
	}
	if d := cmp.Diff(want, s.resources()); d != "" {
		s.t.Errorf("resources (-a run that was not killed +this one):\n%s", d)
	}
	i := s.info()
	if len(i.Servers) != 3 || len(i.Instances) != 2 {
		s.t.Errorf("%d servers and %d instances, want 3 and 2", len(i.Servers), len(i.Instances))
	}
	// Instances that were there before look for changed secrets every 15 s.
	said := ""
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if said = s.check(but...); said == "" {
			return
		}
	}
	s.t.Errorf("smoke says:\n%s", said)
}

// check has smoke prove the stack, and gives what it found wrong, or "". Rows that are given may fail.
func (s *stack) check(but ...string) string {
	cmd := s.command("smoke", "--json")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	var report smoke.Report
	if bad := json.Unmarshal(out, &report); bad != nil {
		return fmt.Sprint(err, "\n", log.String(), string(out))
	}
	for _, r := range report.Rows {
		if r.Status == smoke.Failed && !slices.Contains(but, r.ID) {
			return fmt.Sprintf("%s: %s", r.Title, r.Fault)
		}
	}
	return ""
}

// TestGcloud has Google's own command line list what apply made.
func TestGcloud(t *testing.T) {
	gcloud, err := exec.LookPath("gcloud")
	if err != nil {
		need.Excepted(t, need.Gcloud, "gcloud is not installed")
	}
	s := newStack(t)
	s.run("apply", "--yes")
	i := s.info()
	// It asks the metadata server who it is; the one it finds here knows nothing.
	metadata := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(metadata.Close)
	env := append(os.Environ(), "CLOUDSDK_CONFIG="+t.TempDir(), "GCE_METADATA_ROOT="+metadata.Listener.Addr().String(),
		"CLOUDSDK_CORE_DISABLE_PROMPTS=1", "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=1", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=1")
	for _, v := range i.Env("demo-project") {
		env = append(env, v.Name+"="+v.Value)
	}
	large := filepath.Join(t.TempDir(), "large") // so large that it goes piece by piece
	if err := os.WriteFile(large, bytes.Repeat([]byte("0123456789abcdef"), 9<<20/16), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"storage cp " + large + " gs://demo-project-demo-files/large", nil},
		{"storage ls --long gs://demo-project-demo-files/", []string{"9437184", "gs://demo-project-demo-files/large"}},
		{"storage ls --all-versions gs://demo-project-demo-files/large", []string{"gs://demo-project-demo-files/large#"}},
		{"compute networks list --format=value(name)", []string{"demo-net"}},
		{"compute instances list --format=value(name,status)", []string{"demo-vm-", "RUNNING"}},
		{"sql instances list --format=value(name,state)", []string{"demo-main\tRUNNABLE", "demo-vector\tRUNNABLE"}},
		{"redis instances list --region=asia-northeast1 --format=value(name,state)", []string{"demo-redis\tREADY"}},
		{"storage buckets list --format=value(name)", []string{"demo-project-demo-agent", "demo-project-demo-files"}},
		{"secrets list --format=value(name)", []string{"demo-db-password", "demo-redis-auth", "demo-secret-key"}},
		{"compute instance-groups managed list --format=value(name,targetSize)", []string{"demo-group\t2"}},
		{"compute forwarding-rules list --format=value(name)", []string{"demo-http", "demo-https"}},
		{"dns record-sets list --zone=demo-internal --format=value(name,type)", []string{"db.demo.internal.\tA", "edge.demo.internal.\tA"}},
		{"sql databases list --instance=demo-main --format=value(name)", []string{"dify_plugin"}},
		{"iam service-accounts list --format=value(email)", []string{"demo-vm@demo-project.iam.gserviceaccount.com"}},
	} {
		t.Run(strings.ReplaceAll(strings.SplitN(tc.args, " --", 2)[0], " ", "_"), func(t *testing.T) {
			cmd := exec.Command(gcloud, strings.Fields(tc.args)...)
			cmd.Env = env
			var out, log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &log
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
			for _, want := range tc.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got\n%s\nwithout %q\n%s", out.String(), want, log.String())
				}
			}
		})
	}
}
