package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// api plays Dify's API. Routes, requests and answers have the shapes of Dify's console API, as far as a smoke test uses
// it; answers have the field "standin" besides.
type api struct {
	*backend
	signer signer
	inner  string // the key that the daemon comes with
	secure bool   // cookies are for https only, and their names say so
}

func newAPI(b *backend) *api {
	https := func(name string) bool { return strings.HasPrefix(b.env(name), "https") }
	return &api{
		backend: b, signer: signer(b.env("SECRET_KEY")), inner: b.env("INNER_API_KEY_FOR_PLUGIN"),
		secure: https("CONSOLE_WEB_URL") && https("CONSOLE_API_URL") && b.env("COOKIE_DOMAIN") == "",
	}
}

// problem is an error as Dify's API tells it.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status"`
}

func (p *problem) Error() string { return p.Message }

func refuse(status int, code, message string) *problem { return &problem{code, message, status} }

func notFound(what string) *problem {
	return refuse(http.StatusNotFound, "not_found", what+" not found.")
}

// answer is a status and a body, which becomes JSON; nil for none.
type answer struct {
	status int
	body   any
}

type handler func(w http.ResponseWriter, r *http.Request) (answer, error)

// user is who sends a request.
type user struct{ id, tenant, role string }

// What an account may do goes by its role in the workspace (api/models/account.py). "normal" is in none of these. The stand-in has one account,
// the owner's; a test gives it another role, STANDIN_ROLE.
const (
	manages = "owner admin"
	edits   = manages + " editor"
	fills   = edits + " dataset_operator" // data sets
)

// is says whether a user has one of these roles.
func (u user) is(roles string) bool { return slices.Contains(strings.Fields(roles), u.role) }

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	open := func(pattern string, h handler) { mux.Handle(pattern, a.serve(h)) }
	signed := func(pattern string, h func(r *http.Request, u user) (answer, error)) {
		open(pattern, func(_ http.ResponseWriter, r *http.Request) (answer, error) {
			u, err := a.login(r)
			if err != nil {
				return answer{}, err
			}
			return h(r, u)
		})
	}
	allowed := func(pattern, roles string, h func(r *http.Request, u user) (answer, error)) {
		signed(pattern, func(r *http.Request, u user) (answer, error) {
			if !u.is(roles) {
				return answer{}, errForbidden
			}
			return h(r, u)
		})
	}
	open("GET /health", func(http.ResponseWriter, *http.Request) (answer, error) {
		return answer{http.StatusOK, map[string]any{"status": "ok", "version": a.env("STANDIN_VERSION")}}, nil
	})
	open("GET /console/api/ping", func(http.ResponseWriter, *http.Request) (answer, error) {
		return answer{http.StatusOK, map[string]any{"result": "pong"}}, nil
	})
	open("GET /console/api/setup", a.getSetup)
	open("POST /console/api/setup", a.postSetup)
	open("GET /console/api/init", a.getInit)
	open("POST /console/api/init", a.postInit)
	open("POST /console/api/login", a.postLogin)
	open("POST /console/api/refresh-token", a.postRefresh)
	open("POST /console/api/logout", a.postLogout)
	signed("GET /console/api/account/profile", a.getProfile)
	signed("POST /console/api/files/upload", a.postFile)
	signed("GET /console/api/files/{file}/preview", a.getPreview)
	allowed("POST /console/api/datasets", fills, a.postDataset)
	signed("GET /console/api/datasets", a.getDatasets)
	signed("DELETE /console/api/datasets/{dataset}", a.deleteDataset)
	allowed("POST /console/api/datasets/{dataset}/documents", fills, a.postDocuments)
	signed("GET /console/api/datasets/{dataset}/batch/{batch}/indexing-status", a.getIndexing)
	signed("POST /console/api/datasets/{dataset}/hit-testing", a.postHitTesting)
	allowed("POST /console/api/apps", edits, a.postApp)
	signed("GET /console/api/apps", a.getApps)
	allowed("DELETE /console/api/apps/{app}", edits, a.deleteApp)
	allowed("POST /console/api/apps/{app}/workflows/draft", edits, a.postDraft)
	mux.Handle("POST /console/api/apps/{app}/workflows/draft/run", a.stream(a.postRun))
	allowed("GET /console/api/apps/{app}/export", edits, a.getExport)
	signed("GET /console/api/workspaces/current/default-model", a.getDefaultModel)
	signed("GET /console/api/workspaces/current/plugin/list", a.getPlugins)
	signed("POST /console/api/workspaces/current/plugin/upload/pkg", a.postPackage)
	signed("POST /console/api/workspaces/current/plugin/install/pkg", a.postInstall)
	allowed("POST /console/api/workspaces/current/endpoints/create", manages, a.postEndpoint)
	signed("GET /console/api/workspaces/current/endpoints/list/plugin", a.getEndpoints)
	allowed("POST /console/api/workspaces/current/endpoints/delete", manages, a.deleteEndpoint)
	open("POST /inner/api/invoke/encrypt", a.postEncrypt)
	open("/", func(http.ResponseWriter, *http.Request) (answer, error) { return answer{}, notFound("The address") })
	return mux
}

// serve answers as Dify's API does, and says that it is not Dify.
func (a *api) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", a.env("STANDIN_VERSION"))
		w.Header().Set("X-Env", a.env("DEPLOY_ENV"))
		out, err := h(w, r)
		if err != nil {
			var p *problem
			if !errors.As(err, &p) {
				p = refuse(http.StatusInternalServerError, "internal_server_error", a.env.hide(err))
			}
			out = answer{p.Status, p}
		}
		write(w, out.status, out.body)
	})
}

// notDify is the header of every answer of the stand-in's.
const notDify = "X-Difyup-Standin"

// write answers with JSON, to which "standin" is added.
func write(w http.ResponseWriter, code int, v any) {
	w.Header().Set(notDify, "this is the stand-in of difyup, not Dify")
	w.Header().Set("Cache-Control", "no-store")
	if v == nil || code == http.StatusNoContent {
		w.WriteHeader(code)
		return
	}
	raw, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	if rest, ok := strings.CutPrefix(string(raw), "{"); ok {
		comma := ","
		if rest == "}" {
			comma = ""
		}
		raw = []byte(`{"standin":true` + comma + rest)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(raw, '\n')) // the client may be gone
}

// read reads a request's JSON.
func read(r *http.Request, into any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 10<<20))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return refuse(http.StatusBadRequest, "invalid_param", "The request is not the JSON that is wanted.")
	}
	return nil
}

// cookie gives the real name of a cookie.
func (a *api) cookie(name string) string {
	if a.secure {
		return "__Host-" + name
	}
	return name
}

func (a *api) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: a.cookie(name), Value: value, Path: "/", MaxAge: int(life / time.Second), Secure: a.secure, HttpOnly: name != csrfCookie, SameSite: http.SameSiteLaxMode,
	})
}

const (
	accessCookie, refreshCookie, csrfCookie = "access_token", "refresh_token", "csrf_token"

	accessLife, refreshLife = time.Hour, 30 * 24 * time.Hour
)

func cookieOf(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// login finds out who sends a request: its access token must be signed with our SECRET_KEY, and so must the CSRF token,
// which has to come in two ways.
func (a *api) login(r *http.Request) (user, error) {
	unauthorized := func(why string) (user, error) { return user{}, refuse(http.StatusUnauthorized, "unauthorized", why) }
	token := cookieOf(r, a.cookie(accessCookie))
	if scheme, bearer, ok := strings.Cut(r.Header.Get("Authorization"), " "); token == "" && ok && strings.EqualFold(scheme, "bearer") {
		token = bearer
	}
	if token == "" {
		return unauthorized("Nobody is logged in.")
	}
	c, err := a.signer.verify(token)
	if err != nil {
		return unauthorized("The access token is refused: " + err.Error() + ".")
	}
	csrf := r.Header.Get("X-CSRF-Token")
	if csrf == "" || csrf != cookieOf(r, a.cookie(csrfCookie)) {
		return unauthorized("The CSRF token is missing, or cookie and header differ.")
	}
	if pair, err := a.signer.verify(csrf); err != nil || pair.Subject != c.User {
		return unauthorized("The CSRF token is refused.")
	}
	u := user{id: c.User, role: a.env.or("STANDIN_ROLE", "owner")}
	err = a.row(r.Context(), []any{&u.tenant}, `SELECT tenant_id FROM standin_accounts WHERE id = $1`, c.User)
	if errors.Is(err, pgx.ErrNoRows) {
		return unauthorized("There is no such account.")
	}
	return u, err
}

func isNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// vectorTable is a data set's table in the vector database. Data sets have IDs of our making.
func vectorTable(dataset string) string {
	return "standin_embedding_" + strings.ReplaceAll(dataset, "-", "_")
}

// ensure keeps what must be done to the end from being cut off by a client that leaves.
func ensure(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 3*patience)
}

var (
	errAlready   = refuse(http.StatusForbidden, "already_setup", "Dify has been set up already.")
	errForbidden = refuse(http.StatusForbidden, "forbidden", "You don't have the permission to access the requested resource. It is either read-protected or not readable by the server.")
)

func invalid(format string, args ...any) *problem {
	return refuse(http.StatusBadRequest, "invalid_param", fmt.Sprintf(format, args...))
}
