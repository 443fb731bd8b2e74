package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/test/need"
)

// Engine is a Docker engine that runs.
type Engine struct {
	*Namespace
	Environ []string // for the docker program

	dir   string
	group string // the directory of dockerd's own control group; "" without one
	end   context.CancelFunc
	ended chan struct{}
	pid   int           // of unshare, whose child is dockerd
	log   *bytes.Buffer // to be read once it has ended
}

// Need skips a test that cannot have an engine here, and says why. It looks only, and starts nothing.
func Need(t testing.TB) {
	t.Helper()
	need.Long(t, "starts a Docker engine")
	need.Root(t, "a Docker engine of the test's own needs root")
	need.Missing(t, Missing())
}

// Missing names what there is no engine without; "" when all is there.
func Missing() string {
	for _, name := range []string{"docker", "dockerd", "containerd", "iptables", "nft", "ip", "nsenter", "unshare"} {
		if _, err := exec.LookPath(name); err != nil {
			return "there is no " + name + " on this machine; to install: scripts/install-engine"
		}
	}
	if Plugin() == "" {
		return "docker has no compose plugin of version 2; to install: scripts/install-engine"
	}
	return ""
}

// Plugin gives the directory of the compose plugin, "" if there is none.
func Plugin() string {
	home, _ := os.UserHomeDir() // without one, there is none of the user's
	for _, dir := range []string{
		"/opt/difyup/compose", // where scripts/install-engine puts it
		filepath.Join(home, ".docker/cli-plugins"), "/usr/local/libexec/docker/cli-plugins", "/usr/local/lib/docker/cli-plugins",
		"/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins",
	} {
		if exec.Command(filepath.Join(dir, "docker-compose"), "docker-cli-plugin-metadata").Run() == nil {
			return dir
		}
	}
	return ""
}

// Config makes a configuration of the docker program that finds the plugin, and gives the environment that names it.
func Config(dir string) ([]string, error) {
	text := fmt.Sprintf(`{"cliPluginsExtraDirs":[%q]}`, Plugin())
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DOCKER_CONFIG=" + dir}, nil
}

// Start starts an engine, with more arguments of dockerd's, and waits until it answers. It must be closed.
func Start(ctx context.Context, more ...string) (*Engine, error) {
	dir, err := os.MkdirTemp("", "difyup-engine-")
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: dir, ended: make(chan struct{}), log: &bytes.Buffer{}}
	if e.Namespace, err = NewNamespace(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if e.Environ, err = Config(dir); err != nil {
		return nil, errors.Join(err, e.Namespace.Close(), os.RemoveAll(dir))
	}
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	e.Environ = append(e.Environ, "DOCKER_HOST="+socket)
	life, end := context.WithCancel(context.Background())
	e.end = end
	// Namespaces of mounts and processes, besides the network's: when the first process dies, so do all containers, and what
	// they mounted is gone. It dies when unshare does, and that with us.
	cmd := e.Command(life, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", socket, "--bridge", "none", "--config-file", filepath.Join(dir, "none.json"), "--log-level", "warn"}, more...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GOMAXPROCS=8"} // as an instance's docker.service has it
	cmd.Stdout, cmd.Stderr = e.log, e.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o644); err != nil {
		return nil, errors.Join(err, e.Namespace.Close(), os.RemoveAll(dir))
	}
	go func() {
		defer close(e.ended)
		runtime.LockOSThread() // whose death counts as ours
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			e.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, e.Close())
	}
	for {
		if _, err := e.Docker(ctx, nil, "version"); err == nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
			err := ctx.Err()
			return nil, errors.Join(err, e.Close(), fmt.Errorf("dockerd does not answer:\n%s", e.log))
		case <-e.ended:
			return nil, errors.Join(e.Close(), fmt.Errorf("dockerd ended:\n%s", e.log))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Yield gives dockerd a small weight of the processor, as an instance's docker.service has it: in a control group of its own, beside containerd and
// the containers, whose groups the engine names from the top. It gives the group's directory, "" where no controller of the processor's can be had.
func (e *Engine) Yield() (group string, err error) {
	at, file, weight := "/sys/fs/cgroup/cpu", "cpu.shares", "100" // of 1024, which all containers have together
	if _, err := os.Stat(filepath.Join(at, file)); err != nil {
		at, file, weight = "/sys/fs/cgroup", "cpu.weight", "10" // of 100
		if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
			return "", nil
		}
	}
	group = filepath.Join(at, filepath.Base(e.dir))
	if os.Mkdir(group, 0o755) != nil {
		return "", nil
	}
	e.group = group
	pid, err := e.first()
	return group, errors.Join(err, os.WriteFile(filepath.Join(group, file), []byte(weight), 0), os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(pid), 0))
}

// Close kills the engine with its containers, and removes all that it had.
func (e *Engine) Close() error {
	e.end()
	<-e.ended
	err := e.Namespace.Close()
	// The kernel takes the mounts away a moment after the last process.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	remove := func() error {
		err := os.RemoveAll(e.dir)
		if e.group != "" {
			if rmErr := os.Remove(e.group); !errors.Is(rmErr, os.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
		return err
	}
	for range 200 {
		if remove() == nil {
			return err
		}
		<-tick.C
	}
	return errors.Join(err, remove())
}

// Docker runs the docker program with this engine and gives what it wrote.
func (e *Engine) Docker(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env, cmd.Stdin = append(e.Environ, "DOCKER_BUILDKIT=0"), bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Images makes the images of the stand-in's, from scratch: REPOSITORY/SERVICE:TAG for each of the names, and REPOSITORY/api,
// whose MODE says what it is.
func (e *Engine) Images(ctx context.Context, version string, refs map[string]string) error {
	return Images(ctx, e.Docker, e.dir, version, refs)
}

// Images is Engine.Images for any engine: docker runs the docker program, and dir is for what is built.
func Images(ctx context.Context, docker func(ctx context.Context, stdin []byte, args ...string) (string, error), dir, version string, refs map[string]string) error {
	program := filepath.Join(dir, "standin")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/difyup/difyup/internal/test/engine/cmd/standin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the stand-in: %w: %s", err, out)
	}
	raw, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"bin/", "tmp/", "etc/", "etc/squid/"} {
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "standin", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(raw))}); err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	for _, name := range []string{"curl", "node", "python", "python3", "bash", "try", "storm"} {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "/standin", Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	const base = "difyup-standin/base:latest"
	if _, err := docker(ctx, b.Bytes(), "import", "--change", `ENTRYPOINT ["/standin"]`, "--change", "ENV PATH=/bin STANDIN_VERSION="+version, "-", base); err != nil {
		return err
	}
	for ref, command := range refs {
		text := "FROM " + base + "\n"
		if command != "" {
			text += fmt.Sprintf("CMD [%q]\n", command)
		}
		if _, err := docker(ctx, []byte(text), "build", "--tag", ref, "-"); err != nil {
			return err
		}
	}
	return nil
}

// Serve has a service of the test's answer on an address of the engine's network.
func (e *Engine) Serve(address string, dial func(ctx context.Context) (net.Conn, error)) (stop func(), err error) {
	l, err := e.Listen(address)
	if err != nil {
		return nil, err
	}
	return Relay(l, dial), nil
}

// Signal sends a signal ("KILL") to a process, by the number that it has among the engine's own, which is what docker inspect
// gives.
func (e *Engine) Signal(ctx context.Context, pid, signal string) error {
	dockerd, err := e.first()
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "nsenter", "--target", dockerd, "--pid", "--mount", "--", "kill", "-"+signal, pid).CombinedOutput(); err != nil {
		return fmt.Errorf("send SIG%s to %s: %w: %s", signal, pid, err, out)
	}
	return nil
}

// first gives the number of the engine's first process.
func (e *Engine) first() (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", e.pid, e.pid))
	if err != nil {
		return "", err
	}
	children := strings.Fields(string(raw))
	if len(children) != 1 {
		return "", fmt.Errorf("unshare has the children %v", children)
	}
	return children[0], nil
}
