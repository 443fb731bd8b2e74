package frontdoor_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/dify"
)

// byHand is a service whose connections a test writes byte by byte: the script is told of each request, by the numbers of
// the connection and of the request on it, and says what is sent, and whether the connection is closed then.
func byHand(t *testing.T, script func(conn, n int, r *http.Request) (answer string, more bool)) (door string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for conn := 1; ; conn++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for n := 1; ; n++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body) // its end is seen at the next request
					answer, more := script(conn, n, r)
					if _, err := io.WriteString(c, answer); err != nil || !more {
						return
					}
				}
			})
		}
	})
	d, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return l.Addr().String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	d.KeepFor(time.Hour) // a busy machine may take a second between two requests
	d.Ready()
	t.Cleanup(func() {
		l.Close()
		d.Close(context.WithoutCancel(t.Context()))
		all.Wait()
	})
	return "http://" + d.Addr().String()
}

func sized(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestConnectionsAreKept checks that requests that come one after the other use one connection, whatever ends their answers.
func TestConnectionsAreKept(t *testing.T) {
	url := byHand(t, func(conn, n int, r *http.Request) (string, bool) {
		switch said := fmt.Sprintf("%d.%d", conn, n); r.URL.Path {
		case "/chunked":
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(said), said), true
		case "/none":
			return "HTTP/1.1 204 No Content\r\nX-At: " + said + "\r\n\r\n", true
		case "/old":
			return "HTTP/1.0 200 OK\r\n\r\n" + said, false
		default:
			return sized(said), true
		}
	})
	var got []string
	for _, path := range []string{"/", "/chunked", "/none", "/", "/old", "/"} {
		_, body := get(t, url+path)
		got = append(got, body)
	}
	if got, want := strings.Join(got, " "), "1.1 1.2  1.4 1.5 2.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWhatNobodyAskedFor checks that bytes which come on an idle connection are not taken for the next request's answer.
func TestWhatNobodyAskedFor(t *testing.T) {
	left := make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for conn := 1; ; conn++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					fmt.Fprint(c, sized(fmt.Sprint("for you, by ", conn)))
					if conn == 1 {
						<-left
						fmt.Fprint(c, sized("for somebody else"))
						left <- struct{}{}
					}
				}
			}()
		}
	}()
	d, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return l.Addr().String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(context.WithoutCancel(t.Context()))
	d.Ready()
	url := "http://" + d.Addr().String()
	if _, body := get(t, url+"/"); body != "for you, by 1" {
		t.Fatalf("the first answer is %q", body)
	}
	left <- struct{}{}
	<-left
	if _, body := get(t, url+"/"); body != "for you, by 2" {
		t.Errorf("the second answer is %q", body)
	}
}

// TestClosedMeanwhile checks that a request is sent again on another connection when the kept one ends instead of answering,
// and that one which does not get a first answer is not.
func TestClosedMeanwhile(t *testing.T) {
	var mu sync.Mutex
	came := map[string]int{}
	url := byHand(t, func(conn, n int, r *http.Request) (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		came[r.URL.Path]++
		switch {
		case r.URL.Path == "/never", n > 1:
			return "", false
		case r.URL.Path == "/half":
			return "HTTP/1.1 200 OK\r\nContent-Le", false
		}
		return sized("here"), true
	})
	for _, want := range []string{"/ 200 here", "/again 200 here", "/never 502 a service of this instance does not answer\n", "/half 502 a service of this instance does not answer\n"} {
		path, _, _ := strings.Cut(want, " ")
		code, body := get(t, url+path)
		if got := fmt.Sprintf("%s %d %s", path, code, body); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	// The second request met the end of the first one's connection, and so did the third, of the second one's.
	if got, want := fmt.Sprint(came), "map[/:1 /again:2 /half:1 /never:2]"; got != want {
		t.Errorf("requests came as %s, want %s", got, want)
	}
}

// TestShortBodies checks that a request with a short body comes as it was, on a connection that others used, and that a slow
// client keeps no connection to a service.
func TestShortBodies(t *testing.T) {
	var mu sync.Mutex
	var came []string
	url := byHand(t, func(conn, n int, r *http.Request) (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		came = append(came, fmt.Sprintf("%d.%d %s %d", conn, n, r.URL.Path, r.ContentLength))
		return sized("here"), true
	})
	post := func(path string, length int) int {
		resp, err := http.Post(url+path, "text/plain", strings.NewReader(strings.Repeat("x", length)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	slow, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprint(slow, "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nhe")
	for _, length := range []int{1, 16 << 10} {
		if code := post("/", length); code != http.StatusOK {
			t.Errorf("%d bytes: %d", length, code)
		}
	}
	fmt.Fprint(slow, "re")
	if _, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(came, ", "), "1.1 / 1, 1.2 / 16384, 1.3 /slow 4"; got != want {
		t.Errorf("came: %s\nwant: %s", got, want)
	}
}

// TestChangesAreNotRepeated checks that a request that changes something is sent once, also when the connection ends instead of an answer.
func TestChangesAreNotRepeated(t *testing.T) {
	var mu sync.Mutex
	count := 0
	url := byHand(t, func(conn, n int, r *http.Request) (string, bool) {
		if r.Method == http.MethodPost {
			mu.Lock()
			defer mu.Unlock()
			count++
			return "", false
		}
		return sized("here"), true
	})
	for _, body := range []string{"", "x"} {
		get(t, url)
		resp, err := http.Post(url, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%q: %s", body, resp.Status)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if count != 2 {
		t.Errorf("2 requests came %d times", count)
	}
}

// TestEarlyHints checks that what a service says before its answer is passed on.
func TestEarlyHints(t *testing.T) {
	url := byHand(t, func(_, _ int, r *http.Request) (string, bool) {
		return "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + sized("here"), true
	})
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "here" {
		t.Errorf("the answer is %q, %v", body, err)
	}
	if got, want := strings.Join(hints, ","), "103 </style.css>"; got != want {
		t.Errorf("the hints are %q, want %q", got, want)
	}
}

// TestEndlessHeader checks that a service cannot fill the instance's memory with an answer's header.
func TestEndlessHeader(t *testing.T) {
	line := "X-More: " + strings.Repeat("x", 1000) + "\r\n"
	url := byHand(t, func(_, _ int, r *http.Request) (string, bool) {
		if r.URL.Path == "/long" {
			return "HTTP/1.1 200 OK\r\n" + strings.Repeat(line, 2000) + "\r\n", false
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n" + strings.Repeat(line, 100) + "\r\nhere", true
	})
	if code, _ := get(t, url+"/long"); code != http.StatusBadGateway {
		t.Errorf("2 MB: %d", code)
	}
	if code, body := get(t, url+"/"); code != http.StatusOK || body != "here" {
		t.Errorf("100 KB: %d %q", code, body)
	}
}

// TestWhoAskedIsGone checks that the service learns of it, before its answer and within it.
func TestWhoAskedIsGone(t *testing.T) {
	came, gone := make(chan struct{}), make(chan struct{}, 1)
	d, url := open(t, func(dify.Name) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/begun" {
				_ = http.NewResponseController(w).Flush() // seen by who asks
			}
			came <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
		})
	})
	defer d.Close(context.WithoutCancel(t.Context()))
	d.Ready()
	for _, path := range []string{"/waiting", "/begun"} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body) // it is cut off
				resp.Body.Close()
			}
		}()
		<-came
		cancel()
		select {
		case <-gone:
		case <-time.After(time.Minute):
			t.Fatalf("%s: the service still works for somebody who is gone", path)
		}
		<-ended
	}
}

// TestIdleConnectionsEnd checks that the front door closes a connection that is not used, before Gunicorn would.
func TestIdleConnectionsEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	idle := make(chan time.Duration, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		fmt.Fprint(c, sized("here"))
		answered := time.Now()
		_, _ = in.ReadByte() // its error is the end
		idle <- time.Since(answered)
	}()
	d, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return l.Addr().String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(context.WithoutCancel(t.Context()))
	d.Ready()
	get(t, "http://"+d.Addr().String())
	select {
	case took := <-idle:
		t.Logf("closed after %v", took)
	case <-time.After(time.Minute):
		t.Error("an idle connection is kept for a minute")
	}
}
