package ops

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/resource"
)

// TestReady has an autoscaler's minimum raised, which the group has not been told yet: it is stable, and all it wants is healthy, and still
// one is to come.
func TestReady(t *testing.T) {
	group := map[string]any{"targetSize": 2, "status": map[string]any{"isStable": true, "versionTarget": map[string]any{"isReached": true}}}
	scaler := func(mode string, least int) map[string]any {
		return map[string]any{"autoscalingPolicy": map[string]any{"mode": mode, "minNumReplicas": least}}
	}
	for _, tc := range []struct {
		name            string
		scaler          map[string]any
		healthy, target int
		ready           bool
	}{
		{"as before", scaler("ON", 2), 2, 2, true},
		{"scaled out", scaler("ON", 1), 2, 2, true},
		{"minimum raised", scaler("ON", 3), 2, 3, false},
		{"and reached", scaler("ON", 3), 3, 3, true},
		{"switched off", scaler("OFF", 3), 2, 2, true},
	} {
		kinds := []*resource.Resource{{Kind: kind.RegionInstanceGroupManagers.Kind}, {Kind: kind.RegionAutoscalers.Kind}}
		bodies := []map[string]any{group, tc.scaler}
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			s := &Status{Healthy: tc.healthy}
			for _, i := range order {
				s.describe(kinds[i], bodies[i])
			}
			if s.Target != tc.target || s.Ready() != tc.ready {
				t.Errorf("%s, read in the order %v: of %d wanted %d are healthy, ready is %t", tc.name, order, s.Target, s.Healthy, s.Ready())
			}
		}
	}
}

// TestWarnings gathers what instances warn of. What one said long ago is of no account.
func TestWarnings(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	says := func(name string, age time.Duration, warnings ...string) Instance {
		return Instance{Name: name, Report: &report.Document{At: now.Add(-age), Phase: report.Serves, Warnings: warnings}}
	}
	s := &Status{Instances: []Instance{says("vm-1", 0, "x", "y"), says("vm-2", time.Minute, "y", "x"), says("vm-3", time.Minute, "y")}}
	if d := cmp.Diff([]string{"x (vm-1, vm-2)", "y"}, s.warnings(now)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	s.Instances = []Instance{says("vm-1", time.Hour, "x"), {Name: "vm-2", Silent: "has not reported yet"}}
	if got := s.warnings(now); got != nil {
		t.Errorf("it warns of %q", got)
	}
}

// TestInstanceWell has an instance serve: containers that were ill before it did are none of its ills, and those since are.
func TestInstanceWell(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	i := Instance{Name: "demo-a", Status: "RUNNING", Health: "HEALTHY", Report: &report.Document{At: now, Phase: report.Serves, Since: now.Add(-time.Minute)}}
	for _, tc := range []struct {
		seen    time.Duration // before now
		well    bool
		command string
	}{
		{2 * time.Minute, true, ""},
		{30 * time.Second, false, "difyup logs demo-a -c worker"},
	} {
		i.Report.Containers = &report.Containers{At: now.Add(-tc.seen), All: []report.Container{{Name: "api", Well: true}, {Name: "worker"}}}
		if _, command := i.Remedy(now); i.Well(now) != tc.well || command != tc.command || (len(i.Ill()) == 0) != tc.well {
			t.Errorf("seen %s ago: well is %t, the ills are %q, and the remedy %q", tc.seen, i.Well(now), i.Ill(), command)
		}
	}
}
