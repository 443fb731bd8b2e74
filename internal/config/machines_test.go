package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
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

// Whatever machine type there is, it is either refused, or its defaults fit into the memory and into the databases' defaults.
func TestEveryMachine(t *testing.T) {
	taken := 0
	for name := range machines() {
		spec, err := Parse("difyup.yaml", fmt.Appendf(nil, "stack: demo\nproject: demo-project\nregion: asia-northeast1\ncompute: {machine_type: %s, disk_type: %s}\n", name, diskOf(name)))
		if err != nil {
			if !strings.Contains(err.Error(), "too small") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		taken++
		if m := spec.Machine(); m.CPUs < 2 || spec.Dify.APIWorkers < 1 || m.MemoryMiB < dify.Smallest(spec.Dify.APIWorkers) {
			t.Errorf("%s: %+v with %+v", name, m, spec.Dify)
		}
	}
	if taken < 150 {
		t.Errorf("%d machine types are taken", taken)
	}
}

// diskOf gives a type of disk that a machine type takes.
func diskOf(name string) string {
	if machines()[name].family.persistent == "" {
		return "hyperdisk-balanced"
	}
	return "pd-balanced"
}
