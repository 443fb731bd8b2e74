package cli

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/smoke"
)

// TestDeviceOfCertificates checks that a device with certificates, which may have no end, is not read.
func TestDeviceOfCertificates(t *testing.T) {
	for _, path := range []string{"/dev/null", "/dev/zero"} {
		var f *fault.Fault
		err := (&smokeOptions{ca: path}).trust(t.Context(), &smoke.Options{})
		if !errors.As(err, &f) || f.Summary != "No certificates in the file" || f.Cause == nil || f.Cause.Error() != "it is a device or a socket" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

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
