package dify_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// settings are an instance's, with a value for each secret.
func settings() (dify.Settings, map[string]string) {
	s := dify.Settings{
		Stack: "demo", Project: "p", Region: "r", Runtime: "compose", DifyVersion: dify.Default, Domain: "dify.example.com",
		Stores: dify.Stores{
			Database: dify.Database{Host: "db.demo.internal", Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: "vector.demo.internal", Port: 5432, User: "vector", Name: "vectors"},
			Redis:    dify.Address{Host: "redis.demo.internal", Port: 6379}, Bucket: "files",
		},
		Machine: dify.Machine{CPUs: 4, MemoryMiB: 16384},
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = "value-of-" + p.Key
	}
	return s, secrets
}

func project(t *testing.T, version string, s dify.Settings, secrets map[string]string) map[dify.Name]dify.Service {
	t.Helper()
	r, err := dify.Lookup(version)
	if err != nil {
		t.Fatal(err)
	}
	services, err := dify.Project(r, s, secrets)
	if err != nil {
		t.Fatal(err)
	}
	by := map[dify.Name]dify.Service{}
	for i, svc := range services {
		if svc.Name != dify.Names()[i] {
			t.Fatalf("the services are not in the order of Names: %s", svc.Name)
		}
		by[svc.Name] = svc
	}
	return by
}

// text writes services as a page.
func text(services map[dify.Name]dify.Service) string {
	var b strings.Builder
	for _, n := range dify.Names() {
		s := services[n]
		fmt.Fprintf(&b, "%s\n  image %s\n  memory %d MiB, cpus %g, shares %d\n  networks %v, needs %v, grace %s\n", n, s.Image, s.MemoryMiB, s.CPUs, s.Shares, s.Networks, s.Needs, s.Grace)
		if s.Port > 0 {
			fmt.Fprintf(&b, "  port %d\n", s.Port)
		}
		if h := s.Health; h != nil {
			fmt.Fprintf(&b, "  health %q by %s, start %s\n", h.Path, h.Probe, h.Start)
		}
		if s.Data != "" {
			fmt.Fprintf(&b, "  data %s\n", s.Data)
		}
		for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
			fmt.Fprintf(&b, "    %s=%s\n", name, s.Environment[name])
		}
	}
	return b.String()
}

// TestProject compares all that each release's containers are given.
func TestProject(t *testing.T) {
	for _, r := range dify.Releases() {
		s, secrets := settings()
		got := text(project(t, r.Version, s, secrets))
		file := filepath.Join("testdata", "project", r.Version+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got; -update rewrites it):\n%s", r.Version, d)
		}
	}
}

// TestWhoSeesWhat says for each secret, and for each name that several programs give another meaning, whose it is. It is
// written apart from the table of settings, and holds for every release.
func TestWhoSeesWhat(t *testing.T) {
	apps := []dify.Name{dify.API, dify.Worker, dify.WorkerBeat}
	serving := []dify.Name{dify.API, dify.Worker}
	secretOf := map[string][]dify.Name{
		dify.SecretKey: apps, dify.InitPassword: {dify.API}, dify.PluginKey: {dify.API, dify.Worker, dify.PluginDaemon},
		dify.InnerKey: {dify.API, dify.Worker, dify.PluginDaemon}, dify.SandboxKey: {dify.API, dify.Worker, dify.Sandbox},
		dify.DBPassword: {dify.API, dify.Worker, dify.WorkerBeat, dify.PluginDaemon}, dify.VectorPassword: serving,
		dify.RedisAuth: {dify.API, dify.Worker, dify.WorkerBeat, dify.PluginDaemon},
	}
	nameOf := map[string][]dify.Name{
		"API_KEY": {dify.Sandbox}, "SERVER_KEY": {dify.PluginDaemon}, "REDIS_KEY_PREFIX": {dify.PluginDaemon}, "HOSTNAME": {dify.Web},
		"HTTP_PROXY": {dify.Sandbox}, "SERVER_WORKER_CONNECTIONS": {dify.API}, "CELERY_WORKER_AMOUNT": {dify.Worker}, "MODE": apps,
		"DIFY_INNER_API_URL": {dify.PluginDaemon}, "PLUGIN_DAEMON_URL": serving, "SSRF_PROXY_HTTP_URL": serving, "DB_PLUGIN_DATABASE": nil,
		"PLUGIN_INSTALLED_PATH": {dify.PluginDaemon}, "SQLALCHEMY_POOL_SIZE": apps,
	}
	for _, r := range dify.Releases() {
		s, secrets := settings()
		services := project(t, r.Version, s, secrets)
		for purpose, want := range secretOf {
			var got []dify.Name
			for _, n := range dify.Names() {
				if slices.ContainsFunc(slices.Collect(maps.Values(services[n].Environment)), func(v string) bool { return strings.Contains(v, secrets[purpose]) }) {
					got = append(got, n)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: who sees the secret %s (-want +got):\n%s", r.Version, purpose, d)
			}
		}
		for name, want := range nameOf {
			var got []dify.Name
			for _, n := range dify.Names() {
				if _, ok := services[n].Environment[name]; ok {
					got = append(got, n)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: who has the variable %s (-want +got):\n%s", r.Version, name, d)
			}
		}
		if main, plugins := services[dify.API].Environment["DB_DATABASE"], services[dify.PluginDaemon].Environment["DB_DATABASE"]; main != "dify" || plugins != "dify_plugin" {
			t.Errorf("%s: the databases are %s and %s", r.Version, main, plugins)
		}
		for _, n := range dify.Names() {
			for name, value := range services[n].Environment {
				for _, secret := range secrets {
					if strings.Contains(value, secret) && !dify.Secret(name) {
						t.Errorf("%s: %s of %s holds a secret, and its name does not say so", r.Version, name, n)
					}
				}
			}
			ours := dify.Variables(r, n)
			for name := range services[n].Environment {
				if !slices.Contains(ours, name) {
					t.Errorf("%s: %s of %s is not among what difyup sets", r.Version, name, n)
				}
			}
		}
	}
}

// Without a domain, links lead to the stack's address. As long as the address is not known, links have no host: what takes an
// empty text for the address the browser came by is given that, the rest nothing. That the web interface and the API are told
// the same is how a browser finds the API's cookies, which have other names behind https.
func TestWithoutDomain(t *testing.T) {
	s, secrets := settings()
	s.Domain = ""
	for _, tc := range []struct {
		address netip.Addr
		site    string
	}{{netip.Addr{}, ""}, {netip.MustParseAddr("203.0.113.7"), "https://203.0.113.7"}} {
		s.Address = tc.address
		services := project(t, dify.Default, s, secrets)
		for _, n := range []dify.Name{dify.API, dify.Worker} {
			for _, name := range []string{"CONSOLE_API_URL", "CONSOLE_WEB_URL", "SERVICE_API_URL", "APP_WEB_URL", "FILES_URL", "TRIGGER_URL"} {
				if v, ok := services[n].Environment[name]; !ok || v != tc.site {
					t.Errorf("%s of %s is %q, %t; want %q", name, n, v, ok, tc.site)
				}
			}
		}
		for name, want := range map[string]string{"CONSOLE_API_URL": tc.site, "APP_API_URL": tc.site, "CONSOLE_WEB_URL": tc.site} {
			if v, ok := services[dify.Web].Environment[name]; !ok || v != want {
				t.Errorf("%s of web is %q, %t; want %q", name, v, ok, want)
			}
		}
		for name, want := range map[string]string{
			"ENDPOINT_URL_TEMPLATE": tc.site + "/e/{hook_id}", "CONSOLE_CORS_ALLOW_ORIGINS": tc.site, "WEB_API_CORS_ALLOW_ORIGINS": tc.site,
		} {
			if v, ok := services[dify.API].Environment[name]; ok != (tc.site != "") || ok && v != want {
				t.Errorf("%s is %q, %t; want %q", name, v, ok, want)
			}
		}
		if v, ok := services[dify.Web].Environment["NEXT_PUBLIC_SOCKET_URL"]; ok != (tc.site != "") || ok && v != "wss://203.0.113.7" {
			t.Errorf("NEXT_PUBLIC_SOCKET_URL is %q, %t", v, ok)
		}
	}
}

func TestProjectRefuses(t *testing.T) {
	r, err := dify.Lookup(dify.Default)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range dify.Purposes() {
		s, secrets := settings()
		delete(secrets, p.Key)
		if got, err := dify.Project(r, s, secrets); got != nil || err == nil || !strings.Contains(err.Error(), p.Key) {
			t.Errorf("without %s: %v", p.Key, err)
		}
	}
	s, secrets := settings()
	s.Environment = map[dify.Name]map[string]string{dify.Web: {"HOSTNAME": "x"}}
	if _, err := dify.Project(r, s, secrets); err == nil || !strings.Contains(err.Error(), "HOSTNAME of web cannot be set") {
		t.Errorf("a variable of difyup's: %v", err)
	}
	for name, n := range map[string]dify.Name{"PIP_MIRROR_URL": dify.Sandbox, "ENDPOINT_URL_TEMPLATE": dify.API} {
		s.Environment = nil
		s.SecretEnvironment = map[dify.Name]map[string]dify.SecretVersion{n: {name: {Name: "mine", Version: 3}}}
		if _, err := dify.Project(r, s, secrets); err == nil || err.Error() != "the secret mine@3 has no value" {
			t.Errorf("without the value of a secret: %v", err)
		}
		secrets["mine@3"] = "MineAndNobodyElses"
		if _, err := dify.Project(r, s, secrets); err == nil || !strings.Contains(err.Error(), name+" of "+string(n)+" cannot be set: ") || strings.Contains(err.Error(), secrets["mine@3"]) {
			t.Errorf("%s of %s: %v", name, n, err)
		}
		delete(secrets, "mine@3")
	}
	for _, name := range []string{"HOSTNAME", "DIFYUP_X", "STANDIN_ADDRESS", "GCE_METADATA_HOST", "GCE_METADATA_IP", "STORAGE_EMULATOR_HOST"} {
		if dify.Reserved(r, dify.Web, name) == "" {
			t.Errorf("a user may set %s", name)
		}
	}
	if why := dify.Reserved(r, dify.Web, "PIP_MIRROR_URL"); why != "" {
		t.Errorf("what is another service's: %s", why)
	}
	if dify.Reserved(r, dify.SSRFProxy, "SSRF_PROXY_ALLOW_PRIVATE_IPS") == "" {
		t.Error("a user may set what the proxy does not read")
	}
	s.SecretEnvironment = map[dify.Name]map[string]dify.SecretVersion{dify.API: {"SENTRY_DSN": {Name: "mine", Version: 3}, "ANOTHER": {Name: "mine", Version: 4}}}
	secrets["mine@3"], secrets["mine@4"] = "MineAndNobodyElses", "x"
	s.Environment = map[dify.Name]map[string]string{dify.Web: {"MARKETPLACE_URL": "x"}, dify.API: {"PLAIN": "y"}}
	s.Registry, s.PipMirror = "mirror.example.com/hub/", "https://pypi.example.com/simple"
	// What nobody else depends on is difyup's to suggest.
	s.Environment[dify.PluginDaemon] = map[string]string{"FORCE_VERIFYING_SIGNATURE": "false"}
	for _, name := range dify.Suggested() {
		if !slices.ContainsFunc(dify.Names(), func(n dify.Name) bool { return slices.Contains(dify.Variables(r, n), name) }) || dify.Reserved(r, dify.API, name) != "" {
			t.Errorf("%s is not suggested", name)
		}
	}
	services := project(t, dify.Default, s, secrets)
	if got := services[dify.PluginDaemon].Environment["FORCE_VERIFYING_SIGNATURE"]; got != "false" {
		t.Errorf("unsigned plugins: %s", got)
	}
	if got := services[dify.Web]; got.Environment["MARKETPLACE_URL"] != "x" || got.Image != "mirror.example.com/hub/langgenius/dify-web:"+dify.Default {
		t.Errorf("got %+v", got)
	}
	if got := services[dify.API]; got.Environment["SENTRY_DSN"] != "MineAndNobodyElses" || got.Environment["ANOTHER"] != "x" || !slices.Equal(got.Secrets, []string{"ANOTHER", "SENTRY_DSN"}) ||
		!got.Secret("SENTRY_DSN") || !got.Secret("SECRET_KEY") || got.Secret("PLAIN") || services[dify.Sandbox].Environment["SENTRY_DSN"] != "" {
		t.Errorf("got %+v", got)
	}
	if _, ok := services[dify.API].Environment["MARKETPLACE_URL"]; ok {
		t.Error("another service got it too")
	}
	for n, want := range map[dify.Name]bool{dify.PluginDaemon: true, dify.Sandbox: true, dify.API: false} {
		if _, ok := services[n].Environment["PIP_MIRROR_URL"]; ok != want {
			t.Errorf("PIP_MIRROR_URL of %s: %t", n, ok)
		}
	}
}

// TestDivide holds shares of machines of all sizes against what was measured.
func TestDivide(t *testing.T) {
	peak := map[dify.Name]int{dify.API: 575, dify.Worker: 490, dify.WorkerBeat: 408, dify.PluginDaemon: 245, dify.Web: 180, dify.Sandbox: 147, dify.SSRFProxy: 1}
	for _, m := range []dify.Machine{{2, 4096}, {2, 8192}, {4, 4096}, {4, 16384}, {8, 32768}, {16, 16384}, {32, 131072}, {360, 2949120}} {
		b, err := dify.Divide(m, dify.Tuning{})
		if err != nil {
			t.Errorf("%+v: %v", m, err)
			continue
		}
		sum := 0
		for _, n := range dify.Names() {
			s := b.Shares[n]
			sum += s.MemoryMiB
			if s.MemoryMiB*10 < peak[n]*13 || s.CPUs <= 0 || s.CPUs > float64(m.CPUs) || s.Weight == 0 {
				t.Errorf("%+v: %s gets %+v", m, n, s)
			}
		}
		if sum > m.MemoryMiB-700 {
			t.Errorf("%+v: the shares are %d MiB", m, sum)
		}
		if b.APIWorkers < 1 || b.APIConnections < 100 || b.WorkerTasks < 4 || b.APIPool.Size < 1 {
			t.Errorf("%+v: %+v", m, b)
		}
		// What fits into the databases of one machine type fits for all.
		if main, vector := b.Connections(7); main > 2000 || vector > 2000 {
			t.Errorf("%+v: 7 instances open %d and %d connections", m, main, vector)
		}
	}
	got := map[string]string{}
	for _, m := range []dify.Machine{{2, 8192}, {4, 16384}, {8, 32768}} {
		b, err := dify.Divide(m, dify.Tuning{})
		if err != nil {
			t.Fatal(err)
		}
		got[fmt.Sprint(m.CPUs)] = fmt.Sprintf("%d × %d, pools %v, %d tasks, pool %v", b.APIWorkers, b.APIConnections, b.APIPool, b.WorkerTasks, b.WorkerPool)
	}
	if d := cmp.Diff(map[string]string{
		"2": "1 × 100, pools {20 20}, 4 tasks, pool {27 27}", "4": "2 × 100, pools {20 20}, 8 tasks, pool {49 49}", "8": "4 × 100, pools {10 10}, 16 tasks, pool {93 93}",
	}, got); d != "" {
		t.Errorf("by vCPUs (-want +got):\n%s", d)
	}

	var f *fault.Fault
	if _, err := dify.Divide(dify.Machine{CPUs: 2, MemoryMiB: 3072}, dify.Tuning{}); !errors.As(err, &f) || !strings.Contains(f.Detail, "the machine has 3072 MiB") {
		t.Errorf("too small: %v", err)
	}
	if _, err := dify.Divide(dify.Machine{CPUs: 2, MemoryMiB: 4096}, dify.Tuning{APIWorkers: 4}); !errors.As(err, &f) || !strings.Contains(f.Detail, "4 processes") {
		t.Errorf("too many processes: %v", err)
	}
}

// TestLargestUpload checks that the front door lets in what Dify is told to take.
func TestLargestUpload(t *testing.T) {
	for want, env := range map[int64]map[string]string{
		100 << 20: {"UPLOAD_FILE_SIZE_LIMIT": "50", "UPLOAD_FILE_BATCH_LIMIT": "1000", "UPLOAD_VIDEO_FILE_SIZE_LIMIT": "much"},
		500 << 20: {"UPLOAD_VIDEO_FILE_SIZE_LIMIT": "500", "UPLOAD_FILE_SIZE_LIMIT": "300"},
	} {
		if got := (dify.Settings{Environment: map[dify.Name]map[string]string{dify.API: env, dify.Web: {"UPLOAD_FILE_SIZE_LIMIT": "900"}}}).LargestUpload(); got != want {
			t.Errorf("%v: %d, want %d", env, got, want)
		}
	}
}

// TestConnections: four instances, three and one more while rolling: 4 × (80 + 98 + 2 + 15) + 12; and what a user raises counts.
func TestConnections(t *testing.T) {
	b, err := dify.Divide(dify.Machine{CPUs: 4, MemoryMiB: 16384}, dify.Tuning{})
	if err != nil {
		t.Fatal(err)
	}
	if main, vector := b.Connections(4); main != 4*(80+98+2+15)+12 || vector != 4*(40+80)+10 {
		t.Errorf("got %d and %d", main, vector)
	}
	b, err = dify.Divide(dify.Machine{CPUs: 4, MemoryMiB: 16384}, dify.Tuning{APIDatabase: 100, WorkerTasks: 50})
	if err != nil {
		t.Fatal(err)
	}
	if main, vector := b.Connections(1); main != 100+(11*50+10)+2+15+12 || vector != 50+10*50+10 {
		t.Errorf("got %d and %d", main, vector)
	}
}

// TestPins checks that images are run by the digests that are known, and by their tags otherwise, below the mirror if there is one.
func TestPins(t *testing.T) {
	images := func(registry string, pins map[string]string) map[dify.Name]string {
		s, secrets := settings()
		s.Registry, s.Pins = registry, pins
		all := map[dify.Name]string{}
		for name, svc := range project(t, dify.Default, s, secrets) {
			all[name] = svc.Image
		}
		return all
	}
	got := images("", map[string]string{"langgenius/dify-api:1.17.1": "sha256:a", "langgenius/dify-web:1.17.0": "sha256:b"})
	if d := cmp.Diff(map[dify.Name]string{
		dify.API: "langgenius/dify-api@sha256:a", dify.Worker: "langgenius/dify-api@sha256:a", dify.WorkerBeat: "langgenius/dify-api@sha256:a",
		dify.Web: "langgenius/dify-web:1.17.1", dify.PluginDaemon: "langgenius/dify-plugin-daemon:0.6.10-local", dify.Sandbox: "langgenius/dify-sandbox:0.2.15",
		dify.SSRFProxy: "ubuntu/squid:6.6-24.04_beta",
	}, got); d != "" {
		t.Errorf("images (-want +got):\n%s", d)
	}
	s, secrets := settings()
	s.Pins = map[string]string{"acme/web:1": "sha256:c"}
	s.Images = map[dify.Name]string{dify.API: "ghcr.io/acme/api:1@sha256:d", dify.Web: "acme/web:1"}
	own := project(t, dify.Default, s, secrets)
	if a, w := own[dify.Worker].Image, own[dify.Web].Image; a != "ghcr.io/acme/api@sha256:d" || w != "acme/web@sha256:c" {
		t.Errorf("of the user's: %s, %s", a, w)
	}
	got = images("mirror.example.com:5000/hub", map[string]string{"langgenius/dify-api:1.17.1": "sha256:a", "mirror.example.com:5000/hub/langgenius/dify-web:1.17.1": "sha256:b"})
	if got[dify.API] != "mirror.example.com:5000/hub/langgenius/dify-api:1.17.1" || got[dify.Web] != "mirror.example.com:5000/hub/langgenius/dify-web@sha256:b" {
		t.Errorf("below the mirror: %v", got)
	}
}

// TestNear has each service connect to its stores, and nobody else to any.
func TestNear(t *testing.T) {
	s, secrets := settings()
	s.Stores.Redis.Port, s.PipMirror = 6378, "https://user:word@pip.demo.internal/simple"
	const db, vector, redis, pip = "db.demo.internal:5432", "vector.demo.internal:5432", "redis.demo.internal:6378", "pip.demo.internal:443"
	want := map[dify.Name][]string{
		dify.API: {db, vector, redis}, dify.Worker: {db, vector, redis}, dify.WorkerBeat: {db}, dify.PluginDaemon: {db, redis, pip},
		dify.Web: nil, dify.Sandbox: nil, dify.SSRFProxy: {pip},
	}
	got := map[dify.Name][]string{}
	for n, service := range project(t, dify.Default, s, secrets) {
		got[n] = service.Near
		// Who is told of a store connects to it.
		for name, value := range service.Environment {
			if strings.HasSuffix(name, "_HOST") && strings.HasSuffix(value, ".demo.internal") && !slices.ContainsFunc(service.Near, func(at string) bool { return strings.HasPrefix(at, value+":") }) {
				t.Errorf("%s of %s is %s, and it may reach %q", name, n, value, service.Near)
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what services reach (-want +got):\n%s", d)
	}
	const mail = "mail.example.internal:587"
	const tools = "mcp.example.internal:8443"
	s.PrivateServices, s.ProxiedServices = []string{mail, db}, []string{tools, pip}
	for n, service := range project(t, dify.Default, s, secrets) {
		var asked []string
		if n == dify.API || n == dify.Worker || n == dify.PluginDaemon {
			asked = []string{mail}
		}
		if n == dify.SSRFProxy {
			asked = []string{tools}
		}
		if d := cmp.Diff(append(slices.Clone(want[n]), asked...), service.Near); d != "" {
			t.Errorf("what %s reaches with a mail server (-want +got):\n%s", n, d)
		}
	}
	s.PrivateServices, s.ProxiedServices = nil, nil
	s.PipMirror = "http://10.0.0.9:8081/simple"
	if got := project(t, dify.Default, s, secrets)[dify.PluginDaemon].Near; got[len(got)-1] != "10.0.0.9:8081" {
		t.Errorf("the mirror is at %q", got)
	}
}
