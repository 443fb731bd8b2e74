package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// The shortest intervals, for a cloud whose time is scaled, as parts of the real one: which of two checks is the first
// to find something is what it is on Google. An instance that is not healthy is asked more often than Google would, so
// that it is seen the moment it is ready; a healthy one is left to work.
const (
	eager  = 200
	steady = 40
	// A probe's answer takes the instance real time, whatever the scale.
	shortestTimeout = 2 * time.Second
)

// Check is a health check made ready for probing.
type Check struct {
	Link      string // the health check's self link
	Scheme    string // "http", "https" or "tcp"
	Port      int
	Host      string // Host header; "" for the address
	Path      string
	Response  string        // what the answer must begin with
	Eager     time.Duration // between probes of an instance that is not healthy
	Steady    time.Duration // between probes of a healthy one
	Timeout   time.Duration
	Healthy   int // successes in a row that make healthy
	Unhealthy int // failures in a row that make unhealthy
}

// From reads a health check. scale shortens its times; named gives the port of a port name ("" for the serving port).
func From(hc wire.HealthCheck, scale float64, named func(string) int) Check {
	c := Check{Link: hc.SelfLink, Healthy: orDefault(hc.Healthy, 2), Unhealthy: orDefault(hc.Unhealthy, 2)}
	interval := time.Duration(orDefault(hc.Interval, 5)) * time.Second
	c.Eager, c.Steady = wire.Scaled(interval, scale, interval/eager), wire.Scaled(interval, scale, interval/steady)
	c.Timeout = wire.Scaled(time.Duration(orDefault(hc.Timeout, 5))*time.Second, scale, shortestTimeout)
	var p wire.CheckProbe
	switch hc.Type {
	case "HTTPS", "HTTP2":
		c.Scheme, p = "https", hc.HTTPS
		c.Port = orDefault(p.Port, 443)
	case "TCP":
		c.Scheme, p = "tcp", hc.TCP
		c.Port = orDefault(p.Port, 80)
	default:
		c.Scheme, p = "http", hc.HTTP
		c.Port = orDefault(p.Port, 80)
	}
	switch p.Specification {
	case "USE_NAMED_PORT":
		c.Port = named(p.PortName)
	case "USE_SERVING_PORT":
		c.Port = named("")
	}
	c.Host, c.Path, c.Response = p.Host, p.Path, p.Response
	if c.Path == "" {
		c.Path = "/"
	}
	return c
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// Ask probes an address once. It is nil when the instance says it is well. An error that wraps
// context.DeadlineExceeded is a timeout.
func (c Check) Ask(ctx context.Context, addr netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	hostPort := net.JoinHostPort(addr.String(), strconv.Itoa(c.Port))
	if c.Scheme == "tcp" {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", hostPort)
		if err != nil {
			return fmt.Errorf("connect %s: %w", hostPort, err)
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Scheme+"://"+hostPort+c.Path, nil)
	if err != nil {
		return fmt.Errorf("probe %s: %w", hostPort, err)
	}
	req.Host = c.Host
	req.Header.Set("User-Agent", "GoogleHC/1.0")
	// Google opens a connection for every probe, and does not look at the certificate.
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", hostPort, err)
	}
	defer resp.Body.Close()
	head, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return fmt.Errorf("probe %s: %w", hostPort, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("probe %s: answered %s", hostPort, resp.Status)
	}
	if !strings.HasPrefix(string(head), c.Response) {
		return fmt.Errorf("probe %s: the answer does not begin with %q", hostPort, c.Response)
	}
	return nil
}

// Verdict is what is known about an instance, in Google's words.
type Verdict string

// The verdicts. Unknown is the one before the first threshold is met.
const (
	Unknown   Verdict = "UNKNOWN"
	Healthy   Verdict = "HEALTHY"
	Unhealthy Verdict = "UNHEALTHY"
	Timeout   Verdict = "TIMEOUT" // unhealthy because nothing answered in time
)

// Count is a verdict and the answers that lead to the next one. The zero Count knows nothing.
type Count struct {
	Verdict  Verdict
	Streak   int // equal answers in a row
	Good     bool
	Detail   string // why the last probe was not good
	Verdicts int    // how often the verdict changed
}

// Add counts one answer. It tells whether the verdict changed.
func (n *Count) Add(c Check, err error) bool {
	if n.Verdict == "" {
		n.Verdict = Unknown
	}
	good := err == nil
	if good != n.Good {
		n.Good, n.Streak = good, 0
	}
	n.Streak++
	next := n.Verdict
	if good {
		n.Detail = ""
		if n.Streak >= c.Healthy {
			next = Healthy
		}
	} else {
		n.Detail = err.Error()
		if n.Streak >= c.Unhealthy {
			next = Unhealthy
			if errors.Is(err, context.DeadlineExceeded) {
				next = Timeout
			}
		}
	}
	changed := next != n.Verdict
	if changed {
		n.Verdict = next
		n.Verdicts++
	}
	return changed
}

// Run probes until ctx ends, and reports every answer: ask is usually Check.Ask bound to an address; answered gets the
// count after each answer and whether the verdict changed.
func Run(ctx context.Context, c Check, ask func(context.Context) error, answered func(n Count, changed bool)) {
	var n Count
	for {
		err := ask(ctx)
		if ctx.Err() != nil {
			return
		}
		changed := n.Add(c, err)
		answered(n, changed)
		wait := c.Eager
		if n.Verdict == Healthy && n.Good {
			wait = c.Steady
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}
