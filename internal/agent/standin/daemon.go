package standin

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// daemon plays the plugin daemon: its tables in its own database, the plugins that were installed, and one that is built in,
// which gives a model for embeddings without a key and answers at endpoints.
type daemon struct {
	env    settings
	log    *slog.Logger
	db     *pool
	key    string // which the API must come with
	api    string
	http   *http.Client
	bucket *bucket

	mu   sync.Mutex
	runs map[string]manifest // on this node, by identifier
}

// The plugin that every tenant has, and every node. It is in no table of the real daemon's.
const (
	pluginID      = "difyup/rehearsal"
	pluginVersion = "0.0.1"
)

func pluginIdentifier() string {
	return pluginID + ":" + pluginVersion + "@" + strings.Repeat("0", 64)
}

const daemonTables = `
CREATE TABLE IF NOT EXISTS standin_plugin_installations (id text PRIMARY KEY, tenant_id text NOT NULL, plugin_id text NOT NULL, UNIQUE (tenant_id, plugin_id));
CREATE TABLE IF NOT EXISTS standin_endpoints (id text PRIMARY KEY, hook_id text NOT NULL UNIQUE, tenant_id text NOT NULL, plugin_id text NOT NULL, name text NOT NULL, settings jsonb NOT NULL)`

func newDaemon(ctx context.Context, env settings, o Options) (*daemon, error) {
	if err := env.must("DB_TYPE", "postgresql"); err != nil {
		return nil, err
	}
	// The real daemon reads DB_DATABASE only; DB_PLUGIN_DATABASE is for environments that were made for all containers.
	db, err := env.pool(ctx, o.Resolver, "DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", env.or("DB_PLUGIN_DATABASE", env("DB_DATABASE")))
	if err != nil {
		return nil, err
	}
	client := newClient(env, o.Resolver)
	return &daemon{
		env: env, log: o.Log, db: db, key: env("SERVER_KEY"), api: strings.TrimSuffix(env("DIFY_INNER_API_URL"), "/"), http: client,
		bucket: newBucket(env("PLUGIN_STORAGE_OSS_BUCKET"), env, client), runs: map[string]manifest{},
	}, nil
}

func (d *daemon) close() {
	d.db.Close()
	d.http.CloseIdleConnections()
}

// do uses the daemon's database. See pool.do.
func (d *daemon) do(ctx context.Context, f func(*pgx.Conn) error) error { return d.db.do(ctx, f) }

// complaint is an error as the daemon tells it: a number below 0, and a type.
type complaint struct {
	status, code int
	kind, text   string
}

func (c *complaint) Error() string { return c.text }

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/check", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]any{"status": "ok", "platform": "local"})
	})
	mux.HandleFunc("/e/{hook}/{path...}", d.serve(d.call))
	keyed := func(pattern string, h func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, d.serve(func(r *http.Request) (any, error) {
			if !hmac.Equal([]byte(r.Header.Get("X-Api-Key")), []byte(d.key)) {
				return nil, &complaint{http.StatusUnauthorized, -401, "PluginDaemonUnauthorizedError", "unauthorized"}
			}
			return h(r)
		}))
	}
	keyed("GET /plugin/{tenant}/management/list", d.list)
	// Nothing of the stand-in's needs a plugin, so that nobody asks for one.
	keyed("POST /plugin/{tenant}/management/installation/fetch/batch", func(*http.Request) (any, error) { return []any{}, nil })
	keyed("POST /plugin/{tenant}/management/install/upload/package", d.upload)
	keyed("POST /plugin/{tenant}/management/install/identifiers", d.install)
	keyed("POST /plugin/{tenant}/dispatch/{what...}", d.dispatch)
	keyed("POST /plugin/{tenant}/endpoint/setup", d.setup)
	keyed("GET /plugin/{tenant}/endpoint/list/plugin", d.endpoints)
	keyed("POST /plugin/{tenant}/endpoint/remove", d.remove)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusNotFound, map[string]any{"code": "not_found", "message": "route not found"})
	})
	return mux
}

// raw is an answer of a plugin's own.
type raw map[string]any

func (d *daemon) serve(h func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := h(r)
		if own, ok := out.(raw); ok && err == nil {
			write(w, http.StatusOK, own)
			return
		}
		if err == nil {
			write(w, http.StatusOK, map[string]any{"code": 0, "message": "success", "data": out})
			return
		}
		var c *complaint
		if !errors.As(err, &c) {
			c = &complaint{http.StatusInternalServerError, -500, "PluginDaemonInternalServerError", d.env.hide(err)}
		}
		write(w, c.status, map[string]any{"code": c.code, "message": asText(map[string]any{"error_type": c.kind, "message": c.text}), "data": nil})
	}
}

func (d *daemon) list(r *http.Request) (any, error) {
	ctx, tenant := r.Context(), r.PathValue("tenant")
	list := []any{}
	add := func(id, plugin, identifier string) {
		_, name, _ := strings.Cut(plugin, "/")
		rest := strings.TrimPrefix(identifier, plugin+":")
		version, _, _ := strings.Cut(rest, "@")
		list = append(list, map[string]any{
			"id": id, "plugin_id": plugin, "plugin_unique_identifier": identifier, "version": version, "name": name, "runtime_type": "local", "source": "package",
			"tenant_id": tenant,
		})
	}
	err := d.do(ctx, func(c *pgx.Conn) error {
		list = list[:0]
		if _, err := c.Exec(ctx, `INSERT INTO standin_plugin_installations VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, newID(), tenant, pluginID); err != nil {
			return err
		}
		rows, _ := c.Query(ctx, `SELECT id::text, plugin_id, $2 FROM standin_plugin_installations WHERE tenant_id = $1
			UNION ALL SELECT id::text, plugin_id, plugin_unique_identifier FROM plugin_installations WHERE tenant_id::text = $1 ORDER BY 2`, tenant, pluginIdentifier()) // its error comes with the rows
		var id, plugin, identifier string
		_, err := pgx.ForEachRow(rows, []any{&id, &plugin, &identifier}, func() error { add(id, plugin, identifier); return nil })
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"total": len(list), "list": list}, nil
}

func (d *daemon) embed(r *http.Request) (any, error) {
	var in struct{ Data struct{ Texts []string } }
	if err := read(r, &in); err != nil {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", err.Error()}
	}
	out := make([][]float32, len(in.Data.Texts))
	for i, text := range in.Data.Texts {
		out[i] = embed(text)
	}
	return map[string]any{"model": modelName, "embeddings": out}, nil
}

// setup makes an endpoint, whose settings the API encrypts for us.
func (d *daemon) setup(r *http.Request) (any, error) {
	var in struct {
		Plugin   string            `json:"plugin_unique_identifier"`
		Settings map[string]string `json:"settings"`
		Name     string            `json:"name"`
	}
	if err := read(r, &in); err != nil {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", err.Error()}
	}
	ctx, tenant := r.Context(), r.PathValue("tenant")
	plugin, _, _ := strings.Cut(in.Plugin, ":")
	known := in.Plugin == pluginIdentifier()
	if !known {
		err := d.do(ctx, func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM plugin_installations WHERE tenant_id::text = $1 AND plugin_unique_identifier = $2)`, tenant, in.Plugin).Scan(&known)
		})
		if err != nil {
			return nil, err
		}
	}
	if !known {
		return nil, &complaint{http.StatusNotFound, -404, "PluginNotFoundError", "plugin not found"}
	}
	sealed, err := d.invoke(ctx, tenant, "encrypt", in.Settings)
	if err != nil {
		return nil, fmt.Errorf("failed to encrypt settings: %w", err)
	}
	id, hook := newID(), strings.ToLower(rand.Text())
	return true, d.do(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `INSERT INTO standin_endpoints VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`, id, hook, tenant, plugin, in.Name, asText(sealed))
		return err
	})
}

func (d *daemon) endpoints(r *http.Request) (any, error) {
	type endpoint struct {
		ID       string         `json:"id"`
		Hook     string         `json:"hook_id"`
		Name     string         `json:"name"`
		Plugin   string         `json:"plugin_id"`
		Enabled  bool           `json:"enabled"`
		Settings map[string]any `json:"settings"`
	}
	list := []endpoint{}
	err := d.do(r.Context(), func(c *pgx.Conn) error {
		rows, err := c.Query(r.Context(), `SELECT id, hook_id, name, plugin_id, true, '{}'::jsonb FROM standin_endpoints WHERE tenant_id = $1 AND plugin_id = $2 ORDER BY name, id`, r.PathValue("tenant"), r.FormValue("plugin_id"))
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[endpoint])
		return err
	})
	return list, err
}

func (d *daemon) remove(r *http.Request) (any, error) {
	var in struct {
		ID string `json:"endpoint_id"`
	}
	if err := read(r, &in); err != nil {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", err.Error()}
	}
	return true, d.do(r.Context(), func(c *pgx.Conn) error {
		_, err := c.Exec(r.Context(), `DELETE FROM standin_endpoints WHERE id = $1 AND tenant_id = $2`, in.ID, r.PathValue("tenant"))
		return err
	})
}

// call is a request to a plugin's endpoint. The plugin answers with the token among its settings.
func (d *daemon) call(r *http.Request) (any, error) {
	ctx := r.Context()
	var tenant, plugin, sealed string
	err := d.do(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT tenant_id, plugin_id, settings::text FROM standin_endpoints WHERE hook_id = $1`, r.PathValue("hook")).Scan(&tenant, &plugin, &sealed)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, &complaint{http.StatusNotFound, -400, "PluginDaemonBadRequestError", "endpoint not found"}
	}
	if err != nil {
		return nil, err
	}
	if err := d.here(ctx, tenant, plugin); err != nil {
		return nil, err
	}
	var settings map[string]string
	if err := json.Unmarshal([]byte(sealed), &settings); err != nil {
		return nil, err
	}
	open, err := d.invoke(ctx, tenant, "decrypt", settings)
	if err != nil {
		return nil, fmt.Errorf("failed to decrypt settings: %w", err)
	}
	return raw{"plugin": plugin, "token": open["token"], "called": r.Header.Get("Dify-Hook-Url")}, nil
}

// invoke has the API encrypt or decrypt settings.
func (d *daemon) invoke(ctx context.Context, tenant, opt string, data map[string]string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body := asText(map[string]any{"tenant_id": tenant, "user_id": "", "opt": opt, "namespace": "endpoint", "identity": "", "data": data, "config": []any{}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.api+"/inner/api/invoke/encrypt", bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Inner-Api-Key", d.env("DIFY_INNER_API_KEY"))
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call the API back: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data  struct{ Data map[string]string }
		Error string
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API answers the plugin daemon with %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, largest)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the API answers the plugin daemon with no JSON: %w", err)
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	return answer.Data.Data, nil
}
