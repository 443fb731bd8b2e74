//go:build linux

package lifecycle

import (
	"bytes"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/test/need"
)

// TestDiskFull raises a stack on a disk that is too small for it, at several places. The error says so, soon, and does not speak
// of Google; with room enough the stack
// comes up.
func TestDiskFull(t *testing.T) {
	need.Root(t, "a small disk can be mounted by root only")
	for _, tc := range []struct{ name, size string }{
		{"for the objects", "6m"},
		{"for the databases", "40m"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := cloud.Dir(t)
			disk := filepath.Dir(dir)
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "mode=0755,size="+tc.size); err != nil {
				t.Fatalf("mount a small disk: %v", err)
			}
			t.Cleanup(func() {
				// Detached, since children that the kernel ends may hold it for a moment longer.
				if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			s := newStackIn(t, dir)
			var stdout, stderr bytes.Buffer
			cmd := s.command("apply", "--yes")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			began := time.Now()
			err := cmd.Run()
			if err == nil || !strings.Contains(stderr.String(), "The disk of the local cloud is full: "+dir) {
				t.Errorf("%v\n%s", err, &stderr)
			}
			if took := time.Since(began); took > 5*time.Minute { // it was ten once, which is how long a server is waited for
				t.Errorf("it took %s", took)
			}
			for _, wrong := range []string{"backendError", "Google answered", "no space left"} {
				if strings.Contains(stderr.String(), wrong) {
					t.Errorf("the error speaks of %q:\n%s", wrong, &stderr)
				}
			}
			if t.Failed() {
				return
			}

			// With room enough: what was left half made is said to be so, with what to do about it here.
			if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "mode=0755,size=2g"); err != nil {
				t.Fatal(err)
			}
			out, err := s.command("apply", "--yes").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "A resource does not run") || !strings.Contains(string(out), "    difyup destroy --local -f "+s.file+" --dir "+dir) || strings.Contains(string(out), "console") {
				t.Errorf("%v\n%s", err, out)
			}
			for _, args := range [][]string{{"destroy", "--yes"}, {"apply", "--yes"}, {"plan", "--exit-code"}, {"status"}} {
				if out, err := s.command(args...).CombinedOutput(); err != nil {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
			}
		})
	}
}
