//go:build linux

package lifecycle

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestEnding starts a local cloud while another is ending in the same directory: it waits, and says for what. Several at
// once start one.
func TestEnding(t *testing.T) {
	s := newStack(t)
	s.run("local", "up")
	s.run("apply", "--yes", "--no-wait") // so that ending takes a while
	first := s.info()
	down := s.command("local", "down")
	if err := down.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // until its APIs are closed
		if _, err := s.command("local", "status").Output(); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not end")
		}
	}
	var together sync.WaitGroup
	said := make([]string, 3)
	for i := range said {
		together.Go(func() {
			out, err := s.command("local", "up").CombinedOutput()
			if said[i] = string(out); err != nil {
				t.Errorf("local up: %v\n%s", err, out)
			}
		})
	}
	together.Wait()
	if err := down.Wait(); err != nil {
		t.Error(err)
	}
	second := s.info()
	if second.PID == first.PID || second.Token == first.Token || !second.Empty() {
		t.Errorf("the first is %d, the second %d with %v", first.PID, second.PID, second.Resources)
	}
	t.Log(strings.Join(said, ""))
	if left, err := commandLines(s.dir); err != nil || len(left) != 1 {
		t.Errorf("there run %d, %v:\n%s", len(left), err, strings.Join(left, "\n"))
	}
}

// TestStopped stops a local cloud, as Ctrl-Z does with one in the foreground. Nothing waits for it for ever, and every
// command says what is wrong.
func TestStopped(t *testing.T) {
	s := newStack(t)
	s.run("local", "up")
	pid := s.info().PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT) // so that it can be ended
	for _, args := range [][]string{{"local", "status"}, {"local", "up"}, {"local", "down"}, {"local", "env", "-f", s.file}, {"apply", "--yes"}, {"plan"}, {"destroy", "--yes"}} {
		began := time.Now()
		out, err := s.command(args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "The local cloud is stopped") || !strings.Contains(string(out), "kill -CONT ") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("%v took %s", args, took)
		}
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.run("local", "status")
	s.run("local", "down")
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

// ending plays a local cloud that is ending, until ended is called: the test has its lock, and its directory says which process it is
// and where it was.
func (s *stack) ending(pid int, url string) (ended func()) {
	s.t.Helper()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{"lock": fmt.Sprintln(os.Getpid()), "cloud.json": fmt.Sprintf(`{"pid":%d,"url":%q}`, pid, url), "token": "t0ken"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	lock, err := os.Open(filepath.Join(s.dir, "lock"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.RemoveAll(s.dir), lock.Close()); err != nil {
			s.t.Error(err)
		}
	}
}

// TestWaits has commands come upon a local cloud that is ending, and which the test plays. They wait, say for what, and go
// on when it has ended; an interrupt ends the waiting.
func TestWaits(t *testing.T) {
	s := newStack(t)
	want := fmt.Sprintf("aiting for the local cloud in %s (process %d) to end", s.dir, os.Getpid())
	for _, args := range [][]string{{"local", "up"}, {"local", "down"}, {"apply", "--yes", "--no-wait"}, {"destroy", "--yes"}} {
		for _, interrupt := range []bool{true, false} {
			ended := s.ending(1, "http://127.0.0.1:9/")
			cmd := s.command(args...)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stderr)
			if !lines.Scan() || !strings.Contains(lines.Text(), want) {
				t.Errorf("%v says %q, want %q", args, lines.Text(), want)
			}
			if interrupt {
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			} else {
				ended()
			}
			for lines.Scan() {
			}
			if err := cmd.Wait(); (err != nil) != interrupt {
				t.Errorf("%v, interrupted %t: %v", args, interrupt, err)
			}
			if interrupt {
				ended()
				continue
			}
			s.run("local", "down")
		}
	}
}
