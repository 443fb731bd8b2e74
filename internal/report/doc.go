// Package report is what an instance says of itself: a small document that the agent publishes as a guest attribute, and that
// `difyup status --deep` reads through the API. Start reading at Document.
package report
