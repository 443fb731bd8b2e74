package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Instance is what every caller may know.
type Instance struct {
	Project  string // its ID
	Account  string // the email of the instance's service account
	Universe string // "googleapis.com"
}

// scope is that of the instance's own token, by Google's advice for instances. What a token is worth, the boundary says.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// Endpoint answers one caller as Google's metadata server does, in what Google's clients ask for.
type Endpoint struct {
	Instance Instance
	Token    func(context.Context) (Token, error) // nil = the caller gets none
	Log      *slog.Logger
}

const root = "/computeMetadata/v1/"

// ServeHTTP answers one question.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", "Metadata Server for VM")
	w.Header().Set("Content-Type", "application/text")
	// Both rules keep a server that can be made to fetch URLs from handing out tokens. The first has no exception at Google either.
	if len(r.Header.Values("X-Forwarded-For")) > 0 {
		http.Error(w, "Requests with an X-Forwarded-For header are refused.", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "Only GET is allowed here.", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == "/" {
		_, _ = io.WriteString(w, "computeMetadata/\n") // the client may be gone
		return
	}
	if r.Header.Get("Metadata-Flavor") != "Google" {
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	answer := func(text string) {
		_, _ = io.WriteString(w, text) // the client may be gone
	}
	path, ok := strings.CutPrefix(r.URL.Path, root)
	switch {
	case !ok:
	case path == "project/project-id":
		answer(e.Instance.Project)
		return
	case path == "universe/universe-domain":
		answer(e.Instance.Universe)
		return
	default:
		if rest, ok := strings.CutPrefix(path, "instance/service-accounts/"); ok && e.account(w, r, rest) {
			return
		}
	}
	http.Error(w, "Not found: "+r.URL.Path, http.StatusNotFound)
}

// account answers what is asked of a service account, "default/token". It says false when there is no such thing.
func (e *Endpoint) account(w http.ResponseWriter, r *http.Request, path string) bool {
	name, what, _ := strings.Cut(path, "/")
	if name != "default" && name != e.Instance.Account {
		return false
	}
	text := ""
	switch {
	case what == "" && r.URL.Query().Get("recursive") == "true":
		e.json(w, map[string]any{"aliases": []string{"default"}, "email": e.Instance.Account, "scopes": []string{scope}})
		return true
	case what == "":
		text = "aliases\nemail\nscopes\n"
		if e.Token != nil {
			text += "token\n"
		}
	case what == "aliases":
		text = "default\n"
	case what == "email":
		text = e.Instance.Account
	case what == "scopes":
		text = scope + "\n"
	// Scopes that are asked for would narrow the token further, to less than Cloud Storage's; no client asks for that.
	case what == "token" && e.Token != nil:
		e.token(w, r)
		return true
	default:
		return false
	}
	_, _ = io.WriteString(w, text) // the client may be gone
	return true
}

func (e *Endpoint) token(w http.ResponseWriter, r *http.Request) {
	t, err := e.Token(r.Context())
	if err != nil {
		if r.Context().Err() == nil {
			e.Log.Warn("a container's token cannot be had", "error", err)
		}
		// Google's clients ask again after this.
		http.Error(w, "No token can be had now.", http.StatusServiceUnavailable)
		return
	}
	e.json(w, map[string]any{"access_token": t.Value, "expires_in": max(int(time.Until(t.Expires).Seconds()), 0), "token_type": "Bearer"})
}

func (e *Endpoint) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // of texts and numbers; the client may be gone
}

// mostConnections bounds what one caller keeps open: a client has one or two.
const mostConnections = 256

// Serve answers those who come by a listener until ctx ends. Know tells who does not belong there; nil = everybody does.
func Serve(ctx context.Context, l net.Listener, know func(net.Conn) error, e *Endpoint) error {
	l = &known{Listener: l, know: know, log: e.Log, free: make(chan struct{}, mostConnections)}
	server := &http.Server{
		Handler: e, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(e.Log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	err := server.Serve(l)
	_ = server.Close() // what is still open
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve containers' identity: %w", err)
}

// known is a listener that takes only whom it knows, and not too many.
type known struct {
	net.Listener
	know func(net.Conn) error
	log  *slog.Logger
	free chan struct{}
}

func (k *known) Accept() (net.Conn, error) {
	for {
		c, err := k.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if k.know != nil {
			if err := k.know(c); err != nil {
				k.log.Warn("somebody asked for the identity of another container", "address", c.RemoteAddr(), "error", err)
				_ = c.Close() // nobody serves it
				continue
			}
		}
		select {
		case k.free <- struct{}{}:
			return &counted{Conn: c, free: k.free}, nil
		default:
			_ = c.Close()
		}
	}
}

// counted is a connection that makes room when it is closed.
type counted struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
