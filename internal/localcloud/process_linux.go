package localcloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// UpOptions say which program to start and how the cloud behaves.
type UpOptions struct {
	Dir     string
	Program string   // a program that calls Serve
	Args    []string // its arguments
}

// Up gives the local cloud that runs in a directory, and starts one if none does. It outlives this process. The second
// result says whether it was started.
func Up(ctx context.Context, o UpOptions) (*Info, bool, error) {
	if info, err := Find(ctx, o.Dir); !errors.Is(err, ErrNotRunning) {
		return info, false, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, false, fmt.Errorf("start the local cloud: %w", err)
	}
	log := filepath.Join(o.Dir, logFile)
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("start the local cloud: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(o.Program, o.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are not for it
	if err := cmd.Start(); err != nil {
		return nil, false, fmt.Errorf("start the local cloud: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process, or with this one
		_ = cmd.Wait() // its log says why
		close(ended)
	}()
	for {
		info, err := Find(ctx, o.Dir)
		if !errors.Is(err, ErrNotRunning) {
			return info, true, err
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ended:
			timer.Stop()
			if info, findErr := Find(ctx, o.Dir); findErr == nil { // another process was faster
				return info, false, nil
			}
			return nil, false, &fault.Fault{
				Summary: "The local cloud did not start",
				Detail:  lastLines(log, 12),
				Remedy:  "See what is wrong there, then try again. What is missing is installed, from the source tree, by:\n    make deps",
			}
		case <-ctx.Done():
			timer.Stop()
			return nil, false, ctx.Err()
		case <-timer.C:
		}
	}
}

// Down ends the local cloud that runs in a directory, and everything it started, and removes the directory. The result
// says whether there was anything.
func Down(ctx context.Context, dir string) (bool, error) {
	info, err := Find(ctx, dir)
	switch {
	case errors.Is(err, ErrNotRunning):
		return sweep(dir)
	case err != nil:
		return false, err
	}
	if err := info.ask(ctx, http.MethodPost, "local/v1/shutdown", nil, nil); err != nil {
		return false, fmt.Errorf("end the local cloud: %w", err)
	}
	for running(info.PID) {
		timer := time.NewTimer(5 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false, fmt.Errorf("wait for the local cloud (process %d) to end: %w", info.PID, ctx.Err())
		case <-timer.C:
		}
	}
	_, err = sweep(dir) // it has removed its directory, unless it was killed meanwhile
	return true, err
}

// running says whether a process has not ended. One that nobody has reaped yet has.
func running(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	at := strings.LastIndex(string(raw), ") ") // the program's name before it may hold anything
	return at >= 0 && !strings.HasPrefix(string(raw[at+2:]), "Z") && !strings.HasPrefix(string(raw[at+2:]), "X")
}

// sweep removes what a local cloud that was killed left in its directory. Its children died with it.
func sweep(dir string) (bool, error) {
	lock, err := takeLock(dir, false)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	return true, os.RemoveAll(dir)
}

var errLocked = errors.New("a local cloud runs in this directory")

// takeLock takes the lock of a directory, which its local cloud holds for as long as it lives.
func takeLock(dir string, create bool) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, errLocked
			}
			return nil, err
		}
		// Whoever held it before may have removed it in the end.
		mine, err := f.Stat()
		there, err2 := os.Stat(path)
		if err == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
	}
}
