package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMisspeltRegions swaps, drops, doubles and replaces every letter of every region: none passes, and nearly each is
// recognised.
func TestMisspeltRegions(t *testing.T) {
	total, recognised := 0, 0
	for name := range regions() {
		words := strings.TrimRight(name, "0123456789")
		for i := range words {
			variants := []string{name[:i] + name[i+1:], name[:i] + name[i:i+1] + name[i:], name[:i] + "q" + name[i+1:]}
			if i+1 < len(words) {
				variants = append(variants, name[:i]+name[i+1:i+2]+name[i:i+1]+name[i+2:])
			}
			for _, v := range variants {
				if v == name || regions()[v] != "" || !shapes()["region"].Fits(v) {
					continue
				}
				total++
				if plausible(v) {
					continent, bearing, _ := strings.Cut(strings.TrimRight(v, "0123456789"), "-")
					t.Errorf("%s for %s passes as %s and %s", v, name, continent, bearing)
				}
				if nearestRegion(v) == name {
					recognised++
				}
			}
		}
	}
	if total < 1000 || recognised*100 < total*80 {
		t.Errorf("%d of %d are recognised", recognised, total)
	}
}

func TestPlausibleRegions(t *testing.T) {
	type answer struct {
		Plausible bool
		Near      string
	}
	for name, want := range map[string]answer{
		"asia-nothreast1":   {false, "asia-northeast1"},
		"asia-northaest1":   {false, "asia-northeast1"},
		"aisa-nothreast1":   {false, "asia-northeast1"},
		"us-esat1":          {false, "us-east1"},
		"us-centrla1":       {false, "us-central1"},
		"eurpoe-wset4":      {false, "europe-west4"},
		"southamercia-est1": {false, "southamerica-east1"},
		// Names that Google may give one day.
		"asia-southeast3":    {true, "asia-southeast1"},
		"europe-northwest1":  {true, "europe-southwest1"},
		"us-west9":           {true, "us-west1"},
		"antarctica-south1":  {true, ""},
		"moon-tranquillity1": {true, ""},
	} {
		if d := cmp.Diff(want, answer{plausible(name), nearestRegion(name)}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestUnlisted(t *testing.T) {
	for text, want := range map[string][]Place{
		"region: asia-northeast1\n":                                                  nil,
		"region: us-central1\ncompute: {zones: [us-central1-f]}\n":                   nil,
		"region: us-east1\ncompute: {zones: [us-east1-a, us-east1-b]}\n":             {{"compute.zones[0]", "us-east1-a", true}},
		"region: asia-southeast9\n":                                                  {{"region", "asia-southeast9", false}, {"region", "asia-southeast9-a", true}, {"region", "asia-southeast9-b", true}, {"region", "asia-southeast9-c", true}},
		"region: asia-southeast9\ncompute: {zones: [asia-southeast9-d]}\n":           {{"region", "asia-southeast9", false}, {"compute.zones[0]", "asia-southeast9-d", true}},
		"region: europe-west1\ncompute: {zones: [europe-west1-a, europe-west1-b]}\n": {{"compute.zones[0]", "europe-west1-a", true}},
	} {
		s, err := Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\n"+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, s.Unlisted()); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}
