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

// TestSignalWhilePipeWaits sends this process the first of the signals while a description, or a file of certificates, is waited for.
func TestSignalWhilePipeWaits(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	plan, smoke := []string{"plan", "-f", pipe}, []string{"smoke", "--url", "https://dify.invalid", "--ca", pipe}
	for _, tc := range []struct {
		sig  syscall.Signal
		args []string
	}{{syscall.SIGTERM, plan}, {syscall.SIGINT, plan}, {syscall.SIGTERM, smoke}} {
		sig := tc.sig
		var out, errs bytes.Buffer
		code := make(chan int, 1)
		go func() { code <- Main(t.Context(), tc.args, Stdio{Out: &out, Err: &errs}) }()
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
				t.Fatalf("%s: %v goes on waiting", sig, tc.args)
			}
		}
		signal.Stop(kept)
		if got != exitInterrupted || !strings.Contains(errs.String(), "Interrupted") || out.Len() > 0 {
			t.Errorf("%s: %v: code %d\n%s%s", sig, tc.args, got, &out, &errs)
		}
	}
}
