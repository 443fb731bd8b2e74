//go:build linux

package standin_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
)

const password = "Pa55w0rdOfTheStores"

// bucket is Cloud Storage and the metadata server in one. It counts the objects it keeps.
type bucket struct {
	mu      sync.Mutex
	objects map[string]string
	refuse  bool // downloads
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token" && r.Header.Get("Metadata-Flavor") == "Google" {
		fmt.Fprint(w, `{"access_token":"token-1","expires_in":3600,"token_type":"Bearer"}`)
		return
	}
	if r.Header.Get("Authorization") != "Bearer token-1" {
		http.Error(w, `{"error":{"code":401,"message":"Invalid Credentials"}}`, http.StatusUnauthorized)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/files/o/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/upload/storage/v1/b/files/o" && r.URL.Query().Get("uploadType") == "media":
		raw, _ := io.ReadAll(r.Body)
		b.objects[r.URL.Query().Get("name")] = string(raw)
		fmt.Fprint(w, `{"generation":"7"}`)
	case r.Method == http.MethodGet && b.refuse:
		http.Error(w, `{"error":{"code":403,"message":"no objects.get"}}`, http.StatusForbidden)
	case r.Method == http.MethodGet && r.URL.Query().Get("alt") == "media" && b.objects[name] != "":
		fmt.Fprint(w, b.objects[name])
	case r.Method == http.MethodDelete && r.URL.Query().Get("generation") == "7" && b.objects[name] != "":
		delete(b.objects, name)
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

// world is a PostgreSQL server, a Redis server, a bucket, and addresses for stand-ins.
type world struct {
	net     *plane.Net
	sql     *plane.SQL
	bucket  *bucket
	url     string
	dir     string
	db, red netip.Addr
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts PostgreSQL and Redis")
	}
	n, err := plane.Claim()
	if err != nil {
		t.Fatal(err)
	}
	s := plane.NewSupervisor(nil)
	t.Cleanup(func() {
		if err := errors.Join(s.Close(context.Background(), 10*time.Second), n.Close()); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // PostgreSQL runs as another user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	postgres, err := plane.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	server, err := plane.FindRedis()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{net: n, sql: plane.NewSQL(n, s, postgres, dir), bucket: &bucket{objects: map[string]string{}}, dir: dir}
	if w.db, err = w.sql.Create(t.Context(), "p/main", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.sql.SetUser(t.Context(), "p/main", "dify", password); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dify", "dify_plugin", "dify_vector"} {
		if err := w.sql.CreateDatabase(t.Context(), "p/main", name); err != nil {
			t.Fatal(err)
		}
	}
	if w.red, err = plane.NewCache(n, s, server, dir).Create(t.Context(), "p/redis", password, nil); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(w.bucket)
	t.Cleanup(front.Close)
	w.url = front.Listener.Addr().String()
	return w
}

// start runs a stand-in until the test ends, and gives its address.
func (w *world) start(t *testing.T, name string, change map[string]string) string {
	t.Helper()
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = password
	}
	env, err := dify.Env(dify.Settings{
		Stack: "demo", Stores: dify.Stores{
			Database: dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: "dify_vector"},
			Redis:    dify.Address{Host: w.red.String(), Port: 6379}, Bucket: "files",
		},
	}, secrets)
	if err != nil {
		t.Fatal(err)
	}
	address, err := w.net.Addr(plane.Instance)
	if err != nil {
		t.Fatal(err)
	}
	env["STANDIN_ADDRESS"], env["STANDIN_VERSION"], env["HOSTNAME"] = address.String(), "1.17.1", name
	env["GCE_METADATA_HOST"], env["STORAGE_EMULATOR_HOST"] = w.url, w.url // without a scheme, as it may be
	for k, v := range change {
		env[k] = v
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- standin.Run(ctx, standin.Options{Env: func(n string) string { return env[n] }, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(time.Minute); ; {
		resp, err := http.Get("http://" + address.String() + ":5001/health")
		if err == nil {
			resp.Body.Close()
			return address.String()
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// check asks for a check, and gives the status, the report and the whole answer.
func check(t *testing.T, address string) (int, standin.Report, string) {
	t.Helper()
	resp, err := http.Get("http://" + address + ":5001/standin/check")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var report standin.Report
	if err := json.Unmarshal(raw, &report); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return resp.StatusCode, report, string(raw)
}

// well is which stores are, by name.
func well(r standin.Report) map[string]bool {
	m := map[string]bool{}
	for _, s := range r.Stores {
		m[s.Store] = s.OK
	}
	return m
}

// TestCheck has several stand-ins meet empty stores at once: all find them well, and nothing stays behind. Then the
// database is replaced by an empty one, and they find it well all the same.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	var addresses []string
	for i := range 3 {
		addresses = append(addresses, w.start(t, fmt.Sprintf("vm-%d", i), nil))
	}
	all := map[string]bool{"database": true, "plugin_database": true, "vector_database": true, "redis": true, "bucket": true}
	meet := func() {
		t.Helper()
		var wg sync.WaitGroup
		for i, a := range addresses {
			for range 2 {
				wg.Go(func() {
					code, report, raw := check(t, a)
					if code != http.StatusOK || !report.OK || report.Instance != fmt.Sprintf("vm-%d", i) || cmp.Diff(all, well(report)) != "" {
						t.Errorf("%d %s", code, raw)
					}
				})
			}
		}
		wg.Wait()
	}
	meet()

	conn := func(database string) *pgx.Conn {
		c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://dify:%s@%s:5432/%s?sslmode=disable", password, w.db, database))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	left := map[string]int{}
	for database, table := range map[string]string{"dify": "standin_checks", "dify_plugin": "standin_checks", "dify_vector": "standin_vectors"} {
		var n int
		if err := conn(database).QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		left[database] = n
	}
	r := redis.NewClient(&redis.Options{Addr: w.red.String() + ":6379", Password: password})
	defer r.Close()
	keys, err := r.DBSize(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	left["redis"], left["bucket"] = int(keys), len(w.bucket.objects)
	if d := cmp.Diff(map[string]int{"dify": 0, "dify_plugin": 0, "dify_vector": 0, "redis": 0, "bucket": 0}, left); d != "" {
		t.Errorf("left behind (-want +got):\n%s", d)
	}

	// What a crash left is removed; then the databases lose their tables.
	if _, err := conn("dify").Exec(t.Context(), `INSERT INTO standin_checks VALUES ('old', 'gone', now() - interval '2 hours')`); err != nil {
		t.Fatal(err)
	}
	meet()
	var n int
	if err := conn("dify").QueryRow(t.Context(), "SELECT count(*) FROM standin_checks").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d old rows are still there, %v", n, err)
	}
	for database, statement := range map[string]string{"dify": "DROP TABLE standin_checks", "dify_vector": "DROP EXTENSION vector CASCADE; DROP TABLE standin_vectors"} {
		for q := range strings.SplitSeq(statement, ";") {
			if _, err := conn(database).Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
	}
	meet()
}

// TestFailures checks that each store fails by itself, with 503, and that no error holds a secret.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	wrong := rand.Text()
	for name, tc := range map[string]struct {
		change map[string]string
		refuse bool
		want   map[string]bool
	}{
		"passwords": {map[string]string{"DB_PASSWORD": wrong, "PGVECTOR_PASSWORD": wrong, "REDIS_PASSWORD": wrong}, false,
			map[string]bool{"database": false, "plugin_database": false, "vector_database": false, "redis": false, "bucket": true}},
		"vector": {map[string]string{"PGVECTOR_DATABASE": "nowhere"}, false,
			map[string]bool{"database": true, "plugin_database": true, "vector_database": false, "redis": true, "bucket": true}},
		"no right to download": {nil, true,
			map[string]bool{"database": true, "plugin_database": true, "vector_database": true, "redis": true, "bucket": false}},
	} {
		t.Run(name, func(t *testing.T) {
			w.bucket.mu.Lock()
			w.bucket.refuse = tc.refuse
			w.bucket.mu.Unlock()
			began := time.Now()
			code, report, raw := check(t, w.start(t, "vm-1", tc.change))
			if code != http.StatusServiceUnavailable || report.OK {
				t.Errorf("%d, ok %t", code, report.OK)
			}
			if d := cmp.Diff(tc.want, well(report)); d != "" {
				t.Errorf("well (-want +got):\n%s\n%s", d, raw)
			}
			for _, s := range report.Stores {
				if s.OK != (s.Error == "") || s.OK != (s.Did != "") {
					t.Errorf("%s is ok %t, did %q, error %q", s.Store, s.OK, s.Did, s.Error)
				}
			}
			for _, secret := range []string{password, wrong, "token-1", "postgres://", "redis://"} {
				if strings.Contains(raw, secret) {
					t.Errorf("the answer shows %q:\n%s", secret, raw)
				}
			}
			if d := time.Since(began); d > 30*time.Second {
				t.Errorf("it took %v", d)
			}
			w.bucket.mu.Lock()
			defer w.bucket.mu.Unlock()
			if len(w.bucket.objects) != 0 {
				t.Errorf("%d objects are left", len(w.bucket.objects))
			}
		})
	}
}

// TestRestarts has requests come all the time while PostgreSQL restarts and crashes and Redis is killed. None of them
// fails: the connections that a restart ends are replaced, and the work on them is done again.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	addresses := []string{w.start(t, "vm-0", nil), w.start(t, "vm-1", nil)}
	ctx, stop := context.WithCancel(t.Context())
	var (
		users sync.WaitGroup
		asked atomic.Int64
	)
	for _, a := range addresses {
		for range 2 {
			users.Go(func() {
				for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
					if code, _, raw := check(t, a); code != http.StatusOK {
						t.Errorf("%d %s", code, raw)
						return
					}
					asked.Add(1)
				}
			})
		}
	}
	// met waits until every pool has been used again.
	met := func() {
		for seen := asked.Load(); asked.Load() < seen+12 && !t.Failed(); time.Sleep(time.Millisecond) {
		}
	}
	met()
	for range 3 {
		if err := w.sql.Restart(t.Context(), "p/main"); err != nil {
			t.Fatal(err)
		}
		met()
	}
	raw, err := os.ReadFile(filepath.Join(w.dir, "p_main", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, string(raw))
	met()
	for range 3 {
		r := redis.NewClient(&redis.Options{Addr: w.red.String() + ":6379", Password: password})
		about, err := r.Info(t.Context(), "server").Result()
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		_, pid, _ := strings.Cut(about, "process_id:")
		kill(t, pid)
		met()
	}
	stop()
	users.Wait()
}

// kill kills the process whose number a text begins with.
func kill(t *testing.T, text string) {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	good := map[string]string{"DB_TYPE": "postgresql", "STORAGE_TYPE": "google-storage", "VECTOR_STORE": "pgvector", "DB_PORT": "5432", "REDIS_PORT": "6379", "PGVECTOR_PORT": "5432"}
	for name, value := range map[string]string{"DB_PORT": "", "REDIS_PORT": "70000", "PGVECTOR_PORT": "x", "DB_TYPE": "mysql", "STORAGE_TYPE": "opendal", "VECTOR_STORE": ""} {
		err := standin.Run(t.Context(), standin.Options{Env: func(n string) string {
			if n == name {
				return value
			}
			return good[n]
		}, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%q: %v", name, value, err)
		}
	}
}
