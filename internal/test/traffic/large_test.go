//go:build linux

package traffic

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var long = flag.Duration("long", 3*time.Second, "how long a stream is watched, and from a minute on headers that never end; a campaign takes 11m")

// service is an HTTP server of Go's.
func service(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// noise is bytes that nothing compresses, always the same ones.
type noise struct {
	left int64
	from *rand.ChaCha8
	held func(left int64) // is called before each piece
}

func newNoise(n int64) *noise { return &noise{left: n, from: rand.NewChaCha8([32]byte{1})} }

func (n *noise) Read(p []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	if n.held != nil {
		n.held(n.left)
	}
	p = p[:min(int64(len(p)), n.left)]
	n.left -= int64(len(p))
	return n.from.Read(p)
}

// TestUploads sends 100 MB, of a length that is known and not, over both protocols. They arrive as they were, and as they are
// sent: the service has the beginning before the end is there.
func TestUploads(t *testing.T) {
	const size = 100_000_000
	sum := sha256.New()
	if _, err := io.Copy(sum, newNoise(size)); err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString(sum.Sum(nil))
	began := make(chan struct{}, 1)
	to := lay(t, service(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.CopyN(sum, r.Body, 1<<20); err != nil {
			return
		}
		began <- struct{}{}
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %v %s", n+1<<20, err, hex.EncodeToString(sum.Sum(nil)))
	}))
	for _, h2 := range []bool{false, true} {
		for _, known := range []bool{true, false} {
			body := newNoise(size)
			body.held = func(left int64) {
				if left < size-8<<20 && left > size-9<<20 { // what buffers hold on the way is less
					body.held = nil
					<-began
				}
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+to.edge+"/console/api/files/upload", io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			if known {
				req.ContentLength = size
			}
			resp, err := to.client(t, h2).Do(req)
			if err != nil {
				t.Fatalf("HTTP/2 %t, length known %t: %v", h2, known, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if said := fmt.Sprintf("%d <nil> %s", size, want); err != nil || resp.StatusCode != http.StatusOK || string(got) != said {
				t.Errorf("HTTP/2 %t, length known %t: %s %s %v; want %s", h2, known, resp.Status, got, err, said)
			}
			if body.held != nil {
				t.Error("nothing was held")
			}
		}
	}
	// What is larger than Dify takes is refused, before or while it comes.
	for _, known := range []bool{true, false} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+to.edge+"/console/api/files/upload", io.NopCloser(newNoise(120<<20)))
		if err != nil {
			t.Fatal(err)
		}
		if known {
			req.ContentLength = 120 << 20
		}
		go func() {
			select {
			case <-began:
			case <-t.Context().Done():
			}
		}()
		resp, err := to.client(t, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("120 MiB, length known %t: %s", known, resp.Status)
		}
	}
}

// streaming answers /console/api/stream with a line a moment until the client goes, echoes what comes over a WebSocket, and says "well" elsewhere.
func streaming(each time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/socket.io"):
			c, in, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			for {
				line, err := in.ReadString('\n')
				if err != nil || line == "end\n" {
					return
				}
				if _, err := io.WriteString(c, "echo "+line); err != nil {
					return
				}
			}
		case r.URL.Path == "/console/api/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			tick := time.NewTicker(each)
			defer tick.Stop()
			for i := 0; ; i++ {
				fmt.Fprintf(w, "data: %d\n\n", i)
				if err := http.NewResponseController(w).Flush(); err != nil {
					return
				}
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
			}
		default:
			io.WriteString(w, "well")
		}
	}
}

// open begins a stream, and gives its lines.
func (w way) open(ctx context.Context, c *http.Client) (*bufio.Reader, io.Closer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+w.edge+"/console/api/stream", nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, nil, errors.New(resp.Status)
	}
	return bufio.NewReader(resp.Body), resp.Body, nil
}

// event reads one event, which must be of this number.
func event(in *bufio.Reader, number int) error {
	got, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("data: %d\n", number); got != want {
		return fmt.Errorf("%q, want %q", got, want)
	}
	_, err = in.ReadString('\n')
	return err
}

// well asks for a page, on a connection of its own.
func (w way) well(t *testing.T) {
	t.Helper()
	c := w.client(t, false)
	c.Timeout = 2 * time.Minute
	resp, err := c.Get("https://" + w.edge + "/console/api/page")
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if raw, err := io.ReadAll(resp.Body); err != nil || string(raw) != "well" {
		t.Errorf("%s %q %v", resp.Status, raw, err)
	}
}

// TestThousand has a thousand connections, each with a stream of its own, a hundred WebSockets, and requests among them.
func TestThousand(t *testing.T) {
	to := lay(t, service(t, streaming(50*time.Millisecond)))
	ctx, end := context.WithCancel(t.Context())
	defer end()
	client := to.client(t, false) // each stream has its connection
	var opened, done sync.WaitGroup
	opened.Add(1000)
	turn := make(chan struct{}, 20) // as many begin at a time
	for i := range 1000 {
		done.Go(func() {
			turn <- struct{}{}
			in, body, err := to.open(ctx, client)
			<-turn
			opened.Done()
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				return
			}
			defer body.Close()
			opened.Wait() // all at the same time
			for n := range 10 {
				if err := event(in, n); err != nil {
					t.Errorf("stream %d, event %d: %v", i, n, err)
					return
				}
			}
		})
	}
	opened.Wait()
	for i := range 100 {
		done.Go(func() {
			c := to.dial(t, false)
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			fmt.Fprintf(c, "GET /socket.io/?n=%d HTTP/1.1\r\nHost: dify.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", i)
			in := bufio.NewReader(c)
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Errorf("WebSocket %d: %+v %v", i, resp, err)
				return
			}
			for n := range 5 {
				fmt.Fprintf(c, "%d of %d\n", n, i)
				if got, err := in.ReadString('\n'); err != nil || got != fmt.Sprintf("echo %d of %d\n", n, i) {
					t.Errorf("WebSocket %d: %q %v", i, got, err)
					return
				}
			}
			io.WriteString(c, "end\n") // the service ends it
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("WebSocket %d ends with %q %v", i, rest, err)
			}
		})
	}
	to.well(t)
	done.Wait()
	to.well(t)
}

// TestSlow has three hundred clients that begin requests and do not end them: headers and bodies, a byte at a time. Others are
// served meanwhile. With -long it also watches that headers do not take longer than a minute.
func TestSlow(t *testing.T) {
	to := lay(t, service(t, streaming(time.Second)))
	var conns []net.Conn
	for i := range 300 {
		c := to.dial(t, i%3 == 2) // some past the load balancer
		text := "POST /console/api/x HTTP/1.1\r\nHost: dify.example\r\n"
		if i%2 == 0 {
			text += "Content-Length: 1000\r\n\r\n"
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	began := time.Now()
	slow := func() {
		for _, c := range conns {
			_, _ = io.WriteString(c, "x") // one that was closed is what is waited for
		}
	}
	for range 5 {
		slow()
		to.well(t)
	}
	if *long < time.Minute {
		return
	}
	for time.Since(began) < 70*time.Second {
		time.Sleep(time.Second)
		slow()
		to.well(t)
	}
	for i, c := range conns {
		if i%2 == 0 {
			continue // bodies may take as long as the load balancer's timeout lets them
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d is still open: %v", i, err)
		}
	}
}

// TestLongStream watches one stream for as long as -long says: longer than any timeout between two requests.
func TestLongStream(t *testing.T) {
	to := lay(t, service(t, streaming(time.Second)))
	in, body, err := to.open(t.Context(), to.client(t, true))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	began, n := time.Now(), 0
	for ; time.Since(began) < *long; n++ {
		if err := event(in, n); err != nil {
			t.Fatalf("event %d after %s: %v", n, time.Since(began), err)
		}
	}
	t.Logf("%d events in %s", n, time.Since(began).Round(time.Second))
	to.well(t)
}
