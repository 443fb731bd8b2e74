package balancer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// frontend answers the requests of one forwarding rule.
type frontend struct {
	b        *Balancer
	rule     string
	listener *listener
}

// The sentences of Google's proxies, by what happened.
var (
	errNoBackend = errors.New("no healthy upstream")
	errConnect   = errors.New("upstream connect error or disconnect/reset before headers. reset reason: connection failure")
	errTimeout   = errors.New("upstream request timeout")
)

func splitHost(host string) (name, port string) {
	if h, p, err := net.SplitHostPort(host); err == nil {
		return h, p
	}
	return host, ""
}

// ServeHTTP redirects or forwards one request.
func (f *frontend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.listener.enter() {
		panic(http.ErrAbortHandler)
	}
	defer f.listener.exit()
	t := f.b.table.Load()
	rule := t.rules[f.rule]
	w.Header().Set("Via", "1.1 google")
	if rule == nil || rule.urls == nil {
		refuse(w, http.StatusNotFound, "fault filter abort")
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	host, _ := splitHost(r.Host)
	target, ok := choose(rule.urls, host, r.URL.Path)
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "no route matches")
		return
	case target.redirect != nil:
		to, code := location(target.redirect, scheme, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, f.httpsPort(rule))
		w.Header().Set("Location", to)
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(code)
		return
	}
	s := t.services[wire.Key(target.service)]
	if s == nil {
		refuse(w, http.StatusServiceUnavailable, errNoBackend.Error())
		return
	}
	// The backend service's timeout is for the whole answer, and for the life of a WebSocket.
	ctx, cancel := context.WithTimeoutCause(r.Context(), s.timeout, errTimeout)
	defer cancel()
	defer hurry(ctx, w, r)()
	hop := &hop{b: f.b, service: s, affinity: f.affinity(w, r, s)}
	defer hop.leave()
	proxy := httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { rewrite(pr, scheme, rule.addr) },
		Transport:     hop,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(f.b.opts.Log.Handler(), slog.LevelDebug),
		ModifyResponse: func(resp *http.Response) error {
			resp.Header["Via"] = append(resp.Header["Via"], "1.1 google")
			w.Header().Del("Via") // or it would be there twice
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			code, text := http.StatusServiceUnavailable, errConnect.Error()
			switch {
			case errors.Is(err, errNoBackend):
				text = errNoBackend.Error()
			case errors.Is(context.Cause(r.Context()), errTimeout):
				code, text = http.StatusGatewayTimeout, errTimeout.Error()
				if stalls(r) {
					w.Header().Set("Connection", "close")
				}
			case errors.Is(err, errConnect):
			default:
				code, text = http.StatusBadGateway, "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
			}
			f.b.opts.Log.Info("request not answered by a backend", "service", s.Name, "status", code, "error", err)
			refuse(w, code, text)
		},
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

// refusing is how long a client that was kept to the end may take to read that it was too late.
const refusing = 2 * time.Second

// stalls says whether reading from a client's connection may be what a request waits for.
func stalls(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// hurry has a request end with its time, which ctx is, also where it waits for the client: for more of a body, or for room for an answer.
// The proxy ends by itself only where it waits for an instance. The function that it gives is to be called when the request was handled.
func hurry(ctx context.Context, w http.ResponseWriter, r *http.Request) (handled func()) {
	client, over := http.NewResponseController(w), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		if !errors.Is(context.Cause(ctx), errTimeout) {
			return // who asked is gone
		}
		// Errors of both mean that the connection is gone. One that was taken over for a WebSocket has its deadlines too.
		if stalls(r) {
			_ = client.SetReadDeadline(time.Now())
		}
		_ = client.SetWriteDeadline(time.Now().Add(refusing))
	})
	return func() {
		if !stop() {
			<-over
			_ = client.SetWriteDeadline(time.Time{}) // the connection may be used again
		}
	}
}

func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(code)
	io.WriteString(w, text)
}

// httpsPort is the port on which the rule's address serves HTTPS, 443 if nothing here does.
func (f *frontend) httpsPort(r *rule) int {
	for _, l := range f.b.Listeners() {
		if l.Scheme == "https" && l.Address == r.addr.String() {
			return l.Port
		}
	}
	return 443
}

// rewrite gives a request the headers that Google's load balancer adds. The backend's address is set by the hop.
func rewrite(pr *httputil.ProxyRequest, scheme string, lb netip.Addr) {
	in, out := pr.In, pr.Out
	out.URL.Scheme = "http"
	out.URL.Host = in.Host
	out.Host = in.Host
	out.URL.RawQuery = in.URL.RawQuery
	client, _ := splitHost(in.RemoteAddr)
	chain := append(slices.Clone(in.Header["X-Forwarded-For"]), client+","+lb.String())
	out.Header.Set("X-Forwarded-For", strings.Join(chain, ","))
	out.Header.Set("X-Forwarded-Proto", scheme)
	out.Header["Via"] = append(slices.Clone(in.Header["Via"]), "1.1 google")
	if out.Header.Get("X-Cloud-Trace-Context") == "" {
		var id [24]byte
		rand.Read(id[:])
		out.Header.Set("X-Cloud-Trace-Context", fmt.Sprintf("%s/%d", hex.EncodeToString(id[:16]), binary.BigEndian.Uint64(id[16:])))
	}
}

const affinityCookie = "GCLB"

// affinity gives what a client's requests are kept together by, "" for nothing. It sets the cookie if there is none.
func (f *frontend) affinity(w http.ResponseWriter, r *http.Request, s *service) string {
	switch s.Affinity {
	case "CLIENT_IP", "CLIENT_IP_PORT_PROTO", "CLIENT_IP_PROTO":
		ip, _ := splitHost(r.RemoteAddr)
		return ip
	case "GENERATED_COOKIE":
		if c, err := r.Cookie(affinityCookie); err == nil && c.Value != "" {
			return c.Value
		}
		value := rand.Text()
		http.SetCookie(w, &http.Cookie{Name: affinityCookie, Value: value, Path: "/", HttpOnly: true, MaxAge: s.AffinityTTL})
		return value
	}
	return ""
}

// hop takes one request to an instance: it is the proxy's transport.
type hop struct {
	b        *Balancer
	service  *service
	affinity string
	instance string // which has the request in hand, "" for none
}

// RoundTrip tries instances until one accepts the connection. A request that may have reached an instance is not sent
// twice.
func (h *hop) RoundTrip(r *http.Request) (*http.Response, error) {
	tried := map[string]bool{}
	body := r.Body
	for {
		e, ok := h.b.pick(h.service, h.affinity, tried)
		if !ok {
			if len(tried) > 0 {
				return nil, errConnect
			}
			return nil, errNoBackend
		}
		h.instance, tried[e.Instance] = e.Instance, true
		out := r.Clone(r.Context())
		out.URL.Host = net.JoinHostPort(e.Addr.String(), itoa(e.port))
		if body != nil {
			// The transport closes it even where it could not connect, and may still be reading it when the answer begins; its real
			// end is that of the handler, which closes it.
			out.Body = io.NopCloser(body)
		}
		resp, err := h.b.transport.RoundTrip(out)
		var op *net.OpError
		if err != nil && errors.As(err, &op) && op.Op == "dial" && r.Context().Err() == nil {
			h.leave()
			continue
		}
		return resp, err
	}
}

// leave ends the request's stay at its instance.
func (h *hop) leave() {
	if h.instance == "" {
		return
	}
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	l := h.b.loadOf(h.instance)
	h.instance = ""
	l.inFlight--
	if l.inFlight == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// pick chooses the healthy instance that has waited longest for a request, or the one an affinity always leads to, and
// counts the request there.
func (b *Balancer) pick(s *service, affinity string, tried map[string]bool) (endpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best *endpoint
	var bestTurn, bestHash, last uint64
	for _, l := range b.loads {
		last = max(last, l.turn)
	}
	for i := range s.endpoints {
		e := &s.endpoints[i]
		l := b.loads[e.Instance]
		if tried[e.Instance] || e.weight <= 0 || l != nil && l.draining {
			continue
		}
		if s.probed {
			if p := b.probers[proberID{s.key, e.Instance}]; p == nil || p.count.Verdict != probe.Healthy {
				continue
			}
		}
		var turn uint64
		if l != nil {
			turn = l.turn
		}
		hash := affine(affinity, e.Instance)
		if best == nil || affinity != "" && hash > bestHash || affinity == "" && turn < bestTurn {
			best, bestTurn, bestHash = e, turn, hash
		}
	}
	if best == nil {
		return endpoint{}, false
	}
	l := b.loadOf(best.Instance)
	l.inFlight++
	l.turn = last + 1
	return *best, true
}

// affine ranks an instance for an affinity: when an instance leaves, only its own clients move.
func affine(affinity, instance string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, instance+"\x00"+affinity)
	return h.Sum64()
}
