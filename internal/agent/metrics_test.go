package agent

import (
	"context"
	"encoding/json"
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

// TestMetrics shows what an instance writes, each series once. One that the scheduler does not run on does not ask for the queue, and one whose
// Redis cannot be asked writes the rest.
func TestMetrics(t *testing.T) {
	var wrote []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token") {
			io.WriteString(w, `{"access_token":"token-1","expires_in":3600}`)
			return
		}
		var body struct{ TimeSeries []series }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/v3/projects/p/timeSeries" || r.Header.Get("Authorization") != "Bearer token-1" {
			http.Error(w, "wrong", http.StatusBadRequest)
			return
		}
		wrote = nil
		for _, s := range body.TimeSeries {
			at, err := time.Parse(time.RFC3339Nano, s.Points[0].Interval.End)
			if err != nil || time.Since(at) > time.Minute || s.Kind != "GAUGE" || s.ValueType != "INT64" {
				t.Errorf("a series is %+v", s)
			}
			var labels []string
			for _, name := range []string{"container", "phase"} {
				if v := s.Metric.Labels[name]; v != "" {
					labels = append(labels, v)
				}
			}
			where := s.Resource.Type + " " + s.Resource.Labels["instance_id"] + s.Resource.Labels["node_id"]
			wrote = append(wrote, strings.Join(append([]string{strings.TrimPrefix(s.Metric.Type, dify.MetricPrefix)}, labels...), " ")+" = "+s.Points[0].Value.Int+" of "+where)
		}
		io.WriteString(w, "{}")
	}))
	defer server.Close()
	a := &agent{
		log: slog.New(slog.DiscardHandler), google: &google{host: server.Listener.Addr().String(), client: server.Client()}, endpoint: server.URL + "/",
		name: "vm-1", id: "17", zone: "projects/1/zones/z", runtime: contained{}, settings: dify.Settings{Project: "p", Stack: "demo", Region: "r"},
		report: newReporter("1", slog.New(slog.DiscardHandler), nil),
	}
	var err error
	if a.door, err = frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Log: a.log, Backend: func(dify.Name) string { return "" }}); err != nil {
		t.Fatal(err)
	}
	defer a.door.Close(t.Context())
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
	wrote = nil
	a.report.scheduler("vm-1")
	if err := a.writeMetrics(t.Context(), queue); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a Redis that is not there: %v", err)
	}
	if d := cmp.Diff(want, wrote); d != "" {
		t.Errorf("series (-want +got):\n%s", d)
	}
}
