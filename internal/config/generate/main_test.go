package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
)

func TestGeneratedFilesAreFresh(t *testing.T) {
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	files, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		have, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(f.path)))
		if err != nil {
			t.Error(err)
			continue
		}
		if d := cmp.Diff(string(f.data), string(have)); d != "" {
			t.Errorf("%s does not fit internal/config/spec.go (-want +have):\n%s\nTo refresh it: go run ./internal/config/generate", f.path, d)
		}
	}
}

// What the documentation shows as a file must be one.
func TestShownFilesLoad(t *testing.T) {
	said, err := comments()
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(said.markdown()), -1)
	loaded := 0
	for _, b := range blocks {
		if !strings.Contains(b[1], "stack: ") {
			continue
		}
		if _, err := config.Parse("docs/config.md", []byte(b[1])); err != nil {
			t.Errorf("%s\n%v", b[1], err)
		}
		loaded++
	}
	if loaded != 2 {
		t.Errorf("%d files are shown, want the smallest and the full one", loaded)
	}
}

// Every path of the schema must be an option, and closed to others.
func TestSchemaIsClosed(t *testing.T) {
	said, err := comments()
	if err != nil {
		t.Fatal(err)
	}
	data, err := said.schema()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	objects := 0
	var walk func(path string, node any)
	walk = func(path string, node any) {
		m, ok := node.(map[string]any)
		if !ok {
			return
		}
		if p, ok := m["properties"].(map[string]any); ok {
			objects++
			if m["additionalProperties"] != false {
				t.Errorf("%s is open", path)
			}
			for key, sub := range p {
				if d, ok := sub.(map[string]any); ok && d["description"] == nil {
					t.Errorf("%s/%s has no description", path, key)
				}
				walk(path+"/"+key, sub)
			}
		}
		walk(path+"/items", m["items"])
	}
	walk("", root)
	if objects < 12 {
		t.Errorf("the schema has %d objects only", objects)
	}
}
