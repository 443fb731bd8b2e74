//go:build linux

package traffic

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/fleet/balancer"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

const (
	global  = "projects/p/global/"
	manager = "projects/p/regions/r/instanceGroupManagers/g"
	machine = "projects/p/zones/z/instances/vm-1"
)

// plane is what the load balancer is to be: bodies by key.
type plane map[string]map[string]any

func (p plane) Get(key string) (map[string]any, bool) {
	b, ok := p[key]
	return b, ok
}

func (p plane) List(kind string) []map[string]any {
	var all []map[string]any
	for key, b := range p {
		if wire.Kind(key) == kind {
			all = append(all, b)
		}
	}
	return all
}

// way is the way that requests take: load balancer, front door, a service.
type way struct {
	edge string // IP:PORT of the load balancer, which speaks TLS
	door string // IP:PORT of the front door
}

// lay makes a way to a service.
func lay(t *testing.T, service string) way {
	t.Helper()
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return service },
	})
	if err != nil {
		t.Fatal(err)
	}
	door.Ready()
	at := netip.MustParseAddrPort(door.Addr().String())
	p := plane{
		manager: {"namedPorts": []any{map[string]any{"name": "http", "port": at.Port()}}},
		// On a busy machine an answer may take longer than usual.
		global + "healthChecks/hc": {
			"type": "HTTP", "httpHealthCheck": map[string]any{"portSpecification": "USE_SERVING_PORT", "requestPath": "/health"}, "timeoutSec": 5, "unhealthyThreshold": 10,
		},
		global + "urlMaps/m":         {"defaultService": wire.Link(global + "backendServices/web")},
		global + "sslCertificates/c": {"type": "MANAGED", "managed": map[string]any{"domains": []any{"dify.example"}}},
		global + "backendServices/web": {
			"portName": "http", "timeoutSec": 3600, "healthChecks": []any{wire.Link(global + "healthChecks/hc")},
			"backends": []any{map[string]any{"group": wire.Link("projects/p/regions/r/instanceGroups/g")}},
		},
		global + "targetHttpsProxies/s": {"urlMap": wire.Link(global + "urlMaps/m"), "sslCertificates": []any{wire.Link(global + "sslCertificates/c")}},
		// The front door has this port: the load balancer takes a free one.
		global + "forwardingRules/https": {"IPAddress": "127.0.0.1", "portRange": fmt.Sprint(at.Port()), "target": wire.Link(global + "targetHttpsProxies/s")},
	}
	for key, body := range p {
		body["selfLink"], body["name"] = wire.Link(key), wire.Name(key)
	}
	b := balancer.New(balancer.Options{
		Resources: p, Log: slog.New(slog.DiscardHandler), KeyPair: func(string) (string, string, bool) { return "", "", false },
		Endpoints: func(string) []balancer.Endpoint { return []balancer.Endpoint{{Instance: machine, Addr: at.Addr()}} },
	})
	t.Cleanup(func() {
		if err := door.Close(context.Background()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := b.Refresh(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		if h := b.Health("", manager); len(h) == 1 && h[0]["healthState"] == "HEALTHY" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the front door is not healthy: %v", b.Health("", manager))
		}
		time.Sleep(10 * time.Millisecond)
	}
	l := b.Listeners()[0]
	return way{edge: net.JoinHostPort(l.Address, strconv.Itoa(l.Port)), door: at.String()}
}

// trust is any certificate: nobody here could have been given one.
func trust(protocols ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "dify.example", NextProtos: protocols}
}

// dial connects to the load balancer, or to the front door past it.
func (w way) dial(t *testing.T, past bool) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.door)
	if !past {
		c, err = tls.Dial("tcp", w.edge, trust("http/1.1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// client is a browser's, of HTTP/1.1 or 2, that keeps so many connections at most.
func (w way) client(t *testing.T, h2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: trust(), ForceAttemptHTTP2: h2, DisableCompression: true}
	if !h2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// listener serves connections of a service, which is no HTTP server of Go's, until the test ends.
func listener(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// witness writes down what reaches a service.
type witness struct {
	mu    sync.Mutex
	heads []string // of requests, as they came
	wrong []string // what no server should have to understand
}

// serve answers requests as a strict and simple server would, and writes down what is not strict.
func (w *witness) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		var head strings.Builder
		length, chunked, hosts, framings := int64(0), false, 0, 0
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				if head.Len() > 0 || line != "" {
					w.note("a head that ends in the middle: %q", head.String()+line)
				}
				return
			}
			head.WriteString(line)
			text, ok := strings.CutSuffix(line, "\r\n")
			if !ok || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				w.note("a line with what belongs in none: %q", line)
			}
			if text == "" {
				break
			}
			name, value, ok := strings.Cut(text, ":")
			if head.Len() == len(line) { // the request's line
				if len(strings.Split(text, " ")) != 3 {
					w.note("a request's line of other than three words: %q", text)
				}
				continue
			}
			if !ok || name == "" || strings.ContainsAny(name, " \t\"(),/:;<=>?@[\\]{}") {
				w.note("a header's name: %q", text)
			}
			value = strings.TrimSpace(value)
			switch strings.ToLower(name) {
			case "host":
				hosts++
			case "content-length":
				framings++
				n, err := strconv.ParseUint(value, 10, 62)
				if err != nil {
					w.note("a length: %q", text)
				}
				length = int64(n)
			case "transfer-encoding":
				framings++
				if chunked = value == "chunked"; !chunked {
					w.note("a transfer's encoding: %q", text)
				}
			}
		}
		if hosts != 1 || framings > 1 {
			w.note("%d hosts and %d framings: %q", hosts, framings, head.String())
		}
		w.mu.Lock()
		w.heads = append(w.heads, head.String())
		w.mu.Unlock()
		if chunked {
			for size := int64(-1); size != 0; {
				line, err := in.ReadString('\n')
				if err != nil {
					return // cut off, as the one who sent it was
				}
				if size, err = strconv.ParseInt(strings.TrimSuffix(line, "\r\n"), 16, 62); err != nil {
					w.note("a chunk's size: %q", line)
					return
				}
				if _, err := io.CopyN(io.Discard, in, size); err != nil {
					return
				}
				if end, err := in.ReadString('\n'); err != nil || end != "\r\n" {
					if err == nil {
						w.note("the end of a chunk: %q", end)
					}
					return
				}
			}
		} else if _, err := io.CopyN(io.Discard, in, length); err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func (w *witness) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// noted gives what was written down: the requests' lines, and what was wrong.
func (w *witness) noted() (lines, wrong []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.heads {
		line, _, _ := strings.Cut(h, "\r\n")
		lines = append(lines, line)
	}
	return lines, slices.Clone(w.wrong)
}
