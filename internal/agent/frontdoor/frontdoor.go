package frontdoor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/dify"
)

const (
	// Google's load balancer keeps idle connections for 600 s; a server that closes earlier loses requests.
	keepAlive = 650 * time.Second
	// formBody is what a form may add to an upload.
	formBody = 10 << 20
	// maxHeader is above what Google's load balancer lets through, 64 KiB, and what it adds.
	maxHeader = 80 << 10
	// Gunicorn, which is before Dify's API, closes connections that were idle for 2 s. A request that meets that moment
	// is lost, if it has a body and so cannot be sent again; hence we close first.
	backendIdle = time.Second
	// On ending, the load balancer has seen that the instance leaves when no request has come for quiet, Options.Notice over.
	quiet = 500 * time.Millisecond
	// reserve is memory that is never touched, and so never used, but counts as in use: with next to nothing in use garbage is
	// collected each time 4 MiB have come together, five times in a second of 2,000 requests, and what is answered then is late.
	reserve = 12 << 20
)

// Options say where requests go.
type Options struct {
	Instance string
	Backend  func(dify.Name) string // IP:PORT of a service
	// Most gives how many requests a service takes at once, 0 for any number; nil = all take any number. Those beyond wait for their turn,
	// so that a service which is only full still answers who asks for its health.
	Most func(dify.Name) int
	// Upload is the largest file that users may upload, in bytes; 0 = 100 MiB.
	Upload int64
	// Patience is how long a request waits for its turn; 0 = 30 s.
	Patience time.Duration
	// Alive says whether /alive is to say yes, and if not, why. nil = always yes.
	Alive func() (ok bool, why string)
	// Notice is how long Drain at least waits: what the load balancer takes to see that /health fails.
	Notice time.Duration
	Log    *slog.Logger
}

// Door is an open front door.
type Door struct {
	opts      Options
	server    *http.Server
	listener  net.Listener
	transport *hop
	proxies   map[dify.Name]*httputil.ReverseProxy
	turns     map[dify.Name]chan struct{} // holds an element for each request that a service has in hand; nil = it takes any number
	reserve   []byte
	done      chan struct{}
	err       error // why it no longer serves, once done is closed

	mu      sync.Mutex
	ready   bool
	ending  bool
	waiting string
	full    time.Time // when it was last logged that requests wait
	inHand  map[*inHand]struct{}
	last    time.Time // when a request last came or went
}

// inHand is a request that is being answered.
type inHand struct {
	method, path string // the path as far as a log may show it
	began        time.Time
}

// Open begins to listen. Until Ready is called, it says that the instance is not ready.
func Open(at netip.AddrPort, o Options) (*Door, error) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("open the front door: %w", err)
	}
	d := &Door{opts: o, listener: l, proxies: map[dify.Name]*httputil.ReverseProxy{}, turns: map[dify.Name]chan struct{}{}, done: make(chan struct{}), waiting: "its start", inHand: map[*inHand]struct{}{}, reserve: make([]byte, reserve)}
	d.transport = &hop{keepFor: backendIdle, idle: map[string][]*link{}, rest: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: backendIdle, DisableCompression: true,
	}}
	if d.opts.Patience == 0 {
		d.opts.Patience = 30 * time.Second
	}
	for _, s := range dify.Names() {
		d.proxies[s] = d.proxy(s)
		if o.Most != nil && o.Most(s) > 0 {
			d.turns[s] = make(chan struct{}, o.Most(s))
		}
	}
	d.server = &http.Server{
		Handler: d, ReadHeaderTimeout: 60 * time.Second, MaxHeaderBytes: maxHeader, IdleTimeout: keepAlive, // no other timeouts: the load balancer has the one that counts
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(d.done)
		if err := d.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.err = fmt.Errorf("serve the front door: %w", err)
		}
	}()
	return d, nil
}

// Done is closed when the door no longer serves: after Close, or when it broke, which Close then tells.
func (d *Door) Done() <-chan struct{} { return d.done }

// Addr is where it listens.
func (d *Door) Addr() net.Addr { return d.listener.Addr() }

// InHand gives how many requests are being answered.
func (d *Door) InHand() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.inHand)
}

// Ready lets traffic come.
func (d *Door) Ready() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready, d.waiting = true, ""
}

// Wait says that the instance is not ready, and for what it waits. The text is shown to everybody.
func (d *Door) Wait(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready, d.waiting = false, what
}

func (d *Door) proxy(s dify.Name) *httputil.ReverseProxy {
	target := &url.URL{Scheme: "http", Host: d.opts.Backend(s)}
	return &httputil.ReverseProxy{
		Transport:  d.transport,
		BufferPool: buffers{}, // event streams and answers of unknown length are passed on as they come without being told
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came: what Go cannot parse is removed otherwise, "a;b" for one
			for _, h := range dropped {
				r.Out.Header.Del(h)
			}
			// Dify believes the first entry, so there is one only.
			r.Out.Header.Set("X-Forwarded-For", client(r.In))
			r.Out.Header.Set("X-Forwarded-Host", r.In.Host)
			scheme := "http"
			if r.In.Header.Get("X-Forwarded-Proto") == "https" { // the load balancer sets it, whatever a client says
				scheme = "https"
			}
			r.Out.Header.Set("X-Forwarded-Proto", scheme)
			if s == dify.PluginDaemon { // webhooks need to know where they were called
				r.Out.Header.Set("Dify-Hook-Url", scheme+"://"+r.In.Host+r.In.URL.RequestURI())
			}
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del(dify.InstanceHeader) // is ours to say
			return nil
		},
		ErrorLog: slog.NewLogLogger(d.opts.Log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
				return
			}
			if r.Context().Err() == nil {
				d.opts.Log.Warn("a service does not answer", "service", s, "error", err)
			}
			http.Error(w, "a service of this instance does not answer", http.StatusBadGateway)
		},
	}
}

// buffers are what bodies are copied through.
type buffers struct{}

var pool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (buffers) Get() []byte  { return *pool.Get().(*[]byte) }
func (buffers) Put(b []byte) { pool.Put(&b) }

// ServeHTTP answers one request.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(dify.InstanceHeader, d.opts.Instance)
	switch r.URL.Path {
	case "/alive":
		d.alive(w)
		return
	case "/health":
		d.health(w)
		return
	}
	at := routed(r.URL)
	this := &inHand{method: r.Method, path: shown(at), began: time.Now()}
	d.mu.Lock()
	ready, ending, waiting := d.ready, d.ending, d.waiting
	d.inHand[this] = struct{}{}
	d.last = this.began
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.inHand, this)
		d.last = time.Now()
	}()
	// The load balancer is not to send the next request on a connection that is about to be closed.
	if ending && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close")
	}
	if !ready {
		w.Header().Set("Retry-After", "5")
		d.answer(w, http.StatusServiceUnavailable, map[string]any{"error": "this instance is not ready", "waitingFor": waiting})
		return
	}
	if at == "" {
		http.Error(w, "the path is not one of Dify's", http.StatusBadRequest)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(d.opts.Upload, 100<<20)+formBody)
	service := dify.RouteFor(at).Service
	if service == "" {
		http.NotFound(w, r)
		return
	}
	if turns := d.turns[service]; turns != nil {
		// Who is slow to send, or gone, keeps nobody waiting: while something of a body is to come, the server does not notice that a client
		// has gone.
		if short(r) {
			body, err := gather(r)
			if err != nil {
				http.Error(w, "the request's body did not come", http.StatusBadRequest)
				return
			}
			r.Body = body
		}
		if !d.turn(r.Context(), service, turns) {
			w.Header().Set("Retry-After", "5")
			d.answer(w, http.StatusServiceUnavailable, map[string]any{"error": "this instance has as many requests in hand as it takes"})
			return
		}
		defer func() { <-turns }()
	}
	d.proxies[service].ServeHTTP(w, r)
}

// turn waits until a service takes one more request, and says whether it does.
func (d *Door) turn(ctx context.Context, service dify.Name, turns chan struct{}) bool {
	select {
	case turns <- struct{}{}:
		return true
	default:
	}
	d.mu.Lock()
	if now := time.Now(); now.Sub(d.full) >= time.Minute {
		d.full = now
		d.opts.Log.Warn("a service has as many requests in hand as it takes; others wait", "service", service, "requests", cap(turns))
	}
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d.opts.Patience)
	defer cancel()
	select {
	case turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Door) health(w http.ResponseWriter) {
	d.mu.Lock()
	ready, ending, waiting := d.ready, d.ending, d.waiting
	d.mu.Unlock()
	switch {
	case ending:
		d.answer(w, http.StatusServiceUnavailable, map[string]any{"status": "ending"})
	case ready:
		d.answer(w, http.StatusOK, map[string]any{"status": "ready"})
	default:
		d.answer(w, http.StatusServiceUnavailable, map[string]any{"status": "waiting", "waitingFor": waiting})
	}
}

// alive is for healing, which replaces an instance that says no, and for a rolling update, which waits for a yes.
func (d *Door) alive(w http.ResponseWriter) {
	ok, why := true, ""
	if d.opts.Alive != nil {
		ok, why = d.opts.Alive()
	}
	if ok {
		d.answer(w, http.StatusOK, map[string]any{"alive": true})
		return
	}
	d.answer(w, http.StatusServiceUnavailable, map[string]any{"alive": false, "because": why})
}

func (d *Door) answer(w http.ResponseWriter, code int, v map[string]any) {
	v["instance"] = d.opts.Instance
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// Drain fails /health, and returns when the load balancer has had time to notice and no request is in hand, or when ctx ends:
// then it names in the log what still is, which is about to be cut off. The door goes on answering: whoever asks /alive meanwhile must not take the instance for dead.
func (d *Door) Drain(ctx context.Context) {
	began := time.Now()
	d.mu.Lock()
	d.ending = true
	d.last = began
	d.mu.Unlock()
	tick := time.NewTicker(quiet / 10)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			waiting = false
		case <-tick.C:
			d.mu.Lock()
			waiting = len(d.inHand) > 0 || time.Since(d.last) < quiet || time.Since(began) < d.opts.Notice
			d.mu.Unlock()
		case <-d.done: // it broke
			waiting = false
		}
	}
	d.mu.Lock()
	cut := slices.SortedFunc(maps.Keys(d.inHand), func(a, b *inHand) int { return a.began.Compare(b.began) })
	d.mu.Unlock()
	const most = 50
	for _, r := range cut[:min(len(cut), most)] {
		d.opts.Log.Warn("a request could not end in time and is cut off", "method", r.method, "path", r.path, "took", time.Since(r.began).Round(time.Millisecond))
	}
	if len(cut) > most {
		d.opts.Log.Warn("more requests could not end in time and are cut off", "requests", len(cut)-most)
	}
}

// Close closes, and cuts off what is still in hand. Its error is that the door broke before.
func (d *Door) Close(ctx context.Context) error {
	late, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if d.server.Shutdown(late) != nil {
		_ = d.server.Close()
	}
	<-d.done
	d.transport.CloseIdleConnections()
	return d.err
}
