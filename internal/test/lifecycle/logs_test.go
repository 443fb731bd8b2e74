//go:build linux

package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/test/cloud"
)

// TestLogs reads the logs of instances that are gone: of one whose agent was killed while Cloud Logging refused, whose lines come when
// it takes them again, each once; of one that was killed whole and lost its disk, whose last words are there; and of those that were
// replaced, to the last line before their end.
func TestLogs(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	lines := func(args ...string) (all []ops.LogLine) {
		t.Helper()
		out, err := s.command(append([]string{"logs", "--json", "--tail", "100000"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
			var l ops.LogLine
			if err := dec.Decode(&l); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		return all
	}
	says := func(l ops.LogLine, words string) bool { return strings.Contains(l.Text, words) }
	// until waits until lines of an instance are as they should be.
	until := func(name string, want func([]ops.LogLine) bool) []ops.LogLine {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
			got := lines(name)
			if want(got) {
				return got
			}
			if time.Now().After(end) {
				t.Fatalf("%s wrote:\n%v", name, got)
			}
		}
	}
	serving := func(n int) func([]ops.LogLine) bool {
		return func(got []ops.LogLine) bool {
			have := 0
			for _, l := range got {
				if says(l, "ready for traffic") {
					have++
				}
			}
			return have >= n
		}
	}
	before := s.info().Instances
	for _, i := range before {
		until(i.Name, serving(1))
	}

	// Killed, and refused from before until the next one serves.
	victim := before[0].Name
	s.run("local", "fault", "api", "--name", "refused", "--service", "logging", "--caller", "demo-vm@*", "--fault", "503")
	pid := agentOf(t, s.dir, victim)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	address := before[0].Address
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + address + ":1080/health")
		if err == nil {
			resp.Body.Close()
		}
		if now := agentOf(t, s.dir, victim); err == nil && resp.StatusCode == http.StatusOK && now != pid && now != 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not serve again: %v", victim, err)
		}
	}
	if got := lines(victim); serving(2)(got) {
		t.Error("lines came while they were refused")
	}
	s.run("local", "fault", "clear", "--name", "refused")
	once := func(got []ops.LogLine) {
		t.Helper()
		seen := map[string]int{}
		for _, l := range got {
			seen[l.At.String()+l.Container+l.Text]++
		}
		for text, n := range seen {
			if n > 1 {
				t.Errorf("%d times: %s", n, text)
			}
		}
	}
	once(until(victim, serving(2)))

	// Killed whole, and not started again: what has its disk never runs. An agent promises to have sent a line half a second after it was
	// written; ten times as long makes no difference to one that sends at its end, or when it begins again.
	dead := before[1]
	group := s.group(dead.Project)
	s.google(http.MethodPatch, group, map[string]any{"instanceLifecyclePolicy": map[string]any{"defaultActionOnFailure": "DO_NOTHING"}}, nil)
	var manager struct {
		InstanceLifecyclePolicy struct{ DefaultActionOnFailure string }
	}
	for end := time.Now().Add(time.Minute); manager.InstanceLifecyclePolicy.DefaultActionOnFailure != "DO_NOTHING"; time.Sleep(10 * time.Millisecond) {
		if s.google(http.MethodGet, group, nil, &manager); time.Now().After(end) {
			t.Fatalf("the group is %+v", manager)
		}
	}
	for _, n := range []dify.Name{dify.API, dify.Worker} {
		for i := range 100 {
			if err := tell(s.dir, dead.Name, n, fmt.Sprintf("last words, %d", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(5 * time.Second)
	if pid = agentOf(t, s.dir, dead.Name); pid == 0 { // which would be the test's own group
		t.Fatalf("on %s runs no agent", dead.Name)
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil { // the group, in which its services are
		t.Fatal(err)
	}
	status := func() string {
		all := s.info().Instances
		if i := slices.IndexFunc(all, func(i localcloud.Instance) bool { return i.Name == dead.Name }); i >= 0 {
			return all[i].Status
		}
		return ""
	}
	for end := time.Now().Add(time.Minute); status() != "TERMINATED"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is %s", dead.Name, status())
		}
	}
	said := func(got []ops.LogLine) bool {
		n := 0
		for _, l := range got {
			if says(l, "last words, ") {
				n++
			}
		}
		return n == 200
	}
	if left := visible(filepath.Join(s.dir, "instances", dead.Project, dead.Name) + "/"); len(left) > 0 {
		t.Fatalf("on %s still run %v", dead.Name, left)
	}
	if got := lines(dead.Name); !said(got) {
		t.Errorf("of %s, which was killed, there are\n%v", dead.Name, got)
	}
	s.recreate(dead) // without its disk
	got := until(dead.Name, serving(2))
	if once(got); !said(got) {
		t.Errorf("of %s, which was made anew, there are\n%v", dead.Name, got)
	}

	// What went wrong is told when all is well again, and when it was.
	errs := func() string {
		t.Helper()
		_, raw, err := cloud.Get(t.Context(), s.info(), "compute/v1/projects/demo-project/regions/asia-northeast1/instanceGroupManagers/demo-group/listErrors")
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	first := errs()
	if time.Sleep(20 * time.Millisecond); !strings.Contains(first, victim) || errs() != first {
		t.Errorf("the group's errors are %s, and then %s", first, errs())
	}

	// Replaced, and gone.
	edited, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	edited = bytes.Replace(edited, []byte("machine_type: "+was(edited)), []byte("machine_type: e2-standard-8"), 1)
	if err := os.WriteFile(s.file, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("apply", "--yes")
	for _, i := range before {
		got := until(i.Name, func(got []ops.LogLine) bool { return len(got) > 0 && says(got[len(got)-1], "everything has ended") })
		if slices.ContainsFunc(s.info().Instances, func(now localcloud.Instance) bool { return now.Name == i.Name }) {
			t.Errorf("%s is still there", i.Name)
		}
		for _, container := range []string{"api", "worker", "agent"} {
			if !slices.ContainsFunc(got, func(l ops.LogLine) bool { return l.Container == container }) {
				t.Errorf("of %s, which is gone, there are no lines of %s", i.Name, container)
			}
		}
	}
	if all := lines("-c", "api"); len(all) < 4 || slices.ContainsFunc(all, func(l ops.LogLine) bool { return l.Container != "api" }) {
		t.Errorf("the API's lines are %v", all)
	}
}

// tell has a service write a line into its log, on an instance or, without a name, on all of a local cloud's: to its standard output, as a
// command in a container does by /proc/1/fd/1. $NAME in it stands for what the service has in its environment.
func tell(dir, instance string, service dify.Name, text string) error {
	said := false
	for _, p := range visible(filepath.Join(dir, "instances")) {
		if len(p.words) < 3 || p.words[1] != "standin" || p.words[2] != string(service) || instance != "" && filepath.Base(filepath.Dir(p.words[0])) != instance {
			continue
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if err != nil {
			return err
		}
		out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", p.pid), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		missing := ""
		line := os.Expand(text, func(name string) string {
			for v := range strings.SplitSeq(string(environ), "\x00") {
				if value, ok := strings.CutPrefix(v, name+"="); ok && value != "" {
					return value
				}
			}
			missing = name
			return ""
		})
		if _, err = fmt.Fprintln(out, line); missing != "" {
			err = fmt.Errorf("%s has no %s", service, missing)
		}
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
		said = true
	}
	if !said {
		return fmt.Errorf("no %s runs on %q", service, instance)
	}
	return nil
}

// say has a service write a line into its log on every instance, with values of its environment: say SERVICE 'TEXT $NAME'.
func say(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: say SERVICE TEXT")
	}
	ts.Check(tell(ts.Getenv("DIFYUP_LOCAL_DIR"), "", dify.Name(args[0]), args[1]))
}
