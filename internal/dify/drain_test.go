package dify_test

import (
	"slices"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/dify"
)

// TestEnding checks that an instance's end fits into the time that it is given, and that nothing ends before what needs it.
func TestEnding(t *testing.T) {
	s, secrets := settings()
	services := project(t, dify.Default, s, secrets)
	began, by := time.Duration(0), map[dify.Name]time.Duration{}
	for i, step := range dify.Ending() {
		if step.By <= began {
			t.Errorf("step %d is over after %s, and begins after %s", i, step.By, began)
		}
		for _, s := range services {
			if !slices.Contains(step.Services, s.Name) {
				continue
			}
			by[s.Name] = step.By
			if began+s.Grace > step.By {
				t.Errorf("%s has %s, and its step has %s", s.Name, s.Grace, step.By-began)
			}
		}
		began = step.By
	}
	for _, s := range services {
		if by[s.Name] == 0 {
			t.Errorf("%s ends in no step", s.Name)
		}
		for _, n := range s.Needs {
			if by[n] <= by[s.Name] {
				t.Errorf("%s ends by %s, and %s, which needs it, by %s", n, by[n], s.Name, by[s.Name])
			}
		}
	}
	for _, tc := range []struct {
		what        string
		less, limit time.Duration
	}{
		{"the balancer's notice, within the drain", 2 * dify.NoticeTime, dify.DrainTime},
		{"the last step, within the agent's end", began, dify.EndTime},
		{"the agent's end, within systemd's time, with 5 s to kill", dify.EndTime + 5*time.Second, dify.StopTime},
		{"systemd's time, within Google's, with 10 s for the system", dify.StopTime + 10*time.Second, dify.ShutdownTime},
	} {
		if tc.less > tc.limit {
			t.Errorf("%s: %s, and there are %s", tc.what, tc.less, tc.limit)
		}
	}
}
