package frontdoor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"
	"syscall"
	"time"
)

// hop sends requests with a short body, or none, from the goroutine that answers them, and leaves all others to the transport. A
// transport writes and reads each connection in two goroutines of its own, since a body may go out while the answer comes in;
// handing over to them and back is most of what a front door adds to a short request. A short body is read before a
// connection is taken, so a slow client keeps no worker of Dify's API waiting, and nothing comes in before it is out.
type hop struct {
	rest    *http.Transport
	keepFor time.Duration // how long a connection may be idle

	mu     sync.Mutex
	idle   map[string][]*link // by address, the last used at the end
	closed bool
}

const (
	maxIdle   = 64       // connections kept to a service, as in the transport
	maxAnswer = 1 << 20  // bytes of an answer's header
	maxShort  = 16 << 10 // bytes of a body that fits into what a connection holds while nobody reads
)

// link is a connection to a service. One request has it at a time.
type link struct {
	net.Conn
	in     *bufio.Reader
	left   int64 // bytes that the header of an answer may still have; none is read beyond
	got    bool  // something of the answer has come
	expire *time.Timer
	used   bool // it answered a request before
}

func (l *link) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("the header of the answer is longer than %d bytes", maxAnswer)
	}
	n, err := l.Conn.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	l.got = l.got || n > 0
	return n, err
}

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}

// short says whether a request has a body that can be read before anybody is kept waiting for it.
func short(r *http.Request) bool {
	return r.ContentLength > 0 && r.ContentLength <= maxShort && r.Header.Get("Expect") == ""
}

// gather reads a short body, and gives what is to be in its place.
func gather(r *http.Request) (io.ReadCloser, error) {
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, fmt.Errorf("read the request's body: %w", err)
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// RoundTrip is http.RoundTripper's.
func (h *hop) RoundTrip(r *http.Request) (*http.Response, error) {
	none := r.Body == nil || r.Body == http.NoBody
	if !none && !short(r) || r.Header.Get("Upgrade") != "" || r.Header.Get("Expect") != "" {
		return h.rest.RoundTrip(r)
	}
	if !none {
		body, err := gather(r)
		if err != nil {
			return nil, err
		}
		r = r.WithContext(r.Context()) // a copy
		r.Body = body
	}
	// What changes something is not sent again: the service may have done it before the connection ended.
	again := none && slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method)
	ctx := r.Context()
	for {
		l, err := h.link(ctx, r.URL.Host)
		if err != nil {
			return nil, err
		}
		resp, err := h.ask(l, r)
		if err == nil {
			return resp, nil
		}
		l.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !again || !l.used || l.got {
			return nil, err
		}
	}
}

// link gives a kept connection, else a new one.
func (h *hop) link(ctx context.Context, at string) (*link, error) {
	h.mu.Lock()
	for all := h.idle[at]; len(all) > 0; all = h.idle[at] {
		l := all[len(all)-1]
		all[len(all)-1] = nil
		h.idle[at] = all[:len(all)-1]
		h.mu.Unlock()
		if l.expire.Stop() && l.silent() {
			return l, nil
		}
		l.Close()
		h.mu.Lock()
	}
	h.mu.Unlock()
	c, err := h.rest.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: c}
	l.in = bufio.NewReaderSize(l, 4<<10)
	return l, nil
}

// silent says whether nothing has come on an idle connection: neither its end, nor bytes that belong to no request, which
// would be taken for the answer to the next.
func (l *link) silent() bool {
	c, ok := l.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = err == syscall.EAGAIN
		return true
	})
	return err == nil && silent
}

// keep has a connection for the next request, for as long as keepFor.
func (h *hop) keep(at string, l *link) {
	l.used, l.got = true, false
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.idle[at]) >= maxIdle {
		l.Close()
		return
	}
	h.idle[at] = append(h.idle[at], l)
	if l.expire == nil {
		l.expire = time.AfterFunc(h.keepFor, func() { h.drop(at, l) })
	} else {
		l.expire.Reset(h.keepFor)
	}
}

func (h *hop) drop(at string, l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, other := range h.idle[at] {
		if other == l {
			h.idle[at] = append(h.idle[at][:i], h.idle[at][i+1:]...)
			break
		}
	}
	l.Close()
}

// CloseIdleConnections closes what is kept, and keeps no more.
func (h *hop) CloseIdleConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, all := range h.idle {
		for _, l := range all {
			l.expire.Stop()
			l.Close()
		}
	}
	clear(h.idle)
	h.rest.CloseIdleConnections()
}

// ask sends the request, and reads the answer up to its body.
func (h *hop) ask(l *link, r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	resp, err := l.exchange(r)
	if err != nil {
		stop()
		return nil, err
	}
	b := &answer{ReadCloser: resp.Body, hop: h, link: l, stop: stop, ctx: ctx, at: r.URL.Host, whole: !resp.Close && resp.StatusCode >= 200}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		b.Close()
		return nil, errors.New("the service switches protocols unasked")
	}
	if resp.Body == http.NoBody {
		b.end(true)
		return resp, nil
	}
	resp.Body = b
	return resp, nil
}

func (l *link) exchange(r *http.Request) (*http.Response, error) {
	w := writers.Get().(*bufio.Writer)
	w.Reset(l.Conn)
	err := r.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	writers.Put(w)
	if err != nil {
		return nil, err
	}
	l.left = maxAnswer
	for {
		resp, err := http.ReadResponse(l.in, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			l.left = 1<<63 - 1
			return resp, nil
		}
		if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.Got1xxResponse != nil {
			if err := t.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// answer is the body of an answer. Read to its end, it gives the connection to the next request.
type answer struct {
	io.ReadCloser
	hop   *hop
	link  *link
	stop  func() bool
	ctx   context.Context
	at    string
	whole bool // the connection can be used again after it
	once  sync.Once
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	a.end(err == io.EOF)
	if err != io.EOF && a.ctx.Err() != nil {
		err = context.Cause(a.ctx)
	}
	return n, err
}

func (a *answer) Close() error {
	a.end(false)
	return nil
}

func (a *answer) end(read bool) {
	a.once.Do(func() {
		if a.stop() && read && a.whole && a.link.in.Buffered() == 0 {
			a.hop.keep(a.at, a.link)
			return
		}
		a.link.Close()
	})
}
