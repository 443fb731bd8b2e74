package metadata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Document is what an instance can learn about itself and its project.
type Document struct {
	ProjectID         string
	ProjectNumber     string            // digits
	ProjectAttributes map[string]string // difyup-api-endpoint among them
	ID                string            // digits
	Name              string
	Zone              string // bare name
	MachineType       string // bare name
	Image             string
	Address           netip.Addr
	Network           string // bare name
	Tags              []string
	Attributes        map[string]string
	Accounts          []Account // the first is "default"
}

// Account is a service account that the instance may act as.
type Account struct {
	Email  string
	Scopes []string
}

// Options are a server's dependencies.
type Options struct {
	Describe func() Document
	// Token issues an access token for a service account, and tells how long it is good.
	Token func(email string) (token string, life time.Duration, err error)
	UID   int // the instance's user, whom alone the server answers
	Log   *slog.Logger
}

// Server is a running metadata server.
type Server struct {
	opts Options
	http *http.Server
	addr netip.AddrPort
	done chan struct{} // closed when the listener's goroutine has ended

	mu      sync.Mutex
	changed chan struct{}                // closed and replaced at every change
	guest   map[string]map[string]string // namespace, key, value
	written []time.Time                  // when guest attributes were, the last few times
}

// writesAMinute is how often guest attributes may be written, as at Google.
const writesAMinute = 10

// Serve listens on a free port of addr until Close.
func Serve(addr netip.Addr, opts Options) (*Server, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, fmt.Errorf("listen for metadata on %s: %w", addr, err)
	}
	s := &Server{opts: opts, addr: l.Addr().(*net.TCPAddr).AddrPort(), done: make(chan struct{}),
		changed: make(chan struct{}), guest: map[string]map[string]string{}}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug), ConnContext: s.withPeer}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			opts.Log.Error("metadata server ended", "address", s.addr.String(), "error", err)
		}
	}()
	return s, nil
}

// Addr is where the server listens: the instance's GCE_METADATA_HOST.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close stops the server at once; those who wait for a change are cut off.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// Changed wakes those who wait for a change.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// GuestAttributes gives what the instance has published: values by namespace and key.
func (s *Server) GuestAttributes() map[string]map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]map[string]string, len(s.guest))
	for ns, values := range s.guest {
		all[ns] = make(map[string]string, len(values))
		for k, v := range values {
			all[ns][k] = v
		}
	}
	return all
}

// Forget takes away what the instance has published, as if it had never written any.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.guest)
	s.written = nil
}

const root = "/computeMetadata/v1"

// ServeHTTP answers one question.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", "Metadata Server for VM")
	// A name that leads here would let a page in a browser ask, where the browser is the instance's user's too.
	if r.Host != s.addr.String() {
		http.Error(w, "This metadata server has another name.", http.StatusMisdirectedRequest)
		return
	}
	if !s.known(r) {
		http.Error(w, "This metadata server answers its own instance only.", http.StatusForbidden)
		return
	}
	// Both rules keep a server that can be made to fetch URLs from handing out tokens.
	if r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "Requests with an X-Forwarded-For header are refused.", http.StatusForbidden)
		return
	}
	path := r.URL.Path
	if path == "/" {
		io.WriteString(w, "computeMetadata/\n")
		return
	}
	if r.Header.Get("Metadata-Flavor") != "Google" {
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	switch {
	case path == "/computeMetadata" || path == "/computeMetadata/":
		io.WriteString(w, "v1/\n")
	case path != root && !strings.HasPrefix(path, root+"/"):
		http.NotFound(w, r)
	case strings.HasPrefix(path, root+"/instance/guest-attributes"):
		s.serveGuest(w, r, strings.Trim(strings.TrimPrefix(path, root+"/instance/guest-attributes"), "/"))
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "Only GET is allowed here.", http.StatusMethodNotAllowed)
	default:
		s.serveTree(w, r, strings.TrimPrefix(path, root))
	}
}

// serveTree answers from the document, after the change that was asked for, if one was.
func (s *Server) serveTree(w http.ResponseWriter, r *http.Request, path string) {
	q := r.URL.Query()
	wait := q.Get("wait_for_change") == "true"
	var timeout <-chan time.Time
	if sec := q.Get("timeout_sec"); wait && sec != "" {
		n, err := strconv.Atoi(sec)
		if err != nil || n < 0 {
			http.Error(w, "timeout_sec is not a number of seconds.", http.StatusBadRequest)
			return
		}
		t := time.NewTimer(time.Duration(n) * time.Second)
		defer t.Stop()
		timeout = t.C
	}
	last := q.Get("last_etag")
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		a := s.answer(path, q.Get("recursive") == "true", q.Get("alt"))
		if wait && last == "" {
			last = a.etag
		}
		if !wait || a.etag != last || a.status >= http.StatusInternalServerError {
			a.write(w, r)
			return
		}
		select {
		case <-changed:
		case <-timeout:
			a.write(w, r)
			return
		case <-r.Context().Done():
			return
		}
	}
}

type answer struct {
	status   int
	json     bool
	redirect bool
	body     string
	etag     string
}

func (a answer) write(w http.ResponseWriter, r *http.Request) {
	if a.redirect {
		target := *r.URL
		target.Path += "/"
		http.Redirect(w, r, target.RequestURI(), http.StatusMovedPermanently)
		return
	}
	w.Header().Set("ETag", a.etag)
	w.Header().Set("Content-Type", "application/text")
	if a.json {
		w.Header().Set("Content-Type", "application/json")
	}
	if a.status != http.StatusOK {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

// answer finds a path and writes it in the form asked for.
func (s *Server) answer(path string, recursive bool, alt string) answer {
	a := answer{status: http.StatusOK}
	n, ok := find(s.tree(), path)
	computed, isToken := n.(token)
	switch {
	case !ok:
		a.status, a.body = http.StatusNotFound, "Not found: "+path+"\n"
	case isToken:
		v, err := computed()
		if err != nil {
			s.opts.Log.Warn("metadata token", "error", err)
			a.status, a.body = http.StatusInternalServerError, "No token can be issued now.\n"
			break
		}
		a.json, a.body = true, jsonText(v)
	case isDir(n) && recursive && alt == "text":
		var b strings.Builder
		flat("", n, &b)
		a.body = b.String()
	case isDir(n) && recursive, !isDir(n) && alt == "json":
		a.json, a.body = true, jsonText(value(n))
	case isDir(n) && !strings.HasSuffix(path, "/"):
		a.redirect = true
	case isDir(n):
		a.body = listing(n)
	default:
		_, a.json = n.([]string)
		a.body = text(n)
	}
	sum := sha256.Sum256([]byte(a.body))
	a.etag = hex.EncodeToString(sum[:8])
	return a
}

// tree is the document in Google's shape.
func (s *Server) tree() node {
	d := s.opts.Describe()
	zone := "projects/" + d.ProjectNumber + "/zones/" + d.Zone
	var accounts dir
	for i, acc := range d.Accounts {
		names := []string{acc.Email}
		aliases := []string{}
		if i == 0 {
			names, aliases = []string{"default", acc.Email}, []string{"default"}
		}
		for _, name := range names {
			accounts = append(accounts, entry{name: name, json: name, node: dir{
				at("aliases", aliases), at("email", acc.Email), at("scopes", scopes(acc.Scopes)),
				at("token", token(func() (map[string]any, error) { return s.token(acc.Email) })),
			}})
		}
	}
	slices.SortStableFunc(accounts, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	nic := dir{
		at("access-configs", list{}), at("ip", d.Address.String()), at("mtu", 1460),
		at("network", "projects/"+d.ProjectNumber+"/networks/"+d.Network), at("subnetmask", "255.255.255.255"),
	}
	tags := d.Tags
	if tags == nil {
		tags = []string{}
	}
	return dir{
		at("instance", dir{
			at("attributes", attributes(d.Attributes)),
			at("cpu-platform", "Local Cloud"),
			at("hostname", d.Name+"."+d.Zone+".c."+d.ProjectID+".internal"),
			at("id", number(d.ID)),
			at("image", d.Image),
			at("machine-type", "projects/"+d.ProjectNumber+"/machineTypes/"+d.MachineType),
			at("maintenance-event", "NONE"),
			at("name", d.Name),
			at("network-interfaces", list{nic}),
			at("preempted", false),
			at("service-accounts", accounts),
			at("tags", tags),
			at("zone", zone),
		}),
		at("project", dir{
			at("attributes", attributes(d.ProjectAttributes)),
			at("numeric-project-id", number(d.ProjectNumber)),
			at("project-id", d.ProjectID),
		}),
		at("universe", dir{entry{name: "universe-domain", json: "universeDomain", node: "googleapis.com"}}),
	}
}

// scopes are one a line as text and an array in JSON; the text form is what clients read.
type scopes []string

func (s scopes) String() string { return strings.Join(s, "\n") + "\n" }

func number(digits string) node {
	if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		return n
	}
	return digits
}

func (s *Server) token(email string) (map[string]any, error) {
	t, life, err := s.opts.Token(email)
	if err != nil {
		return nil, fmt.Errorf("issue token: %w", err)
	}
	return map[string]any{"access_token": t, "expires_in": int(life.Seconds()), "token_type": "Bearer"}, nil
}

// serveGuest reads and writes guest attributes, NAMESPACE/KEY, if the instance's metadata allows them.
func (s *Server) serveGuest(w http.ResponseWriter, r *http.Request, path string) {
	if !strings.EqualFold(s.opts.Describe().Attributes["enable-guest-attributes"], "true") {
		http.Error(w, "Guest attributes endpoint access is disabled.", http.StatusForbidden)
		return
	}
	ns, key, _ := strings.Cut(path, "/")
	switch {
	case r.Method == http.MethodGet:
		s.mu.Lock()
		values := s.guest[ns]
		v, ok := values[key]
		names := sortedKeys(s.guest)
		if ns != "" {
			names = sortedKeys(values)
		}
		s.mu.Unlock()
		switch {
		case key != "" && ok:
			io.WriteString(w, v)
		case key == "" && (ns == "" || values != nil):
			for _, name := range names {
				fmt.Fprintln(w, name)
			}
		default:
			http.NotFound(w, r)
		}
	case ns == "" || key == "" || strings.Contains(key, "/"):
		http.Error(w, "A guest attribute is NAMESPACE/KEY.", http.StatusBadRequest)
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 256<<10))
		if err != nil {
			http.Error(w, "The value is longer than 256 KiB.", http.StatusRequestEntityTooLarge)
			return
		}
		s.mu.Lock()
		if len(s.written) == writesAMinute && time.Since(s.written[0]) < time.Minute {
			s.mu.Unlock()
			http.Error(w, "Guest attributes were written too often.", http.StatusTooManyRequests)
			return
		}
		if s.written = append(s.written, time.Now()); len(s.written) > writesAMinute {
			s.written = s.written[1:]
		}
		if s.guest[ns] == nil {
			s.guest[ns] = map[string]string{}
		}
		s.guest[ns][key] = string(body)
		s.mu.Unlock()
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		delete(s.guest[ns], key)
		s.mu.Unlock()
	default:
		http.Error(w, "Only GET, PUT and DELETE are allowed here.", http.StatusMethodNotAllowed)
	}
}
