package fleet_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet"
	"github.com/difyup/difyup/internal/localcloud/fleet/group"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// TestMain is also the instances' program: started with nothing but an instance's environment, it serves port 1080 of
// the address that its metadata server tells.
func TestMain(m *testing.M) {
	if host := os.Getenv("GCE_METADATA_HOST"); host != "" {
		if err := instance(host); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func ask(host, path string) (string, error) {
	req, err := http.NewRequest("GET", "http://"+host+"/computeMetadata/v1/"+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(data), err
}

// publish writes a guest attribute.
func publish(host, path, value string) error {
	req, err := http.NewRequest("PUT", "http://"+host+"/computeMetadata/v1/instance/guest-attributes/"+path, strings.NewReader(value))
	if err != nil {
		return err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}

func instance(host string) error {
	facts := map[string]string{}
	for _, path := range []string{"instance/name", "instance/network-interfaces/0/ip", "instance/attributes/release", "instance/service-accounts/default/token"} {
		v, err := ask(host, path)
		if err != nil {
			return err
		}
		facts[filepath.Base(path)] = v
	}
	fmt.Printf("instance %s, environment %d, dns %s\n", facts["name"], len(os.Environ()), os.Getenv("DIFYUP_DNS"))
	if facts["release"] == "broken" {
		return errors.New("this release is broken")
	}
	var sick atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	kept := filepath.Join(os.Getenv("HOME"), "kept")
	mux.HandleFunc("/keep", func(w http.ResponseWriter, r *http.Request) {
		err := os.WriteFile(kept, nil, 0o600)
		if err == nil {
			err = publish(host, "test/kept", "yes")
		}
		fmt.Fprint(w, err)
	})
	mux.HandleFunc("/kept", func(w http.ResponseWriter, r *http.Request) {
		_, err := os.Stat(kept)
		id, askErr := ask(host, "instance/id")
		fmt.Fprint(w, id, err == nil, askErr)
	})
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/die", func(http.ResponseWriter, *http.Request) {
		fmt.Println("this is why")
		os.Exit(3)
	})
	mux.HandleFunc("/burn", func(w http.ResponseWriter, r *http.Request) {
		for until := time.Now().Add(2 * time.Minute); time.Now().Before(until) && r.Context().Err() == nil; {
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", facts["name"], facts["release"]) })
	srv := &http.Server{Addr: facts["ip"] + ":1080", Handler: mux}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() { <-stop; srv.Close() }()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// process is a started program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func start(_ context.Context, p group.Program) (group.Process, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.Path)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.Env, p.Dir, log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	proc := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		proc.err = cmd.Wait()
		close(proc.done)
	}()
	return proc, nil
}

func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Err() error            { return p.err }
func (p *process) PID() int              { return p.cmd.Process.Pid }
func (p *process) Stop(ctx context.Context, grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(grace):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.err
}

// addresses gives addresses of 127.S.16.0/24, S being random: tests of other packages run at the same time.
type addresses struct {
	s    byte
	mu   sync.Mutex
	used map[netip.Addr]bool
}

func (a *addresses) Addr() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := byte(1); n < 255; n++ {
		addr := netip.AddrFrom4([4]byte{127, a.s, 16, n})
		if !a.used[addr] {
			a.used[addr] = true
			return addr, nil
		}
	}
	return netip.Addr{}, errors.New("no address is left")
}

func (a *addresses) Release(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, addr)
}

// owner is the one user there is.
type owner struct{}

func (owner) Take() (int, error) { return os.Geteuid(), nil }
func (owner) Release(int)        {}

// cloud is a control plane of plain bodies in front of a real fleet.
type cloud struct {
	t      *testing.T
	st     *store.Store
	fleet  *fleet.Fleet
	addrs  *addresses
	denied atomic.Bool // the object may not be read
	dir    string
	agent  []byte
}

const (
	global  = "projects/p/global/"
	region  = "projects/p/regions/r/"
	manager = region + "instanceGroupManagers/demo-group"
)

func newCloud(t *testing.T) *cloud {
	t.Helper()
	before := runtime.NumGoroutine()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{t: t, st: store.New(), addrs: &addresses{s: byte(100 + rand.IntN(100)), used: map[netip.Addr]bool{}}, dir: t.TempDir(), agent: agent}
	c.fleet, err = fleet.New(fleet.Options{
		Store: c.st, Addresses: c.addrs, Users: owner{}, Start: start, Dir: c.dir, Log: slog.New(slog.DiscardHandler),
		Objects: func(_ context.Context, bucket, object, as string) (io.ReadCloser, error) {
			if c.denied.Load() || as != "demo-vm@p.iam.gserviceaccount.com" {
				return nil, fmt.Errorf("%s does not have storage.objects.get access", as)
			}
			if bucket != "p-files" || object != "agent/difyup-agent-1" {
				return nil, fmt.Errorf("no such object: %s/%s", bucket, object)
			}
			return io.NopCloser(bytes.NewReader(agent)), nil
		},
		Issue: func(email string, _ time.Duration) string { return "token-of-" + email }, Number: func(string) string { return "123456789012" },
		Lookup: func(name, qtype string) ([]string, int, bool) {
			return []string{"127.0.0.5"}, 30, name == "db.demo.internal." && qtype == "A"
		},
		DNS: netip.MustParseAddr("127.0.0.1"), Endpoint: "http://127.0.0.1:1/",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.fleet.Close(ctx); err != nil {
			t.Error(err)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			buf := make([]byte, 1<<16)
			t.Errorf("%d goroutines before, %d after:\n%s", before, n, buf[:runtime.Stack(buf, true)])
		}
		if len(c.addrs.used) > 0 {
			t.Errorf("addresses not given back: %v", c.addrs.used)
		}
		if left, _ := filepath.Glob(filepath.Join(c.dir, "*", "*")); len(left) > 0 {
			t.Errorf("directories left: %v", left)
		}
	})
	c.put(global+"healthChecks/heal", map[string]any{"type": "HTTP", "healthyThreshold": 4, "unhealthyThreshold": 2,
		"httpHealthCheck": map[string]any{"port": 1080, "requestPath": "/health"}})
	return c
}

func (c *cloud) put(key string, body map[string]any) {
	body["selfLink"], body["name"] = wire.Link(key), wire.Name(key)
	c.st.Collection(wire.Kind(key)).Put(key, body)
	c.fleet.Changed(wire.Kind(key), key)
}

func (c *cloud) set(key string, fields map[string]any) {
	c.t.Helper()
	body, ok := c.st.Collection(wire.Kind(key)).Get(key)
	if !ok {
		c.t.Fatalf("no %s", key)
	}
	for k, v := range fields {
		body[k] = v
	}
	c.put(key, body)
}

func (c *cloud) template(name, release string) string {
	sum := sha256.Sum256(c.agent)
	items := []any{}
	for _, kv := range [][2]string{{"difyup-agent", "gs://p-files/agent/difyup-agent-1"}, {"difyup-agent-sha256", hex.EncodeToString(sum[:])}, {"release", release}, {"enable-guest-attributes", "TRUE"}} {
		items = append(items, map[string]any{"key": kv[0], "value": kv[1]})
	}
	key := global + "instanceTemplates/" + name
	c.put(key, map[string]any{"properties": map[string]any{
		"machineType": "e2-standard-2", "metadata": map[string]any{"items": items}, "labels": map[string]any{"managed-by": "difyup"},
		"tags":              map[string]any{"items": []any{"demo-vm"}},
		"networkInterfaces": []any{map[string]any{"network": wire.Link(global + "networks/demo-net")}},
		"serviceAccounts":   []any{map[string]any{"email": "demo-vm@p.iam.gserviceaccount.com", "scopes": []any{"https://www.googleapis.com/auth/cloud-platform"}}},
		"disks":             []any{map[string]any{"boot": true, "autoDelete": true, "initializeParams": map[string]any{"diskSizeGb": "50", "sourceImage": "projects/ubuntu-os-cloud/global/images/family/ubuntu-2204-lts"}}},
	}})
	return wire.Link(key)
}

func (c *cloud) group(size int, template string) {
	c.put(manager, map[string]any{
		"baseInstanceName": "demo-vm", "region": wire.Link("projects/p/regions/r"), "targetSize": size,
		"versions":            []any{map[string]any{"instanceTemplate": template}},
		"namedPorts":          []any{map[string]any{"name": "http", "port": 1080}},
		"distributionPolicy":  map[string]any{"zones": []any{map[string]any{"zone": "projects/p/zones/r-a"}, map[string]any{"zone": "projects/p/zones/r-b"}}},
		"autoHealingPolicies": []any{map[string]any{"healthCheck": wire.Link(global + "healthChecks/heal"), "initialDelaySec": 300}},
		"updatePolicy":        map[string]any{"type": "PROACTIVE", "minimalAction": "REPLACE", "maxSurge": map[string]any{"fixed": 2}, "maxUnavailable": map[string]any{"fixed": 0}},
	})
}

// summary is the group in one line: status, then every instance.
func (c *cloud) summary() string {
	st := c.fleet.Status(manager)["status"].(map[string]any)
	line := fmt.Sprintf("stable=%v reached=%v", st["isStable"], st["versionTarget"].(map[string]any)["isReached"])
	for _, m := range c.fleet.Managed(manager) {
		line += fmt.Sprintf(" %s/%s@%s", m["instanceStatus"], m["currentAction"], wire.Name(m["version"].(map[string]any)["instanceTemplate"].(string)))
	}
	return line
}

func (c *cloud) await(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, m := range c.fleet.Managed(manager) {
				c.t.Logf("%v: %s", m, c.fleet.Serial(wire.Key(m["instance"].(string))))
			}
			c.t.Fatalf("%s: %s", what, c.summary())
		}
	}
}

func (c *cloud) awaitSummary(want string) {
	c.t.Helper()
	c.await("waiting for "+want, func() bool { return c.summary() == want })
}

func (c *cloud) names() []string {
	var all []string
	for _, m := range c.fleet.Managed(manager) {
		all = append(all, m["name"].(string))
	}
	sort.Strings(all)
	return all
}

// call sends a request to an instance itself.
func (c *cloud) call(name, path string) {
	for _, b := range c.st.Collection("instances").List("projects/") {
		if b["name"] == name {
			ip := b["networkInterfaces"].([]any)[0].(map[string]any)["networkIP"].(string)
			ctx, cancel := context.WithCancel(context.Background())
			c.t.Cleanup(cancel)
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+ip+":1080"+path, nil)
			if err != nil {
				c.t.Fatal(err)
			}
			go func() {
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			}()
			return
		}
	}
	c.t.Fatalf("no instance %s", name)
}

const stable2 = "stable=true reached=true RUNNING/NONE@%[1]s RUNNING/NONE@%[1]s"

func TestGroupLifecycle(t *testing.T) {
	c := newCloud(t)
	c.denied.Store(true) // the permission comes later, as it may on Google
	c.group(2, c.template("t1", "one"))
	if st := c.fleet.Status(manager)["status"].(map[string]any); st["isStable"] != false {
		t.Errorf("stable at once: %v", st)
	}
	c.await("the serial port tells", func() bool {
		for _, b := range c.st.Collection("instances").List("projects/") {
			if strings.Contains(c.fleet.Serial(wire.Key(b["selfLink"].(string))), "does not have storage.objects.get access") {
				return true
			}
		}
		return false
	})
	c.denied.Store(false)
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))

	bodies := c.st.Collection("instances").List("projects/")
	var zones []string
	for _, b := range bodies {
		zones = append(zones, wire.Name(b["zone"].(string)))
		serial := c.fleet.Serial(wire.Key(b["selfLink"].(string)))
		if want := fmt.Sprintf("instance %s, environment 5, dns %s\n", b["name"], c.fleet.DNS()); !strings.Contains(serial, want) {
			t.Errorf("serial port of %s lacks %q:\n%s", b["name"], want, serial)
		}
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.fleet.DNS().String())
		}}
		got, err := r.LookupHost(t.Context(), fmt.Sprintf("%s.%s.c.p.internal.", b["name"], wire.Name(b["zone"].(string))))
		if want := b["networkInterfaces"].([]any)[0].(map[string]any)["networkIP"]; err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("name of the instance: %v %v, want %v", got, err, want)
		}
	}
	if d := cmp.Diff([]string{"r-a", "r-b"}, zones); d != "" {
		t.Errorf("zones (-want +got):\n%s", d)
	}
	if b := bodies[0]; b["status"] != "RUNNING" || b["machineType"] != wire.Link("projects/p/zones/r-a/machineTypes/e2-standard-2") {
		t.Errorf("instance body: %v", b)
	}

	c.set(manager, map[string]any{"targetSize": 1})
	c.awaitSummary("stable=true reached=true RUNNING/NONE@t1")
	if n := len(c.st.Collection("instances").List("projects/")); n != 1 {
		t.Errorf("%d bodies for one instance", n)
	}

	if err := c.fleet.Deleting(t.Context(), "instanceGroupManagers", manager); err != nil {
		t.Fatal(err)
	}
	if n := len(c.st.Collection("instances").List("projects/")); n != 0 || len(c.addrs.used) > 0 {
		t.Errorf("after deletion: %d instances, addresses %v", n, c.addrs.used)
	}
}

func TestHealing(t *testing.T) {
	c := newCloud(t)
	c.group(2, c.template("t1", "one"))
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	names := c.names()

	c.call(names[0], "/die")
	c.await("the end is noticed", func() bool { return len(c.fleet.Errors(manager)) == 1 })
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	e := c.fleet.Errors(manager)[0]
	if text := fmt.Sprint(e["error"]); !strings.Contains(text, "exit status 3") || !strings.Contains(text, "it wrote last: this is why") {
		t.Errorf("error: %v", e)
	}

	c.call(names[1], "/sick")
	c.await("sickness is noticed", func() bool { return len(c.fleet.Errors(manager)) == 2 })
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	if d := cmp.Diff(names, c.names()); d != "" {
		t.Errorf("repair keeps names (-want +got):\n%s", d)
	}

	started := func() any {
		for _, b := range c.st.Collection("instances").List("projects/") {
			if b["name"] == names[0] {
				return b["lastStartTimestamp"]
			}
		}
		return nil
	}
	before := started()
	if err := c.fleet.Recreate(t.Context(), manager, []string{wire.Link("projects/p/zones/r-a/instances/" + names[0])}); err != nil {
		t.Fatal(err)
	}
	c.await("it is started anew", func() bool { now := started(); return now != nil && now != before })
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	if err := c.fleet.Recreate(t.Context(), manager, []string{"nobody"}); err == nil {
		t.Error("an unknown instance is recreated")
	}
}

// TestRecreatedIsNew ends an instance's life in every way: where Google deletes the machine and creates one of the same name, nothing
// of it is left.
func TestRecreatedIsNew(t *testing.T) {
	c := newCloud(t)
	template := c.template("t1", "one")
	c.group(1, template)
	c.set(manager, map[string]any{"updatePolicy": map[string]any{"type": "PROACTIVE", "minimalAction": "RESTART", "maxSurge": map[string]any{"fixed": 0}, "maxUnavailable": map[string]any{"fixed": 1}}})
	const stable = "stable=true reached=true RUNNING/NONE@t1"
	c.awaitSummary(stable)
	name := c.names()[0]
	body := func() map[string]any {
		b, _ := c.st.Collection("instances").Get("projects/p/zones/r-a/instances/" + name)
		return b
	}
	tell := func(path string) string {
		t.Helper()
		resp, err := http.Get(fmt.Sprintf("http://%s:1080%s", body()["networkInterfaces"].([]any)[0].(map[string]any)["networkIP"], path))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, tc := range []struct {
		how string
		end func() error
		new bool
	}{
		{"the program ends", func() error { c.call(name, "/die"); return nil }, false},
		{"it is restarted", func() error {
			c.set(manager, map[string]any{"versions": []any{map[string]any{"name": "2", "instanceTemplate": template}}})
			return nil
		}, false},
		{"it is recreated", func() error { return c.fleet.Recreate(t.Context(), manager, []string{name}) }, true},
		{"it is unhealthy", func() error { c.call(name, "/sick"); return nil }, true},
	} {
		if said := tell("/keep"); said != "<nil>" {
			t.Fatalf("%s: %s", tc.how, said)
		}
		if got := c.fleet.GuestAttributes(wire.Key(body()["selfLink"].(string)))["test"]["kept"]; got != "yes" {
			t.Fatalf("%s: before, it has published %q", tc.how, got)
		}
		before := body()
		if err := tc.end(); err != nil {
			t.Fatal(err)
		}
		c.await(tc.how, func() bool { return body()["lastStartTimestamp"] != before["lastStartTimestamp"] })
		c.awaitSummary(stable)
		after := body()
		if (after["id"] != before["id"]) != tc.new || (after["creationTimestamp"] != before["creationTimestamp"]) != tc.new {
			t.Errorf("%s: it was %v of %v, and is %v of %v", tc.how, before["id"], before["creationTimestamp"], after["id"], after["creationTimestamp"])
		}
		if got, want := tell("/kept"), fmt.Sprint(after["id"], !tc.new, nil); got != want {
			t.Errorf("%s: it says %q, want %q", tc.how, got, want)
		}
		if got := len(c.fleet.GuestAttributes(wire.Key(after["selfLink"].(string)))); (got == 0) != tc.new {
			t.Errorf("%s: it has published in %d namespaces", tc.how, got)
		}
	}
}

func (c *cloud) edge(addr string) {
	c.put(global+"healthChecks/lb", map[string]any{"type": "HTTP", "httpHealthCheck": map[string]any{"port": 1080, "requestPath": "/health"}})
	c.put(global+"backendServices/web", map[string]any{"portName": "http", "timeoutSec": 30, "healthChecks": []any{wire.Link(global + "healthChecks/lb")},
		"backends":           []any{map[string]any{"group": wire.Link(region + "instanceGroups/demo-group")}},
		"connectionDraining": map[string]any{"drainingTimeoutSec": 60}})
	c.put(global+"urlMaps/m", map[string]any{"defaultService": wire.Link(global + "backendServices/web")})
	c.put(global+"targetHttpProxies/h", map[string]any{"urlMap": wire.Link(global + "urlMaps/m")})
	c.put(global+"forwardingRules/http", map[string]any{"IPAddress": addr, "portRange": "80-80", "target": wire.Link(global + "targetHttpProxies/h")})
}

func TestRollingUpdateLosesNoRequest(t *testing.T) {
	c := newCloud(t)
	addr := fmt.Sprintf("127.%d.1.1", c.addrs.s)
	c.group(2, c.template("t1", "one"))
	c.edge(addr)
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	healthy := func() bool {
		h := c.fleet.Health(region + "instanceGroups/demo-group")
		return len(h) == 2 && h[0]["healthState"] == "HEALTHY" && h[1]["healthState"] == "HEALTHY"
	}
	c.await("the load balancer sees them", healthy)
	l := c.fleet.Listeners()[0]
	url := fmt.Sprintf("http://%s:%d/", l.Address, l.Port)
	stop := make(chan struct{})
	type result struct{ total, bad, two int }
	results, second := make(chan result), make(chan struct{}) // the second release has answered
	go func() {
		var r result
		for {
			select {
			case <-stop:
				results <- r
				return
			default:
			}
			resp, err := http.Get(url)
			r.total++
			if err != nil {
				r.bad++
				continue
			}
			data, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				r.bad++
			}
			if strings.HasSuffix(string(data), " two") {
				if r.two++; r.two == 1 {
					close(second)
				}
			}
		}
	}()
	old := c.names()
	c.set(manager, map[string]any{"versions": []any{map[string]any{"instanceTemplate": c.template("t2", "two")}}})
	if s := c.summary(); !strings.HasPrefix(s, "stable=false reached=false") {
		t.Errorf("right after the change: %s", s)
	}
	c.awaitSummary(fmt.Sprintf(stable2, "t2"))
	c.await("the load balancer sees the new ones", healthy)
	c.await("the new release answers", func() bool {
		select {
		case <-second:
			return true
		default:
			return false
		}
	})
	close(stop)
	r := <-results
	// The group asks for more good answers than the load balancer does, so the update has no gap. Google's group managers
	// do not know what the load balancer thinks either.
	if r.bad > 0 || r.two == 0 {
		t.Errorf("%d requests, %d failed, %d answered by the new release", r.total, r.bad, r.two)
	}
	for _, n := range c.names() {
		for _, o := range old {
			if n == o {
				t.Errorf("%s was replaced by its own name", n)
			}
		}
	}

	// A broken release never takes the place of one that works.
	c.set(manager, map[string]any{"versions": []any{map[string]any{"instanceTemplate": c.template("t3", "broken")}}})
	c.await("the broken release is reported", func() bool { return len(c.fleet.Errors(manager)) >= 2 })
	if resp, err := http.Get(url); err != nil || resp.StatusCode != 200 {
		t.Errorf("with a broken release rolled out: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	c.set(manager, map[string]any{"versions": []any{map[string]any{"instanceTemplate": wire.Link(global + "instanceTemplates/t2")}}})
	c.awaitSummary(fmt.Sprintf(stable2, "t2"))

	if err := c.fleet.Deleting(t.Context(), "forwardingRules", l.Rule); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", l.Address, l.Port), time.Second); err == nil {
		conn.Close()
		t.Error("the listener of a deleted rule is open")
	}
}

// TestOnceHealthyIsAvailable changes the health check together with the version: what was healthy before stays, though the new
// check has not found it healthy yet and the new release never serves.
func TestOnceHealthyIsAvailable(t *testing.T) {
	c := newCloud(t)
	c.group(2, c.template("t1", "one"))
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	old := c.names()

	c.set(global+"healthChecks/heal", map[string]any{"checkIntervalSec": 300, "healthyThreshold": 10})
	c.await("they are probed by the new check", func() bool {
		for _, m := range c.fleet.Managed(manager) {
			if m["instanceHealth"].([]any)[0].(map[string]any)["detailedHealthState"] == "HEALTHY" {
				return false
			}
		}
		return true
	})
	c.set(manager, map[string]any{"versions": []any{map[string]any{"instanceTemplate": c.template("t2", "broken")}}})
	c.await("the broken release is reported", func() bool { return len(c.fleet.Errors(manager)) >= 2 })
	var left []string
	for _, m := range c.fleet.Managed(manager) {
		if m["instanceStatus"] == "RUNNING" && m["currentAction"] == "NONE" {
			left = append(left, m["name"].(string))
		}
	}
	if d := cmp.Diff(old, left); d != "" {
		t.Errorf("those that serve (-want +got):\n%s", d)
	}
}

func TestAutoscaler(t *testing.T) {
	c := newCloud(t)
	c.group(1, c.template("t1", "one"))
	key := region + "autoscalers/demo"
	c.put(key, map[string]any{"target": wire.Link(manager), "autoscalingPolicy": map[string]any{
		"minNumReplicas": 2, "maxNumReplicas": 3, "mode": "ON", "coolDownPeriodSec": 1, "cpuUtilization": map[string]any{"utilizationTarget": 0.05}}})
	c.awaitSummary(fmt.Sprintf(stable2, "t1"))
	body, _ := c.st.Collection("autoscalers").Get(key)
	if body["status"] != "ACTIVE" || body["recommendedSize"] != 2.0 {
		t.Errorf("autoscaler: %v", body)
	}
	for _, n := range c.names() {
		c.call(n, "/burn")
	}
	c.await("load brings a third", func() bool { return len(c.names()) == 3 })
	m, _ := c.st.Collection("instanceGroupManagers").Get(manager)
	if m["targetSize"] != 3.0 {
		t.Errorf("target size %v", m["targetSize"])
	}
	c.set(key, map[string]any{"autoscalingPolicy": map[string]any{"minNumReplicas": 1, "maxNumReplicas": 1, "mode": "ON", "cpuUtilization": map[string]any{"utilizationTarget": 0.05}}})
	c.await("new limits hold at once", func() bool { return len(c.names()) == 1 })
}
