package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
	"github.com/difyup/difyup/internal/sockets"
)

// Endpoint is an instance that may serve, because it runs.
type Endpoint struct {
	Instance string // key
	Addr     netip.Addr
	User     int // of this machine, whose programs the instance's are; 0 for any
}

// Options are a balancer's dependencies.
type Options struct {
	Resources wire.Reader
	// Endpoints gives the running instances of a group, by its manager's key. It is called while the balancer is locked:
	// it must not call back.
	Endpoints func(manager string) []Endpoint
	// KeyPair gives a self-managed certificate's chain and private key, PEM.
	KeyPair   func(certificate string) (chain, key string, ok bool)
	TimeScale float64 // for the health checks' times
	Log       *slog.Logger
}

// Listener is a forwarding rule and where it really listens.
type Listener struct {
	Rule    string // key
	Address string
	Port    int // the rule's own port, or a free one where that may not be bound
	Scheme  string
	Taken   int // the rule's own port, where another program has that; else 0
}

// Balancer serves the forwarding rules. Refresh it after every change of a resource or of a group's instances.
type Balancer struct {
	opts      Options
	transport *http.Transport
	table     atomic.Pointer[table]

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener // by rule
	removing  map[string]bool      // rules that are being deleted, but are still among the resources
	probers   map[proberID]*prober
	certs     map[string]*tls.Certificate
	loads     map[string]*load // by instance
	wg        sync.WaitGroup   // probers and listeners
}

// load is what one instance has to do for us.
type load struct {
	inFlight int
	draining bool
	idle     chan struct{} // closed when inFlight falls to 0 while draining
	turn     uint64        // when it last got a request
}

type listener struct {
	rule   string
	addr   netip.Addr
	want   int // the rule's port
	taken  bool
	net    net.Listener
	server *http.Server
	secure bool
	cut    context.CancelFunc // ends requests in hand, upgraded connections among them
	done   chan struct{}      // closed when nothing is accepted any more

	mu     sync.Mutex
	active int
	over   bool
	idle   chan struct{} // closed when over and nothing is active
}

// enter counts a request in; it is false when the listener is over.
func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.active++
	return true
}

func (l *listener) exit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	if l.over && l.active == 0 {
		close(l.idle)
	}
}

// finish cuts requests off and waits until none is left.
func (l *listener) finish() {
	l.cut()
	l.mu.Lock()
	l.over = true
	if l.active == 0 {
		close(l.idle)
	}
	l.mu.Unlock()
	<-l.idle
	<-l.done
}

type proberID struct{ service, instance string }

type prober struct {
	check  probe.Check
	addr   netip.Addr
	port   int
	cancel context.CancelFunc
	count  probe.Count // guarded by Balancer.mu
}

// New gives a balancer that serves nothing until it is refreshed.
func New(opts Options) *Balancer {
	b := &Balancer{
		opts: opts, listeners: map[string]*listener{}, removing: map[string]bool{}, probers: map[proberID]*prober{},
		certs: map[string]*tls.Certificate{}, loads: map[string]*load{},
		transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 64,
			// Google keeps connections to backends for ten minutes, which is why they must keep them longer.
			IdleConnTimeout:    600 * time.Second,
			DisableCompression: true,
			// Backends may answer an upload before it is over.
			ExpectContinueTimeout: time.Second,
		},
	}
	b.table.Store(&table{rules: map[string]*rule{}, services: map[string]*service{}})
	return b
}

// Refresh reads the resources again: it opens and closes listeners, starts and ends health checks, and lets new
// requests go by the new rules. Requests in hand are not touched. An error means that a rule has no listener.
func (b *Balancer) Refresh() error {
	b.mu.Lock()
	var gone []*listener
	defer func() {
		b.mu.Unlock()
		for _, l := range gone {
			l.server.Close()
			l.finish()
		}
	}()
	if b.closed {
		return nil
	}
	t := b.build()
	for key := range b.removing {
		if t.rules[key] == nil {
			delete(b.removing, key)
		}
		delete(t.rules, key)
	}
	b.table.Store(t)
	for key, l := range b.listeners {
		r := t.rules[key]
		if r == nil || r.addr != l.addr || r.port != l.want || (r.tls != nil) != l.secure {
			gone = append(gone, l)
			delete(b.listeners, key)
			l.net.Close() // before its port is bound again
		}
	}
	var errs []error
	for _, key := range sortedKeys(t.rules) {
		if b.listeners[key] == nil {
			l, err := b.listen(t.rules[key])
			if err != nil {
				errs = append(errs, err)
				continue
			}
			b.listeners[key] = l
		}
	}
	b.adjustProbers(t)
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// listen opens a rule's listener: on its port, or on a free one where that is taken or not permitted.
func (b *Balancer) listen(r *rule) (*listener, error) {
	var lc net.ListenConfig
	ctx := context.Background() // binding does not wait
	nl, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(r.addr, uint16(r.port)).String())
	taken := errors.Is(err, syscall.EADDRINUSE)
	if err != nil {
		b.opts.Log.Info("forwarding rule gets a free port", "rule", r.name, "port", r.port, "error", err)
		if nl, err = lc.Listen(ctx, "tcp", netip.AddrPortFrom(r.addr, 0).String()); err != nil {
			return nil, fmt.Errorf("listen for forwarding rule %s: %w", r.name, err)
		}
	}
	l := &listener{rule: r.key, addr: r.addr, want: r.port, taken: taken, net: nl, secure: r.tls != nil,
		done: make(chan struct{}), idle: make(chan struct{})}
	// The listener outlives whoever opened it; finish ends its requests.
	requests, cut := context.WithCancel(context.Background())
	l.cut = cut
	l.server = &http.Server{
		Handler:           &frontend{b: b, rule: r.key, listener: l},
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 60 * time.Second,
		IdleTimeout:       r.keepAlive,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(b.opts.Log.Handler(), slog.LevelDebug),
	}
	if l.secure {
		// The proxy's certificates are looked up for every handshake, so that they can be replaced under the listener.
		l.server.TLSConfig = &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				if r := b.table.Load().rules[l.rule]; r != nil && r.tls != nil && len(r.tls.Certificates) > 0 {
					return r.tls, nil
				}
				return nil, errors.New("the target proxy has no usable certificate")
			},
			// ServeTLS asks for a certificate to be set; the client's configuration above has its own.
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return nil, errors.New("the target proxy has no usable certificate")
			},
		}
	}
	b.wg.Go(func() {
		defer close(l.done)
		var err error
		if l.secure {
			err = l.server.ServeTLS(nl, "", "")
		} else {
			err = l.server.Serve(nl)
		}
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			b.opts.Log.Error("listener ended", "rule", l.rule, "error", err)
		}
	})
	return l, nil
}

// adjustProbers has exactly one prober for every instance of every backend service with a health check.
func (b *Balancer) adjustProbers(t *table) {
	wanted := map[proberID]endpoint{}
	running := map[string]bool{}
	for _, s := range t.services {
		for _, e := range s.endpoints {
			running[e.Instance] = true
			if s.probed {
				wanted[proberID{s.key, e.Instance}] = e
			}
		}
	}
	for id, p := range b.probers {
		if e, ok := wanted[id]; !ok || e.check != p.check || e.Addr != p.addr {
			p.cancel()
			delete(b.probers, id)
		}
	}
	for id, e := range wanted {
		if b.probers[id] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background()) // ends when the instance, the check or the balancer goes
		p := &prober{check: e.check, addr: e.Addr, port: e.port, cancel: cancel}
		b.probers[id] = p
		b.wg.Go(func() {
			defer cancel()
			known := false // who listens there, since it last answered
			ask := func(ctx context.Context) error {
				err := p.check.Ask(ctx, p.addr)
				if err == nil && !known {
					err = owned(e.Endpoint, p.port)
				}
				known = err == nil
				return err
			}
			probe.Run(ctx, p.check, ask, func(n probe.Count, changed bool) {
				b.mu.Lock()
				p.count = n
				b.mu.Unlock()
				if changed {
					b.opts.Log.Debug("backend health", "service", wire.Name(id.service), "instance", wire.Name(id.instance), "health", string(n.Verdict), "detail", n.Detail)
				}
			})
		})
	}
	for instance, l := range b.loads {
		if !running[instance] && l.inFlight == 0 {
			delete(b.loads, instance)
		}
	}
}

// owned gives an error if what listens at an instance's port is no program of its own. A user of this machine who listens there before it does
// would be given its requests, passwords and all.
func owned(e Endpoint, port int) error {
	if e.User == 0 {
		return nil
	}
	at := netip.AddrPortFrom(e.Addr, uint16(port))
	uid, found, err := sockets.ListenerOf(at)
	if err != nil {
		return err
	}
	if !found || uid != e.User {
		return fmt.Errorf("a program of another user than the instance's listens at %s, or at every address of this machine", at)
	}
	return nil
}

// Listeners gives where the rules really listen, ordered by rule.
func (b *Balancer) Listeners() []Listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Listener, 0, len(b.listeners))
	for _, key := range sortedKeys(b.listeners) {
		l := b.listeners[key]
		scheme := "http"
		if l.secure {
			scheme = "https"
		}
		at := Listener{Rule: key, Address: l.addr.String(), Port: l.net.Addr().(*net.TCPAddr).Port, Scheme: scheme}
		if l.taken {
			at.Taken = l.want
		}
		all = append(all, at)
	}
	return all
}

// Remove closes the listener of a rule that is about to be deleted: no new connection, up to limit for requests in
// hand, then the rest is cut off.
func (b *Balancer) Remove(ctx context.Context, ruleKey string, limit time.Duration) error {
	b.mu.Lock()
	l := b.listeners[ruleKey]
	delete(b.listeners, ruleKey)
	b.removing[ruleKey] = true
	b.mu.Unlock()
	if l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := l.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = l.server.Close()
	}
	l.finish()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close listener of %s: %w", wire.Name(ruleKey), err)
	}
	return nil
}

// Health gives getHealth's view of a group (its manager's key) in one backend service, or, if service is "", in the
// first that has it: one entry an instance, ordered.
func (b *Balancer) Health(service, manager string) []map[string]any {
	t := b.table.Load()
	members := map[string]bool{}
	for _, e := range b.opts.Endpoints(manager) {
		members[e.Instance] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range sortedKeys(t.services) {
		if service != "" && key != wire.Key(service) {
			continue
		}
		all := []map[string]any{}
		for _, e := range t.services[key].endpoints {
			if !members[e.Instance] {
				continue
			}
			state := "HEALTHY"
			if t.services[key].probed {
				state = "UNHEALTHY"
				if p := b.probers[proberID{key, e.Instance}]; p != nil && p.count.Verdict == probe.Healthy {
					state = "HEALTHY"
				}
			}
			if l := b.loads[e.Instance]; l != nil && l.draining {
				state = "DRAINING"
			}
			all = append(all, map[string]any{"instance": wire.Link(e.Instance), "ipAddress": e.Addr.String(), "port": e.port, "healthState": state})
		}
		if len(all) > 0 || service != "" {
			return all
		}
	}
	return []map[string]any{}
}

// Drain gives an instance no more requests, and returns when it has none in hand, when the longest draining timeout of
// its backend services (in the local cloud's time, at least shortest) is over, or when ctx ends.
func (b *Balancer) Drain(ctx context.Context, instance string, shortest time.Duration) {
	t := b.table.Load()
	limit := time.Duration(-1)
	for _, s := range t.services {
		for _, e := range s.endpoints {
			if e.Instance == instance {
				limit = max(limit, wire.Scaled(time.Duration(s.Draining.Timeout)*time.Second, b.opts.TimeScale, shortest))
			}
		}
	}
	b.mu.Lock()
	l := b.loadOf(instance)
	l.draining = true
	if l.inFlight == 0 || limit < 0 {
		b.mu.Unlock()
		return
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	idle := l.idle
	b.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Undrain lets an instance serve again, after it was recreated.
func (b *Balancer) Undrain(instance string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.loads[instance]; l != nil {
		l.draining, l.idle = false, nil
	}
	for id, p := range b.probers {
		if id.instance == instance {
			p.cancel() // what was known was about its predecessor
			delete(b.probers, id)
		}
	}
}

func (b *Balancer) loadOf(instance string) *load {
	l := b.loads[instance]
	if l == nil {
		l = &load{}
		b.loads[instance] = l
	}
	return l
}

// Close cuts everything off and returns when no goroutine is left, or ctx ends.
func (b *Balancer) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	for _, p := range b.probers {
		p.cancel()
	}
	var errs []error
	var open []*listener
	for _, key := range sortedKeys(b.listeners) {
		open = append(open, b.listeners[key])
		errs = append(errs, b.listeners[key].server.Close())
	}
	clear(b.listeners)
	clear(b.probers)
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		for _, l := range open {
			l.finish()
		}
		b.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("close load balancer: %w", ctx.Err()))
	}
	b.transport.CloseIdleConnections()
	return errors.Join(errs...)
}

func itoa(n int) string { return strconv.Itoa(n) }
