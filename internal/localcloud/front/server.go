package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bufio"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/localcloud/schema"
)

// maxBody bounds a JSON request: an instance template's metadata may take 512 KB.
const maxBody = 4 << 20

// Options say how the local cloud behaves as a whole.
type Options struct {
	// TimeScale multiplies Google's latencies: 0 makes operations take milliseconds, 1 as long as on Google.
	TimeScale float64
	// Token is the owner's access token. Whoever comes without it or one of Tokens is refused.
	Token  string
	Dir    string       // where the local cloud keeps what it has, for messages
	Faults *faults.Set  // nil for none
	Log    *slog.Logger // nil discards
}

// Request is a call of a method, its parameters and body checked.
type Request struct {
	Method *schema.Method
	Path   map[string]string // parameters in the path, by the documents' names without "sId": project, location, …
	Query  url.Values
	Body   map[string]any // nil when there is none
	HTTP   *http.Request
	Upload bool   // came in below /upload: HTTP.Body holds media
	XML    bool   // came in by Cloud Storage's XML API
	Caller string // Owner, or the email of the service account whose token the request bears
	// Boundary is what the token was narrowed to; nil = all that the caller may.
	Boundary Boundary
}

// Project is the project the request is about, "" where there is none.
func (r *Request) Project() string {
	for _, name := range []string{"project", "projectId", "resource"} {
		if p := r.Path[name]; p != "" && (name != "resource" || strings.HasPrefix(r.Method.ID, "cloudresourcemanager.")) {
			return p
		}
	}
	if strings.HasPrefix(r.Method.ID, "logging.entries.") {
		return logged(r.Body)
	}
	return r.Query.Get("project")
}

// logged gives the project that a request about log entries names first; the handlers refuse those that name several.
func logged(request map[string]any) string {
	names := append([]string{body.String(request, "logName")}, body.Strings(request, "resourceNames")...)
	for _, e := range body.Maps(request, "entries") {
		names = append(names, body.String(e, "logName"))
	}
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, "projects/"); ok {
			project, _, _ := strings.Cut(rest, "/")
			return project
		}
	}
	return ""
}

// Handler carries out a method. What it returns is written as JSON; nil becomes 204, an http.Handler writes the
// answer itself. An *Error is written in the API's envelope.
type Handler func(ctx context.Context, r *Request) (any, error)

// Server matches requests to methods and answers them. It is safe for concurrent use once all is registered.
type Server struct {
	opts     Options
	set      *schema.Set
	log      *slog.Logger
	router   router
	roots    map[string]bool // with what methods' paths begin: "compute", "v1"
	object   *schema.Method  // what the XML API reads with
	known    map[string]bool
	handlers map[string]Handler
	http     *http.ServeMux
	before   []func(ctx context.Context, r *Request) error
	tokens   *Tokens
	ops      *Ops
	faults   *faults.Set
	requests atomic.Int64
	byMethod sync.Map // method ID → *atomic.Int64
	ids      sync.Map // project number → ID
}

// uploads are below what media are taken; gcloud begins resumable uploads at the second.
var uploads = []string{"/upload", "/resumable/upload"}

// New gives a server without methods.
func New(opts Options) (*Server, error) {
	set, err := schema.Load()
	if err != nil {
		return nil, err
	}
	if opts.Token == "" {
		return nil, errors.New("front: without a token for the owner anybody would be it. This is a bug in difyup")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		opts: opts, set: set, log: opts.Log, router: router{routes: map[string][]route{}}, roots: map[string]bool{"batch": true, "download": true, "local": true, "resumable": true, "upload": true}, known: map[string]bool{},
		handlers: map[string]Handler{}, http: http.NewServeMux(), tokens: newTokens(opts.Token),
	}
	if s.faults = opts.Faults; s.faults == nil {
		s.faults = faults.NewSet(nil)
	}
	for _, api := range set.APIs() {
		methods, err := set.Methods(api)
		if err != nil {
			return nil, err
		}
		for _, m := range methods {
			s.known[m.ID] = true
			root, _, _ := strings.Cut(strings.TrimPrefix(m.Path, "/"), "/")
			s.roots[root] = true
			s.router.add(m.HTTPMethod, m.Path, m, false)
			if rest, ok := strings.CutPrefix(m.Path, "/dns/v1/"); ok { // as far as a stack goes they are the same
				s.router.add(m.HTTPMethod, "/dns/v1beta2/"+rest, m, false)
			}
			if m.Upload {
				for _, root := range uploads {
					s.router.add(m.HTTPMethod, root+m.Path, m, true)
					s.router.add(http.MethodPut, root+m.Path, m, true)    // parts of a resumable upload
					s.router.add(http.MethodDelete, root+m.Path, m, true) // and its end on the client's wish
				}
			}
			if m.ID == "storage.objects.get" {
				s.router.add(m.HTTPMethod, "/download"+m.Path, m, false)
				s.object = m
			}
		}
	}
	s.ops = newOps(s)
	return s, nil
}

// Handle registers what a method does. It panics when Google has no such method, or it is registered already.
func (s *Server) Handle(methodID string, h Handler) {
	if !s.known[methodID] || s.handlers[methodID] != nil {
		panic(fmt.Sprintf("front: method %q is unknown or registered twice. This is a bug in difyup.", methodID))
	}
	s.handlers[methodID] = h
}

// HandleHTTP serves what is not a method of Google's, "GET /local/v1/status", to the owner and nobody else.
func (s *Server) HandleHTTP(pattern string, h http.Handler) { s.http.Handle(pattern, h) }

// Before adds a check that every call of a method passes first.
func (s *Server) Before(check func(ctx context.Context, r *Request) error) {
	s.before = append(s.before, check)
}

// Tokens gives the tokens of instances' service accounts.
func (s *Server) Tokens() *Tokens { return s.tokens }

// Ops gives the operations.
func (s *Server) Ops() *Ops { return s.ops }

// TimeScale is the factor of latencies.
func (s *Server) TimeScale() float64 { return s.opts.TimeScale }

// Hosts gives the names that the APIs have at Google, and answer to here, sorted.
func (s *Server) Hosts() []string {
	hosts := []string{"www.googleapis.com"}
	for _, api := range s.set.APIs() {
		name, _, _ := strings.Cut(api, "-")
		hosts = append(hosts, name+".googleapis.com")
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// MethodIDs gives the names of all methods, sorted.
func (s *Server) MethodIDs() []string { return slices.Sorted(maps.Keys(s.known)) }

// Requests counts the requests to Google's APIs so far, and those of each method.
func (s *Server) Requests() (total int64, byMethod map[string]int64) {
	byMethod = map[string]int64{}
	s.byMethod.Range(func(k, v any) bool {
		byMethod[k.(string)] = v.(*atomic.Int64).Load()
		return true
	})
	return s.requests.Load(), byMethod
}

// named has projects be known by their IDs where a request names them by number, which the older APIs answer with IDs for.
// A number nobody's ID was seen with stays as it is.
func (s *Server) named(api string, params map[string]string) {
	p := params["project"]
	switch {
	case p == "":
	case strings.Trim(p, "0123456789") != "":
		s.ids.Store(s.ProjectNumber(p), p)
	case !newer(api) || api == "redis":
		if id, ok := s.ids.Load(p); ok {
			params["project"] = id.(string)
		}
	}
}

// ProjectNumber gives the number of a project: twelve digits, always the same for a name.
func (s *Server) ProjectNumber(project string) string {
	if project != "" && strings.Trim(project, "0123456789") == "" {
		return project
	}
	h := fnv.New64a()
	h.Write([]byte(project))
	return fmt.Sprint(100_000_000_000 + h.Sum64()%900_000_000_000)
}

// Close ends the operations that run.
func (s *Server) Close() { s.ops.close() }

// ServeHTTP answers one request, of somebody it knows.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodPost && req.URL.Path == exchangePath {
		s.exchange(w, req)
		return
	}
	who, refusal := s.tokens.caller(req)
	if refusal != nil {
		s.refuse(w, req, refusal)
		return
	}
	if _, pattern := s.http.Handler(req); pattern != "" {
		if !who.owns() {
			s.fail(w, "", Forbidden("Only the owner of the local cloud may do this."))
			return
		}
		s.http.ServeHTTP(w, req)
		return
	}
	if req.Method == http.MethodPost && (req.URL.Path == "/batch/compute/v1" || req.URL.Path == "/batch/storage/v1") {
		s.batch(w, req, who)
		return
	}
	s.requests.Add(1)
	s.serveMethod(w, req, who)
}

func (s *Server) serveMethod(w http.ResponseWriter, req *http.Request, who identity) {
	rt, params := s.router.find(req)
	if rt == nil {
		rt, params = s.objectPath(req)
	}
	if rt == nil {
		s.fail(w, "", NotFound("The requested URL %s was not found on this server: the local cloud does not have this method.", req.URL.Path))
		return
	}
	m := rt.method
	s.named(m.API, params)
	count, _ := s.byMethod.LoadOrStore(m.ID, new(atomic.Int64))
	count.(*atomic.Int64).Add(1)
	r := &Request{Method: m, Path: params, Query: req.URL.Query(), HTTP: req, Upload: rt.upload, XML: rt.xml, Caller: who.caller, Boundary: who.bound}
	if s.faults.Any() {
		s.disturb(w, req, r)
		return
	}
	s.carryOut(w, req, r)
}

// carryOut does what a request asks for, and answers it.
func (s *Server) carryOut(w http.ResponseWriter, req *http.Request, r *Request) {
	m := r.Method
	answer, err := s.call(req.Context(), r)
	if err != nil {
		e := s.own(err, http.StatusInternalServerError, "backendError")
		if e.Code >= 500 && e.Code != http.StatusNotImplemented || e.Reason == LocalDiskFull {
			s.log.Error("a method failed", "method", m.ID, "error", err)
		}
		if r.XML {
			s.failXML(w, req, e)
		} else {
			s.fail(w, m.API, e)
		}
		return
	}
	switch answer := answer.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
	case http.Handler:
		answer.ServeHTTP(w, req)
	default:
		if newer(m.API) && strings.Contains(r.Query.Get("$alt"), "enum-encoding=int") {
			answer = s.numbered(m, answer)
		}
		s.write(w, http.StatusOK, answer, r.Query.Get("fields"))
	}
}

// newer says whether an API is made of protocol buffers, in whose JSON an enum value may be its number.
func newer(api string) bool {
	return api != "compute" && api != "storage" && api != "dns" && !strings.HasPrefix(api, "sqladmin")
}

// numbered gives an answer with numbers for enum values; the answer itself when it cannot be decoded.
func (s *Server) numbered(m *schema.Method, answer any) any {
	raw, err := json.Marshal(answer)
	if err != nil {
		return answer
	}
	var body map[string]any
	if json.Unmarshal(raw, &body) != nil || m.Response == "" || s.set.EnumNumbers(m.API, m.Response, body) != nil {
		return answer
	}
	return body
}

func (s *Server) call(ctx context.Context, r *Request) (any, error) {
	check := s.checkQuery
	if r.XML {
		check = checkXML
	}
	if err := check(r); err != nil {
		return nil, err
	}
	if !r.Upload && !r.XML {
		if err := s.readBody(r); err != nil {
			return nil, err
		}
	}
	for _, check := range s.before {
		if err := check(ctx, r); err != nil {
			return nil, err
		}
	}
	h := s.handlers[r.Method.ID]
	if h == nil {
		return nil, Unserved("The local cloud does not implement %s.", r.Method.ID)
	}
	return h(ctx, r)
}

// everywhere are the parameters that every Google API takes, in their two spellings; and returnPartialSuccess, which
// Compute's discovery document no longer has and its clients still send. Cloud Storage passes over what it does not know.
var everywhere = []string{
	"alt", "fields", "key", "prettyPrint", "quotaUser", "userIp", "callback", "uploadType",
	"upload_protocol", "upload_id", "$alt", "$userProject", "$.xgafv", "$prettyPrint", "$fields", "userProject", "trace", "name",
	"returnPartialSuccess",
}

func (s *Server) checkQuery(r *Request) error {
	for _, key := range slices.Sorted(maps.Keys(r.Query)) {
		p, ok := r.Method.Query[key]
		if !ok {
			if _, dotted, isDotted := strings.Cut(key, "."); isDotted && dotted != "" || slices.Contains(everywhere, key) || r.Method.API == "storage" {
				continue
			}
			return Invalid("Invalid JSON payload received. Unknown name %q: Cannot bind query parameter. Field '%s' could not be found in request message.", key, key)
		}
		if p.Type == "boolean" { // Python's client writes True
			on, err := strconv.ParseBool(strings.ToLower(r.Query.Get(key)))
			if err != nil {
				return Invalid("Invalid value at '%s' (TYPE_BOOL), %q", key, r.Query.Get(key))
			}
			r.Query.Set(key, strconv.FormatBool(on))
		}
		if v := r.Query.Get(key); len(p.Enum) > 0 && v != "" && key != "alt" && !slices.Contains(p.Enum, v) {
			return Invalid("Invalid value at '%s' : %q", key, v)
		}
	}
	return nil
}

func (s *Server) readBody(r *Request) error {
	raw, err := io.ReadAll(io.LimitReader(r.HTTP.Body, maxBody+1))
	if err != nil {
		return Invalid("The request's body could not be read: %v", err)
	}
	if len(raw) > maxBody {
		return &Error{Code: http.StatusRequestEntityTooLarge, Reason: "uploadTooLarge", Message: "Request Entity Too Large"}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, &r.Body); err != nil {
		return &Error{Code: http.StatusBadRequest, Reason: "parseError", Message: fmt.Sprintf("Invalid JSON payload received. %v", err)}
	}
	if r.Method.Request == "" {
		return nil
	}
	if newer(r.Method.API) {
		if err := s.set.EnumNames(r.Method.API, r.Method.Request, r.Body); err != nil {
			return err
		}
	}
	if err := s.dropName(r); err != nil {
		return err
	}
	problems, err := s.set.Check(r.Method.API, r.Method.Request, r.Body)
	if err != nil || len(problems) == 0 {
		return err
	}
	var lines []string
	for _, p := range problems {
		parent, field := "", p.Path
		if i := strings.LastIndexByte(p.Path, '.'); i >= 0 {
			parent, field = p.Path[:i], p.Path[i+1:]
		}
		switch {
		case p.Unknown && parent == "":
			lines = append(lines, fmt.Sprintf("Invalid JSON payload received. Unknown name %q: Cannot find field.", field))
		case p.Unknown:
			lines = append(lines, fmt.Sprintf("Invalid JSON payload received. Unknown name %q at '%s': Cannot find field.", field, parent))
		case r.Method.API == "compute":
			lines = append(lines, fmt.Sprintf("Invalid value for field 'resource.%s': '%s'. %s.", p.Path, strings.Trim(p.Value, `"`), p.Message))
		default:
			lines = append(lines, fmt.Sprintf("Invalid value at '%s', %s: %s", p.Path, p.Message, p.Value))
		}
	}
	return Invalid("%s", strings.Join(lines, "\n"))
}

// dropName takes the resource's name out of a body: Google's generated clients send the whole request in it, also what
// is in the path. It must be the same there.
func (s *Server) dropName(r *Request) error {
	for field, shape := range r.Method.Named {
		value, ok := r.Body[field]
		if !ok || s.set.Has(r.Method.API, r.Method.Request, field) {
			continue
		}
		want := strings.Split(shape, "/")
		for i, part := range want {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				want[i] = r.Path[strings.TrimSuffix(name, "}")]
			}
		}
		got := strings.Split(fmt.Sprint(value), "/")
		if len(got) > 1 && len(want) > 1 && want[0] == "projects" && s.ProjectNumber(got[1]) == s.ProjectNumber(want[1]) {
			got[1] = want[1] // by ID or by number
		}
		if !slices.Equal(got, want) {
			return Invalid("Invalid value at '%s': %q in the body, %q in the path.", field, value, strings.Join(want, "/"))
		}
		delete(r.Body, field)
	}
	return nil
}

func (s *Server) fail(w http.ResponseWriter, api string, e *Error) {
	maps.Copy(w.Header(), e.Header)
	if e.Code == http.StatusNotModified { // which has no body
		w.WriteHeader(e.Code)
		return
	}
	s.write(w, e.Code, e.envelope(api), "")
}

func (s *Server) failXML(w http.ResponseWriter, req *http.Request, e *Error) {
	maps.Copy(w.Header(), e.Header)
	body := e.xmlEnvelope()
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Code)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone
	}
}

func (s *Server) write(w http.ResponseWriter, code int, v any, fields string) {
	raw, err := json.Marshal(v)
	if err == nil && fields != "" && fields != "*" {
		var m map[string]any
		if json.Unmarshal(raw, &m) == nil {
			raw, err = json.Marshal(selectFields(m, fields))
		}
	}
	var out bytes.Buffer
	if err == nil {
		err = json.Indent(&out, raw, "", "  ")
	}
	if err != nil {
		s.log.Error("encode an answer", "error", err)
		http.Error(w, "the answer could not be encoded", http.StatusInternalServerError)
		return
	}
	out.WriteByte('\n')
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Vary", "Origin")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(out.Bytes()) // the client may be gone
}

// Scale multiplies a latency of Google's by the time scale; three milliseconds at least, so that a client that forgets
// to wait fails.
func (s *Server) Scale(d time.Duration) time.Duration {
	return max(time.Duration(float64(d)*s.opts.TimeScale), 3*time.Millisecond)
}

// maxCalls bounds a batch; Google has 100 for Cloud Storage and 1,000 for Compute.
const maxCalls = 1000

// batch answers several calls in one request, as Compute's and Cloud Storage's batch endpoints do. All are the caller's, whoever they say
// that they are of.
func (s *Server) batch(w http.ResponseWriter, req *http.Request, who identity) {
	_, rest, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	api, _, _ := strings.Cut(rest, "/")
	kind, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		s.fail(w, api, Invalid("Missing or malformed multipart content type."))
		return
	}
	calls := 0
	var out bytes.Buffer
	parts := multipart.NewWriter(&out)
	for in := multipart.NewReader(req.Body, params["boundary"]); ; {
		part, err := in.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.fail(w, api, Invalid("Malformed multipart body: %v", err))
			return
		}
		raw, err := io.ReadAll(io.LimitReader(part, maxBody+1))
		if err != nil || len(raw) > maxBody || calls == maxCalls {
			s.fail(w, api, Invalid("Malformed multipart body, more than %d calls, or one of more than %d bytes: %v", maxCalls, maxBody, err))
			return
		}
		calls++
		if !bytes.Contains(raw, []byte("\r\n\r\n")) {
			raw = append(bytes.TrimRight(raw, "\r\n"), "\r\n\r\n"...)
		}
		inner, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			// Clients write the request line's target as a path and leave out Host; HTTP/1.0 rules then apply.
			s.fail(w, api, Invalid("Malformed request in the batch: %v", err))
			return
		}
		if _, body, ok := bytes.Cut(raw, []byte("\r\n\r\n")); ok && len(bytes.TrimSpace(body)) > 0 {
			inner.Body = io.NopCloser(bytes.NewReader(body))
		}
		if strings.HasPrefix(inner.URL.Path, "/upload/") || strings.HasPrefix(inner.URL.Path, "/resumable/") || strings.HasPrefix(inner.URL.Path, "/download/") || inner.URL.Query().Get("alt") == "media" {
			s.fail(w, api, Invalid("A batch takes no uploads or downloads of media."))
			return
		}
		inner.Host = req.Host // answers name it
		rec := &recorder{header: http.Header{}, code: http.StatusOK}
		s.requests.Add(1)
		if rt, _ := s.router.find(inner); rt != nil {
			s.serveMethod(rec, inner.WithContext(req.Context()), who)
		} else { // nor the XML API
			s.fail(rec, api, NotFound("The requested URL %s was not found on this server: the local cloud does not have this method.", inner.URL.Path))
		}
		head := textproto.MIMEHeader{"Content-Type": {"application/http"}}
		if id := part.Header.Get("Content-ID"); id != "" {
			head.Set("Content-ID", "<response-"+strings.TrimPrefix(id, "<"))
		}
		pw, err := parts.CreatePart(head)
		if err != nil {
			return
		}
		rec.header.Set("Content-Length", strconv.Itoa(rec.body.Len()))
		fmt.Fprintf(pw, "HTTP/1.1 %d %s\r\n", rec.code, http.StatusText(rec.code))
		_ = rec.header.Write(pw) // writes to a buffer
		_, _ = io.WriteString(pw, "\r\n")
		_, _ = pw.Write(rec.body.Bytes())
	}
	_ = parts.Close() // writes to a buffer
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
	_, _ = w.Write(out.Bytes())
}

type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
