package smoke

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
)

// client is a browser, as far as Dify's console needs one: it keeps cookies, and sends the CSRF token in a header too. It
// repeats nothing and follows no redirect: what fails once is seen.
type client struct {
	base      string
	http      *http.Client
	transport *http.Transport
	cookies   map[string]string
}

func newClient(base string, config *tls.Config) (*client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, &fault.Fault{
			Summary: "Not the address of a Dify",
			Detail:  fmt.Sprintf("%q is not a URL such as https://dify.example.com, without a path.", base),
			Remedy:  "Give one:\n    difyup smoke --url https://dify.example.com",
		}
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, TLSHandshakeTimeout: 20 * time.Second, MaxIdleConnsPerHost: 2,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, ForceAttemptHTTP2: true,
	}
	return &client{
		base: u.Scheme + "://" + u.Host, transport: t, cookies: map[string]string{},
		http: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// reply is an answer, read to its end.
type reply struct {
	method, path string
	status       int
	header       http.Header
	body         []byte
	instance     string // "" = the answer does not say
	cookies      []*http.Cookie
}

const maxReply = 8 << 20

// ask sends a value as JSON, nil for no body.
func (c *client) ask(ctx context.Context, method, path string, body any) (*reply, error) {
	if body == nil {
		return c.send(ctx, method, path, "", nil)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, method, path, "application/json", raw)
}

func (c *client) send(ctx context.Context, method, path, contentType string, body []byte) (*reply, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "difyup-smoke")
	req.Header.Set("Accept", "application/json, text/html;q=0.9, */*;q=0.8")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	// By hand: a cookie jar holds Secure cookies back when Dify is asked without TLS, behind which it may well stand.
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(c.cookies)) {
		pairs = append(pairs, name+"="+c.cookies[name])
	}
	if len(pairs) > 0 {
		req.Header.Set("Cookie", strings.Join(pairs, "; "))
	}
	if token := c.cookie("csrf_token"); token != "" {
		req.Header.Set("X-CSRF-Token", token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreached(c.base, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("%s %s: the answer breaks off: %w", method, path, err)
	}
	r := &reply{method: method, path: path, status: resp.StatusCode, header: resp.Header, body: raw, instance: resp.Header.Get(dify.InstanceHeader), cookies: resp.Cookies()}
	for _, cookie := range r.cookies {
		if cookie.MaxAge < 0 || cookie.Value == "" {
			delete(c.cookies, cookie.Name)
		} else {
			c.cookies[cookie.Name] = cookie.Value
		}
	}
	return r, nil
}

// hostPrefix is how the names of cookies begin that a browser gives back to this host alone, and by https.
const hostPrefix = "__Host-"

// cookie gives the value of a cookie, by its name with or without the prefix that Dify gives it behind https.
func (c *client) cookie(name string) string {
	if v := c.cookies[hostPrefix+name]; v != "" {
		return v
	}
	return c.cookies[name]
}

// elsewhere has the next request come by a new connection, which may end at another instance.
func (c *client) elsewhere() { c.transport.CloseIdleConnections() }

// unreached says why no answer came.
func unreached(base string, err error) error {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		urlErr    *url.Error
	)
	if errors.As(err, &urlErr) {
		err = urlErr.Err // without the method and the address, which are told anyway
	}
	switch {
	case errors.As(err, &dns):
		return &fault.Fault{
			Summary: "The name is not known",
			Detail:  fmt.Sprintf("%s: %s", base, sentence(err.Error())),
			Remedy:  "Point the domain at the load balancer's address, which this shows:\n    difyup outputs",
		}
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid):
		return &fault.Fault{
			Summary: "The certificate is not trusted",
			Detail:  fmt.Sprintf("%s: %s", base, sentence(err.Error())),
			Remedy:  "Wait until Google has issued the certificate, which can take an hour after the domain points here. For one of your own:\n    difyup smoke --ca FILE\nFor a self-signed one, where nobody can be in between:\n    difyup smoke --insecure",
		}
	}
	return fmt.Errorf("no answer from %s: %w", base, err)
}

// want checks the status. An account that may not do something says nothing of the stack.
func (r *reply) want(status ...int) error {
	switch {
	case slices.Contains(status, r.status):
		return nil
	case r.forbidden():
		return &fault.Fault{
			Summary: "The account may not do this",
			Detail:  sentence(r.says()),
			Remedy:  "It needs the role editor, admin or owner in its workspace; for the addresses of plugins, admin or owner. Use another account:\n    difyup smoke --email ADDRESS",
		}
	}
	return errors.New(r.says())
}

// forbidden says whether Dify knows who asks, and refuses.
func (r *reply) forbidden() bool { return r.status == http.StatusForbidden && r.code() == "forbidden" }

// says tells an answer that was not wanted, with what is in it.
func (r *reply) says() string {
	text := fmt.Sprintf("%s %s answered %d", r.method, r.path, r.status)
	if r.instance != "" {
		text += " (" + r.instance + ")"
	}
	var e struct {
		Code    any
		Message any
		Error   any
		Result  any
	}
	if json.Unmarshal(r.body, &e) == nil {
		for _, v := range []any{e.Code, e.Message, e.Error} {
			if v != nil && v != "" {
				text += fmt.Sprintf(": %v", v)
			}
		}
		return text
	}
	switch what := http.DetectContentType(r.body); {
	case strings.HasPrefix(what, "text/html"):
		text += ": a page, not the API"
	case strings.HasPrefix(what, "text/plain") && len(r.body) > 0:
		text += ": " + string(r.body[:min(len(r.body), 200)])
	}
	return text
}

// code is the word for an error in an answer of Dify's API.
func (r *reply) code() string {
	var e struct{ Code string }
	_ = json.Unmarshal(r.body, &e) // what is no JSON has none
	return e.Code
}

// read checks the status and reads the answer's JSON.
func (r *reply) read(into any, status ...int) error {
	if err := r.want(status...); err != nil {
		return err
	}
	if err := json.Unmarshal(r.body, into); err != nil {
		return fmt.Errorf("%s, and not with the JSON that is wanted", r.says())
	}
	return nil
}

// enough is how many requests for each instance are sent at once to meet all of them.
const enough = 30

// unnamed is how many requests are sent where answers do not say where they come from.
const unnamed = 6

// awaits says whether an instance that so many requests did not meet is asked for once more, and waits before that. One that
// was slow, or is new, gets no requests for a while: the load balancer has to see it well again.
func (s *session) awaits(ctx context.Context, requests int, since time.Time) bool {
	if requests < enough*max(1, len(s.instances)) {
		return true
	}
	if time.Since(since) > s.opts.Patience/2 {
		return false
	}
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// excuse takes instances off the list that did not answer and need not: those that the group has given up since, and those that serve and
// get no requests from here. It says whether there are any, and others.
func (s *session) excuse(ctx context.Context, missing []string) bool {
	those := func(of func(context.Context, []string) ([]string, error)) []string {
		if of == nil || len(missing) == 0 {
			return nil
		}
		named, err := of(ctx, missing)
		if err != nil { // that they do not answer says more
			return nil
		}
		return slices.DeleteFunc(slices.Clone(missing), func(i string) bool { return !slices.Contains(named, i) })
	}
	off := func(all, some []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(i string) bool { return slices.Contains(some, i) })
	}
	left := those(s.opts.Left)
	missing = off(missing, left)
	serving := those(s.opts.Serving)
	rest := off(s.instances, append(left, serving...))
	if len(rest) == 0 || len(rest) == len(s.instances) {
		return false
	}
	s.instances, s.unmet = rest, append(s.unmet, serving...)
	return true
}

// everywhere sends requests until each instance that is known has answered one. Check gets every answer.
func (s *session) everywhere(ctx context.Context, ask func(context.Context) (*reply, error), check func(*reply) error) (detail string, err error) {
	met := map[string]int{}
	requests, began := 0, time.Now()
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(s.instances), func(i string) bool { return met[i] > 0 })
	}
	for len(missing()) > 0 || len(s.instances) == 0 && requests < unnamed {
		if !s.awaits(ctx, requests, began) {
			if s.excuse(ctx, missing()) {
				continue
			}
			return "", &fault.Fault{
				Summary: "An instance gets no requests",
				Detail:  fmt.Sprintf("Of %d requests none was answered by %s; the others were answered by %s.", requests, strings.Join(missing(), ", "), counts(met)),
				Remedy:  "See whether it is healthy; one that was being replaced meanwhile is no fault, then run this again:\n    difyup status",
			}
		}
		if requests > 0 && requests%4 == 0 {
			s.client.elsewhere()
		}
		r, err := ask(ctx)
		if err != nil {
			return "", err
		}
		requests++
		if err := check(r); err != nil {
			return "", err
		}
		if r.instance != "" {
			met[r.instance]++
		}
	}
	if len(met) == 0 {
		return onSome(requests), nil
	}
	return s.onAll(len(met)), nil
}

// onSome says how many requests that were, of whose answers nobody knows where they come from.
func onSome(requests int) string {
	return fmt.Sprintf("%d requests; the answers do not say from which instance", requests)
}

// onAll says how many instances that was.
func (s *session) onAll(n int) string {
	switch {
	case len(s.unmet) > 0:
		return fmt.Sprintf("%d of %d instances", n, n+len(s.unmet))
	case n == 1:
		return "the only instance"
	case n == 2:
		return "both instances"
	}
	return fmt.Sprintf("all %d instances", n)
}

func counts(met map[string]int) string {
	var out []string
	for _, i := range slices.Sorted(maps.Keys(met)) {
		out = append(out, fmt.Sprintf("%s (%d)", i, met[i]))
	}
	if out == nil {
		return "nobody who says its name"
	}
	return strings.Join(out, ", ")
}
