package ops

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// TestLost says of what is missing in a stack whether data were lost with it, and whether it is made again.
func TestLost(t *testing.T) {
	spec, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: asia-northeast1\n"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Build(spec, topology.Agent{}, topology.Given{})
	if err != nil {
		t.Fatal(err)
	}
	const (
		main, dify = "sql.instances/demo-main", "sql.databases/demo-main/dify"
		files, key = "storage.buckets/demo-project-demo-files", "secretmanager.secrets/demo-secret-key"
	)
	for _, tc := range []struct {
		name    string
		missing string
		change  func(*state.State)
		unseen  []string
		want    []resource.ID
	}{
		{"nothing", "", nil, nil, nil},
		{"what holds no data", "compute.networks/demo-net redis.instances/demo-redis secretmanager.secrets/demo-db-password storage.buckets/demo-project-demo-agent", nil, nil, nil},
		{"an instance, and what is in it", main + " " + dify, nil, nil, []resource.ID{main}},
		{"a database", dify, nil, nil, []resource.ID{dify}},
		{"the files and the key", files + " " + key, nil, nil, []resource.ID{key, files}},
		{"what an interrupted run may not have made", main, func(st *state.State) { st.Intent = &state.Intent{} }, nil, nil},
		{"what the stack never had", main, func(st *state.State) { st.Owned = st.Owned[:0] }, nil, nil},
		{"what cannot be seen", main + " " + key, nil, []string{"sqladmin.googleapis.com"}, []resource.ID{key}},
	} {
		st := &state.State{Owned: g.Refs()}
		if tc.change != nil {
			tc.change(st)
		}
		missing := strings.Fields(tc.missing)
		for _, id := range missing {
			if g.Get(resource.ID(id)) == nil {
				t.Fatalf("the stack has no %s", id)
			}
		}
		got := lost(spec, st, g.Resources(), tc.unseen, func(r *resource.Resource) bool {
			return !slices.Contains(missing, string(r.ID()))
		})
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
		if refused := again(g, got, nil) != nil; refused != (len(tc.want) > 0) {
			t.Errorf("%s: refused %t", tc.name, refused)
		}
		named := []string{main, dify, files, key}
		if err := again(g, got, named); err != nil {
			t.Errorf("%s, named: %v", tc.name, err)
		}
	}
}
