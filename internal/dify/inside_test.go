package dify

import "testing"

// Each row says where it is read, and no service gets a name twice.
func TestVariables(t *testing.T) {
	for _, r := range Releases() {
		seen := map[Name]map[string]bool{}
		for _, v := range variables(r, Settings{Domain: "x", PipMirror: "x"}, nil, Budget{}) {
			if v.read == "" || len(v.of) == 0 {
				t.Errorf("%s: %s is nobody's, or read nowhere", r.Version, v.name)
			}
			for _, n := range v.of {
				if seen[n] == nil {
					seen[n] = map[string]bool{}
				}
				if seen[n][v.name] {
					t.Errorf("%s: %s gets %s twice", r.Version, n, v.name)
				}
				seen[n][v.name] = true
			}
		}
	}
}
