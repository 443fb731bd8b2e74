//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/dify"
)

// role says what a process of this test's program is to be instead: "service", or "door ADDRESS" of that.
const role = "DIFYUP_BENCH_ROLE"

func TestMain(m *testing.M) {
	name, rest, _ := strings.Cut(os.Getenv(role), " ")
	switch name {
	case "":
		os.Exit(m.Run())
	case "service":
		playService()
	case "door":
		playDoor(rest)
	}
}

// announce says where a process listens, and has it end when its parent does, whose pipe its stdin is. For every line that
// comes there it gives back the memory that it does not use, and says when it has.
func announce(at net.Addr) {
	fmt.Println(at)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		debug.FreeOSMemory()
		fmt.Println("done")
	}
	os.Exit(0)
}

// playService is what is behind the door: answers of 1 KiB, and streams that say something once and then nothing.
func playService() {
	answer := bytes.Repeat([]byte("x"), 1<<10)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/console/api/stream" {
				_, _ = w.Write(answer) // who asked may be gone
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush() // the same
			<-r.Context().Done()
		})))
	}()
	announce(l.Addr())
}

func playDoor(service string) {
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{
		Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return service },
	})
	if err != nil {
		panic(err)
	}
	door.Ready()
	announce(door.Addr())
}

// process is one that play started.
type process struct {
	at  string // where it listens
	pid int
	in  io.Writer
	out *bufio.Reader
}

// play starts such a process.
func play(b *testing.B, what string) *process {
	b.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"="+what)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	p := &process{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	p.at = p.line(b)
	return p
}

func (p *process) line(b *testing.B) string {
	b.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// used gives the memory that the process has in use and resident, in KiB, without garbage.
func (p *process) used(b *testing.B) int {
	b.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		b.Fatal(err)
	}
	p.line(b)
	return resident(b, p.pid)
}

// nginx starts Debian's nginx with the same routes, and gives where it listens; "" where there is none.
func nginx(b *testing.B, service string) string {
	b.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		return ""
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	dir := b.TempDir()
	var conf strings.Builder
	fmt.Fprintf(&conf, "daemon off; master_process on; worker_processes auto; pid %[1]s/pid; error_log stderr;\nevents { worker_connections 4096; }\nhttp {\naccess_log off;\n"+
		"client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;\n"+
		"client_max_body_size 110m; keepalive_requests 1000000; proxy_http_version 1.1; proxy_buffering off;\nproxy_set_header Host $host; proxy_set_header Connection '';\n"+
		"proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme;\n"+
		"upstream service { server %[2]s; keepalive 64; }\nserver {\nlisten %[3]s;\n", dir, service, at)
	for _, r := range dify.Routes() {
		if r.Service == "" {
			fmt.Fprintf(&conf, "location %s { return 404; }\n", r.Prefix)
		} else {
			fmt.Fprintf(&conf, "location %s { proxy_pass http://service; }\n", r.Prefix)
		}
	}
	conf.WriteString("}\n}\n")
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-c", file, "-p", dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
			return at
		}
		if time.Now().After(end) {
			b.Fatalf("nginx does not serve: %v\n%s", err, said.String())
		}
	}
}

// asker keeps connections, as a load balancer does.
func asker(b *testing.B, connections int) *http.Client {
	t := &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}
	b.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func ask(c *http.Client, at string) error {
	resp, err := c.Get("http://" + at + "/console/api/x")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n != 1<<10 {
		return fmt.Errorf("%s, %d bytes, %v", resp.Status, n, err)
	}
	return nil
}

// caller is a connection on which one request is sent after the other, by the goroutine that waits for the answers: whoever
// measures is to take little of the two cores that are measured.
type caller struct {
	net.Conn
	in *bufio.Reader
}

func (c *caller) ask() error {
	if _, err := io.WriteString(c, "GET /console/api/x HTTP/1.1\r\nHost: "+c.RemoteAddr().String()+"\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n != 1<<10 {
		return fmt.Errorf("%s, %d bytes, %v", resp.Status, n, err)
	}
	return nil
}

// paced sends so many requests a second, whether or not those before were answered, and gives how long each took from when
// it was sent. There are as many connections as were needed at once.
func paced(b *testing.B, at string, rate int, long time.Duration) []time.Duration {
	b.Helper()
	n := int(long.Seconds() * float64(rate))
	took := make([]time.Duration, n)
	due := make(chan int) // which request is to be sent now
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	call := func(i int) {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			failed.Store(&err)
			return
		}
		defer conn.Close()
		c := &caller{Conn: conn, in: bufio.NewReader(conn)}
		for more := true; more; i, more = <-due {
			began := time.Now() // what the machine is late by is not the door's
			if err := c.ask(); err != nil {
				failed.Store(&err)
				return
			}
			took[i] = time.Since(began)
		}
	}
	began := time.Now()
	for i := range n {
		if wait := time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		select {
		case due <- i:
		default:
			all.Go(func() { call(i) })
		}
	}
	close(due)
	all.Wait()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	slices.Sort(took)
	return took
}

// flat gives how many requests a second are answered to so many who ask one after the other.
func flat(b *testing.B, at string, askers int, long time.Duration) float64 {
	b.Helper()
	c := asker(b, askers)
	var count atomic.Int64
	ctx, cancel := context.WithTimeout(b.Context(), long)
	defer cancel()
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := ask(c, at); err != nil {
					b.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	return float64(count.Load()) / long.Seconds()
}

// resident gives the memory of a process, in KiB.
func resident(b *testing.B, pid int) int {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Rss:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no Rss")
	return 0
}

// BenchmarkDoor compares the front door with the service that is behind it, and with nginx before the same service, in turns
// in one run: this machine may be doing other things.
func BenchmarkDoor(b *testing.B) {
	for b.Loop() {
		service := play(b, "service").at
		behind := play(b, "door "+service)
		door := behind.at
		other := nginx(b, service)
		who := []struct{ name, at string }{{"directly", service}, {"the front door", door}}
		if other != "" {
			who = append(who, struct{ name, at string }{"nginx", other})
		}
		const rounds, rate = 5, 2000
		p50, p99, rates := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range rounds {
			for _, w := range who {
				took := paced(b, w.at, rate, 3*time.Second)
				p50[w.name] = append(p50[w.name], float64(took[len(took)/2].Microseconds())/1000)
				p99[w.name] = append(p99[w.name], float64(took[len(took)*99/100].Microseconds())/1000)
				rates[w.name] = append(rates[w.name], flat(b, w.at, 64, 2*time.Second))
			}
		}
		middle := func(all []float64) float64 {
			slices.Sort(all)
			return all[len(all)/2]
		}
		for _, w := range who {
			limit50, limit99, limit := "", "", ""
			if w.name != "directly" {
				limit50 = fmt.Sprintf("adds %.2f", middle(p50[w.name])-middle(p50["directly"]))
				limit99 = fmt.Sprintf("adds %.2f", middle(p99[w.name])-middle(p99["directly"]))
			}
			if w.name == "the front door" {
				limit50 += ", at most 0.2"
				limit99 += ", at most 1"
				if other != "" {
					limit = fmt.Sprintf("%.2f of nginx's, at least 0.45", middle(rates[w.name])/middle(rates["nginx"]))
				}
			}
			figure(fmt.Sprintf("%s, p50 at %d requests/s", w.name, rate), fmt.Sprintf("%.2f ms", middle(p50[w.name])), limit50)
			figure(fmt.Sprintf("%s, p99 at %d requests/s", w.name, rate), fmt.Sprintf("%.2f ms", middle(p99[w.name])), limit99)
			figure(w.name+", 64 who ask", fmt.Sprintf("%.0f /s", middle(rates[w.name])), limit)
		}
		if other == "" {
			fmt.Println("nginx is not installed: it is not compared.")
		}
		const streams = 1000
		before := behind.used(b)
		c := asker(b, streams)
		var open []io.Closer
		for range streams {
			resp, err := c.Post("http://"+door+"/console/api/stream", "application/json", strings.NewReader("{}"))
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, resp.Body)
			if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
				b.Fatal(err)
			}
		}
		figure("memory of an idle stream in the front door", fmt.Sprintf("%.1f KiB", float64(behind.used(b)-before)/streams), "at most 40")
		for _, body := range open {
			body.Close()
		}
	}
}
