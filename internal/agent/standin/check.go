package standin

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// Result is one store's round trip.
type Result struct {
	Store        string  `json:"store"`
	OK           bool    `json:"ok"`
	Milliseconds float64 `json:"milliseconds"`
	Did          string  `json:"did"`
	Error        string  `json:"error,omitempty"`
}

// Report is the answer of /standin/check.
type Report struct {
	Instance string   `json:"instance"`
	Dify     string   `json:"dify"` // the release that would run here
	OK       bool     `json:"ok"`
	Stores   []Result `json:"stores"`
}

// patience bounds each round trip. A server that restarts meanwhile is waited for: on a busy machine it takes seconds.
const patience = 10 * time.Second

// reconnect is how long to wait before a server that refuses connections is asked again.
const reconnect = 50 * time.Millisecond

// tidying bounds the removal of an object after its round trip failed.
const tidying = 2 * time.Second

// stores holds the connections; Env names are Dify's.
type stores struct {
	env      func(string) string
	resolver *net.Resolver
	http     *http.Client
	redis    *redis.Client

	main, plugin, vector *pool
}

func (s *stores) checks() []check {
	return []check{
		{"database", "wrote and read a row", s.row(s.main)},
		{"plugin_database", "wrote and read a row", s.row(s.plugin)},
		{"vector_database", "found the nearest of three vectors", s.nearest},
		{"redis", "set and got a key", s.key},
		{"bucket", "uploaded and downloaded an object", s.object},
	}
}

type check struct {
	store, did string
	do         func(context.Context) error
}

// check does all round trips at once.
func (s *stores) check(ctx context.Context) Report {
	checks := s.checks()
	// A client that leaves does not stop the round trips halfway: each cleans up after itself.
	ctx = context.WithoutCancel(ctx)
	report := Report{Instance: s.env("HOSTNAME"), Dify: s.env("STANDIN_VERSION"), OK: true, Stores: make([]Result, len(checks))}
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			began := time.Now()
			err := c.do(ctx)
			r := Result{Store: c.store, OK: err == nil, Milliseconds: float64(time.Since(began).Microseconds()) / 1000, Did: c.did}
			if err != nil {
				r.Did, r.Error = "", s.hide(err)
			}
			report.Stores[i] = r
		})
	}
	wg.Wait()
	for _, r := range report.Stores {
		report.OK = report.OK && r.OK
	}
	return report
}

// hide keeps passwords out of libraries' errors.
func (s *stores) hide(err error) string {
	text := err.Error()
	for _, name := range []string{"DB_PASSWORD", "PGVECTOR_PASSWORD", "REDIS_PASSWORD"} {
		if v := s.env(name); v != "" {
			text = strings.ReplaceAll(text, v, "***")
		}
	}
	return strings.Join(strings.Fields(text), " ")
}

// row writes a row into a table of its own, reads it back, and removes it. What a crash left there is removed later.
func (s *stores) row(p *pool) func(context.Context) error {
	return func(ctx context.Context) error {
		return p.do(ctx, func(c *pgx.Conn) error {
			if err := p.once(ctx, c, `CREATE TABLE IF NOT EXISTS standin_checks (id text PRIMARY KEY, instance text NOT NULL, at timestamptz NOT NULL DEFAULT now())`); err != nil {
				return err
			}
			id, instance, got := rand.Text(), s.env("HOSTNAME"), ""
			if _, err := c.Exec(ctx, `WITH old AS (DELETE FROM standin_checks WHERE at < now() - interval '1 hour') INSERT INTO standin_checks (id, instance) VALUES ($1, $2)`, id, instance); err != nil {
				return err
			}
			if err := c.QueryRow(ctx, `DELETE FROM standin_checks WHERE id = $1 RETURNING instance`, id).Scan(&got); err != nil {
				return err
			}
			if got != instance {
				return fmt.Errorf("read %q, wrote %q", got, instance)
			}
			return nil
		})
	}
}

// nearest stores three vectors and asks which is the nearest to a fourth. The vectors are gone when their transaction
// ends, however it ends.
func (s *stores) nearest(ctx context.Context) error {
	return s.vector.do(ctx, func(c *pgx.Conn) error {
		if err := s.vector.once(ctx, c, `CREATE EXTENSION IF NOT EXISTS vector; CREATE TABLE IF NOT EXISTS standin_vectors (run text, label text, embedding vector(3))`); err != nil {
			return err
		}
		run, got := rand.Text(), ""
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO standin_vectors VALUES ($1, 'x', '[1,0,0]'), ($1, 'y', '[0,1,0]'), ($1, 'z', '[0,0,1]')`, run); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `SELECT label FROM standin_vectors WHERE run = $1 ORDER BY embedding <-> '[0.2,0.9,0.1]' LIMIT 1`, run).Scan(&got); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DELETE FROM standin_vectors WHERE run = $1`, run)
			return err
		})
		if err != nil {
			return err
		}
		if got != "y" {
			return fmt.Errorf("the nearest is %q, not \"y\"", got)
		}
		return nil
	})
}

// key sets a key and gets it, all over again with another key when the server went away in between.
func (s *stores) key(ctx context.Context) error {
	return persist(ctx, func() (lost bool, err error) {
		err = s.setAndGet(ctx)
		return refused(err) || redis.HasErrorPrefix(err, "LOADING"), err
	})
}

func (s *stores) setAndGet(ctx context.Context) error {
	key, value := "standin:"+rand.Text(), rand.Text()
	if err := s.redis.Set(ctx, key, value, time.Minute).Err(); err != nil {
		return err
	}
	got, err := s.redis.GetDel(ctx, key).Result()
	if err != nil {
		return err
	}
	if got != value {
		return errors.New("another value came back")
	}
	return nil
}

// object uploads an object, downloads it and deletes it, with the rights of the instance's service account.
func (s *stores) object(ctx context.Context) (err error) {
	host := storageHost(s.env("STORAGE_EMULATOR_HOST"))
	token, err := s.token(ctx)
	if err != nil {
		return err
	}
	name, contents := "standin/"+s.env("HOSTNAME")+"-"+rand.Text(), []byte(rand.Text())
	bucket := "/storage/v1/b/" + url.PathEscape(s.env("GOOGLE_STORAGE_BUCKET_NAME")) + "/o"
	raw, err := s.call(ctx, http.MethodPost, host+"/upload"+bucket+"?uploadType=media&name="+url.QueryEscape(name), token, contents)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidying)
		defer cancel()
		var about struct{ Generation string }
		if bad := json.Unmarshal(raw, &about); bad != nil {
			err = errors.Join(err, fmt.Errorf("upload: read the answer: %w", bad))
			return
		}
		// With its generation, so that no older version of it stays.
		if _, bad := s.call(ctx, http.MethodDelete, host+bucket+"/"+url.PathEscape(name)+"?generation="+url.QueryEscape(about.Generation), token, nil); bad != nil {
			err = errors.Join(err, fmt.Errorf("delete: %w", bad))
		}
	}()
	got, err := s.call(ctx, http.MethodGet, host+bucket+"/"+url.PathEscape(name)+"?alt=media", token, nil)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	if !bytes.Equal(got, contents) {
		return errors.New("other contents came back")
	}
	return nil
}

// storageHost gives the root of Cloud Storage's API for a value of STORAGE_EMULATOR_HOST, which Google's clients take with
// a scheme and without one.
func storageHost(emulator string) string {
	switch {
	case emulator == "":
		return "https://storage.googleapis.com"
	case !strings.Contains(emulator, "://"):
		emulator = "http://" + emulator
	}
	return strings.TrimSuffix(emulator, "/")
}

func (s *stores) token(ctx context.Context) (string, error) {
	host := s.env("GCE_METADATA_HOST")
	if host == "" {
		host = "metadata.google.internal"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := s.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var t struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&t); err != nil || t.Token == "" {
		return "", fmt.Errorf("no token from the metadata server: %s", resp.Status)
	}
	return t.Token, nil
}

func (s *stores) call(ctx context.Context, method, target, token string, contents []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(contents))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if contents != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		var e struct{ Error struct{ Message string } }
		_ = json.Unmarshal(raw, &e) // an answer that is no JSON has its status
		return nil, fmt.Errorf("%s %s", resp.Status, e.Error.Message)
	}
	return raw, nil
}

// PostgresConfig is for connections to PostgreSQL on a private network.
func PostgresConfig(resolver *net.Resolver, host string, port int, user, password, database string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.User, config.Password, config.Database = host, uint16(port), user, password, database
	config.Fallbacks, config.TLSConfig = nil, nil
	config.RuntimeParams = map[string]string{"application_name": "difyup"}
	config.LookupFunc = resolver.LookupHost
	config.ConnectTimeout = patience
	return config, nil
}

// RedisOptions are for a client of Redis with a password, on a private network. It repeats nothing by itself: not every
// command may be.
func RedisOptions(resolver *net.Resolver, host string, port int, password string) *redis.Options {
	return &redis.Options{
		Addr: net.JoinHostPort(host, strconv.Itoa(port)), Password: password, PoolSize: 4, MaxRetries: -1, DialerRetries: 1,
		Dialer: (&net.Dialer{Timeout: patience, Resolver: resolver}).DialContext,
	}
}

// pool is a few connections to one database.
type pool struct {
	*pgxpool.Pool

	mu   sync.Mutex
	made bool // the tables are there
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
// one that restarts does, and again to make the tables that once made, when they are gone because the database was
// replaced or restored.
func (p *pool) do(ctx context.Context, f func(*pgx.Conn) error) error {
	try := func() error {
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
	if errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "42704") { // no such table, no such type
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

// once makes tables, when they were not made by this process yet. Instances that do so at the same time take turns.
func (p *pool) once(ctx context.Context, c *pgx.Conn, statements string) error {
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
		for q := range strings.SplitSeq(statements, ";") {
			if _, err := tx.Exec(ctx, q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = true
	return nil
}
