//go:build linux

package sabotage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/test/servers"
)

const password = "Pa55w0rdOfTheStores"

// bucket is Cloud Storage and the metadata server in one: buckets with objects, and rights that can be missing.
type bucket struct {
	mu      sync.Mutex
	buckets map[string]map[string]string
	lacks   map[string]string // by bucket, "storage.objects.get"
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token" && r.Header.Get("Metadata-Flavor") == "Google" {
		fmt.Fprint(w, `{"access_token":"token-1","expires_in":3600,"token_type":"Bearer"}`)
		return
	}
	fail := func(code int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error":{"code":%d,"message":%q}}`, code, message)
	}
	if r.Header.Get("Authorization") != "Bearer token-1" {
		fail(http.StatusUnauthorized, "Invalid Credentials")
		return
	}
	path, uploads := strings.CutPrefix(r.URL.Path, "/upload")
	name, object, _ := strings.Cut(strings.TrimPrefix(path, "/storage/v1/b/"), "/o")
	object = strings.TrimPrefix(object, "/")
	objects, there := b.buckets[name]
	permission := "storage.buckets.get"
	switch {
	case uploads:
		permission = "storage.objects.create"
	case object != "" && r.Method == http.MethodGet:
		permission = "storage.objects.get"
	case r.Method == http.MethodDelete:
		permission = "storage.objects.delete"
	}
	if !there {
		fail(http.StatusNotFound, "The specified bucket does not exist.")
		return
	}
	if b.lacks[name] == permission {
		fail(http.StatusForbidden, "vm@p.iam.gserviceaccount.com does not have "+permission+" access to the Google Cloud Storage resource.")
		return
	}
	switch contents, kept := objects[object]; {
	case uploads:
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		objects[r.URL.Query().Get("name")] = string(raw)
		fmt.Fprint(w, `{"generation":"1"}`)
	case object == "":
		fmt.Fprintf(w, `{"name":%q}`, name)
	case !kept:
		fail(http.StatusNotFound, "No such object: "+name+"/"+object)
	case r.Method == http.MethodDelete:
		delete(objects, object)
		w.WriteHeader(http.StatusNoContent)
	default:
		fmt.Fprint(w, contents)
	}
}

// names gives the objects of a bucket.
func (b *bucket) names(bucket string) (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.buckets[bucket] {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// world is what stacks stand on: servers, of which each stack has databases of its own.
type world struct {
	net     *plane.Net
	sql     *plane.SQL
	redis   *plane.Cache
	store   *bucket
	storage string // its address
	db      netip.Addr
	stacks  atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	data := servers.Open(t)
	w := &world{net: data.Net, sql: data.SQL, redis: data.Cache, store: &bucket{buckets: map[string]map[string]string{}, lacks: map[string]string{}}}
	var err error
	if w.db, err = w.sql.Create(t.Context(), "p/main", map[string]string{"max_connections": "400"}); err != nil {
		t.Fatal(err)
	}
	if err := w.sql.SetUser(t.Context(), "p/main", "dify", password); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(w.store)
	t.Cleanup(front.Close)
	w.storage = front.Listener.Addr().String()
	return w
}

// cache makes a Redis.
func (w *world) cache(t *testing.T, name string) netip.Addr {
	t.Helper()
	a, err := w.redis.Create(t.Context(), "p/"+name, password, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// stack is a Dify on so many instances.
type stack struct {
	w         *world
	name      string
	settings  dify.Settings
	secrets   map[string]string
	instances []*instance
	url       string
	gone      string // an instance that is said to be there

	late     int    // so many requests all go to the first instance
	lost     string // the path of POST requests whose answers are lost, once they were carried out
	nameless bool   // answers do not say where they come from

	mu    sync.Mutex
	next  int
	fewer bool // the last instance gets no requests any more
}

type instance struct {
	name     string
	at       netip.Addr
	services []dify.Service
	door     *frontdoor.Door
	proxy    *httputil.ReverseProxy
	stop     func() error // nil = it does not run
}

// set changes a setting of those services that have it.
func (in *instance) set(name, value string) {
	for _, s := range in.services {
		if _, ok := s.Environment[name]; ok {
			s.Environment[name] = value
		}
	}
}

// without has an instance not run a service.
func (in *instance) without(n dify.Name) {
	in.services = slices.DeleteFunc(in.services, func(s dify.Service) bool { return s.Name == n })
}

// newStack makes a stack with databases and a bucket of its own. Nothing runs yet.
func (w *world) newStack(t *testing.T, size int) *stack {
	t.Helper()
	s := &stack{w: w, name: fmt.Sprintf("s%d", w.stacks.Add(1)), secrets: map[string]string{}}
	for _, p := range dify.Purposes() {
		s.secrets[p.Key] = password
	}
	s.secrets[dify.SecretKey], s.secrets[dify.PluginKey], s.secrets[dify.InnerKey] = "the-secret-key", "the-plugin-key", "the-inner-key"
	s.secrets[dify.InitPassword] = "the-init-password"
	for _, database := range []string{s.name, s.name + "_plugin", s.name + "_vector"} {
		if err := w.sql.CreateDatabase(t.Context(), "p/main", database); err != nil {
			t.Fatal(err)
		}
	}
	w.store.mu.Lock()
	w.store.buckets[s.name] = map[string]string{}
	w.store.mu.Unlock()
	s.settings = dify.Settings{
		Stack: s.name, DifyVersion: dify.Default, Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192}, Stores: dify.Stores{
			Database: dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: s.name, PluginName: s.name + "_plugin"},
			Vector:   dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: s.name + "_vector"},
			Redis:    dify.Address{Host: w.cache(t, s.name).String(), Port: 6379}, Bucket: s.name,
		},
	}
	release, err := dify.Lookup(dify.Default)
	if err != nil {
		t.Fatal(err)
	}
	for i := range size {
		at, err := w.net.Addr(plane.Instance)
		if err != nil {
			t.Fatal(err)
		}
		services, err := dify.Project(release, s.settings, s.secrets)
		if err != nil {
			t.Fatal(err)
		}
		in := &instance{name: fmt.Sprintf("%s-vm-%d", s.name, i+1), at: at, services: services}
		for _, service := range services {
			env := service.Environment
			env["STANDIN_ADDRESS"], env["STANDIN_VERSION"], env["STANDIN_INSTANCE"] = at.String(), dify.Default, in.name
			env["GCE_METADATA_HOST"], env["STORAGE_EMULATOR_HOST"] = w.storage, w.storage
		}
		in.door, err = frontdoor.Open(netip.AddrPortFrom(at, 1080), frontdoor.Options{
			Instance: in.name, Log: slog.New(slog.DiscardHandler),
			Backend: func(n dify.Name) string { return netip.AddrPortFrom(at, uint16(n.Port())).String() },
		})
		if err != nil {
			t.Fatal(err)
		}
		in.door.Ready()
		target := &url.URL{Scheme: "http", Host: in.door.Addr().String()}
		in.proxy = httputil.NewSingleHostReverseProxy(target)
		in.proxy.ModifyResponse = func(r *http.Response) error {
			if s.nameless {
				r.Header.Del(dify.InstanceHeader)
			}
			return nil
		}
		s.instances = append(s.instances, in)
	}
	s.migrate(t)
	balancer := httptest.NewTLSServer(s)
	s.url = balancer.URL
	t.Cleanup(func() {
		s.halt(t)
		balancer.Close()
		var all sync.WaitGroup
		for _, in := range s.instances {
			all.Go(func() {
				if err := in.door.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	return s
}

// migrate makes the tables of both databases, as the agents have it done.
func (s *stack) migrate(t *testing.T) {
	t.Helper()
	for _, m := range dify.Migrations(s.instances[0].services) {
		env := maps.Clone(m.Service.Environment)
		maps.Copy(env, m.Environment)
		err := standin.Main(t.Context(), append([]string{string(m.Service.Name)}, m.Command...), standin.Options{
			Env: func(n string) string { return env[n] }, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// ServeHTTP is the load balancer: the instances take turns.
func (s *stack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	all := s.instances
	if s.fewer {
		all = all[:len(all)-1]
	}
	in := all[s.next%len(all)]
	s.next++
	if s.next <= s.late {
		in = s.instances[0]
	}
	lost := s.lost != "" && r.Method == http.MethodPost && r.URL.Path == s.lost
	s.mu.Unlock()
	if lost {
		in.proxy.ServeHTTP(httptest.NewRecorder(), r)
		http.Error(w, "the backend gave no answer", http.StatusBadGateway)
		return
	}
	in.proxy.ServeHTTP(w, r)
}

// shrink has the last instance get no requests any more.
func (s *stack) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fewer = true
}

// start runs the instances that do not run.
func (s *stack) start(t *testing.T) {
	t.Helper()
	for _, in := range s.instances {
		if in.stop != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, len(in.services))
		for _, service := range in.services {
			env := maps.Clone(service.Environment)
			go func() {
				ended <- standin.Run(ctx, service.Name, standin.Options{
					Env: func(n string) string { return env[n] }, Resolver: net.DefaultResolver, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
				})
			}()
		}
		n := len(in.services)
		in.stop = func() (err error) {
			cancel()
			for range n {
				err = errors.Join(err, <-ended)
			}
			return err
		}
	}
	for _, in := range s.instances {
		for _, service := range in.services {
			if service.Health == nil {
				continue
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				resp, err := http.Get("http://" + netip.AddrPortFrom(in.at, uint16(service.Port)).String() + service.Health.Path)
				if err == nil {
					resp.Body.Close()
					break
				}
				if time.Now().After(end) {
					t.Fatal(err)
				}
			}
		}
	}
}

// halt ends the instances that run.
func (s *stack) halt(t *testing.T) {
	var all sync.WaitGroup
	for _, in := range s.instances {
		if stop := in.stop; stop != nil {
			in.stop = nil
			all.Go(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

// sql runs a statement as the stack's user, in one of its databases.
func (s *stack) sql(t *testing.T, database string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://dify:%s@%s:5432/%s?sslmode=disable", password, s.w.db, database))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, q := range statements {
		if _, err := c.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// clean waits until the workers have removed what was deleted, and wants nothing left but the account, with the
// workspace's key, and the session that Redis knows for its renewal.
func (s *stack) clean(t *testing.T) {
	t.Helper()
	s.cleanBut(t, 0)
}

// cleanBut is clean, but for so many files.
func (s *stack) cleanBut(t *testing.T, files int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://dify:%s@%s:5432/%s?sslmode=disable", password, s.w.db, s.name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	vectors, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://dify:%s@%s:5432/%s_vector?sslmode=disable", password, s.w.db, s.name))
	if err != nil {
		t.Fatal(err)
	}
	defer vectors.Close(context.Background())
	left := func() (out []string) {
		var uploaded int
		if err := c.QueryRow(t.Context(), "SELECT count(*) FROM standin_upload_files").Scan(&uploaded); err != nil {
			t.Fatal(err)
		}
		if uploaded != files {
			out = append(out, fmt.Sprintf("%d upload_files", uploaded))
		}
		for _, table := range []string{"datasets", "documents", "segments", "keywords", "apps", "workflows"} {
			var n int
			if err := c.QueryRow(t.Context(), "SELECT count(*) FROM standin_"+table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				out = append(out, fmt.Sprintf("%d %s", n, table))
			}
		}
		var tables int
		if err := vectors.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'standin%'").Scan(&tables); err != nil {
			t.Fatal(err)
		}
		if tables > 0 {
			out = append(out, fmt.Sprintf("%d tables of vectors", tables))
		}
		objects := slices.DeleteFunc(s.w.store.names(s.name), func(name string) bool { return strings.HasPrefix(name, "privkeys/") })
		if len(objects) != files {
			out = append(out, objects...)
		}
		return out
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		rest := left()
		if len(rest) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %v", rest)
		}
	}
}
