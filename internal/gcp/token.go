package gcp

import (
	"fmt"
	"net/http"

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
