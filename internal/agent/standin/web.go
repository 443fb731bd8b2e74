package standin

import (
	"html/template"
	"io"
	"net/http"
)

// web plays Dify's web interface: one page for every path, which says what this is.
type web struct{ env settings }

func (p *web) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set(notDify, "this is the stand-in of difyup, not Dify")
		switch r.URL.Path {
		case "/favicon.ico":
			w.Header().Set("Content-Type", "image/svg+xml")
			_, _ = io.WriteString(w, icon) // the client may be gone
			return
		case "/", "/signin", "/install", "/init", "/apps", "/explore/apps":
		default:
			w.WriteHeader(http.StatusNotFound)
		}
		_ = page.Execute(w, map[string]string{ // the client may be gone
			"Instance": p.env("STANDIN_INSTANCE"), "Version": p.env("STANDIN_VERSION"),
			"Console": p.env("CONSOLE_API_URL") + "/console/api", "CookieDomain": p.env("NEXT_PUBLIC_COOKIE_DOMAIN"),
		})
	})
}

const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#1c2430"/><path d="M8 12V4M4.5 7.5 8 4l3.5 3.5" fill="none" stroke="#fafbfc" stroke-width="2"/></svg>`

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>difyup: the stand-in</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; color: #1c2430; background: #fafbfc }
 h1 { font-size: 1.6rem } code { background: #eef1f5; padding: .1em .3em; border-radius: 4px }
</style>
<body data-api-prefix="{{.Console}}" data-cookie-domain="{{.CookieDomain}}">
<h1>The rehearsal is running</h1>
<p>This is the stand-in for Dify {{.Version}}, on the instance <code>{{.Instance}}</code>. It is not Dify: it runs no app and has no
pages but this one. It was given Dify's settings and uses every store as Dify does: accounts and documents in PostgreSQL,
files and keys in the bucket, sessions and tasks in Redis, vectors in pgvector.</p>
<p>Reload to meet another instance. To have all of them proven:</p>
<p><code>difyup smoke --local</code></p>
</body></html>
`))
