package config

import (
	"fmt"
	"maps"
	"slices"
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
		"e2-custom-4-1000": "e2-custom-4-2048", "n2-custom-2-99999": "n2-custom-2-16384",
		// What the series has and others do not.
		"e2-highmem-32": "e2-highmem-16", "e2-highmem-20": "e2-highmem-16", "n2-highcpu-128": "n2-highcpu-96", "n2d-highmem-224": "n2d-highmem-96",
		"c3-highmem-8-lssd": "c3d-highmem-8-lssd", "e2-custom-4-65536-ext": "e2-custom-4-32768", "e2-custom-32-262144": "e2-custom-32-131072",
		"n2-custom-34-69632": "n2-custom-36-69632", "n2d-custom-6-24576": "n2d-custom-8-24576",
		"e2-custom-99999999999999999999-1": "",
	} {
		_, problem, instead := machineNamed(name)
		if problem == "" {
			t.Errorf("%s: found", name)
		}
		if d := cmp.Diff(answer{want}, answer{instead}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if _, problem, _ := machineNamed(instead); instead != "" && problem != "" {
			t.Errorf("%s: %s is suggested, and refused: %s", name, instead, problem)
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

// Whatever machine type there is, it is either refused where it stands, or its defaults fit into the databases' defaults, and each
// service, beat among them, has 1.3 times the most that it was seen to use, and the system 700 MiB.
func TestEveryMachine(t *testing.T) {
	peaks := map[dify.Name]int{dify.API: 575, dify.Worker: 490, dify.WorkerBeat: 408, dify.PluginDaemon: 245, dify.Web: 180, dify.Sandbox: 147, dify.SSRFProxy: 1}
	if len(peaks) != len(dify.Names()) {
		t.Fatalf("%d of the services %v were measured", len(peaks), dify.Names())
	}
	least := 700
	for _, p := range peaks {
		least += p * 13 / 10
	}
	names := slices.Sorted(maps.Keys(machines()))
	for _, f := range machineFamilies() {
		if f.custom { // the smallest that Dify fits into, and one that it does not fit into
			names = append(names, f.name+"-custom-2-4096")
			if f.low <= 1 {
				names = append(names, f.name+"-custom-2-2048")
			}
		}
	}
	taken := 0
	for _, name := range names {
		spec, err := Parse("difyup.yaml", fmt.Appendf(nil, "stack: demo\nproject: demo-project\nregion: asia-northeast1\ncompute:\n  machine_type: %s\n  disk_type: %s\n", name, diskOf(name)))
		m, problem, _ := machineNamed(name)
		if problem != "" {
			t.Errorf("%s: %s", name, problem)
			continue
		}
		if err != nil {
			// Where the type stands, and why: it is smaller than what all need, or has one vCPU.
			if said := err.Error(); !strings.HasPrefix(said, "difyup.yaml:5:17: Machine type is too small") || strings.Count(said, "too small") != 1 {
				t.Errorf("%s: %v", name, err)
			} else if m.cpus >= 2 && int(m.memory*1024) >= least+100 {
				t.Errorf("%s has %g GB, and is refused: %v", name, m.memory, err)
			}
			continue
		}
		taken++
		budget, err := dify.Divide(spec.Machine(), spec.Tuning())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sum := 0
		for service, peak := range peaks {
			share := budget.Shares[service]
			sum += share.MemoryMiB
			if share.MemoryMiB*10 < peak*13 || share.CPUs <= 0 || share.CPUs > float64(m.cpus) || share.Weight <= 0 {
				t.Errorf("%s: %s has %+v, and was seen to use %d MiB", name, service, share, peak)
			}
		}
		if room := int(m.memory*1024) - 700; sum > room {
			t.Errorf("%s: the services may use %d MiB of %d", name, sum, room)
		}
	}
	if taken < 150 {
		t.Errorf("%d machine types are taken", taken)
	}
}

// diskOf gives a type of disk that a machine type takes.
func diskOf(name string) string {
	if m, _, _ := machineNamed(name); m.family.persistent == "" {
		return "hyperdisk-balanced"
	}
	return "pd-balanced"
}
