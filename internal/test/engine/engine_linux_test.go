package engine_test

import (
	"context"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/test/engine"
)

// TestEngine runs a container of an image of ours and reaches it, and nothing is left when the engine is closed.
func TestEngine(t *testing.T) {
	engine.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	e, err := engine.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			e.Close()
		}
	}()
	if err := e.Images(ctx, "1.2.3", map[string]string{"difyup-standin/web:1": "web"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Docker(ctx, nil, "run", "--detach", "--name", "web1", "--network", "host", "--pull", "never", "difyup-standin/web:1"); err != nil {
		t.Fatal(err)
	}
	var page string
	for !strings.Contains(page, "1.2.3") {
		if c, err := e.Dial(ctx, "tcp", "127.0.0.1:3000"); err == nil {
			io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			raw, _ := io.ReadAll(c)
			page = string(raw)
			c.Close()
		}
		if ctx.Err() != nil {
			t.Fatalf("the container does not answer: %q", page)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:3000"); err == nil {
		c.Close()
		t.Error("the container is on this machine's own network")
	}
	for probe, good := range map[string]bool{"http://127.0.0.1:3000/": true, "http://127.0.0.1:3000/nothing": false} {
		if _, err := e.Docker(ctx, nil, "exec", "web1", "curl", "-fsS", probe); (err == nil) != good {
			t.Errorf("a health check of %s: %v", probe, err)
		}
	}
	closed = true
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	// Other tests may have engines of their own.
	dir := filepath.Dir(strings.TrimPrefix(e.Environ[len(e.Environ)-1], "DOCKER_HOST=unix://"))
	if !strings.Contains(dir, "difyup-engine-") {
		t.Fatalf("the engine's directory is %q", dir)
	}
	if out, err := exec.Command("pgrep", "-f", dir+"/exec").Output(); err == nil && len(out) > 0 {
		t.Errorf("processes are left: %s", out)
	}
}
