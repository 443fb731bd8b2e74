package compose

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// stormed takes lines as they come, but those of a worker while it storms.
type stormed struct {
	many chan struct{} // closed when so many were left out that nobody should read on

	mu      sync.Mutex
	skipped int
	calm    bool
	lines   []string
}

func (s *stormed) Skip(source string, lines int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if source != string(dify.Worker) || s.calm {
		return false
	}
	if s.skipped += lines; s.skipped == stormLines {
		close(s.many)
	}
	return true
}

func (s *stormed) Add(l runtime.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, l.Source+": "+l.Text)
}

func (*stormed) Last(string) string { return "" }

// TestLeftAlone has a worker storm and end, as when an instance is told to stop: its log was left alone, and of what it wrote then
// the last lines are taken. The log of another container is read once.
func TestLeftAlone(t *testing.T) {
	took := &stormed{many: make(chan struct{})}
	var (
		mu    sync.Mutex
		asked []string
	)
	frame := func(w io.Writer, text string) error {
		text = time.Now().UTC().Format(time.RFC3339Nano) + " " + text + "\n"
		_, err := w.Write(append(binary.BigEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(len(text))), text...))
		return err
	}
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
			_ = frame(w, "hello")
			_ = http.NewResponseController(w).Flush()
			<-ended
		case query.Has("tail"):
			took.mu.Lock()
			took.calm = true
			took.mu.Unlock()
			_ = frame(w, "the last words")
		default:
			for frame(w, "a line of a storm") == nil { // until nobody reads
			}
		}
	})
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	e := New(Options{Environ: []string{"DOCKER_HOST=unix://" + socket}, Lines: took, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*engine)
	end := e.follow(t.Context(), []dify.Service{{Name: dify.API}, {Name: dify.Worker}})
	<-took.many
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
