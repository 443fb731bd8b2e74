package stores_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/test/servers"
)

const password = "0123456789abcdef"

// world is a PostgreSQL server.
type world struct {
	t   *testing.T
	sql *plane.SQL
	dir string
	at  string
	n   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	data := servers.Open(t)
	w := &world{t: t, sql: data.SQL, dir: data.Dir}
	at, err := w.sql.Create(t.Context(), "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sql.SetUser(t.Context(), "p/main", "dify", password); err != nil {
		t.Fatal(err)
	}
	w.at = at.String()
	// A user with no rights but to log in.
	w.exec(w.as("dify", "postgres"), `CREATE ROLE plain LOGIN PASSWORD '`+password+`'`)
	return w
}

func (w *world) as(user, database string) *pgx.ConnConfig {
	w.t.Helper()
	config, err := stores.PostgresConfig(net.DefaultResolver, w.at, 5432, user, password, database)
	if err != nil {
		w.t.Fatal(err)
	}
	return config
}

// database makes an empty database, and gives its name.
func (w *world) database() string {
	w.t.Helper()
	w.n++
	name := fmt.Sprintf("dify%d", w.n)
	if err := w.sql.CreateDatabase(w.t.Context(), "p/main", name); err != nil {
		w.t.Fatal(err)
	}
	return name
}

func (w *world) exec(config *pgx.ConnConfig, statements ...string) {
	w.t.Helper()
	c, err := pgx.ConnectConfig(w.t.Context(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, q := range statements {
		if _, err := c.Exec(w.t.Context(), q); err != nil {
			w.t.Fatalf("%s: %v", q, err)
		}
	}
}

// ask gives the one text that a query gives.
func (w *world) ask(config *pgx.ConnConfig, query string) (text string) {
	w.t.Helper()
	c, err := pgx.ConnectConfig(w.t.Context(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close(context.Background())
	if err := c.QueryRow(w.t.Context(), query).Scan(&text); err != nil {
		w.t.Fatal(err)
	}
	return text
}

const (
	extensions = `SELECT coalesce(string_agg(oid || ' ' || extname || ' ' || extversion, ', ' ORDER BY extname), '') FROM pg_extension WHERE extname <> 'plpgsql'`
	// ours are the tables, and the schemas besides public.
	ours = `SELECT coalesce(string_agg(name, ', '), '') FROM (
		SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
		UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema')) all_of`
)

// TestProvide has six instances provide for the same empty database at the same time, ten times: each is content, the extension
// is there, and nothing else is. Then it is not touched any more.
func TestProvide(t *testing.T) {
	w := newWorld(t)
	for _, extension := range []string{"vector", "uuid-ossp"} {
		for range 5 {
			name := w.database()
			var all sync.WaitGroup
			for i := range 6 {
				all.Go(func() {
					if err := stores.Provide(t.Context(), w.as("dify", name), stores.Needs{Extension: extension, Schema: "difyup"}); err != nil {
						t.Errorf("instance %d: %v", i, err)
					}
				})
			}
			all.Wait()
			before := w.ask(w.as("dify", name), extensions)
			if !strings.Contains(before, " "+extension+" ") || strings.Contains(before, ",") {
				t.Errorf("the extensions are %q", before)
			}
			if err := stores.Provide(t.Context(), w.as("dify", name), stores.Needs{Extension: extension, Schema: "difyup"}); err != nil {
				t.Error(err)
			}
			if after := w.ask(w.as("dify", name), extensions); after != before {
				t.Errorf("the extensions were %q and are %q", before, after)
			}
			if left := w.ask(w.as("dify", name), ours); left != "" {
				t.Errorf("it leaves %q", left)
			}
		}
	}
}

// TestLacks has databases that do not allow what Dify does. What is told names it and the way out, and is not more than that.
func TestLacks(t *testing.T) {
	w := newWorld(t)
	both := stores.Needs{Extension: "vector", Schema: "difyup"}
	for _, tc := range []struct {
		name, user string
		before     []string // as the database's owner
		needs      stores.Needs
		want       string
	}{
		{"no tables", "plain", nil, stores.Needs{}, "does not let its user make tables; the owner of its schema public can: GRANT CREATE ON SCHEMA public"},
		{"no schemas", "plain", []string{`GRANT CREATE ON SCHEMA public TO plain`}, both, "does not let its user make schemas; its owner can: GRANT CREATE ON DATABASE"},
		{"the schema is there", "plain", []string{`GRANT CREATE ON SCHEMA public TO plain`, `CREATE SCHEMA difyup`}, stores.Needs{Schema: "difyup"}, ""},
		{"no extension", "plain", []string{`GRANT CREATE ON SCHEMA public TO plain`}, stores.Needs{Extension: "vector"},
			`lacks the extension vector, which its user may not make; somebody who may can: CREATE EXTENSION "vector"`},
		{"the extension is there", "plain", []string{`GRANT CREATE ON SCHEMA public TO plain`, `CREATE EXTENSION vector`}, stores.Needs{Extension: "vector"}, ""},
		{"an extension that nobody has", "dify", nil, stores.Needs{Extension: "no-such"}, "lacks the extension no-such, and its server does not have it either; it must be installed there"},
		{"no schema public", "dify", []string{`DROP SCHEMA public`}, both, "has no schema public, and its owner must make it: CREATE SCHEMA public"},
		{"read-only", "dify", []string{`ALTER ROLE dify IN DATABASE %s SET default_transaction_read_only = on`}, both, "is read-only; it must take writes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := w.database()
			for _, q := range tc.before {
				w.exec(w.as("dify", name), strings.ReplaceAll(q, "%s", name))
			}
			err := stores.Provide(t.Context(), w.as(tc.user, name), tc.needs)
			says := ""
			var lack *stores.Lack
			if errors.As(err, &lack) {
				says = lack.Says
			} else if err != nil {
				t.Error(err)
			}
			if says != tc.want {
				t.Errorf("it says %q, want %q (%v)", says, tc.want, err)
			}
		})
	}
}

// TestNotInstalled takes the extension away from the server, and gives it back.
func TestNotInstalled(t *testing.T) {
	w := newWorld(t)
	control := ""
	err := filepath.WalkDir(w.dir, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == "vector.control" {
			control = path
		}
		return err
	})
	if err != nil || control == "" {
		t.Fatalf("no vector.control below %s: %v", w.dir, err)
	}
	if err := os.Rename(control, control+".away"); err != nil {
		t.Fatal(err)
	}
	name := w.database()
	var lack *stores.Lack
	if err := stores.Provide(t.Context(), w.as("dify", name), stores.Needs{Extension: "vector"}); !errors.As(err, &lack) || !strings.Contains(lack.Says, "its server does not have it either") {
		t.Errorf("without it: %v", err)
	}
	if err := os.Rename(control+".away", control); err != nil {
		t.Fatal(err)
	}
	if err := stores.Provide(t.Context(), w.as("dify", name), stores.Needs{Extension: "vector"}); err != nil {
		t.Errorf("with it again: %v", err)
	}
}
