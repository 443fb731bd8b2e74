package gcp

import (
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/difyup/difyup/internal/fault"
)

// refused says whether who gives out tokens said no. An answer that did not come whole, or that says to come again, is none.
func refused(err error) bool {
	r := (*oauth2.RetrieveError)(nil)
	if !errors.As(err, &r) {
		return false
	}
	if r.Response == nil {
		return r.ErrorCode != ""
	}
	code := r.Response.StatusCode
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests
}

// tokenTransport puts the access token on each request.
type tokenTransport struct {
	source oauth2.TokenSource
	base   http.RoundTripper
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.source.Token()
	if err != nil && !refused(err) {
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
