//go:build linux

package lifecycle

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/test/cloud"
)

// TestLogs reads the logs of instances that are gone: of one whose agent was killed while Cloud Logging refused, whose lines come when
// it takes them again, each once; and of those that were replaced, to the last line before their end.
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
	got := until(victim, serving(2))
	seen := map[string]int{}
	for _, l := range got {
		seen[l.At.String()+l.Container+l.Text]++
	}
	for text, n := range seen {
		if n > 1 {
			t.Errorf("%d times: %s", n, text)
		}
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
