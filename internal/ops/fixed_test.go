package ops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// TestFixed has a stack that was made by one description be applied by another.
func TestFixed(t *testing.T) {
	const head = "stack: demo\nproject: demo-project\nregion: asia-northeast1\n"
	load := func(more string) *config.Spec {
		t.Helper()
		file := filepath.Join(t.TempDir(), "difyup.yaml")
		if err := os.WriteFile(file, []byte(head+more), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := config.Load(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	build := func(s *config.Spec) *resource.Graph {
		t.Helper()
		g, err := topology.Build(s, topology.Agent{SHA256: strings.Repeat("0", 64), Runtime: "compose"}, topology.Given{})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	const sql = "database: {tls: allowed}\nvector: {tls: allowed}\n"
	earlier := dify.Settings{Stack: "demo"}
	now := dify.Settings{Stack: "demo", Stores: dify.Stores{Database: dify.Database{TLS: dify.Required}, Vector: dify.Database{TLS: dify.Required}}}
	auth, encryption := "AUTH of Redis cannot be changed while the stack runs", "The encryption of Redis is fixed when it is created"
	plain := "Instances that run do not encrypt their connections"
	newer := "The databases are of a newer PostgreSQL"
	for _, tc := range []struct {
		name, made, wanted string
		running            dify.Settings
		want               []string
	}{
		{"nothing changes", "", "", now, nil},
		{"AUTH off", "", "redis: {auth: false}\n", now, []string{"4: " + auth}},
		{"AUTH on", "redis: {auth: false}\n", "redis: {auth: true}\n", now, []string{"4: " + auth}},
		{"encryption on", "", "redis: {transit_encryption: true}\n", now, []string{"4: " + encryption}},
		{"encryption off", "redis: {transit_encryption: true}\n", "redis: {memory_gb: 1}\n", now, []string{"4: " + encryption}},
		{"databases of today", sql, "", now, nil},
		{"databases with verification", sql, "database: {tls: verified}\n", now, nil},
		{"databases of an earlier difyup", sql, "vector: {tls: verified}\n", earlier, []string{"0: " + plain, "4: " + plain}},
		{"one of them", sql, "database: {tls: allowed}\n", earlier, []string{"0: " + plain}},
		{"as its remedy says", sql, sql, earlier, nil},
		{"when nothing runs", sql, "", dify.Settings{}, nil},
		{"a newer PostgreSQL", "database: {version: 16}\n", "database: {version: 17}\n", now, nil},
		{"an older PostgreSQL", "database: {version: 17}\n", "database: {version: 16}\n", now, []string{"4: " + newer}},
		{"an older PostgreSQL for vectors", "vector: {version: 17}\n", "redis: {memory_gb: 1}\nvector: {version: 16}\n", now, []string{"5: " + newer}},
		{"opened again", "", sql, now, nil},
	} {
		live := map[resource.ID]map[string]any{}
		for _, r := range build(load(tc.made)).Resources() {
			live[r.ID()] = r.Body
		}
		spec := load(tc.wanted)
		err := fixed(spec, build(spec), resource.Owner{Stack: "demo"}, live, func() (dify.Settings, error) { return tc.running, nil })
		var got []string
		var faults fault.List
		if errors.As(err, &faults) {
			for _, f := range faults {
				got = append(got, fmt.Sprintf("%d: %s", f.At.Line, f.Summary))
				if f.Remedy == "" || f.Detail == "" {
					t.Errorf("%s: %+v", tc.name, f)
				}
			}
		} else if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

// TestUnnamed has a plan delete buckets that the file does not name any more.
func TestUnnamed(t *testing.T) {
	spec, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: asia-northeast1\nstorage:\n  bucket: other-files\n"))
	if err != nil {
		t.Fatal(err)
	}
	old := &resource.Resource{Kind: kind.Buckets.Kind, Name: "demo-project-demo-files"}
	for _, tc := range []struct {
		name          string
		empty, there  bool // the old one, the new one
		refused, goes bool
	}{
		{"with files", false, false, true, true},
		{"without", true, false, false, true},
		{"with files, and the new one is there already", false, true, false, false},
	} {
		p := &plan.Plan{Live: map[resource.ID]map[string]any{}, Steps: []plan.Step{{ID: old.ID(), Action: plan.Delete, Res: old}, {ID: "compute.networks/n", Action: plan.Delete, Res: &resource.Resource{Kind: kind.Networks.Kind, Name: "n"}, After: []resource.ID{old.ID()}}}}
		if tc.there {
			p.Live["storage.buckets/other-files"] = map[string]any{}
		}
		err := unnamed(spec, p, func(*resource.Resource) (bool, error) { return tc.empty, nil })
		var faults fault.List
		if refused := errors.As(err, &faults); refused != tc.refused || refused && (faults[0].At.Line != 5 || faults[0].Remedy == "") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if goes := p.Steps[0].ID == old.ID(); goes != tc.goes || goes == (len(p.Notes) > 0) || goes != (len(p.Steps[len(p.Steps)-1].After) == 1) {
			t.Errorf("%s: %v, %v", tc.name, p.Steps, p.Notes)
		}
	}
}
