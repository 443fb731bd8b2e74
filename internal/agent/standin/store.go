package standin

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
)

// patience bounds what is asked of one store.
const patience = stores.Patience

// reconnect is how long to wait before a server that refuses connections is asked again.
const reconnect = 50 * time.Millisecond

// pool is a few connections to one database.
type pool struct {
	*pgxpool.Pool

	mu   sync.Mutex
	made bool // what once makes is there
}

func newPool(ctx context.Context, c *pgx.ConnConfig) (*pool, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.ConnConfig, config.MaxConns, config.MinConns = c, 3, 0
	p, err := pgxpool.NewWithConfig(ctx, config) // connects when first asked
	return &pool{Pool: p}, err
}

// do lends a connection. f may be called several times, and must not mind: again when the server ended the connection, as
// one that restarts does, and again to make what once made, when it is gone because the database was replaced or restored.
func (p *pool) do(ctx context.Context, f func(*pgx.Conn) error) error {
	try := func() error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return persist(ctx, func() (lost bool, err error) {
			c, err := p.Acquire(ctx)
			if err != nil {
				return refused(err), err
			}
			defer c.Release()
			if err = f(c.Conn()); err == nil || !c.Conn().IsClosed() {
				return false, err
			}
			p.Reset() // the others met the same end
			return true, err
		})
	}
	err := try()
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42704" { // no such type: the extension is gone
		p.mu.Lock()
		p.made = false
		p.mu.Unlock()
		return try()
	}
	return err
}

// refused says whether an error is that of a server which is not up now, or has just ended.
func refused(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "57P01" || pg.Code == "57P02" || pg.Code == "57P03" // ending, crashed, starting
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// persist does something until it works, or fails for another reason than a connection that was lost, or ctx ends. It
// gives the last error that says why.
func persist(ctx context.Context, do func() (lost bool, err error)) error {
	var last error
	for {
		lost, err := do()
		if err == nil || !lost {
			return err
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		timer := time.NewTimer(reconnect)
		select {
		case <-ctx.Done():
			timer.Stop()
			return last
		case <-timer.C:
		}
	}
}

// once does what makes something, if this process has not done so yet. Instances that do so at the same time take turns.
func (p *pool) once(ctx context.Context, c *pgx.Conn, making string) error {
	p.mu.Lock()
	made := p.made
	p.mu.Unlock()
	if made {
		return nil
	}
	const lock = 7213490 // any number, the same for all
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lock); err != nil {
			return err
		}
		return statements(ctx, tx, making)
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = true
	return nil
}

// statements runs statements, of which none has a semicolon in it.
func statements(ctx context.Context, on interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}, all string) error {
	for q := range strings.SplitSeq(all, ";") {
		if _, err := on.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// cache is Redis.
type cache struct{ *redis.Client }

// do uses Redis. f may be called several times, when the server went away in between, and must not mind.
func (c *cache) do(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return persist(ctx, func() (lost bool, err error) {
		err = f(ctx)
		return refused(err) || redis.HasErrorPrefix(err, "LOADING"), err
	})
}
