// Package migrate has a release's migrations run exactly once in the whole stack, however many instances start at the same time.
// Start reading at Run.
package migrate
