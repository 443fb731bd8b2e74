package balancer_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/balancer"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// resources is a control plane: bodies by key.
type resources struct {
	mu     sync.Mutex
	bodies map[string]map[string]any
}

func (r *resources) Get(key string) (map[string]any, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.bodies[key]
	return b, ok
}

func (r *resources) List(kind string) []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	var keys []string
	for k := range r.bodies {
		if wire.Kind(k) == kind {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	var all []map[string]any
	for _, k := range keys {
		all = append(all, r.bodies[k])
	}
	return all
}

func (r *resources) put(key string, body map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body["selfLink"] = wire.Link(key)
	body["name"] = wire.Name(key)
	r.bodies[key] = body
}

const (
	global  = "projects/p/global/"
	manager = "projects/p/regions/r/instanceGroupManagers/g"
)

// world is a load balancer in front of two backends on 127.0.0.2 and 127.0.0.3.
type world struct {
	res      *resources
	b        *balancer.Balancer
	port     int
	down     [2]atomic.Bool
	handler  [2]atomic.Pointer[http.HandlerFunc]
	mu       sync.Mutex
	members  []balancer.Endpoint
	certPEM  string
	keyPEM   string
	backends [2]*httptest.Server
}

func (w *world) endpoints(string) []balancer.Endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]balancer.Endpoint(nil), w.members...)
}

func keyPair(t *testing.T, name string) (string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	w := &world{res: &resources{bodies: map[string]map[string]any{}}}
	w.certPEM, w.keyPEM = keyPair(t, "one.example")
	// Both backends need the same port.
	for i := range w.backends {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%d", i+2, w.port))
		if err != nil {
			t.Fatal(err)
		}
		w.port = l.Addr().(*net.TCPAddr).Port
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" {
				if w.down[i].Load() {
					rw.WriteHeader(http.StatusServiceUnavailable)
				}
				return
			}
			if h := w.handler[i].Load(); h != nil {
				(*h)(rw, r)
				return
			}
			fmt.Fprintf(rw, "vm-%d", i)
		}))
		srv.Listener.Close()
		srv.Listener = l
		srv.Start()
		w.backends[i] = srv
		w.members = append(w.members, balancer.Endpoint{Instance: fmt.Sprintf("projects/p/zones/z/instances/vm-%d", i), Addr: netip.MustParseAddr(fmt.Sprintf("127.0.0.%d", i+2))})
	}
	w.res.put(manager, map[string]any{"namedPorts": []any{map[string]any{"name": "http", "port": w.port}}})
	w.res.put(global+"healthChecks/hc", map[string]any{"type": "HTTP", "healthyThreshold": 2, "unhealthyThreshold": 2,
		"httpHealthCheck": map[string]any{"portSpecification": "USE_SERVING_PORT", "requestPath": "/health"}})
	w.res.put(global+"backendServices/web", map[string]any{"portName": "http", "timeoutSec": 5, "healthChecks": []any{wire.Link(global + "healthChecks/hc")},
		"backends":           []any{map[string]any{"group": wire.Link("projects/p/regions/r/instanceGroups/g")}},
		"connectionDraining": map[string]any{"drainingTimeoutSec": 300}})
	w.res.put(global+"urlMaps/m", map[string]any{"defaultService": wire.Link(global + "backendServices/web")})
	w.res.put(global+"urlMaps/r", map[string]any{"defaultUrlRedirect": map[string]any{"httpsRedirect": true, "redirectResponseCode": "MOVED_PERMANENTLY_DEFAULT"}})
	w.res.put(global+"sslCertificates/c1", map[string]any{"type": "SELF_MANAGED"})
	w.res.put(global+"sslCertificates/c2", map[string]any{"type": "MANAGED", "managed": map[string]any{"domains": []any{"two.example"}}})
	w.res.put(global+"sslPolicies/tls", map[string]any{"profile": "MODERN", "minTlsVersion": "TLS_1_2"})
	w.res.put(global+"targetHttpsProxies/s", map[string]any{"urlMap": wire.Link(global + "urlMaps/m"), "sslPolicy": wire.Link(global + "sslPolicies/tls"),
		"sslCertificates": []any{wire.Link(global + "sslCertificates/c1")}})
	w.res.put(global+"targetHttpProxies/h", map[string]any{"urlMap": wire.Link(global + "urlMaps/r")})
	// Port 1 of a loopback address is free, or not permitted: both are fine here.
	w.res.put(global+"forwardingRules/https", map[string]any{"IPAddress": "127.0.0.4", "portRange": "2-2", "target": wire.Link(global + "targetHttpsProxies/s")})
	w.res.put(global+"forwardingRules/http", map[string]any{"IPAddress": "127.0.0.4", "portRange": "1-1", "target": wire.Link(global + "targetHttpProxies/h")})
	w.b = balancer.New(balancer.Options{Resources: w.res, Endpoints: w.endpoints, Log: slog.New(slog.DiscardHandler),
		KeyPair: func(key string) (string, string, bool) {
			return w.certPEM, w.keyPEM, key == global+"sslCertificates/c1"
		}})
	if err := w.b.Refresh(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.b.Close(ctx); err != nil {
			t.Error(err)
		}
		for _, s := range w.backends {
			s.CloseClientConnections()
			s.Close()
		}
		deadline := time.Now().Add(time.Minute)
		for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			buf := make([]byte, 1<<16)
			t.Errorf("%d goroutines before, %d after:\n%s", before, n, buf[:runtime.Stack(buf, true)])
		}
	})
	return w
}

func (w *world) listener(t *testing.T, scheme string) balancer.Listener {
	t.Helper()
	for _, l := range w.b.Listeners() {
		if l.Scheme == scheme {
			return l
		}
	}
	t.Fatalf("no %s listener", scheme)
	return balancer.Listener{}
}

// TestTaken has another program at a rule's port: the rule gets a free one, and says so.
func TestTaken(t *testing.T) {
	w := newWorld(t)
	other, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := other.Addr().(*net.TCPAddr).Port
	w.res.put(global+"forwardingRules/taken", map[string]any{"IPAddress": "127.0.0.4", "portRange": fmt.Sprintf("%d-%d", taken, taken), "target": wire.Link(global + "targetHttpProxies/h")})
	if err := w.b.Refresh(); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range w.b.Listeners() {
		switch {
		case l.Rule != global+"forwardingRules/taken":
			if l.Taken != 0 {
				t.Errorf("%+v: no program has that port", l)
			}
		case l.Taken != taken || l.Port == taken:
			t.Errorf("%+v: port %d is another program's", l, taken)
		default:
			found = true
			if _, resp := get(t, client(false), fmt.Sprintf("http://127.0.0.4:%d/", l.Port)); resp.StatusCode != http.StatusMovedPermanently {
				t.Errorf("at the free port is answered %s", resp.Status)
			}
		}
	}
	if !found {
		t.Error("the rule listens nowhere")
	}
}

func client(h2 bool) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func get(t *testing.T, c *http.Client, url string) (string, *http.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, data), resp
}

func (w *world) url(t *testing.T, path string) string {
	l := w.listener(t, "https")
	return fmt.Sprintf("https://%s:%d%s", l.Address, l.Port, path)
}

// timeout sets how long the backend service lets requests take.
func (w *world) timeout(t *testing.T, seconds int) {
	t.Helper()
	body, _ := w.res.Get(global + "backendServices/web")
	body["timeoutSec"] = seconds
	w.res.put(global+"backendServices/web", body)
	if err := w.b.Refresh(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) await(t *testing.T, want string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		got = nil
		for _, h := range w.b.Health("", manager) {
			got = append(got, h["healthState"].(string))
		}
		if strings.Join(got, " ") == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("health is %v, want %s", got, want)
}

func TestOnlyHealthyInstancesAreUsed(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	seen := map[string]int{}
	for range 6 {
		got, _ := get(t, client(true), w.url(t, "/x"))
		seen[got]++
	}
	if d := cmp.Diff(map[string]int{"200 vm-0": 3, "200 vm-1": 3}, seen); d != "" {
		t.Errorf("round robin (-want +got):\n%s", d)
	}
	w.down[0].Store(true)
	w.await(t, "UNHEALTHY HEALTHY")
	for range 3 {
		if got, _ := get(t, client(false), w.url(t, "/x")); got != "200 vm-1" {
			t.Errorf("with one unhealthy: %s", got)
		}
	}
	w.down[1].Store(true)
	w.await(t, "UNHEALTHY UNHEALTHY")
	if got, _ := get(t, client(false), w.url(t, "/x")); got != "503 no healthy upstream" {
		t.Errorf("with none healthy: %s", got)
	}
}

func TestHeadersAndRedirect(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	echo := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, r.Host, r.URL.RequestURI(), r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Via"), r.Header.Get("X-Cloud-Trace-Context") != "")
	})
	w.handler[0].Store(&echo)
	w.handler[1].Store(&echo)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url(t, "/a%2Fb?x=1;y=2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "dify.example"
	req.Header.Set("X-Forwarded-For", "9.9.9.9")
	req.Header.Set("X-Forwarded-Proto", "ftp")
	resp, err := client(false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if d := cmp.Diff("dify.example /a%2Fb?x=1;y=2 9.9.9.9,127.0.0.1,127.0.0.4 https 1.1 google true\n", string(data)); d != "" {
		t.Errorf("what the instance sees (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"1.1 google"}, resp.Header["Via"]); d != "" {
		t.Errorf("Via of the answer (-want +got):\n%s", d)
	}
	h, s := w.listener(t, "http"), w.listener(t, "https")
	got, r := get(t, client(false), fmt.Sprintf("http://%s:%d/a?b=c", h.Address, h.Port))
	want := fmt.Sprintf("https://%s:%d/a?b=c", s.Address, s.Port)
	if r.StatusCode != 301 || r.Header.Get("Location") != want {
		t.Errorf("redirect: %s to %s, want 301 to %s", got, r.Header.Get("Location"), want)
	}
}

func TestCertificateIsReplacedUnderTheListener(t *testing.T) {
	w := newWorld(t)
	l := w.listener(t, "https")
	names := func(cfg *tls.Config) string {
		conn, err := tls.Dial("tcp", fmt.Sprintf("%s:%d", l.Address, l.Port), cfg)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return strings.Join(conn.ConnectionState().PeerCertificates[0].DNSNames, ",")
	}
	if got := names(&tls.Config{InsecureSkipVerify: true}); got != "one.example" {
		t.Errorf("first certificate: %s", got)
	}
	if got := names(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); !strings.Contains(got, "protocol version") {
		t.Errorf("with TLS 1.1: %s", got)
	}
	body, _ := w.res.Get(global + "targetHttpsProxies/s")
	body["sslCertificates"] = []any{wire.Link(global + "sslCertificates/c2")}
	w.res.put(global+"targetHttpsProxies/s", body)
	if err := w.b.Refresh(); err != nil {
		t.Fatal(err)
	}
	if got := names(&tls.Config{InsecureSkipVerify: true}); got != "two.example" {
		t.Errorf("second certificate: %s", got)
	}
	if d := cmp.Diff(l, w.listener(t, "https")); d != "" {
		t.Errorf("the listener moved (-want +got):\n%s", d)
	}
}

func TestStreamsAndWebSockets(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	next := make(chan struct{})
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			conn, rwb, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
			line, _ := rwb.ReadString('\n')
			fmt.Fprint(conn, "back "+line)
			io.Copy(io.Discard, rwb)
			return
		}
		fmt.Fprint(rw, "data: 1\n")
		rw.(http.Flusher).Flush()
		<-next
		fmt.Fprint(rw, "data: 2\n")
	})
	w.handler[0].Store(&h)
	w.handler[1].Store(&h)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url(t, "/stream"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	if line, err := br.ReadString('\n'); line != "data: 1\n" { // before the handler ends
		t.Errorf("first event %q %v", line, err)
	}
	close(next)
	if line, err := br.ReadString('\n'); line != "data: 2\n" {
		t.Errorf("second event %q %v", line, err)
	}
	resp.Body.Close()

	l := w.listener(t, "https")
	conn, err := tls.Dial("tcp", fmt.Sprintf("%s:%d", l.Address, l.Port), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	cr := bufio.NewReader(conn)
	up, err := http.ReadResponse(cr, nil)
	if err != nil || up.StatusCode != 101 {
		t.Fatalf("upgrade: %v %v", up, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := cr.ReadString('\n'); line != "back hello\n" {
		t.Errorf("through the upgraded connection: %q %v", line, err)
	}
	// The world's end now has to cut this connection off.
}

func TestDrainWaitsForRequestsInHand(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	started, finish := make(chan int, 2), make(chan struct{})
	for i := range w.handler {
		h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				started <- i
				<-finish
			}
			fmt.Fprintf(rw, "vm-%d", i)
		})
		w.handler[i].Store(&h)
	}
	slow := make(chan string)
	go func() { got, _ := get(t, client(false), w.url(t, "/slow")); slow <- got }()
	busy := <-started
	drained := make(chan struct{})
	go func() {
		w.b.Drain(t.Context(), w.members[busy].Instance, time.Minute)
		close(drained)
	}()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if states := fmt.Sprint(w.b.Health("", manager)); strings.Contains(states, "DRAINING") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for range 3 {
		if got, _ := get(t, client(false), w.url(t, "/")); got != fmt.Sprintf("200 vm-%d", 1-busy) {
			t.Errorf("while the other drains: %s", got)
		}
	}
	select {
	case <-drained:
		t.Error("drained with a request in hand")
	default:
	}
	close(finish)
	if got := <-slow; got != fmt.Sprintf("200 vm-%d", busy) {
		t.Errorf("the request in hand: %s", got)
	}
	<-drained
	w.b.Drain(t.Context(), w.members[1-busy].Instance, time.Minute) // nothing in hand: at once
	if got, _ := get(t, client(false), w.url(t, "/")); got != "503 no healthy upstream" {
		t.Errorf("with all draining: %s", got)
	}
}

func TestTimeoutAndRefusedConnection(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.handler[0].Store(&h)
	w.handler[1].Store(&h)
	w.timeout(t, 1)
	if got, _ := get(t, client(false), w.url(t, "/")); got != "504 upstream request timeout" {
		t.Errorf("too slow: %s", got)
	}
	w.timeout(t, 30)
	w.handler[0].Store(nil)
	w.handler[1].Store(nil)
	w.backends[0].Listener.Close() // still counts as healthy for a moment
	for range 4 {
		if got, _ := get(t, client(false), w.url(t, "/")); got != "200 vm-1" {
			t.Errorf("with one gone: %s", got)
		}
	}
}

// TestStrangersListen has another user's program answer where an instance's should: it gets no request, however well it says that it is.
func TestStrangersListen(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	w.mu.Lock()
	w.members[0].User, w.members[1].User = os.Geteuid(), os.Geteuid()+12345
	w.mu.Unlock()
	for _, m := range w.members {
		w.b.Undrain(m.Instance) // what was known is forgotten
	}
	if err := w.b.Refresh(); err != nil {
		t.Fatal(err)
	}
	w.await(t, "HEALTHY UNHEALTHY")
	for range 6 {
		if got, _ := get(t, client(false), w.url(t, "/")); got != "200 vm-0" {
			t.Errorf("got %s", got)
		}
	}
}

// TestStalledClients has clients send no more of a body, or read no more of an answer, by HTTP/1.1 and by HTTP/2: with the backend
// service's time their requests end, and the instances have nothing in hand any more.
func TestStalledClients(t *testing.T) {
	w := newWorld(t)
	w.await(t, "HEALTHY HEALTHY")
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body) // it may be cut off
			return
		}
		for part := make([]byte, 1<<20); ; {
			if _, err := rw.Write(part); err != nil {
				return
			}
		}
	})
	w.handler[0].Store(&h)
	w.handler[1].Store(&h)
	for _, h2 := range []bool{false, true} {
		w.timeout(t, 1)
		c := client(h2)
		c.Transport.(*http.Transport).DisableKeepAlives = false // what is left of a deadline would meet the next request
		t.Cleanup(c.CloseIdleConnections)
		out, in := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url(t, "/upload"), out)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 1000
		go in.Write(make([]byte, 10))
		if resp, err := c.Do(req); err == nil {
			if resp.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("an upload that stalls, HTTP/2 %t: %s", h2, resp.Status)
			}
			resp.Body.Close()
		}
		in.Close()
		resp, err := c.Get(w.url(t, "/large"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range w.members {
			began := time.Now()
			w.b.Drain(t.Context(), w.members[i].Instance, 40*time.Second)
			if took := time.Since(began); took > 35*time.Second {
				t.Errorf("an answer that nobody reads, HTTP/2 %t: the instance has a request in hand after %s", h2, took)
			}
			w.b.Undrain(w.members[i].Instance)
		}
		resp.Body.Close()
		// A client that is in time afterwards is served, by HTTP/2 on the same connection.
		w.timeout(t, 60)
		w.await(t, "HEALTHY HEALTHY")
		resp, err = c.Post(w.url(t, "/upload"), "text/plain", strings.NewReader("all"))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("afterwards, HTTP/2 %t: %v, %v", h2, resp, err)
			continue
		}
		resp.Body.Close()
	}
}

func TestRemoveClosesTheListener(t *testing.T) {
	w := newWorld(t)
	l := w.listener(t, "http")
	if err := w.b.Remove(t.Context(), l.Rule, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", l.Address, l.Port), time.Second); err == nil {
		t.Error("still listening")
	}
}
