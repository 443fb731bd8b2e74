package standin

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/test/servers"
)

// TestEncrypted has the stand-in's clients speak to stores as the settings of Dify's say: each that is said to verify refuses a
// server whose authority it does not know.
func TestEncrypted(t *testing.T) {
	data := servers.Open(t)
	const password = "0123456789abcdef"
	write := func(file string, all []authority.Authority, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, a := range all {
			text += a.PEM
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at, err := data.SQL.Create(t.Context(), "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(data.SQL.SetUser(t.Context(), "p/main", "dify", password), data.SQL.SetEncrypted(t.Context(), "p/main", true)); err != nil {
		t.Fatal(err)
	}
	red, err := data.Cache.CreateEncrypted(t.Context(), "p/redis", password, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.Cache.CreateEncrypted(t.Context(), "p/other", password, nil); err != nil {
		t.Fatal(err)
	}
	known, strange := t.TempDir(), t.TempDir()
	all, _, err := data.SQL.Authorities("p/main")
	write(filepath.Join(known, dify.DatabaseAuthorities), all, err)
	all, err = data.Cache.Authorities("p/redis")
	write(filepath.Join(known, dify.RedisAuthorities), all, err)
	all, err = data.Cache.Authorities("p/other")
	write(filepath.Join(strange, dify.DatabaseAuthorities), all, err)
	write(filepath.Join(strange, dify.RedisAuthorities), all, err)

	release, err := dify.Lookup(dify.Default)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = password
	}
	database := dify.Database{Host: at.String(), Port: 5432, User: "dify", Name: "postgres", PluginName: "postgres"}
	for _, tc := range []struct {
		name          string
		tls           dify.TLS
		dir           string
		refuse, other bool // who verifies, who does not
	}{
		{"the authorities are known", dify.Verified, known, false, false},
		{"those of another server are", dify.Verified, strange, true, false},
		{"only encryption is asked for", dify.Required, strange, false, false},
		{"nothing is", dify.Plain, strange, true, true},
	} {
		database.TLS = tc.tls
		redis := dify.Address{Host: red.String(), Port: 6378, TLS: dify.Verified}
		if tc.tls == dify.Plain {
			redis.TLS = dify.Plain
		}
		services, err := dify.Project(release, dify.Settings{
			Stores: dify.Stores{Database: database, Vector: database, Redis: redis}, Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192},
		}, secrets)
		if err != nil {
			t.Fatal(err)
		}
		env := func(n dify.Name) settings {
			for _, s := range services {
				if s.Name == n {
					return func(name string) string { return strings.ReplaceAll(s.Environment[name], dify.AuthorityDir, tc.dir) }
				}
			}
			return nil
		}
		o := Options{Resolver: net.DefaultResolver}
		b, err := newBackend(t.Context(), env(dify.API), o)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		d, err := newDaemon(t.Context(), env(dify.PluginDaemon), o)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		ask := func(p *pool) error {
			return p.do(t.Context(), func(c *pgx.Conn) error { return c.Ping(t.Context()) })
		}
		redisRefuses := tc.refuse || tc.tls == dify.Required // where Redis is verified by what is not its own
		for what, got := range map[string]struct {
			err    error
			refuse bool
		}{
			"API's database": {ask(b.main), tc.refuse}, "API's vectors": {ask(b.vector), tc.refuse}, "daemon's database": {ask(d.db), tc.refuse},
			"Celery": {b.queue.Ping(context.Background()).Err(), redisRefuses}, "events": {b.events.Ping(context.Background()).Err(), redisRefuses},
			"API's cache": {b.cache.Ping(context.Background()).Err(), tc.other},
		} {
			if (got.err != nil) != got.refuse {
				t.Errorf("when %s: %s: %v", tc.name, what, got.err)
			}
		}
	}
}
