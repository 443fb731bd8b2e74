package wire_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

func TestKeys(t *testing.T) {
	link := "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/instances/vm-1"
	got := []string{wire.Key(link), wire.Name(link), wire.Kind(wire.Key(link)), wire.Part(link, "zones"), wire.Part(link, "regions"), wire.Link(wire.Key(link))}
	want := []string{"projects/p/zones/us-central1-a/instances/vm-1", "vm-1", "instances", "us-central1-a", "", link}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("parts (-want +got):\n%s", d)
	}
}

func TestVCPUs(t *testing.T) {
	for name, want := range map[string]int{
		"e2-standard-4": 4, "n1-highmem-16": 16, "custom-6-1024": 6, "e2-custom-8-8192": 8, "e2-medium": 2, "f1-micro": 1,
		"https://www.googleapis.com/compute/v1/projects/p/zones/z/machineTypes/n2-standard-32": 32,
	} {
		if got := wire.VCPUs(name); got != want {
			t.Errorf("VCPUs(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestScaled(t *testing.T) {
	for _, tc := range []struct {
		d     time.Duration
		scale float64
		want  time.Duration
	}{
		{5 * time.Second, 0, 50 * time.Millisecond},
		{5 * time.Second, 0.02, 100 * time.Millisecond},
		{5 * time.Second, 1, 5 * time.Second},
		{time.Millisecond, 0, time.Millisecond},
		{0, 0, 0},
	} {
		if got := wire.Scaled(tc.d, tc.scale, 50*time.Millisecond); got != tc.want {
			t.Errorf("Scaled(%v, %v) = %v, want %v", tc.d, tc.scale, got, tc.want)
		}
	}
}

func TestFixedOrPercent(t *testing.T) {
	three, half := 3, 50
	var none *wire.FixedOrPercent
	got := []int{none.Of(4, 7), (&wire.FixedOrPercent{Fixed: &three}).Of(4, 7), (&wire.FixedOrPercent{Percent: &half}).Of(5, 7)}
	if d := cmp.Diff([]int{7, 3, 3}, got); d != "" {
		t.Errorf("numbers (-want +got):\n%s", d)
	}
}
