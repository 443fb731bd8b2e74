//go:build linux

package lifecycle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
)

// TestCloudKilled kills the local cloud itself. All it started ends with it, and the next apply begins anew.
func TestCloudKilled(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	before := s.info()
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var left []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		var err error
		if left, err = commandLines(s.dir); err != nil || len(left) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(left) > 0 {
		t.Errorf("these outlive their cloud:\n%s", strings.Join(left, "\n"))
	}
	if _, err := localcloud.Find(t.Context(), s.dir); err == nil {
		t.Error("a killed cloud is said to run")
	}
	if out := s.run("plan"); !strings.Contains(out, "60 to create") {
		t.Errorf("the plan without a cloud is\n%s", out)
	}
	s.run("apply", "--yes")
	if said := s.check(); said != "" {
		t.Errorf("smoke says:\n%s", said)
	}
	s.run("destroy", "--yes")
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

// TestInterrupted stops destroy while Google is deleting, and applies at once: what is still being deleted is not taken
// for being there.
func TestInterrupted(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	want := s.resources()
	s.run("destroy", "--yes")

	s.run("local", "up", "--fresh", "--time-scale", "0.02") // deleting takes more than a second
	s.run("apply", "--yes")
	destroy := s.command("destroy", "--yes")
	if err := destroy.Start(); err != nil {
		t.Fatal(err)
	}
	deleting := func(s localcloud.Server) bool { return s.State == "DELETING" || s.State == "PENDING_DELETE" }
	for end := time.Now().Add(2 * time.Minute); !slices.ContainsFunc(s.info().Servers, deleting); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing is being deleted: %+v", s.info())
		}
	}
	if err := destroy.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := destroy.Wait(); err == nil {
		t.Error("destroy was interrupted and says that it succeeded")
	}
	s.complete(want)
}

// commandLines gives the running processes that have a directory in their command line or as their own.
func commandLines(dir string) ([]string, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range all {
		raw, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || len(raw) == 0 { // gone, or a zombie
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd")) // of another user's process it cannot be read
		if strings.Contains(string(raw), dir) || strings.HasPrefix(cwd, dir) {
			out = append(out, strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	return out, nil
}
