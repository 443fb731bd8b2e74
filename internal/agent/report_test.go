package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/difyup/difyup/internal/agent/plugins"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
)

// TestReports has an instance's state change faster than it may be published.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var got []string
		fail := false
		var log strings.Builder
		r := newReporter("1.17.1", slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, raw []byte) error {
			d, err := report.Parse(string(raw))
			if err != nil {
				t.Error(err)
			}
			said := fmt.Sprintf("%s %s %s", time.Since(began), d.Phase, d.Waiting)
			for _, c := range d.Checks {
				said += fmt.Sprintf(" [%s %t %s]", c.Name, c.Well, c.Says)
			}
			if d.Containers != nil {
				said += fmt.Sprint(" ", d.Containers.All)
			}
			if d.Plugins != nil {
				said += fmt.Sprintf(" %d of %d", d.Plugins.Here, d.Plugins.Installed)
			}
			got = append(got, strings.TrimSpace(said))
			if fail {
				return errors.New("not now")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx) }()
		synctest.Wait()
		for i, store := range []string{"the database", "the vector database", "Redis"} {
			time.Sleep([]time.Duration{1500, 1200, 1200}[i] * time.Millisecond)
			r.phase(report.Stores, store+" refuses connections")
		}
		time.Sleep(20 * time.Second)
		r.phase(report.Starts, "")
		time.Sleep(6 * time.Second)
		r.phase(report.Serves, "") // is told at once, the first time
		synctest.Wait()
		r.phase(report.Serves, "") // is no change
		r.checks([]report.Check{{Name: "Redis", Well: true, Took: 3}})
		time.Sleep(20 * time.Second)
		r.checks([]report.Check{{Name: "Redis", Well: true, Took: 4}}) // nor is this
		fail = true
		time.Sleep(90 * time.Second)
		r.checks([]report.Check{{Name: "Redis", Says: "refuses connections"}})
		time.Sleep(20 * time.Second)
		fail = false
		r.phase(report.Drains, "")
		time.Sleep(20 * time.Second)
		// Of containers, memory is no change; of plugins, where they run otherwise is none.
		r.containers(map[dify.Name]runtime.State{dify.Worker: {Restarts: 1}, dify.API: {Well: true, Memory: 1 << 30}})
		time.Sleep(20 * time.Second)
		r.containers(map[dify.Name]runtime.State{dify.Worker: {Restarts: 1, Memory: 1 << 21}, dify.API: {Well: true}})
		time.Sleep(20 * time.Second)
		r.plugins(plugins.State{Here: []string{"a/b:1"}, Nowhere: []string{"c/d:1"}})
		time.Sleep(20 * time.Second)
		r.plugins(plugins.State{Here: []string{"a/b:1"}, Elsewhere: []string{"c/d:1"}})
		time.Sleep(20 * time.Second)
		cancel()
		<-done
		want := []string{
			"0s secrets",
			"1.5s stores the database refuses connections",
			"2.7s stores the vector database refuses connections",
			"22.7s stores Redis refuses connections",
			"29.9s serves",
			"49.9s serves  [Redis true ]",
			"1m49.9s serves  [Redis true ]",
			"2m19.9s serves  [Redis false refuses connections]",
			"2m39.9s drains  [Redis false refuses connections]",
			"2m59.9s drains  [Redis false refuses connections] [{api true 0 1024} {worker false 1 0}]",
			"3m39.9s drains  [Redis false refuses connections] [{api true 0 0} {worker false 1 2}] 1 of 2",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("published (-want +got):\n%s", d)
		}
		if n := strings.Count(log.String(), "not now"); n != 1 {
			t.Errorf("the log tells %d times that it did not work:\n%s", n, log.String())
		}
	})
}

// TestServedOnce has an instance serve and drain while a report is on its way: it is told once, and not again and again.
func TestServedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		r := newReporter("1.17.1", slog.New(slog.DiscardHandler), func(_ context.Context, raw []byte) error {
			d, err := report.Parse(string(raw))
			if err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			if got = append(got, string(d.Phase)); len(got) > 9 {
				t.FailNow()
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx) }()
		time.Sleep(time.Second)
		r.phase(report.Serves, "")
		r.phase(report.Drains, "")
		time.Sleep(50 * time.Second)
		cancel()
		<-done
		if d := cmp.Diff([]string{"secrets", "drains"}, got); d != "" {
			t.Errorf("published (-want +got):\n%s", d)
		}
	})
}

// TestWords checks that what everybody may see is ours, whatever an error says.
func TestWords(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{&pgconn.PgError{Code: "28P01", Message: `password authentication failed for user "dify"`}, "refuses the login"},
		{fmt.Errorf("connect: %w", &pgconn.PgError{Code: "3D000"}), "has no such database"},
		{&pgconn.PgError{Code: "XX000", Message: "secret"}, "answers with an error (XX000)"},
		{&statusError{Code: 403, What: "secret x@1"}, "may not be read"},
		{&statusError{Code: 404, What: "secret x@1"}, "is not there"},
		{&statusError{Code: 400, What: "secret x@1", Unusable: "is disabled"}, "is disabled"},
		{&statusError{Code: 503, What: "secret x@1"}, "answers with an error (Service Unavailable)"},
		{&net.DNSError{Err: "no such host", Name: "db.demo.internal", IsNotFound: true}, "has a name that is not known yet"},
		{fmt.Errorf("10.0.0.1: %w", refused), "refuses connections"},
		{context.DeadlineExceeded, "does not answer in time"},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, "does not answer in time"},
		{errors.New("WRONGPASS invalid username-password pair"), "refuses the login"},
		{fmt.Errorf("connect: %w", x509.UnknownAuthorityError{}), "has a certificate that none of its own authorities signed"},
		{fmt.Errorf("authorities of demo-main: %w", errNoAuthority), "are not there yet"},
		{io.ErrUnexpectedEOF, "cannot be used; the log of the instance says why"},
		{fmt.Errorf("secret demo-x@1: %w", errPage), "is not reached: something in between answers with a page"},
		{&unready{"the secret demo-x@1", words(&statusError{Code: http.StatusForbidden, What: "secret demo-x@1"}), "403 Forbidden"}, "the secret demo-x@1 may not be read"},
	} {
		if got := words(tc.err); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}
