// Package identity is the metadata endpoint that containers get in place of Google's: it says who they are, and gives each caller an
// access token that is worth no more than the caller needs. Each caller has a listener of its own, and is known by it.
package identity
