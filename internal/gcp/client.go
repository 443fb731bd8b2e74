package gcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	HTTP      *http.Client // nil = one of the client's own
	Events    event.Sink   // retries and long waits
	UserAgent string
	Drivers   map[string]func(*Client) Driver // by Kind.Driver
}

// Client calls Google. It is safe for concurrent use.
type Client struct {
	opts     Options
	http     *http.Client
	requests atomic.Int64
	drivers  map[string]Driver

	numberMu sync.Mutex
	number   string // the project's number, once known
	enabled  sync.Map
}

// New makes a client. On Google it needs application default credentials and says how to get them.
func New(ctx context.Context, o Options) (*Client, error) {
	c := &Client{opts: o, http: o.HTTP}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 128, 64
		c.http = &http.Client{Transport: transport}
		if o.Endpoint == "" {
			creds, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
			if err != nil {
				return nil, &fault.Fault{
					Summary: "No Google Cloud credentials",
					Detail:  "difyup uses application default credentials, and found none.",
					Remedy:  "Log in, or rehearse without an account:\n    gcloud auth application-default login\n    difyup apply --local",
					Cause:   err,
				}
			}
			c.http = &http.Client{Transport: &tokenTransport{source: creds.TokenSource, base: transport}}
		}
	}
	c.drivers = map[string]Driver{"": &REST{Client: c}}
	for name, make := range o.Drivers {
		c.drivers[name] = make(c)
	}
	return c, nil
}

// Project is the project's ID.
func (c *Client) Project() string { return c.opts.Project }

// Google says whether it is Google that is called, and not another cloud at an endpoint: advice that names Google's console
// or gcloud is of use there alone.
func (c *Client) Google() bool { return c.opts.Endpoint == "" }

// Requests counts the HTTP requests sent so far, retries included.
func (c *Client) Requests() int64 { return c.requests.Load() }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

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
}

// Do sends a request and decodes the answer. What may pass by itself is tried again, for up to retryFor, each time
// with an event. Bodies are in no error, for they may hold secrets.
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
	began := time.Now()
	for try := 0; ; try++ {
		raw, header, err := c.once(ctx, call.Method, target, body, contentType)
		if err == nil {
			if call.Header != nil {
				*call.Header = header
			}
			return decode(raw, call)
		}
		why, wait := c.retry(call, err, try)
		if why == "" || call.Once || ctx.Err() != nil || time.Since(began)+wait > retryFor(why) {
			return fmt.Errorf("%s %s: %w", strings.ToLower(call.Method), call.Path, err)
		}
		c.Notify(event.Retried, call.For, fmt.Sprintf("%s; again in %s", why, wait.Round(10*time.Millisecond)))
		if err := Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func decode(raw []byte, call Call) error {
	switch out := call.Out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = raw
		return nil
	default:
		if len(bytes.TrimSpace(raw)) == 0 {
			return nil
		}
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("decode the answer of %s %s: %w", call.Method, call.Path, err)
		}
		return nil
	}
}

func (c *Client) once(ctx context.Context, method, target string, body []byte, contentType string) ([]byte, http.Header, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if c.opts.Endpoint != "" && c.opts.Token != "" { // in the request itself: it does not follow a redirect to elsewhere
		req.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	c.requests.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL stands in the caller's message
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, nil, parseError(resp, raw)
	}
	return raw, resp.Header, nil
}

// takesRequestID says whether Compute accepts ?requestId= here, which makes a repeated request the same request.
func takesRequestID(call Call) bool {
	if call.API.Operation != resource.Compute || call.Method == http.MethodGet || strings.Contains(call.Path, "/operations/") {
		return false
	}
	return !strings.HasSuffix(call.Path, "/setLabels") && !strings.HasSuffix(call.Path, "/getHealth") && !strings.HasSuffix(call.Path, "listManagedInstances")
}

// retryFor is how long a reason is worth retrying.
func retryFor(why string) time.Duration {
	switch why {
	case whyDisabled:
		return 5 * time.Minute
	case whyFreshAccount:
		return 2 * time.Minute
	case whyBusy:
		return 30 * time.Minute
	}
	return 90 * time.Second
}

// The reasons to try again that are not plain overload.
const (
	whyDisabled     = "the API was just enabled and is not ready everywhere"
	whyFreshAccount = "the service account was just created and is not known everywhere"
	whyBusy         = "another operation is in progress"
)

// retry says why a failed call is worth another try ("" when it is not), and after how long.
func (c *Client) retry(call Call, err error, try int) (why string, wait time.Duration) {
	wait = Backoff(try, 200*time.Millisecond, 10*time.Second)
	var e *Error
	if !errors.As(err, &e) {
		var netErr net.Error
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return "", 0
		case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return "the connection failed (" + err.Error() + ")", wait
		}
		return "", 0
	}
	wait = max(wait, e.After)
	switch {
	case e.Code == 429, e.Code >= 500 && e.Code != 501:
		return fmt.Sprintf("Google answered %d %s", e.Code, e.Reason), wait
	case e.Code == 408:
		return "the request timed out", wait
	case e.Code == 403 && (e.Reason == "rateLimitExceeded" || e.Reason == "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED" || strings.Contains(e.Message, "per minute")):
		return "the rate limit is reached", wait
	case e.Disabled():
		if _, ours := c.enabled.Load(call.API.Name); ours {
			return whyDisabled, min(wait, 5*time.Second)
		}
	case e.Reason == "operationInProgress", e.Reason == "resourceNotReady", strings.Contains(e.Message, "peering operation in progress"), strings.Contains(e.Message, "Another activation or deactivation is in progress"):
		return whyBusy, Backoff(try, 50*time.Millisecond, 5*time.Second)
	case e.Code == 400 && strings.Contains(e.Message, "ervice account") && strings.Contains(e.Message, "does not exist"):
		return whyFreshAccount, min(wait, 5*time.Second)
	}
	return "", 0
}

// Enabled tells the client that this run enabled a service, so that its first refusals are worth a retry.
func (c *Client) Enabled(service string) {
	c.enabled.Store(strings.TrimSuffix(service, ".googleapis.com"), true)
}

// ProjectNumber gives the number Google writes in place of the project's ID in some names. One request, once.
func (c *Client) ProjectNumber(ctx context.Context) (string, error) {
	c.numberMu.Lock()
	defer c.numberMu.Unlock()
	if c.number != "" {
		return c.number, nil
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
	c.number = project.ProjectNumber
	return c.number, nil
}
