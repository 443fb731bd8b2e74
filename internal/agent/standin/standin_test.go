//go:build linux

package standin_test

import (
	"archive/zip"
	"bytes"
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
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/test/servers"
)

const password = "Pa55w0rdOfTheStores"

// The test's program is a worker too, which can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "standin" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := standin.Main(ctx, os.Args[2:], standin.Options{Env: os.Getenv, Resolver: net.DefaultResolver, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "parent" { // of TestChildDiesWithParent
		fmt.Fprintln(os.Stderr, standin.RunStubborn())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bucket is Cloud Storage and the metadata server in one.
type bucket struct {
	mu      sync.Mutex
	objects map[string]string
	hold    func() // is called by the next download, once
	blind   bool   // lists name nothing
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
	case r.Method == http.MethodGet && r.URL.Path == "/storage/v1/b/files":
		fmt.Fprint(w, `{"name":"files"}`)
	case r.Method == http.MethodGet && r.URL.Path == "/storage/v1/b/files/o": // a name a page
		names := slices.Sorted(maps.Keys(b.objects))
		i, _ := strconv.Atoi(r.URL.Query().Get("pageToken"))
		for ; i < len(names) && !b.blind; i++ {
			if strings.HasPrefix(names[i], r.URL.Query().Get("prefix")) {
				fmt.Fprintf(w, `{"items":[{"name":%q}],"nextPageToken":"%d"}`, names[i], i+1)
				return
			}
		}
		fmt.Fprint(w, `{}`)
	case r.Method == http.MethodGet && r.URL.Query().Get("alt") == "media" && b.objects[name] != "":
		if hold := b.hold; hold != nil {
			b.hold = nil
			b.mu.Unlock()
			hold()
			b.mu.Lock()
		}
		fmt.Fprint(w, b.objects[name])
	case r.Method == http.MethodDelete && b.objects[name] != "":
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
	env     map[string]string // that services get besides
}

func newWorld(t *testing.T) *world {
	t.Helper()
	data := servers.Open(t)
	w := &world{net: data.Net, sql: data.SQL, bucket: &bucket{objects: map[string]string{}}, dir: data.Dir}
	var err error
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
	if w.red, err = data.Cache.Create(t.Context(), "p/redis", password, nil); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(w.bucket)
	t.Cleanup(front.Close)
	w.url = front.Listener.Addr().String()
	w.migrate(t)
	return w
}

// migrate makes the tables of both databases.
func (w *world) migrate(t *testing.T) {
	t.Helper()
	services := w.services(t, "migration", netip.MustParseAddr("127.0.0.1"))
	for _, m := range dify.Migrations(services) {
		maps.Copy(m.Service.Environment, m.Environment)
		env := func(name string) string { return m.Service.Environment[name] }
		args := append([]string{string(m.Service.Name)}, m.Command...)
		if err := standin.Main(t.Context(), args, standin.Options{Env: env, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
	}
}

// services gives Dify's services, on stores of the world's, as those of a stand-in at an address.
func (w *world) services(t *testing.T, name string, at netip.Addr) []dify.Service {
	t.Helper()
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = password
	}
	r, err := dify.Lookup("1.17.1")
	if err != nil {
		t.Fatal(err)
	}
	services, err := dify.Project(r, dify.Settings{
		Stack: "demo", Stores: dify.Stores{
			Database: dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: w.db.String(), Port: 5432, User: "dify", Name: "dify_vector"},
			Redis:    dify.Address{Host: w.red.String(), Port: 6379}, Bucket: "files",
		}, Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192},
	}, secrets)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		s.Environment["STANDIN_ADDRESS"], s.Environment["STANDIN_VERSION"], s.Environment["STANDIN_INSTANCE"] = at.String(), "1.17.1", name
		s.Environment["GCE_METADATA_HOST"], s.Environment["STORAGE_EMULATOR_HOST"] = w.url, w.url // without a scheme, as it may be
		maps.Copy(s.Environment, w.env)
	}
	return services
}

// start runs a stand-in's services, all of them without names, until the test ends, and gives its address.
func (w *world) start(t *testing.T, name string, only ...dify.Name) string {
	t.Helper()
	address, err := w.net.Addr(plane.Instance)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var served []netip.AddrPort
	for _, service := range w.services(t, name, address) {
		if len(only) > 0 && !slices.Contains(only, service.Name) {
			continue
		}
		if service.Port != 0 {
			served = append(served, netip.AddrPortFrom(address, uint16(service.Port)))
		}
		all.Go(func() {
			env := func(n string) string { return service.Environment[n] }
			if err := standin.Run(ctx, service.Name, standin.Options{Env: env, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler)}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); all.Wait() })
	for _, at := range served {
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("tcp", at.String())
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	return address.String()
}

// browser asks the API of one stand-in, and keeps cookies.
type browser struct {
	t       *testing.T
	address string
	cookies map[string]*http.Cookie
}

// ask sends JSON, or with "" nothing, and gives the status and the answer's fields.
func (b *browser) ask(method, path, body string) (int, map[string]any) {
	b.t.Helper()
	return b.send(method, path, "application/json", body)
}

func (b *browser) send(method, path, contentType, body string) (int, map[string]any) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.address+":5001"+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for _, c := range b.cookies {
		req.AddCookie(c)
	}
	if c := b.cookies["csrf_token"]; c != nil {
		req.Header.Set("X-CSRF-Token", c.Value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		b.cookies[c.Name] = c
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.Header.Get("X-Difyup-Standin") == "" {
		b.t.Errorf("%s %s does not say that it is no Dify", method, path)
	}
	fields := map[string]any{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil || fields["standin"] != true {
			b.t.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
	}
	return resp.StatusCode, fields
}

// must is ask, and wants a status.
func (b *browser) must(want int, method, path, body string) map[string]any {
	b.t.Helper()
	code, fields := b.ask(method, path, body)
	if code != want {
		b.t.Fatalf("%s %s: %d %v, want %d", method, path, code, fields, want)
	}
	return fields
}

const owner = `{"email":"owner@example.com","name":"Owner","password":"0wnerOfEverything"}`

func loginBody(password string) string {
	return fmt.Sprintf(`{"email":"owner@example.com","password":%q}`, base64.StdEncoding.EncodeToString([]byte(password)))
}

// owner makes the first account and logs in.
func (w *world) owner(t *testing.T, address string) *browser {
	t.Helper()
	b := &browser{t, address, map[string]*http.Cookie{}}
	b.must(201, "POST", "/console/api/init", fmt.Sprintf(`{"password":%q}`, password))
	b.must(201, "POST", "/console/api/setup", owner)
	b.must(200, "POST", "/console/api/login", loginBody("0wnerOfEverything"))
	return b
}

// document uploads a file, makes a data set of it, and gives the address at which its indexing is told.
func (b *browser) document(name string) string {
	b.t.Helper()
	code, file := b.send("POST", "/console/api/files/upload", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nA line.\nAnother one.\r\n--x--\r\n")
	if code != 201 {
		b.t.Fatalf("upload: %d %v", code, file)
	}
	set := b.must(201, "POST", "/console/api/datasets", fmt.Sprintf(`{"name":%q,"indexing_technique":"economy"}`, name))
	path := fmt.Sprint("/console/api/datasets/", set["id"])
	made := b.must(200, "POST", path+"/documents", fmt.Sprintf(`{"indexing_technique":"economy","process_rule":{"mode":"automatic"},"data_source":{"info_list":{"data_source_type":"upload_file","file_info_list":{"file_ids":[%q]}}}}`, file["id"]))
	return fmt.Sprint(path, "/batch/", made["batch"], "/indexing-status")
}

// indexing gives how the indexing of a document stands.
func (b *browser) indexing(path string) string {
	b.t.Helper()
	return fmt.Sprint(b.must(200, "GET", path, "")["data"].([]any)[0].(map[string]any)["indexing_status"])
}

// TestLostTask kills a worker with a task in hand: like Celery's, it had acknowledged the task when it took it, and so
// nobody does it any more. A worker that is told to end finishes it.
func TestLostTask(t *testing.T) {
	w := newWorld(t)
	address := w.start(t, "vm-0", dify.API)
	b := w.owner(t, address)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	worker := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, "standin")
		for k, v := range w.services(t, "vm-1", netip.MustParseAddr(address))[1].Environment { // MODE says what it is
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		cmd.Env = append(cmd.Env, "CELERY_WORKER_AMOUNT=1")
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	// held has the next document's reader wait, and gives when it does, and what lets it go on.
	held := func() (begun <-chan struct{}, release func()) {
		in, out := make(chan struct{}), make(chan struct{})
		w.bucket.mu.Lock()
		defer w.bucket.mu.Unlock()
		w.bucket.hold = func() { close(in); <-out }
		return in, func() { close(out) }
	}
	until := func(path, want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); b.indexing(path) != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the document is at %q, want %q", b.indexing(path), want)
			}
		}
	}

	begun, release := held()
	first := worker()
	lost := b.document("lost")
	<-begun
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	release()

	begun, release = held()
	second := worker()
	kept := b.document("kept")
	<-begun
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waiting := b.document("waiting") // for the third
	release()
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
	until(kept, "completed")
	if now := b.indexing(waiting); now != "waiting" {
		t.Errorf("a worker that was told to end took another task, which is at %q", now)
	}

	third := worker()
	until(waiting, "completed")
	if now := b.indexing(lost); now != "parsing" {
		t.Errorf("the lost task's document is at %q", now)
	}
	if err := third.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := third.Wait(); err != nil {
		t.Error(err)
	}
}

// archive gives a plugin's package, with a signature in a file.
func archive(t *testing.T, name, signature string) string {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	f, err := z.Create("manifest.yaml")
	if err == nil {
		_, err = fmt.Fprintf(f, "author: difyup\nname: %s\nversion: \"0.0.1\"\nmeta:\n  version: 2\nstandin_milliseconds: 10\n", name)
	}
	if err == nil {
		_, err = z.Create(signature)
	}
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestPluginNodes installs a plugin through one of three nodes. The others answer for it only when they have found it in the
// bucket, as a new one does at its start, and stop it when it is removed there. A package must be signed.
func TestPluginNodes(t *testing.T) {
	w := newWorld(t)
	first := w.start(t, "vm-1", dify.API, dify.PluginDaemon)
	b := w.owner(t, first)
	w.env = map[string]string{"STANDIN_POLL": "50"}
	second := w.start(t, "vm-2", dify.API, dify.PluginDaemon)

	const path = "/console/api/workspaces/current/plugin"
	upload := func(signature string) (int, map[string]any) {
		return b.send("POST", path+"/upload/pkg", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"pkg\"; filename=\"a.difypkg\"\r\n\r\n"+archive(t, "clock", signature)+"\r\n--x--\r\n")
	}
	if code, says := upload("signature"); code != 400 || !strings.Contains(fmt.Sprint(says), "bad signature") {
		t.Errorf("a package without a signature: %d %v", code, says)
	}
	w.bucket.mu.Lock()
	w.bucket.blind = true
	w.bucket.mu.Unlock()
	code, uploaded := upload(".verification.dify.json")
	if code != 200 {
		t.Fatalf("upload: %d %v", code, uploaded)
	}
	identifier := fmt.Sprint(uploaded["unique_identifier"])
	b.must(200, "POST", path+"/install/pkg", fmt.Sprintf(`{"plugin_unique_identifiers":[%q]}`, identifier))
	b.must(200, "POST", "/console/api/workspaces/current/endpoints/create", fmt.Sprintf(`{"plugin_unique_identifier":%q,"name":"a","settings":{"token":"word"}}`, identifier))
	made := b.must(200, "GET", "/console/api/workspaces/current/endpoints/list/plugin?page=1&page_size=9&plugin_id=difyup/clock", "")
	hook := made["endpoints"].([]any)[0].(map[string]any)["hook_id"]
	// call has a node's plugin be called, and gives what it answers.
	call := func(address string) string {
		resp, err := http.Get(fmt.Sprintf("http://%s:5002/e/%s/", address, hook))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status + " " + string(raw)
	}
	const lacks, has = "no available node, plugin runtime not found", `"plugin":"difyup/clock","token":"word"`
	until := func(address, want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !strings.Contains(call(address), want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s answers %s, want %s", address, call(address), want)
			}
		}
	}
	third := w.start(t, "vm-3", dify.API, dify.PluginDaemon)
	until(first, has)
	for _, address := range []string{second, third} {
		if says := call(address); !strings.HasPrefix(says, "404") || !strings.Contains(says, lacks) {
			t.Errorf("a node that has not found the plugin answers %s", says)
		}
	}
	w.bucket.mu.Lock()
	w.bucket.blind = false
	w.bucket.mu.Unlock()
	until(second, has)
	until(third, has)
	until(w.start(t, "vm-4", dify.API, dify.PluginDaemon), has)
	w.bucket.mu.Lock()
	delete(w.bucket.objects, "plugin/"+identifier)
	w.bucket.mu.Unlock()
	until(second, lacks)
	until(first, has) // it looks every 30 s
}

// TestLockout gives wrong passwords: after five the right one is of no use either. What was asked with a CSRF token that
// does not fit, or without any, is refused too.
func TestLockout(t *testing.T) {
	w := newWorld(t)
	b := w.owner(t, w.start(t, "vm-0", dify.API))
	b.must(200, "GET", "/console/api/account/profile", "")
	csrf := b.cookies["csrf_token"]
	b.cookies["csrf_token"] = &http.Cookie{Name: "csrf_token", Value: b.cookies["access_token"].Value}
	b.must(401, "GET", "/console/api/account/profile", "")
	delete(b.cookies, "csrf_token")
	b.must(401, "GET", "/console/api/account/profile", "")
	b.cookies["csrf_token"] = csrf
	b.must(403, "POST", "/console/api/setup", owner)
	b.must(403, "POST", "/console/api/init", fmt.Sprintf(`{"password":%q}`, password))
	b.must(404, "POST", "/inner/api/invoke/encrypt", `{}`)
	for range 4 {
		b.must(401, "POST", "/console/api/login", loginBody("wrong"))
	}
	b.must(200, "POST", "/console/api/login", loginBody("0wnerOfEverything")) // which begins the count anew
	for range 5 {
		b.must(401, "POST", "/console/api/login", loginBody("wrong"))
	}
	b.must(429, "POST", "/console/api/login", loginBody("0wnerOfEverything"))
}

// TestRestarts has requests come all the time while PostgreSQL restarts and crashes and Redis is killed. None of them
// fails: the connections that a restart ends are replaced, and the work on them is done again.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	addresses := []string{w.start(t, "vm-0"), w.start(t, "vm-1")}
	w.owner(t, addresses[0])
	ctx, stop := context.WithCancel(t.Context())
	var (
		users sync.WaitGroup
		asked atomic.Int64
	)
	for _, a := range addresses {
		for range 2 {
			users.Go(func() {
				b := &browser{t, a, map[string]*http.Cookie{}}
				for ; ctx.Err() == nil && !t.Failed(); time.Sleep(5 * time.Millisecond) {
					if code, said := b.ask("POST", "/console/api/login", loginBody("0wnerOfEverything")); code != 200 {
						t.Errorf("login: %d %v", code, said)
					}
					if code, said := b.ask("GET", "/console/api/workspaces/current/plugin/list?page=1&page_size=1", ""); code != 200 {
						t.Errorf("plugins: %d %v", code, said)
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
	good := map[string]string{
		"DB_TYPE": "postgresql", "STORAGE_TYPE": "google-storage", "VECTOR_STORE": "pgvector", "DB_PORT": "5432", "REDIS_PORT": "6379", "PGVECTOR_PORT": "5432",
		"CELERY_BROKER_URL": "redis://:" + password + "@127.0.0.1:6379/1",
	}
	for name, value := range map[string]string{
		"DB_PORT": "", "REDIS_PORT": "70000", "PGVECTOR_PORT": "x", "DB_TYPE": "mysql", "STORAGE_TYPE": "opendal", "VECTOR_STORE": "", "CELERY_BROKER_URL": "amqp://:" + password + "@x",
	} {
		err := standin.Run(t.Context(), dify.API, standin.Options{Env: func(n string) string {
			if n == name {
				return value
			}
			return good[n]
		}, Resolver: net.DefaultResolver, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), password) {
			t.Errorf("%s=%q: %v", name, value, err)
		}
	}
}

// TestPage checks that the pages say what this is.
func TestPage(t *testing.T) {
	w := newWorld(t)
	address := w.start(t, "vm-0")
	for path, want := range map[string]int{"/": 200, "/signin": 200, "/standin/check": 404} {
		resp, err := http.Get("http://" + address + ":3000" + path)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || !strings.Contains(string(raw), "It is not Dify") || !strings.Contains(string(raw), "vm-0") || resp.Header.Get("X-Difyup-Standin") == "" {
			t.Errorf("%s: %s %v\n%s", path, resp.Status, err, raw)
		}
	}
}

// TestIdle asks the services that only have to be there.
func TestIdle(t *testing.T) {
	w := newWorld(t)
	address := w.start(t, "vm-0")
	run := func(key string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+":8194/v1/sandbox/run", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if right, wrong := run(password), run("another"); right != 200 || wrong != 401 {
		t.Errorf("the sandbox answers %d to its key, and %d to another", right, wrong)
	}
	resp, err := http.Get("http://" + address + ":3128/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("the proxy answers %s", resp.Status)
	}
}

// TestProcesses runs the services as processes: jobs, health, one that hangs, some that end early, and the end in good order.
func TestProcesses(t *testing.T) {
	w := newWorld(t)
	address, err := w.net.Addr(plane.Instance)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	services := w.services(t, "vm-0", address)
	var log lockedBuffer
	r := standin.NewProcesses(standin.ProcessOptions{
		Program: self, Address: address, Instance: "vm-0", Version: "1.17.1", Output: &log, Look: 100 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := r.Prepare(ctx, services); err != nil {
		t.Fatal(err)
	}

	job := runtime.Job{Service: services[0], Environment: map[string]string{"MODE": "migration", "MIGRATION_ENABLED": "true"}}
	if got, err := r.Job(ctx, job); err != nil || got.Status != 0 || !strings.Contains(got.Lines, "the tables are there") {
		t.Errorf("the migration ended with %+v, %v", got, err)
	}
	job = runtime.Job{Service: services[0], Command: []string{"flask", "nothing"}}
	if got, err := r.Job(ctx, job); err != nil || got.Status != 1 || !strings.Contains(got.Lines, `knows no command "flask"`) {
		t.Errorf("an unknown command ended with %+v, %v", got, err)
	}
	if err := r.Health(ctx); err == nil {
		t.Error("all is well before anything runs")
	}

	ended := make(chan error, 1)
	life, end := context.WithCancel(ctx)
	go func() { ended <- r.Run(life, services) }()
	well := func() {
		t.Helper()
		for r.Health(ctx) != nil {
			if ctx.Err() != nil {
				t.Fatal(r.Health(t.Context()))
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	well()
	places := map[string]bool{}
	for _, n := range dify.Names() {
		if at := r.Address(n); (at == "") != (n.Port() == 0) {
			t.Errorf("%s is at %q", n, at)
		}
		// Each with an identity is told a place of its own, in place of what else it may have been told; the others are told none.
		at, from := r.Identity(n)
		told, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", processOf(t, n)))
		if err != nil {
			t.Fatal(err)
		}
		host := ""
		for v := range strings.SplitSeq(string(told), "\x00") {
			if value, ok := strings.CutPrefix(v, "GCE_METADATA_HOST="); ok {
				host = value
			}
		}
		switch want := at.String(); {
		case at.IsValid() && (host != want || !from.Own || places[want]):
			t.Errorf("%s asks at %s, and is told %q", n, want, host)
		case !at.IsValid() && (host != w.url || n.Ask() != ""):
			t.Errorf("%s has no identity, and is told %q", n, host)
		default:
			places[want] = at.IsValid()
		}
	}
	// What each takes of memory is known as soon as it runs.
	for {
		states, err := r.States(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(states) == len(services) && !slices.ContainsFunc(services, func(s dify.Service) bool { return states[s.Name].Memory <= 0 }) {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the processes' states are %+v", states)
		}
		time.Sleep(5 * time.Millisecond)
	}
	// One that hangs is known to, and is started again.
	hung := processOf(t, dify.API)
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var failure *runtime.Failure
	for !errors.As(r.Health(ctx), &failure) {
		if ctx.Err() != nil {
			t.Fatal("an API that is stopped is said to be well")
		}
	}
	if failure.Service != dify.API {
		t.Errorf("the API hangs, and it is said: %v", failure)
	}
	well()
	if again := processOf(t, dify.API); again == hung {
		t.Errorf("the API is still the process %d", again)
	}
	if !strings.Contains(log.String(), "did not answer and was killed") {
		t.Errorf("the log does not say that it hung:\n%s", log.String())
	}

	// A service ends before the others when it is told to, is not started again, and is not missed. One that does not end is killed.
	if err := r.Stop(ctx, []dify.Name{dify.Worker, dify.WorkerBeat}); err != nil {
		t.Errorf("the worker is told to end: %v", err)
	}
	if pid := processOf(t, dify.Worker); pid != 0 {
		t.Errorf("the worker was told to end, and is the process %d", pid)
	}
	if err := syscall.Kill(processOf(t, dify.Sandbox), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	now, over := context.WithCancel(ctx)
	over()
	if err := r.Stop(now, []dify.Name{dify.Sandbox, dify.Worker}); !errors.As(err, &failure) || failure.Service != dify.Sandbox || failure.State != runtime.Killed {
		t.Errorf("a sandbox that does not end: %v", err)
	}
	if err := r.Health(ctx); err != nil {
		t.Errorf("what was told to end is missed: %v", err)
	}

	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := r.Stop(ctx, dify.Names()); err != nil {
		t.Errorf("nothing is told to end: %v", err)
	}

	// One that ends at once, again and again, is given up.
	t.Run("given up", func(t *testing.T) {
		broken := slices.Clone(services)
		broken[1].Environment = maps.Clone(broken[1].Environment)
		broken[1].Environment["CELERY_BROKER_URL"] = "amqp://x"
		failed := r.Run(ctx, broken)
		if !errors.As(failed, &failure) || failure.Service != dify.Worker || !strings.Contains(failure.Lines, "CELERY_BROKER_URL is no URL of Redis") {
			t.Errorf("a worker that cannot run: %v", failed)
		}
	})
	if strings.Contains(log.String(), password) {
		t.Errorf("the log shows a secret:\n%s", log.String())
	}
}

// processOf gives the process that plays a service, among those that we started; 0 for none.
func processOf(t *testing.T, n dify.Name) int {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range threads {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(raw)) {
			args, err := os.ReadFile("/proc/" + pid + "/cmdline")
			if words := strings.Split(string(args), "\x00"); err == nil && len(words) > 2 && words[1] == "standin" && words[2] == string(n) {
				number, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				return number
			}
		}
	}
	return 0
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
