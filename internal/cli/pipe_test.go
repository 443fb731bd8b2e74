//go:build unix

package cli

import (
	"bytes"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignalWhilePipeWaits sends this process the first of the signals while a description is waited for.
func TestSignalWhilePipeWaits(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		var out, errs bytes.Buffer
		code := make(chan int, 1)
		go func() { code <- Main(t.Context(), []string{"plan", "-f", pipe}, Stdio{Out: &out, Err: &errs}) }()
		// The signal is kept from ending the test, should it come before Main listens; then it is sent again.
		kept := make(chan os.Signal, 100)
		signal.Notify(kept, sig)
		var got int
		for deadline, ended := time.After(10*time.Second), false; !ended; {
			if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
			<-kept // one that came after the end would end the test
			select {
			case got = <-code:
				ended = true
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s: it goes on waiting", sig)
			}
		}
		signal.Stop(kept)
		if got != exitInterrupted || !strings.Contains(errs.String(), "Interrupted") || out.Len() > 0 {
			t.Errorf("%s: code %d\n%s%s", sig, got, &out, &errs)
		}
	}
}
