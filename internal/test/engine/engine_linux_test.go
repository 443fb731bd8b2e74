package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/test/need"
)

// TestEngine runs a container of an image of ours and reaches it, and nothing is left when the engine is closed.
func TestEngine(t *testing.T) {
	engine.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	e, err := engine.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			e.Close()
		}
	}()
	if err := e.Images(ctx, "1.2.3", map[string]string{"difyup-standin/web:1": "web"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Docker(ctx, nil, "run", "--detach", "--name", "web1", "--network", "host", "--pull", "never", "difyup-standin/web:1"); err != nil {
		t.Fatal(err)
	}
	var page string
	for !strings.Contains(page, "1.2.3") {
		if c, err := e.Dial(ctx, "tcp", "127.0.0.1:3000"); err == nil {
			io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			raw, _ := io.ReadAll(c)
			page = string(raw)
			c.Close()
		}
		if ctx.Err() != nil {
			t.Fatalf("the container does not answer: %q", page)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:3000"); err == nil {
		c.Close()
		t.Error("the container is on this machine's own network")
	}
	for probe, good := range map[string]bool{"http://127.0.0.1:3000/": true, "http://127.0.0.1:3000/nothing": false} {
		if _, err := e.Docker(ctx, nil, "exec", "web1", "curl", "-fsS", probe); (err == nil) != good {
			t.Errorf("a health check of %s: %v", probe, err)
		}
	}
	// A small weight of the processor is the engine's own, not that of containers, started before or after.
	group, err := e.Yield()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Docker(ctx, nil, "run", "--detach", "--name", "web2", "--network", "none", "--pull", "never", "difyup-standin/web:1"); err != nil {
		t.Fatal(err)
	}
	if group != "" {
		raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, pid := range strings.Fields(string(raw)) {
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, strings.TrimSpace(string(name)))
		}
		if !slices.Equal(names, []string{"dockerd"}) {
			t.Errorf("in the engine's control group are %v", names)
		}
	} else {
		t.Log("no controller of the processor's can be had: the engine keeps its weight")
	}
	closed = true
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(group); err == nil {
		t.Errorf("%s is left", group)
	}
	// Other tests may have engines of their own.
	dir := filepath.Dir(strings.TrimPrefix(e.Environ[len(e.Environ)-1], "DOCKER_HOST=unix://"))
	if !strings.Contains(dir, "difyup-engine-") {
		t.Fatalf("the engine's directory is %q", dir)
	}
	if out, err := exec.Command("pgrep", "-f", dir+"/exec").Output(); err == nil && len(out) > 0 {
		t.Errorf("processes are left: %s", out)
	}
}

// TestNowhere has a namespace, and one that is joined to another, lead nowhere but to themselves and each other: not to the metadata
// server of the machine that the test runs on, unless the test plays one.
func TestNowhere(t *testing.T) {
	need.Root(t, "a namespace of the test's own needs root")
	if _, err := exec.LookPath("ip"); err != nil {
		need.Missing(t, "there is no ip on this machine; to install: scripts/install-engine")
	}
	inside, outside := namespace(t), namespace(t)
	run := func(n *engine.Namespace, args ...string) (string, error) {
		out, err := n.Command(t.Context(), "ip", args...).CombinedOutput()
		return string(out), err
	}
	has := func(name string, n *engine.Namespace, devices ...string) {
		t.Helper()
		var have []string
		out, err := run(n, "-json", "link", "show")
		var links []struct{ Ifname string }
		if err = errors.Join(err, json.Unmarshal([]byte(out), &links)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, l := range links {
			have = append(have, l.Ifname)
		}
		slices.Sort(have)
		if d := cmp.Diff(devices, have); d != "" {
			t.Errorf("devices of the %s (-want +got):\n%s", name, d)
		}
	}
	closed := func(name string, n *engine.Namespace) {
		t.Helper()
		for _, to := range []string{"169.254.169.254", "8.8.8.8", "fd20:ce::254", "2001:4860:4860::8888"} { // nothing is sent
			if out, err := run(n, "route", "get", to); err == nil || !strings.Contains(out, "unreachable") {
				t.Errorf("the %s has a way to %s: %v %s", name, to, err, out)
			}
		}
	}
	has("namespace", inside, "lo")
	closed("namespace", inside)
	if err := inside.Join(outside, "198.51.100.7/24", "198.51.100.1/24"); err != nil {
		t.Fatal(err)
	}
	// The one has a way to all that there is by the other, which has none.
	has("joined namespace", inside, "lo", "veth0")
	has("other namespace", outside, "lo", "veth0")
	closed("other namespace", outside)
	if out, err := run(inside, "route", "get", "169.254.169.254"); err != nil || !strings.Contains(out, "via 198.51.100.1 dev veth0 ") {
		t.Errorf("the way by the other namespace: %v %s", err, out)
	}
	if raw, err := outside.Command(t.Context(), "cat", "/proc/sys/net/ipv4/ip_forward").Output(); err != nil || string(raw) != "0\n" {
		t.Errorf("the other namespace passes on: %v %s", err, raw)
	}
	if err := outside.Up("lo", "169.254.169.254/32"); err != nil { // the test's own
		t.Fatal(err)
	}
	if out, err := run(outside, "route", "get", "169.254.169.254"); err != nil || !strings.HasPrefix(out, "local 169.254.169.254 dev lo ") {
		t.Errorf("the test's metadata server: %v %s", err, out)
	}
}

func namespace(t *testing.T) *engine.Namespace {
	t.Helper()
	n, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
