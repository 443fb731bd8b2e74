package compose_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/test/need"
)

// nft gives the program of an engine's network.
func nft(e *engine.Engine) []string { return e.Command(context.Background(), "nft").Args }

// paper is an nft whose only table is a file.
func paper(table string) []string {
	return []string{"sh", "-c", `if [ "$1" = -f ]; then exec cat >"$0"; else exec cat "$0"; fi`, table}
}

// TestMain sees to it that no test guards the machine it runs on.
func TestMain(m *testing.M) {
	guarded := func() bool { return exec.Command("nft", "list", "table", "inet", "difyup").Run() == nil } // not without nft, or another user
	before := guarded()
	status := m.Run()
	if !before && guarded() {
		fmt.Fprintln(os.Stderr, "A test has left the guard's table on this machine: `nft delete table inet difyup` takes it away.")
		status = 1
	}
	os.Exit(status)
}

// greet takes connections at an address of a network, and ends them.
func greet(t *testing.T, n *engine.Namespace, at string) {
	t.Helper()
	l, err := n.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Relay(l, func(context.Context) (net.Conn, error) { return nil, io.EOF }))
}

// names answers every question for a name of the private zone, and whatever else comes with itself.
func names(t *testing.T, n *engine.Namespace, at string) {
	t.Helper()
	answers(t, n, at, func(q dnsmessage.Question) []dnsmessage.Resource {
		ip, name := netip.MustParseAddr(storesAt), q.Name.String()
		switch {
		case q.Type != dnsmessage.TypeA:
			return nil
		case name == "metadata.google.internal." || name == "metadata.goog." || name == "metadata.":
			ip = netip.MustParseAddr(metadataAt)
		case !strings.HasSuffix(name, ".internal."):
			return nil
		}
		return []dnsmessage.Resource{address(q, ip, 1)}
	})
}

// address is where a name leads, to be remembered for so many seconds.
func address(q dnsmessage.Question, ip netip.Addr, seconds uint32) dnsmessage.Resource {
	body := dnsmessage.ResourceBody(&dnsmessage.AAAAResource{AAAA: ip.As16()})
	if ip.Is4() {
		body = &dnsmessage.AResource{A: ip.As4()}
	}
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: seconds}, Body: body}
}

// answers is a name server that gives each question what answer does, and whatever else comes itself.
func answers(t *testing.T, n *engine.Namespace, at string, answer func(dnsmessage.Question) []dnsmessage.Resource) {
	t.Helper()
	conn, err := n.ListenPacket(at)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-ended })
	go func() {
		defer close(ended)
		for buf := make([]byte, 1500); ; {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			raw := buf[:size]
			var q dnsmessage.Message
			if q.Unpack(raw) == nil && len(q.Questions) == 1 {
				a := dnsmessage.Message{
					Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions, Answers: answer(q.Questions[0]),
				}
				if raw, err = a.Pack(); err != nil {
					continue
				}
			}
			_, _ = conn.WriteTo(raw, from) // whoever asked may be gone
		}
	}()
}

// running has services run until the function that it gives is called, and waits until all are well.
func running(ctx context.Context, t *testing.T, r runtime.Runtime, all []dify.Service, log *lockedBuffer) (stop func()) {
	t.Helper()
	life, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(life, all) }()
	stop = func() { end(); <-ended }
	for r.Health(ctx) != nil {
		select {
		case err := <-ended:
			end()
			t.Fatalf("it ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			why := r.Health(t.Context())
			stop()
			t.Fatalf("%v\n%s", why, log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return stop
}

// TestGuard has each container, as if it had been taken over, try to reach what is near: the list of docs/security.md. With the
// guard taken away nearly all of it is reached; whoever takes it away finds it there again.
func TestGuard(t *testing.T) {
	e, all, _, out := world(t)
	ctx, cancel := patience(t)
	defer cancel()
	// What peered networks may have, in each of the private ranges.
	private := []string{"10.200.0.9:443", "172.20.0.9:443", "192.168.7.9:443", "100.64.0.9:443"}
	for _, at := range private {
		host, _, _ := strings.Cut(at, ":")
		if err := out.Up("lo", host+"/32"); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range append(private, metadataAt+":80", metadataAt+":443", metadataAt+":53", metadataAt+":8080",
		otherAt+":1080", otherAt+":22", otherAt+":5432", storesAt+":22", internetAt+":443") {
		greet(t, out.Namespace, at)
	}
	for _, at := range []string{metadataAt + ":53", metadataAt + ":123", otherAt + ":53"} {
		names(t, out.Namespace, at)
	}
	for _, port := range []string{"22", "1080", "2375"} {
		greet(t, e.Namespace, "0.0.0.0:"+port)
	}
	names(t, e.Namespace, "0.0.0.0:53")
	// Whoever has another machine of the network may send what it likes to this one's.
	if said, err := out.Command(ctx, "ip", "route", "add", "198.18.240.0/24", "via", instanceAt).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	var log lockedBuffer
	r := compose.New(compose.Options{
		Dir: filepath.Join(t.TempDir(), "compose"), Project: "dify", Environ: e.Environ, Pull: "never", Look: time.Hour, Dial: e.Dial,
		Nft: nft(e), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	identify(t, e, r)
	relay, _ := r.Relay()
	if err := r.Prepare(ctx, all); err != nil {
		t.Fatal(err)
	}
	defer running(ctx, t, r, all, &log)()
	greet(t, e.Namespace, netip.AddrPortFrom(relay, dify.RelayPort).String())

	// What a container tries, and what of that it reaches with the guard.
	const (
		never   = iota // also without the guard
		without        // without the guard alone
		always
	)
	tries := func(n dify.Name) map[string]int {
		may := func(yes bool) int {
			if yes {
				return always
			}
			return without
		}
		m := map[string]int{
			"tcp:[::ffff:" + metadataAt + "]:80": without, "tcp:metadata.google.internal:80": without, "tcp:" + metadataAt + ":80": without,
			"tcp:" + metadataAt + ":8080": without, "udp:" + metadataAt + ":123": without,
			"tcp:metadata.goog:80": without, "tcp:metadata:80": without, "tcp:" + metadataAt + ":443": without,
			"tcp:[fd20:ce::254]:80": never, "tcp:[64:ff9b::a9fe:a9fe]:80": never,
			"tcp:" + metadataAt + ":53": always, "udp:" + metadataAt + ":53": always, "name:db.demo.internal": always,
			"tcp:" + otherAt + ":1080": without, "tcp:" + otherAt + ":22": without, "tcp:" + otherAt + ":5432": without, "udp:" + otherAt + ":53": without,
			"tcp:" + storesAt + ":22":     without,
			"tcp:" + instanceAt + ":1080": without, "tcp:" + instanceAt + ":22": without, "tcp:198.18.240.1:1080": without, "udp:198.18.240.1:53": without,
			"tcp:" + internetAt + ":443":              always,
			"tcp:" + storesAt + ":5432":               may(n == dify.API || n == dify.Worker || n == dify.WorkerBeat || n == dify.PluginDaemon),
			"tcp:" + storesAt + ":6379":               may(n == dify.API || n == dify.Worker || n == dify.PluginDaemon),
			"tcp:" + relay.String() + ":16379":        may(n == dify.WorkerBeat),
			"unix:/var/run/docker.sock":               never,
			"unix:/run/docker.sock":                   never,
			"raw:":                                    never, // from another's address, or listening to others
			"tcp:127.0.0.1:1080":                      never,
			"tcp:[::1]:1080":                          never,
			"tcp:" + string(dify.SSRFProxy) + ":3128": always,
		}
		for _, at := range private {
			m["tcp:"+at] = without
		}
		for network, subnet := range dify.Subnets() { // the machine has an address in each of the containers' networks
			if at := netip.MustParsePrefix(subnet).Addr().Next().String(); network != "docker0" {
				m["tcp:"+at+":22"], m["tcp:"+at+":2375"] = without, without
			}
		}
		for _, of := range all {
			if at, _ := r.Identity(of.Name); at.IsValid() {
				m["tcp:"+at.String()] = may(of.Name == n)
			}
		}
		if n == dify.Sandbox { // whose networks are others than everybody's
			m["tcp:"+internetAt+":443"] = without
			delete(m, "udp:198.18.240.1:53") // an answer would come from the machine's address in a network of the sandbox's
			m["udp:198.18.241.1:53"], m["udp:198.18.242.65:53"] = without, without
			m["tcp:198.18.240.130:5001"] = never // the API's container, to which Docker leads nobody from another network
		}
		return m
	}
	// look has every container try everything, and compares.
	look := func(guarded bool) {
		t.Helper()
		for _, s := range all {
			want, got, ways := map[string]bool{}, map[string]bool{}, []string{"exec", "dify-" + string(s.Name) + "-1", "try"}
			for way, what := range tries(s.Name) {
				want[way] = what == always || what == without && !guarded
				ways = append(ways, way)
			}
			if len(want) < 40 {
				t.Errorf("%s tries %d ways", s.Name, len(want))
			}
			began := time.Now()
			said, err := e.Docker(ctx, nil, ways...)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(said) {
				for way := range want {
					if strings.HasPrefix(line, way+": ") {
						got[way] = strings.HasSuffix(line, ": reached\n")
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, guarded %t (-want +got):\n%s\n%s", s.Name, guarded, d, said)
			}
			t.Logf("%s, guarded %t: %d tries in %s", s.Name, guarded, len(want), time.Since(began).Round(time.Millisecond))
		}
		// Of a port that is not published, this is Docker's word as well as the guard's.
		dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c, err := out.Dial(dialing, "tcp", "198.18.240.130:5001")
		if err == nil {
			c.Close()
		}
		if err == nil {
			t.Errorf("another machine comes to the API's container, guarded %t: %v", guarded, err)
		}
	}
	look(true)
	gone := func() {
		t.Helper()
		if said, err := e.Command(ctx, "nft", "delete", "table", "inet", "difyup").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	gone()
	look(false)
	if err := r.Prepare(ctx, all); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "somebody removed the rules"); n != 1 {
		t.Errorf("that the rules were gone is said %d times:\n%s", n, log.String())
	}
	look(true)
}

// TestGuardRules has the rules judge packets without an engine: by the address that they come from, and in a connection that was there
// before the rules.
func TestGuardRules(t *testing.T) {
	need.Root(t, "network namespaces need root")
	need.Missing(t, engine.Missing())
	var all [3]*engine.Namespace
	for i := range all {
		n, err := engine.NewNamespace()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		all[i] = n
	}
	containers, machine, out := all[0], all[1], all[2]
	const apiAt, anotherAt = "198.18.240.130", "198.18.240.5"
	script := func(n *engine.Namespace, text string) {
		t.Helper()
		if said, err := n.Command(t.Context(), "sh", "-ec", text).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	load := func(text string) {
		t.Helper()
		cmd := machine.Command(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	if err := errors.Join(containers.Join(machine, apiAt+"/24", "198.18.240.1/24"), containers.Up("veth0", anotherAt+"/24")); err != nil {
		t.Fatal(err)
	}
	script(machine, "ip link set veth0 down; ip link set veth0 name difyup-outward up; echo 1 >/proc/sys/net/ipv4/ip_forward")
	if err := errors.Join(machine.Join(out, instanceAt+"/24", "10.64.0.1/24"), out.Up("lo", storesAt+"/32", otherAt+"/32")); err != nil {
		t.Fatal(err)
	}
	load("table ip nat { chain post { type nat hook postrouting priority srcnat; oifname veth0 masquerade; }; }") // as Docker does
	for _, at := range []string{storesAt + ":5432", otherAt + ":1080"} {
		l, err := out.Listen(at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(engine.Relay(l, func(context.Context) (net.Conn, error) { // echoes
			near, far := net.Pipe()
			go func() { defer far.Close(); _, _ = io.Copy(far, far) }() // until either ends
			return near, nil
		}))
	}
	ask := func(c net.Conn) error {
		err := c.SetDeadline(time.Now().Add(10 * time.Second))
		if err == nil {
			_, err = c.Write([]byte("?"))
		}
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return err
	}
	reaches := func(from, to string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := containers.DialFrom(ctx, from, to)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			err = ask(c)
		}
		return c, err
	}
	early, err := reaches(anotherAt, otherAt+":1080")
	if err != nil {
		t.Fatalf("without the rules: %v", err)
	}
	s, secrets := settings("the-secret")
	at := map[string][]netip.Addr{"db.demo.internal": {netip.MustParseAddr(storesAt)}}
	load(compose.Guard(services(t, dify.Default, s, secrets), at))
	if err := ask(early); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was there before the rules: %v", err)
	}
	for _, of := range []struct {
		from, to string
		want     error
	}{
		{apiAt, storesAt + ":5432", nil},
		{anotherAt, storesAt + ":5432", syscall.ECONNREFUSED},
		{apiAt, otherAt + ":1080", syscall.ECONNREFUSED},
	} {
		if _, err := reaches(of.from, of.to); !errors.Is(err, of.want) {
			t.Errorf("from %s to %s: %v, want %v", of.from, of.to, err, of.want)
		}
	}
	kept, err := reaches(apiAt, storesAt+":5432")
	if err != nil {
		t.Fatal(err)
	}
	at["vector.demo.internal"] = []netip.Addr{netip.MustParseAddr("10.65.0.4")}
	load(compose.Guard(services(t, dify.Default, s, secrets), at))
	if err := ask(kept); err != nil {
		t.Errorf("a connection to a store, when another store moves: %v", err)
	}
}

// TestGuardIsOurs has somebody else change the rules in the moment after they were written: what is on the machine is still the guard,
// and who changes them each time is told on.
func TestGuardIsOurs(t *testing.T) {
	need.Root(t, "network namespaces need root")
	need.Missing(t, engine.Missing())
	rules := func(t *testing.T, times int, change string) (string, error) {
		t.Helper()
		n, err := engine.NewNamespace()
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		// After each of the first times that rules are written, they are changed.
		const meddles = `nft "$@" || exit
			if [ "$1" = -f ] && [ "$(wc -l <"$WRITTEN")" -lt "$TIMES" ]; then echo >>"$WRITTEN"; eval "nft $CHANGE"; fi`
		written := filepath.Join(t.TempDir(), "written")
		if err := os.WriteFile(written, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		set := []string{"env", "WRITTEN=" + written, "TIMES=" + strconv.Itoa(times), "CHANGE=" + change, "sh", "-c", meddles, "nft"}
		r := compose.New(compose.Options{
			Dir: t.TempDir(), Project: "dify", Docker: "difyup-no-such-docker", Nft: n.Command(t.Context(), set[0], set[1:]...).Args,
			Log: slog.New(slog.DiscardHandler),
		})
		_, err = r.Job(t.Context(), runtime.Job{})                                                         // ends with the engine that is not there, if not before
		out, _ := n.Command(t.Context(), "nft", "--stateless", "list", "table", "inet", "difyup").Output() // nothing, if it is not there
		return string(out), err
	}
	want, err := rules(t, 0, "list tables")
	if err == nil || strings.Contains(err.Error(), "what containers may reach") || want == "" {
		t.Fatalf("undisturbed: %v\n%s", err, want)
	}
	for _, change := range []string{`insert rule inet difyup input tcp dport $(wc -l <"$WRITTEN") accept`, "delete table inet difyup"} {
		if got, err := rules(t, 1, change); got != want {
			t.Errorf("after %q: %v (-want +got)\n%s", change, err, cmp.Diff(want, got))
		}
		if _, err := rules(t, 1000, change); err == nil || !strings.Contains(err.Error(), "somebody keeps changing") {
			t.Errorf("with %q each time: %v", change, err)
		}
	}
}

type lookup func(context.Context, string) ([]netip.Addr, error)

// guarded begins an agent on a machine without an engine, which has no other table than in a file, and gives that and what ends its Prepare.
func guarded(t *testing.T, dir string, look lookup, all []dify.Service) (table string, err error) {
	t.Helper()
	table = filepath.Join(dir, "table")
	err = compose.New(compose.Options{
		Dir: dir, Project: "dify", Docker: "difyup-no-such-docker", Lookup: look, Log: slog.New(slog.DiscardHandler),
		Nft: paper(table),
	}).Prepare(t.Context(), all)
	if err == nil {
		t.Fatal("it is prepared without an engine")
	}
	return table, err
}

// TestGuardOnFullDisk has an agent begin again on a machine whose disk takes nothing more: what is in the file already need not be
// written, and what is not is an error.
func TestGuardOnFullDisk(t *testing.T) {
	s, secrets := settings("the-secret")
	all := services(t, dify.Default, s, secrets)
	at := func(a string) lookup {
		return func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(a)}, nil }
	}
	dir := t.TempDir()
	for _, life := range []struct{ at, want string }{
		{storesAt, "there is no program difyup-no-such-docker"}, {storesAt, "there is no program difyup-no-such-docker"},
		{otherAt, "keep the rules for what containers may reach on the disk"},
	} {
		if _, err := guarded(t, dir, at(life.at), all); !strings.Contains(err.Error(), life.want) {
			t.Errorf("with stores at %s: %v, want %s", life.at, err, life.want)
		}
		if err := os.MkdirAll(filepath.Join(dir, compose.GuardFile+".next"), 0o700); err != nil { // in the place of the new file
			t.Fatal(err)
		}
	}
}

// TestGuardHangs has the name of one store not be answered for: containers reach all others from the first, and, when an agent begins
// again, also where that one was.
func TestGuardHangs(t *testing.T) {
	s, secrets := settings("the-secret")
	all := services(t, dify.Default, s, secrets)
	at := map[string]netip.Addr{
		"db.demo.internal": netip.MustParseAddr(storesAt), "vector.demo.internal": netip.MustParseAddr("10.65.0.4"), "redis.demo.internal": netip.MustParseAddr("10.65.0.2"),
	}
	answers := func(ctx context.Context, host string) ([]netip.Addr, error) { return []netip.Addr{at[host]}, ctx.Err() }
	without := func(hangs string) lookup {
		return func(ctx context.Context, host string) ([]netip.Addr, error) {
			if host == hangs {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return answers(ctx, host)
		}
	}
	fails := func(context.Context, string) ([]netip.Addr, error) {
		return nil, errors.New("the name server does not answer")
	}
	// reached begins an agent anew, and gives the stores that its first table lets containers through to.
	reached := func(t *testing.T, dir string, look lookup) map[string]bool {
		t.Helper()
		table, err := guarded(t, dir, look, all)
		if !strings.Contains(err.Error(), "there is no program difyup-no-such-docker") {
			t.Fatal(err)
		}
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for host, a := range at {
			got[host] = strings.Contains(string(text), " . "+a.String()+" . ")
		}
		return got
	}
	synctest.Test(t, func(t *testing.T) {
		for hangs := range at {
			for range 3 { // in whichever order names are looked up
				dir := t.TempDir()
				want := map[string]bool{}
				for host := range at {
					want[host] = host != hangs
				}
				for _, life := range []struct {
					what   string
					lookup lookup
				}{{"from the first", without(hangs)}, {"when it is answered for", answers}, {"when it hangs after that", without(hangs)}, {"when all fail", fails}} {
					if d := cmp.Diff(want, reached(t, dir, life.lookup)); d != "" {
						t.Errorf("%s hangs, %s (-want +got):\n%s", hangs, life.what, d)
					}
					want[hangs] = true
				}
			}
		}
	})
}

// TestWithoutNft has no service start on a machine that cannot guard.
func TestWithoutNft(t *testing.T) {
	r := compose.New(compose.Options{Dir: t.TempDir(), Project: "dify", Docker: "difyup-no-such-docker", Nft: []string{"difyup-no-such-nft"}, Log: slog.New(slog.DiscardHandler)})
	for what, err := range map[string]error{"prepares": r.Prepare(t.Context(), nil), "runs": r.Run(t.Context(), nil)} {
		if err == nil || !strings.Contains(err.Error(), "there is no program difyup-no-such-nft on this machine") {
			t.Errorf("without nft it %s: %v", what, err)
		}
	}
	if _, err := r.Job(t.Context(), runtime.Job{}); err == nil || !strings.Contains(err.Error(), "difyup-no-such-nft") {
		t.Errorf("without nft a job ends with %v", err)
	}
}

// keeps has somebody remove and change the rules, and a store move, while services run.
func keeps(ctx context.Context, t *testing.T, e *engine.Engine, log *lockedBuffer, move func(error, ...string)) {
	t.Helper()
	list := func() string {
		out, err := e.Command(ctx, "nft", "--stateless", "list", "table", "inet", "difyup").Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	// until waits for a table that is as it has to be.
	until := func(what string, right func(string) bool) {
		t.Helper()
		for !right(list()) {
			select {
			case <-ctx.Done():
				t.Fatalf("%s: the rules are\n%s\n%s", what, list(), log.String())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	moved := func(now string) bool { return strings.Contains(now, "198.18.240.130 . 10.65.0.77 . 5432") }
	if strings.Contains(log.String(), "somebody") || moved(list()) {
		t.Errorf("nobody changed anything:\n%s\n%s", log.String(), list())
	}
	move(nil, storesAt, "10.65.0.77")
	until("a store moved", moved)
	move(errors.New("the name server does not answer"))
	if strings.Contains(log.String(), "somebody") {
		t.Errorf("our own change is said to be somebody's:\n%s", log.String())
	}
	want := list()
	for what, change := range map[string][]string{
		"removed": {"delete", "table", "inet", "difyup"}, "changed": {"insert", "rule", "inet", "difyup", "input", "accept"},
	} {
		var last time.Time
		until(what, func(now string) bool {
			if now == want && strings.Contains(log.String(), "somebody "+what+" the rules") {
				return true
			}
			// What falls into the moment in which the rules are written is undone, and nobody notices.
			if now == want && time.Since(last) > 5*time.Second {
				if said, err := e.Command(ctx, "nft", change...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, said)
				}
				last = time.Now()
			}
			return false
		})
	}
}
