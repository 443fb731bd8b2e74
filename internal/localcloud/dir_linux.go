package localcloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// makeDir makes a local cloud's directory, or takes one that is there: the user's own, with nothing in it but a local
// cloud. Others can at most pass through it, which root's servers and instances must.
func makeDir(dir string) error {
	for try := 1; ; try++ {
		// A local cloud that ended may take its directory along meanwhile.
		if err := makeDirOnce(dir); !errors.Is(err, os.ErrNotExist) || try == 100 {
			return err
		}
	}
}

func makeDirOnce(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	about, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid := int(about.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
		return foreign(dir, uid)
	}
	if err := firm(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != logFile && holder(dir) == 0 {
			if _, err := os.Lstat(filepath.Join(dir, e.Name())); err != nil { // it has gone, and then the lock
				return err
			}
			return &fault.Fault{
				Summary: "The directory is not a local cloud's",
				Detail:  fmt.Sprintf("%s holds %s. What is in a local cloud's directory is deleted when it starts and when it ends.", dir, e.Name()),
				Remedy:  "Use a directory that is empty, or one that does not exist yet:\n    difyup local up --dir DIRECTORY",
			}
		}
	}
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	return os.Chmod(dir, mode)
}

// firm gives a fault when somebody else may put another directory in the place of this one: who owns one of the directories and links that lead
// to it, or may write there. What lies in a local cloud's directory is trusted, and deleted, by its path.
func firm(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	const links = 40 // as the kernel follows
	us := whoWeAre()
	at, rest := "/", strings.Split(strings.Trim(dir, "/"), "/")
	for followed := 0; ; {
		about, err := os.Lstat(at)
		if err != nil {
			return err
		}
		link := about.Mode()&os.ModeSymlink != 0
		if len(rest) == 0 && !link {
			return nil // whose the directory itself is has been looked at
		}
		why := ""
		owner, mode := about.Sys().(*syscall.Stat_t), about.Mode()
		switch open := !link && mode&os.ModeSticky == 0; {
		case !us.users[owner.Uid]:
			why = fmt.Sprintf("User %d may put another directory in the place of %s, because %s is that user's.", owner.Uid, dir, at)
		case mode&0o002 != 0 && open:
			why = fmt.Sprintf("Every user of the machine may put another directory in the place of %s, because %s is open to all.", dir, at)
		case mode&0o020 != 0 && open && !us.groups[owner.Gid]:
			why = fmt.Sprintf("The group %d may put another directory in the place of %s, because %s is open to it.", owner.Gid, dir, at)
		}
		if why != "" {
			return &fault.Fault{
				Summary: "The local cloud's directory is not safe", Detail: why,
				Remedy: "Close that directory to others, or use another one:\n    difyup local up --dir DIRECTORY",
			}
		}
		if link {
			to, err := os.Readlink(at)
			if followed++; err == nil && followed > links {
				err = &os.PathError{Op: "follow", Path: dir, Err: syscall.ELOOP}
			}
			if err != nil {
				return err
			}
			if at = filepath.Dir(at); filepath.IsAbs(to) {
				at = "/"
			}
			rest = slices.Concat(strings.Split(to, "/"), rest)
			continue
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:] // also for "..": at has no link in it
	}
}

// trusted are the users and groups that may have the local cloud's directory changed.
type trusted struct{ users, groups map[uint32]bool }

// whoWeAre gives root, ourselves with our own group, and who became root by sudo. In a container that has no root of the machine's, what is
// that root's seems to be nobody's.
func whoWeAre() trusted {
	t := trusted{users: map[uint32]bool{0: true, uint32(os.Geteuid()): true}, groups: map[uint32]bool{0: true, uint32(os.Getgid()): true, uint32(os.Getegid()): true}}
	add := func(all map[uint32]bool, text string) {
		if id, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32); err == nil {
			all[uint32(id)] = true
		}
	}
	if me, err := user.Current(); err == nil {
		add(t.groups, me.Gid) // whatever newgrp made of it
	}
	if os.Geteuid() == 0 {
		add(t.users, os.Getenv("SUDO_UID"))
		add(t.groups, os.Getenv("SUDO_GID"))
	}
	if ids, err := os.ReadFile("/proc/self/uid_map"); err == nil && !slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"}) {
		for path, all := range map[string]map[uint32]bool{"/proc/sys/kernel/overflowuid": t.users, "/proc/sys/kernel/overflowgid": t.groups} {
			if id, err := os.ReadFile(path); err == nil {
				add(all, string(id))
			}
		}
	}
	return t
}

// owned gives a fault when a file is somebody else's: what it says is not to be trusted, nor told.
func owned(path string) error {
	about, err := os.Lstat(path)
	if errors.Is(err, os.ErrPermission) {
		about, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	if uid := int(about.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
		return foreign(filepath.Dir(path), uid)
	}
	return nil
}

func foreign(dir string, uid int) error {
	return &fault.Fault{
		Summary: "The local cloud is another user's",
		Detail:  fmt.Sprintf("%s belongs to user %d, and you are user %d.", dir, uid, os.Geteuid()),
		Remedy:  "Use a directory of your own:\n    difyup local up --dir DIRECTORY",
	}
}

var errLocked = errors.New("a local cloud runs in this directory")

// takeLock takes the lock of a directory, which its local cloud holds for as long as it lives.
func takeLock(dir string, create bool) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	flags := os.O_RDWR | syscall.O_NOFOLLOW
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
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

// signLock writes into a lock who holds it. It is never empty meanwhile: whoever looks then would take the directory for no local cloud's.
func signLock(lock *os.File) error {
	n, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	if err != nil {
		return err
	}
	return lock.Truncate(int64(n))
}

// holder gives the process that last signed the lock of a directory, 0 for none.
func holder(dir string) int {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return 0
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 20))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return pid
}

// locked says whether somebody holds the lock of a directory.
func locked(dir string) bool {
	lock, err := takeLock(dir, false)
	if err == nil {
		lock.Close()
	}
	return errors.Is(err, errLocked)
}

// held says whether a process holds the lock of a directory, as its local cloud does.
func held(dir string, pid int) bool { return holder(dir) == pid && locked(dir) }

// awaitLock takes the lock of a directory, as soon as the local cloud that is ending there has given it up. It gives the
// local cloud instead when one runs there. Waiting, which may be nil, is told
// once for what.
func awaitLock(ctx context.Context, dir string, create bool, waiting func(string)) (*os.File, *Info, error) {
	for said := false; ; {
		lock, err := takeLock(dir, create)
		if !errors.Is(err, errLocked) {
			return lock, nil, err
		}
		info, err := Find(ctx, dir)
		if !errors.Is(err, ErrNotRunning) {
			return nil, info, err
		}
		pid := holder(dir)
		if stopped(pid) {
			return nil, nil, silent(dir, pid)
		}
		// One that starts has not yet said where it is, and is up in a moment.
		if _, err := os.Stat(filepath.Join(dir, infoFile)); err == nil && !said && waiting != nil {
			waiting(fmt.Sprintf("the local cloud in %s (process %d) to end", dir, pid))
			said = true
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, fmt.Errorf("wait for the local cloud in %s (process %d): %w", dir, pid, ctx.Err())
		case <-timer.C:
		}
	}
}

// emptyDir removes what is in a local cloud's directory but the lock, whose holder alone may do this, and what is spared.
func emptyDir(dir string, spared ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockFile || slices.Contains(spared, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeDir removes a local cloud's directory, the lock last. Whoever takes a new lock in it meanwhile keeps it.
func removeDir(dir string) error {
	if err := errors.Join(emptyDir(dir), os.Remove(filepath.Join(dir, lockFile))); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// running says whether a process has not ended. One that nobody has reaped yet has.
func running(pid int) bool { return !strings.Contains("ZX", state(pid)) }

// stopped says whether a process was stopped, as by Ctrl-Z, and not ended.
func stopped(pid int) bool { return state(pid) == "T" }

// state gives the letter of a process's state, "" for one that is not there.
func state(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	at := strings.LastIndex(string(raw), ") ") // the program's name before it may hold anything
	if at < 0 || len(raw) < at+3 {
		return ""
	}
	return string(raw[at+2 : at+3])
}

// silent is the fault for a local cloud that does not answer.
func silent(dir string, pid int) error {
	if stopped(pid) {
		return &fault.Fault{
			Summary: "The local cloud is stopped",
			Detail:  fmt.Sprintf("Process %d, the local cloud in %s, was stopped by a signal, as Ctrl-Z sends one.", pid, dir),
			Remedy:  fmt.Sprintf("Let it go on:\n    kill -CONT %d", pid),
		}
	}
	return &fault.Fault{
		Summary: "The local cloud does not answer",
		Detail:  fmt.Sprintf("Process %d, the local cloud in %s, has not answered for %s. Its log is %s.", pid, dir, patience, filepath.Join(dir, logFile)),
		Remedy:  fmt.Sprintf("Try again. If it never answers, end it by force; what it holds is lost:\n    kill -KILL %d", pid),
	}
}
