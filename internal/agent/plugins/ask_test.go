package plugins

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAsk holds what the daemon may answer against what that says of a plugin.
func TestAsk(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		runs   bool
		fails  bool
	}{
		"it runs":         {400, `{"code":-400,"message":"{\"error_type\":\"PluginDaemonBadRequestError\",\"message\":\"Key: 'Data'\"}","data":null}`, true, false},
		"it does not":     {404, `{"code":-500,"message":"{\"error_type\":\"PluginDaemonInternalServerError\",\"message\":\"no available node, plugin runtime not found\"}"}`, false, false},
		"it was removed":  {404, `{"code":-404,"message":"{\"error_type\":\"PluginNotFoundError\",\"message\":\"plugin not found\"}"}`, true, false},
		"no such route":   {404, `{"code":"not_found","message":"route not found"}`, false, true},
		"a wrong key":     {401, `{"code":-401,"message":"unauthorized"}`, false, true},
		"no Redis":        {500, `{"code":-500,"message":"failed to fetch plugin available nodes"}`, false, true},
		"somebody else's": {200, `<html>`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				if err != nil || string(raw) != "{}" || r.Method+" "+r.URL.Path != "POST /plugin/t-1/dispatch/model/schema" || r.Header.Get("X-Api-Key") != "key" || r.Header.Get("X-Plugin-ID") != "x/a" {
					t.Errorf("it is asked %s %s %v: %s, %v", r.Method, r.URL.Path, r.Header, raw, err)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body) // it reads
			}))
			defer daemon.Close()
			runs, err := ask(t.Context(), Options{Daemon: daemon.Listener.Addr().String(), Key: "key", Client: daemon.Client()}, installation{"x/a:1@0", "x/a", "t-1"})
			if runs != tc.runs || (err != nil) != tc.fails {
				t.Errorf("it says %t, %v", runs, err)
			}
		})
	}
}
