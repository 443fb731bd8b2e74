package stores_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/test/servers"
)

// TestVerified has clients meet a server with a certificate of its own authority, of the next one, and of another server's, with
// each of the names that certificates may bear. The plugin daemon's client is pgx by the daemon's own words.
func TestVerified(t *testing.T) {
	data := servers.Open(t)
	pem := func(all []authority.Authority) (text string) {
		for _, a := range all {
			text += a.PEM
		}
		return text
	}
	dir := t.TempDir()
	for _, names := range []authority.Names{authority.NoNames, authority.DNSNames, authority.AddressNames} {
		data.SQL.SetNames(names)
		data.Cache.SetNames(names)
		id, cached, other := "p/"+string(names), "p/redis-"+string(names), "p/other-"+string(names)
		at, err := data.SQL.Create(t.Context(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(data.SQL.SetUser(t.Context(), id, "dify", password), data.SQL.SetEncrypted(t.Context(), id, true), data.SQL.AddAuthority(id)); err != nil {
			t.Fatal(err)
		}
		own, _, err := data.SQL.Authorities(id)
		if err != nil || len(own) != 2 {
			t.Fatalf("there are %d authorities, %v", len(own), err)
		}
		red, err := data.Cache.CreateEncrypted(t.Context(), cached, password, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := data.Cache.CreateEncrypted(t.Context(), other, password, nil); err != nil {
			t.Fatal(err)
		}
		redOwn, err := data.Cache.Authorities(cached)
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := data.Cache.Authorities(other)
		if err != nil {
			t.Fatal(err)
		}
		agent := func(text string) error {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(text))
			c, err := stores.PostgresConfig(net.DefaultResolver, at.String(), 5432, "dify", password, "postgres")
			if err != nil {
				return err
			}
			c.TLSConfig = stores.TLS(func() *x509.CertPool { return pool })
			return stores.ReachPostgres(t.Context(), c)
		}
		daemon := func(mode, text string) error {
			file := filepath.Join(dir, "authorities.pem")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PGSSLROOTCERT", file)
			if text == "" {
				t.Setenv("PGSSLROOTCERT", "")
			}
			c, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=5432 user=dify password=%s dbname=postgres sslmode=%s", at, password, mode))
			if err != nil {
				return err
			}
			return c.Close(t.Context())
		}
		cache := func(text string) error {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(text))
			o := stores.RedisOptions(net.DefaultResolver, red.String(), 6378, password)
			stores.EncryptRedis(o, stores.TLS(func() *x509.CertPool { return pool }))
			return stores.ReachRedis(t.Context(), o)
		}
		celery := func() error { // the cache's client encrypts, and verifies nothing
			o := stores.RedisOptions(net.DefaultResolver, red.String(), 6378, password)
			stores.EncryptRedis(o, stores.TLS(nil))
			return stores.ReachRedis(t.Context(), o)
		}
		both, current, others := pem(own), pem(own[:1]), pem(foreign)
		try := func(when string, want map[string]bool, got map[string]error) {
			t.Helper()
			for what, ok := range want {
				if err := got[what]; (err == nil) != ok {
					t.Errorf("certificates with %s, %s: %s: %v", names, when, what, err)
				}
			}
		}
		try("before", map[string]bool{
			"agent": true, "agent, of another": false, "agent, without any": false, "daemon": true, "daemon, of another": false, "daemon, not verifying": true,
			"daemon, not encrypting": false, "redis": true, "redis, of another": false, "redis, not verifying": true,
		}, map[string]error{
			"agent": agent(both), "agent, of another": agent(others), "agent, without any": agent(""), "daemon": daemon("require", both),
			"daemon, of another": daemon("require", others), "daemon, not verifying": daemon("require", ""), "daemon, not encrypting": daemon("disable", ""),
			"redis": cache(pem(redOwn)), "redis, of another": cache(others), "redis, not verifying": celery(),
		})
		if err := data.SQL.RotateAuthority(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		try("rotated", map[string]bool{"agent": true, "agent, old": false, "daemon": true, "daemon, old": false}, map[string]error{
			"agent": agent(both), "agent, old": agent(current), "daemon": daemon("require", both), "daemon, old": daemon("require", current),
		})
	}
}
