package standin

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
)

// backend is what the API and the worker have in common, as they are one image: the stores, and the way to the plugin
// daemon. Nothing is connected before it is used.
type backend struct {
	env          settings
	main, vector *pool
	cache        *cache // database 0
	queue        *cache // Celery's broker, database 1
	events       *cache // what workflows say meanwhile
	bucket       *bucket
	plugins      *plugins
	http         *http.Client
}

// The tables are the stand-in's own, under names that Dify's migrations do not use. As Dify's, they come from the migration alone.
const mainTables = `
CREATE TABLE IF NOT EXISTS standin_tenants (id text PRIMARY KEY, name text NOT NULL, public_key text NOT NULL);
CREATE TABLE IF NOT EXISTS standin_accounts (id text PRIMARY KEY, tenant_id text NOT NULL, email text NOT NULL UNIQUE, name text NOT NULL, salt bytea NOT NULL, password bytea NOT NULL);
CREATE TABLE IF NOT EXISTS standin_setups (one boolean PRIMARY KEY DEFAULT true CHECK (one), version text NOT NULL, setup_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS standin_upload_files (id text PRIMARY KEY, tenant_id text NOT NULL, key text NOT NULL, name text NOT NULL, size bigint NOT NULL, extension text NOT NULL, mime_type text NOT NULL, created_by text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS standin_datasets (id text PRIMARY KEY, tenant_id text NOT NULL, name text NOT NULL, technique text NOT NULL, embedding_model text NOT NULL, embedding_provider text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (tenant_id, name));
CREATE TABLE IF NOT EXISTS standin_documents (id text PRIMARY KEY, dataset_id text NOT NULL, tenant_id text NOT NULL, batch text NOT NULL, position int NOT NULL, upload_file_id text NOT NULL, name text NOT NULL, status text NOT NULL, error text, created_at timestamptz NOT NULL DEFAULT now(), completed_at timestamptz);
CREATE TABLE IF NOT EXISTS standin_segments (id text PRIMARY KEY, dataset_id text NOT NULL, document_id text NOT NULL, position int NOT NULL, content text NOT NULL, keywords text[] NOT NULL, status text NOT NULL);
CREATE TABLE IF NOT EXISTS standin_keywords (dataset_id text NOT NULL, keyword text NOT NULL, segment_id text NOT NULL, PRIMARY KEY (dataset_id, keyword, segment_id));
CREATE TABLE IF NOT EXISTS standin_polls (instance text PRIMARY KEY, polls bigint NOT NULL, latest timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS standin_apps (id text PRIMARY KEY, tenant_id text NOT NULL, name text NOT NULL, mode text NOT NULL);
CREATE TABLE IF NOT EXISTS standin_workflows (app_id text PRIMARY KEY, graph jsonb NOT NULL, features jsonb NOT NULL, environment jsonb NOT NULL, hash text NOT NULL)`

func newBackend(ctx context.Context, env settings, o Options) (*backend, error) {
	if err := env.must("DB_TYPE", "postgresql", "STORAGE_TYPE", "google-storage", "VECTOR_STORE", "pgvector"); err != nil {
		return nil, err
	}
	b := &backend{env: env, http: newClient(env, o.Resolver)}
	var err error
	if b.main, err = env.pool(ctx, o.Resolver, "DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", env("DB_DATABASE")); err != nil {
		return nil, err
	}
	if b.vector, err = env.pool(ctx, o.Resolver, "PGVECTOR_HOST", "PGVECTOR_PORT", "PGVECTOR_USER", "PGVECTOR_PASSWORD", env("PGVECTOR_DATABASE")); err != nil {
		return nil, err
	}
	port, err := env.port("REDIS_PORT")
	if err != nil {
		return nil, err
	}
	options := stores.RedisOptions(o.Resolver, env("REDIS_HOST"), port, env("REDIS_PASSWORD"))
	dial := options.Dialer
	if err := env.encryptCache(options); err != nil {
		return nil, err
	}
	options.Username, options.DB = env("REDIS_USERNAME"), env.number("REDIS_DB")
	b.cache = &cache{redis.NewClient(options)}
	broker, err := env.broker("CELERY_BROKER_URL", dial)
	if err != nil {
		return nil, err
	}
	broker.PoolSize, broker.MaxRetries, broker.DialerRetries = options.PoolSize, -1, 1
	b.queue = &cache{redis.NewClient(broker)}
	events, err := env.broker("EVENT_BUS_REDIS_URL", dial)
	if err != nil {
		return nil, err
	}
	events.PoolSize, events.MaxRetries, events.DialerRetries = options.PoolSize, -1, 1
	b.events = &cache{redis.NewClient(events)}
	b.bucket = newBucket(env("GOOGLE_STORAGE_BUCKET_NAME"), env, b.http)
	b.plugins = &plugins{url: strings.TrimSuffix(env("PLUGIN_DAEMON_URL"), "/"), key: env("PLUGIN_DAEMON_KEY"), http: b.http}
	return b, nil
}

// newClient makes a client for servers that are reached without a proxy.
func newClient(env settings, resolver *net.Resolver) *http.Client {
	dialer := net.Dialer{Timeout: patience, Resolver: resolver}
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return dialer.DialContext(ctx, network, net.JoinHostPort(env.elsewhere(host), port))
	}}}
}

// pool makes a pool from the settings of these names.
func (s settings) pool(ctx context.Context, resolver *net.Resolver, host, port, user, password, database string) (*pool, error) {
	number, err := s.port(port)
	if err != nil {
		return nil, err
	}
	config, err := stores.PostgresConfig(resolver, s(host), number, s(user), s(password), database)
	if err != nil {
		return nil, err
	}
	if config.TLSConfig, err = s.postgresTLS(); err != nil {
		return nil, err
	}
	if name := s("PGAPPNAME"); name != "" { // as libpq, which Dify uses, takes it
		config.RuntimeParams["application_name"] = name
	}
	return newPool(ctx, config)
}

func (b *backend) close() {
	b.main.Close()
	b.vector.Close()
	for _, c := range []*cache{b.cache, b.queue, b.events} {
		_ = c.Close() // connections only
	}
	b.http.CloseIdleConnections()
}

// db uses the main database. See pool.do.
func (b *backend) db(ctx context.Context, f func(*pgx.Conn) error) error { return b.main.do(ctx, f) }

// exec runs one statement in the main database.
func (b *backend) exec(ctx context.Context, statement string, args ...any) error {
	return b.db(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, statement, args...)
		return err
	})
}

// row reads one row of the main database; pgx.ErrNoRows when there is none.
func (b *backend) row(ctx context.Context, into []any, query string, args ...any) error {
	return b.db(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, query, args...).Scan(into...) })
}

// The queue, which is Celery's in Redis: a list, and who takes a task from it has acknowledged it, before it is done. A
// worker that dies takes its tasks along.

// Documents are indexed by one queue where nobody is billed, and what is deleted is cleaned up by the other (services/document_indexing_proxy,
// tasks/clean_dataset_task.py).
const (
	indexQueue = "priority_dataset"
	cleanQueue = "dataset"
)

// queues gives those that workers take from: all that the stand-in fills, or those that the user names.
func (s settings) queues() []string {
	named := strings.FieldsFunc(s("CELERY_QUEUES"), func(r rune) bool { return r == ',' || r == ' ' })
	if len(named) > 0 {
		return named
	}
	return []string{indexQueue, cleanQueue, workflowQueue, polls}
}

type task struct {
	Name      string   `json:"task"` // "index", "clean", "run" or "poll"
	ID        string   `json:"id"`
	Tenant    string   `json:"tenant"`
	App       string   `json:"app,omitempty"`
	Dataset   string   `json:"dataset,omitempty"`
	Documents []string `json:"documents,omitempty"`
	From      string   `json:"from,omitempty"` // of "poll": the instance whose scheduler enqueued it
}

func (b *backend) enqueue(ctx context.Context, queue string, t task) error {
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.queue.LPush(ctx, queue, raw).Err() // once: a task that may have been sent is not sent again
}

// dequeue waits some time for a task. Without one it gives nil.
func (b *backend) dequeue(ctx context.Context) (*task, error) {
	got, err := b.queue.BRPop(ctx, time.Second, b.env.queues()...).Result()
	if err == redis.Nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var t task
	if err := json.Unmarshal([]byte(got[1]), &t); err != nil {
		return nil, fmt.Errorf("a task in the queue is not the stand-in's: %w", err)
	}
	return &t, nil
}
