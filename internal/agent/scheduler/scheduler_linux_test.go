package scheduler

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/test/servers"
)

var (
	rounds = flag.Int("rounds", 12, "rounds of kills, freezes and losses")
	seed   = flag.Uint64("seed", 1, "of the first round; the others have the numbers after it")
)

const password = "0123456789abcdef"

// world is a Redis server, and what arrived there from beats.
type world struct {
	t     *testing.T
	at    string
	redis *redis.Client
	tls   *tls.Config // nil = the server does not encrypt
	relay *tls.Config

	mu       sync.Mutex
	arrivals []arrival
	broken   []string // what must not be
}

// arrival is a task as Redis got it.
type arrival struct {
	holder     string // the instance, with how often it was started
	connection string // of beat's; each leads through one connection of the relay's
	lease      string // which was in Redis at that moment
}

func (a arrival) String() string {
	return fmt.Sprintf("%s by connection %s, while the lease is %q", a.holder, a.connection, a.lease)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	data := servers.Open(t)
	at, err := data.Cache.Create(t.Context(), "p/redis", password, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, at: netip.AddrPortFrom(at, 6379).String()}
	w.begin()
	return w
}

// begin looks at what arrives, until the test ends.
func (w *world) begin() {
	w.redis = redis.NewClient(w.options())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.collect(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended; w.redis.Close() })
}

func (w *world) options() *redis.Options {
	return &redis.Options{Addr: w.at, Password: password, DB: 1, MaxRetries: -1, TLSConfig: w.tls}
}

var popScript = redis.NewScript(`local all = redis.call('LRANGE', 'arrivals', 0, -1); redis.call('DEL', 'arrivals'); return all`)

// collect looks at what arrives: what is in Redis is lost when it starts again.
func (w *world) collect(ctx context.Context) {
	current := ""               // the holder of whom something arrived last
	dead := map[string]bool{}   // connections of those before
	ours := map[string]bool{}   // connections of the current one
	opened := map[string]bool{} // leases under which something of their holders has arrived
	for ctx.Err() == nil {
		got, err := popScript.Run(ctx, w.redis, nil).StringSlice()
		w.mu.Lock()
		for _, text := range got {
			fields := strings.SplitN(text, "|", 3)
			a := arrival{fields[0], fields[1], fields[2]}
			w.arrivals = append(w.arrivals, a)
			if dead[a.connection] {
				w.broken = append(w.broken, "after others were at it: "+a.String())
				continue
			}
			if a.holder != current {
				for c := range ours {
					dead[c] = true
				}
				clear(ours)
				current = a.holder
			}
			ours[a.connection] = true
			if instanceOf(a.lease) == a.holder {
				opened[a.lease] = true
			} else if opened[a.lease] {
				w.broken = append(w.broken, "under another one's lease: "+a.String())
			}
		}
		w.mu.Unlock()
		if err != nil || len(got) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// seen gives what arrived since the n-th.
func (w *world) seen(n int) []arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.arrivals[min(n, len(w.arrivals)):])
}

func (w *world) check(format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.broken {
		w.t.Errorf("%s: %s", fmt.Sprintf(format, args...), text)
	}
	w.broken = nil
}

// until waits until something arrives after the n-th arrival that is wanted.
func (w *world) until(what string, n int, want func(arrival) bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !slices.ContainsFunc(w.seen(n), want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: nothing of it after %d arrivals", what, len(w.seen(0)))
		}
	}
}

// wait waits until something is so.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happens that %s", what)
		}
	}
}

// gate holds who comes by while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // nil = it is open
	held atomic.Int32
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open != nil {
		g.held.Add(1)
		<-open
		g.held.Add(-1)
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = make(chan struct{})
	}
}

func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

// instance is an agent with its beat. Freezing the agent holds it wherever it is about to do something that counts, also between
// its last look at the clock and its writing.
type instance struct {
	w           *world
	name        string
	agent, beat gate
	renewals    gate
	ahead       atomic.Int64 // of its clock since boot
	crashed     atomic.Bool
	says        atomic.Value // where it says that the scheduler runs
	writes      atomic.Int32 // of its relay to Redis
	relay       net.Listener
	cancel      context.CancelFunc
	leave       context.CancelFunc // ends beat alone
	ended       sync.WaitGroup
}

// timing is how long a lease is.
type timing struct{ lease, every, margin, idle time.Duration }

// Short, so that much happens in a round; on a busy machine leases are lost more often, which must be as safe.
var short = timing{lease: 400 * time.Millisecond, every: 60 * time.Millisecond, margin: 80 * time.Millisecond}

func (w *world) start(name string, by timing) *instance {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	i := &instance{w: w, name: name, relay: l}
	i.says.Store("")
	began := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	i.cancel = cancel
	i.ended.Go(func() {
		err := Run(ctx, Options{
			Instance: name, Redis: w.options(), TLS: w.relay, Say: func(at string) { i.says.Store(at) }, Log: slog.New(slog.DiscardHandler), Lease: by.lease, Every: by.every, Margin: by.margin, Idle: by.idle,
			Boot: func() time.Duration { return time.Since(began) + time.Duration(i.ahead.Load()) },
			hold: func(place string) {
				i.agent.pass()
				if place == "write" {
					i.writes.Add(1)
				}
				if place == "renew" {
					i.renewals.pass()
				}
			},
			listen: func() (net.Listener, error) { return l, nil }, crashed: i.crashed.Load,
		})
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	})
	beating, leave := context.WithCancel(ctx)
	i.leave = leave
	i.ended.Go(func() { i.schedule(beating) })
	return i
}

// stop ends it; without giving the lease up, if it crashes.
func (i *instance) stop(crash bool) {
	i.crashed.Store(crash)
	i.cancel()
	for _, g := range []*gate{&i.agent, &i.beat, &i.renewals} {
		g.lift()
	}
	i.ended.Wait()
}

const enqueue = `redis.call('RPUSH', 'arrivals', ARGV[1] .. '|' .. ARGV[2] .. '|' .. (redis.call('GET', 'difyup:scheduler') or '')) return 1`

// schedule plays beat: it enqueues tasks and, when that does not work, connects anew.
func (i *instance) schedule(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		c, err := net.Dial("tcp", i.relay.Addr().String())
		if err != nil {
			return // the relay has ended
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		r := bufio.NewReader(c)
		do := func(words ...string) error {
			text := fmt.Sprintf("*%d\r\n", len(words))
			for _, w := range words {
				text += fmt.Sprintf("$%d\r\n%s\r\n", len(w), w)
			}
			if _, err := c.Write([]byte(text)); err != nil {
				return err
			}
			line, err := r.ReadString('\n')
			if err == nil && strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "-LOADING") {
				i.w.t.Errorf("%s: %s", i.name, line)
			}
			return err
		}
		err = errors.Join(do("AUTH", password), do("SELECT", "1"))
		for err == nil {
			i.beat.pass()
			err = do("EVAL", enqueue, "0", i.name, fmt.Sprintf("%s/%d", i.name, n))
			time.Sleep(3 * time.Millisecond)
		}
		stop()
		c.Close()
		time.Sleep(3 * time.Millisecond)
	}
}

// TestFrozen holds an agent between its look at the clock and its writing, until another one has taken over.
func TestFrozen(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", short)
	defer a.stop(false)
	w.until("the first", 0, func(x arrival) bool { return x.holder == "a" })
	b := w.start("b", short)
	defer b.stop(false)
	a.agent.shut()
	wait(t, "the writing and the renewal are held", func() bool { return a.agent.held.Load() >= 2 })
	n := len(w.seen(0))
	w.until("the second takes over", n, func(x arrival) bool { return x.holder == "b" })
	n = len(w.seen(0))
	a.agent.lift()
	for len(w.seen(n)) < 50 {
		w.until("the second goes on", len(w.seen(0)), func(arrival) bool { return true })
	}
	for _, x := range w.seen(n) {
		if x.holder != "b" {
			t.Errorf("the one that woke: %s", x)
		}
	}
	w.check("frozen")
}

// TestClock lets the lease end without a renewal: nothing is sent from the margin on, by the clock that goes on while the machine
// is suspended, whatever Redis's says.
func TestClock(t *testing.T) {
	w := newWorld(t)
	by := timing{lease: 3 * time.Second, every: 200 * time.Millisecond, margin: 1500 * time.Millisecond}
	a := w.start("a", by)
	defer a.stop(false)
	held := func(what string, g *gate) {
		t.Helper()
		wait(t, what+" is held", func() bool { return g.held.Load() > 0 })
	}
	barrier := func() {
		t.Helper()
		n := len(w.seen(0))
		if err := w.redis.RPush(t.Context(), "arrivals", "barrier||").Err(); err != nil {
			t.Fatal(err)
		}
		w.until("the barrier", n, func(x arrival) bool { return x.holder == "barrier" })
	}

	w.until("the first task", 0, func(arrival) bool { return true })
	a.renewals.shut()
	held("the renewal", &a.renewals)
	wait(t, "the lease ends", func() bool { return w.redis.Exists(t.Context(), leaseKey).Val() == 0 })
	for _, x := range w.seen(0) {
		if x.lease == "" {
			t.Errorf("after the lease ended in Redis: %s", x)
		}
	}
	barrier()
	n := len(w.seen(0))
	time.Sleep(100 * time.Millisecond)
	if late := w.seen(n); len(late) > 0 {
		t.Errorf("after the lease ended in Redis: %s", late)
	}
	a.renewals.lift()

	w.until("a task after a renewal", n, func(arrival) bool { return true })
	a.beat.shut()
	held("beat", &a.beat) // and nothing is on its way
	a.renewals.shut()
	held("the renewal", &a.renewals)
	barrier()
	n = len(w.seen(0))
	a.ahead.Add(int64(by.lease))
	a.beat.lift()
	time.Sleep(100 * time.Millisecond)
	if late := w.seen(n); len(late) > 0 {
		t.Errorf("after a suspension: %s", late)
	}
	if w.redis.Exists(t.Context(), leaseKey).Val() == 0 {
		t.Log("the lease has ended in Redis as well: this machine is too slow for this to say more than the first half")
	}
}

// TestHandOver ends the holder of a lease that lasts long: the next one need not wait for its end. Who has no beat does not
// take it, and does not keep it.
func TestHandOver(t *testing.T) {
	w := newWorld(t)
	if err := w.redis.SAdd(t.Context(), openKey, nobody).Err(); err != nil { // as in a stack that has run before
		t.Fatal(err)
	}
	// Every is also how long Redis may take: what is not answered in time may be done all the same, and a lease that nobody knows to have lasts.
	by := timing{lease: time.Hour, every: time.Second, margin: time.Second, idle: 100 * time.Millisecond}
	a := w.start("a", by)
	w.until("the first", 0, func(x arrival) bool { return x.holder == "a" })
	b, c := w.start("b", by), w.start("c", by)
	defer b.stop(false)
	c.leave()
	defer c.stop(false)
	wait(t, "all know where it runs", func() bool { return a.says.Load() == "a" && b.says.Load() == "a" && c.says.Load() == "a" })
	a.stop(false)
	w.until("the second", 0, func(x arrival) bool { return x.holder == "b" })
	wait(t, "all know where it runs now", func() bool { return b.says.Load() == "b" && c.says.Load() == "b" })
	b.leave()
	wait(t, "it runs nowhere", func() bool {
		return b.says.Load() == "" && c.says.Load() == "" && w.redis.Exists(t.Context(), leaseKey).Val() == 0
	})
	for range 20 {
		if lease := w.redis.Get(t.Context(), leaseKey).Val(); lease != "" {
			t.Errorf("%q is taken without a beat", lease)
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.check("handed over")
}

// TestEncrypted has a Redis that takes TLS alone. Beat's way there is the relay's, which verifies the authority; the lease is
// handed over at once, since Redis sees the relay's addresses.
func TestEncrypted(t *testing.T) {
	data := servers.Open(t)
	at, err := data.Cache.CreateEncrypted(t.Context(), "p/redis", password, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.Cache.CreateEncrypted(t.Context(), "p/other", password, nil); err != nil {
		t.Fatal(err)
	}
	trust := func(name string) *tls.Config {
		all, err := data.Cache.Authorities(name)
		if err != nil || len(all) != 1 {
			t.Fatalf("authorities of %s: %v, %v", name, all, err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(all[0].PEM))
		return stores.TLS(func() *x509.CertPool { return pool })
	}
	w := &world{t: t, at: netip.AddrPortFrom(at, 6378).String(), tls: trust("p/redis"), relay: trust("p/other")}
	w.begin()
	if err := w.redis.SAdd(t.Context(), openKey, nobody).Err(); err != nil {
		t.Fatal(err)
	}
	by := timing{lease: time.Hour, every: time.Second, margin: time.Second, idle: time.Hour} // as in TestHandOver
	astray := w.start("astray", by)
	// A handshake is two writes at most, so that some have failed.
	wait(t, "the relay connects again and again", func() bool { return astray.writes.Load() > 6 })
	astray.stop(false)
	if got := w.seen(0); len(got) > 0 {
		t.Errorf("through a server that the relay does not trust %d tasks arrive", len(got))
	}
	w.relay = w.tls
	a := w.start("a", by)
	w.until("the first", 0, func(x arrival) bool { return x.holder == "a" })
	b := w.start("b", by)
	defer b.stop(false)
	a.stop(false)
	w.until("the second", 0, func(x arrival) bool { return x.holder == "b" })
	w.check("encrypted")
}

// TestBeatThatDoesNotRead has a beat ask for much and read nothing of it, so that its relay is held while it writes. When the lease
// is lost, it ends all the same, and the scheduler is not said to run here any more.
func TestBeatThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	if err := w.redis.SAdd(t.Context(), openKey, nobody).Err(); err != nil {
		t.Fatal(err)
	}
	if err := w.redis.Set(t.Context(), "long", strings.Repeat("x", 100<<10), 0).Err(); err != nil {
		t.Fatal(err)
	}
	a := w.start("a", timing{lease: time.Hour, every: time.Second, margin: time.Second, idle: time.Hour})
	defer a.stop(false)
	a.leave()
	beat, err := net.Dial("tcp", a.relay.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer beat.Close()
	if _, err := io.WriteString(beat, "AUTH "+password+"\r\nSELECT 1\r\n"+strings.Repeat("GET long\r\n", 1000)); err != nil {
		t.Fatal(err)
	}
	held := "" // what waits in Redis, which gets no less
	wait(t, "the relay is held", func() bool {
		time.Sleep(100 * time.Millisecond)
		before := held
		for client := range strings.Lines(w.redis.ClientList(t.Context()).Val()) {
			if strings.Contains(client, " cmd=get ") && !strings.Contains(client, " omem=0 ") {
				_, held, _ = strings.Cut(client, " omem=")
				held, _, _ = strings.Cut(held, " ")
			}
		}
		return held != "" && held == before && a.says.Load() == "a"
	})
	if err := w.redis.Del(t.Context(), leaseKey).Err(); err != nil {
		t.Fatal(err)
	}
	wait(t, "it runs nowhere", func() bool { return a.says.Load() == "" })
}

// TestBehindProxy has something between Redis and the instances, so that Redis does not see their addresses. Its closing of
// earlier connections is not believed then, and the lease's length is waited for.
func TestBehindProxy(t *testing.T) {
	w := newWorld(t)
	if err := w.redis.SAdd(t.Context(), openKey, nobody).Err(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", w.at)
			if err != nil {
				t.Error(err)
				return
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_, _ = near.Close(), far.Close()
				})
			}
		}
	})
	behind := &world{t: t, at: l.Addr().String()}
	by := timing{lease: 2 * time.Second, every: 50 * time.Millisecond, margin: 100 * time.Millisecond}
	began := time.Now()
	a := behind.start("a", by)
	w.until("the first", 0, func(x arrival) bool { return x.holder == "a" })
	if took := time.Since(began); took < by.lease {
		t.Errorf("it is at work after %s, and a lease of before may last %s", took, by.lease)
	}
	a.stop(false)
	_ = l.Close()
	all.Wait()
}

// TestStrangers has somebody connect whose address is not beat's, and many who are.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	run := func(peers string) (string, func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, Options{
				Instance: "a", Redis: w.options(), Say: func(string) {}, Log: slog.New(slog.DiscardHandler), Peers: netip.MustParsePrefix(peers),
				listen: func() (net.Listener, error) { return l, nil },
			})
		}()
		return l.Addr().String(), func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	refused := func(at string, within time.Duration) bool {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	at, stop := run("127.0.0.2/32")
	if !refused(at, time.Minute) {
		t.Error("a stranger is taken for beat")
	}
	stop()
	at, stop = run("127.0.0.1/32")
	defer stop()
	for n := range mostConnections {
		if refused(at, 20*time.Millisecond) {
			t.Fatalf("connection %d of beat's is refused", n)
		}
	}
	if !refused(at, time.Minute) {
		t.Error("one more is not refused")
	}
}

// TestOneScheduler has 1, 2 and 5 instances killed, ended, frozen and started again, and Redis lose the lease, everything, and
// itself, as a seed has it. Whatever happens, what arrives in Redis is of one scheduler at a time, and tasks arrive again in the
// end. A round that fails is repeated by its seed:
//
//	go test ./internal/agent/scheduler -run TestOneScheduler -rounds 1 -seed 17
func TestOneScheduler(t *testing.T) {
	w := newWorld(t)
	changes := 0
	for n := *seed; n < *seed+uint64(*rounds); n++ {
		changes += w.round(n)
		if t.Failed() {
			t.Fatalf("seed %d", n)
		}
	}
	t.Logf("%d rounds, %d tasks, the scheduler moved %d times", *rounds, len(w.seen(0)), changes)
	if changes < *rounds/2 {
		t.Errorf("the scheduler moved %d times only: the rounds prove little", changes)
	}
}

func (w *world) round(n uint64) (changes int) {
	w.t.Helper()
	r := rand.New(rand.NewPCG(n, 0))
	ctx := w.t.Context()
	began := len(w.seen(0))
	all := make([]*instance, []int{1, 2, 5}[n%3])
	starts := 0
	start := func(k int) {
		starts++
		all[k] = w.start(fmt.Sprintf("%d.%d.%d", n, k, starts), short)
	}
	for k := range all {
		start(k)
	}
	defer func() {
		for _, i := range all {
			i.stop(true)
		}
		w.check("seed %d", n)
		if err := w.redis.FlushAll(ctx).Err(); err != nil {
			w.t.Fatal(err)
		}
	}()
	if err := w.redis.SAdd(ctx, openKey, nobody).Err(); err != nil { // as in a stack that has run before
		w.t.Fatal(err)
	}
	// Who is held between the clock and its writing while Redis forgets its connection, and stays up, is beyond this: see ADR 21.
	forgets := r.IntN(2) == 0
	w.until(fmt.Sprintf("seed %d: the first task", n), began, func(arrival) bool { return true })
	for range 5 + r.IntN(4) {
		k := r.IntN(len(all))
		if seen := w.seen(began); len(seen) > 0 && r.IntN(3) > 0 { // the one that counts
			k = max(0, slices.IndexFunc(all, func(i *instance) bool { return i.name == seen[len(seen)-1].holder }))
		}
		i := all[k]
		switch r.IntN(9) {
		case 0: // kill -9 of the agent, and a new one
			i.stop(true)
			start(k)
		case 1:
			i.stop(false)
			start(k)
		case 2: // its clock since boot is far ahead, as after a suspension
			i.ahead.Add(int64(time.Duration(r.IntN(2000)) * time.Millisecond))
		case 3:
			i.beat.shut()
		case 4: // both, as a machine that is suspended; the clock goes on
			i.beat.shut()
			if !forgets {
				i.agent.shut()
			}
		case 5:
			if !forgets {
				i.agent.shut()
			}
		case 6: // the server's clock: the lease ends early, or in an hour
			_ = w.redis.PExpire(ctx, leaseKey, []time.Duration{time.Millisecond, time.Hour}[r.IntN(2)]).Err() // it may be starting
		case 7: // it starts again, empty
			_ = w.redis.ShutdownNoSave(ctx).Err() // says that the connection broke
		case 8:
			if forgets {
				_ = w.redis.FlushAll(ctx).Err() // it may be starting
			}
		}
		time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
		if r.IntN(2) == 0 {
			for _, i := range all {
				i.agent.lift()
				i.beat.lift()
			}
		}
	}
	for _, i := range all {
		i.agent.lift()
		i.beat.lift()
	}
	w.until(fmt.Sprintf("seed %d: the last task", n), len(w.seen(0)), func(arrival) bool { return true })
	last := ""
	for _, a := range w.seen(began) {
		if last != "" && a.holder != last {
			changes++
		}
		last = a.holder
	}
	return changes
}
