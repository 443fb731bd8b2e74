package standin

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Plugins that were installed are the real daemon's in all that others see: rows in two of its tables, packages in the bucket,
// and a look every 30 s for what another node installed. No node sends a request on to another. A package is an archive with a
// manifest.yaml that names author, name and version; "standin_milliseconds" is how long it takes to start. It does what the
// built-in plugin does at endpoints, and nothing else.

// pluginTables are two of the daemon's own, with all of their columns.
const pluginTables = `
CREATE TABLE IF NOT EXISTS plugins (id uuid PRIMARY KEY, created_at timestamptz, updated_at timestamptz, plugin_unique_identifier varchar(255) UNIQUE, plugin_id varchar(255), refers bigint DEFAULT 0, install_type varchar(127), manifest_type varchar(127), remote_declaration text, source varchar(63) DEFAULT '');
CREATE TABLE IF NOT EXISTS plugin_installations (id uuid PRIMARY KEY, created_at timestamptz, updated_at timestamptz, tenant_id uuid, plugin_id varchar(255), plugin_unique_identifier varchar(255), runtime_type varchar(127), endpoints_setups bigint, endpoints_active bigint, source varchar(63), meta text, UNIQUE (tenant_id, plugin_id))`

// installPoll is how often the daemon looks for what other nodes installed.
const installPoll = 30 * time.Second

// manifest is what a package says of itself.
type manifest struct {
	author, name, version string
	signed                bool          // as far as the stand-in can tell: there is a signature
	takes                 time.Duration // to start
}

func (m manifest) id() string { return m.author + "/" + m.name }

func unpack(archive []byte) (manifest, error) {
	var m manifest
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return m, fmt.Errorf("the package is no archive: %w", err)
	}
	f, err := z.Open("manifest.yaml")
	if err != nil {
		return m, fmt.Errorf("the package has no manifest: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.Trim(strings.TrimSpace(value), `"'`); key {
		case "author":
			m.author = value
		case "name":
			m.name = value
		case "version":
			m.version = value
		case "standin_milliseconds":
			n, err := strconv.Atoi(value)
			if err != nil {
				return m, fmt.Errorf("the manifest's %s: %w", key, err)
			}
			m.takes = time.Duration(n) * time.Millisecond
		}
	}
	if m.author == "" || m.name == "" || m.version == "" {
		return m, errors.New("the manifest lacks an author, a name or a version")
	}
	m.signed = slices.ContainsFunc(z.File, func(f *zip.File) bool { return f.Name == ".verification.dify.json" })
	return m, nil
}

func (d *daemon) installedAt(identifier string) string {
	return strings.TrimSuffix(d.env("PLUGIN_INSTALLED_PATH"), "/") + "/" + identifier
}

func (d *daemon) packageAt(identifier string) string {
	return d.env("PLUGIN_PACKAGE_CACHE_PATH") + "/" + identifier
}

// run looks for plugins that were installed or removed elsewhere, until ctx ends.
func (d *daemon) run(ctx context.Context) {
	every := installPoll
	if n := d.env.number("STANDIN_POLL"); n > 0 {
		every = time.Duration(n) * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := d.look(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("list installed plugins failed", "error", d.env.hide(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look starts what is installed and does not run here, and stops what runs and is installed no more.
func (d *daemon) look(ctx context.Context) error {
	d.mu.Lock()
	ran := slices.Collect(maps.Keys(d.runs)) // before the list: what is installed meanwhile is not in it
	d.mu.Unlock()
	there, err := d.bucket.list(ctx, d.installedAt(""))
	if err != nil {
		return err
	}
	for i, name := range there {
		there[i] = strings.TrimPrefix(name, d.installedAt(""))
	}
	var known []string
	err = d.do(ctx, func(c *pgx.Conn) error {
		rows, _ := c.Query(ctx, `SELECT plugin_unique_identifier FROM plugins`) // its error comes with the rows
		var err error
		known, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	for _, identifier := range ran {
		if !slices.Contains(there, identifier) {
			delete(d.runs, identifier)
		}
	}
	d.mu.Unlock()
	for _, identifier := range there {
		if slices.Contains(known, identifier) {
			if err := d.launch(ctx, identifier); err != nil {
				d.log.Error("launch local plugin failed", "plugin", identifier, "error", d.env.hide(err))
			}
		}
	}
	return nil
}

// launch has a plugin run on this node, if it does not.
func (d *daemon) launch(ctx context.Context, identifier string) error {
	if _, ok := d.running(identifier); ok {
		return nil
	}
	raw, err := d.bucket.load(ctx, d.installedAt(identifier))
	if err != nil {
		return err
	}
	m, err := unpack(raw)
	if err != nil {
		return err
	}
	start := time.NewTimer(m.takes)
	defer start.Stop()
	select {
	case <-start.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs[identifier] = m
	d.log.Info("local runtime ready", "plugin", identifier)
	return nil
}

func (d *daemon) running(identifier string) (manifest, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.runs[identifier]
	return m, ok
}

// here says whether a plugin of a tenant's runs on this node, and gives how the daemon complains if not.
func (d *daemon) here(ctx context.Context, tenant, id string) error {
	if id == pluginID {
		return nil
	}
	var identifier string
	err := d.do(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT plugin_unique_identifier FROM plugin_installations WHERE tenant_id::text = $1 AND plugin_id = $2`, tenant, id).Scan(&identifier)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return &complaint{http.StatusNotFound, -404, "PluginNotFoundError", "plugin not found"}
	}
	if err != nil {
		return err
	}
	if _, ok := d.running(identifier); !ok {
		return &complaint{http.StatusNotFound, -500, "PluginDaemonInternalServerError", "no available node, plugin runtime not found"}
	}
	return nil
}

// upload takes a package.
func (d *daemon) upload(r *http.Request) (any, error) {
	bad := func(err error) error {
		return &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", err.Error()}
	}
	f, _, err := r.FormFile("dify_pkg")
	if err != nil {
		return nil, bad(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, largest))
	if err != nil {
		return nil, bad(err)
	}
	m, err := unpack(raw)
	if err != nil {
		return nil, bad(err)
	}
	if !m.signed && d.env("FORCE_VERIFYING_SIGNATURE") != "false" {
		return nil, bad(errors.New("plugin verification has been enabled, and the plugin you want to install has a bad signature"))
	}
	sum := sha256.Sum256(raw)
	identifier := m.id() + ":" + m.version + "@" + hex.EncodeToString(sum[:])
	if err := d.bucket.save(r.Context(), d.packageAt(identifier), raw); err != nil {
		return nil, err
	}
	return map[string]any{"unique_identifier": identifier, "manifest": map[string]any{"author": m.author, "name": m.name, "version": m.version}, "verification": nil}, nil
}

// install installs packages that were uploaded: in the bucket, on this node, and then in the database. The real daemon does so
// behind a task, and calls what was there before all installed.
func (d *daemon) install(r *http.Request) (any, error) {
	var in struct {
		Identifiers []string `json:"plugin_unique_identifiers"`
		Source      string   `json:"source"`
	}
	if err := read(r, &in); err != nil {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", err.Error()}
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	for _, identifier := range in.Identifiers {
		raw, err := d.bucket.load(ctx, d.packageAt(identifier))
		if err != nil {
			return nil, fmt.Errorf("failed to get package file when trying to install plugin to local: %w", err)
		}
		if err := d.bucket.save(ctx, d.installedAt(identifier), raw); err != nil {
			return nil, err
		}
		if err := d.launch(ctx, identifier); err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(identifier, ":")
		err = d.do(ctx, func(c *pgx.Conn) error {
			return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `INSERT INTO plugins VALUES ($1, now(), now(), $2, $3, 0, 'local', 'plugin', '{}', $4) ON CONFLICT (plugin_unique_identifier) DO NOTHING`, newID(), identifier, id, in.Source); err != nil {
					return err
				}
				done, err := tx.Exec(ctx, `INSERT INTO plugin_installations VALUES ($1, now(), now(), $2, $3, $4, 'local', 0, 0, $5, '{}') ON CONFLICT DO NOTHING`, newID(), r.PathValue("tenant"), id, identifier, in.Source)
				if err != nil || done.RowsAffected() == 0 {
					return err
				}
				_, err = tx.Exec(ctx, `UPDATE plugins SET refers = refers + 1 WHERE plugin_unique_identifier = $1`, identifier)
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return map[string]any{"all_installed": true, "task_id": ""}, nil
}

// dispatch has a plugin do something. The built-in one makes vectors; what is wanted of others, they must run for.
func (d *daemon) dispatch(r *http.Request) (any, error) {
	id := r.Header.Get("X-Plugin-ID")
	if id == "" {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", "plugin_id is required"}
	}
	if err := d.here(r.Context(), r.PathValue("tenant"), id); err != nil {
		return nil, err
	}
	if id == pluginID && r.PathValue("what") == "text_embedding/invoke" {
		return d.embed(r)
	}
	var in struct{ Data map[string]any }
	if err := read(r, &in); err != nil || len(in.Data) == 0 {
		return nil, &complaint{http.StatusBadRequest, -400, "PluginDaemonBadRequestError", "Key: 'Data' Error:Field validation for 'Data' failed on the 'required' tag"}
	}
	return nil, errors.New("the stand-in's plugins answer at endpoints only")
}
