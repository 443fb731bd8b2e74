package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMachineNamed(t *testing.T) {
	for _, name := range []string{"e2-standard-4", "e2-medium", "n2-highmem-8", "c3-standard-8-lssd", "custom-4-16384", "n1-custom-2-8192", "n2-custom-4-65536-ext", "t2d-standard-4"} {
		if m, problem, _ := machineNamed(name); problem != "" || m.cpus < 2 {
			t.Errorf("%s: %+v %s", name, m, problem)
		}
	}
	type answer struct{ Instead string }
	for name, want := range map[string]string{
		"e2-standard-5": "e2-standard-8", "e2-standrad-4": "e2-standard-4", "c4a-standard-4": "c4-standard-4", "e2-custom-3-8192": "e2-custom-4-8192",
		"e2-custom-4-1000": "e2-custom-4-2048", "n2-custom-2-99999": "n2-custom-2-16384", "e2-custom-99999999999999999999-1": "",
	} {
		_, problem, instead := machineNamed(name)
		if problem == "" {
			t.Errorf("%s: found", name)
		}
		if d := cmp.Diff(answer{want}, answer{instead}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// Every default, derived ones included, must be allowed itself, and every example must have its shape.
func TestShapes(t *testing.T) {
	for name, s := range shapes() {
		if !s.Fits(s.Example) {
			t.Errorf("%s: its example %q does not fit", name, s.Example)
		}
		if got := s.repair(s.Example); got != "" {
			t.Errorf("%s: its example is changed to %q", name, got)
		}
		for _, odd := range []string{"", " ", "://", "a://", "::", "é", "-", "24:00"} {
			if got := s.repair(odd); got != "" && !s.Fits(got) {
				t.Errorf("%s: %q is changed to %q, which does not fit", name, odd, got)
			}
		}
	}
}
