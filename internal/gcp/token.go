package gcp

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"

	"github.com/difyup/difyup/internal/fault"
)

// tokenTransport puts the access token on each request.
type tokenTransport struct {
	source oauth2.TokenSource
	base   http.RoundTripper
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.source.Token()
	if u := (*url.Error)(nil); errors.As(err, &u) { // nobody refused anything: there was no answer
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
