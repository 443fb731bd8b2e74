package topology_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var agent = topology.Agent{Path: "/bin/difyup-agent", SHA256: strings.Repeat("0123456789abcdef", 4), Runtime: "compose"}

func build(t *testing.T, file string, data []byte) *resource.Graph {
	t.Helper()
	spec, err := config.Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Build(spec, agent, topology.Given{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGraphs compares the graphs of the descriptions in testdata, and of the examples, with what they are known to be.
func TestGraphs(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := dump(build(t, "difyup.yaml", a.Files[0].Data))
			if *update {
				a.Files = []txtar.File{a.Files[0], {Name: "graph", Data: []byte(got)}}
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(a.Files) != 2 {
				t.Fatal("the case has no graph yet: go test ./internal/topology -update")
			}
			if d := cmp.Diff(string(a.Files[1].Data), got); d != "" {
				t.Errorf("graph (-want +got), rewritten by go test ./internal/topology -update:\n%s", d)
			}
		})
	}
}

// dump writes a graph in the order of its resources: what each needs, and its body. The text of user-data, which is a file
// of its own, is left out.
func dump(g *resource.Graph) string {
	var b strings.Builder
	for _, r := range g.Resources() {
		fmt.Fprintf(&b, "%s\n", r.ID())
		if needs := g.Needs(r.ID()); len(needs) > 0 {
			fmt.Fprintf(&b, "  needs %v\n", needs)
		}
		for _, ref := range r.References {
			if ref.Output != "" {
				fmt.Fprintf(&b, "  takes %s from %s:%s\n", ref.At, ref.To, ref.Output)
			}
		}
		body := resource.Clone(r.Body)
		if items, ok := resource.Lookup(body, "properties.metadata.items"); ok {
			for _, item := range items.([]any) {
				if m := item.(map[string]any); m["key"] == "user-data" {
					m["value"] = "(user-data.yaml)"
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(body)) {
			raw, err := json.Marshal(body[key])
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(&b, "  %s: %s\n", key, raw)
		}
	}
	return b.String()
}

// TestManagedFieldsAreConstant checks that what a kind sends does not depend on the description: a field that is sometimes
// left out would not be cleared when it is.
func TestManagedFieldsAreConstant(t *testing.T) {
	// Where Google shows the field only together with another one, sending it always would be a difference always.
	exempt := map[string]string{
		"compute.backendServices logConfig.sampleRate":            "shown while logging is on",
		"redis.instances persistenceConfig.rdbSnapshotPeriod":     "shown while there are snapshots",
		"compute.urlMaps defaultService":                          "the redirect's map has none",
		"compute.urlMaps defaultUrlRedirect":                      "the main map has none",
		"compute.globalAddresses network":                         "an external address has none",
		"compute.globalAddresses prefixLength":                    "an external address has none",
		"compute.globalAddresses purpose":                         "an external address has none",
		"compute.globalAddresses address":                         "an external address is Google's to choose",
		"compute.globalAddresses ipVersion":                       "a range has none",
		"secretmanager.secrets payload":                           "only what another service makes has one",
		"secretmanager.secrets generate":                          "only what difyup makes has one",
		"compute.urlMaps defaultUrlRedirect.httpsRedirect":        "the main map has none",
		"compute.urlMaps defaultUrlRedirect.redirectResponseCode": "the main map has none",
		"compute.urlMaps defaultUrlRedirect.stripQuery":           "the main map has none",
	}
	seen := map[string]map[string]bool{} // paths by kind
	first := map[string]resource.ID{}
	check := func(name string, g *resource.Graph) {
		for _, r := range g.Resources() {
			paths := map[string]bool{}
			collect("", r.Body, paths)
			want, ok := seen[r.Kind.Name]
			if !ok {
				seen[r.Kind.Name], first[r.Kind.Name] = paths, r.ID()
				continue
			}
			for _, p := range slices.Sorted(maps.Keys(paths)) {
				if !want[p] && exempt[r.Kind.Name+" "+p] == "" {
					t.Errorf("%s: %s sends %s, and %s does not", name, r.ID(), p, first[r.Kind.Name])
				}
			}
			for _, p := range slices.Sorted(maps.Keys(want)) {
				if !paths[p] && exempt[r.Kind.Name+" "+p] == "" {
					t.Errorf("%s: %s does not send %s, and %s does", name, r.ID(), p, first[r.Kind.Name])
				}
			}
		}
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		check(file, build(t, file, a.Files[0].Data))
	}
	for _, name := range []string{"difyup.yaml", "production.yaml"} {
		data, err := os.ReadFile(filepath.Join("../../examples", name))
		if err != nil {
			t.Fatal(err)
		}
		check(name, build(t, name, data))
	}
}

// collect gathers the paths of fields outside lists and labels, whose contents are the user's.
func collect(at string, v any, into map[string]bool) {
	m, ok := v.(map[string]any)
	if !ok || strings.HasSuffix(at, "abels") || strings.HasSuffix(at, "redisConfigs") {
		into[at] = true
		return
	}
	for key, sub := range m {
		collect(strings.TrimPrefix(at+"."+key, "."), sub, into)
	}
}

// TestMarks holds the table of kinds to what a stack is made of: every kind is there, and each body bears the mark where
// the table says, or stands in one that does, or is the account's own.
func TestMarks(t *testing.T) {
	data, err := os.ReadFile("../../examples/production.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g := build(t, "production.yaml", data)
	spec, err := config.Parse("production.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	owner := resource.Owner{Stack: spec.Stack, Project: spec.Project, Number: "1", Account: topology.Account(spec.Stack, spec.Project)}
	seen := map[string]bool{}
	for _, r := range g.Resources() {
		seen[r.Kind.Name] = true
		shown := func(r *resource.Resource) map[string]any {
			if r == nil {
				return nil
			}
			body := maps.Clone(r.Body)
			body["projectNumber"] = "1"
			return body
		}
		holder := g.Get(r.Holder())
		if owns := owner.Owns(r, shown(r), holder, shown(holder)); owns == r.Kind.Mark.Shared {
			t.Errorf("%s: deleted with the stack: %v", r.ID(), owns)
		}
		if r.Kind.Mark.At != "" {
			body := shown(r)
			body[strings.SplitN(string(r.Kind.Mark.At), ".", 2)[0]] = nil
			if owner.Owns(r, body, holder, shown(holder)) {
				t.Errorf("%s is deleted without its mark", r.ID())
			}
		}
	}
	for _, k := range kind.All() {
		if !seen[k.Name] {
			t.Errorf("%s: no stack has one, so that nothing shows whose it would be", k.Name)
		}
	}
}

// TestNothingOnTheWayToAnInstanceWaitsForAStore holds the topology to what makes the first deployment short: NAT, template,
// group and load balancer need no database and no cache.
func TestNothingOnTheWayToAnInstanceWaitsForAStore(t *testing.T) {
	data, err := os.ReadFile("../../examples/production.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g := build(t, "production.yaml", data)
	reached := map[resource.ID]bool{}
	var walk func(id resource.ID)
	walk = func(id resource.ID) {
		if reached[id] {
			return
		}
		reached[id] = true
		for _, n := range g.Needs(id) {
			walk(n)
		}
	}
	for _, r := range g.Resources() {
		if r.Kind.Name == "compute.globalForwardingRules" || r.Kind.Name == "compute.regionAutoscalers" {
			walk(r.ID())
		}
	}
	if len(reached) < 15 {
		t.Fatalf("only %d resources are on the way", len(reached))
	}
	for id := range reached {
		if strings.HasPrefix(string(id), "sql.") || strings.HasPrefix(string(id), "redis.") || strings.HasPrefix(string(id), "dns.") || strings.HasPrefix(string(id), "secretmanager.") {
			t.Errorf("instances wait for %s", id)
		}
	}
}

// TestPortsOfTheNAT checks that an instance may have as many connections to one address at once as requests and tasks that can lead to one.
func TestPortsOfTheNAT(t *testing.T) {
	spec, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: asia-northeast1\ncompute:\n  machine_type: e2-standard-32\n"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Build(spec, topology.Agent{SHA256: strings.Repeat("0", 64), Runtime: "compose"}, topology.Given{})
	if err != nil {
		t.Fatal(err)
	}
	nat := func(field resource.Path) any {
		v, _ := resource.Lookup(g.Get("compute.routers/demo-router").Body, "nats[0]."+field)
		return v
	}
	least, most := nat("minPortsPerVm").(float64), nat("maxPortsPerVm").(float64)
	need := spec.Dify.APIWorkers*spec.Dify.APIConnections + spec.Dify.WorkerConcurrency
	if nat("enableDynamicPortAllocation") != true || nat("enableEndpointIndependentMapping") != false || most < float64(2*need) {
		t.Errorf("of the NAT an instance has %v to %v ports, and may need %d at once", least, most, need)
	}
	for _, n := range []float64{least, most} {
		if p := int(n); p < 64 || p > 65536 || p&(p-1) != 0 {
			t.Errorf("%d ports: Google takes powers of 2 from 64 to 65536", p)
		}
	}
}
