package frontdoor_test

import (
	"bufio"
	"bytes"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/dify"
)

// open opens a front door before servers that say which service they are.
func open(t *testing.T, handler func(s dify.Name) http.Handler) (*frontdoor.Door, string) {
	t.Helper()
	return openWith(t, handler, frontdoor.Options{Log: slog.New(slog.DiscardHandler)})
}

func openWith(t *testing.T, handler func(s dify.Name) http.Handler, o frontdoor.Options) (*frontdoor.Door, string) {
	t.Helper()
	backends := map[dify.Name]string{}
	for _, s := range dify.Services() {
		server := httptest.NewServer(handler(s))
		t.Cleanup(server.Close)
		backends[s] = server.Listener.Addr().String()
	}
	o.Instance, o.Backend = "vm-1", func(s dify.Name) string { return backends[s] }
	d, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), o)
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

// TestFull has a service have as many requests in hand as it takes: others wait for their turn, or are told to come again, and none
// of that concerns another service.
func TestFull(t *testing.T) {
	begun, end := make(chan string, 10), make(chan struct{})
	var inHand, most atomic.Int64
	var log bytes.Buffer
	d, url := openWith(t, func(s dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s != dify.API {
				return
			}
			most.Store(max(most.Load(), inHand.Add(1)))
			defer inHand.Add(-1)
			begun <- r.URL.Path
			<-end
		})
	}, frontdoor.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Patience: 3 * time.Second, Most: func(s dify.Name) int {
		return map[dify.Name]int{dify.API: 2}[s]
	}})
	d.Ready()
	var asked sync.WaitGroup
	ask := func(want int) {
		asked.Go(func() {
			if status, body := get(t, url+"/console/api/x"); status != want {
				t.Errorf("%d, want %d: %s", status, want, body)
			}
		})
	}
	ask(http.StatusOK)
	ask(http.StatusOK)
	<-begun
	<-begun
	if status, body := get(t, url+"/console/api/y"); status != http.StatusServiceUnavailable || !strings.Contains(body, "as many requests in hand as it takes") {
		t.Errorf("one more: %d %s", status, body)
	}
	if status, _ := get(t, url+"/"); status != http.StatusOK {
		t.Errorf("another service: %d", status)
	}
	if status, _ := get(t, url+"/health"); status != http.StatusOK {
		t.Errorf("the front door's own health: %d", status)
	}
	if n := strings.Count(log.String(), "others wait"); n != 1 {
		t.Errorf("it was logged %d times that requests wait:\n%s", n, log.String())
	}
	// Who is gone waits no more, and has no turn, also with a body that it has sent.
	at := d.Addr().String()
	gone, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(gone, "POST /console/api/z HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	inDoor := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); d.InHand() != n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d are in hand, not %d", d.InHand(), n)
			}
		}
	}
	inDoor(3)
	gone.Close()
	inDoor(2)
	end <- struct{}{}
	inDoor(1)
	// Who does not send the rest of a short body takes nobody's turn: there is one left, for one who does.
	slow, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "POST /console/api/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	inDoor(2)
	ask(http.StatusOK)
	if got := <-begun; got != "/console/api/x" {
		t.Errorf("%s had a turn", got)
	}
	slow.Close()
	close(end)
	asked.Wait()
	if most.Load() != 2 {
		t.Errorf("%d were in hand at once", most.Load())
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestInstance checks that every answer names the instance, once, whatever a service says, and also one that is refused.
func TestInstance(t *testing.T) {
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set(dify.InstanceHeader, "another") })
	})
	defer d.Close(t.Context())
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
	defer d.Close(t.Context())
	d.Ready()
	for _, uri := range []string{"/v1/x?a=1;b=2&c=%zz", "/files/a%2Fb%20c?sign=%2B+", "/triggers/webhook/x?", "/v1//double", "/v1/a..b/.c", "/"} {
		if _, got := get(t, url+uri); got != uri {
			t.Errorf("%s arrived as %s", uri, got)
		}
	}
}

// TestPathsThatLeadElsewhere checks that no writing of a path reaches what is closed, or another service than the one it is
// routed to: services decode, merge slashes and follow dots, each in their own way.
func TestPathsThatLeadElsewhere(t *testing.T) {
	d, _ := open(t, func(s dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s got %s", s, r.RequestURI) })
	})
	defer d.Close(t.Context())
	d.Ready()
	raw := func(target string) string {
		conn, err := net.Dial("tcp", d.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: dify.example.com\r\nConnection: close\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(target, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(target, err)
		}
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return string(body)
	}
	const refused, closed = "400 Bad Request", "404 Not Found"
	for target, want := range map[string]string{
		"/inner/api/x":                       closed,
		"/inner/api":                         closed,
		"//inner/api/x":                      closed,
		"///inner//api/x":                    closed,
		"/%69nner/api/x":                     closed,
		"/inner%2fapi%2Fx":                   closed,
		"/api/../inner/api/x":                refused,
		"/api/%2e%2e/inner/api/x":            refused,
		"/api/.%2E/inner/api/x":              refused,
		"/api%2f..%2finner%2fapi":            refused,
		"/api/./../inner/api":                refused,
		"/api/..;/inner/api":                 refused,
		"/api/..%3bx=1/inner/api":            refused,
		"/api/%5c../inner/api":               refused,
		"/v1/..":                             refused,
		"/v1/%00/x":                          refused,
		"/v1/%0d%0aX-Api-Key:%201":           refused,
		"*":                                  refused,
		"http://dify.example.com/inner/api":  closed,
		"/v1/x%252e%252e/y":                  "api got /v1/x%252e%252e/y",
		"//console/api/x":                    "api got //console/api/x",
		"/v1/...":                            "api got /v1/...",
		"/INNER/API/x":                       "web got /INNER/API/x",
		"/console/api/plugin/a%2Fb%2Fc/icon": "api got /console/api/plugin/a%2Fb%2Fc/icon",
	} {
		if got := raw(target); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// TestClientAddress checks that services learn the one address that the load balancer saw, whatever the client says.
func TestClientAddress(t *testing.T) {
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, h := range []string{"X-Real-Ip", "Cf-Connecting-Ip", "True-Client-Ip", "Forwarded", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Original-Url"} {
				if v := r.Header.Get(h); v != "" {
					fmt.Fprintf(w, "%s=%s ", h, v)
				}
			}
			fmt.Fprintf(w, "for=%s proto=%s host=%t", strings.Join(r.Header.Values("X-Forwarded-For"), "+"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host") == r.Host)
		})
	})
	defer d.Close(t.Context())
	d.Ready()
	for _, tc := range []struct {
		header []string
		want   string
	}{
		{[]string{"X-Forwarded-For", "203.0.113.9,10.0.0.1", "X-Forwarded-Proto", "https"}, "for=203.0.113.9 proto=https host=true"},
		{[]string{"X-Forwarded-For", "1.2.3.4, 127.0.0.1, 203.0.113.9, 10.0.0.1"}, "for=203.0.113.9 proto=http host=true"},
		{[]string{"X-Forwarded-For", "2001:db8::1,10.0.0.1"}, "for=2001:db8::1 proto=http host=true"},
		{[]string{"X-Forwarded-For", "1.2.3.4"}, "for=127.0.0.1 proto=http host=true"},
		{[]string{"X-Forwarded-For", "nonsense,10.0.0.1"}, "for=127.0.0.1 proto=http host=true"},
		{nil, "for=127.0.0.1 proto=http host=true"},
		{[]string{"X-Real-IP", "1.2.3.4", "CF-Connecting-IP", "1.2.3.4", "True-Client-IP", "1.2.3.4", "Forwarded", "for=1.2.3.4", "X-Forwarded-Host", "evil.example", "X-Forwarded-Port", "81", "X-Forwarded-Prefix", "/x", "X-Original-URL", "/inner/api", "X-Forwarded-Proto", "javascript"}, "for=127.0.0.1 proto=http host=true"},
	} {
		if _, got := get(t, url, tc.header...); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.header, got, tc.want)
		}
	}
}

func TestRoutes(t *testing.T) {
	d, url := open(t, echo)
	defer d.Close(t.Context())
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
	if want := "plugin_daemon /e/hook host=" + host + " for=203.0.113.9 proto=https hook=https://" + host + "/e/hook?a=b"; body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
}

func TestHealth(t *testing.T) {
	dead := "" // why the instance is
	d, url := openWith(t, echo, frontdoor.Options{
		Log: slog.New(slog.DiscardHandler), Alive: func() (bool, string) { return dead == "", dead },
	})
	defer d.Close(t.Context())
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
	if got, want := state(), "503 waiting the database alive 200 traffic 503"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	d.Ready()
	if got, want := state(), "200 ready  alive 200 traffic 200"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	dead = "it is of no use"
	if got, want := state(), "200 ready  alive 503 traffic 200"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, body := get(t, url+"/alive"); !strings.Contains(body, dead) {
		t.Errorf("/alive does not say why: %s", body)
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
	defer d.Close(t.Context())
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
	go func() { d.Drain(t.Context()); closed <- d.Close(t.Context()) }()
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

// TestNotice checks that a door that closes goes on serving until the load balancer has had its time, though nobody comes.
func TestNotice(t *testing.T) {
	const notice = 1500 * time.Millisecond
	d, url := openWith(t, echo, frontdoor.Options{Log: slog.New(slog.DiscardHandler), Notice: notice})
	d.Ready()
	began := time.Now()
	closed := make(chan error, 1)
	go func() { d.Drain(t.Context()); closed <- d.Close(t.Context()) }()
	time.Sleep(notice * 2 / 3)
	// On a machine that is so busy that this comes too late, it shows nothing, and must not fail.
	if code, _ := get(t, url+"/v1/late"); code != http.StatusOK && time.Since(began) < notice {
		t.Errorf("a request that comes while the balancer does not know yet gets %d", code)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < notice {
		t.Errorf("it closed after %s, want %s at least", took, notice)
	}
}

// TestCutOff has a request not end while the door closes: when the time is over it is cut off, and the log names it, without
// its query, and without a path that lets in who knows it.
func TestCutOff(t *testing.T) {
	begun, over := make(chan struct{}, 3), make(chan struct{})
	var log bytes.Buffer
	d, url := openWith(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			if fmt.Fprint(w, "data: first\n"); http.NewResponseController(w).Flush() != nil {
				return
			}
			begun <- struct{}{}
			<-over
		})
	}, frontdoor.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer close(over)
	d.Ready()
	cut := make(chan error, 3)
	for _, uri := range []string{"/v1/chat-messages?key=s3cret", "/mcp/server/s3cret/mcp", "/e/s3cret/x"} {
		resp, err := http.Post(url+uri, "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		go func() { _, err := io.ReadAll(resp.Body); cut <- err }()
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	d.Drain(ctx)
	if ctx.Err() == nil {
		t.Error("it did not wait for what is in hand")
	}
	if code, _ := get(t, url+"/alive"); code != http.StatusOK {
		t.Errorf("/alive of a door that has drained gets %d", code)
	}
	if err := d.Close(ctx); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-cut; err == nil {
			t.Error("a stream that was cut off ended well")
		}
	}
	for _, words := range []string{"method=POST path=/v1/chat-messages took=", "path=/mcp/… took=", "path=/e/… took="} {
		if !strings.Contains(log.String(), words) {
			t.Errorf("the log does not say %q:\n%s", words, log.String())
		}
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Errorf("the log shows a secret:\n%s", log.String())
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
	defer d.Close(t.Context())
	d.Ready()
	// Dify takes videos of 100 MiB, to which a form adds a little, or larger ones if it is told to.
	for _, tc := range []struct {
		upload, size int64
		want         int
	}{{0, 100<<20 + 4096, http.StatusOK}, {0, 111 << 20, http.StatusRequestEntityTooLarge}, {120 << 20, 121 << 20, http.StatusOK}, {120 << 20, 131 << 20, http.StatusRequestEntityTooLarge}} {
		d.SetUpload(tc.upload)
		resp, err := http.Post(url+"/files/upload", "application/octet-stream", io.LimitReader(zeros{}, tc.size))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%d bytes, files of %d: %s, want %d", tc.size, tc.upload, resp.Status, tc.want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
