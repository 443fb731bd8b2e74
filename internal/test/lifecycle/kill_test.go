//go:build linux

package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
)

// stack runs the programs on a stack and a local cloud of the test's own.
type stack struct {
	t    testing.TB
	dir  string // of the local cloud
	file string
}

func newStack(t testing.TB) *stack {
	t.Helper()
	s := &stack{t: t, dir: cloud.Dir(t), file: filepath.Join(t.TempDir(), "difyup.yaml")}
	example, err := os.ReadFile(filepath.Join(root(t), "examples", "difyup.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file, example, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := localcloud.Down(context.Background(), s.dir, nil); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *stack) command(args ...string) *exec.Cmd {
	if args[0] != "local" {
		args = append(args, "--local", "-f", s.file)
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

// kill runs difyup and kills it when it has finished so many steps, -1 for at once. It says whether it was killed.
func (s *stack) kill(steps int, args ...string) bool {
	s.t.Helper()
	cmd := s.command(args...)
	log, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	killed := false
	if steps >= 0 {
		lines := bufio.NewScanner(log)
		for n := 0; n < steps && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "✓") {
				n++
			}
		}
	}
	killed = cmd.Process.Kill() == nil // SIGKILL
	err = cmd.Wait()
	return killed && err != nil && strings.Contains(err.Error(), "killed")
}

func (s *stack) info() *localcloud.Info {
	s.t.Helper()
	i, err := localcloud.Find(s.t.Context(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// slow has every request take so long, so that there are moments between them.
func (s *stack) slow(d time.Duration) {
	s.t.Helper()
	if err := s.info().SetDelay(s.t.Context(), d); err != nil {
		s.t.Fatal(err)
	}
}

// resources gives what is in the cloud, as numbers by collection.
func (s *stack) resources() map[string]int {
	m := s.info().Resources
	delete(m, "dns.changes")
	return m
}

// TestKilled kills apply at many moments, and destroy too. Whatever was half done, the next apply goes on: the stack is
// complete and nothing exists twice.
func TestKilled(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	want := s.resources()
	s.run("destroy", "--yes")
	if _, err := localcloud.Find(t.Context(), s.dir); err == nil {
		t.Fatal("the local cloud outlived its last stack")
	}

	s.run("local", "up", "--fresh")
	s.slow(25 * time.Millisecond)
	killed := 0
	for _, steps := range []int{-1, 0, 1, 2, 3, 5, 8, 8, 8, 6, 4, 2, 1} {
		if s.kill(steps, "apply", "--yes") {
			killed++
		}
	}
	if killed < 8 {
		t.Errorf("apply was killed %d times only: the test does not test much", killed)
	}
	s.slow(0)
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
	s.slow(25 * time.Millisecond)
	for _, steps := range []int{0, 1, 1} {
		s.kill(steps, "apply", "--yes")
	}
	s.slow(0)
	s.complete(want)

	// A destruction that was killed can be turned back, and ends well when it is not.
	s.slow(25 * time.Millisecond)
	s.kill(12, "destroy", "--yes")
	s.slow(0)
	s.complete(want)
	s.slow(25 * time.Millisecond)
	for _, steps := range []int{0, 3, 12} {
		s.kill(steps, "destroy", "--yes")
	}
	s.run("destroy", "--yes")
	if i := s.info(); !i.Empty() {
		t.Errorf("left after destroy: %v", i.Resources)
	}
}

// complete applies once more, and checks that everything is there once and works.
func (s *stack) complete(want map[string]int) {
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
		if said = s.check(); said == "" {
			return
		}
	}
	s.t.Errorf("/standin/check says:\n%s", said)
}

// check asks /standin/check several times, to meet both instances, and gives an answer that is not well, or "".
func (s *stack) check() string {
	for range 6 {
		for _, l := range s.info().Listeners {
			if l.Scheme != "https" {
				continue
			}
			resp, err := web().Get(l.URL() + "/standin/check")
			if err != nil {
				return err.Error()
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 {
				return fmt.Sprint(resp.Status, err, string(body))
			}
		}
	}
	return ""
}

// TestGcloud has Google's own command line list what apply made.
func TestGcloud(t *testing.T) {
	gcloud, err := exec.LookPath("gcloud")
	if err != nil {
		t.Skip("gcloud is not installed")
	}
	s := newStack(t)
	s.run("apply", "--yes")
	i := s.info()
	env := append(os.Environ(), "CLOUDSDK_CONFIG="+t.TempDir(),
		"CLOUDSDK_CORE_DISABLE_PROMPTS=1", "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=1", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=1")
	for _, v := range i.Env("demo-project") {
		env = append(env, v.Name+"="+v.Value)
	}
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"compute networks list --format=value(name)", []string{"demo-net"}},
		{"compute instances list --format=value(name,status)", []string{"demo-vm-", "RUNNING"}},
		{"sql instances list --format=value(name,state)", []string{"demo-main\tRUNNABLE", "demo-vector\tRUNNABLE"}},
		{"redis instances list --region=asia-northeast1 --format=value(name,state)", []string{"demo-redis\tREADY"}},
		{"storage buckets list --format=value(name)", []string{"demo-project-demo-files"}},
		{"secrets list --format=value(name)", []string{"demo-db-password", "demo-redis-auth", "demo-secret-key"}},
		{"compute instance-groups managed list --format=value(name,targetSize)", []string{"demo-group\t2"}},
		{"compute forwarding-rules list --format=value(name)", []string{"demo-http", "demo-https"}},
		{"dns record-sets list --zone=demo-internal --format=value(name,type)", []string{"db.demo.internal.\tA"}},
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
