package logs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/difyup/difyup/internal/agent/logs"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// hider takes out as many secrets as an API container has.
func hider() func(string) string {
	s := dify.Service{Environment: map[string]string{}}
	for i := range 10 {
		s.Environment[fmt.Sprintf("SECRET_%d", i)] = strings.Repeat(fmt.Sprintf("%dabcdefg", i), 5)
	}
	return runtime.Hider(s)
}

// cpu reports, and gives, the processor's nanoseconds of all that the process did since it was called, for each of n; how busy others keep the
// machine is not in it.
func cpu(b *testing.B, what string) func(n int) float64 {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func(n int) float64 {
		each := float64(used()-before) / float64(n)
		b.ReportMetric(each, "cpu-ns/"+what)
		return each
	}
}

// BenchmarkLines is what a line of 200 bytes costs from the container's output to the request, also as a part of a core at 1,000 lines a second. The
// server is in it.
func BenchmarkLines(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	book, err := logs.Open(logs.Options{Dir: b.TempDir(), Rate: 1 << 40, Burst: 1 << 40, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	w := &runtime.LineWriter{To: book, Source: "api", Hide: hider()}
	text := []byte(strings.Repeat("2026-11-28 10:00:00,123 INFO [app.py:42] GET /v1/x ", 4)[:199] + "\n")
	send := func(ctx context.Context, batch logs.Batch) error {
		resp, err := server.Client().Post(server.URL, "application/json", bytes.NewReader(batch.Entries))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	n, done := 0, cpu(b, "line")
	for b.Loop() {
		if _, err := w.Write(text); err != nil {
			b.Fatal(err)
		}
		if n++; n%500 == 0 { // as often as Run does at 1,000 a second
			if err := book.Flush(b.Context(), send); err != nil {
				b.Fatal(err)
			}
		}
	}
	// As the figures in internal/test/bench are.
	fmt.Printf("\n%-44s %12s   (%s)\n", "logs, 1,000 lines/s", fmt.Sprintf("%.2f %%", done(n)*1000/1e9*100), "at most 3 % of a core")
}

// BenchmarkStorm is what is left out, and counted: how fast a container may write that storms.
func BenchmarkStorm(b *testing.B) {
	book, err := logs.Open(logs.Options{Dir: b.TempDir(), Rate: 1, Burst: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	w := &runtime.LineWriter{To: book, Source: "api", Hide: hider()}
	text := bytes.Repeat(append(bytes.Repeat([]byte("x"), 199), '\n'), 160) // what a pipe gives at once
	n, done := 0, cpu(b, "MB")
	for b.Loop() {
		if _, err := w.Write(text); err != nil {
			b.Fatal(err)
		}
		n++
	}
	done(max(1, n*len(text)/1e6))
}
