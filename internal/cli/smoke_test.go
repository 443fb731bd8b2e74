package cli

import (
	"slices"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
)

// TestRequired checks which instances smoke wants an answer of, and which of them it does without.
func TestRequired(t *testing.T) {
	served := &report.Document{Phase: report.Starts, Served: time.Now()}
	all := []ops.Instance{
		{Name: "well", Status: "RUNNING", Action: "NONE", Health: "HEALTHY"},
		{Name: "fell-out", Status: "RUNNING", Action: "NONE", Health: "UNHEALTHY", Report: served},
		{Name: "is-healed", Status: "RUNNING", Action: "RECREATING", Health: "UNHEALTHY", Report: served},
		{Name: "boots", Status: "RUNNING", Action: "NONE", Health: "UNHEALTHY", Report: &report.Document{Phase: report.Stores}},
		{Name: "silent", Status: "RUNNING", Action: "VERIFYING"},
		{Name: "drains", Status: "STOPPING", Action: "DELETING", Health: "UNHEALTHY", Report: &report.Document{Phase: report.Drains, Served: time.Now()}},
	}
	if now := serving(append(all,
		ops.Instance{Name: "serves", Health: "HEALTHY", Report: &report.Document{Phase: report.Serves, At: time.Now()}},
		ops.Instance{Name: "met", Health: "HEALTHY", Report: &report.Document{Phase: report.Serves, At: time.Now()}},
		ops.Instance{Name: "stale", Health: "HEALTHY", Report: &report.Document{Phase: report.Serves, At: time.Now().Add(-time.Hour)}},
		ops.Instance{Name: "ill", Health: "UNHEALTHY", Report: &report.Document{Phase: report.Serves, At: time.Now()}},
		ops.Instance{Name: "unasked", Report: &report.Document{Phase: report.Serves, At: time.Now()}},
	), []string{"well", "fell-out", "serves", "stale", "ill", "unasked", "gone"}, time.Now()); !slices.Equal(now, []string{"serves"}) {
		t.Errorf("known to serve: %v", now)
	}
	must, boot := required(all)
	if !slices.Equal(must, []string{"well", "fell-out"}) || !slices.Equal(boot, []string{"is-healed", "boots", "silent"}) {
		t.Errorf("must answer %v, boot %v", must, boot)
	}
}
