package topology_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// texts are what may be taken for more than a text.
func texts() []string {
	return []string{
		"plain", "${secretmanager.secrets/prod-db-password:payload}", "${a/b:c}", "${", "$${x}", "{project}", "${redis.instances/prod-redis:authString} and more",
		"projects/demo-project/global/networks/prod-net", "https://www.googleapis.com/compute/v1/projects/demo-project/global/networks/prod-net",
		"(known after apply)", "%s%d", "\"'`\\", "<&>", "a\nb\tc\x00", "\x1b[31mred", "\u202e", "ü€😀", " ", "../../x", "prod-net", "null",
	}
}

// FuzzText puts a text into every string option but those of kept, and makes it a key of every map, also where the description's checks would
// refuse it. The graph's edges and what it takes from Google are as before, and the text arrives as it was written.
func FuzzText(f *testing.F) {
	for _, s := range texts() {
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
		known := func(id resource.ID, path resource.Path) any {
			v, _ := resource.Lookup(g.Get(id).Known(map[resource.ID]map[string]any{"secretmanager.secrets/prod-db-password": {"payload": "SECRET"}}), path)
			return v
		}
		bucket := resource.ID("storage.buckets/" + spec.Storage.Bucket)
		if got := known(bucket, "lifecycle.rule[0].condition.matchesPrefix[0]"); got != text {
			t.Errorf("the prefix is %q, want %q", got, text)
		}
		if labels := known(bucket, "labels").(map[string]any); labels[text] != text && !slices.Contains([]string{resource.ManagedBy, resource.StackLabel}, text) {
			t.Errorf("the labels are %q, want %q in them", labels, text)
		}
		flags := known(topology.MainInstance(spec), "settings.databaseFlags").([]any)
		if !slices.ContainsFunc(flags, func(flag any) bool { return cmp.Equal(flag, map[string]any{"name": text, "value": text}) }) {
			t.Errorf("the flags are %q, want %q in them", flags, text)
		}
	})
}

// place is where a description has a text.
type place struct {
	field    string // of config.Spec's, if it is an option of kept
	path     string // "*" stands for the text, as a key; what ends in "[]" is a list of it
	ordinary string
	value    string // of a key
}

// kept are the options that FuzzText leaves alone: parts of names, by which edges are compared, and what chooses what there is.
func kept() []place {
	return []place{
		{"Stack", "stack", "demo", ""}, {"Project", "project", "demo-project", ""}, {"Bucket", "storage.bucket", "demo-files-1", ""},
		{"Domain", "domain", "dify.example.com", ""}, {"CIDR", "network.cidr", "10.10.0.0/20", ""}, {"ServicesCIDR", "network.services_cidr", "10.64.0.0/16", ""},
		{"SSHRanges", "network.ssh_ranges[]", "10.0.0.0/8", ""}, {"Certificate", "load_balancer.certificate", "self-signed", ""},
		{"Persistence", "redis.persistence", "1h", ""}, {"EnvironmentSecrets", "dify.environment_secrets.api.SENTRY_DSN", "sentry-dsn@1", ""},
	}
}

// FuzzRefused puts a text into every option of kept, and makes it a key of maps. The description is refused, unless the text is of
// characters of which none begins or ends anything.
func FuzzRefused(f *testing.F) {
	places := append(kept(), []place{
		{"", "labels.*", "team", "platform"}, {"", "database.flags.*", "log_min_duration_statement", "1000"}, {"", "dify.environment.api.*", "HTTP_TIMEOUT", "60"},
		{"", "dify.environment_secrets.api.*", "SENTRY_DSN", "sentry-dsn@1"}, {"", "dify.registry_credentials.*", "docker.io", "pull@1"},
	}...)
	for _, p := range places {
		if _, err := config.Parse("difyup.yaml", p.describe(f, p.ordinary)); err != nil {
			f.Fatalf("%s: %v", p.path, err)
		}
	}
	for _, s := range texts() {
		f.Add(s)
	}
	plain := regexp.MustCompile(`^[-a-zA-Z0-9._/@:]*$`)
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		for _, p := range places {
			if _, err := config.Parse("difyup.yaml", p.describe(t, text)); err == nil && !plain.MatchString(text) {
				t.Errorf("%s may be %q", p.path, text)
			}
		}
	})
}

// describe gives a description, as JSON, with text at a place.
func (p place) describe(t testing.TB, text string) []byte {
	t.Helper()
	all := map[string]any{"stack": "demo", "project": "demo-project", "region": "asia-northeast1"}
	keys, in := strings.Split(p.path, "."), all
	last := keys[len(keys)-1]
	for _, key := range keys[:len(keys)-1] {
		next := map[string]any{}
		in[key], in = next, next
	}
	if list, ok := strings.CutSuffix(last, "[]"); ok {
		in[list] = []string{text}
	} else if last == "*" {
		in[text] = p.value
	} else {
		in[last] = text
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// filled gives the description with text in every string option but those of kept, in every list of strings, and in every map, as a key
// and as a value.
func filled(t *testing.T, data []byte, text string) *config.Spec {
	t.Helper()
	spec, err := config.Parse("production.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	keep := map[string]bool{}
	for _, p := range kept() {
		keep[p.field] = true
	}
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
		m.SetMapIndex(reflect.ValueOf(text), reflect.ValueOf(text))
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
