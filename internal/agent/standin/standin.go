package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/dify"
)

// Options say what the stand-in gets from outside.
type Options struct {
	Env      func(string) string // the process's environment
	Resolver *net.Resolver
	Log      *slog.Logger
}

// Run serves on the ports of Dify's services, at STANDIN_ADDRESS, until ctx ends.
func Run(ctx context.Context, o Options) error {
	s, err := newStores(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	var servers []*http.Server
	served := make(chan error, len(dify.Services()))
	for _, service := range dify.Services() {
		l, err := net.Listen("tcp", net.JoinHostPort(o.Env("STANDIN_ADDRESS"), strconv.Itoa(service.Port())))
		if err != nil {
			for _, server := range servers {
				server.Close()
			}
			return fmt.Errorf("stand in for %s: %w", service, err)
		}
		server := &http.Server{Handler: s.handler(service), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
		servers = append(servers, server)
		go func() { served <- server.Serve(l) }()
	}
	o.Log.Info("the stand-in serves", "address", o.Env("STANDIN_ADDRESS"))
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-served:
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	for _, server := range servers {
		if server.Shutdown(end) != nil {
			failed = errors.Join(failed, server.Close())
		}
	}
	return failed
}

// newStores prepares connections from Dify's settings. Nothing is connected yet.
func newStores(ctx context.Context, o Options) (*stores, error) {
	number := func(name string) int {
		n, _ := strconv.Atoi(o.Env(name)) // for a port, 0 is refused below; REDIS_DB is 0 unless it is set
		return n
	}
	s := &stores{
		env: o.Env, resolver: o.Resolver,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: (&net.Dialer{Timeout: patience, Resolver: o.Resolver}).DialContext}},
	}
	for _, name := range []string{"DB_PORT", "REDIS_PORT", "PGVECTOR_PORT"} {
		if number(name) < 1 || number(name) > 65535 {
			return nil, fmt.Errorf("the setting %s is missing or no port", name)
		}
	}
	for name, want := range map[string]string{"DB_TYPE": "postgresql", "STORAGE_TYPE": "google-storage", "VECTOR_STORE": "pgvector"} {
		if got := o.Env(name); got != want {
			return nil, fmt.Errorf("the setting %s is %q; the stand-in knows %q only", name, got, want)
		}
	}
	for _, db := range []struct {
		into                                 **pool
		host, port, user, password, database string
	}{
		{&s.main, "DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", "DB_DATABASE"},
		{&s.plugin, "DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", "DB_PLUGIN_DATABASE"},
		{&s.vector, "PGVECTOR_HOST", "PGVECTOR_PORT", "PGVECTOR_USER", "PGVECTOR_PASSWORD", "PGVECTOR_DATABASE"},
	} {
		config, err := PostgresConfig(o.Resolver, o.Env(db.host), number(db.port), o.Env(db.user), o.Env(db.password), o.Env(db.database))
		if err != nil {
			return nil, err
		}
		if *db.into, err = newPool(ctx, config); err != nil {
			return nil, err
		}
	}
	options := RedisOptions(o.Resolver, o.Env("REDIS_HOST"), number("REDIS_PORT"), o.Env("REDIS_PASSWORD"))
	options.Username, options.DB = o.Env("REDIS_USERNAME"), number("REDIS_DB")
	s.redis = redis.NewClient(options)
	return s, nil
}

func (s *stores) close() {
	for _, p := range []*pool{s.main, s.plugin, s.vector} {
		p.Close()
	}
	_ = s.redis.Close() // connections only
	s.http.CloseIdleConnections()
}

func (s *stores) handler(service dify.Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]any{"status": "ok", "version": s.env("STANDIN_VERSION"), "standin": true})
	})
	mux.HandleFunc("GET /standin/check", func(w http.ResponseWriter, r *http.Request) {
		report := s.check(r.Context())
		code := http.StatusOK
		if !report.OK {
			code = http.StatusServiceUnavailable
		}
		write(w, code, report)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if service != dify.Web || r.URL.Path != "/" {
			write(w, http.StatusNotFound, map[string]any{
				"standin": true, "service": service, "instance": s.env("HOSTNAME"), "error": "the stand-in is no Dify: it answers /health and /standin/check",
			})
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_ = page.Execute(w, map[string]string{"Instance": s.env("HOSTNAME"), "Version": s.env("STANDIN_VERSION")}) // the client may be gone
	})
	return mux
}

func write(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client may be gone
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>difyup: the stand-in</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; color: #1c2430; background: #fafbfc }
 h1 { font-size: 1.6rem } code { background: #eef1f5; padding: .1em .3em; border-radius: 4px }
 table { border-collapse: collapse; width: 100%; margin-top: 1rem } td { padding: .4rem .6rem; border-top: 1px solid #dde3ea } td:last-child { text-align: right; color: #667 }
 .ok { color: #14804a } .bad { color: #b3261e }
</style>
<h1>The rehearsal is running</h1>
<p>This is the stand-in for Dify {{.Version}}, on the instance <code>{{.Instance}}</code>. It got Dify's settings and uses every store as Dify would.
Reload to meet another instance.</p>
<table id="stores"><tr><td>asking the stores…</td></tr></table>
<p><a href="/standin/check">/standin/check</a> · <a href="/health">/health</a></p>
<script>
fetch("/standin/check").then(r => r.json()).then(c => {
  document.getElementById("stores").innerHTML = "";
  for (const s of c.stores) {
    const row = document.getElementById("stores").insertRow();
    row.insertCell().textContent = s.store.replace("_", " ");
    const cell = row.insertCell();
    cell.textContent = s.ok ? "✓ " + s.did : "✗ " + s.error;
    cell.className = s.ok ? "ok" : "bad";
    row.insertCell().textContent = s.milliseconds.toFixed(1) + " ms";
  }
});
</script>
`))
