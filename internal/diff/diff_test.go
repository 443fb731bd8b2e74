package diff_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/resource"
)

var kind = &resource.Kind{
	Update:    resource.Patch,
	Immutable: []resource.Path{"name", "net"},
	Sets:      []resource.Path{"rules", "rules[].ports", "ranges"},
	Ignored:   []resource.Path{"size"},
	Secret:    []resource.Path{"password"},
}

func object(t testing.TB, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFields(t *testing.T) {
	for _, tc := range []struct{ name, live, want, diff string }{
		{"server defaults are noise", `{"a":1,"filled":"in","o":{"x":1,"y":2}}`, `{"a":1,"o":{"x":1}}`, `[]`},
		{"wanted zero equals absent", `{}`, `{"a":0,"b":"","c":false,"d":[],"e":{},"f":{"g":0}}`, `[]`},
		{"wanted zero clears", `{"a":5,"d":["x"]}`, `{"a":0,"d":[]}`, `[{"path":"a","old":5,"new":0},{"path":"d","old":["x"],"new":[]}]`},
		{"64-bit integers are strings", `{"size_gb":"10"}`, `{"size_gb":10}`, `[]`},
		{"large numbers", `{"n":"604800"}`, `{"n":604800}`, `[]`},
		{"links by what they point to", `{"net":"https://www.googleapis.com/compute/v1/projects/p/global/networks/n"}`, `{"net":"projects/p/global/networks/n"}`, `[]`},
		{"order in a set", `{"ranges":["b","a"],"rules":[{"p":"udp","k":1},{"p":"tcp","ports":["80","22"]}]}`, `{"ranges":["a","b"],"rules":[{"p":"tcp","ports":["22","80"]},{"p":"udp"}]}`, `[]`},
		{"a set that differs is one change", `{"ranges":["a"]}`, `{"ranges":["a","c"]}`, `[{"path":"ranges","old":["a"],"new":["a","c"]}]`},
		{"same length, other member", `{"ranges":["a","a"]}`, `{"ranges":["a","b"]}`, `[{"path":"ranges","old":["a","a"],"new":["a","b"]}]`},
		{"order in a list", `{"l":[1,2]}`, `{"l":[2,1]}`, `[{"path":"l[0]","old":1,"new":2},{"path":"l[1]","old":2,"new":1}]`},
		{"inside a list", `{"l":[{"a":1,"b":2}]}`, `{"l":[{"a":3}]}`, `[{"path":"l[0].a","old":1,"new":3}]`},
		{"secret and ignored", `{"size":3}`, `{"size":2,"password":"x"}`, `[]`},
		{"a label too many goes", `{"labels":{"a":"1","b":"2","goog-x":"y"}}`, `{"labels":{"a":"1"}}`, `[{"path":"labels.b","old":"2","new":null}]`},
		{"a condition too many goes", `{"l":[{"condition":{"a":1,"b":["x"],"filled":false}}]}`, `{"l":[{"condition":{"a":1}}]}`, `[{"path":"l[0].condition.b","old":["x"],"new":null}]`},
		{"a user's ${ is text", `{"ip":"1.2.3.4"}`, `{"ip":"${k/n:ip}"}`, `[{"path":"ip","old":"1.2.3.4","new":"${k/n:ip}"}]`},
		{"missing object", `{}`, `{"o":{"a":1}}`, `[{"path":"o","old":null,"new":{"a":1}}]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := json.Marshal(diff.Fields(kind, object(t, tc.live), object(t, tc.want)))
			if err != nil {
				t.Fatal(err)
			}
			got := string(raw)
			if got == "null" {
				got = "[]"
			}
			if d := cmp.Diff(tc.diff, got); d != "" {
				t.Errorf("fields (-want +got):\n%s", d)
			}
		})
	}
}

// TestUnknown checks that what is not known yet is a difference, wherever it stands and whatever is live.
func TestUnknown(t *testing.T) {
	for _, live := range []any{nil, "1.2.3.4", "(known after apply)"} {
		got := diff.Fields(kind, map[string]any{"ip": live, "l": []any{live}}, map[string]any{"ip": resource.Unknown{}, "l": []any{resource.Unknown{}}})
		want := []diff.Field{{Path: "ip", Old: live, New: "(known after apply)"}, {Path: "l[0]", Old: live, New: "(known after apply)"}}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("with %v live (-want +got):\n%s", live, d)
		}
	}
	raw, err := json.Marshal(diff.Fields(kind, nil, map[string]any{"l": []any{resource.Unknown{}}}))
	if want := `[{"path":"l","old":null,"new":["(known after apply)"]}]`; err != nil || string(raw) != want {
		t.Errorf("as JSON %s, %v, want %s", raw, err, want)
	}
}

func TestImmutable(t *testing.T) {
	fields := []diff.Field{{Path: "name"}, {Path: "net.x"}, {Path: "network"}, {Path: "a.name"}}
	if got := diff.Immutable(kind, fields); len(got) != 2 {
		t.Errorf("immutable: %v", got)
	}
	if got := diff.Immutable(&resource.Kind{}, fields); len(got) != 4 {
		t.Errorf("a kind without an update: %v", got)
	}
}

// What was applied shows no difference: the first of the two laws of a diff.
func FuzzSameIsEmpty(f *testing.F) {
	f.Add(`{"a":[1,{"b":"x"}],"labels":{"x":"y"},"ranges":["b","a"],"n":null}`)
	f.Fuzz(func(t *testing.T, s string) {
		var m map[string]any
		if json.Unmarshal([]byte(s), &m) != nil {
			return
		}
		if got := diff.Fields(&resource.Kind{Sets: kind.Sets}, m, m); len(got) != 0 {
			t.Fatalf("%s differs from itself: %v", s, got)
		}
	})
}
