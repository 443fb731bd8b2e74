package agent

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/authority"
)

// TestTrust fetches the authorities of stores that are verified, and of no others; what is there stays when that does not work,
// and what is added comes beside it.
func TestTrust(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as the agent's unit has it
	one := func() authority.Authority {
		s, err := authority.NewSet(authority.NoNames)
		if err != nil {
			t.Fatal(err)
		}
		all, _ := s.List()
		return all[0]
	}
	var mu sync.Mutex
	main, vector, red := []authority.Authority{one()}, []authority.Authority{one()}, []authority.Authority{one()}
	code := http.StatusOK
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/computeMetadata/") {
			_, _ = w.Write([]byte(`{"access_token":"token-1","expires_in":3600}`))
			return
		}
		asked = append(asked, r.URL.Path)
		if r.Header.Get("Authorization") != "Bearer token-1" || code != http.StatusOK {
			w.WriteHeader(code)
			return
		}
		field, all := "certs", main
		switch r.URL.Path {
		case "/v1/projects/p/instances/demo-vector/listServerCas":
			all = vector
		case "/v1/projects/p/locations/r/instances/demo-redis":
			field, all = "serverCaCerts", red
		}
		var certs []map[string]string
		for _, a := range all {
			certs = append(certs, map[string]string{"cert": a.PEM})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{field: certs})
	}))
	defer server.Close()
	a := &agent{log: slog.New(slog.DiscardHandler), google: &google{host: server.Listener.Addr().String(), client: server.Client()}, endpoint: server.URL + "/"}
	a.opts.Authorities = filepath.Join(t.TempDir(), "authorities")
	a.settings = dify.Settings{Project: "p", Region: "r", Stores: dify.Stores{
		Database: dify.Database{TLS: dify.Required}, Vector: dify.Database{TLS: dify.Required}, Redis: dify.Address{},
	}}
	if err := a.trust(t.Context()); err != nil || len(asked) > 0 {
		t.Fatalf("for stores that are not verified it asks %q, %v", asked, err)
	}
	a.settings.Stores.Database = dify.Database{TLS: dify.Verified, Instance: "demo-main"}
	a.settings.Stores.Vector = dify.Database{TLS: dify.Verified, Instance: "demo-vector"}
	a.settings.Stores.Redis = dify.Address{TLS: dify.Verified, Instance: "demo-redis"}
	says := func() string {
		err := a.trust(t.Context())
		var of *unready
		if err != nil && !errors.As(err, &of) {
			t.Fatal(err)
		}
		return words(err)
	}
	code = http.StatusForbidden
	if got := says(); got != "the certificate authorities of the database may not be read" {
		t.Errorf("without the right it says %q", got)
	}
	code = http.StatusOK
	red = nil
	if got := says(); got != "the certificate authorities of Redis are not there yet" {
		t.Errorf("while Redis is made it says %q", got)
	}
	red = []authority.Authority{one()}
	if got := says(); got != "" {
		t.Fatal(got)
	}
	know := func(file string, all ...authority.Authority) {
		t.Helper()
		path := filepath.Join(a.opts.Authorities, file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		for _, c := range all {
			want += c.PEM
			block, _ := pem.Decode([]byte(c.PEM))
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: a.authorities.pool(file)(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if string(text) != want {
			t.Errorf("%s holds\n%s, want\n%s", file, text, want)
		}
		for path, want := range map[string]os.FileMode{path: 0o644, a.opts.Authorities: 0o755} {
			if about, err := os.Stat(path); err != nil || about.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; services are to read it", path, about.Mode(), err)
			}
		}
	}
	know(dify.DatabaseAuthorities, main[0], vector[0])
	know(dify.RedisAuthorities, red[0])
	mu.Lock()
	next := one()
	main = append(main, next)
	mu.Unlock()
	if got := says(); got != "" {
		t.Fatal(got)
	}
	know(dify.DatabaseAuthorities, main[0], next, vector[0])
	code = http.StatusServiceUnavailable
	if says() == "" {
		t.Error("it did not notice that it was refused")
	}
	know(dify.DatabaseAuthorities, main[0], next, vector[0])
}
