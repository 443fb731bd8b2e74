package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Namespace is a network with a loopback and nothing else.
type Namespace struct{ file *os.File }

// NewNamespace makes a namespace, which takes root. It ends when it is closed and nothing runs in it any more.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := alone(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a network namespace: %w", err)
		}
		n.file = os.NewFile(uintptr(fd), "network namespace")
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := n.Up("lo"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close gives up the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Up brings a device up, with addresses if any are given: "198.51.100.7/32".
func (n *Namespace) Up(device string, addresses ...string) error {
	commands := [][]string{{"link", "set", device, "up"}}
	for _, a := range addresses {
		commands = append(commands, []string{"address", "add", a, "dev", device})
	}
	for _, args := range commands {
		if out, err := n.Command(context.Background(), "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// Join gives a namespace a device, veth0, whose other end is outside's, with their addresses on it ("10.64.0.7/24"), and a way by it to
// all that there is. Nothing leads to either from this machine's network.
func (n *Namespace) Join(outside *Namespace, here, there string) error {
	of := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), outside.file.Fd())
	if out, err := n.Command(context.Background(), "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", of).CombinedOutput(); err != nil {
		return fmt.Errorf("join two namespaces: %w: %s", err, out)
	}
	if err := errors.Join(n.Up("veth0", here), outside.Up("veth0", there)); err != nil {
		return err
	}
	gate, _, _ := strings.Cut(there, "/")
	if out, err := n.Command(context.Background(), "ip", "route", "add", "default", "via", gate).CombinedOutput(); err != nil {
		return fmt.Errorf("join two namespaces: %w: %s", err, out)
	}
	return nil
}

// alone runs f on a thread of its own, which then ends, and with it what f did to it.
func alone(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		done <- f()
	}()
	return <-done
}

// Do runs f in the namespace.
func (n *Namespace) Do(f func() error) error {
	return alone(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Command is exec.CommandContext for a program that runs in the namespace.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	into := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
	return exec.CommandContext(ctx, "nsenter", append([]string{into, "--", name}, args...)...)
}

// Dial connects to an address of the namespace, which must be a number.
func (n *Namespace) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens on an address of the namespace.
func (n *Namespace) Listen(address string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// ListenPacket is Listen for UDP.
func (n *Namespace) ListenPacket(address string) (c net.PacketConn, err error) {
	err = n.Do(func() error {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	return c, err
}

// Relay passes on what comes to a listener, until the listener is closed. The function that it gives closes it, and all that
// it passes on.
func Relay(l net.Listener, dial func(ctx context.Context) (net.Conn, error)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	pass := func(in net.Conn) {
		defer in.Close()
		out, err := dial(ctx)
		if err != nil {
			return
		}
		defer out.Close()
		end := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
		defer end()
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			both.Go(func() {
				_, _ = io.Copy(way[0], way[1]) // the end of one side is passed on
				if c, ok := way[0].(*net.TCPConn); ok {
					_ = c.CloseWrite()
				}
			})
		}
		both.Wait()
	}
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { pass(in) })
		}
	})
	return func() { cancel(); l.Close(); all.Wait() }
}

// DialFrom is Dial from an address of the namespace.
func (n *Namespace) DialFrom(ctx context.Context, from, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}
