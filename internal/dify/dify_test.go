package dify_test

import (
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/dify"
)

func TestLookup(t *testing.T) {
	r, err := dify.Lookup("1.16.1")
	if err != nil || r.PluginDaemon != "0.6.8" {
		t.Errorf("1.16.1: %v, %v", r, err)
	}
	if _, err := dify.Lookup(dify.Default); err != nil {
		t.Errorf("the default release is unknown: %v", err)
	}
	for version, want := range map[string]string{"1.9.0": "service account's key", "2.0.0": "does not know", "latest": "does not know"} {
		if _, err := dify.Lookup(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

func TestConnections(t *testing.T) {
	// Four instances, three and one more while rolling: 4 × (20 × 3 + 2 + 15) + 12.
	main, vector := dify.Connections(4)
	if main != 320 || vector != 50 {
		t.Errorf("got %d and %d, want 320 and 50", main, vector)
	}
}
