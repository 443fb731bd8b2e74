package conformance_test

import (
	"os"
	"testing"
)

// TestMain keeps Google's clients from looking for a metadata server of this machine's, which they do by themselves where they are
// given no credentials, as where they are given a client for HTTP: nobody listens where they are told that it is.
func TestMain(m *testing.M) {
	for _, name := range []string{"GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"} {
		if err := os.Setenv(name, "127.0.0.1:1"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
