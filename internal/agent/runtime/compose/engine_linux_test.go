package compose_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	inmemory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/smoke"
	"github.com/difyup/difyup/internal/sockets"
	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/test/need"
	"github.com/difyup/difyup/internal/test/servers"
)

// TestModes checks that squid, which is another user, can read its file, and nobody but root the project, whatever was there before.
func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as the agent's unit has it
	dir := t.TempDir()
	s, secrets := settings("the-secret")
	for range 2 {
		e := compose.New(compose.Options{
			Dir: dir, Project: "dify", Pull: "missing", Environ: []string{"PATH="}, Nft: paper(filepath.Join(t.TempDir(), "table")), Log: slog.New(slog.DiscardHandler),
		})
		if err := e.Prepare(t.Context(), services(t, dify.Default, s, secrets)); err == nil {
			t.Fatal("it is prepared without Docker")
		}
		for name, want := range map[string]os.FileMode{"squid.conf": 0o644, "compose.yaml": 0o600} {
			file := filepath.Join(dir, name)
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode(); got != want {
				t.Errorf("%s has mode %v, want %v", name, got, want)
			}
			if err := os.Chmod(file, 0o600); err != nil { // as former agents left it
				t.Fatal(err)
			}
		}
	}
}

// TestConfig has docker compose read the project of every release, and compares the environments that come out with those that
// went in: with secrets that would be changed if anything were taken for more than a text.
func TestConfig(t *testing.T) {
	if engine.Plugin() == "" {
		need.Missing(t, "docker has no compose plugin; to install: scripts/install-engine")
	}
	for _, r := range dify.Releases() {
		s, secrets := settings(odd)
		s.Environment = map[dify.Name]map[string]string{dify.API: {"LINES": "one\n\ttwo", "SPACES": "  ", "DOLLARS": "$$$1${HOME}$HOME"}}
		want := services(t, r.Version, s, secrets)
		files, err := compose.Render("dify", want, "never", "")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), files.Compose, 0o600); err != nil {
			t.Fatal(err)
		}
		env, err := engine.Config(dir)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "docker", "compose", "--project-directory", dir, "-f", filepath.Join(dir, "compose.yaml"), "config", "--format", "json", "--no-interpolate=false")
		cmd.Env = env
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.Len() > 0 {
			t.Fatalf("%s: %v: %s", r.Version, err, said.String())
		}
		var got struct {
			Services map[dify.Name]struct {
				Environment map[string]string
				Image       string
			}
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		for _, s := range want {
			// What it prints can be read again, so that it has every $ twice.
			for k, v := range got.Services[s.Name].Environment {
				got.Services[s.Name].Environment[k] = strings.ReplaceAll(v, "$$", "$")
			}
			if d := cmp.Diff(given(compose.New(compose.Options{}), s), got.Services[s.Name].Environment); d != "" {
				t.Errorf("%s: the environment of %s (-want +got):\n%s", r.Version, s.Name, d)
			}
		}
	}
}

// given gives what a runtime gives a service for an environment.
func given(r runtime.Runtime, s dify.Service) map[string]string {
	all := maps.Clone(s.Environment)
	if at, _ := r.Identity(s.Name); at.IsValid() {
		maps.Copy(all, runtime.IdentityVariables(at))
	}
	return all
}

// TestSquidGuards runs a real squid with the configuration of the proxy, in a network that has a metadata server, a private
// server, and one on the internet, and asks for each.
func TestSquidGuards(t *testing.T) {
	program := squidProgram(t)
	need.Root(t, "a network namespace needs root")
	n, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	const client, metadata, private, internet = "198.18.240.5", "169.254.169.254", "10.64.0.3", "93.184.215.14"
	const inward = "198.18.241.5"                // the sandbox
	const mcp, mirror = "10.64.0.7", "10.64.0.8" // what the user names
	if err := n.Up("lo", client+"/32", inward+"/32", metadata+"/32", private+"/32", internet+"/32", mcp+"/32", mirror+"/32"); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{
		"127.0.0.1:80", client + ":80", metadata + ":80", private + ":80", internet + ":80", internet + ":22", mcp + ":80", mcp + ":8443", mirror + ":80", mirror + ":8081", client + ":8081",
	} {
		l, err := n.Listen(at)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if to := r.URL.Query().Get("to"); to != "" {
				http.Redirect(w, r, to, http.StatusFound)
				return
			}
			if status, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil {
				w.WriteHeader(status)
			}
			io.WriteString(w, "reached "+at)
		})}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
	}
	s, secrets := settings("the-secret")
	s.PipMirror, s.ProxiedServices = "http://"+mirror+":8081/simple", []string{"mcp.demo.internal:8443", "metadata.demo.internal:80"}
	files, err := compose.Render("dify", services(t, dify.Default, s, secrets), "never", "")
	if err != nil {
		t.Fatal(err)
	}
	rebinds(t, n, client+":53", map[string][]netip.Addr{
		"evil.example.org.": {netip.MustParseAddr(client), netip.MustParseAddr(mirror)}, "far.example.org.": {netip.MustParseAddr(internet), netip.MustParseAddr(mirror)},
		"six.example.org.": {netip.MustParseAddr("fd20:ce::254")}, "mapped.example.org.": {netip.MustParseAddr("::ffff:" + metadata)}, "nat.example.org.": {netip.MustParseAddr("64:ff9b::a9fe:a9fe")},
		"mixed.example.org.": {netip.MustParseAddr(internet), netip.MustParseAddr("fd20:ce::254")},
	}, netip.MustParseAddr(internet), netip.MustParseAddr(metadata))
	dir := servers.Dir(t) // squid runs as another user
	file := filepath.Join(dir, "squid.conf")
	extra := "pid_filename none\ndns_nameservers " + client + "\ncache_log stdio:/dev/null\nhosts_file " + dir + "/hosts\ncoredump_dir " + dir + "\n"
	hosts := mcp + " mcp.demo.internal\n" + mcp + " other.demo.internal\n" + metadata + " metadata.demo.internal\n" + metadata + " metadata.google.internal\n" + metadata + " innocent.example.com\n" + metadata + " metadata\n" + internet + " metadata.goog\n" + private + " db.demo.internal\n" + internet + " www.example.com\n"
	var said bytes.Buffer // to be read once nothing writes to it
	// serve runs squid with rules, until the function that it gives is called.
	serve := func(rules string) (stop func()) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(rules+extra), 0o644), os.WriteFile(filepath.Join(dir, "hosts"), []byte(hosts), 0o644)); err != nil {
			t.Fatal(err)
		}
		cmd := n.Command(t.Context(), program, "-N", "-f", file)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }() // it is killed
		return sync.OnceFunc(func() { _ = cmd.Process.Kill(); <-ended })
	}
	stop := serve(string(files.Squid))
	t.Cleanup(func() { stop() })

	// ask sends one request to the proxy, from the containers' network or another address, and gives the first line.
	ask := func(from, request string) string {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			c, err := n.DialFrom(t.Context(), from, client+":3128")
			if err != nil {
				if time.Now().After(end) {
					stop()
					t.Fatalf("squid does not serve: %v\n%s", err, said.String())
				}
				continue
			}
			defer c.Close()
			fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\nConnection: close\r\n\r\n", request)
			c.SetDeadline(time.Now().Add(time.Minute))
			line, err := bufio.NewReader(c).ReadString('\n') // a CONNECT's answer has no end
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(line)
		}
	}
	for request, want := range map[string]string{
		"GET http://www.example.com/":                             "200",
		"GET http://" + internet + "/":                            "200",
		"GET http://" + internet + ":22/":                         "403",
		"GET http://" + metadata + "/computeMetadata/v1/":         "403",
		"GET http://metadata.google.internal/computeMetadata/v1/": "403",
		"GET http://metadata.goog/computeMetadata/v1/":            "403", // by its name, wherever that leads
		"GET http://METADATA.GOOGLE.INTERNAL/computeMetadata/v1/": "403",
		"GET http://metadata/computeMetadata/v1/":                 "403",
		"GET http://innocent.example.com/computeMetadata/v1/":     "403", // a name of the attacker's, which leads there
		"GET http://six.example.org/computeMetadata/v1/":          "403", // by IPv6
		"GET http://mapped.example.org/computeMetadata/v1/":       "403",
		"GET http://nat.example.org/computeMetadata/v1/":          "403",
		"GET http://mixed.example.org/computeMetadata/v1/":        "403", // and to the internet
		"GET http://2852039166/computeMetadata/v1/":               "403", // the same address as one number
		"GET http://0xa9fea9fe/computeMetadata/v1/":               "403",
		"GET http://0251.0376.0251.0376/computeMetadata/v1/":      "403",
		"GET http://169.254.43518/computeMetadata/v1/":            "403",
		"GET http://169.254.169.254./computeMetadata/v1/":         "403",
		"GET http://[::ffff:169.254.169.254]/computeMetadata/v1/": "403",
		"GET http://[64:ff9b::a9fe:a9fe]/computeMetadata/v1/":     "403",
		"GET http://[fd20:ce::254]/computeMetadata/v1/":           "403",
		"GET http://127.0.0.1/":                                   "403",
		"GET http://localhost/":                                   "403",
		"GET http://[::1]/":                                       "403",
		"GET http://0.0.0.0/":                                     "403",
		"GET http://" + private + "/":                             "403",
		"GET http://db.demo.internal/":                            "403",
		"GET http://mcp.demo.internal:8443/":                      "200", // named
		"CONNECT mcp.demo.internal:8443":                          "200",
		"GET http://mcp.demo.internal/":                           "403", // another port
		"GET http://other.demo.internal:8443/":                    "403", // another name
		"GET http://" + mcp + ":8443/":                            "403",
		"GET http://" + mirror + ":8081/":                         "200", // the mirror
		"GET http://" + mirror + "/":                              "403",
		"GET http://evil.example.org:8081/":                       "403", // a name of the attacker's, which leads to the mirror and to another container
		"CONNECT far.example.org:8081":                            "403", // or to the internet
		"GET http://metadata.demo.internal/":                      "403", // a name that leads there, though it is named
		"GET http://" + client + "/":                              "403", // another container
		"CONNECT " + metadata + ":443":                            "403",
		"CONNECT " + internet + ":22":                             "403",
		"CONNECT " + internet + ":80":                             "403",
		"GET cache_object://" + client + "/info":                  "40",
		"GET http://" + client + ":3128/squid-internal-mgr/info":  "403",
	} {
		for _, from := range []string{client, inward} {
			if got := ask(from, request); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
				t.Errorf("%s from %s: %s, want %s", request, from, got, want)
			}
		}
	}
	// Who is led on is refused there.
	redirected := &http.Client{Transport: &http.Transport{
		Proxy:       http.ProxyURL(&url.URL{Scheme: "http", Host: client + ":3128"}),
		DialContext: func(ctx context.Context, _, at string) (net.Conn, error) { return n.DialFrom(ctx, client, at) },
	}}
	defer redirected.CloseIdleConnections()
	for _, to := range []string{"http://" + metadata + "/computeMetadata/v1/", "http://metadata.google.internal/", "http://db.demo.internal/", "http://2852039166/"} {
		resp, err := redirected.Get("http://www.example.com/?to=" + url.QueryEscape(to))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Request.URL.String() != to || resp.StatusCode != http.StatusForbidden {
			t.Errorf("led on to %s, %s answers %s", to, resp.Request.URL, resp.Status)
		}
	}
	// Dify takes a 401 or a 403 for the proxy's refusal where Server or Via has squid in it (ssrf_proxy.py): a server's own goes by neither.
	for to, refused := range map[string]bool{"http://www.example.com/?status=401": false, "http://www.example.com/?status=403": false, "http://db.demo.internal/": true} {
		resp, err := redirected.Get(to)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		said := strings.ToLower(resp.Header.Get("Server") + resp.Header.Get("Via"))
		if resp.StatusCode/100 != 4 || strings.Contains(said, "squid") != refused {
			t.Errorf("%s answers %s, refused by the proxy: %t; Server and Via are %q", to, resp.Status, refused, said)
		}
	}
	// Names of the attacker's lead to the internet once and to the metadata server the next time, or to both at once. Squid asks once for
	// what it judges and where it connects to, and remembers it for a minute.
	reached := map[string]int{}
	for i := range 60 {
		name := fmt.Sprintf("rebind%d.example.org", i/10)
		if i >= 40 {
			name = "both-" + name
		}
		resp, err := redirected.Get("http://" + name + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if text := string(body); strings.HasPrefix(text, "reached ") {
			if strings.HasPrefix(name, "both-") {
				t.Errorf("%s: %s", name, text)
			}
			reached[text]++
		} else {
			reached[resp.Status]++
		}
	}
	t.Logf("a name that changes where it leads: %v", reached)
	if reached["reached "+internet+":80"] == 0 || reached["403 Forbidden"] == 0 || len(reached) != 2 {
		t.Errorf("a name that changes where it leads: %v", reached)
	}
	if got := ask(private, "GET http://www.example.com/"); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Errorf("somebody who is no container gets %s", got)
	}
	// Without what the rules deny, that which is refused above is there to be had.
	stop()
	stop = serve(regexp.MustCompile("(?m)^http_access deny .*$").ReplaceAllString(string(files.Squid), ""))
	for _, request := range []string{
		"GET http://" + metadata + "/computeMetadata/v1/", "GET http://metadata.google.internal/computeMetadata/v1/", "GET http://innocent.example.com/computeMetadata/v1/",
		"GET http://2852039166/computeMetadata/v1/", "GET http://0xa9fea9fe/computeMetadata/v1/", "GET http://0251.0376.0251.0376/computeMetadata/v1/", "GET http://169.254.43518/computeMetadata/v1/",
		"GET http://mapped.example.org/computeMetadata/v1/", "GET http://metadata.demo.internal/", "CONNECT " + metadata + ":80",
		"GET http://127.0.0.1/", "GET http://localhost/", "GET http://" + private + "/", "GET http://db.demo.internal/", "GET http://" + client + "/", "GET http://" + internet + ":22/",
		"GET http://evil.example.org:8081/", "CONNECT far.example.org:8081",
	} {
		if got := ask(inward, request); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("without the rules, %s: %s", request, got)
		}
	}
}

// rebinds answers each question for an address with the next of several, which nobody may remember; for names that begin with "both-" with
// all of them. Fixed are names that lead where they say.
func rebinds(t *testing.T, n *engine.Namespace, at string, fixed map[string][]netip.Addr, to ...netip.Addr) {
	t.Helper()
	next := 0
	answers(t, n, at, func(q dnsmessage.Question) (all []dnsmessage.Resource) {
		some := to
		if all := fixed[q.Name.String()]; all != nil {
			some = all
		} else if q.Type != dnsmessage.TypeA {
			return nil
		} else if next++; !strings.HasPrefix(q.Name.String(), "both-") {
			some = to[next%len(to):][:1]
		}
		for _, ip := range some {
			if ip.Is4() == (q.Type == dnsmessage.TypeA) {
				all = append(all, address(q, ip, 0))
			}
		}
		return all
	})
}

// bucket is Cloud Storage. It knows the token that the API and the worker are given.
type bucket struct {
	mu      sync.Mutex
	objects map[string]string
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/files/o/")
	switch {
	case r.Header.Get("Authorization") != "Bearer token-of-api" && r.Header.Get("Authorization") != "Bearer token-of-worker":
		http.Error(w, "no token", http.StatusUnauthorized)
	case r.Method == http.MethodPost:
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		b.objects[r.URL.Query().Get("name")] = string(raw)
		io.WriteString(w, `{"generation":"1"}`)
	case r.URL.Path == "/storage/v1/b/files":
		io.WriteString(w, `{"name":"files"}`)
	case b.objects[name] == "":
		http.NotFound(w, r)
	case r.Method == http.MethodDelete:
		delete(b.objects, name)
	default:
		io.WriteString(w, b.objects[name])
	}
}

// Addresses of a network that the engine's is joined to, as the VPC's and the internet's are to an instance. There is another one of
// these in neither: nothing leads out of the two.
const (
	metadataAt = "169.254.169.254" // the VPC's name server as well
	instanceAt = "10.64.0.7"       // the engine's machine
	otherAt    = "10.64.0.9"       // another instance
	storesAt   = "10.65.0.3"
	internetAt = "93.184.215.14" // where the bucket is
)

// outside is where the engine's machine is connected to.
type outside struct{ *engine.Namespace }

// world starts an engine with images of the stand-in's, and stores outside that its containers reach, and gives the services of an
// instance there.
func world(t *testing.T) (*engine.Engine, []dify.Service, map[string]string, outside) {
	t.Helper()
	engine.Need(t)
	ctx, cancel := patience(t)
	defer cancel()
	e, err := engine.Start(ctx, "--dns", metadataAt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	n, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	out := outside{n}
	if err := errors.Join(e.Join(n, instanceAt+"/24", "10.64.0.1/24"), n.Up("lo", metadataAt+"/32", otherAt+"/32", storesAt+"/32", internetAt+"/32")); err != nil {
		t.Fatal(err)
	}
	data := servers.Open(t)
	sql := data.SQL
	db, err := sql.Create(ctx, "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.SetUser(ctx, "p/main", "dify", odd); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dify", "dify_plugin", "dify_vector"} {
		if err := sql.CreateDatabase(ctx, "p/main", name); err != nil {
			t.Fatal(err)
		}
	}
	red, err := data.Cache.Create(ctx, "p/redis", odd, nil)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(&bucket{objects: map[string]string{}})
	t.Cleanup(front.Close)
	for at, to := range map[string]string{
		storesAt + ":5432": netip.AddrPortFrom(db, 5432).String(), storesAt + ":6379": netip.AddrPortFrom(red, 6379).String(), internetAt + ":8080": front.Listener.Addr().String(),
	} {
		l, err := n.Listen(at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(engine.Relay(l, func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", to) }))
	}

	s, secrets := settings(odd)
	secrets[dify.InitPassword] = "the-init-password" // which is compared with what somebody types
	s.Domain = ""
	s.Stores.Database.Host, s.Stores.Vector.Host, s.Stores.Redis.Host = storesAt, storesAt, storesAt
	google := map[string]string{"STORAGE_EMULATOR_HOST": internetAt + ":8080"}
	s.Environment = map[dify.Name]map[string]string{
		dify.API: google, dify.Worker: google, dify.PluginDaemon: google, dify.Web: {"STANDIN_INSTANCE": "vm-1"},
	}
	all := services(t, dify.Default, s, secrets)
	refs := map[string]string{}
	for i := range all {
		service := &all[i]
		ref := "difyup-standin/" + string(service.Name) + ":" + dify.Default
		switch service.Name {
		case dify.API, dify.Worker, dify.WorkerBeat: // are one image
			ref = "difyup-standin/api:" + dify.Default
			refs[ref] = ""
		default:
			refs[ref] = string(service.Name)
		}
		service.Image = ref
	}
	if err := e.Images(ctx, dify.Default, refs); err != nil {
		t.Fatal(err)
	}
	return e, all, secrets, out
}

// TestPull has an engine fetch images from a registry that wants to know who asks.
func TestPull(t *testing.T) {
	engine.Need(t)
	ctx, cancel := patience(t)
	defer cancel()
	e, err := engine.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	// To loopback addresses Docker speaks without TLS.
	const registry, user, password = "127.0.0.1:5000", "somebody", "the pass:word$of$one"
	images := inmemory.New(inmemory.Logger(log.New(io.Discard, "", 0)))
	open := httptest.NewServer(images)
	t.Cleanup(open.Close)
	for _, n := range []string{"one", "two", "slow"} {
		made, err := random.Image(1024, 1)
		var config *v1.ConfigFile
		if err == nil {
			config, err = made.ConfigFile()
		}
		if err == nil {
			config = config.DeepCopy()
			config.OS, config.Architecture = "linux", goruntime.GOARCH
			made, err = mutate.ConfigFile(made, config)
		}
		if err == nil {
			var to name.Tag
			if to, err = name.NewTag(open.Listener.Addr().String()+"/acme/"+n+":1", name.Insecure); err == nil {
				err = remote.Write(to, made)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	memory := t.TempDir()
	var seen sync.Map // how the password lies while an image is pulled
	l, err := e.Listen(registry)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="acme"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		files, _ := filepath.Glob(filepath.Join(memory, "*", "*"))
		for _, f := range files {
			of, err := os.Stat(filepath.Dir(f))
			file, err2 := os.Stat(f)
			if err == nil && err2 == nil {
				seen.Store(fmt.Sprint(of.Mode(), " ", file.Mode()), true)
			}
		}
		if strings.Contains(r.URL.Path, "/slow/blobs/") {
			time.Sleep(time.Second)
		}
		images.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })

	var said lockedBuffer
	var asked sync.Map
	prepare := func(image string, login func() (string, string, error)) error {
		s, secrets := settings("the-secret")
		s.Images = map[dify.Name]string{}
		for _, n := range dify.Imaged() {
			s.Images[n] = registry + "/acme/" + image + ":1"
		}
		o := compose.Options{Dir: filepath.Join(t.TempDir(), "compose"), Project: "dify", Environ: e.Environ, Pull: "missing", Memory: memory, Nft: nft(e), Log: slog.New(slog.NewTextHandler(&said, nil))}
		if login != nil {
			o.Login = func(_ context.Context, registry string) (string, string, error) {
				asked.Store(registry, true)
				return login()
			}
		}
		err := compose.New(o).Prepare(ctx, services(t, dify.Default, s, secrets))
		if fetch := (*runtime.Unfetched)(nil); err != nil && !errors.As(err, &fetch) {
			t.Errorf("the engine is said to be the cause: %v", err)
		}
		left, globbed := filepath.Glob(filepath.Join(memory, "*"))
		if globbed != nil || len(left) > 0 {
			t.Errorf("after %s, %v is left, %v", image, left, globbed)
		}
		return err
	}
	if err := os.MkdirAll(filepath.Join(memory, "difyup-pull-1", "of-a-killed-agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := prepare("one", nil); err == nil || !strings.Contains(err.Error(), "pull "+registry+"/acme/one:1: ") {
		t.Errorf("without credentials: %v", err)
	}
	if err := prepare("one", func() (string, string, error) { return "", "", nil }); err == nil {
		t.Error("without a user it was let in")
	}
	if err := prepare("one", func() (string, string, error) { return user, "Another:Password", nil }); err == nil || strings.Contains(err.Error(), "Another:Password") {
		t.Errorf("with another password: %v", err)
	}
	broken := errors.New("the secret is gone")
	if err := prepare("one", func() (string, string, error) { return "", "", broken }); !errors.Is(err, broken) {
		t.Errorf("with credentials that cannot be had: %v", err)
	}
	if err := prepare("one", func() (string, string, error) { return user, password, nil }); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	if out, err := e.Docker(ctx, nil, "image", "inspect", "--format", "{{.Os}}", registry+"/acme/one:1"); err != nil || strings.TrimSpace(out) != "linux" {
		t.Errorf("the image: %s, %v", out, err)
	}
	// Nobody is remembered.
	if err := prepare("two", nil); err == nil {
		t.Error("who logged in before was let in again")
	}
	for what, want := range map[*sync.Map]string{&seen: "drwx------ -rw-------", &asked: registry} {
		var got []string
		what.Range(func(k, _ any) bool { got = append(got, k.(string)); return true })
		if !slices.Equal(got, []string{want}) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if strings.Contains(said.String(), password) {
		t.Errorf("the log shows the password:\n%s", said.String())
	}

	// One that is not there does not keep another from coming, and is not asked for all the time.
	s, secrets := settings("the-secret")
	s.Images = map[dify.Name]string{}
	for _, n := range dify.Imaged() {
		s.Images[n] = registry + "/acme/one:1"
	}
	s.Images[dify.API], s.Images[dify.Sandbox] = registry+"/acme/none:1", registry+"/acme/slow:1"
	var log lockedBuffer
	r := compose.New(compose.Options{
		Dir: filepath.Join(t.TempDir(), "compose"), Project: "dify", Environ: e.Environ, Pull: "missing", Memory: memory, Nft: nft(e), Log: slog.New(slog.NewTextHandler(&log, nil)),
		Login: func(context.Context, string) (string, string, error) { return user, password, nil },
	})
	const tries = 5
	began := time.Now()
	for range tries {
		if err := r.Prepare(ctx, services(t, dify.Default, s, secrets)); err == nil || !strings.Contains(err.Error(), "pull "+registry+"/acme/none:1: ") || strings.Contains(err.Error(), "slow") {
			t.Errorf("with an image that is not there: %v", err)
		}
	}
	took := time.Since(began)
	if pulls := strings.Count(log.String(), "/acme/slow:1"); pulls != 1 {
		t.Errorf("an image that takes a while was pulled %d times:\n%s", pulls, log.String())
	}
	// After a second, after two more, after four more.
	if pulls := strings.Count(log.String(), "/acme/none:1"); pulls < 1 || time.Duration(1<<(pulls-1)-1)*time.Second > took {
		t.Errorf("an image that is not there was asked for %d times in %s:\n%s", pulls, took, log.String())
	}
}

// patience ends shortly before the test is ended, so that it can say what it waited for.
func patience(t *testing.T) (context.Context, context.CancelFunc) {
	end, ok := t.Deadline()
	if !ok {
		end = time.Now().Add(time.Hour)
	}
	return context.WithDeadline(t.Context(), end.Add(-20*time.Second))
}

// TestRun is a whole life: images that are missing, jobs, up, smoke through a front door, a container that dies, one that hangs,
// what others may see, a service that cannot run, and the end.
func TestRun(t *testing.T) {
	e, all, secrets, _ := world(t)
	ctx, cancel := patience(t)
	defer cancel()
	var log lockedBuffer
	written := &record{last: map[string]string{}}
	dir := filepath.Join(t.TempDir(), "compose")
	o := compose.Options{
		Dir: dir, Project: "dify", Environ: e.Environ, Pull: "never", Look: time.Second, Dial: e.Dial,
		Lines: written, Nft: nft(e), Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	var where sync.Mutex // the stores are
	found, lost := []netip.Addr{netip.MustParseAddr(storesAt)}, error(nil)
	o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		where.Lock()
		defer where.Unlock()
		return found, lost
	}
	r := compose.New(o)
	identify(t, e, r)
	missing := slices.Clone(all)
	missing[3].Image = "difyup-standin/nothing:1"
	if err := r.Prepare(ctx, missing); err == nil || !strings.Contains(err.Error(), "difyup-standin/nothing:1 is not on this machine") {
		t.Errorf("an image that is missing: %v", err)
	}
	if err := r.Prepare(ctx, all); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "compose.yaml"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}

	for _, m := range dify.Migrations(all) {
		job := runtime.Job{Service: m.Service, Command: m.Command, Environment: m.Environment}
		if got, err := r.Job(ctx, job); err != nil || got.Status != 0 || !strings.Contains(got.Lines, "tables are there") {
			t.Errorf("the migration of %s ended with %+v, %v", m.Service.Name, got, err)
		}
	}
	job := runtime.Job{Service: all[0], Command: []string{"api", "nothing"}}
	if got, err := r.Job(ctx, job); err != nil || got.Status != 1 || !strings.Contains(got.Lines, `knows no command "nothing"`) {
		t.Errorf("an unknown command ended with %+v, %v", got, err)
	}

	// What an agent that was killed has left.
	if _, err := e.Docker(ctx, nil, "create", "--name", "dify-job-api", all[0].Image); err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(ctx, all); err != nil {
		t.Fatal(err)
	}
	if left, err := e.Docker(ctx, nil, "ps", "--all", "--quiet"); err != nil || left != "" {
		t.Errorf("a job that was left is there: %q, %v", left, err)
	}

	if err := r.Health(ctx); err == nil {
		t.Error("all is well before anything runs")
	}
	life, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- r.Run(life, all) }()
	for r.Health(ctx) != nil {
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			t.Fatalf("%v\n%s", r.Health(t.Context()), log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Logf("seven containers are up and healthy after %s", time.Since(began).Round(time.Millisecond))

	keeps(ctx, t, e, &log, func(err error, to ...string) {
		where.Lock()
		defer where.Unlock()
		found, lost = nil, err
		for _, a := range to {
			found = append(found, netip.MustParseAddr(a))
		}
	})

	// Each container has its own environment, and every value has come through as it was.
	for _, s := range all {
		out, err := e.Docker(ctx, nil, "inspect", "--format", "{{json .Config.Env}}", "dify-"+string(s.Name)+"-1")
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, v := range list {
			k, value, _ := strings.Cut(v, "=")
			got[k] = value
		}
		want := given(r, s)
		want["PATH"], want["STANDIN_VERSION"] = "/bin", dify.Default // the image's
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the environment of %s (-want +got):\n%s", s.Name, d)
		}
	}

	// Beat, and no other container, comes to where the agent's relay is.
	machine, peers := r.Relay()
	way, err := e.Listen(netip.AddrPortFrom(machine, dify.RelayPort).String())
	if err != nil {
		t.Fatal(err)
	}
	comes := make(chan string, 1)
	go func() {
		c, err := way.Accept()
		if err != nil {
			comes <- err.Error()
			return
		}
		c.Close()
		comes <- c.RemoteAddr().String()
	}()
	select {
	case from := <-comes:
		if at, err := netip.ParseAddrPort(from); err != nil || !peers.Contains(at.Addr()) {
			t.Errorf("beat comes from %s, not %s", from, peers)
		}
	case <-ctx.Done():
		t.Error("beat does not come")
	}
	way.Close()
	for _, s := range all {
		out, err := e.Docker(ctx, nil, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "dify-"+string(s.Name)+"-1")
		if err != nil {
			t.Fatal(err)
		}
		if has := slices.ContainsFunc(strings.Fields(out), func(a string) bool { return peers.Contains(netip.MustParseAddr(a)) }); has != (s.Name == dify.WorkerBeat) {
			t.Errorf("%s has the addresses %s", s.Name, out)
		}
	}

	// Each container finds who it is where it is told, and nobody comes to where another one does: neither by the machine's address in
	// a network of its own, nor from the machine itself.
	for _, s := range all {
		for _, of := range all {
			if at, _ := r.Identity(of.Name); at.IsValid() {
				_, err := e.Docker(ctx, nil, "exec", "dify-"+string(s.Name)+"-1", "curl", "http://"+at.String()+"/")
				if (err == nil) != (s.Name == of.Name) {
					t.Errorf("%s asks as %s: %v", s.Name, of.Name, err)
				}
			}
		}
	}
	at, _ := r.Identity(dify.API)
	if c, err := e.Dial(ctx, "tcp", at.String()); err == nil {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("the machine itself is answered %d bytes", n)
		}
		c.Close()
	}

	// Smoke asks as users do.
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: relayed(t, e, r)})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close(ctx)
	door.Ready()
	report, err := smoke.Run(ctx, smoke.Options{
		URL: "http://" + door.Addr().String(), Version: dify.Default, Instances: []string{"vm-1"}, Email: "owner@example.com", Password: "0wnerOfEverything", Setup: true,
		InitPassword: func(context.Context) (string, error) { return secrets[dify.InitPassword], nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if row.Status != smoke.Passed {
			t.Errorf("smoke: %s %s %s %v", row.ID, row.Status, row.Detail, row.Fault)
		}
	}

	// A container whose program dies is started again.
	id := func(n dify.Name) string {
		out, err := e.Docker(ctx, nil, "inspect", "--format", "{{.State.Pid}} {{.State.Status}}", "dify-"+string(n)+"-1")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	first := id(dify.Worker)
	if _, err := e.Docker(ctx, nil, "exec", "dify-worker-1", "curl", "http://127.0.0.1:1/"); err == nil {
		t.Error("a probe of nothing succeeds")
	}
	pid, _, _ := strings.Cut(first, " ")
	if err := e.Signal(ctx, pid, "KILL"); err != nil {
		t.Fatal(err)
	}
	for again := first; again == first || !strings.HasSuffix(again, " running"); again = id(dify.Worker) {
		if ctx.Err() != nil {
			t.Fatalf("the worker is %s, and was %s", again, first)
		}
		time.Sleep(50 * time.Millisecond)
	}

	for want := (runtime.State{Well: true, Restarts: 1}); ; time.Sleep(50 * time.Millisecond) {
		states, err := r.States(ctx)
		if err != nil {
			t.Fatal(err)
		}
		worker, api := states[dify.Worker], states[dify.API]
		measured := worker.Memory > 0 && api.Memory > 0
		if worker.Memory, api.Memory = 0, 0; worker == want && api == (runtime.State{Well: true}) && len(states) == len(all) {
			if !measured {
				t.Errorf("the memory of containers is not known: %+v", states)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the containers' states are %+v", states)
		}
	}

	// One that hangs is known to, and is started again too.
	first = id(dify.API)
	pid, _, _ = strings.Cut(first, " ")
	if err := e.Signal(ctx, pid, "STOP"); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	var hangs *runtime.Failure
	for hangs = nil; !errors.As(r.Health(ctx), &hangs); time.Sleep(50 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("an API that is stopped is said to be well")
		}
	}
	noticed := time.Since(began)
	if hangs.Service != dify.API || noticed > 30*time.Second {
		t.Errorf("after %s: %v", noticed, hangs)
	}
	for again := first; again == first || r.Health(ctx) != nil; again = id(dify.API) {
		if ctx.Err() != nil {
			t.Fatalf("the API is %s, and was %s\n%s", again, first, log.String())
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("a container that hangs is noticed after %s, and answers again after %s", noticed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))

	// A service ends before the others when it is told to, is not started again, and is not missed. One that does not end is killed.
	ending, cancelEnding := context.WithTimeout(ctx, time.Minute)
	defer cancelEnding()
	if err := r.Stop(ending, []dify.Name{dify.Worker}); err != nil {
		t.Errorf("the worker is told to end: %v", err)
	}
	// It was asked to take nothing more before: told to end, Dify's breaks off its workflows.
	if out, err := e.Docker(ctx, nil, "logs", "dify-worker-1"); err != nil || !strings.Contains(out, "asked to take nothing more") || !strings.Contains(out, "nothing is in hand any more") {
		t.Errorf("the worker was told to end at once: %v\n%s", err, out)
	}
	pid, _, _ = strings.Cut(id(dify.PluginDaemon), " ")
	if err := e.Signal(ctx, pid, "STOP"); err != nil {
		t.Fatal(err)
	}
	ending, cancelEnding = context.WithTimeout(ctx, 3*time.Second)
	defer cancelEnding()
	var late *runtime.Failure
	if err := r.Stop(ending, []dify.Name{dify.PluginDaemon, dify.Worker}); !errors.As(err, &late) || late.Service != dify.PluginDaemon || late.State != runtime.Killed {
		t.Errorf("a daemon that does not end: %v", err)
	}
	time.Sleep(3 * o.Look)
	for _, n := range []dify.Name{dify.Worker, dify.PluginDaemon} {
		if now := id(n); !strings.HasSuffix(now, " exited") {
			t.Errorf("%s was told to end, and is %s", n, now)
		}
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
	if out, err := e.Docker(ctx, nil, "ps", "--quiet"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("containers still run: %s %v", out, err)
	}

	// All that containers wrote was given, to the last line, and nothing twice, whichever ended and was started again.
	for _, s := range all {
		out, err := e.Docker(ctx, nil, "logs", "dify-"+string(s.Name)+"-1")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(strings.Split(strings.TrimSpace(out), "\n"), written.of(string(s.Name))); d != "" {
			t.Errorf("lines of %s (-engine +given):\n%s", s.Name, d)
		}
	}

	// A worker that runs and takes nothing, since the agent that asked it to died then, is stopped before all are started again.
	if _, err := e.Docker(ctx, nil, "start", "dify-worker-1"); err != nil {
		t.Fatal(err)
	}
	deaf := filepath.Join(dir, "quiet-worker")
	if _, err := os.Stat(deaf); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a worker that has ended counts as one that takes nothing: %v", err)
	}
	if err := os.WriteFile(deaf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := compose.Wake(ctx, r, all); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(deaf); !errors.Is(err, os.ErrNotExist) || !strings.HasSuffix(id(dify.Worker), " exited") {
		t.Errorf("the worker is %s, %v", id(dify.Worker), err)
	}

	// One that cannot run is named, with what it said, and without its secrets.
	broken := slices.Clone(all)
	broken[1].Environment = maps.Clone(broken[1].Environment)
	broken[1].Environment["CELERY_BROKER_URL"] = "amqp://x"
	o.Start = 10 * time.Second
	err = compose.New(o).Run(ctx, broken)
	var failure *runtime.Failure
	if !errors.As(err, &failure) || failure.Service != dify.Worker || !strings.Contains(failure.Lines, "CELERY_BROKER_URL is no URL of Redis") {
		t.Errorf("a worker that cannot run: %v", err)
	}
	if got := written.of(string(dify.Worker)); !slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, "CELERY_BROKER_URL is no URL of Redis") }) {
		t.Errorf("what the worker wrote before it ended was not given: %q", got)
	}
	if len(written.twice) > 0 {
		t.Errorf("given twice: %q", written.twice)
	}
	for _, text := range []string{log.String(), fmt.Sprint(err), fmt.Sprint(written.all)} {
		if strings.Contains(text, odd) || strings.Contains(text, "the-init-password") {
			t.Errorf("a secret is shown: %s", text)
		}
	}
}

// identify has services be told who they are in the engine's network, as the agent does it on a machine of its own, from before
// anything of them runs.
func identify(t *testing.T, e *engine.Engine, r runtime.Runtime) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	t.Cleanup(func() { end(); serving.Wait() })
	for _, n := range dify.Names() {
		at, from := r.Identity(n)
		if !at.IsValid() {
			continue
		}
		var l net.Listener
		err := e.Do(func() (err error) {
			l, err = sockets.ListenEarly(ctx, at)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		endpoint := &identity.Endpoint{
			Instance: identity.Instance{Project: "p", Account: "vm@p.iam.gserviceaccount.com", Universe: "googleapis.com"}, Log: slog.New(slog.DiscardHandler),
			Token: func(context.Context) (identity.Token, error) {
				return identity.Token{Value: "token-of-" + string(n), Expires: time.Now().Add(time.Hour)}, nil
			},
		}
		know := func(c net.Conn) error { return e.Do(func() error { return from.Know(c) }) } // the names of devices are the network's
		serving.Go(func() {
			if err := identity.Serve(ctx, l, know, endpoint); err != nil {
				t.Error(err)
			}
		})
	}
}

// relayed has the services that a runtime publishes in the engine's network be reached on this machine's.
func relayed(t *testing.T, e *engine.Engine, r runtime.Runtime) func(dify.Name) string {
	t.Helper()
	at := map[dify.Name]string{}
	for _, n := range dify.Services() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(engine.Relay(l, func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, "tcp", r.Address(n)) }))
		at[n] = l.Addr().String()
	}
	return func(n dify.Name) string { return at[n] }
}

// record takes lines, and notes which came twice.
type record struct {
	mu    sync.Mutex
	all   []runtime.Line
	last  map[string]string
	twice []string
}

func (r *record) Add(l runtime.Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.all, func(o runtime.Line) bool { return o.ID == l.ID && o.At.Equal(l.At) }) {
		r.twice = append(r.twice, l.ID+" "+l.Text)
	}
	if l.Hide != nil {
		l.Text, l.Hide = l.Hide(l.Text), nil
	}
	r.all, r.last[l.Source] = append(r.all, l), l.ID
}

func (r *record) Skip(string, int) bool { return false }

func (r *record) Last(source string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[source]
}

// of gives the lines of a source.
func (r *record) of(source string) (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.all {
		if l.Source == source {
			texts = append(texts, l.Text)
		}
	}
	return texts
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
