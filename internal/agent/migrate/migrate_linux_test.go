package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/migrate"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/test/servers"
)

const password = "0123456789abcdef"

// world is a PostgreSQL server.
type world struct {
	t   *testing.T
	sql *plane.SQL
	at  string
	n   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	data := servers.Open(t)
	w := &world{t: t, sql: data.SQL}
	at, err := w.sql.Create(t.Context(), "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sql.SetUser(t.Context(), "p/main", "dify", password); err != nil {
		t.Fatal(err)
	}
	w.at = at.String()
	return w
}

// database makes an empty database, and gives how it is reached.
func (w *world) database() *pgx.ConnConfig {
	w.t.Helper()
	w.n++
	name := fmt.Sprintf("dify%d", w.n)
	if err := w.sql.CreateDatabase(w.t.Context(), "p/main", name); err != nil {
		w.t.Fatal(err)
	}
	config, err := stores.PostgresConfig(net.DefaultResolver, w.at, 5432, "dify", password, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return config
}

func execute(ctx context.Context, config *pgx.ConnConfig, statements ...string) error {
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

// to gives the statements of a migration that ends at a revision.
func to(head string) []string {
	return []string{`CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32))`, `DELETE FROM alembic_version`, `INSERT INTO alembic_version VALUES ('` + head + `')`}
}

func release(t *testing.T, version string) dify.Release {
	t.Helper()
	r, err := dify.Lookup(version)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// options are those of an instance whose jobs are functions.
func options(t *testing.T, config *pgx.ConnConfig, version, instance string, job func(context.Context, runtime.Job) (runtime.Result, error)) migrate.Options {
	return migrate.Options{
		Main: config, Release: release(t, version), Instance: instance, Job: job, Say: func(string) {}, Log: slog.New(slog.DiscardHandler),
		Services: []dify.Service{{Name: dify.API}, {Name: dify.Worker}, {Name: dify.PluginDaemon}},
	}
}

// TestOnce has five instances begin at the same time, twice: the migrations of both databases run once.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	config := w.database()
	var api, daemon atomic.Int64
	job := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
		switch {
		case j.Service.Name == dify.API && j.Environment["MODE"] == "migration" && j.Environment["MIGRATION_ENABLED"] == "true" && j.Command == nil:
			api.Add(1)
			time.Sleep(200 * time.Millisecond)
			return runtime.Result{}, execute(ctx, config, to("c3f1a9b2e6d4")...)
		case j.Service.Name == dify.PluginDaemon && strings.Join(j.Command, " ") == "/app/commandline migrate":
			daemon.Add(1)
			return runtime.Result{}, nil
		}
		return runtime.Result{}, fmt.Errorf("an unknown job: %+v", j)
	}
	for range 2 {
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				schema, err := migrate.Run(t.Context(), options(t, config, "1.17.1", fmt.Sprint("vm-", i), job))
				if err != nil || schema != (migrate.Schema{Version: "1.17.1", Head: "c3f1a9b2e6d4"}) {
					t.Errorf("vm-%d: %v, %v", i, schema, err)
				}
			})
		}
		all.Wait()
	}
	if api.Load() != 1 || daemon.Load() != 1 {
		t.Errorf("the main database was migrated %d times, the plugins' %d times", api.Load(), daemon.Load())
	}
	// A database that was restored to an older state is migrated again; a newer one is not touched.
	if err := execute(t.Context(), config, to("0123456789ab")...); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Run(t.Context(), options(t, config, "1.17.1", "vm-1", job)); err != nil || api.Load() != 2 {
		t.Errorf("after a restore: %v, migrated %d times", err, api.Load())
	}
	var newer *migrate.Newer
	if _, err := migrate.Run(t.Context(), options(t, config, "1.16.0", "vm-1", job)); !errors.As(err, &newer) || newer.Have != "1.17.1" || api.Load() != 2 {
		t.Errorf("an older release: %v, migrated %d times", err, api.Load())
	}
}

// TestFailures has migrations end in ways that their exit status does not tell.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name, version, head string
		status              int
		want                string // "" = it is well
	}{
		{"status", "1.17.1", "", 1, "api ended with status 1"},
		{"skipped", "1.17.1", "", 0, "the database has no schema"},
		{"half way", "1.17.1", "788d3099ae3a", 0, "ended well at the revision 788d3099ae3a, and 1.17.1 ends at c3f1a9b2e6d4"},
		{"well", "1.17.1", "c3f1a9b2e6d4", 0, ""},
		{"whose end is not known", "1.17.0", "abcdefabcdef", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := w.database()
			job := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
				if tc.head != "" {
					return runtime.Result{Status: tc.status}, execute(ctx, config, to(tc.head)...)
				}
				return runtime.Result{Status: tc.status, Lines: "why it did not"}, nil
			}
			for range 2 { // what failed is not recorded
				_, err := migrate.Run(t.Context(), options(t, config, tc.version, "vm-1", job))
				var failed *migrate.Failed
				if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &failed) || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
			}
		})
	}
}

// TestLostHolder ends the session that holds the lock while a migration runs. The migration is told to end, and nobody begins
// another one before its own connections are gone.
func TestLostHolder(t *testing.T) {
	w := newWorld(t)
	config := w.database()
	begun, told := make(chan struct{}), make(chan struct{})
	var inside, most atomic.Int64
	first := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
		c := config.Copy()
		c.RuntimeParams["application_name"] = j.Environment["PGAPPNAME"]
		conn, err := pgx.ConnectConfig(context.WithoutCancel(ctx), c)
		if err != nil {
			return runtime.Result{}, err
		}
		inside.Add(1)
		close(begun)
		<-ctx.Done() // and it takes a while to end
		close(told)
		time.Sleep(3 * time.Second)
		inside.Add(-1)
		if err := conn.Close(context.WithoutCancel(ctx)); err != nil {
			return runtime.Result{}, err
		}
		return runtime.Result{}, ctx.Err()
	}
	second := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
		most.Store(max(most.Load(), inside.Add(1)))
		defer inside.Add(-1)
		return runtime.Result{}, execute(ctx, config, to("c3f1a9b2e6d4")...)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := migrate.Run(t.Context(), options(t, config, "1.17.1", "vm-1", first))
		ended <- err
	}()
	<-begun
	if err := execute(t.Context(), config, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'`); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Run(t.Context(), options(t, config, "1.17.1", "vm-2", second)); err != nil {
		t.Error(err)
	}
	select {
	case <-told:
	default:
		t.Error("the first migration was not told to end")
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the lock for migrations was lost") {
		t.Errorf("the first instance says %v", err)
	}
	if most.Load() != 1 {
		t.Errorf("%d migrations ran at the same time", most.Load())
	}
}

// TestSlowPing has each job end while the session with the lock is used, and the server take its time to answer: nothing is lost, and
// nothing is done twice.
func TestSlowPing(t *testing.T) {
	w := newWorld(t)
	config := w.database()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var relaying sync.WaitGroup
	defer relaying.Wait()
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hold, held atomic.Bool // the answer to the next ping is to be held; and that to what is asked now
	asked, answer := make(chan struct{}), make(chan struct{}, 1)
	relay := func(from, to net.Conn, look func([]byte)) {
		defer to.Close()
		for buf := make([]byte, 64<<10); ; {
			n, err := from.Read(buf)
			look(buf[:n])
			if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
				return
			}
		}
	}
	relaying.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			far, err := net.Dial("tcp", net.JoinHostPort(w.at, "5432"))
			if err != nil {
				t.Error(err)
				near.Close()
				continue
			}
			relaying.Go(func() {
				relay(near, far, func(question []byte) {
					if bytes.Contains(question, []byte("-- ping")) && hold.CompareAndSwap(true, false) {
						held.Store(true)
					}
				})
			})
			relaying.Go(func() {
				relay(far, near, func([]byte) {
					if !held.CompareAndSwap(true, false) {
						return
					}
					for _, c := range []chan struct{}{asked, answer} {
						select {
						case <-c:
						case <-ctx.Done():
						}
					}
				})
			})
		}
	})
	var jobs []dify.Name
	job := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
		jobs = append(jobs, j.Service.Name)
		err := execute(ctx, config, to("c3f1a9b2e6d4")...)
		hold.Store(true)
		select {
		case asked <- struct{}{}:
		case <-ctx.Done():
			return runtime.Result{}, ctx.Err()
		}
		time.AfterFunc(200*time.Millisecond, func() { answer <- struct{}{} }) // long after the job has ended
		return runtime.Result{}, err
	}
	slow := config.Copy()
	slow.Host, slow.Port = "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port)
	for range 2 {
		o := options(t, slow, "1.17.1", "vm-1", job)
		o.Ping = 10 * time.Millisecond
		schema, err := migrate.Run(t.Context(), o)
		if err != nil || schema != (migrate.Schema{Version: "1.17.1", Head: "c3f1a9b2e6d4"}) {
			t.Errorf("%v, %v", schema, err)
		}
	}
	if want := []dify.Name{dify.API, dify.PluginDaemon}; !slices.Equal(jobs, want) {
		t.Errorf("the jobs were %q, want %q", jobs, want)
	}
}

// TestLeft has an instance's engine fail while a job runs, so that the job may be about: others wait for what nobody may hear of
// any more, and the instance itself, whose runtime has cleared up then, does not.
func TestLeft(t *testing.T) {
	w := newWorld(t)
	config := w.database()
	broken := func(context.Context, runtime.Job) (runtime.Result, error) {
		return runtime.Result{}, errors.New("the engine does not answer")
	}
	well := func(ctx context.Context, _ runtime.Job) (runtime.Result, error) {
		return runtime.Result{}, execute(ctx, config, to("c3f1a9b2e6d4")...)
	}
	waits := func(ctx context.Context, instance string, lost time.Duration) error {
		o := options(t, config, "1.17.1", instance, well)
		o.Look, o.Lost = 10*time.Millisecond, lost
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if lost == 0 {
			o.Say = func(what string) {
				if what == "waits for a migration to end whose instance was lost" {
					cancel()
				}
			}
		}
		_, err := migrate.Run(ctx, o)
		return err
	}
	for _, tc := range []struct {
		who  string
		lost time.Duration
		want error
	}{{"vm-2", 0, context.Canceled}, {"vm-1", 0, nil}, {"vm-2", 50 * time.Millisecond, nil}} {
		if err := execute(t.Context(), config, `DROP TABLE IF EXISTS alembic_version`); err != nil {
			t.Fatal(err)
		}
		if _, err := migrate.Run(t.Context(), options(t, config, "1.17.1", "vm-1", broken)); err == nil {
			t.Fatal("it is well")
		}
		if err := waits(t.Context(), tc.who, tc.lost); !errors.Is(err, tc.want) {
			t.Errorf("%s, which gives others %s: %v, want %v", tc.who, tc.lost, err, tc.want)
		}
	}
}
