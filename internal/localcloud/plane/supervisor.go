//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// Spec is a program to run.
type Spec struct {
	Name   string // for messages
	Path   string // absolute
	Args   []string
	Env    []string // complete: nothing is inherited
	Dir    string
	Log    string // file that stdout and stderr are appended to; it should be private
	Stdin  io.Reader
	Signal syscall.Signal // asks it to end; SIGTERM if 0
	// Unprivileged runs the program as the user "postgres" or "nobody" when difyup itself is root.
	Unprivileged bool
	// UID runs the program as this user and the group of the same number, when difyup itself is root; 0 is as ourselves.
	// When the program ends, so does whatever else that user runs.
	UID int
}

// Supervisor starts programs that end when this process ends, even by kill -9.
type Supervisor struct {
	log   *slog.Logger
	start chan func()
	ready chan struct{} // closed when the starting thread is
	bound error         // why it could not be bound
	done  chan struct{}

	life    context.Context // of the keepers
	end     context.CancelFunc
	keepers sync.WaitGroup

	mu     sync.Mutex
	all    []*Process
	closed bool

	waiting     int       // servers that are being waited for
	waitedSince time.Time // when the first of them began
	waited      time.Duration
}

// Waited is how long servers were waited for, until they had been initialised, started or stopped. Waiting for several at
// once counts once.
func (s *Supervisor) Waited() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting > 0 {
		return s.waited + time.Since(s.waitedSince)
	}
	return s.waited
}

// wait notes that a server is waited for until the function it gives is called.
func (s *Supervisor) wait() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 {
		s.waitedSince = time.Now()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting--; s.waiting == 0 {
			s.waited += time.Since(s.waitedSince)
		}
	}
}

// NewSupervisor gives a supervisor. Close ends it. The log, which may be nil, tells of servers that ended by themselves.
func NewSupervisor(log *slog.Logger) *Supervisor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{log: log, start: make(chan func()), ready: make(chan struct{}), done: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	go func() {
		// The kernel sends a child its parent-death signal when the *thread* that forked it ends. One thread, which lives as
		// long as the supervisor, forks them all.
		runtime.LockOSThread()
		defer close(s.done)
		s.bound = boundThread()
		close(s.ready)
		for f := range s.start {
			f()
		}
	}()
	<-s.ready
	return s
}

// boundThread has the kernel give no program that this thread starts, nor any that those start, more rights by executing
// a file: what is set-user-ID counts for nothing. That a thread can be bound alone, and hands it on to the processes that
// it forks, is why no helper program is needed.
func boundThread() error {
	const setNoNewPrivs = 38 // PR_SET_NO_NEW_PRIVS
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	return nil
}

// Process is a program that was started.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	stopped atomic.Bool // somebody wants it to end
}

// Start runs a program. The context is of the starting alone.
func (s *Supervisor) Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.bound != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, s.bound)
	}
	// The directory may be another user's, who must not lead us elsewhere.
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer log.Close()
	if spec.Signal == 0 {
		spec.Signal = syscall.SIGTERM
	}
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = spec.Env, spec.Dir, spec.Stdin, log, log
	// A group of its own: Ctrl-C at the terminal is ours to handle, and a forced end takes the program's children along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if spec.Unprivileged {
		if cmd.SysProcAttr.Credential, err = unprivileged(); err != nil {
			return nil, fmt.Errorf("start %s: %w", spec.Name, err)
		}
	}
	if os.Geteuid() != 0 {
		spec.UID = 0
	}
	if spec.UID != 0 { // without a list of groups there are none
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(spec.UID), Gid: uint32(spec.UID)}
	}
	p := &Process{spec: spec, cmd: cmd, done: make(chan struct{})}

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, fmt.Errorf("start %s: the local cloud is ending", spec.Name)
	}
	started := make(chan error, 1)
	s.start <- func() { started <- cmd.Start() }
	err = <-started
	if err == nil {
		s.all = append(s.all, p)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	go func() {
		p.err = cmd.Wait()
		s.mu.Lock()
		s.all = slices.DeleteFunc(s.all, func(q *Process) bool { return q == p })
		s.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says why it ended, once Done is closed; nil for exit status 0.
func (p *Process) Err() error { return p.err }

// while gives a context that ends when ctx does, when the process is gone, or by the function.
func (p *Process) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Stop asks the process to end, and ends it by force after grace or when ctx ends. It returns when the process is gone,
// and with it what its user left behind.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	p.end(ctx, grace)
	if p.spec.UID == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftoverGrace)
	defer cancel()
	return endAll(ctx, p.spec.UID)
}

// leftoverGrace is how long processes that were killed may take to be gone.
const leftoverGrace = 5 * time.Second

func (p *Process) end(ctx context.Context, grace time.Duration) {
	p.stopped.Store(true)
	_ = p.cmd.Process.Signal(p.spec.Signal) // it may be gone already
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// keep starts a server again when it ends and nobody stopped it, as Google does with those it runs. again starts it, and
// keeps what it started in turn.
func (s *Supervisor) keep(p *Process, again func(ctx context.Context) error) {
	s.keepers.Go(func() {
		select {
		case <-p.done:
		case <-s.life.Done():
			return
		}
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // children that outlive it hold its memory
		wait := 100 * time.Millisecond
		for !p.stopped.Load() && s.life.Err() == nil {
			s.log.Warn("a server ended by itself; starting it again", "server", p.spec.Name, "error", p.err)
			if again(s.life) == nil {
				return
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-s.life.Done():
				timer.Stop()
			}
			wait = min(2*wait, 10*time.Second)
		}
	})
}

// Close stops what still runs, all at once, and returns when nothing is left.
func (s *Supervisor) Close(ctx context.Context, grace time.Duration) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.end()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() { errs[i] = p.Stop(ctx, grace) })
	}
	wg.Wait()
	s.keepers.Wait()
	close(s.start)
	<-s.done
	return errors.Join(errs...)
}

// unprivileged gives the user that servers run as when we are root, nil when we are not: PostgreSQL refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New(`neither a user "postgres" nor "nobody" exists, and PostgreSQL refuses to run as root`)
}

// Reachable gives a fault when servers, which run as another user if we are root, could not get to a directory.
func Reachable(dir string) error {
	cred, err := unprivileged()
	if err != nil || cred == nil {
		return err
	}
	for d := dir; ; d = filepath.Dir(d) {
		about, err := os.Stat(d)
		if err != nil {
			return err
		}
		if about.Mode()&0o001 == 0 {
			return &fault.Fault{
				Summary: "The local cloud's directory is out of the servers' reach",
				Detail:  fmt.Sprintf("PostgreSQL and Redis run as another user when difyup is root, and that user may not enter %s.", d),
				Remedy:  "Use another directory:\n    difyup local up --dir /var/lib/difyup/local",
			}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// own gives a directory to the user that servers run as.
func own(dir string) error {
	cred, err := unprivileged()
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(dir, int(cred.Uid), int(cred.Gid))
}

// ownFile gives an open file to the user that servers run as.
func ownFile(f *os.File) error {
	cred, err := unprivileged()
	if err != nil || cred == nil {
		return err
	}
	return f.Chown(int(cred.Uid), int(cred.Gid))
}
