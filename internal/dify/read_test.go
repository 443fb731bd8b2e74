package dify_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/dify"
)

// TestRead holds what the services of every release are given against the table of where the newest trees read it: each
// variable of each service has one row, and each row is used.
func TestRead(t *testing.T) {
	raw, err := os.ReadFile("testdata/read.txt")
	if err != nil {
		t.Fatal(err)
	}
	type cell struct {
		name string
		of   dify.Name
	}
	var (
		used = map[cell]bool{} // whether a release sets it
		not  []string          // variables that no release sets
		form = regexp.MustCompile(`^([A-Z0-9_]+) +([a-z_,]+) +(-|(?:dify|daemon|sandbox):[\w./]+) +\S.*$`)
		left = regexp.MustCompile(`^([A-Z0-9_]+) +not set +\S.*$`)
	)
	for n, line := range strings.Split(string(raw), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := left.FindStringSubmatch(line); m != nil {
			not = append(not, m[1])
			continue
		}
		m := form.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d is no row: %s", n+1, line)
		}
		for of := range strings.SplitSeq(m[2], ",") {
			c := cell{m[1], dify.Name(of)}
			if _, twice := used[c]; twice || !slices.Contains(dify.Names(), c.of) {
				t.Errorf("line %d: a second row for %s of %s, or no such service", n+1, c.name, of)
			}
			used[c] = false
		}
	}
	for _, r := range dify.Releases() {
		s, secrets := settings()
		s.PipMirror = "https://pypi.example.com/simple"
		for of, service := range project(t, r.Version, s, secrets) {
			for name := range service.Environment {
				c := cell{name, of}
				if _, there := used[c]; !there {
					t.Errorf("%s: nothing says where %s of %s is read", r.Version, name, of)
				}
				used[c] = true
				if slices.Contains(not, name) {
					t.Errorf("%s: %s of %s is set; the table says it is not", r.Version, name, of)
				}
			}
		}
	}
	for c, set := range used {
		if !set {
			t.Errorf("the table has %s of %s, which no release sets", c.name, c.of)
		}
	}
	if len(not) == 0 {
		t.Error("the table names no variable that is not set")
	}
}
