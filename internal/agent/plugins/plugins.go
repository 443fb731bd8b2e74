package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/difyup/difyup/internal/agent/migrate"
)

// Options say where the plugins are.
type Options struct {
	Plugins  *pgx.ConnConfig // the plugin daemon's database
	Main     *pgx.ConnConfig // where instances note what runs on them
	Daemon   string          // this instance's, HOST:PORT
	Key      string          // that the daemon wants
	Client   *http.Client
	Instance string
}

// State is which plugins are installed, by where they run: each stands in one of the lists, by its author, name and version.
type State struct {
	Here      []string // on this instance
	Elsewhere []string // on another one only
	Nowhere   []string
}

// told is how long what an instance noted holds. It notes at least once a minute.
const told = "3 minutes"

// installation is a plugin as one of the tenants has it, who stands for all of them.
type installation struct{ Identifier, Plugin, Tenant string }

// Look compares what is installed with what runs here, and notes that for the other instances.
func Look(ctx context.Context, o Options) (State, error) {
	var s State
	all, err := installed(ctx, o.Plugins)
	if err != nil {
		return s, fmt.Errorf("read which plugins are installed: %w", err)
	}
	if len(all) == 0 {
		return s, nil
	}
	here := []string{} // identifiers
	for _, i := range all {
		runs, err := ask(ctx, o, i)
		if err != nil {
			return s, fmt.Errorf("ask the plugin daemon for %s: %w", name(i.Identifier), err)
		}
		if runs {
			here = append(here, i.Identifier)
		}
	}
	elsewhere, err := exchange(ctx, o, here)
	if err != nil {
		return s, fmt.Errorf("note which plugins run here: %w", err)
	}
	for _, i := range all {
		into := &s.Nowhere
		switch {
		case slices.Contains(here, i.Identifier):
			into = &s.Here
		case slices.Contains(elsewhere, i.Identifier):
			into = &s.Elsewhere
		}
		*into = append(*into, name(i.Identifier))
	}
	return s, nil
}

// name gives what people call a plugin by: its identifier without the checksum.
func name(identifier string) string {
	short, _, _ := strings.Cut(identifier, "@")
	return short
}

// installed reads the daemon's table. Before the daemon has made it, nothing is installed.
func installed(ctx context.Context, config *pgx.ConnConfig) ([]installation, error) {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	// Those that are debugged from a developer's machine ("remote") belong to nobody's instance.
	rows, _ := c.Query(ctx, `SELECT DISTINCT ON (plugin_unique_identifier) plugin_unique_identifier, plugin_id, tenant_id::text
		FROM plugin_installations WHERE runtime_type = 'local' ORDER BY plugin_unique_identifier, tenant_id`) // its error comes with the rows
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[installation])
	if code(err) == noTable {
		return nil, nil
	}
	return all, err
}

// ask asks the daemon for something of a plugin that no plugin can do, as what it would do it with is missing. The daemon looks
// for the plugin on its node before it looks at that, so nothing reaches the plugin.
func ask(ctx context.Context, o Options, i installation) (runs bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+o.Daemon+"/plugin/"+url.PathEscape(i.Tenant)+"/dispatch/model/schema", strings.NewReader("{}"))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-Key", o.Key)
	req.Header.Set("X-Plugin-ID", i.Plugin)
	resp, err := o.Client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return false, err
	}
	var answer struct {
		Code    int    `json:"code"` // below 0: which kind of error
		Message string `json:"message"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return false, fmt.Errorf("it answers %s and no JSON", resp.Status)
	}
	switch {
	case resp.StatusCode == http.StatusBadRequest:
		return true, nil
	case resp.StatusCode == http.StatusNotFound && answer.Code == -404: // the tenant has removed it meanwhile
		return true, nil
	case resp.StatusCode == http.StatusNotFound && strings.Contains(answer.Message, "no available node"):
		return false, nil
	}
	return false, fmt.Errorf("it answers %s (%d)", resp.Status, answer.Code)
}

// exchange notes which plugins run here, and gives those that others have noted lately.
func exchange(ctx context.Context, o Options, here []string) (elsewhere []string, err error) {
	c, err := pgx.ConnectConfig(ctx, o.Main)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	const table = migrate.RecordSchema + ".plugins"
	for range 2 {
		err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO `+table+` VALUES ($1, $2, now()) ON CONFLICT (instance) DO UPDATE SET runs = $2, at = now()`, o.Instance, here); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE at < now() - interval '1 day'`); err != nil {
				return err
			}
			rows, _ := tx.Query(ctx, `SELECT DISTINCT unnest(runs) FROM `+table+` WHERE instance <> $1 AND at > now() - interval '`+told+`'`, o.Instance)
			elsewhere, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if code(err) != noTable {
			break
		}
		// Of several that make it at once, the others find it made, or fail and look again.
		if _, err := c.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+table+` (instance text PRIMARY KEY, runs text[] NOT NULL, at timestamptz NOT NULL)`); err != nil && code(err) != duplicate {
			return nil, err
		}
	}
	return elsewhere, err
}

// SQLSTATEs.
const (
	noTable   = "42P01"
	duplicate = "23505"
)

func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Wait decides whether an instance that could take traffic goes on waiting for plugins.
type Wait struct {
	// Most is for all of them, and Alone for what runs on no other instance, since the last one came to run here: what others have
	// is worth waiting for; what nobody has may be broken.
	Most, Alone time.Duration

	began, latest time.Time
	here          int
}

// For gives what to wait for, in words; "" = no longer. s is what was found just now, if err is nil.
func (w *Wait) For(now time.Time, s State, err error) string {
	if w.began.IsZero() {
		w.began, w.latest = now, now
	}
	if len(s.Here) > w.here {
		w.latest = now
	}
	w.here = max(w.here, len(s.Here))
	late, alone := now.Sub(w.began) >= w.Most, now.Sub(w.latest) >= w.Alone
	switch {
	case late:
	case err != nil && !alone:
		return "the plugin daemon has not said yet which plugins run"
	case err != nil:
	case len(s.Elsewhere) > 0:
		return some(s.Elsewhere) + " of other instances to run here"
	case len(s.Nowhere) > 0 && !alone:
		return some(s.Nowhere) + ", which no instance runs yet"
	}
	return ""
}

// some names plugins, of many a few.
func some(names []string) string {
	const few = 3
	what := "the plugin "
	if len(names) > 1 {
		what = "the plugins "
	}
	if more := len(names) - few; more > 0 {
		return what + strings.Join(names[:few], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return what + strings.Join(names, ", ")
}

// Still gives of what does not run here what did not before either.
func (s State) Still(before State) State {
	missing := slices.Concat(before.Elsewhere, before.Nowhere)
	for _, names := range []*[]string{&s.Elsewhere, &s.Nowhere} {
		*names = slices.DeleteFunc(slices.Clone(*names), func(name string) bool { return !slices.Contains(missing, name) })
	}
	return s
}

// Warnings says what does not run and should, in words.
func (s State) Warnings() []string {
	var all []string
	for _, what := range []struct {
		names     []string
		one, many string
	}{
		{s.Elsewhere, "runs on other instances and not on this one", "run on other instances and not on this one"},
		{s.Nowhere, "runs on no instance, and is installed", "run on no instance, and are installed"},
	} {
		switch len(what.names) {
		case 0:
		case 1:
			all = append(all, some(what.names)+" "+what.one)
		default:
			all = append(all, some(what.names)+" "+what.many)
		}
	}
	return all
}
