package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/difyup/difyup/internal/config"
)

// TestIdentify reads what names a stack from files that are wrong otherwise, and from none that leave it open.
func TestIdentify(t *testing.T) {
	whole := config.Identity{Stack: "demo", Project: "demo-project", Region: "asia-northeast1"}
	none := config.Identity{}
	const head = "stack: demo\nproject: demo-project\nregion: asia-northeast1\n"
	for _, tc := range []struct {
		name, file string
		want       config.Identity
	}{
		{"a good one", head, whole},
		{"an unknown option", head + "compute: {machine_tipe: x}\n", whole},
		{"wrong values", head + "compute: {min: 9, max: 2}\nnetwork: 7\n", whole},
		{"not YAML further down", head + "compute: [\n  min: {{\n", whole},
		{"not YAML, with quotes and comments", "compute: [\nstack: 'demo' # ours\nproject: \"demo-project\"\nregion: asia-northeast1\n", whole},
		{"no region", "stack: demo\nproject: demo-project\nx: 1\n", config.Identity{Stack: "demo", Project: "demo-project"}},
		{"a malformed region", "stack: demo\nproject: demo-project\nregion: Tokyo\n", config.Identity{Stack: "demo", Project: "demo-project"}},
		{"no stack", "project: demo-project\nregion: asia-northeast1\n", none},
		{"a malformed stack", "stack: De mo\nproject: demo-project\n", none},
		{"two stacks", head + "stack: prod\n", none},
		{"two stacks, in one line", "{stack: demo, stack: prod, project: demo-project}\n", none},
		{"two documents", head + "---\nstack: prod\nproject: demo-project\n", none},
		{"two stacks, not YAML", head + "stack: prod\n[\n", none},
		{"a stack below something else, not YAML", "x: [\n  stack: demo\nproject: demo-project\n", none},
		{"an alias", "x: &a demo\nstack: *a\nproject: demo-project\n", none},
		{"nothing", "", none},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "difyup.yaml")
			if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			id, ok := config.Identify(t.Context(), path)
			if ok != (tc.want != none) || ok && id != tc.want {
				t.Errorf("got %+v, %v, want %+v", id, ok, tc.want)
			}
		})
	}
	if _, ok := config.Identify(t.Context(), "absent.yaml"); ok {
		t.Error("a file that is not there names a stack")
	}
}
