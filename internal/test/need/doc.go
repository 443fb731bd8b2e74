// Package need says what happens to a test that lacks something on this machine: it is skipped, and where CI is true it fails,
// since .ci/run installs all that tests need. No other package skips a test; internal/test/arch sees to that. What a CI may
// lack is the list of exceptions. It holds no tests but its own.
package need
