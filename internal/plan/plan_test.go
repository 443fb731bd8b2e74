package plan_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

var (
	owner     = resource.Owner{Stack: "demo", Project: "p", Number: "1", Account: "demo-vm@p"}
	marked    = resource.Marking{At: "description", Delete: "things delete {name}"}
	api       = &resource.API{Name: "compute"}
	sqlAPI    = &resource.API{Name: "sqladmin", Operation: resource.SQL}
	templates = &resource.Kind{Name: "templates", API: api, Collection: "projects/p/templates", Mark: marked}
	groups    = &resource.Kind{Name: "groups", API: api, Collection: "projects/p/groups", Update: resource.Patch, Immutable: []resource.Path{"zone"}, Holds: resource.Machines, Ready: map[resource.Path]string{"stable": "true"}, Mark: marked}
	rules     = &resource.Kind{Name: "rules", API: api, Collection: "projects/p/rules", Update: resource.Patch, Mark: marked}
	sqls      = &resource.Kind{Name: "sqls", API: sqlAPI, Collection: "projects/p/instances", Update: resource.Patch, Holds: resource.Data, Immutable: []resource.Path{"region"}, Ready: map[resource.Path]string{"state": "RUNNABLE"}, Mark: marked}
	keys      = &resource.Kind{Name: "keys", API: api, Collection: "projects/p/keys", Holds: resource.Keys, Mark: marked}
	dbs       = &resource.Kind{Name: "dbs", API: sqlAPI, Collection: "projects/p/instances/main/dbs", Holds: resource.Data, Mark: resource.Marking{Within: "sqls"}}
)

func kinds(name string) (*resource.Kind, bool) {
	for _, k := range []*resource.Kind{templates, groups, rules, sqls, dbs, keys} {
		if k.Name == name {
			return k, true
		}
	}
	return nil, false
}

func res(k *resource.Kind, name string, body map[string]any) *resource.Resource {
	return &resource.Resource{Kind: k, Name: name, Params: map[string]string{"project": "p"}, Body: body}
}

// cloud is what exists, by ID. What says nothing else bears the mark, and is half made if it says so.
type cloud map[resource.ID]map[string]any

func (c cloud) ReadAll(_ context.Context, rs []*resource.Resource) (map[resource.ID]map[string]any, error) {
	out := map[resource.ID]map[string]any{}
	for _, r := range rs {
		if body, ok := c[r.ID()]; ok {
			out[r.ID()] = maps.Clone(body)
			if _, said := body["description"]; !said {
				out[r.ID()]["description"] = resource.Description("demo")
			}
		}
	}
	return out, nil
}

func (cloud) Whole(_ *resource.Resource, live map[string]any) bool { return live["half"] == nil }

func graph(t *testing.T, rs ...*resource.Resource) *resource.Graph {
	t.Helper()
	g, err := resource.NewGraph(rs...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func stack(t *testing.T, template string, max float64) *resource.Graph {
	tpl := res(templates, template, map[string]any{"name": template})
	sql := res(sqls, "main", map[string]any{"region": "r"})
	return graph(t,
		tpl,
		res(groups, "g", map[string]any{"max": max, "zone": "a"}).Refer("template", tpl, tpl.Link()),
		sql,
		res(dbs, "main/dify", map[string]any{"name": "dify"}),
		res(rules, "dns", nil).Take("ip", sql.Output("ip")),
	)
}

func text(p *plan.Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s %s", s.Action, s.ID)
		if len(s.After) > 0 {
			fmt.Fprintf(&b, " after %v", s.After)
		}
		if s.Lane != "" {
			fmt.Fprintf(&b, " in %s", s.Lane)
		}
		for _, f := range s.Changes {
			fmt.Fprintf(&b, "; %s: %v → %v", f.Path, f.Old, f.New)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d unchanged\n", p.Unchanged)
	return b.String()
}

func TestMake(t *testing.T) {
	full := cloud{
		"templates/t1": {"name": "t1"}, "groups/g": {"template": "https://x/compute/v1/projects/p/templates/t1", "max": 2.0, "zone": "a"},
		"sqls/main": {"region": "r", "state": "RUNNABLE", "ip": "10.0.0.3"}, "dbs/main/dify": {"name": "dify"}, "rules/dns": {"ip": "10.0.0.3"},
	}
	half := cloud{"templates/t1": full["templates/t1"], "sqls/main": {"region": "r", "state": "PENDING_CREATE"}}
	owned := stack(t, "t1", 2).Refs()
	// The next template's run was cut off: what it began with is in the state.
	begun := plan.Owned(stack(t, "t2", 2), owned)
	switched := maps.Clone(full)
	switched["templates/t2"] = map[string]any{"name": "t2"}
	switched["groups/g"] = map[string]any{"template": "projects/p/templates/t2", "max": 2.0, "zone": "a", "stable": false}
	rolled := maps.Clone(switched)
	rolled["groups/g"] = map[string]any{"template": "projects/p/templates/t2", "max": 2.0, "zone": "a", "stable": true}
	for _, tc := range []struct {
		name  string
		graph *resource.Graph
		cloud cloud
		owned []resource.Ref
		want  string
	}{
		{"from nothing", stack(t, "t1", 2), cloud{}, nil, `
create sqls/main in sql/main
create dbs/main/dify after [sqls/main] in sql/main
create rules/dns after [sqls/main]
create templates/t1
create groups/g after [templates/t1]
0 unchanged
`},
		{"nothing to do", stack(t, "t1", 2), full, owned, "\n5 unchanged\n"},
		{"in place", stack(t, "t1", 5), full, owned, "\nupdate groups/g; max: 2 → 5\n4 unchanged\n"},
		{"a new template: create, switch, delete", stack(t, "t2", 2), full, owned, `
create templates/t2
update groups/g after [templates/t2]; template: https://x/compute/v1/projects/p/templates/t1 → projects/p/templates/t2
delete templates/t1 after [groups/g]
3 unchanged
`},
		{"interrupted before the switch", stack(t, "t2", 2), full, begun, `
create templates/t2
update groups/g after [templates/t2]; template: https://x/compute/v1/projects/p/templates/t1 → projects/p/templates/t2
delete templates/t1 after [groups/g]
3 unchanged
`},
		{"interrupted before the switch, another template meanwhile", stack(t, "t3", 2), switched, begun, `
create templates/t3
update groups/g after [templates/t3]; template: projects/p/templates/t2 → projects/p/templates/t3
delete templates/t1 after [groups/g]
delete templates/t2 after [groups/g]
3 unchanged
`},
		{"interrupted while machines were replaced", stack(t, "t2", 2), switched, begun, `
await groups/g
delete templates/t1 after [groups/g]
4 unchanged
`},
		{"interrupted after it", stack(t, "t2", 2), rolled, begun, `
delete templates/t1
5 unchanged
`},
		{"interrupted while a database was made", stack(t, "t1", 2), half, owned, `
create groups/g
await sqls/main in sql/main
create dbs/main/dify after [sqls/main] in sql/main
create rules/dns after [sqls/main]
1 unchanged
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := plan.Make(t.Context(), owner, tc.graph, tc.cloud, tc.owned, kinds)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), text(p)); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
			if empty := tc.name == "nothing to do"; p.Empty() != empty {
				t.Errorf("Empty() = %v", p.Empty())
			}
		})
	}
}

func TestMakeRefusesReplacement(t *testing.T) {
	live := cloud{"groups/g": {"zone": "a"}, "sqls/main": {"region": "r", "state": "RUNNABLE"}}
	g := graph(t, res(groups, "g", map[string]any{"zone": "b"}), res(sqls, "main", map[string]any{"region": "q"}))
	_, err := plan.Make(t.Context(), owner, g, live, nil, kinds)
	faults := fault.All(err)
	if len(faults) != 2 {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(faults[0].Detail, "zone: a → b") || !strings.Contains(faults[1].Remedy, "give up all data of the stack") {
		t.Errorf("faults: %v\n%v", faults[0], faults[1].Remedy)
	}
}

func TestDestroy(t *testing.T) {
	sql := res(sqls, "main", nil)
	owned := append(stack(t, "t1", 2).Refs(), graph(t, res(keys, "k", nil), sql, res(keys, "given", nil).Take("password", sql.Output("password"))).Refs()...)
	// The database exists too, but goes with its instance. What it is read with goes last, what it gave out and who
	// uses it first.
	live := cloud{"templates/t1": {}, "groups/g": {}, "sqls/main": {}, "dbs/main/dify": {}, "rules/dns": {}, "keys/k": {}, "keys/given": {}}
	p, err := plan.Destroy(t.Context(), owner, owned, live, kinds)
	if err != nil {
		t.Fatal(err)
	}
	want := `delete groups/g
delete keys/given
delete rules/dns
delete sqls/main after [groups/g keys/given rules/dns] in sql/main
delete keys/k after [sqls/main]
delete templates/t1 after [groups/g]
0 unchanged
`
	if d := cmp.Diff(want, text(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
	if losses := p.Losses(); len(losses) != 3 || losses[1].ID != "sqls/main" {
		t.Errorf("losses: %v", losses)
	}
}

// TestCircleInState has two resources wait for each other, as no graph says it and a garbled state may.
func TestCircleInState(t *testing.T) {
	owned := graph(t, res(templates, "a", nil), res(templates, "b", nil)).Refs()
	owned[0].Needs, owned[1].Needs = []resource.ID{owned[1].ID}, []resource.ID{owned[0].ID}
	_, err := plan.Destroy(t.Context(), owner, owned, cloud{"templates/a": {}, "templates/b": {}}, kinds)
	var f *fault.Fault
	if !errors.As(err, &f) || f.Summary != "Resources wait for each other" {
		t.Errorf("got %v", err)
	}
	// Also where data wait for machines, and keys for data.
	owned = graph(t, res(groups, "g", nil), res(templates, "a", nil), res(sqls, "main", nil), res(keys, "k", nil)).Refs()
	for i, ref := range owned {
		switch ref.Kind {
		case "groups":
			owned[i].Needs = []resource.ID{"templates/a"}
		case "templates":
			owned[i].Needs = []resource.ID{"groups/g"}
		}
	}
	_, err = plan.Destroy(t.Context(), owner, owned, cloud{"templates/a": {}, "groups/g": {}, "sqls/main": {}, "keys/k": {}}, kinds)
	if !errors.As(err, &f) || f.Summary != "Resources wait for each other" {
		t.Errorf("got %v", err)
	}
}

func TestUnknownKindInState(t *testing.T) {
	_, err := plan.Destroy(t.Context(), owner, []resource.Ref{{ID: "x/y", Kind: "x", Name: "y"}}, cloud{}, kinds)
	var f *fault.Fault
	if !errors.As(err, &f) || f.Remedy == "" {
		t.Errorf("got %v", err)
	}
}

func TestNamesThatAreTaken(t *testing.T) {
	mark := func(stack string) map[string]any {
		return map[string]any{"description": resource.Description(stack), "max": 1.0}
	}
	g := graph(t, res(rules, "r", mark("demo")))
	owned := []resource.Ref{{ID: "rules/r", Kind: "rules", Name: "r"}}
	for _, tc := range []struct {
		name  string
		live  map[string]any
		owned []resource.Ref
		want  string
	}{
		{"ours, found again after the state was lost", mark("demo"), nil, ""},
		{"another stack's", mark("other"), nil, "belongs to the stack \"other\""},
		{"somebody's", map[string]any{"description": "", "max": 1.0}, nil, "does not bear the mark of the stack demo"},
		// The state names it before it is made: that is no proof.
		{"somebody's, which the state names", map[string]any{"description": "", "max": 1.0}, owned, "does not bear the mark of the stack demo"},
		{"another stack's, which the state names", mark("other"), owned, "belongs to the stack"},
		{"somebody's that looks half made", map[string]any{"description": "", "half": true}, nil, "does not bear the mark of the stack demo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := plan.Make(t.Context(), owner, g, cloud{"rules/r": tc.live}, tc.owned, kinds)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestSecretsMadeAnew checks that whoever was given a secret is given it again when it is made anew: what it has cannot be
// read, so that no comparison would show it.
func TestSecretsMadeAnew(t *testing.T) {
	secrets := &resource.Kind{Name: "secrets", API: api, Collection: "projects/p/secrets", Secret: []resource.Path{"payload"}}
	users := &resource.Kind{Name: "users", API: api, Collection: "projects/p/users", Update: resource.Patch, Secret: []resource.Path{"password"}}
	secret := res(secrets, "s", map[string]any{"name": "s"})
	g := graph(t, secret, res(users, "u", map[string]any{"name": "u"}).Take("password", secret.Output("payload")))
	live := cloud{"secrets/s": {"name": "s"}, "users/u": {"name": "u"}}
	p, err := plan.Make(t.Context(), owner, g, live, nil, kinds)
	if err != nil || !p.Empty() {
		t.Fatalf("nothing changed, and the plan is %s, %v", text(p), err)
	}
	delete(live, "secrets/s")
	p, err = plan.Make(t.Context(), owner, g, live, nil, kinds)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("create secrets/s\nupdate users/u after [secrets/s]; password: <nil> → (known after apply)\n0 unchanged\n", text(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

// TestHalfMade checks that what an interrupted run left half made is made again, by what needs it too, and deleted like
// anything else.
func TestHalfMade(t *testing.T) {
	secrets := &resource.Kind{Name: "rules", API: api, Collection: "projects/p/secrets", Secret: []resource.Path{"payload"}, Mark: marked}
	secret := res(secrets, "s", map[string]any{"name": "s"})
	g := graph(t, secret, res(groups, "u", map[string]any{"name": "u"}).Take("password", secret.Output("payload")))
	live := cloud{"rules/s": {"name": "s", "half": true}, "groups/u": {"name": "u", "password": ""}}
	p, err := plan.Make(t.Context(), owner, g, live, g.Refs(), kinds)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("create rules/s\nupdate groups/u after [rules/s]; password:  → (known after apply)\n0 unchanged\n", text(p)); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
	for name, make := range map[string]func() (*plan.Plan, error){
		"not wanted any more": func() (*plan.Plan, error) { return plan.Make(t.Context(), owner, graph(t), live, g.Refs(), kinds) },
		"destroyed":           func() (*plan.Plan, error) { return plan.Destroy(t.Context(), owner, g.Refs(), live, kinds) },
	} {
		p, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff("delete groups/u\ndelete rules/s after [groups/u]\n0 unchanged\n", text(p)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestOnlyOnesOwnIsDeleted puts into the state what is not the stack's, in every way there is.
func TestOnlyOnesOwnIsDeleted(t *testing.T) {
	buckets := &resource.Kind{Name: "buckets", API: api, Collection: "b", Mark: resource.Marking{At: "labels", Number: "projectNumber", Delete: "storage rm gs://{name}"}}
	objects := &resource.Kind{Name: "objects", API: api, Collection: "b/{bucket}/o", Mark: resource.Marking{Within: "buckets"}}
	users := &resource.Kind{Name: "users", API: sqlAPI, Collection: "projects/p/instances/{instance}/users", Mark: resource.Marking{Within: "sqls"}}
	peerings := &resource.Kind{Name: "peerings", API: sqlAPI, Collection: "services/x/peerings", Mark: resource.Marking{Within: "rules"}}
	policies := &resource.Kind{Name: "policies", API: api, Collection: "projects/{project}", Mark: resource.Marking{Member: true}}
	services := &resource.Kind{Name: "services", API: api, Collection: "projects/{project}/services", Mark: resource.Marking{Shared: true}}
	nobodys := &resource.Kind{Name: "nobodys", API: api, Collection: "x"}
	all := func(name string) (*resource.Kind, bool) {
		for _, k := range []*resource.Kind{buckets, objects, users, peerings, policies, services, nobodys} {
			if k.Name == name {
				return k, true
			}
		}
		return kinds(name)
	}
	labelled := func(stack, number string) map[string]any {
		return map[string]any{"labels": map[string]any{"managed-by": "difyup", "difyup-stack": stack}, "projectNumber": number}
	}
	plain := map[string]any{"description": ""}
	ref := func(kind, name string, params ...string) resource.Ref {
		m := map[string]string{"project": "p"}
		for i := 0; i < len(params); i += 2 {
			m[params[i]] = params[i+1]
		}
		return resource.Ref{ID: resource.ID(kind + "/" + name), Kind: kind, Name: name, Params: m}
	}
	live := cloud{
		"rules/ours": {}, "rules/theirs": {"description": resource.Description("prod")}, "rules/nobodys": plain, "rules/elsewhere": {},
		"sqls/ours": {}, "users/ours/u": {}, "sqls/theirs": {"description": resource.Description("prod")}, "users/theirs/u": {}, "users/ours/x": {}, "users/unknown/u": {},
		"peerings/ours": {}, "peerings/theirs": {},
		"buckets/ours": labelled("demo", "1"), "buckets/squatted": labelled("demo", "2"), "buckets/unknown": {"name": "unknown"}, "objects/ours/o": {}, "objects/squatted/o": {},
		"policies/ours": {}, "policies/theirs": {}, "services/all": {}, "nobodys/x": {},
	}
	state := []resource.Ref{
		ref("rules", "ours"), ref("rules", "theirs"), ref("rules", "nobodys"), ref("rules", "elsewhere", "project", "q"), ref("rules", "absent"),
		ref("sqls", "ours"), ref("users", "ours/u", "instance", "ours"), ref("sqls", "theirs"), ref("users", "theirs/u", "instance", "theirs"),
		ref("users", "ours/x", "instance", "theirs"), ref("users", "unknown/u", "instance", "unknown"),
		ref("peerings", "ours"), ref("peerings", "theirs"),
		ref("buckets", "ours"), ref("buckets", "squatted"), ref("buckets", "unknown"), ref("objects", "ours/o", "bucket", "ours"), ref("objects", "squatted/o", "bucket", "squatted"),
		ref("policies", "ours", "member", "serviceAccount:demo-vm@p"), ref("policies", "theirs", "member", "user:owner@example.com"), ref("services", "all"), ref("nobodys", "x"),
	}
	p, err := plan.Destroy(t.Context(), owner, state, live, all)
	if err != nil {
		t.Fatal(err)
	}
	got := text(p)
	for _, r := range p.Kept {
		got += fmt.Sprintln("kept", r.ID(), r.DeleteByHand())
	}
	want := `delete buckets/ours
delete objects/ours/o
delete peerings/ours in sql/ours
delete policies/ours
delete rules/ours
delete sqls/ours in sql/ours
0 unchanged
kept rules/theirs gcloud things delete theirs --project=p
kept rules/nobodys gcloud things delete nobodys --project=p
kept rules/elsewhere gcloud things delete elsewhere --project=q
kept sqls/theirs gcloud things delete theirs --project=p
kept users/ours/x${SPACE}
kept users/unknown/u${SPACE}
kept buckets/squatted gcloud storage rm gs://squatted --project=p
kept buckets/unknown gcloud storage rm gs://unknown --project=p
kept policies/theirs${SPACE}
kept nobodys/x${SPACE}
`
	if d := cmp.Diff(strings.ReplaceAll(want, "${SPACE}", " "), got); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
	// An apply that wants none of it any more deletes the same.
	q, err := plan.Make(t.Context(), owner, graph(t), live, state, all)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(text(p), text(q)); d != "" || len(q.Kept) != len(p.Kept) {
		t.Errorf("apply (-destroy +apply):\n%s", d)
	}
}
