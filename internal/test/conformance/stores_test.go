//go:build linux

package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/test/servers"
)

// TestStores has the clients by which Dify's API and worker reach their stores, opened by what dify.Project gives these, meet servers
// with certificates of each shape: who is said in docs/tls.md to verify refuses a server whose authority it does not know, nobody is
// served without encryption, and a change of the authority interrupts nobody who knows both.
func TestStores(t *testing.T) {
	data := servers.Open(t)
	shapes := []authority.Names{authority.NoNames, authority.DNSNames, authority.AddressNames}
	made := map[authority.Names]*stores{}
	for _, shape := range shapes {
		made[shape] = newStores(t, data, shape)
	}
	const versions = "import celery, kombu.transport.redis, psycopg2, redis, sqlalchemy; print(celery.__version__, psycopg2.__version__, psycopg2.extensions.libpq_version(), redis.__version__, sqlalchemy.__version__)"
	pythons(t, versions, func(t *testing.T, python string) {
		for _, shape := range shapes {
			t.Run(string(shape), func(t *testing.T) {
				t.Parallel() // Celery pauses after what is refused
				made[shape].meet(t, startStores(t, python))
			})
		}
	})
}

// What clients meet. Redis has no words for who does not speak TLS where it takes nothing else.
const (
	stranger    = "certificate verify failed"
	misnamed    = "mismatch, certificate is not valid for"
	fileMissing = "o such file or directory"
	rootMissing = "does not exist"
	unencrypted = "no encryption"
	hangsUp     = "ConnectionError"
)

// stores are a PostgreSQL, which is both databases, and a Redis that refuse what is not encrypted.
type stores struct {
	*servers.Servers
	shape      authority.Names
	sql, cache string // their names
	given      dify.Stores
}

const storesPassword = "0123456789abcdef"

func newStores(t *testing.T, data *servers.Servers, shape authority.Names) *stores {
	t.Helper()
	s := &stores{Servers: data, shape: shape, sql: "p/sql-" + string(shape), cache: "p/cache-" + string(shape)}
	data.SQL.SetNames(shape)
	data.Cache.SetNames(shape)
	sql, err := data.SQL.Create(t.Context(), s.sql, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(data.SQL.SetUser(t.Context(), s.sql, "dify", storesPassword), data.SQL.SetEncrypted(t.Context(), s.sql, true)); err != nil {
		t.Fatal(err)
	}
	cache, err := data.Cache.CreateEncrypted(t.Context(), s.cache, storesPassword, nil)
	if err != nil {
		t.Fatal(err)
	}
	database := dify.Database{Host: sql.String(), Port: 5432, User: "dify", Name: "postgres", PluginName: "postgres"}
	s.given = dify.Stores{Database: database, Vector: database, Redis: dify.Address{Host: cache.String(), Port: 6378}}
	return s
}

// meet has the clients of a program meet the stores.
func (s *stores) meet(t *testing.T, p *storesProgram) {
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(s.SQL.AddAuthority(s.sql), s.Cache.AddAuthority(s.cache))
	sqls, _, err := s.SQL.Authorities(s.sql)
	must(err)
	caches, err := s.Cache.Authorities(s.cache)
	must(err)
	// The last two are that which signed the certificate and the next one: choose says which of them a directory's files hold.
	write := func(choose func(two []authority.Authority) []authority.Authority) (dir string) {
		dir = t.TempDir()
		for file, listed := range map[string][]authority.Authority{dify.DatabaseAuthorities: sqls, dify.RedisAuthorities: caches} {
			text := ""
			for _, a := range choose(listed[len(listed)-2:]) {
				text += a.PEM
			}
			must(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
		}
		return dir
	}
	both := write(func(two []authority.Authority) []authority.Authority { return two })
	old := write(func(two []authority.Authority) []authority.Authority { return two[:1] })
	next := write(func(two []authority.Authority) []authority.Authority { return two[1:] })
	another, err := authority.NewSet(s.shape)
	must(err)
	others, _ := another.List()
	strange := write(func([]authority.Authority) []authority.Authority { return others })

	release, err := dify.Lookup(dify.Default)
	must(err)
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = storesPassword
	}
	given := func(who dify.Name, sql, cache dify.TLS, dir string) map[string]string {
		to := s.given
		to.Database.TLS, to.Vector.TLS, to.Redis.TLS = sql, sql, cache
		services, err := dify.Project(release, dify.Settings{Stores: to, Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192}}, secrets)
		must(err)
		env := map[string]string{}
		for _, service := range services {
			if service.Name == who {
				for name, value := range service.Environment {
					env[name] = strings.ReplaceAll(value, dify.AuthorityDir, dir)
				}
			}
		}
		return env
	}
	cacheToo := ""
	if s.shape != authority.AddressNames { // it is reached by its address here
		cacheToo = misnamed
	}
	verified := func(dir string) map[string]string { return given(dify.API, dify.Verified, dify.Verified, dir) }
	with := func(env map[string]string, name, value string) map[string]string {
		env[name] = value
		return env
	}
	env := verified(both)
	for _, tc := range []struct {
		when string
		env  map[string]string
		want meetings
	}{
		{"both are known", env, all("", nil)},
		{"the authority is known", verified(old), all("", nil)},
		{"another server's is", verified(strange), all(stranger, meetings{"cache": ""})},
		{"the next one alone is", verified(next), all(stranger, meetings{"cache": ""})},
		{"there are no files", verified(t.TempDir()), all(fileMissing, meetings{"database": rootMissing, "vectors": rootMissing})},
		{"databases are to be encrypted only", given(dify.API, dify.Required, dify.Verified, strange), all(stranger, meetings{"database": "", "vectors": "", "cache": ""})},
		{"nothing is to be", given(dify.API, dify.Plain, dify.Plain, strange), all(hangsUp, meetings{"database": "", "vectors": ""})}, // libpq prefers it by itself
		{"libpq is told not to", with(verified(both), "PGSSLMODE", "disable"), all("", meetings{"database": unencrypted, "vectors": unencrypted})},
		{"the cache's client is told to verify", with(verified(both), "REDIS_SSL_CERT_REQS", "CERT_REQUIRED"), all("", meetings{"cache": cacheToo})},
		{"the worker knows both", given(dify.Worker, dify.Verified, dify.Verified, both), all("", nil)},
		{"the worker knows another server's", given(dify.Worker, dify.Verified, dify.Verified, strange), all(stranger, meetings{"cache": ""})},
	} {
		p.expect(t, tc.when, tc.env, tc.want)
	}

	p.expect(t, "before the change", env, all("", nil))
	must(s.SQL.RotateAuthority(t.Context(), s.sql, ""), s.Cache.RotateAuthority(t.Context(), s.cache))
	p.expect(t, "connections from before", nil, all("", nil))
	p.expect(t, "both, after the change", env, all("", nil))
	refused, now := all(stranger, meetings{"cache": ""}), meetings{}
	for end := time.Now().Add(5 * time.Minute); !cmp.Equal(now, refused) && time.Now().Before(end); { // PostgreSQL reads its certificate a little later
		now = p.ask(t, verified(old), refused)
	}
	if d := cmp.Diff(refused, now); d != "" {
		t.Errorf("the old one alone, after the change (-want +got):\n%s", d)
	}
	p.expect(t, "both, with the new certificate", env, all("", nil))
	p.expect(t, "the next one alone, after the change", verified(next), all("", nil))
}

// meetings is what each client of testdata/stores.py meets, "" for nothing.
type meetings map[string]string

// all has every client meet the same, but for some.
func all(what string, but meetings) meetings {
	m := meetings{"database": what, "vectors": what, "cache": what, "queue": what, "results": what, "events": what}
	maps.Copy(m, but)
	return m
}

// storesProgram is testdata/stores.py, which runs until the test ends.
type storesProgram struct {
	in  *json.Encoder
	out *json.Decoder
}

func startStores(t *testing.T, python string) *storesProgram {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, python, "testdata/stores.py")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()} // libpq knows authorities by the home too
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Errorf("%v\n%s", err, said.String())
		}
	})
	return &storesProgram{json.NewEncoder(in), json.NewDecoder(out)}
}

// expect has clients be opened by an environment, or used again for nil, and compares what they meet.
func (p *storesProgram) expect(t *testing.T, when string, env map[string]string, want meetings) {
	t.Helper()
	if d := cmp.Diff(want, p.ask(t, env, want)); d != "" {
		t.Errorf("%s (-want +got):\n%s", when, d)
	}
}

// ask gives what clients meet, in the words that are wanted where those are among theirs.
func (p *storesProgram) ask(t *testing.T, env map[string]string, want meetings) meetings {
	t.Helper()
	got := meetings{}
	if err := errors.Join(p.in.Encode(env), p.out.Decode(&got)); err != nil {
		t.Fatal(err)
	}
	for name, text := range got {
		if w := want[name]; w != "" && strings.Contains(text, w) {
			got[name] = w
		}
	}
	return got
}
