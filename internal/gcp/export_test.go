package gcp

import (
	"net/http"

	"golang.org/x/oauth2"
)

// Rules gives the names of the rules and for how many seconds each is followed.
func Rules() map[string]float64 {
	m := map[string]float64{}
	for _, r := range rules {
		m[r.name] = r.within.Seconds()
	}
	return m
}

// Sources gives each rule's source, by its name.
func Sources() map[string]string {
	m := map[string]string{}
	for _, r := range rules {
		m[r.name] = r.source
	}
	return m
}

// TakesRequestID is asked whether a request bears a request ID.
var TakesRequestID = takesRequestID

// Harmless makes a text from outside fit to be shown.
var Harmless = harmless

// WithTokens puts a source's tokens on requests.
func WithTokens(source oauth2.TokenSource, base http.RoundTripper) http.RoundTripper {
	return &tokenTransport{source: source, base: base}
}
