package spelling

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"machine_type", "disk_gb", "disk_type", "zones", "min", "max", "cpu_target"}
	for word, want := range map[string]string{
		"machne_type": "machine_type", "machinetype": "machine_type", "dsik_gb": "disk_gb", "zone": "zones", "mni": "min",
		"cpu": "", "wibble": "", "": "", "x": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "bc", 1}, {"größe", "grösse", 2}} {
		if got := Edits(tc.a, tc.b); got != tc.want {
			t.Errorf("%s, %s: got %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
