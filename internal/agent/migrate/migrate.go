package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// Options say what is migrated, and how.
type Options struct {
	Main     *pgx.ConnConfig // Dify's main database, in which the lock and the record are
	Release  dify.Release
	Services []dify.Service
	Instance string
	// Job runs a job of this instance. When Run is called none is left, nor when Job has returned no error, or that of its context
	// alone.
	Job func(context.Context, runtime.Job) (runtime.Result, error)
	Say func(what string) // what is done or waited for now, in our own words
	Log *slog.Logger

	Look time.Duration // how often what is waited for is looked at; 0 = every second
	Ping time.Duration // how often the session with the lock is used, so that its loss is noticed; 0 = every 5 s
	// Lost is how long a job may be about without a connection to the database, when nothing is heard of its instance; 0 = 5 minutes.
	// It is a container, or a process, that lives on without its agent; Dify takes up to a minute until it connects.
	Lost time.Duration
}

// Schema is what the main database was migrated to.
type Schema struct {
	Version string // of Dify
	Head    string // the revision that its migrations say they end at
}

// Newer is that the database was migrated by a newer release than this one, which would damage it.
type Newer struct{ Have, Want string }

func (n *Newer) Error() string {
	return fmt.Sprintf("the database was migrated to Dify %s, and this instance is to run %s: there is no way back", n.Have, n.Want)
}

// Failed is that migrations ran and did not come to their end.
type Failed struct {
	Of    dify.Name
	Why   string // in our own words
	Lines string // the last lines of what they said
}

func (f *Failed) Error() string {
	return fmt.Sprintf("the migration of %s %s: %s", f.Of, f.Why, f.Lines)
}

// RecordSchema is the schema of the main database in which what was migrated is recorded.
const RecordSchema = "difyup"

// lock is the advisory lock under which migrations run: a number that nobody else takes, Dify's own lock being in Redis.
const lock = 0x646966797570 // "difyup"

// session is how a migration's own connections call themselves, whichever process they are of: who holds the lock later, since
// the session of the holder before was lost, waits for them.
const session = "difyup-migrate-"

// Tables of ours. Before an instance starts a job, it notes so in attempts, and takes that back when the job has ended.
const (
	records  = RecordSchema + ".migrations"
	attempts = RecordSchema + ".migrating"
)

// Run returns when the database has the schema of the release: because it was so recorded, or because the migrations were run
// now. One instance runs them, the others wait for it. An exit status proves nothing, as releases end well that changed
// nothing: what the database says afterwards counts. The error is a *Newer, a *Failed, or that something could not be done.
func Run(ctx context.Context, o Options) (Schema, error) {
	o.Look, o.Ping, o.Lost = cmp.Or(o.Look, time.Second), cmp.Or(o.Ping, 5*time.Second), cmp.Or(o.Lost, 5*time.Minute)
	c, err := pgx.ConnectConfig(ctx, o.Main.Copy())
	if err != nil {
		return Schema{}, err
	}
	// The lock ends with its session, whatever ends that.
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.Close(end)
	}()
	// What an earlier agent of this instance's left behind is gone, and others may wait for that, one of them with the lock.
	if err := takeBack(ctx, c, o.Instance); err != nil {
		return Schema{}, err
	}
	if done, schema, err := recorded(ctx, c, o.Release.Version); done || err != nil {
		return schema, err
	}
	if err := hold(ctx, c, o); err != nil {
		return Schema{}, err
	}
	// Somebody else may have done it meanwhile.
	if done, schema, err := recorded(ctx, c, o.Release.Version); done || err != nil {
		return schema, err
	}
	if err := makeTables(ctx, c); err != nil {
		return Schema{}, err
	}
	if err := alone(ctx, c, o); err != nil {
		return Schema{}, err
	}
	before, err := head(ctx, c)
	if err != nil {
		return Schema{}, err
	}
	o.Log.Info("migrating", "to", o.Release.Version, "from", before)
	o.Say("migrates the databases to Dify " + o.Release.Version)
	if err := attempt(ctx, c, o); err != nil {
		return Schema{}, err
	}
	after, err := head(ctx, c)
	switch want := o.Release.Schema; {
	case err != nil:
		return Schema{}, err
	case after == "":
		return Schema{}, &Failed{Of: dify.API, Why: "ended well, and the database has no schema"}
	case want != "" && after != want:
		return Schema{}, &Failed{Of: dify.API, Why: fmt.Sprintf("ended well at the revision %s, and %s ends at %s", after, o.Release.Version, want)}
	}
	schema := Schema{Version: o.Release.Version, Head: after}
	o.Log.Info("migrated", "to", schema.Version, "head", schema.Head)
	return schema, record(ctx, c, schema, o.Instance)
}

// recorded says whether the database is known to have a version's schema.
func recorded(ctx context.Context, c *pgx.Conn, version string) (bool, Schema, error) {
	ctx, cancel := context.WithTimeout(ctx, stores.Patience)
	defer cancel()
	rows, _ := c.Query(ctx, `SELECT version, head FROM `+records) // its error comes with the rows
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Schema])
	if missing(err) {
		return false, Schema{}, nil
	}
	if err != nil {
		return false, Schema{}, fmt.Errorf("read the record of migrations: %w", err)
	}
	now, err := head(ctx, c)
	if err != nil {
		return false, Schema{}, err
	}
	var have *Schema
	for _, s := range all {
		if dify.Older(version, s.Version) {
			return false, s, &Newer{Have: s.Version, Want: version}
		}
		if s.Version == version {
			have = &s
		}
	}
	// Another head than was recorded is a database that was restored or changed by hand.
	if have == nil || have.Head != now {
		return false, Schema{}, nil
	}
	return true, *have, nil
}

// head gives the revision of the schema, "" when there is none.
func head(ctx context.Context, c *pgx.Conn) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stores.Patience)
	defer cancel()
	var head string
	err := c.QueryRow(ctx, `SELECT coalesce(string_agg(version_num, ',' ORDER BY version_num), '') FROM public.alembic_version`).Scan(&head)
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the revision of the schema: %w", err)
	}
	return head, nil
}

// missing says whether an error is that a table, or the schema that it is in, is not there.
func missing(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "42P01" || e.Code == "3F000")
}

// makeTables makes our tables, under the lock.
func makeTables(ctx context.Context, c *pgx.Conn) error {
	for _, q := range []string{
		`CREATE SCHEMA IF NOT EXISTS ` + RecordSchema,
		`CREATE TABLE IF NOT EXISTS ` + records + ` (version text PRIMARY KEY, head text NOT NULL, instance text NOT NULL, at timestamptz NOT NULL DEFAULT now())`,
		`CREATE TABLE IF NOT EXISTS ` + attempts + ` (instance text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())`,
	} {
		if err := exec(ctx, c, q); err != nil {
			return fmt.Errorf("make the record of migrations: %w", err)
		}
	}
	return nil
}

func exec(ctx context.Context, c *pgx.Conn, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, stores.Patience)
	defer cancel()
	_, err := c.Exec(ctx, statement, args...)
	return err
}

func record(ctx context.Context, c *pgx.Conn, s Schema, by string) error {
	err := exec(ctx, c, `INSERT INTO `+records+` (version, head, instance) VALUES ($1, $2, $3)
		ON CONFLICT (version) DO UPDATE SET head = $2, instance = $3, at = now()`, s.Version, s.Head, by)
	if err != nil {
		return fmt.Errorf("record the migration: %w", err)
	}
	return nil
}

// attempt runs the migrations, and has the others know that jobs may be about.
func attempt(ctx context.Context, c *pgx.Conn, o Options) error {
	// In the session that has the lock: when this works, we have it.
	if err := exec(ctx, c, `INSERT INTO `+attempts+` (instance) VALUES ($1) ON CONFLICT (instance) DO UPDATE SET at = now()`, o.Instance); err != nil {
		return fmt.Errorf("note that a migration begins: %w", err)
	}
	for _, m := range dify.Migrations(o.Services) {
		if sure, err := run(ctx, c, o, m); err != nil {
			if !sure {
				return err // the next Run takes it back
			}
			// The session may be lost. Where another one cannot be had either, the next Run takes it back, too.
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stores.Patience)
			defer cancel()
			if other, lost := pgx.ConnectConfig(late, o.Main.Copy()); lost == nil {
				err = errors.Join(err, takeBack(late, other, o.Instance), other.Close(late))
			}
			return err
		}
	}
	return takeBack(ctx, c, o.Instance)
}

// takeBack says that no job of an instance's is about.
func takeBack(ctx context.Context, c *pgx.Conn, instance string) error {
	if err := exec(ctx, c, `DELETE FROM `+attempts+` WHERE instance = $1`, instance); err != nil && !missing(err) {
		return fmt.Errorf("note that no migration is at work: %w", err)
	}
	return nil
}

// hold takes the lock.
func hold(ctx context.Context, c *pgx.Conn, o Options) error {
	return until(ctx, o, "waits for another instance to migrate the databases", func(ctx context.Context) (bool, error) {
		var got bool
		err := c.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lock)).Scan(&got)
		return got, err
	})
}

// alone waits until no migration of an earlier holder of the lock is at work any more: neither one that is connected, nor one that
// may be about to connect. Its instance says when none is; one of which nothing is heard is given o.Lost.
func alone(ctx context.Context, c *pgx.Conn, o Options) error {
	err := until(ctx, o, "waits for a migration to end whose instance was lost", func(ctx context.Context) (bool, error) {
		var connected, may int
		err := c.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1) AND pid <> pg_backend_pid()`, session).Scan(&connected)
		if err == nil && connected > 0 {
			_, err = c.Exec(ctx, `UPDATE `+attempts+` SET at = now() WHERE instance <> $1`, o.Instance)
			return false, err
		}
		if err == nil {
			err = c.QueryRow(ctx, `SELECT count(*) FROM `+attempts+` WHERE instance <> $1 AND at > now() - $2::interval`, o.Instance, o.Lost).Scan(&may)
		}
		return may == 0, err
	})
	if err == nil {
		err = exec(ctx, c, `DELETE FROM `+attempts+` WHERE instance <> $1`, o.Instance)
	}
	return err
}

func until(ctx context.Context, o Options, what string, do func(context.Context) (bool, error)) error {
	said := false
	for {
		look, cancel := context.WithTimeout(ctx, stores.Patience)
		done, err := do(look)
		cancel()
		if done || err != nil {
			return err
		}
		if !said {
			said = true
			o.Log.Info("waiting", "for", what)
			o.Say(what)
		}
		t := time.NewTimer(o.Look)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// run runs one migration. It is ended when the session with the lock is lost. sure says that its job is gone.
func run(ctx context.Context, c *pgx.Conn, o Options, m dify.Migration) (sure bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(o.Ping)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			// One that is under way when the job ends is not broken off: that would close the connection, and the lock with it.
			ping, done := context.WithTimeout(context.WithoutCancel(ctx), stores.Patience)
			err := c.Ping(ping)
			done()
			if err != nil {
				cancel(fmt.Errorf("the lock for migrations was lost: %w", err))
				return
			}
		}
	}()
	environment := map[string]string{"PGAPPNAME": session + o.Release.Version}
	for name, value := range m.Environment {
		environment[name] = value
	}
	result, err := o.Job(ctx, runtime.Job{Service: m.Service, Command: m.Command, Environment: environment})
	sure = err == nil || err == ctx.Err()
	close(ended)
	<-watched // the connection is ours again
	switch lost := context.Cause(ctx); {
	case lost != nil:
		return sure, lost
	case err != nil:
		return sure, err
	case result.Status != 0:
		return sure, &Failed{Of: m.Service.Name, Why: fmt.Sprintf("ended with status %d", result.Status), Lines: result.Lines}
	}
	return sure, nil
}
