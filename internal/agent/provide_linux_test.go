package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/report"
)

// bare is a runtime without services. Its migration is that of the default release.
type bare struct {
	at       netip.Addr
	main     *pgx.ConnConfig
	migrated *atomic.Int64
	runs     *atomic.Int64
	fail     chan struct{} // ends one Run each
}

func (b *bare) Prepare(context.Context, []dify.Service) error { return nil }
func (b *bare) Run(ctx context.Context, _ []dify.Service) error {
	b.runs.Add(1)
	select {
	case <-b.fail:
		return errors.New("it ended")
	case <-ctx.Done():
		return nil
	}
}
func (b *bare) Stop(context.Context, []dify.Name) error { return nil }
func (b *bare) Address(dify.Name) string                { return "" }
func (b *bare) Relay() (netip.Addr, netip.Prefix)       { return b.at, netip.Prefix{} }
func (b *bare) Identity(dify.Name) (netip.AddrPort, runtime.Asker) {
	return netip.AddrPortFrom(b.at, 0), runtime.Asker{}
}
func (b *bare) Health(context.Context) error                                { return nil }
func (b *bare) States(context.Context) (map[dify.Name]runtime.State, error) { return nil, nil }
func (b *bare) Job(ctx context.Context, j runtime.Job) (runtime.Result, error) {
	if j.Service.Name != dify.API {
		return runtime.Result{}, nil
	}
	b.migrated.Add(1)
	// As Dify's own first migration, it needs the extension.
	return runtime.Result{}, do(ctx, b.main, `CREATE TABLE first (id uuid DEFAULT uuid_generate_v4())`, `CREATE TABLE alembic_version (version_num varchar(32))`,
		`INSERT INTO alembic_version VALUES ('c3f1a9b2e6d4')`)
}

func do(ctx context.Context, config *pgx.ConnConfig, statements ...string) error {
	c, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for _, q := range statements {
		if _, err := c.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// TestProvided boots two instances at once on stores that lack something of everything. Both wait, with the words for what is
// missing, and go on as soon as it is given; at last both serve, and nothing of what they tried with is left.
func TestProvided(t *testing.T) {
	data, settings := storesOf(t, "bare")
	// as gives how a database is reached.
	as := func(user, secret, name string) *pgx.ConnConfig {
		config, err := stores.PostgresConfig(net.DefaultResolver, settings.Stores.Database.Host, 5432, user, secretOf(secret), name)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	main, plugins := as("dify", "demo-db-password", "dify"), as("dify", "demo-db-password", "dify_plugin")

	// What is missing.
	const owner = "pg_database_owner"
	if err := do(t.Context(), main, `REVOKE CREATE ON DATABASE dify FROM cloudsqlsuperuser`); err != nil {
		t.Fatal(err)
	}
	if err := do(t.Context(), plugins, `REVOKE CREATE ON SCHEMA public FROM `+owner); err != nil {
		t.Fatal(err)
	}
	control := ""
	err := filepath.WalkDir(data.Dir, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == "vector.control" {
			control = path
		}
		return err
	})
	if err = errors.Join(err, os.Rename(control, control+".away")); err != nil {
		t.Fatal(err)
	}

	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}

	// instance is an agent with what it sees of Google.
	type instance struct {
		*cloud
		name  string
		log   strings.Builder // read when it has ended
		ended chan error
	}
	var (
		instances      []*instance
		migrated, runs atomic.Int64
		fail           = make(chan struct{})
	)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, name := range []string{"vm-1", "vm-2"} {
		i := &instance{cloud: &cloud{config: string(config), objects: map[string]string{}, older: map[string]string{}, lacks: "storage.buckets.get"}, name: name, ended: make(chan error, 1)}
		if i.ip, err = data.Net.Addr(plane.Instance); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/computeMetadata/v1/instance/name" {
				io.WriteString(w, name)
				return
			}
			i.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		instances = append(instances, i)
		go func() {
			i.ended <- Run(ctx, Options{
				MetadataHost: server.Listener.Addr().String(), Log: slog.New(slog.NewTextHandler(&i.log, nil)),
				Runtimes: map[string]func(Instance) runtime.Runtime{"bare": func(in Instance) runtime.Runtime { return &bare{in.Address, main, &migrated, &runs, fail} }},
			})
		}()
	}
	defer func() {
		cancel()
		for _, i := range instances {
			if err := <-i.ended; err != nil {
				t.Error(err)
			}
			for _, words := range []string{value, "token-1"} {
				if strings.Contains(i.log.String(), words) {
					t.Errorf("the log of %s shows %q", i.name, words)
				}
				for _, said := range i.reports {
					if strings.Contains(said, words) {
						t.Errorf("a report of %s shows %q", i.name, words)
					}
				}
			}
			for _, words := range []string{"permission denied for schema public", "403 Forbidden"} {
				if !strings.Contains(i.log.String(), words) {
					t.Errorf("the log of %s does not say %q", i.name, words)
				}
			}
			if t.Failed() {
				t.Log(i.log.String())
			}
		}
	}()
	client := &http.Client{Timeout: time.Minute}
	// both waits until both instances answer so.
	both := func(code int, words string) {
		t.Helper()
		for _, i := range instances {
			last := ""
			for end := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
				if resp, err := client.Get("http://" + netip.AddrPortFrom(i.ip, Port).String() + "/health"); err == nil {
					raw, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if last = resp.Status + " " + string(raw); err == nil && resp.StatusCode == code && strings.Contains(string(raw), words) {
						break
					}
				}
				if time.Now().After(end) {
					t.Fatalf("%s answers %s, want %d with %q", i.name, last, code, words)
				}
			}
		}
	}
	// reported waits until both have published that they wait so.
	reported := func(words string) {
		t.Helper()
		for _, i := range instances {
			for end, found := time.Now().Add(3*time.Minute), false; !found; time.Sleep(20 * time.Millisecond) {
				i.mu.Lock()
				for _, raw := range i.reports {
					d, err := report.Parse(raw)
					found = found || err == nil && d.Phase == report.Stores && d.Waiting == words
				}
				said := i.reports
				i.mu.Unlock()
				if !found && time.Now().After(end) {
					t.Fatalf("%s does not report %q: %q", i.name, words, said)
				}
			}
		}
	}

	both(503, "the database does not let its user make schemas; its owner can: GRANT CREATE ON DATABASE")
	reported("the database does not let its user make schemas; its owner can: GRANT CREATE ON DATABASE")
	if err := do(t.Context(), main, `GRANT CREATE ON DATABASE dify TO cloudsqlsuperuser`); err != nil {
		t.Fatal(err)
	}
	both(503, "the plugins' database does not let its user make tables")
	if err := do(t.Context(), plugins, `GRANT CREATE ON SCHEMA public TO `+owner); err != nil {
		t.Fatal(err)
	}
	both(503, "the vector database lacks the extension vector, and its server does not have it either")
	if err := os.Rename(control+".away", control); err != nil {
		t.Fatal(err)
	}
	for _, lacks := range []string{"storage.buckets.get", "storage.objects.list", "storage.objects.create", "storage.objects.delete", "storage.objects.get"} {
		for _, i := range instances {
			i.mu.Lock()
			i.lacks = lacks
			i.mu.Unlock()
		}
		both(503, "the bucket does not let the instance's service account ")
		both(503, "("+lacks+")")
	}
	if migrated.Load() != 0 {
		t.Error("the databases were migrated before the bucket may be read")
	}
	for _, i := range instances {
		i.mu.Lock()
		i.lacks, i.busy = "", 1
		i.mu.Unlock()
	}
	both(200, "ready")
	if migrated.Load() != 1 {
		t.Errorf("the databases were migrated %d times", migrated.Load())
	}
	for config, want := range map[*pgx.ConnConfig]string{
		main:    "extensions plpgsql, uuid-ossp; tables alembic_version, first; schemas difyup",
		plugins: "extensions plpgsql; tables ; schemas ",
		as("vector", "demo-vector-password", "dify_vector"): "extensions plpgsql, vector; tables ; schemas ",
	} {
		got := ""
		c, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		err = c.QueryRow(t.Context(), `SELECT 'extensions ' || (SELECT coalesce(string_agg(extname, ', ' ORDER BY extname), '') FROM pg_extension)
			|| '; tables ' || (SELECT coalesce(string_agg(relname, ', ' ORDER BY relname), '') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')
			|| '; schemas ' || (SELECT coalesce(string_agg(nspname, ', '), '') FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema'))`).Scan(&got)
		if err = errors.Join(err, c.Close(t.Context())); err != nil || got != want {
			t.Errorf("the database %s has %q, want %q (%v)", config.Database, got, want, err)
		}
	}
	for _, i := range instances {
		i.mu.Lock()
		if len(i.objects)+len(i.older) != 0 {
			t.Errorf("%s leaves %v and %v", i.name, i.objects, i.older)
		}
		i.lacks = "storage.objects.create"
		i.mu.Unlock()
	}

	// A right that is lost later does not keep Dify from being started again.
	for range instances {
		fail <- struct{}{}
	}
	for end := time.Now().Add(3 * time.Minute); runs.Load() < 4; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the runtimes were started %d times", runs.Load())
		}
	}
	both(200, "ready")
}
