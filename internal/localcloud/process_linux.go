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
	Program string       // a program that calls Serve
	Args    []string     // its arguments
	Waiting func(string) // told for what, when another local cloud has to end first; may be nil
}

// Up gives the local cloud that runs in a directory, and starts one if none does, after one that is ending there. It
// outlives this process. The second result says whether it was started.
func Up(ctx context.Context, o UpOptions) (*Info, bool, error) {
	for {
		if info, err := Find(ctx, o.Dir); !errors.Is(err, ErrNotRunning) {
			return info, false, err
		}
		lock, info, err := awaitLock(ctx, o.Dir, false, o.Waiting)
		if err != nil && !errors.Is(err, os.ErrNotExist) || info != nil {
			return info, false, err
		}
		if lock != nil {
			lock.Close() // for the one to come
		}
		info, err = launch(ctx, o)
		if !errors.Is(err, errLocked) { // by one that another process started at the same time
			return info, true, err
		}
	}
}

// launch starts a local cloud and waits until it answers. The error is errLocked when another was faster.
func launch(ctx context.Context, o UpOptions) (*Info, error) {
	log := filepath.Join(o.Dir, logFile)
	var out *os.File
	err := os.ErrNotExist
	for errors.Is(err, os.ErrNotExist) && ctx.Err() == nil { // while one that ended takes its directory along
		if err := makeDir(o.Dir); err != nil {
			return nil, fmt.Errorf("start the local cloud: %w", err)
		}
		out, err = os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("start the local cloud: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(o.Program, o.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are not for it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the local cloud: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process, or with this one
		_ = cmd.Wait() // its log says why
		close(ended)
	}()
	for {
		info, err := Find(ctx, o.Dir)
		switch {
		case err == nil && info.PID != cmd.Process.Pid:
			select {
			case <-ended: // it has seen the other, and has no more to do
				return nil, errLocked
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case !errors.Is(err, ErrNotRunning):
			return info, err
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ended:
			timer.Stop()
			if locked(o.Dir) {
				return nil, errLocked
			}
			return nil, unstarted(lastLines(log, 12))
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
}

// unstarted says that a local cloud did not start, of which its log ends so. An error with its remedy, if that is the end, needs no other.
func unstarted(log string) error {
	f := &fault.Fault{
		Summary: "The local cloud did not start", Detail: log,
		Remedy: "See what is wrong there, then try again. What is missing is installed, from the source tree, by:\n    make deps",
	}
	const mark = "\nError: "
	text := "\n" + log
	// That of an attempt before may be there as well. What has one line only is an error that nobody wrote a remedy for.
	if i := strings.LastIndex(text, mark); i >= 0 && strings.Contains(text[i+len(mark):], "\n") {
		f.Detail, f.Remedy = text[i+len(mark):], ""
	}
	return f
}

// endFor is how long a local cloud may take to end: its parts have endGrace each.
const endFor = 3 * endGrace

// Down ends the local cloud that runs in a directory, and everything it started, and removes the directory. The result
// says whether there was anything. Waiting, which may be nil, is told for what, when it is ending already.
func Down(ctx context.Context, dir string, waiting func(string)) (bool, error) {
	info, err := Find(ctx, dir)
	if errors.Is(err, ErrNotRunning) {
		var was bool
		if was, info, err = clearDir(ctx, dir, waiting); err != nil || info == nil {
			return was, err
		}
	}
	if err != nil {
		return false, err
	}
	if err := info.ask(ctx, http.MethodPost, "local/v1/shutdown", nil, nil); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return false, silent(dir, info.PID)
		}
		return false, fmt.Errorf("end the local cloud: %w", err)
	}
	for deadline := time.Now().Add(endFor); running(info.PID); {
		if stopped(info.PID) || time.Now().After(deadline) {
			return false, silent(dir, info.PID)
		}
		timer := time.NewTimer(5 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false, fmt.Errorf("wait for the local cloud (process %d) to end: %w", info.PID, ctx.Err())
		case <-timer.C:
		}
	}
	// It has removed its directory, unless it was killed meanwhile. What another began there since is the other's.
	_, _, err = clearDir(ctx, dir, nil)
	return true, err
}

// Sweep removes what a local cloud that was killed left in its directory, and waits for one that is ending there. One
// that runs it leaves alone. The result says whether there was anything.
func Sweep(ctx context.Context, dir string, waiting func(string)) (bool, error) {
	was, _, err := clearDir(ctx, dir, waiting)
	return was, err
}

// clearDir is Sweep, and gives the local cloud that runs there.
func clearDir(ctx context.Context, dir string, waiting func(string)) (bool, *Info, error) {
	_, there := os.Stat(filepath.Join(dir, lockFile))
	lock, info, err := awaitLock(ctx, dir, false, waiting)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return there == nil, nil, nil
	case err != nil || info != nil:
		return true, info, err
	}
	defer lock.Close()
	if err := makeDir(dir); err != nil { // is it one's at all?
		return false, nil, err
	}
	return true, nil, removeDir(dir)
}
