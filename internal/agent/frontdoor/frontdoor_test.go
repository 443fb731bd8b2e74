package frontdoor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/dify"
)

// open opens a front door before servers that say which service they are.
func open(t *testing.T, handler func(s dify.Name) http.Handler) (*frontdoor.Door, string) {
	t.Helper()
	backends := map[dify.Name]string{}
	for _, s := range dify.Services() {
		server := httptest.NewServer(handler(s))
		t.Cleanup(server.Close)
		backends[s] = server.Listener.Addr().String()
	}
	d, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Backend: func(s dify.Name) string { return backends[s] }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, "http://" + d.Addr().String()
}

func get(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// echo answers with the service, and what it got.
func echo(s dify.Name) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s host=%s for=%s proto=%s hook=%s", s, r.URL.Path, r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Dify-Hook-Url"))
	})
}

// TestInstance checks that every answer names the instance, once, whatever a service says, and also one that is refused.
func TestInstance(t *testing.T) {
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set(dify.InstanceHeader, "another") })
	})
	defer d.Close()
	for _, ready := range []bool{false, true} {
		if ready {
			d.Ready()
		}
		for _, path := range []string{"/health", "/alive", "/", "/v1/x", "/e/x/", "/inner/api"} {
			resp, err := http.Get(url + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Values(dify.InstanceHeader); len(got) != 1 || got[0] != "vm-1" {
				t.Errorf("%s (ready: %t) comes from %q", path, ready, got)
			}
		}
	}
}

// TestAsItCame checks that paths and queries reach the services unchanged, whatever is in them.
func TestAsItCame(t *testing.T) {
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI) })
	})
	defer d.Close()
	d.Ready()
	for _, uri := range []string{"/v1/x?a=1;b=2&c=%zz", "/files/a%2Fb%20c?sign=%2B+", "/triggers/webhook/x?", "/v1//double/../dots", "/"} {
		if _, got := get(t, url+uri); got != uri {
			t.Errorf("%s arrived as %s", uri, got)
		}
	}
}

func TestRoutes(t *testing.T) {
	d, url := open(t, echo)
	defer d.Close()
	d.Ready()
	got := map[string]string{}
	want := map[string]string{
		"/": "web", "/apps": "web", "/explore/apps": "web", "/apiary": "web", "/evil": "web",
		"/api": "api", "/api/x": "api", "/console/api/setup": "api", "/v1/chat-messages": "api", "/files/1": "api", "/mcp/server": "api",
		"/triggers/webhook": "api", "/socket.io/": "api", "/openapi/v1": "api", "/e/hook": "plugin_daemon",
		"/standin/check": "web", "/health/deep": "web", // nothing of ours beside /health and /alive
		"/inner/api/x": "404",
	}
	for path := range want {
		code, body := get(t, url+path)
		service, _, _ := strings.Cut(body, " ")
		if code == http.StatusNotFound {
			service = "404"
		}
		got[path] = service
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("services by path (-want +got):\n%s", d)
	}
	_, body := get(t, url+"/e/hook?a=b", "X-Forwarded-For", "203.0.113.9, 10.0.0.1", "X-Forwarded-Proto", "https", "Host", "ignored")
	host := d.Addr().String()
	if want := "plugin_daemon /e/hook host=" + host + " for=203.0.113.9, 10.0.0.1 proto=https hook=https://" + host + "/e/hook?a=b"; body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
}

func TestHealth(t *testing.T) {
	d, url := open(t, echo)
	defer d.Close()
	state := func() string {
		code, body := get(t, url+"/health")
		var answer struct{ Status, WaitingFor, Instance string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Instance != "vm-1" {
			t.Fatalf("%s: %v", body, err)
		}
		alive, _ := get(t, url+"/alive")
		through, _ := get(t, url+"/")
		return fmt.Sprint(code, " ", answer.Status, " ", answer.WaitingFor, " alive ", alive, " traffic ", through)
	}
	d.Wait("the database")
	if got, want := state(), "503 waiting the database alive 503 traffic 503"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	d.Ready()
	if got, want := state(), "200 ready  alive 200 traffic 200"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	d.Wait("Redis")
	if got, want := state(), "503 waiting Redis alive 200 traffic 503"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestStreams checks that the beginning of an answer arrives before its end exists, and that a WebSocket's bytes go
// both ways.
func TestStreams(t *testing.T) {
	more := make(chan struct{})
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				conn, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				buf.Flush()
				line, _ := buf.ReadString('\n')
				fmt.Fprint(conn, "heard "+line)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: first\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			<-more
			fmt.Fprint(w, "data: last\n")
		})
	})
	defer d.Close()
	d.Ready()
	resp, err := http.Get(url + "/v1/chat-messages")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "data: first" {
		t.Errorf("the first line is %q", lines.Text())
	}
	close(more)
	if !lines.Scan() || lines.Text() != "data: last" {
		t.Errorf("the last line is %q", lines.Text())
	}

	conn, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /socket.io/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		said = append(said, lines.Text())
		if lines.Text() == "" { // the connection is a WebSocket's from here on
			fmt.Fprint(conn, "hello\n")
		}
		if strings.HasPrefix(lines.Text(), "heard") {
			break
		}
	}
	if len(said) < 2 || !strings.HasPrefix(said[0], "HTTP/1.1 101") || said[len(said)-1] != "heard hello" {
		t.Errorf("the WebSocket said %q", said)
	}
}

// TestClose checks that a request in hand is finished, that one which still comes is answered, and that /health fails
// meanwhile.
func TestClose(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/slow" {
				close(begun)
				<-finish
			}
			fmt.Fprint(w, "done")
		})
	})
	d.Ready()
	answers := make(chan string, 1)
	go func() {
		resp, err := http.Get(url + "/v1/slow")
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		answers <- string(raw)
	}()
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		code, _ := get(t, url+"/health")
		if code == http.StatusServiceUnavailable {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("/health does not fail while the door closes")
		}
	}
	late, err := http.Get(url + "/v1/late")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(late.Body)
	late.Body.Close()
	if err != nil || late.StatusCode != http.StatusOK || string(body) != "done" || !late.Close {
		t.Errorf("a late request got %s %q %v, and the connection is to be closed: %t", late.Status, body, err, late.Close)
	}
	close(finish)
	if got := <-answers; got != "done" {
		t.Errorf("the request in hand got %q", got)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	select {
	case <-d.Done():
	default:
		t.Error("the door is not done after Close")
	}
	if _, err := net.DialTimeout("tcp", d.Addr().String(), time.Second); err == nil {
		t.Error("the door is open after Close")
	}
}

func TestTooLarge(t *testing.T) {
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
		})
	})
	defer d.Close()
	d.Ready()
	resp, err := http.Post(url+"/files/upload", "application/octet-stream", io.LimitReader(zeros{}, 101<<20))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("101 MiB: %s", resp.Status)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
