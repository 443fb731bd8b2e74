//go:build unix

package config_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/fault"
)

// TestWhatIsNoFile checks that devices, sockets and what never ends are refused at once, and that a pipe is read.
func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	zero := filepath.Join(dir, "zero.yaml")
	if err := os.Symlink("/dev/zero", zero); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/dev/zero": "Configuration is not a file", "/dev/null": "Configuration is not a file", zero: "Configuration is not a file",
	} {
		_, err := config.Load(t.Context(), path)
		if all := fault.All(err); len(all) != 1 || all[0].Summary != want {
			t.Errorf("%s: %v", path, err)
		}
	}

	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, want string
		write      func(w io.Writer) error
	}{
		{"a description", "", func(w io.Writer) error { _, err := io.WriteString(w, minimal); return err }},
		{"nothing", "Empty configuration", func(io.Writer) error { return nil }},
		{"what never ends", "Configuration is too large", func(w io.Writer) error {
			for {
				if _, err := io.WriteString(w, strings.Repeat("# for ever\n", 1000)); err != nil {
					return nil // nobody reads any more
				}
			}
		}},
	} {
		written := make(chan error, 1)
		go func() {
			w, err := os.OpenFile(pipe, os.O_WRONLY, 0)
			if err == nil {
				err = errors.Join(tc.write(w), w.Close())
			}
			written <- err
		}()
		_, err := config.Load(t.Context(), pipe)
		got := ""
		if all := fault.All(err); len(all) > 0 {
			got = all[0].Summary
		}
		if err := <-written; got != tc.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

// TestPipeThatWaits checks that the reading of a pipe ends with the context, before anybody writes and while somebody does, and
// leaves nothing running.
func TestPipeThatWaits(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for _, writing := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := config.Load(ctx, pipe)
			ended <- err
		}()
		if writing {
			w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the reader is there
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
		} else {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) || len(fault.All(err)) > 0 {
				t.Errorf("writing %t: %v", writing, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("writing %t: the reading goes on", writing)
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
}
