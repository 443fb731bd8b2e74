package gcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// Options say where and as whom to call.
type Options struct {
	Project   string
	Endpoint  string       // "" = Google; otherwise every API is called there: "http://127.64.0.1:4443/"
	Token     string       // the access token at Endpoint; on Google there are application default credentials
	Dial      Dial         // connects to Endpoint; nil = whoever answers there
	HTTP      *http.Client // nil = one of the client's own
	Events    event.Sink   // retries and long waits
	UserAgent string
	Drivers   map[string]func(*Client) Driver   // by Kind.Driver
	ReadFile  func(path string) ([]byte, error) // gives what is uploaded; nil = os.ReadFile
}

// Dial connects to an address, or gives a fault when what listens there must be sent nothing.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Client calls Google. It is safe for concurrent use.
type Client struct {
	opts     Options
	http     *http.Client
	requests atomic.Int64
	drivers  map[string]Driver

	numberMu sync.Mutex             // held while the number is asked for
	number   atomic.Pointer[string] // the project's number, once known

	enabled     sync.Map // by API.Name: services that this run enabled, or found not to know yet that they are
	lately      sync.Map // by API.Name: services that a run before this one may have enabled, a short time ago
	disabled    sync.Map // by API.Name: services that were asked and are not enabled, so that what is there cannot be seen
	madeAccount atomic.Bool
	servicesMu  sync.Mutex      // held while Service Usage is asked
	services    map[string]bool // by API.Name: those that it calls enabled; nil until it was asked
	ahead       atomic.Int64    // by how many nanoseconds the server's clock is ahead of this machine's
	unnamed     atomic.Bool     // the project may not be named as the one that uses the services
}

// New makes a client. On Google it needs application default credentials and says how to get them.
func New(ctx context.Context, o Options) (*Client, error) {
	c := &Client{opts: o, http: o.HTTP}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 128, 64
		if o.Dial != nil {
			transport.DialContext = o.Dial
		}
		// A connection that died without a word is noticed while requests wait on it, and the next ones get another.
		transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
		c.http = &http.Client{Transport: transport, CheckRedirect: stay}
		if o.Endpoint == "" {
			// Where tokens come from is asked with a deadline too.
			ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: googleDeadlines.read})
			creds, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
			if err != nil {
				return nil, &fault.Fault{
					Summary: "No Google Cloud credentials",
					Detail:  "difyup uses application default credentials, and found none.",
					Remedy:  "Log in, or rehearse without an account:\n    gcloud auth application-default login\n    difyup apply --local",
					Cause:   err,
				}
			}
			c.http.Transport = &tokenTransport{source: creds.TokenSource, base: transport}
		}
	}
	c.drivers = map[string]Driver{"": &REST{Client: c}}
	for name, make := range o.Drivers {
		c.drivers[name] = make(c)
	}
	return c, nil
}

// stay follows no redirect: Google's APIs answer themselves, and the token is nobody else's.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Project is the project's ID.
func (c *Client) Project() string { return c.opts.Project }

// Google says whether it is Google that is called, and not another cloud at an endpoint: advice that names Google's console
// or gcloud is of use there alone.
func (c *Client) Google() bool { return c.opts.Endpoint == "" }

// Requests counts the HTTP requests sent so far, retries included.
func (c *Client) Requests() int64 { return c.requests.Load() }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Disabled gives the services, "compute.googleapis.com", that answered that they are not enabled in the project. What is
// there counts as absent, which it is unless somebody disabled a service that was in use.
func (c *Client) Disabled() []string {
	var names []string
	c.disabled.Range(func(name, _ any) bool {
		names = append(names, name.(string)+".googleapis.com")
		return true
	})
	slices.Sort(names)
	return names
}

// ReadFile gives the contents of a file that is to be uploaded.
func (c *Client) ReadFile(path string) ([]byte, error) {
	if c.opts.ReadFile != nil {
		return c.opts.ReadFile(path)
	}
	return os.ReadFile(path)
}

// Notify sends an event about a resource.
func (c *Client) Notify(phase event.Phase, id resource.ID, detail string) {
	c.opts.Events.Send(event.Event{Phase: phase, ID: string(id), Detail: detail})
}

// Call is one request. Path is relative to the API's base.
type Call struct {
	API    *resource.API
	Method string
	Path   string
	Query  url.Values
	Body   any    // JSON; nil for none
	Raw    []byte // instead of Body, with Type
	Type   string
	Out    any          // where the JSON answer goes; *[]byte takes it as it is
	Header *http.Header // where the answer's header goes, if not nil
	For    resource.ID  // whom retries are told about
	Once   bool         // no retries: the caller knows better

	// Carried is asked before the request is sent again when it is open whether it was carried out: whether it was.
	// Nil for what may be done twice, or has another way to be known again: a request ID, a generation, an etag.
	Carried func(ctx context.Context) (bool, error)
	// Clear is what must be done before Mutate sends the request again after its operation failed.
	Clear func(ctx context.Context) error
}

// Do sends a request and decodes the answer. A failure that one of the rules knows to pass is met by sending the request
// again, each time with an event. Every request has a deadline. Bodies are in no error, for they may hold secrets.
func (c *Client) Do(ctx context.Context, call Call) error {
	body, contentType := call.Raw, call.Type
	if call.Body != nil {
		var err error
		if body, err = json.Marshal(call.Body); err != nil {
			return fmt.Errorf("encode the request to %s: %w", call.Path, err)
		}
		contentType = "application/json"
	}
	query := url.Values{}
	for k, v := range call.Query {
		query[k] = v
	}
	if takesRequestID(call) {
		query.Set("requestId", newUUID())
	}
	host := call.API.Host
	if c.opts.Endpoint != "" {
		host = strings.TrimSuffix(c.opts.Endpoint, "/") + "/"
	}
	target := host + call.API.Base + call.Path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	named := c.names(call)
	before, _ := ctx.Value(beforeKey{}).(func() error)
	for p := (patience{}); ; {
		if before != nil && call.Method != http.MethodGet {
			if err := before(); err != nil {
				return fmt.Errorf("%s %s: %w", strings.ToLower(call.Method), call.Path, err)
			}
		}
		header, err := c.once(ctx, call, target, body, contentType, named)
		if err == nil {
			c.learnTime(header)
			if call.Header != nil {
				*call.Header = header
			}
			return nil
		}
		if named && c.unname(call, err) {
			named = false
			continue
		}
		err = c.elsewhere(call, err)
		if stop := c.again(ctx, call, err, &p); stop != nil {
			if e := (*Error)(nil); !isFault(err) && errors.As(err, &e) && e.Disabled() {
				c.disabled.Store(call.API.Name, true)
			}
			if ctx.Err() != nil && errors.Is(stop, context.Cause(ctx)) {
				return stop
			}
			return fmt.Errorf("%s %s: %w", strings.ToLower(call.Method), call.Path, stop)
		}
		if call.Carried != nil && open(err) {
			if done, err := call.Carried(ctx); done || err != nil {
				return err
			}
		}
	}
}

type beforeKey struct{}

// Before gives a context with which check is asked before each request that may change something. Its error is the request's, which is
// not sent then.
func Before(ctx context.Context, check func() error) context.Context {
	return context.WithValue(ctx, beforeKey{}, check)
}

// names says whether a request names the stack's project as the one that uses the service, whose quota counts and in which the service
// must be enabled. Else that is the project of the credentials, which may be another, or none. Cloud Storage goes by the bucket's
// project, and must serve the state before anything was enabled.
func (c *Client) names(call Call) bool {
	return c.Google() && call.API.Name != "storage" && !c.unnamed.Load()
}

// unname says whether a request that named the project is to be sent again without. Whoever may not use the project's services, as
// somebody who may only look at what is there, is asked on account of the credentials from now on. And where Service Usage itself is not
// enabled, there is no other way to enable it.
func (c *Client) unname(call Call, err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	if slices.Contains([]string{"USER_PROJECT_DENIED", "CONSUMER_INVALID", "SYSTEM_PARAMETER_UNSUPPORTED"}, e.Reason) || strings.Contains(e.Message, "serviceusage.services.use") {
		c.unnamed.Store(true)
		return true
	}
	return call.API == kind.ServiceUsageAPI && e.Disabled()
}

// elsewhere makes a fault of the error that a service is not enabled, if that is in another project than the stack's: it says nothing
// of what is in the stack's.
func (c *Client) elsewhere(call Call, err error) error {
	var e *Error
	number := c.number.Load()
	if isFault(err) || !errors.As(err, &e) || !e.Disabled() || e.Project == "" || e.Project == c.opts.Project || number == nil || e.Project == *number {
		return err
	}
	return c.notEnabled(call.API, e)
}

func (c *Client) notEnabled(api *resource.API, e *Error) error {
	return &fault.Fault{
		Summary: "A service is not enabled in the project of your credentials",
		Detail: fmt.Sprintf("%s.googleapis.com goes by the project %s, in which it is not enabled, and not by the stack's, %s: your account may not use the services of that.",
			api.Name, e.Project, c.opts.Project),
		Remedy: "Have an owner of the project give you the role, wait a few minutes, then run the command again:\n" +
			"    gcloud projects add-iam-policy-binding " + c.opts.Project + " --member=user:YOUR_EMAIL --role=roles/serviceusage.serviceUsageConsumer",
		Cause: e,
	}
}

// longest bounds an answer. Lists of a thousand instances take a few megabytes.
const longest = 64 << 20

// once sends a request once and decodes its answer. Named has it name the project.
func (c *Client) once(ctx context.Context, call Call, target string, body []byte, contentType string, named bool) (http.Header, error) {
	limit := c.deadline(call)
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(timed, call.Method, target, reader)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if named {
		req.Header.Set("X-Goog-User-Project", c.opts.Project)
	}
	if c.opts.Endpoint != "" && c.opts.Token != "" { // in the request itself: it does not follow a redirect to elsewhere
		req.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	c.requests.Add(1)
	failed := func(err error) error {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the URL stands in the caller's message
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isFault(err):
			return err
		case timed.Err() != nil:
			return &unanswered{after: limit, cause: err}
		}
		return &unanswered{cause: err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, failed(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, longest+1))
	switch {
	case err != nil:
		return nil, failed(err)
	case len(raw) > longest:
		return nil, fmt.Errorf("the answer is longer than %d MiB", longest>>20)
	}
	return resp.Header, decode(call, resp, raw)
}

// decode puts an answer where the call wants it. What cannot be an answer of Google's is told from a refusal.
func decode(call Call, resp *http.Response, raw []byte) error {
	bad := &garbled{code: resp.StatusCode, content: resp.Header.Get("Content-Type"), size: len(raw)}
	redirect := resp.StatusCode > 300 && resp.StatusCode < 400 && resp.StatusCode != http.StatusNotModified
	switch {
	case redirect, resp.StatusCode == http.StatusNetworkAuthenticationRequired:
		return bad
	case resp.StatusCode >= 300:
		return parseError(resp, raw)
	}
	if out, ok := call.Out.(*[]byte); ok {
		kind, _, _ := mime.ParseMediaType(bad.content)
		if kind == "text/html" || len(raw) == 0 && resp.Header.Get("X-Goog-Generation") == "" { // Cloud Storage gives an empty object its generation
			return bad
		}
		*out = raw
		return nil
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if !json.Valid(raw) { // nothing at all is not
		return bad
	}
	if call.Out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, call.Out); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// withoutRequestID are the last parts of the paths of Compute's methods that change nothing, or take no requestId. Global
// resources' setLabels take none either. TestRequestIDsOfCompute holds it against the discovery document.
var withoutRequestID = []string{
	"wait", "getHealth", "listManagedInstances", "listPerInstanceConfigs", "applyUpdatesToInstances", "deletePerInstanceConfigs",
	"setIamPolicy", "testIamPermissions", "validate", "preview",
}

// takesRequestID says whether Compute accepts ?requestId= here, which makes a repeated request the same request.
func takesRequestID(call Call) bool {
	if call.API.Operation != resource.Compute || call.Method == http.MethodGet || strings.Contains(call.Path, "/operations/") {
		return false
	}
	verb := call.Path[strings.LastIndexByte(call.Path, '/')+1:]
	return !slices.Contains(withoutRequestID, verb) && (verb != "setLabels" || !strings.Contains(call.Path, "/global/"))
}

// Enabled tells the client that this run enabled a service, so that its first refusals are worth a retry.
func (c *Client) Enabled(service string) {
	c.enabled.Store(strings.TrimSuffix(service, ".googleapis.com"), true)
}

// EnabledLately tells it that a run before this one wanted to enable a service a short time ago. Whether it came to that is for
// Service Usage to say.
func (c *Client) EnabledLately(service string) {
	c.lately.Store(strings.TrimSuffix(service, ".googleapis.com"), true)
}

// fresh says whether a service was enabled a short time ago.
func (c *Client) fresh(ctx context.Context, name string) bool {
	if _, ours := c.enabled.Load(name); ours {
		return true
	}
	_, lately := c.lately.Load(name)
	return lately && c.isEnabled(ctx, name)
}

// enabledThough says whether the service that was called is enabled in the stack's project, though it answered as if it were not:
// then it was enabled a short time ago, by whomever.
func (c *Client) enabledThough(ctx context.Context, call Call, e *Error) bool {
	name := call.API.Name
	if _, ours := c.enabled.Load(name); ours {
		return true
	}
	number := c.number.Load()
	if number == nil || call.API == kind.ServiceUsageAPI { // the number itself can be had elsewhere
		return false
	}
	here := e.Project == c.opts.Project || e.Project == *number
	if e.Project == "" {
		here = !e.Disabled() || !c.unnamed.Load() // else perhaps in the project of the credentials
	}
	if !here || !c.isEnabled(ctx, name) {
		return false
	}
	c.enabled.Store(name, true)
	return true
}

// isEnabled asks Service Usage, once, which services the project has enabled. What nobody may know is not enabled.
func (c *Client) isEnabled(ctx context.Context, name string) bool {
	c.servicesMu.Lock()
	defer c.servicesMu.Unlock()
	if c.services == nil {
		items, err := c.List(ctx, kind.Services.Kind, "projects/"+c.opts.Project+"/services", url.Values{"filter": {"state:ENABLED"}, "pageSize": {"200"}})
		if err != nil && ctx.Err() != nil {
			return false
		}
		c.services = map[string]bool{}
		for _, item := range items {
			full, _ := item["name"].(string)
			c.services[strings.TrimSuffix(full[strings.LastIndexByte(full, '/')+1:], ".googleapis.com")] = true
		}
	}
	return c.services[name]
}

// Now is the time by the server's clock, as far as an answer told it.
func (c *Client) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *Client) learnTime(header http.Header) {
	if t, err := http.ParseTime(header.Get("Date")); err == nil {
		c.ahead.Store(int64(time.Until(t)))
	}
}

// MadeAccount tells the client that this run made a service account.
func (c *Client) MadeAccount() { c.madeAccount.Store(true) }

// DeletesAccount tells it that this run deletes the service account: that one is refused is no passing thing then.
func (c *Client) DeletesAccount() { c.madeAccount.Store(false) }

// ProjectNumber gives the number Google writes in place of the project's ID in some names. One request, once.
func (c *Client) ProjectNumber(ctx context.Context) (string, error) {
	c.numberMu.Lock()
	defer c.numberMu.Unlock()
	if n := c.number.Load(); n != nil {
		return *n, nil
	}
	var project struct {
		ProjectNumber string `json:"projectNumber"`
	}
	err := c.Do(ctx, Call{API: kind.ResourceManagerAPI, Method: http.MethodGet, Path: "projects/" + c.opts.Project, Out: &project})
	var e *Error
	if errors.As(err, &e) && e.Disabled() {
		// In a new project Resource Manager is not enabled yet. Service Usage always is, and names the project by number.
		var service struct {
			Parent string `json:"parent"` // "projects/123456789012"
		}
		err = c.Do(ctx, Call{API: kind.ServiceUsageAPI, Method: http.MethodGet, Path: "projects/" + c.opts.Project + "/services/serviceusage.googleapis.com", Out: &service})
		project.ProjectNumber = strings.TrimPrefix(service.Parent, "projects/")
	}
	if err != nil {
		if errors.As(err, &e) && e.Disabled() && e.Project != "" && e.Project != c.opts.Project && c.unnamed.Load() {
			return "", c.notEnabled(kind.ServiceUsageAPI, e)
		}
		if errors.As(err, &e) && (e.Code == 403 || e.Code == 404) {
			f := &fault.Fault{
				Summary: "The project cannot be read",
				Detail:  fmt.Sprintf("The project %s does not exist, or you may not see it.", c.opts.Project),
				Remedy:  "Check its name in the description.",
				Cause:   err,
			}
			if c.Google() {
				f.Remedy = "Check its name and your rights on it:\n    gcloud projects describe " + c.opts.Project
			}
			return "", f
		}
		return "", err
	}
	if project.ProjectNumber == "" {
		return "", fmt.Errorf("the answer about the project %s has no number", c.opts.Project)
	}
	c.number.Store(&project.ProjectNumber)
	return project.ProjectNumber, nil
}

// LearnProjectNumber tells the client the project's number, which an answer showed, so that it need not ask.
func (c *Client) LearnProjectNumber(number string) {
	c.number.Store(&number)
}
