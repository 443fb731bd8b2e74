package conformance_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// TestMain has Google's clients, which by themselves ask the machine's metadata server what the machine is, find one that knows nothing.
func TestMain(m *testing.M) {
	server := httptest.NewServer(http.NotFoundHandler())
	at := server.Listener.Addr().String()
	for _, name := range []string{"GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"} { // Go's and Python's; Node's; Python's old
		if err := os.Setenv(name, at); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	server.Close()
	os.Exit(code)
}
