package probe_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

func TestFrom(t *testing.T) {
	hc := wire.HealthCheck{SelfLink: "l", Type: "HTTP", Interval: 10, Timeout: 5, Healthy: 1, Unhealthy: 3, HTTP: wire.CheckProbe{Specification: "USE_SERVING_PORT", Path: "/health"}}
	got := probe.From(hc, 1, func(string) int { return 1080 })
	want := probe.Check{Link: "l", Scheme: "http", Port: 1080, Path: "/health", Eager: 10 * time.Second, Steady: 10 * time.Second, Timeout: 5 * time.Second, Healthy: 1, Unhealthy: 3}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("realistic time (-want +got):\n%s", d)
	}
	got = probe.From(hc, 0, func(string) int { return 1080 })
	want.Eager, want.Steady, want.Timeout = 50*time.Millisecond, 250*time.Millisecond, 2*time.Second
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("instant (-want +got):\n%s", d)
	}
}

func TestThresholdsAreObeyed(t *testing.T) {
	c := probe.Check{Healthy: 2, Unhealthy: 3}
	bad := errors.New("no")
	var n probe.Count
	var got []probe.Verdict
	for _, err := range []error{nil, nil, bad, bad, nil, bad, bad, bad, context.DeadlineExceeded, nil, nil} {
		n.Add(c, err)
		got = append(got, n.Verdict)
	}
	want := []probe.Verdict{"UNKNOWN", "HEALTHY", "HEALTHY", "HEALTHY", "HEALTHY", "HEALTHY", "HEALTHY", "UNHEALTHY", "TIMEOUT", "TIMEOUT", "HEALTHY"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("verdicts (-want +got):\n%s", d)
	}
}

func TestRunKeepsItsRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3200*time.Millisecond)
		defer cancel()
		start := time.Now()
		var at []time.Duration
		answers := []error{errors.New("booting"), nil}
		probe.Run(ctx, probe.Check{Healthy: 1, Unhealthy: 2, Eager: 500 * time.Millisecond, Steady: time.Second},
			func(context.Context) error { err := answers[min(len(at), 1)]; return err },
			func(probe.Count, bool) { at = append(at, time.Since(start)) })
		want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond}
		if d := cmp.Diff(want, at); d != "" {
			t.Errorf("probes at (-want +got):\n%s", d)
		}
	})
}

func TestAsk(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr(u.Hostname())
	// A port that is taken, and where nobody listens.
	taken, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(taken)
	if err := syscall.Bind(taken, &syscall.SockaddrInet4{Addr: addr.As4()}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(taken)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		c    probe.Check
		ok   bool
	}{
		{"well", probe.Check{Scheme: "http", Port: port, Path: "/health", Timeout: time.Minute}, true},
		{"not ready", probe.Check{Scheme: "http", Port: port, Path: "/", Timeout: time.Minute}, false},
		{"wrong answer", probe.Check{Scheme: "http", Port: port, Path: "/health", Response: "yes", Timeout: time.Minute}, false},
		{"tcp", probe.Check{Scheme: "tcp", Port: port, Timeout: time.Minute}, true},
		{"refused", probe.Check{Scheme: "tcp", Port: at.(*syscall.SockaddrInet4).Port, Timeout: time.Minute}, false},
	} {
		if err := tc.c.Ask(t.Context(), addr); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
