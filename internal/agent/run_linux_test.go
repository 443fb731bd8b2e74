package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/test/servers"
)

// The test's program is the stand-in too, as the agent's is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "standin" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := standin.Main(ctx, os.Args[2:], standin.Options{Env: os.Getenv, Resolver: Resolver(os.Getenv("DIFYUP_DNS")), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(runAgent())
	}
	os.Exit(m.Run())
}

// names is a name server for the private names, which come to be one day.
type names struct {
	conn net.PacketConn

	mu      sync.Mutex
	records map[string]netip.Addr // "db.demo.internal."
}

func newNames(t *testing.T, at netip.Addr) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, records: map[string]netip.Addr{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 1500); ; {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:size]) != nil || len(q.Questions) != 1 {
				continue
			}
			if raw, err := n.answer(q); err == nil {
				_, _ = conn.WriteTo(raw, from) // whoever asked may be gone
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return n
}

func (n *names) answer(q dnsmessage.Message) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true}, Questions: q.Questions}
	addr, ok := n.records[q.Questions[0].Name.String()]
	switch {
	case !ok:
		a.RCode = dnsmessage.RCodeNameError
	case q.Questions[0].Type == dnsmessage.TypeA:
		a.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	return a.Pack()
}

func (n *names) set(name string, a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records[name] = a
}

// cloud is what an instance sees of Google: its metadata server, Secret Manager, Cloud Storage.
type cloud struct {
	ip     netip.Addr
	config string

	mu       sync.Mutex
	refusals int // of secrets, while permissions spread
	objects  map[string]string
	older    map[string]string // earlier versions of objects by NAME#GENERATION, where the bucket has versioning; nil = it has none
	last     int               // generation that was given to an object
	live     map[string]string // the generations of the objects that are there
	lacks    string            // a right to the bucket that the instance does not have
	busy     int               // changes of objects that are refused, because there were too many
	hold     func()            // is called by the next upload, once
	read     []string          // the versions of secrets that were given
	reports  []string
}

// may says whether the instance has the right to do something to the bucket of Dify's files.
func (c *cloud) may(method, path, object string) bool {
	needs := map[string]string{http.MethodGet: "storage.objects.get", http.MethodPost: "storage.objects.create", http.MethodDelete: "storage.objects.delete"}[method]
	switch {
	case path == "/storage/v1/b/files":
		needs = "storage.buckets.get"
	case path == "/storage/v1/b/files/o" && method == http.MethodGet:
		needs = "storage.objects.list"
	case method == http.MethodPost && c.objects[object] != "" && c.lacks == "storage.objects.delete": // what is overwritten is gone
		return false
	}
	return needs != c.lacks
}

// remove does what Cloud Storage does to an object, or to one generation of it. It says whether that was there.
func (c *cloud) remove(name, generation string) bool {
	switch live := c.live[name]; {
	case c.objects[name] != "" && (generation == "" || generation == live):
		if c.older != nil && generation == "" {
			c.older[name+"#"+live] = c.objects[name]
		}
		delete(c.objects, name)
		return true
	case c.older[name+"#"+generation] != "":
		delete(c.older, name+"#"+generation)
		return true
	}
	return false
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if path, ok := strings.CutPrefix(r.URL.Path, "/computeMetadata/v1/"); ok && r.Header.Get("Metadata-Flavor") == "Google" {
		w.Header().Set("Metadata-Flavor", "Google")
		if r.Method == http.MethodPut && path == "instance/guest-attributes/difyup/status" {
			w.Header().Set("Content-Type", "text/html") // it says what it likes
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			c.reports = append(c.reports, string(raw))
			return
		}
		v, ok := map[string]string{
			"instance/name": "vm-1", "instance/zone": "projects/1/zones/r-b", "instance/network-interfaces/0/ip": c.ip.String(),
			"instance/attributes/difyup-config": c.config, "project/attributes/difyup-api-endpoint": "http://" + r.Host + "/",
			"project/attributes/difyup-time-scale":    "0",
			"instance/service-accounts/default/email": "vm@p.iam.gserviceaccount.com",
			"instance/service-accounts/default/token": `{"access_token":"token-1","expires_in":3600,"token_type":"Bearer"}`,
		}[path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, v)
		return
	}
	if r.URL.Path == "/v1/token" && r.FormValue("subject_token") == "token-1" {
		// What it is worth stands in its name.
		worth := "files"
		if strings.Contains(r.FormValue("options"), "objectListPrefix") {
			worth = "plugins"
		}
		fmt.Fprintf(w, `{"access_token":"narrowed-to-%s","expires_in":3600,"token_type":"Bearer"}`, worth)
		return
	}
	switch as, path := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.URL.Path; {
	case as == "token-1", as == "narrowed-to-files" && strings.Contains(path, "/b/files"):
	case as == "narrowed-to-plugins" && (strings.HasSuffix(path, "/b/files") || strings.Contains(path+r.FormValue("name")+r.FormValue("prefix"), "plugin")): // roughly
	default:
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	object, query := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/files/o/"), r.URL.Query()
	if r.Method == http.MethodPost {
		object = query.Get("name")
	}
	if strings.Contains(r.URL.Path, "/b/files") && !c.may(r.Method, r.URL.Path, object) {
		http.Error(w, "Permission denied", http.StatusForbidden)
		return
	}
	switch {
	case c.busy > 0 && r.Method != http.MethodGet:
		c.busy--
		http.Error(w, "The object exceeded the rate limit for object mutation operations", http.StatusTooManyRequests)
	case strings.HasPrefix(r.URL.Path, "/v1/projects/p/secrets/"):
		if c.refusals > 0 {
			c.refusals--
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		name, version, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/projects/p/secrets/"), "/versions/")
		payload := secretOf(name)
		switch version {
		case "2:access":
		case "3:access", "latest:access": // what is newer lets nobody in
			payload = "newer" + payload
		default:
			http.NotFound(w, r)
			return
		}
		c.read = append(c.read, name+"@"+strings.TrimSuffix(version, ":access"))
		fmt.Fprintf(w, `{"payload":{"data":%q}}`, base64.StdEncoding.EncodeToString([]byte(payload)))
	case r.Method == http.MethodGet && r.URL.Path == "/storage/v1/b/files/o":
		list := struct {
			Items []map[string]string `json:"items,omitempty"`
		}{}
		for _, name := range slices.Sorted(maps.Keys(c.objects)) {
			if strings.HasPrefix(name, query.Get("prefix")) {
				list.Items = append(list.Items, map[string]string{"name": name, "generation": c.live[name]})
			}
		}
		for _, at := range slices.Sorted(maps.Keys(c.older)) {
			if name, generation, _ := strings.Cut(at, "#"); query.Get("versions") == "true" && strings.HasPrefix(name, query.Get("prefix")) {
				list.Items = append(list.Items, map[string]string{"name": name, "generation": generation})
			}
		}
		_ = json.NewEncoder(w).Encode(list) // whoever asked may be gone
	case r.Method == http.MethodGet && r.URL.Path == "/storage/v1/b/files":
		io.WriteString(w, `{"name":"files"}`)
	case r.Method == http.MethodPost && r.URL.Path == "/upload/storage/v1/b/files/o":
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if hold := c.hold; hold != nil {
			c.hold = nil
			c.mu.Unlock()
			hold()
			c.mu.Lock()
		}
		if c.older != nil && c.objects[object] != "" {
			c.older[object+"#"+c.live[object]] = c.objects[object]
		}
		c.last++
		if c.live == nil {
			c.live = map[string]string{}
		}
		c.objects[object], c.live[object] = string(raw), strconv.Itoa(c.last)
		fmt.Fprintf(w, `{"generation":%q}`, c.live[object])
	case r.Method == http.MethodGet && c.objects[object] != "":
		io.WriteString(w, c.objects[object])
	case r.Method == http.MethodDelete && c.remove(object, query.Get("generation")):
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

// secretOf gives the value of a secret, which is alphanumeric as all are.
func secretOf(name string) string { return value + strings.ReplaceAll(name, "-", "") }

// children gives the processes that we started and that were not waited for yet, by service.
func children(t *testing.T) map[dify.Name]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	all := map[dify.Name]int{}
	for _, f := range tasks {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(raw)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			args, err := os.ReadFile("/proc/" + field + "/cmdline")
			if words := strings.Split(string(args), "\x00"); err == nil && len(words) > 2 && words[1] == "standin" {
				all[dify.Name(words[2])] = pid
			}
		}
	}
	return all
}

// storesOf starts the stores of a stack, and gives them with the settings of its instances, in which they stand by their addresses.
func storesOf(t *testing.T, runtime string) (*servers.Servers, dify.Settings) {
	t.Helper()
	data := servers.Open(t)
	database, err := data.SQL.Create(t.Context(), "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	// One server is both: the passwords of the main and the vector database are of two users.
	for user, secret := range map[string]string{"dify": "demo-db-password", "vector": "demo-vector-password"} {
		if err := data.SQL.SetUser(t.Context(), "p/main", user, secretOf(secret)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dify", "dify_plugin", "dify_vector"} {
		if err := data.SQL.CreateDatabase(t.Context(), "p/main", name); err != nil {
			t.Fatal(err)
		}
	}
	redis, err := data.Cache.Create(t.Context(), "p/redis", secretOf("demo-redis-auth"), nil)
	if err != nil {
		t.Fatal(err)
	}
	settings := dify.Settings{
		Stack: "demo", Project: "p", Region: "r", Runtime: runtime, DifyVersion: dify.Default, Secrets: map[string]dify.SecretVersion{},
		Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192},
		Stores: dify.Stores{
			Database: dify.Database{Host: database.String(), Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: database.String(), Port: 5432, User: "vector", Name: "dify_vector"},
			Redis:    dify.Address{Host: redis.String(), Port: 6379}, Bucket: "files",
		},
	}
	for _, p := range dify.Purposes() {
		settings.Secrets[p.Key] = dify.SecretVersion{Name: "demo-" + p.Name, Version: 2}
	}
	return data, settings
}

// puller is a runtime that asks, as one that fetches images does, how to log in to registries.
type puller struct {
	runtime.Runtime
	login func(ctx context.Context, registry string) (user, password string, err error)
	got   []string // the first time
}

func (p *puller) Prepare(ctx context.Context, services []dify.Service) error {
	for _, registry := range []string{"ghcr.io", "gcr.io", "quay.io"} {
		if user, password, err := p.login(ctx, registry); len(p.got) < 3 && err != nil {
			p.got = append(p.got, registry+": "+err.Error())
		} else if len(p.got) < 3 {
			p.got = append(p.got, registry+": "+user+" "+password)
		}
	}
	return p.Runtime.Prepare(ctx, services)
}

// TestRun is an instance's life: it waits for permissions, then for names, then serves, survives the runtime's death, and
// ends without losing the request in hand.
func TestRun(t *testing.T) {
	data, settings := storesOf(t, "standin")
	dbAddress, redisAddress := netip.MustParseAddr(settings.Stores.Database.Host), netip.MustParseAddr(settings.Stores.Redis.Host)
	settings.Stores.Database.Host, settings.Stores.Vector.Host, settings.Stores.Redis.Host = "db.demo.internal", "vector.demo.internal", "redis.demo.internal"
	settings.Edge = "edge.demo.internal"
	settings.Environment = map[dify.Name]map[string]string{dify.API: {"PLAIN": "a$b'c\"d"}}
	settings.RegistryCredentials = map[string]dify.SecretVersion{"ghcr.io": {Name: "users-login", Version: 2}}
	settings.SecretEnvironment = map[dify.Name]map[string]dify.SecretVersion{dify.Worker: {"DSN": {Name: "users-own", Version: 2}}}
	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	google := &cloud{config: string(config), refusals: 1 << 30, objects: map[string]string{}}
	if google.ip, err = data.Net.Addr(plane.Instance); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: google}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { server.Close(); <-served })
	dns := newNames(t, data.Net.DNS())

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder // read when Run has returned
	var pulled puller       // likewise
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{
			MetadataHost: listener.Addr().String(), DNS: dns.conn.LocalAddr().String(), Log: slog.New(slog.NewTextHandler(&log, nil)),
			Runtimes: map[string]func(Instance) runtime.Runtime{"standin": func(i Instance) runtime.Runtime {
				pulled.Runtime, pulled.login = standin.NewProcesses(standin.ProcessOptions{
					Program: self, Address: i.Address, Instance: i.Name, Version: i.Settings.DifyVersion, Environ: os.Environ(), Output: io.Discard, Log: i.Log,
					Environment: map[string]string{
						"DIFYUP_DNS": dns.conn.LocalAddr().String(), "STORAGE_EMULATOR_HOST": i.Endpoint,
					},
				}), i.Login
				return &pulled
			}},
		})
	}()
	url := "http://" + netip.AddrPortFrom(google.ip, Port).String()
	client := &http.Client{Timeout: time.Minute}
	get := func(path string) (int, string) {
		resp, err := client.Get(url + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(raw)
	}
	// until waits until a path answers with a status, and with all of the words.
	until := func(path string, code int, words ...string) string {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			got, text := get(path)
			if got == code && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
				return text
			}
			if time.Now().After(end) {
				t.Fatalf("%s answers %d %s, want %d with %q", path, got, text, code, words)
			}
		}
	}

	until("/alive", 503, `"vm-1"`)
	until("/health", 503, "the secret demo-", "may not be read")
	if code, _ := get("/"); code != 503 {
		t.Errorf("before it is ready, traffic gets %d", code)
	}
	google.mu.Lock()
	google.refusals = 0
	google.mu.Unlock()
	until("/health", 503, "the stack's address has a name that is not known yet")
	dns.set("edge.demo.internal.", netip.MustParseAddr("203.0.113.7"))
	until("/health", 503, "the database has a name that is not known yet")
	dns.set("db.demo.internal.", dbAddress)
	until("/health", 503, "the vector database has a name that is not known yet")
	dns.set("vector.demo.internal.", dbAddress)
	until("/health", 503, "Redis has a name that is not known yet")
	if len(children(t)) != 0 {
		t.Error("the runtime was started before the stores answer")
	}
	dns.set("redis.demo.internal.", redisAddress)
	until("/health", 200, "ready")

	// The databases were migrated, and by whom is recorded.
	by := ""
	if c, err := stores.PostgresConfig(net.DefaultResolver, dbAddress.String(), 5432, "dify", secretOf("demo-db-password"), "dify"); err != nil {
		t.Error(err)
	} else if conn, err := pgx.ConnectConfig(t.Context(), c); err != nil {
		t.Error(err)
	} else {
		err := conn.QueryRow(t.Context(), `SELECT version || ' ' || head || ' ' || instance FROM difyup.migrations`).Scan(&by)
		if err = errors.Join(err, conn.Close(t.Context())); err != nil || by != dify.Default+" c3f1a9b2e6d4 vm-1" {
			t.Errorf("migrated: %q, %v", by, err)
		}
	}

	// What uses the stores is for those who log in; nobody else can have anything written.
	if code, text := get("/console/api/setup"); code != 200 || !strings.Contains(text, "not_started") {
		t.Errorf("/console/api/setup: %d %s", code, text)
	}
	for path, want := range map[string]int{"/standin/check": 404, "/health/deep": 404, "/console/api/account/profile": 401, "/inner/api/invoke/encrypt": 404, "/e/does-not-exist/": 404} {
		if code, text := get(path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, text, want)
		}
	}
	if code, page := get("/"); code != 200 || !strings.Contains(page, "stand-in") || !strings.Contains(page, "vm-1") {
		t.Errorf("the page: %d %s", code, page)
	}

	// Each service is given its own settings and little else.
	before := children(t)
	if got, want := slices.Sorted(maps.Keys(before)), slices.Sorted(slices.Values(dify.Names())); !slices.Equal(got, want) {
		t.Fatalf("the services %v run", got)
	}
	secrets := map[string]string{}
	var versions []string
	for purpose, v := range settings.Secrets {
		secrets[purpose], versions = secretOf(v.Name), append(versions, v.String())
	}
	secrets["users-own@2"], versions = secretOf("users-own"), append(versions, "users-own@2", "users-login@2")
	known, err := dify.Lookup(dify.Default)
	if err != nil {
		t.Fatal(err)
	}
	settings.Address = netip.MustParseAddr("203.0.113.7")
	services, err := dify.Project(known, settings, secrets)
	if err != nil {
		t.Fatal(err)
	}
	// given gives the value of a variable that a service was really given.
	given := func(n dify.Name, name string) string {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", before[n]))
		if err != nil {
			t.Fatal(err)
		}
		for v := range strings.SplitSeq(string(raw), "\x00") {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return "(none)"
	}
	if files, hooks := given(dify.API, "FILES_URL"), given(dify.Worker, "TRIGGER_URL"); files != "https://203.0.113.7" || hooks != files {
		t.Errorf("files are linked to at %q, webhooks at %q", files, hooks)
	}
	for _, n := range dify.Names() {
		want := map[dify.Name][2]string{dify.API: {"a$b'c\"d", "(none)"}, dify.Worker: {"(none)", secretOf("users-own")}}[n]
		if want == [2]string{} {
			want = [2]string{"(none)", "(none)"}
		}
		if got := [2]string{given(n, "PLAIN"), given(n, "DSN")}; got != want {
			t.Errorf("what the user adds is in %s %q, want %q", n, got, want)
		}
	}
	for _, s := range services {
		if s.Identity != nil {
			s.Environment["GCE_METADATA_HOST"], s.Environment["GCE_METADATA_IP"], s.Environment["GCE_METADATA_ROOT"] = "", "", ""
		}
		for _, name := range []string{"PATH", "HOME", "DIFYUP_DNS", "STORAGE_EMULATOR_HOST", "STANDIN_ADDRESS", "STANDIN_INSTANCE", "STANDIN_VERSION"} {
			s.Environment[name] = ""
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", before[s.Name]))
		if err != nil {
			t.Fatal(err)
		}
		for v := range strings.SplitSeq(strings.TrimRight(string(raw), "\x00"), "\x00") {
			if name, _, _ := strings.Cut(v, "="); !hasKey(s.Environment, name) {
				t.Errorf("%s was given %s", s.Name, name)
			}
		}
	}

	// Those that have an identity are given tokens that are worth what they need, each at its own place, and nobody is given more.
	for _, n := range dify.Names() {
		host, got := given(n, "GCE_METADATA_HOST"), ""
		if host != "(none)" {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Metadata-Flavor", "Google")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			got, _, _ = strings.Cut(string(raw), ",")
		}
		if want := map[dify.Name]string{
			dify.API: `{"access_token":"narrowed-to-files"`, dify.Worker: `{"access_token":"narrowed-to-files"`, dify.PluginDaemon: `{"access_token":"narrowed-to-plugins"`,
			dify.WorkerBeat: "Not found: /computeMetadata/v1/instance/service-accounts/default/token\n",
		}[n]; got != want {
			t.Errorf("%s is given %q, want %q", n, got, want)
		}
	}

	if err := syscall.Kill(before[dify.API], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after := before
	for end := time.Now().Add(2 * time.Minute); len(after) != len(before) || after[dify.API] == before[dify.API]; time.Sleep(10 * time.Millisecond) {
		if after = children(t); time.Now().After(end) {
			t.Fatalf("the runtimes were %v, and are %v", before, after)
		}
	}
	for service, pid := range before {
		if service != dify.API && after[service] != pid {
			t.Errorf("%s was started again with the API", service)
		}
	}
	until("/alive", 200)
	until("/console/api/setup", 200)
	until("/health", 200)

	// A request in hand keeps the door open until another one came.
	inHand, release, answered := make(chan struct{}), make(chan struct{}), make(chan int, 1)
	google.mu.Lock()
	google.hold = func() { close(inHand); <-release }
	google.mu.Unlock()
	var session []*http.Cookie
	post := func(path, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
		if err != nil {
			return 0
		}
		for _, c := range session {
			req.AddCookie(c)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		session = resp.Cookies()
		return resp.StatusCode
	}
	if code := post("/console/api/init", fmt.Sprintf(`{"password":%q}`, secretOf("demo-init-password"))); code != 201 {
		t.Fatalf("the init password gets %d", code)
	}
	go func() {
		answered <- post("/console/api/setup", `{"email":"owner@example.com","name":"Owner","password":"0wnerOfEverything"}`)
	}()
	<-inHand
	cancel()
	until("/health", 503, "ending")
	if code, _ := get("/console/api/setup"); code != 200 {
		t.Errorf("a request that still comes gets %d", code)
	}
	close(release)
	if code := <-answered; code != 201 {
		t.Errorf("the request in hand gets %d", code)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
	}
	if left := children(t); len(left) != 0 {
		t.Errorf("the runtime %v outlived the agent", left)
	}
	if len(google.objects) != 1 { // the workspace's key
		t.Errorf("%d objects are there", len(google.objects))
	}
	// The versions that the settings name were read, once each, and no others: neither when the API was started again nor later.
	slices.Sort(versions)
	slices.Sort(google.read)
	if !slices.Equal(google.read, versions) {
		t.Errorf("the secrets read are %q, want %q", google.read, versions)
	}
	// The credentials for registries are there when images are fetched: the one of the settings is of another form.
	if want := []string{"ghcr.io: the secret users-login@2: has no text of the form USER:PASSWORD", "gcr.io: oauth2accesstoken token-1", "quay.io:  "}; !slices.Equal(pulled.got, want) {
		t.Errorf("registries are given %q, want %q", pulled.got, want)
	}
	published := strings.Join(google.reports, "\n")
	first, err := report.Parse(google.reports[0])
	if err != nil || first.Phase != report.Secrets || first.Dify != dify.Default || first.At.IsZero() {
		t.Errorf("the first report is %+v, %v", first, err)
	}
	for _, words := range []string{value, "token-1", "narrowed-to-"} {
		if strings.Contains(log.String(), words) {
			t.Errorf("the log shows %q", words)
		}
		if strings.Contains(published, words) {
			t.Errorf("the reports show %q", words)
		}
	}
	for _, words := range []string{"the metadata are read", "403 Forbidden", "the stores answer", "ready for traffic", "starting it again", "ending", "everything has ended"} {
		if !strings.Contains(log.String(), words) {
			t.Errorf("the log does not say %q", words)
		}
	}
	if _, ending, _ := strings.Cut(log.String(), "ending: no new requests"); strings.Contains(ending, "starting it again") {
		t.Error("the log says that what ends is started again")
	}
	if t.Failed() {
		t.Log(log.String())
	}
}

func hasKey(m map[string]string, k string) bool { _, ok := m[k]; return ok }
