package gcp

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/oauth2"

	"github.com/difyup/difyup/internal/fault"
)

// passes says whether there may be a token in a while: who gives them out did not answer, not to the end, or says to come again. Of the sources
// of golang.org/x/oauth2 most have errors of text only.
func passes(err error) bool {
	r := (*oauth2.RetrieveError)(nil)
	if errors.As(err, &r) {
		return r.Response != nil && later(r.Response.StatusCode)
	}
	text := err.Error()
	if m := statusText.FindStringSubmatch(text); m != nil {
		code, _ := strconv.Atoi(m[1])
		return later(code)
	}
	network := net.Error(nil) // a url.Error is one
	return errors.As(err, &network) || slices.ContainsFunc(noTokens, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

func later(code int) bool {
	return code >= 500 || code == http.StatusRequestTimeout || code == http.StatusTooManyRequests
}

// What sources say of an answer with another status than 200, and of none.
var (
	statusText = regexp.MustCompile(`status code (\d{3})`)
	noTokens   = []string{"oauth2: cannot fetch token: ", "oauth2/google: unable to generate access token: ", "oauth2/google: invalid response from Secure Token Server: "}
)

// tokenTransport puts the access token on each request.
type tokenTransport struct {
	source oauth2.TokenSource
	base   http.RoundTripper
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.source.Token()
	if err != nil && passes(err) {
		return nil, fmt.Errorf("get an access token: %w", err)
	}
	if err != nil {
		return nil, &fault.Fault{
			Summary: "Google Cloud credentials were refused",
			Detail:  "The application default credentials gave no access token; they may have expired.",
			Remedy:  "Log in again:\n    gcloud auth application-default login",
			Cause:   fmt.Errorf("get an access token: %w", err),
		}
	}
	req = req.Clone(req.Context())
	token.SetAuthHeader(req)
	return t.base.RoundTrip(req)
}
