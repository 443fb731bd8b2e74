package need

import (
	"os"
	"testing"
)

// Exception is why CI may lack something that a test needs.
type Exception string

// All exceptions. Whoever adds one says why .ci/run cannot install it.
const (
	Gcloud     Exception = "Debian's archive, npm and PyPI have no gcloud, and CI may reach nothing else; what it asks, conformance asks with Google's Go client"
	Recordings Exception = "it is a tool that shows differences to whoever changes the local cloud, and judges nothing"
)

// Missing skips a test that lacks something, which the text says, with how to get it; "" is nothing.
func Missing(t testing.TB, missing string) {
	t.Helper()
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

// Root skips a test unless root runs it, with the reason.
func Root(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, why)
	}
}

// Long skips a test where short ones were asked for, and says what it does that takes long.
func Long(t testing.TB, does string) {
	t.Helper()
	if testing.Short() {
		Missing(t, does)
	}
}

// Excepted is Missing for what CI may lack.
func Excepted(t testing.TB, why Exception, missing string) {
	t.Helper()
	if missing != "" {
		t.Skipf("%s (also where CI is true: %s)", missing, why)
	}
}
