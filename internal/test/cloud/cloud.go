//go:build linux

package cloud

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
)

// Dir gives a directory for a local cloud's state: short, and with parents that the servers' user can pass. It is removed
// when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "difyup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "local")
}

// Start runs a fresh local cloud in this process until the test ends, and fails the test if anything of it is left then.
func Start(t testing.TB) localcloud.Info {
	t.Helper()
	dir := Dir(t)
	ready, ended := make(chan localcloud.Info, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ended <- localcloud.Serve(ctx, localcloud.Options{Dir: dir, Fresh: true, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Ready: func(i localcloud.Info) { ready <- i }})
	}()
	select {
	case info := <-ready:
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left behind: %v", dir, err)
			}
		})
		return info
	case err := <-ended:
		stop()
		t.Fatal(err)
	case <-time.After(time.Minute):
		stop()
		t.Fatal("the local cloud did not start")
	}
	return localcloud.Info{}
}

// Get asks the local cloud, with its owner's token, and gives status and body of the answer.
func Get(ctx context.Context, info *localcloud.Info, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, info.URL+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+info.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}

// Build puts programs of cmd into dir, built as they are shipped: "difyup", "difyup-agent". DIFYUP_TEST_PROGRAMS names a
// directory that has them already, for who runs many tests of one state of the sources.
func Build(dir string, programs ...string) error {
	for _, p := range programs {
		if made := os.Getenv("DIFYUP_TEST_PROGRAMS"); made != "" {
			raw, err := os.ReadFile(filepath.Join(made, p))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, p), raw, 0o755); err != nil {
				return err
			}
			continue
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p), "github.com/difyup/difyup/cmd/"+p)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	return nil
}
