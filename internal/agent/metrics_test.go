package agent

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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
)

// contained is a runtime of which only the states are known.
type contained struct{ runtime.Runtime }

func (contained) States(context.Context) (map[dify.Name]runtime.State, error) {
	return map[dify.Name]runtime.State{dify.API: {Well: true, Memory: 300<<20 + 5}, dify.Worker: {Restarts: 3}}, nil
}

// written gives the series of a request as text, METRIC LABEL = VALUE of RESOURCE, and checks what is the same for all.
func written(t *testing.T, request io.Reader) (all []string) {
	t.Helper()
	var body struct{ TimeSeries []series }
	if err := json.NewDecoder(request).Decode(&body); err != nil {
		t.Error(err)
	}
	for _, s := range body.TimeSeries {
		at, err := time.Parse(time.RFC3339Nano, s.Points[0].Interval.End)
		if err != nil || time.Since(at) > time.Minute || s.Kind != "GAUGE" || s.ValueType != "INT64" {
			t.Errorf("a series is %+v", s)
		}
		words := []string{strings.TrimPrefix(s.Metric.Type, dify.MetricPrefix)}
		for _, name := range []string{"container", "phase"} {
			if v := s.Metric.Labels[name]; v != "" {
				words = append(words, v)
			}
		}
		all = append(all, strings.Join(append(words, "=", s.Points[0].Value.Int, "of", s.Resource.Type, s.Resource.Labels["instance_id"]+s.Resource.Labels["node_id"]), " "))
	}
	return all
}

// TestMetrics shows what an instance writes, each series once. One that the scheduler does not run on does not ask for the queue, and one whose
// Redis cannot be asked writes the rest.
func TestMetrics(t *testing.T) {
	var wrote []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token") {
			io.WriteString(w, `{"access_token":"token-1","expires_in":3600}`)
			return
		}
		if r.URL.Path != "/v3/projects/p/timeSeries" || r.Header.Get("Authorization") != "Bearer token-1" {
			http.Error(w, "wrong", http.StatusBadRequest)
			return
		}
		wrote = written(t, r.Body)
		io.WriteString(w, "{}")
	}))
	defer server.Close()
	a := &agent{
		log: slog.New(slog.DiscardHandler), google: &google{host: server.Listener.Addr().String(), client: server.Client()}, endpoint: server.URL + "/",
		name: "vm-1", id: "17", zone: "projects/1/zones/z", runtime: contained{}, settings: dify.Settings{Project: "p", Stack: "demo", Region: "r"},
		report: newReporter("1", slog.New(slog.DiscardHandler), nil),
	}
	came, leave := make(chan struct{}), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(came); <-leave }))
	defer api.Close()
	var err error
	if a.door, err = frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Log: a.log, Backend: func(dify.Name) string { return api.Listener.Addr().String() }}); err != nil {
		t.Fatal(err)
	}
	defer a.door.Close(t.Context())
	a.door.Ready()
	a.report.phase(report.Stores, "")
	// Nobody listens there.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	queue := redis.NewClient(&redis.Options{Addr: l.Addr().String(), MaxRetries: -1})
	defer queue.Close()

	want := []string{
		"requests_in_flight = 0 of gce_instance 17", "boot_phase_seconds secrets = 0 of gce_instance 17",
		"container_healthy api = 1 of gce_instance 17", "container_restarts api = 0 of gce_instance 17",
		"container_healthy worker = 0 of gce_instance 17", "container_restarts worker = 3 of gce_instance 17",
	}
	if err := a.writeMetrics(t.Context(), queue); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(want, wrote); d != "" {
		t.Errorf("series (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]report.Container{{Name: "api", Well: true, MiB: 300}, {Name: "worker", Restarts: 3}}, a.report.doc.Containers.All); d != "" {
		t.Errorf("reported (-want +got):\n%s", d)
	}
	asked := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + a.door.Addr().String() + "/console/api/apps")
		if err == nil {
			err = resp.Body.Close()
		}
		asked <- err
	}()
	select {
	case <-came:
	case err := <-asked:
		t.Fatalf("a request is answered at once: %v", err)
	}
	want[0] = "requests_in_flight = 1 of gce_instance 17"
	wrote = nil
	a.report.scheduler("vm-1")
	if err := a.writeMetrics(t.Context(), queue); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a Redis that is not there: %v", err)
	}
	if d := cmp.Diff(want, wrote); d != "" {
		t.Errorf("series (-want +got):\n%s", d)
	}
	close(leave)
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// TestMeasures has an instance measure as often as on Google: a queue's length is written within a minute, however soon after the last
// time it changed, and how long a phase of the boot took.
func TestMeasures(t *testing.T) {
	var length atomic.Int64
	broker := lists(t, func(name string) int64 {
		if name == "mail" {
			return length.Load()
		}
		return 0
	})
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Log: slog.New(slog.DiscardHandler), Backend: func(dify.Name) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close(t.Context())
	synctest.Test(t, func(t *testing.T) {
		var wrote []string
		times := 0
		client := &http.Client{Transport: answers(func(r *http.Request) string {
			if strings.HasSuffix(r.URL.Path, "/token") {
				return `{"access_token":"token-1","expires_in":3600}`
			}
			wrote = written(t, r.Body)
			times++
			return "{}"
		})}
		a := &agent{
			log: slog.New(slog.DiscardHandler), google: &google{host: "metadata", client: client}, endpoint: "http://google/", scale: 1, door: door,
			name: "vm-1", id: "17", zone: "projects/1/zones/z", runtime: contained{}, settings: dify.Settings{Project: "p", Stack: "demo", Region: "r"},
			report: newReporter("1", slog.New(slog.DiscardHandler), nil),
		}
		a.settings.Stores.Redis.Host, a.settings.Stores.Redis.Port = broker.Addr().String(), int(broker.Port())
		time.Sleep(7 * time.Second)
		a.report.phase(report.Stores, "")
		a.report.scheduler("vm-1")
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); a.measure(ctx, nil) }()
		for n := range 5 {
			synctest.Wait() // it has just written
			length.Store(int64(14 + n))
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, want := range []string{fmt.Sprintf("queue_length = %d of generic_node demo", 14+n), "boot_phase_seconds secrets = 7 of gce_instance 17"} {
				if !slices.Contains(wrote, want) {
					t.Errorf("a minute later there is no %q in %q", want, wrote)
				}
			}
		}
		if times > 60 { // Cloud Monitoring takes a point of a series every 5 s
			t.Errorf("it wrote %d times in 5 minutes", times)
		}
		end()
		<-done
	})
}

// answers is a client's way to a server in this process.
type answers func(*http.Request) string

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(f(r))), Request: r}, nil
}

// lists plays a Redis that knows how long its lists are, until the test ends.
func lists(t *testing.T, length func(name string) int64) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					var n, size int
					if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
						return // the client is gone
					}
					words := make([]string, n)
					for i := range words {
						if _, err := fmt.Fscanf(in, "$%d\r\n%s\r\n", &size, &words[i]); err != nil {
							return
						}
					}
					answer := "+OK"
					switch words[0] {
					case "llen":
						answer = ":" + strconv.FormatInt(length(words[1]), 10)
					case "hello", "client":
						answer = "-ERR unknown command"
					}
					if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}
