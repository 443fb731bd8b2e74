package topology_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// FuzzText puts a text into every string option, also one that the description's checks would refuse. The graph's edges and
// what it takes from Google are as before, and the text arrives as it was written.
func FuzzText(f *testing.F) {
	for _, s := range []string{
		"plain", "${secretmanager.secrets/prod-db-password:payload}", "${a/b:c}", "${", "$${x}", "{project}", "${redis.instances/prod-redis:authString} and more",
		"projects/demo-project/global/networks/prod-net", "https://www.googleapis.com/compute/v1/projects/demo-project/global/networks/prod-net",
		"(known after apply)", "%s%d", "\"'`\\", "<&>", "a\nb\tc\x00", "\x1b[31mred", "\u202e", "ü€😀", " ", "../../x", "prod-net", "null",
	} {
		f.Add(s)
	}
	data, err := os.ReadFile("../../examples/production.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?") // a description is UTF-8
		want := edges(t, filled(t, data, "ordinary"))
		spec := filled(t, data, text)
		got := edges(t, spec)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("edges (-with ordinary text +with %q):\n%s", text, d)
		}
		for _, o := range topology.Outputs(spec) {
			if o.From.Of != "" && o.Text != "" && o.Name != "url" {
				t.Errorf("the output %s begins with %q", o.Name, o.Text)
			}
		}
		g, err := topology.Build(spec, agent, topology.Given{})
		if err != nil {
			t.Fatal(err)
		}
		bucket := g.Get(resource.ID("storage.buckets/" + spec.Storage.Bucket))
		known := bucket.Known(map[resource.ID]map[string]any{"secretmanager.secrets/prod-db-password": {"payload": "SECRET"}})
		if got, _ := resource.Lookup(known, "lifecycle.rule[0].condition.matchesPrefix[0]"); got != text {
			t.Errorf("the prefix is %q, want %q", got, text)
		}
	})
}

// filled gives the description with text in every string option that names nothing, in every list of strings, and in every
// map's values.
func filled(t *testing.T, data []byte, text string) *config.Spec {
	t.Helper()
	spec, err := config.Parse("production.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	// These are parts of names, by which the edges are compared; or choose what there is.
	keep := map[string]bool{"Stack": true, "Project": true, "Bucket": true, "Domain": true, "CIDR": true, "ServicesCIDR": true, "Certificate": true, "SSHRanges": true, "Persistence": true, "EnvironmentSecrets": true}
	n := fill(reflect.ValueOf(spec).Elem(), keep, text)
	if n < 25 {
		t.Fatalf("only %d options were filled", n)
	}
	return spec
}

func fill(v reflect.Value, keep map[string]bool, text string) int {
	n := 0
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return 1
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !keep[f.Name] {
				n += fill(v.Field(i), keep, text)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String && v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		for i := range v.Len() {
			n += fill(v.Index(i), keep, text)
		}
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf(text))
		v.Set(m)
		return 1
	case reflect.Pointer:
		if !v.IsNil() {
			return fill(v.Elem(), keep, text)
		}
	}
	return n
}

// edges gives what each resource needs and takes. The names of templates and certificates follow what is in them.
func edges(t *testing.T, spec *config.Spec) map[string]string {
	t.Helper()
	g, err := topology.Build(spec, agent, topology.Given{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, r := range g.Resources() {
		raw, err := json.Marshal([]any{g.Needs(r.ID()), r.References})
		if err != nil {
			t.Fatal(err)
		}
		all[string(r.ID())] = string(raw)
	}
	out := map[string]string{}
	general := func(s string) string {
		for _, id := range slices.Sorted(maps.Keys(all)) {
			for _, prefix := range []string{"compute.instanceTemplates/", "compute.sslCertificates/"} {
				if strings.HasPrefix(id, prefix) {
					s = strings.ReplaceAll(s, id, prefix+"HASH")
				}
			}
		}
		return s
	}
	for id, text := range all {
		out[general(id)] = general(text)
	}
	return out
}
