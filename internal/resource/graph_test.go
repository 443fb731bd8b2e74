package resource_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/resource"
)

var (
	api      = &resource.API{Name: "compute", Host: "https://compute.googleapis.com/", Base: "compute/v1/"}
	networks = &resource.Kind{Name: "compute.networks", API: api, Collection: "projects/{project}/global/networks"}
	subnets  = &resource.Kind{Name: "compute.subnetworks", API: api, Collection: "projects/{project}/regions/{region}/subnetworks"}
	sqlAPI   = &resource.API{Name: "sqladmin"}
	sqls     = &resource.Kind{Name: "sql.instances", API: sqlAPI, Collection: "projects/{project}/instances"}
	dbs      = &resource.Kind{Name: "sql.databases", API: sqlAPI, Collection: "projects/{project}/instances/{instance}/databases"}
	params   = map[string]string{"project": "p", "region": "r", "instance": "main"}
)

func res(k *resource.Kind, name string, body map[string]any) *resource.Resource {
	return &resource.Resource{Kind: k, Name: name, Params: params, Body: body}
}

func TestGraphFindsEdges(t *testing.T) {
	net := res(networks, "n", map[string]any{"name": "n"})
	sub := res(subnets, "s", map[string]any{}).Refer("network", net, net.URL())
	sql := res(sqls, "main", nil).Refer("settings.privateNetwork", net, net.Link())
	db := res(dbs, "main/dify", map[string]any{"name": "dify"})
	other := res(subnets, "by-output", map[string]any{}).Take("list[0].x", sql.Output("ipAddresses[type=PRIVATE].ipAddress")).After(sub)
	text := res(subnets, "text", map[string]any{"user": "${sql.instances/main:host}", "like-a-link": net.URL()})
	g, err := resource.NewGraph(other, db, sub, sql, net, text)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range g.Resources() {
		lines = append(lines, strings.TrimSpace(string(r.ID())+" < "+join(g.Needs(r.ID()))))
	}
	want := []string{
		"compute.networks/n <",
		"compute.subnetworks/s < compute.networks/n",
		"compute.subnetworks/text <",
		"sql.instances/main < compute.networks/n",
		"compute.subnetworks/by-output < compute.subnetworks/s sql.instances/main",
		"sql.databases/main/dify < sql.instances/main",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("order and edges (-want +got):\n%s", d)
	}
}

func join(ids []resource.ID) string {
	var s []string
	for _, id := range ids {
		s = append(s, string(id))
	}
	return strings.Join(s, " ")
}

func TestGraphRefuses(t *testing.T) {
	a := res(networks, "a", nil)
	b := res(networks, "b", nil).Take("x", resource.Output{Of: "compute.networks/c", Path: "selfLink"})
	c := res(networks, "c", nil).Refer("x", b, b.Link())
	for name, tc := range map[string]struct {
		in   []*resource.Resource
		want string
	}{
		"twice":   {[]*resource.Resource{a, res(networks, "a", nil)}, "Resource given twice"},
		"unknown": {[]*resource.Resource{b}, "Reference to an unknown resource"},
		"circle":  {[]*resource.Resource{a, b, c}, "Resources need each other"},
	} {
		if _, err := resource.NewGraph(tc.in...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

func TestOrderIsStable(t *testing.T) {
	needs := map[string][]string{"d": {"b", "c"}, "b": {"a"}, "c": {"a"}, "a": nil, "e": {"gone"}}
	keys := []string{"e", "d", "c", "b", "a"}
	for range 20 {
		got, circle := resource.Order(keys, func(k string) []string { return needs[k] })
		if circle != nil || !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) {
			t.Fatalf("got %v, circle %v", got, circle)
		}
	}
}

func TestLookupAndResolve(t *testing.T) {
	live := map[string]any{
		"ipAddresses": []any{map[string]any{"type": "PRIMARY", "ipAddress": "1.1.1.1"}, map[string]any{"type": "PRIVATE", "ipAddress": "10.0.0.3"}},
		"n":           []any{"x", "y"}, "port": 5432.0,
	}
	for path, want := range map[resource.Path]any{
		"ipAddresses[type=PRIVATE].ipAddress": "10.0.0.3", "ipAddresses[0].ipAddress": "1.1.1.1", "n[1]": "y", "port": 5432.0,
		"n[2]": nil, "nothing.here": nil, "ipAddresses[type=OUTGOING].ipAddress": nil,
	} {
		got, ok := resource.Lookup(live, path)
		if got != want || ok != (want != nil) {
			t.Errorf("Lookup(%s) = %v, %v; want %v", path, got, ok, want)
		}
	}
}

func TestReferences(t *testing.T) {
	net, main := res(networks, "n", nil), res(sqls, "main", nil)
	r := res(networks, "r", map[string]any{"text": "${sql.instances/main:port}", "rules": []any{map[string]any{"a": 1.0}}}).
		Refer("rules[0].net", net, net.URL()).Refer("nets[0]", net, net.Link()).
		Take("port", main.Output("port")).Take("rules[1].hosts[0]", main.Output("host"))
	wanted := func(port, host any) map[string]any {
		return map[string]any{
			"text": "${sql.instances/main:port}", "nets": []any{"projects/p/global/networks/n"}, "port": port, "rules": []any{
				map[string]any{"a": 1.0, "net": "https://www.googleapis.com/compute/v1/projects/p/global/networks/n"}, map[string]any{"hosts": []any{host}},
			},
		}
	}
	live := map[resource.ID]map[string]any{main.ID(): {"port": 5432.0}}
	if d := cmp.Diff(wanted(5432.0, resource.Unknown{}), r.Known(live)); d != "" {
		t.Errorf("known (-want +got):\n%s", d)
	}
	live[main.ID()]["host"] = "${sql.instances/main:port}" // an answer is text too
	if d := cmp.Diff(wanted(5432.0, "${sql.instances/main:port}"), r.Known(live)); d != "" {
		t.Errorf("known when all is there (-want +got):\n%s", d)
	}
	broken := errors.New("broken")
	if body, err := r.Resolve(func(resource.Output) (any, error) { return nil, broken }); !errors.Is(err, broken) || body != nil {
		t.Errorf("an output that cannot be had: %v, %v", body, err)
	}
	if d := cmp.Diff(wanted(resource.Unknown{}, resource.Unknown{}), r.Body); d != "" {
		t.Errorf("the body itself was changed (-want +got):\n%s", d)
	}
}
