package view

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/ops"
)

// TestStatusNamesFailedStores checks that a stack whose database failed is not called serving, whatever its instances answer.
func TestStatusNamesFailedStores(t *testing.T) {
	s := &ops.Status{
		Stack: "demo", Project: "demo-project", Healthy: 1, Target: 1, Stable: true, Certificate: "SELF_MANAGED",
		Stores:    []ops.Store{{Name: "demo-main", What: "PostgreSQL 16", State: "FAILED", Address: "10.0.0.1"}, {Name: "demo-redis", What: "Redis 7.2", State: "READY"}},
		Instances: []ops.Instance{{Name: "demo-x", Zone: "z", Status: "RUNNING", Action: "NONE", Health: "HEALTHY"}},
	}
	var out bytes.Buffer
	Status(&out, Palette{}, "local cloud", "https://127.0.0.1", s)
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
