package sockets_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/sockets"
	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/test/need"
)

// TestDevice has two containers, each behind a device of its own, ask at an address of a machine: the one that it is for, and
// the other by its own way there.
func TestDevice(t *testing.T) {
	need.Root(t, "a network namespace needs root")
	space := func() *engine.Namespace {
		n, err := engine.NewNamespace()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	machine, first, second := space(), space(), space()
	// The address is listened at before the machine has it.
	at := netip.MustParseAddrPort("198.18.242.1:80")
	var l net.Listener
	err := machine.Do(func() (err error) {
		l, err = sockets.ListenEarly(t.Context(), at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ip := func(in *engine.Namespace, words string) {
		t.Helper()
		if out, err := in.Command(t.Context(), "ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", words, err, out)
		}
	}
	// Namespaces are named to each other by a process in them.
	for _, c := range []struct {
		in           *engine.Namespace
		device, host string
		own, gateway string
	}{{first, "ask-first", "198.18.242.1/28", "198.18.242.2/28", "198.18.242.1"}, {second, "ask-second", "198.18.242.17/28", "198.18.242.18/28", "198.18.242.17"}} {
		holder := c.in.Command(t.Context(), "sleep", "600")
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
		for { // until it is in there, which nsenter does before it becomes the program
			name, err := os.ReadFile("/proc/" + strconv.Itoa(holder.Process.Pid) + "/comm")
			if err == nil && string(name) == "sleep\n" {
				break
			}
		}
		ip(machine, "link add "+c.device+" type veth peer name eth0 netns "+strconv.Itoa(holder.Process.Pid))
		if err := errors.Join(machine.Up(c.device, c.host), c.in.Up("eth0", c.own)); err != nil {
			t.Fatal(err)
		}
		ip(c.in, "route add default via "+c.gateway)
	}
	for _, tc := range []struct {
		who        *engine.Namespace
		from, want string
	}{{first, "198.18.242.2", "ask-first"}, {second, "198.18.242.18", "ask-second"}} {
		c, err := tc.who.DialFrom(t.Context(), tc.from, at.String())
		if err != nil {
			t.Fatal(err)
		}
		taken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var device string
		err = machine.Do(func() (err error) {
			device, err = sockets.Device(taken)
			return err
		})
		if err != nil || device != tc.want {
			t.Errorf("%s comes by %s, %v; want %s", tc.from, device, err, tc.want)
		}
		c.Close()
		taken.Close()
	}
}
