package compose

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// taken takes lines as they come, but those of a worker while it storms.
type taken struct {
	mu     sync.Mutex
	storms bool
	lines  []string
	last   string
}

func (t *taken) Skip(source string, _ int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.storms && source == string(dify.Worker)
}

func (t *taken) Add(l runtime.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines, t.last = append(t.lines, l.Source+": "+l.Text), l.ID
}

func (t *taken) Last(string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// frame writes text as the engine does, a line or a piece of one; at is when the line was begun.
func frame(w io.Writer, at time.Time, text string) error {
	text = at.UTC().Format(time.RFC3339Nano) + " " + text
	_, err := w.Write(append(binary.BigEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(len(text))), text...))
	return err
}

// docker serves an engine's API, and gives what a docker program finds it by.
func docker(t *testing.T, api http.Handler) (environ []string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(api)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return []string{"DOCKER_HOST=unix://" + socket}
}

// TestLines has a container's log come in pieces, and end in the midst of a line.
func TestLines(t *testing.T) {
	x, y := strings.Repeat("x", 16<<10), strings.Repeat("y", 100)
	type piece struct {
		line int // which it is of
		text string
	}
	for _, tc := range []struct {
		name   string
		pieces []piece
		cut    int // bytes that are missing at the end
		want   []string
	}{
		{"whole lines", []piece{{1, "one\n"}, {2, "\n"}, {3, "three\r\n"}}, 0, []string{"one", "three"}},
		{"pieces", []piece{{1, x}, {1, x}, {1, y + "\n"}, {2, "two\n"}}, 0, []string{x + x + y, "two"}},
		{"pieces of which none ends, as of 20.10", []piece{{1, x}, {1, y}, {2, "two\n"}, {3, x}, {3, y}}, 0, []string{x + y, "two", x + y}},
		{"the last words", []piece{{1, "one\n"}, {2, "and"}}, 0, []string{"one", "and"}},
		{"a frame that is cut", []piece{{1, "one\n"}, {2, "and"}}, 1, []string{"one"}},
		{"a line without an end", slices.Repeat([]piece{{1, x}}, 18), 0, []string{strings.Repeat(x, 17), x}},
	} {
		var log bytes.Buffer
		began := time.Now()
		for _, p := range tc.pieces {
			if err := frame(&log, began.Add(time.Duration(p.line)), p.text); err != nil {
				t.Fatal(err)
			}
		}
		log.Truncate(log.Len() - tc.cut)
		var got []string
		err := lines(&log, func(bool) bool { return false }, func(_ time.Time, text string) { got = append(got, text) })
		if (err != nil) != (tc.cut > 0) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%.4000s", tc.name, d)
		}
	}
}

// TestLastWords has a container end in the midst of a line, and begin again. Its log, which is read once for each life, is not read as if
// the one life had gone on with what the other began.
func TestLastWords(t *testing.T) {
	began := time.Now()
	lives := 0
	took := &taken{}
	e := New(Options{Lines: took, Log: slog.New(slog.DiscardHandler), Environ: docker(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		lives++
		for life := range lives { // what is not older than what was taken last comes again
			if life == lives-1 {
				_ = frame(w, began.Add(time.Duration(2*life)), "it begins\n")
			}
			_ = frame(w, began.Add(time.Duration(2*life+1)), "the last wor")
		}
	}))}).(*engine)
	api, err := newAPI(e.opts.Environ)
	if err != nil {
		t.Fatal(err)
	}
	defer api.client.CloseIdleConnections()
	for range 2 {
		if err := e.read(t.Context(), api, "apiapiapiapi", dify.API, nil, time.Time{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"api: it begins", "api: the last wor", "api: it begins", "api: the last wor"}, took.lines); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}

// TestLeftAlone has a worker storm and end, as when an instance is told to stop: its log was left alone, and of what it wrote then
// the last lines are taken. The log of another container is read once.
func TestLeftAlone(t *testing.T) {
	piece := strings.Repeat("x", 16<<10)
	for name, storm := range map[string][]string{ // what a line comes in
		"of lines": {"a line of a storm\n"}, "of long lines": {piece, piece[:1<<10] + "\n"}, "of long lines, as of 20.10": {piece, piece[:1<<10]},
		"without an end": slices.Repeat([]string{piece}, stormLines),
	} {
		t.Run(name, func(t *testing.T) { leftAlone(t, storm) })
	}
}

func leftAlone(t *testing.T, storm []string) {
	took := &taken{storms: true}
	var (
		mu    sync.Mutex
		asked []string
	)
	alone := make(chan struct{}) // when nobody reads the storm any more
	ended := make(chan struct{}) // when nothing runs any more
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-ended:
			if req.URL.Query().Get("all") != "true" {
				fmt.Fprint(w, "[]")
				return
			}
		default:
		}
		fmt.Fprint(w, `[{"Id": "apiapiapiapi", "Labels": {"com.docker.compose.service": "api"}}, {"Id": "workerworker", "Labels": {"com.docker.compose.service": "worker"}}]`)
	})
	mux.HandleFunc("GET /containers/{id}/logs", func(w http.ResponseWriter, req *http.Request) {
		query := req.URL.Query()
		mu.Lock()
		asked = append(asked, fmt.Sprintf("%s since=%t tail=%s", req.PathValue("id"), query.Has("since"), query.Get("tail")))
		mu.Unlock()
		switch {
		case req.PathValue("id") == "apiapiapiapi":
			_ = frame(w, time.Now(), "hello\n")
			_ = http.NewResponseController(w).Flush()
			<-ended
		case query.Has("tail"):
			took.mu.Lock()
			took.storms = false
			took.mu.Unlock()
			_ = frame(w, time.Now(), "the last words\n")
		default:
			defer close(alone)
			for n := 0; n < 10*stormLines; { // what nobody has read is less
				at := time.Now()
				for _, text := range storm {
					if n++; frame(w, at, text) != nil {
						return
					}
				}
			}
			t.Error("it is read on and on")
		}
	})
	e := New(Options{Environ: docker(t, mux), Lines: took, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*engine)
	end := e.follow(t.Context(), []dify.Service{{Name: dify.API}, {Name: dify.Worker}})
	<-alone
	close(ended)
	end()
	slices.Sort(asked)
	if d := cmp.Diff([]string{"apiapiapiapi since=false tail=", "workerworker since=false tail=", "workerworker since=true tail=2000"}, asked); d != "" {
		t.Errorf("the engine was asked for logs (-want +got):\n%s", d)
	}
	slices.Sort(took.lines)
	if d := cmp.Diff([]string{"api: hello", "worker: the last words"}, took.lines); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}

// TestSilence has the engine give nothing any more after a rush, though a container writes on: what it wrote is asked for, once. After
// a few lines there is nothing odd in silence.
func TestSilence(t *testing.T) {
	took := &taken{}
	var (
		mu    sync.Mutex
		asked = map[string][]string{}
	)
	began := time.Now().Add(-time.Minute)
	line := func(n int) time.Time { return began.Add(time.Duration(n) * time.Millisecond) }
	const rushing = 2 * rush
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, `[{"Id": "apiapiapiapi", "Labels": {"com.docker.compose.service": "api"}}, {"Id": "workerworker", "Labels": {"com.docker.compose.service": "worker"}}]`)
	})
	came := make(chan struct{}, 1)
	mux.HandleFunc("GET /containers/{id}/logs", func(w http.ResponseWriter, req *http.Request) {
		query := req.URL.Query()
		id := req.PathValue("id")
		mu.Lock()
		asked[id] = append(asked[id], fmt.Sprintf("since=%s tail=%s", query.Get("since"), query.Get("tail")))
		times := len(asked[id])
		mu.Unlock()
		switch {
		case id == "apiapiapiapi":
			for range rush / 2 {
				_ = frame(w, line(0), "hello\n")
			}
		case times == 1:
			for n := range rushing {
				_ = frame(w, line(n), fmt.Sprintf("%d\n", n))
			}
		default: // what is not older comes again
			for n := rushing - 1; n < rushing+2; n++ {
				_ = frame(w, line(n), fmt.Sprintf("%d\n", n))
			}
		}
		_ = http.NewResponseController(w).Flush()
		if times == 2 {
			came <- struct{}{}
		}
		<-req.Context().Done()
	})
	e := New(Options{Environ: docker(t, mux), Lines: took, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*engine)
	e.silence = 200 * time.Millisecond
	end := sync.OnceFunc(e.follow(t.Context(), []dify.Service{{Name: dify.API}, {Name: dify.Worker}}))
	defer end()
	select {
	case <-came:
	case <-time.After(time.Minute):
		t.Fatal("it is not asked again")
	}
	time.Sleep(lookForLogs + 3*e.silence) // until another look, if there was one
	end()
	last := line(rushing - 1)
	want := map[string][]string{"apiapiapiapi": {"since= tail="}, "workerworker": {"since= tail=", fmt.Sprintf("since=%d.%09d tail=10000", last.Unix(), last.Nanosecond())}}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("the engine was asked for logs (-want +got):\n%s", d)
	}
	var lines []string
	for n := range rushing + 2 {
		lines = append(lines, fmt.Sprintf("worker: %d", n))
	}
	took.lines = slices.DeleteFunc(took.lines, func(l string) bool { return l == "api: hello" })
	if d := cmp.Diff(lines, took.lines); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}
