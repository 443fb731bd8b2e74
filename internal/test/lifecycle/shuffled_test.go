//go:build linux

package lifecycle

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/test/need"
)

var (
	boots     = flag.Int("boots", 1, "shuffled boots")
	bootSeed  = flag.Uint64("boot-seed", 1, "of the first shuffled boot; the others have the numbers after it")
	bootDelay = flag.Duration("boot-delay", 4*time.Second, "how late the latest comes; healing may act after 65 s")
)

// TestShuffledBoot boots instances before what they need. Databases and names are not there at first; then packets to them, to
// Redis and to the name server are dropped, and secrets and rights to the bucket refused, until the times that a seed gives. All
// become ready, and healing, which is on, replaces none, though it may after 65 s. Then Redis's packets are dropped again, for as long, and perhaps it is killed meanwhile: the same agents go on, and
// all that Dify does is well again. A boot that fails is repeated by its seed:
//
//	go test ./internal/test/lifecycle -run TestShuffledBoot -boots 1 -boot-seed 17 -boot-delay 90s
//
// It runs itself in a network of its own, for the packets.
func TestShuffledBoot(t *testing.T) {
	need.Long(t, "starts a local cloud")
	const inside = "DIFYUP_TEST_SHUFFLED"
	if os.Getenv(inside) != "" {
		for n := *bootSeed; n < *bootSeed+uint64(*boots); n++ {
			t.Run(fmt.Sprint("seed ", n), func(t *testing.T) { shuffled(t, n) })
		}
		return
	}
	need.Root(t, "a network of the test's own needs root")
	for _, name := range []string{"unshare", "ip", "iptables"} {
		if _, err := exec.LookPath(name); err != nil {
			need.Missing(t, "there is no "+name+" on this machine")
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--", "sh", "-c", `ip link set lo up && exec "$@"`, "sh", self,
		"-test.run", "^TestShuffledBoot$", "-test.v", "-test.timeout", "3h", "-boots", fmt.Sprint(*boots), "-boot-seed", fmt.Sprint(*bootSeed), "-boot-delay", bootDelay.String())
	cmd.Env = append(os.Environ(), inside+"=1", "DIFYUP_TEST_PROGRAMS="+programs)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// killRedis kills the Redis servers in this process's network.
func killRedis(t *testing.T) {
	t.Helper()
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, p := range all {
		name, err := os.ReadFile(p + "/comm")
		network, err2 := os.Readlink(p + "/ns/net")
		pid, err3 := strconv.Atoi(filepath.Base(p))
		if err == nil && err2 == nil && err3 == nil && network == ours && string(name) == "redis-server\n" && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed != 1 {
		t.Errorf("%d Redis servers are killed, not 1", killed)
	}
}

func shuffled(t *testing.T, seed uint64) {
	t.Setenv("DIFYUP_SMOKE_PASSWORD", "0wnerOfEverything")
	r := rand.New(rand.NewPCG(seed, 0))
	s := newStack(t)
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	// Healing leaves a new instance alone for 65 s, and the agent answers for itself after a minute. Load adds no third one.
	text = bytes.Replace(text, []byte("  max: 3\n"), []byte("  max: 2\n  healing_delay_seconds: 65\n"), 1)
	if err := os.WriteFile(s.file, text, 0o644); err != nil || !bytes.Contains(text, []byte("healing_delay")) {
		t.Fatalf("%v\n%s", err, text)
	}
	s.run("local", "up")
	info := s.info()

	// drop begins (-A) or ends (-D) the dropping of packets; of those that instances send, which are not root's.
	drop := func(do string, rules ...string) {
		t.Helper()
		for _, rule := range rules {
			if out, err := exec.Command("iptables", append([]string{"-w", do, "OUTPUT", "-j", "DROP"}, strings.Fields(rule)...)...).CombinedOutput(); err != nil {
				t.Fatalf("iptables: %v\n%s", err, out)
			}
		}
	}
	_, port, ok := strings.Cut(info.DNS, ":")
	if !ok {
		t.Fatalf("the name server is %q", info.DNS)
	}
	const instances = " -m owner ! --uid-owner 0"
	redis, databases, names := "-p tcp --dport 6379"+instances, "-p tcp --dport 5432"+instances, "-p udp --dport "+port+instances
	// refuse has instances be refused by a service, until it is called again.
	refuse := func(service string) func() {
		rule := faults.Rule{Name: service, Surface: faults.API, Caller: "demo-vm@*", Service: service, Rate: 1, Faults: []faults.Fault{{What: faults.Status, Code: http.StatusForbidden}}}
		if _, err := info.AddFault(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
		return func() {
			if _, err := info.ClearFaults(t.Context(), 0, service); err != nil {
				t.Error(err)
			}
		}
	}
	// hold has whoever asks for something wait at first, so that there is nothing yet.
	hold := func(method string) {
		least := time.Duration(r.Int64N(int64(min(*bootDelay, 10*time.Second))))
		rule := faults.Rule{Surface: faults.API, Method: method, Rate: 1, Faults: []faults.Fault{{What: faults.Hold, Least: least + time.Millisecond}}}
		if _, err := info.AddFault(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
	}
	hold("sql.instances.insert")
	hold("dns.resourceRecordSets.create")
	late := func() time.Duration { return time.Duration((0.2 + 0.8*r.Float64()) * float64(*bootDelay)) }
	type event struct {
		at   time.Duration
		what string
		do   func()
	}
	drop("-A", redis, databases, names)
	events := []event{
		{late(), "secrets", refuse("secretmanager")}, {late(), "rights to the bucket", refuse("storage")}, {late(), "Redis", func() { drop("-D", redis) }},
		{late(), "databases", func() { drop("-D", databases) }}, {late(), "names", func() { drop("-D", names) }},
	}
	// One of them is the latest that may be.
	events[r.IntN(len(events))].at = *bootDelay
	slices.SortFunc(events, func(a, b event) int { return int(a.at - b.at) })
	agents := map[string]int{} // the process of each instance's agent
	look := func() {
		t.Helper()
		for _, i := range s.info().Instances {
			pid := agentOf(t, s.dir, i.Name)
			switch was := agents[i.Name]; {
			case pid == 0 && was == 0:
			case was == 0:
				agents[i.Name] = pid
			case was != pid:
				t.Fatalf("the agent of %s was the process %d, and is %d", i.Name, was, pid)
			}
		}
	}
	apply := s.command("apply", "--yes")
	var said bytes.Buffer
	apply.Stdout, apply.Stderr = &said, &said
	began := time.Now()
	if err := apply.Start(); err != nil {
		t.Fatal(err)
	}
	applied := make(chan error, 1)
	go func() { applied <- apply.Wait() }()
	for done := false; !done || len(events) > 0; {
		select {
		case err := <-applied:
			if done = true; err != nil {
				t.Fatalf("apply: %v\n%s", err, said.String())
			}
			if len(events) > 0 {
				t.Fatalf("the instances are ready without %s", events[0].what)
			}
		case <-time.After(100 * time.Millisecond):
		}
		look()
		for len(events) > 0 && time.Since(began) >= events[0].at {
			events[0].do()
			t.Logf("after %s there are %s", events[0].at.Round(time.Millisecond), events[0].what)
			events = events[1:]
		}
	}
	t.Logf("all are ready after %s", time.Since(began).Round(time.Millisecond))
	if len(agents) != 2 {
		t.Errorf("the agents were %v", agents)
	}
	s.run("smoke", "--email", "owner@example.com", "--setup")

	// Now nobody reaches Redis, and it reaches nobody.
	kill := r.IntN(2) == 0
	drop("-A", "-p tcp --dport 6379", "-p tcp --sport 6379")
	for end, killed := time.Now().Add(*bootDelay), !kill; time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		look()
		for _, i := range s.info().Instances {
			resp, err := http.Get("http://" + i.Address + ":1080/alive")
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Errorf("without Redis, %s says %s to whoever heals", i.Name, resp.Status)
			}
		}
		if time.Until(end) < *bootDelay/2 && !killed {
			killed = true
			killRedis(t)
		}
	}
	drop("-D", "-p tcp --dport 6379", "-p tcp --sport 6379")
	back := time.Now()
	for end := back.Add(3 * time.Minute); ; look() {
		smoke := s.command("smoke", "--email", "owner@example.com")
		out, err := smoke.CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("smoke: %v\n%s", err, out)
		}
	}
	look()
	t.Logf("smoke is well %s after Redis is back (killed meanwhile: %t)", time.Since(back).Round(time.Millisecond), kill)
	if len(agents) != 2 {
		t.Errorf("the agents were %v", agents)
	}
	if strings.Contains(s.run("status"), "UNHEALTHY") {
		t.Errorf("the load balancer sees:\n%s", s.run("status"))
	}
}
