package standin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/dify"
)

// Options say what the stand-in gets from outside. Each of Dify's services takes its own settings and shares nothing with
// the others but the stores. Besides Dify's settings, these count:
//
//	STANDIN_ADDRESS   the address that all services of the instance have, where they are processes; "" in containers,
//	                  which have names for each other
//	STANDIN_INSTANCE  the instance's name, for the page
//	STANDIN_VERSION   the release that it says it is
//	STANDIN_POLL      how often the plugin daemon looks for what was installed elsewhere, in milliseconds; "" = as the real one
type Options struct {
	Env      func(string) string // the process's environment
	Resolver *net.Resolver
	Log      *slog.Logger
}

// grace is how long requests in hand may take when the stand-in is told to end: what Gunicorn gives them. Tasks may take as
// long as they do, as Celery's warm shutdown has it. It is the runtime that makes an end.
const grace = 30 * time.Second

// part is a service that runs.
type part struct {
	handler http.Handler          // nil = it serves nobody
	run     func(context.Context) // until the context ends; nil for none
	close   func()
}

func open(ctx context.Context, n dify.Name, o Options) (part, error) {
	env := settings(o.Env)
	switch n {
	case dify.API:
		b, err := newBackend(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		return part{handler: newAPI(b).handler(), close: b.close}, nil
	case dify.Worker:
		b, err := newBackend(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		w := &worker{backend: b, log: o.Log}
		return part{run: w.run, close: b.close}, nil
	case dify.WorkerBeat:
		b, err := newBeat(env, o)
		if err != nil {
			return part{}, err
		}
		return part{run: b.run, close: b.close}, nil
	case dify.PluginDaemon:
		d, err := newDaemon(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		return part{handler: d.handler(), run: d.run, close: d.close}, nil
	case dify.Web:
		return part{handler: (&web{env}).handler(), close: func() {}}, nil
	case dify.Sandbox:
		return part{handler: sandbox(env), close: func() {}}, nil
	case dify.SSRFProxy:
		return part{handler: proxy(), close: func() {}}, nil
	}
	return part{}, fmt.Errorf("the stand-in plays no %q", n)
}

// Main does what the command line of a container says: without arguments, or with the name of a service, it plays that
// service until ctx ends. Which one it is without a name, MODE says, as it does in the image that API, worker and beat share.
// With MODE=migration and MIGRATION_ENABLED=true it makes the tables of the main database and ends.
func Main(ctx context.Context, args []string, o Options) error {
	name := map[string]dify.Name{"": dify.API, "api": dify.API, "migration": dify.API, "worker": dify.Worker, "beat": dify.WorkerBeat}[o.Env("MODE")]
	if len(args) > 0 {
		name, args = dify.Name(args[0]), args[1:]
	}
	if name == dify.PluginDaemon && slices.Equal(args, []string{"/app/commandline", "migrate"}) {
		return migrateDaemon(ctx, o)
	}
	if len(args) > 0 {
		return fmt.Errorf("the stand-in for %s knows no command %q", name, args[0])
	}
	if o.Env("MODE") == "migration" && o.Env("MIGRATION_ENABLED") == "true" {
		return migrate(ctx, o)
	}
	return Run(ctx, name, o)
}

// migrateDaemon makes the tables of the plugins' database.
func migrateDaemon(ctx context.Context, o Options) error {
	env := settings(o.Env)
	d, err := newDaemon(ctx, env, o)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.do(ctx, func(c *pgx.Conn) error { return statements(ctx, c, daemonTables+";"+pluginTables) }); err != nil {
		return errors.New(env.hide(err))
	}
	o.Log.Info("the plugins' tables are there")
	return nil
}

// revision is what the release's migrations end at; where that is not known, something that only this release has.
func revision(version string) string {
	if r, err := dify.Lookup(version); err == nil && r.Schema != "" {
		return r.Schema
	}
	sum := sha256.Sum256([]byte(version))
	return hex.EncodeToString(sum[:6])
}

// migrate makes the tables, and notes the revision as Dify's migrations do.
func migrate(ctx context.Context, o Options) error {
	env := settings(o.Env)
	b, err := newBackend(ctx, env, o)
	if err != nil {
		return err
	}
	defer b.close()
	err = b.db(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if err := statements(ctx, tx, mainTables+`; CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY); DELETE FROM alembic_version`); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO alembic_version VALUES ($1)`, revision(o.Env("STANDIN_VERSION")))
			return err
		})
	})
	if err != nil {
		return errors.New(env.hide(err))
	}
	o.Log.Info("the tables are there")
	return nil
}

// Run plays a service, on the port that it has in Dify's container, until ctx ends. Requests and tasks in hand are finished
// then.
func Run(ctx context.Context, n dify.Name, o Options) (err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	p, err := open(ctx, n, o)
	if err != nil {
		return err
	}
	defer p.close()
	var running sync.WaitGroup
	defer running.Wait()
	if p.run != nil {
		running.Go(func() { p.run(ctx) })
	}
	served := make(chan error, 1)
	if p.handler != nil {
		l, err := net.Listen("tcp", net.JoinHostPort(o.Env("STANDIN_ADDRESS"), strconv.Itoa(n.Port())))
		if err != nil {
			end()
			return fmt.Errorf("stand in for %s: %w", n, err)
		}
		server := &http.Server{Handler: p.handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
		defer func() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
			defer cancel()
			if server.Shutdown(late) != nil {
				err = errors.Join(err, server.Close())
			}
		}()
		go func() { served <- server.Serve(l) }()
	}
	o.Log.Info("the stand-in serves", "address", o.Env("STANDIN_ADDRESS"), "service", n)
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		end()
		return err
	}
}
