package kind_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/api/compute/v1"
	"google.golang.org/api/dns/v1"
	"google.golang.org/api/iam/v1"
	"google.golang.org/api/redis/v1"
	"google.golang.org/api/servicenetworking/v1"
	"google.golang.org/api/sqladmin/v1"
	"google.golang.org/api/storage/v1"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// A table invites "just one more field"; what only one row needs belongs in a driver.
func TestKindStaysSmall(t *testing.T) {
	if n := reflect.TypeFor[resource.Kind]().NumField(); n > 16 {
		t.Errorf("resource.Kind has %d fields, at most 16: write a driver instead", n)
	}
	for f := range reflect.TypeFor[resource.Kind]().Fields() {
		if f.Type.Kind() == reflect.Func {
			t.Errorf("resource.Kind.%s is a hook: write a driver instead", f.Name)
		}
	}
}

// bodies gives the Go type of each kind whose body is one of Google's messages.
var bodies = map[string]reflect.Type{
	"compute.networks": reflect.TypeFor[compute.Network](), "compute.subnetworks": reflect.TypeFor[compute.Subnetwork](),
	"compute.routers": reflect.TypeFor[compute.Router](), "compute.globalAddresses": reflect.TypeFor[compute.Address](),
	"compute.firewalls": reflect.TypeFor[compute.Firewall](), "compute.healthChecks": reflect.TypeFor[compute.HealthCheck](),
	"compute.sslPolicies": reflect.TypeFor[compute.SslPolicy](), "compute.instanceTemplates": reflect.TypeFor[compute.InstanceTemplate](),
	"compute.sslCertificates":             reflect.TypeFor[kind.Certificate](),
	"compute.regionInstanceGroupManagers": reflect.TypeFor[compute.InstanceGroupManager](),
	"compute.regionAutoscalers":           reflect.TypeFor[compute.Autoscaler](), "compute.backendServices": reflect.TypeFor[compute.BackendService](),
	"compute.urlMaps": reflect.TypeFor[compute.UrlMap](), "compute.targetHttpsProxies": reflect.TypeFor[compute.TargetHttpsProxy](),
	"compute.targetHttpProxies": reflect.TypeFor[compute.TargetHttpProxy](), "compute.globalForwardingRules": reflect.TypeFor[compute.ForwardingRule](),
	"sql.instances": reflect.TypeFor[sqladmin.DatabaseInstance](), "sql.databases": reflect.TypeFor[sqladmin.Database](), "sql.users": reflect.TypeFor[sqladmin.User](),
	"redis.instances": reflect.TypeFor[redis.Instance](), "storage.buckets": reflect.TypeFor[storage.Bucket](), "storage.objects": reflect.TypeFor[kind.Object](),
	"serviceusage.services": reflect.TypeFor[kind.ServiceList](), "servicenetworking.connections": reflect.TypeFor[servicenetworking.Connection](),
	"iam.serviceAccounts": reflect.TypeFor[iam.ServiceAccount](), "cloudresourcemanager.projectIam": reflect.TypeFor[kind.Policy](),
	"storage.bucketIam": reflect.TypeFor[kind.Policy](), "secretmanager.secretIam": reflect.TypeFor[kind.Policy](),
	"secretmanager.secrets": reflect.TypeFor[kind.Secret](), "dns.managedZones": reflect.TypeFor[dns.ManagedZone](), "dns.resourceRecordSets": reflect.TypeFor[dns.ResourceRecordSet](),
}

// TestPaths resolves every path of the table in the Go type of the body.
func TestPaths(t *testing.T) {
	for _, k := range kind.All() {
		typ, ok := bodies[k.Name]
		if !ok {
			t.Errorf("%s: no body type in this test", k.Name)
			continue
		}
		var paths []resource.Path
		paths = append(append(append(paths, k.Immutable...), k.Sets...), k.Ignored...)
		if k.Fingerprint != "" {
			paths = append(paths, k.Fingerprint)
		}
		for p := range k.Ready {
			paths = append(paths, p)
		}
		for _, p := range []resource.Path{k.Mark.At, k.Mark.Number} {
			if p != "" {
				paths = append(paths, p)
			}
		}
		for _, p := range paths {
			if !hasPath(typ, string(p)) {
				t.Errorf("%s: %v has no field %s", k.Name, typ, p)
			}
		}
	}
}

// TestReferences resolves the paths of every reference of a stack in the Go types of both bodies.
func TestReferences(t *testing.T) {
	spec, err := config.Load(t.Context(), "../../examples/production.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Build(spec, topology.Agent{Path: "agent", SHA256: strings.Repeat("0", 64)}, topology.Given{})
	if err != nil {
		t.Fatal(err)
	}
	selector, seen := regexp.MustCompile(`\[[^]]*\]`), 0
	general := func(p resource.Path) string { return selector.ReplaceAllString(string(p), "[]") }
	for _, r := range g.Resources() {
		for _, ref := range r.References {
			seen++
			if !hasPath(bodies[r.Kind.Name], general(ref.At)) {
				t.Errorf("%s: %v has no field %s", r.ID(), bodies[r.Kind.Name], ref.At)
			}
			// A secret is asked for with a call of its own.
			if to := g.Get(ref.To); ref.Output != "" && !slices.Contains(to.Kind.Secret, ref.Output) && !hasPath(bodies[to.Kind.Name], general(ref.Output)) {
				t.Errorf("%s: %v shows no %s", r.ID(), bodies[to.Kind.Name], ref.Output)
			}
		}
	}
	if seen < 30 {
		t.Errorf("%d references only", seen)
	}
}

func hasPath(typ reflect.Type, path string) bool {
	for part := range strings.SplitSeq(path, ".") {
		name := strings.TrimSuffix(part, "[]")
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return false
		}
		i := slices.IndexFunc(reflect.VisibleFields(typ), func(f reflect.StructField) bool {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return tag == name
		})
		if i < 0 {
			return false
		}
		typ = reflect.VisibleFields(typ)[i].Type
		if strings.HasSuffix(part, "[]") && typ.Kind() != reflect.Slice {
			return false
		}
	}
	return true
}

// method is what a discovery document says of one.
type method struct {
	ID, Path, FlatPath, HTTPMethod string
	Parameters                     map[string]struct{ Location string }
	Request                        struct {
		Ref string `json:"$ref"`
	}
}

type document struct {
	RootURL, ServicePath string
	Resources            map[string]node
	Schemas              map[string]struct {
		Properties map[string]json.RawMessage
	}
}

type node struct {
	Methods   map[string]method
	Resources map[string]node
}

func (n node) all(yield func(method)) {
	for _, m := range n.Methods {
		yield(m)
	}
	for _, sub := range n.Resources {
		sub.all(yield)
	}
}

var documents = map[string]string{
	"compute": "compute/v1/compute-api.json", "sqladmin": "sqladmin/v1/sqladmin-api.json", "redis": "redis/v1/redis-api.json",
	"storage": "storage/v1/storage-api.json", "iam": "iam/v1/iam-api.json", "cloudresourcemanager": "cloudresourcemanager/v1/cloudresourcemanager-api.json",
	"secretmanager": "secretmanager/v1/secretmanager-api.json", "dns": "dns/v1/dns-api.json", "logging": "logging/v2/logging-api.json",
	"servicenetworking": "servicenetworking/v1/servicenetworking-api.json", "serviceusage": "serviceusage/v1/serviceusage-api.json",
}

// TestDiscovery asks Google's discovery documents whether each row's collection exists, can be read, created in,
// updated and deleted from as the row says, and whether the name's parameter and the fingerprint are right.
func TestDiscovery(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		t.Fatalf("find the module google.golang.org/api: %v", err)
	}
	byAPI := map[string]map[string]method{} // "GET projects/{}/global/networks" by API
	for _, api := range kind.APIs() {
		raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), documents[api.Name]))
		if err != nil {
			t.Fatal(err)
		}
		var doc document
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		if api.Host != doc.RootURL {
			t.Errorf("%s: host %s, the document says %s", api.Name, api.Host, doc.RootURL)
		}
		methods := map[string]method{}
		node{Resources: doc.Resources}.all(func(m method) {
			path := m.FlatPath
			if path == "" {
				path = m.Path
			}
			path = doc.ServicePath + path
			methods[m.HTTPMethod+" "+blank(path)] = m
		})
		byAPI[api.Name] = methods
	}
	for _, k := range kind.All() {
		methods := byAPI[k.API.Name]
		at := blank(k.API.Base + k.Collection)
		if k.Driver == "iam" {
			switch k.API.Name {
			case "storage":
				expect(t, k, methods, "GET "+at+"/iam", "PUT "+at+"/iam")
			case "secretmanager":
				expect(t, k, methods, "GET "+at+":getIamPolicy", "POST "+at+":setIamPolicy")
			default:
				expect(t, k, methods, "POST "+at+":getIamPolicy", "POST "+at+":setIamPolicy")
			}
			continue
		}
		if k.Driver == "services" {
			at = strings.Replace(at, "projects/", "{}/", 1)
			expect(t, k, methods, "GET "+at, "POST "+at+":batchEnable")
			continue
		}
		if k.Driver == "connection" {
			at = strings.Replace(at, "servicenetworking.googleapis.com", "{}", 1)
			expect(t, k, methods, "GET "+at, "POST "+at, "PATCH "+at+"/{}", "POST "+at+"/{}")
			continue
		}
		create, one := "POST "+at, at+"/{}"
		if k.Driver == "rrset" {
			one = at + "/{}/{}"
		}
		if k.Driver == "sqluser" {
			expect(t, k, methods, "POST "+at, "PUT "+at, "DELETE "+at)
			continue
		}
		expect(t, k, methods, create, "DELETE "+one)
		if k.Driver != "sqluser" {
			expect(t, k, methods, "GET "+one)
		}
		if k.List != "" {
			expect(t, k, methods, "GET "+at)
		}
		if m, ok := methods[create]; ok && k.CreateParam != "" && m.Parameters[k.CreateParam].Location != "query" {
			t.Errorf("%s: creation takes no query parameter %s", k.Name, k.CreateParam)
		}
		switch {
		case k.Update == resource.Replace:
		case k.PatchParam != "":
			expect(t, k, methods, "PATCH "+at)
			if methods["PATCH "+at].Parameters[k.PatchParam].Location != "query" {
				t.Errorf("%s: PATCH takes no query parameter %s", k.Name, k.PatchParam)
			}
		default:
			expect(t, k, methods, "PATCH "+one)
			mask := methods["PATCH "+one].Parameters["updateMask"].Location == "query"
			if k.Driver == "" && mask != (k.Update == resource.PatchMask || k.Update == resource.PatchEach) {
				t.Errorf("%s: update is %s, but updateMask is a parameter: %v", k.Name, k.Update, mask)
			}
		}
	}
}

func blank(path string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(path, '{')
		if i < 0 {
			return b.String() + path
		}
		j := strings.IndexByte(path, '}')
		b.WriteString(path[:i] + "{}")
		path = path[j+1:]
	}
}

func expect(t *testing.T, k *resource.Kind, methods map[string]method, want ...string) {
	t.Helper()
	for _, w := range want {
		if _, ok := methods[w]; !ok {
			t.Errorf("%s: %s has no method %q", k.Name, k.API.Name, w)
		}
	}
}

// TestMarks checks that every kind says in one way whose a resource is, and that what stands in another stands in one
// that bears a mark.
func TestMarks(t *testing.T) {
	for _, k := range kind.All() {
		m, ways := k.Mark, 0
		for _, is := range []bool{m.At != "", m.Within != "", m.Member, m.Shared} {
			if is {
				ways++
			}
		}
		if ways != 1 {
			t.Errorf("%s has %d ways to show whose it is, not 1", k.Name, ways)
		}
		if holder, ok := kind.ByName(m.Within); m.Within != "" && (!ok || holder.Mark.At == "") {
			t.Errorf("%s stands in %s, which bears no mark", k.Name, m.Within)
		}
		// Of these apply says how they are deleted by hand, wherever.
		if (m.At != "" || k.HoldsData()) && m.Delete == "" && k.Name != "compute.regionAutoscalers" {
			t.Errorf("%s: there is no command that deletes one by hand", k.Name)
		}
	}
}
