package standin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Apps exist so far that a workflow's draft can hold secrets, which the tenant's key encrypts, and can be run.

type variable struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Value string `json:"value"`
	Type  string `json:"value_type"`
}

func (a *api) postApp(r *http.Request, u user) (answer, error) {
	var in struct{ Name, Mode string }
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	if in.Name == "" || in.Mode != "workflow" {
		return answer{}, invalid("The stand-in makes apps of the mode workflow, with a name.")
	}
	id := newID()
	if err := a.exec(r.Context(), `INSERT INTO standin_apps VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, id, u.tenant, in.Name, in.Mode); err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, map[string]any{"id": id, "name": in.Name, "mode": in.Mode}}, nil
}

func (a *api) getApps(r *http.Request, u user) (answer, error) {
	type app struct {
		ID   string `json:"id"`
		Name string `json:"name"`
		Mode string `json:"mode"`
	}
	var list []app
	err := a.db(r.Context(), func(c *pgx.Conn) error {
		rows, err := c.Query(r.Context(), `SELECT id, name, mode FROM standin_apps WHERE tenant_id = $1 ORDER BY id`, u.tenant)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[app])
		return err
	})
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"data": list, "total": len(list), "page": 1, "limit": len(list), "has_more": false}}, nil
}

// app checks that an app is the user's, and gives its tenant's public key.
func (a *api) app(r *http.Request, u user) (id, name, public string, err error) {
	id = r.PathValue("app")
	err = a.row(r.Context(), []any{&name, &public},
		`SELECT a.name, t.public_key FROM standin_apps a JOIN standin_tenants t ON t.id = a.tenant_id WHERE a.id = $1 AND a.tenant_id = $2`, id, u.tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		err = notFound("App")
	}
	return id, name, public, err
}

func (a *api) deleteApp(r *http.Request, u user) (answer, error) {
	id, _, _, err := a.app(r, u)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	if err := errors.Join(a.exec(ctx, `DELETE FROM standin_workflows WHERE app_id = $1`, id), a.exec(ctx, `DELETE FROM standin_apps WHERE id = $1`, id)); err != nil {
		return answer{}, err
	}
	return answer{http.StatusNoContent, nil}, nil
}

func (a *api) postDraft(r *http.Request, u user) (answer, error) {
	id, _, public, err := a.app(r, u)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Graph       json.RawMessage
		Features    json.RawMessage
		Environment []variable `json:"environment_variables"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	if len(in.Graph) == 0 || len(in.Features) == 0 {
		return answer{}, invalid("A draft has a graph and features.")
	}
	for i, v := range in.Environment {
		if v.ID == "" || v.Name == "" {
			return answer{}, invalid("An environment variable has an ID and a name.")
		}
		if v.Type == "secret" {
			if in.Environment[i].Value, err = encrypt(public, v.Value); err != nil {
				return answer{}, err
			}
		}
	}
	environment := asText(in.Environment)
	sum := sha256.Sum256([]byte(string(in.Graph) + string(in.Features) + environment))
	hash := hex.EncodeToString(sum[:])
	err = a.exec(r.Context(), `INSERT INTO standin_workflows VALUES ($1, $2, $3, $4, $5) ON CONFLICT (app_id) DO UPDATE SET graph = $2, features = $3, environment = $4, hash = $5`,
		id, string(in.Graph), string(in.Features), environment, hash)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"result": "success", "hash": hash}}, nil
}

// getExport gives an app as a text, with its secrets when they are asked for.
func (a *api) getExport(r *http.Request, u user) (answer, error) {
	id, name, _, err := a.app(r, u)
	if err != nil {
		return answer{}, err
	}
	var raw string
	if err := a.row(r.Context(), []any{&raw}, `SELECT environment::text FROM standin_workflows WHERE app_id = $1`, id); err != nil {
		return answer{}, err
	}
	var environment []variable
	if err := json.Unmarshal([]byte(raw), &environment); err != nil {
		return answer{}, err
	}
	for i, v := range environment {
		if v.Type != "secret" {
			continue
		}
		// Dify decrypts all of them, also those it then leaves out.
		if environment[i].Value, err = a.bucket.decrypt(r.Context(), u.tenant, v.Value); err != nil {
			return answer{}, err
		}
		if !strings.EqualFold(r.FormValue("include_secret"), "true") {
			environment[i].Value = ""
		}
	}
	// Dify also asks which plugins the app needs, even when it needs none.
	var needs []json.RawMessage
	if err := a.plugins.ask(r.Context(), http.MethodPost, u.tenant, "/management/installation/fetch/batch", map[string]any{"plugin_ids": []string{}}, &needs); err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"data": asText(map[string]any{
		"app": map[string]any{"name": name, "mode": "workflow"}, "kind": "app", "workflow": map[string]any{"environment_variables": environment},
	})}}, nil
}
