package boot

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/test/need"
)

var (
	//go:embed prepare.sh
	prepare string
	//go:embed boot.sh
	start string
)

// Missing names what no machine can boot without; "" when all is there.
func Missing() string {
	for _, name := range []string{"systemd-analyze", "dbus-daemon", "dpkg-deb", "apt-get", "setpriv", "nsenter", "unshare", "ip"} {
		if missing := MissingProgram(name); missing != "" {
			return missing
		}
	}
	return MissingCloudInit()
}

// Need skips a test that cannot boot a machine here, and says why.
func Need(t testing.TB) {
	t.Helper()
	engine.Need(t)
	need.Missing(t, Missing())
}

// Machine is a machine that can boot.
type Machine struct {
	Network *engine.Namespace
	Console Console // what the serial console shows

	dir     string
	cgroups []string
	pty     *os.File // the near side of the console
	other   *os.File
	tty     string
	reading sync.WaitGroup
	holder  *process // has the disk
	first   *process // unshare, whose child is the machine's first process
}

// File is a file that a machine has from the start.
type File struct {
	Path    string // absolute
	Mode    os.FileMode
	Content []byte
}

// New makes a machine in a network, with files besides those of this machine. It must be closed.
func New(n *engine.Namespace, files ...File) (m *Machine, err error) {
	dir, err := os.MkdirTemp("", "difyup-boot-")
	if err != nil {
		return nil, err
	}
	m = &Machine{Network: n, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := os.Mkdir(filepath.Join(dir, "disk"), 0o755); err != nil {
		return nil, err
	}
	for _, f := range files {
		path := filepath.Join(dir, "add", f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, f.Content, f.Mode); err != nil {
			return nil, err
		}
	}
	if err := m.openConsole(); err != nil {
		return nil, err
	}
	if err := m.makeCgroups(); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var said bytes.Buffer
	cmd := exec.CommandContext(context.Background(), "unshare", "--mount", "--", "bash", "-c", prepare, "prepare.sh", dir, CloudInit)
	cmd.Stdout, cmd.Stderr = w, &said
	if _, err = cmd.StdinPipe(); err != nil { // it ends when this is closed, as it is with this process
		return nil, err
	}
	m.holder, err = spawn(cmd)
	w.Close()
	if err != nil {
		return nil, err
	}
	if line, _ := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		m.holder.kill()
		return nil, fmt.Errorf("make the machine's disk: %s", said.String())
	}
	return m, nil
}

// process is a program that dies with us.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread() // whose death counts as ours
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, or ends when the machine does
		}
	}()
	return p, <-started
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// openConsole makes the terminal that the machine writes to, and gathers what it writes.
func (m *Machine) openConsole() error {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open a console: %w", err)
	}
	m.pty = pty
	raw, err := pty.SyscallConn() // which leaves it such that reading ends when it is closed
	if err != nil {
		return fmt.Errorf("open a console: %w", err)
	}
	number, failed := 0, error(nil)
	if err := raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || failed != nil {
		return fmt.Errorf("open a console: %w", errors.Join(err, failed))
	}
	m.tty = fmt.Sprintf("/dev/pts/%d", number)
	// While nobody has the other side open, reading would fail.
	if m.other, err = os.OpenFile(m.tty, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return fmt.Errorf("open a console: %w", err)
	}
	m.reading.Go(func() { _, _ = io.Copy(&m.Console, pty) }) // until it is closed
	return nil
}

// Console is what was written to a console.
type Console struct {
	mu   sync.Mutex
	text []byte
}

func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	return len(p), nil
}

// String gives the text, with ordinary ends of lines.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(string(c.text), "\r\n", "\n")
}

// makeCgroups makes a group of the machine's own in every hierarchy of control groups that this process is in.
func (m *Machine) makeCgroups() error {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return fmt.Errorf("the control groups of this machine: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, _, _ := strings.Cut(rest, ":")
		at := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(controllers, "name="))
		if controllers == "" && fs.Type != unix.CGROUP2_SUPER_MAGIC {
			at = "/sys/fs/cgroup/unified" // version 2 beside version 1
		}
		if _, err := os.Stat(filepath.Join(at, "cgroup.procs")); err != nil {
			continue // it is not mounted
		}
		group := filepath.Join(at, filepath.Base(m.dir))
		if err := os.Mkdir(group, 0o755); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
		m.cgroups = append(m.cgroups, group)
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} { // of version 1: a new group has none
			if value, err := os.ReadFile(filepath.Join(at, name)); err == nil && controllers == "cpuset" {
				if err := os.WriteFile(filepath.Join(group, name), value, 0); err != nil {
					return fmt.Errorf("set up a control group: %w", err)
				}
			}
		}
	}
	return nil
}

// Boot starts the machine, which must not run.
func (m *Machine) Boot() error {
	var script strings.Builder
	for _, g := range m.cgroups {
		fmt.Fprintf(&script, "echo $$ >%s/cgroup.procs\n", g)
	}
	script.WriteString(`exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup -- bash -c "$@"`)
	cmd := m.Network.Command(context.Background(), "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", m.holder.cmd.Process.Pid), "--",
		"bash", "-c", script.String(), "boot", start, "boot.sh", m.dir, m.tty, "Google Compute Engine")
	cmd.Stdout, cmd.Stderr = &m.Console, &m.Console
	var err error
	m.first, err = spawn(cmd)
	return err
}

// Cut takes the machine's power away.
func (m *Machine) Cut() {
	if m.first != nil {
		m.first.kill()
		m.first = nil
	}
}

// Ended is closed when the machine has gone down by itself.
func (m *Machine) Ended() <-chan struct{} { return m.first.ended }

// Command is exec.CommandContext for a program on the running machine.
func (m *Machine) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	pid := m.first.cmd.Process.Pid
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	children := strings.Fields(string(raw))
	if len(children) != 1 {
		return nil, fmt.Errorf("unshare has the children %v", children)
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", children[0], "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	return cmd, nil
}

// Run runs a program on the machine and gives what it says.
func (m *Machine) Run(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	cmd, err := m.Command(ctx, name, args...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Close ends the machine and removes all that it had.
func (m *Machine) Close() error {
	m.Cut()
	if m.holder != nil {
		m.holder.kill()
	}
	var errs []error
	if m.pty != nil {
		errs = append(errs, m.pty.Close())
	}
	if m.other != nil {
		errs = append(errs, m.other.Close())
	}
	m.reading.Wait()
	// The kernel takes groups and mounts away a moment after the last process.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, g := range append(m.cgroups, m.dir) {
		var err error
		for range 200 {
			if err = remove(g); err == nil {
				break
			}
			<-tick.C
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove removes a directory, which may be a control group: only directories can be removed there.
func remove(dir string) error {
	if !strings.HasPrefix(dir, "/sys/fs/cgroup/") {
		return os.RemoveAll(dir)
	}
	var groups []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for i := len(groups) - 1; i >= 0; i-- {
		err = errors.Join(err, os.Remove(groups[i]))
	}
	return err
}
