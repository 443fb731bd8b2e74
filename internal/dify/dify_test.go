package dify_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
)

func TestLookup(t *testing.T) {
	r, err := dify.Lookup("1.16.1")
	if err != nil || r.PluginDaemon != "0.6.8" {
		t.Errorf("1.16.1: %v, %v", r, err)
	}
	if _, err := dify.Lookup(dify.Default); err != nil {
		t.Errorf("the default release is unknown: %v", err)
	}
	for version, want := range map[string]string{"1.9.0": "service account's key", "2.0.0": "does not know", "latest": "does not know"} {
		if _, err := dify.Lookup(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

// TestReleases checks what others count on: the order, and that no row is half a row.
func TestReleases(t *testing.T) {
	tag := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	head := regexp.MustCompile(`^[0-9a-f]{12}$`)
	all := dify.Releases()
	for i, r := range all {
		if !tag.MatchString(r.Version) || !tag.MatchString(r.PluginDaemon) || !tag.MatchString(r.Sandbox) || r.Schema != "" && !head.MatchString(r.Schema) {
			t.Errorf("%+v", r)
		}
		if i > 0 && !dify.Older(all[i-1].Version, r.Version) {
			t.Errorf("%s stands before %s", all[i-1].Version, r.Version)
		}
		for _, n := range r.Notes {
			if !strings.HasSuffix(n, ".") {
				t.Errorf("%s: %q is no sentence", r.Version, n)
			}
		}
	}
	for _, tc := range []struct {
		a, b string
		want bool
	}{{"1.9.0", "1.14.2", true}, {"1.14.2", "1.14.2", false}, {"1.17.1", "1.17.0", false}, {"latest", "1.14.2", false}, {"1.14", "1.14.2", true}} {
		if dify.Older(tc.a, tc.b) != tc.want {
			t.Errorf("Older(%s, %s) is not %t", tc.a, tc.b, tc.want)
		}
	}
}

func TestConnections(t *testing.T) {
	// Four instances, three and one more while rolling: 4 × (20 × 3 + 2 + 15) + 12.
	main, vector := dify.Connections(4)
	if main != 320 || vector != 50 {
		t.Errorf("got %d and %d, want 320 and 50", main, vector)
	}
}

// settings are an instance's, with a value for each secret.
func settings() (dify.Settings, map[string]string) {
	s := dify.Settings{
		Stack: "demo", Project: "p", Region: "r", Runtime: "standin", DifyVersion: dify.Default, Domain: "dify.example.com",
		Stores: dify.Stores{
			Database: dify.Database{Host: "db.demo.internal", Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: "vector.demo.internal", Port: 5432, User: "dify", Name: "dify"},
			Redis:    dify.Address{Host: "redis.demo.internal", Port: 6379}, Bucket: "files",
		},
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = "value-of-" + p.Key
	}
	return s, secrets
}

func TestEnv(t *testing.T) {
	s, secrets := settings()
	got, err := dify.Env(s, secrets)
	if err != nil {
		t.Fatal(err)
	}
	site := "https://dify.example.com"
	want := map[string]string{
		"DEPLOY_ENV": "PRODUCTION", "LOG_LEVEL": "INFO", "TZ": "UTC", "MIGRATION_ENABLED": "false",
		"SECRET_KEY": "value-of-SECRET_KEY", "INIT_PASSWORD": "value-of-INIT_PASSWORD",
		"DB_TYPE": "postgresql", "DB_HOST": "db.demo.internal", "DB_PORT": "5432", "DB_USERNAME": "dify", "DB_PASSWORD": "value-of-DB_PASSWORD",
		"DB_DATABASE": "dify", "DB_PLUGIN_DATABASE": "dify_plugin", "DB_MAX_OPEN_CONNS": "15",
		"SQLALCHEMY_POOL_SIZE": "10", "SQLALCHEMY_MAX_OVERFLOW": "10", "SQLALCHEMY_POOL_PRE_PING": "true", "SERVER_WORKER_AMOUNT": "2",
		"REDIS_HOST": "redis.demo.internal", "REDIS_PORT": "6379", "REDIS_USERNAME": "", "REDIS_PASSWORD": "value-of-REDIS_AUTH", "REDIS_DB": "0", "REDIS_USE_SSL": "false",
		"CELERY_BROKER_URL":   "redis://:value-of-REDIS_AUTH@redis.demo.internal:6379/1",
		"EVENT_BUS_REDIS_URL": "redis://:value-of-REDIS_AUTH@redis.demo.internal:6379/0",
		"STORAGE_TYPE":        "google-storage", "GOOGLE_STORAGE_BUCKET_NAME": "files", "GOOGLE_STORAGE_SERVICE_ACCOUNT_JSON_BASE64": "",
		"PLUGIN_STORAGE_TYPE": "gcs", "PLUGIN_STORAGE_OSS_BUCKET": "files", "GCS_CREDENTIALS": "",
		"VECTOR_STORE": "pgvector", "PGVECTOR_HOST": "vector.demo.internal", "PGVECTOR_PORT": "5432", "PGVECTOR_USER": "dify",
		"PGVECTOR_PASSWORD": "value-of-VECTOR_PASSWORD", "PGVECTOR_DATABASE": "dify",
		"PLUGIN_DAEMON_KEY": "value-of-PLUGIN_DAEMON_KEY", "SERVER_KEY": "value-of-PLUGIN_DAEMON_KEY",
		"INNER_API_KEY_FOR_PLUGIN": "value-of-INNER_API_KEY", "DIFY_INNER_API_KEY": "value-of-INNER_API_KEY",
		"CODE_EXECUTION_API_KEY": "value-of-SANDBOX_API_KEY", "API_KEY": "value-of-SANDBOX_API_KEY",
		"PLUGIN_REMOTE_INSTALLING_ENABLED": "false", "PIP_MIRROR_AUTO_DETECT": "false",
		"CONSOLE_API_URL": site, "CONSOLE_WEB_URL": site, "SERVICE_API_URL": site, "APP_API_URL": site, "APP_WEB_URL": site, "FILES_URL": site, "TRIGGER_URL": site,
		"ENDPOINT_URL_TEMPLATE": site + "/e/{hook_id}", "NEXT_PUBLIC_SOCKET_URL": "wss://dify.example.com",
		"CONSOLE_CORS_ALLOW_ORIGINS": site, "WEB_API_CORS_ALLOW_ORIGINS": site,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}

	// Without a domain: empty where that means the address the browser came by, absent where it does not.
	s.Domain = ""
	for _, name := range []string{"CONSOLE_API_URL", "CONSOLE_WEB_URL", "SERVICE_API_URL", "APP_API_URL", "APP_WEB_URL", "FILES_URL", "TRIGGER_URL"} {
		want[name] = ""
	}
	for _, name := range []string{"ENDPOINT_URL_TEMPLATE", "NEXT_PUBLIC_SOCKET_URL", "CONSOLE_CORS_ALLOW_ORIGINS", "WEB_API_CORS_ALLOW_ORIGINS"} {
		delete(want, name)
	}
	if got, err = dify.Env(s, secrets); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment without a domain (-want +got):\n%s", d)
	}
}

func TestEnvNeedsEverySecret(t *testing.T) {
	for _, p := range dify.Purposes() {
		s, secrets := settings()
		delete(secrets, p.Key)
		if env, err := dify.Env(s, secrets); env != nil || err == nil || !strings.Contains(err.Error(), p.Key) {
			t.Errorf("without %s: %v", p.Key, err)
		}
	}
}

func TestRouteFor(t *testing.T) {
	want := map[string]dify.Service{
		"/": dify.Web, "": dify.Web, "/apps": dify.Web, "/explore": dify.Web, "/explore/apps": dify.Web, "/_next/static/a.js": dify.Web,
		"/apiary": dify.Web, "/v10": dify.Web, "/evil": dify.Web, "/console": dify.Web, "/filesystem": dify.Web,
		"/console/api": dify.API, "/console/api/setup": dify.API, "/api": dify.API, "/api/": dify.API, "/v1/chat-messages": dify.API,
		"/openapi/v1": dify.API, "/files/x/y": dify.API, "/mcp/server/x/mcp": dify.API, "/triggers/webhook/x": dify.API, "/socket.io/": dify.API,
		"/e/hook": dify.PluginDaemon, "/e": dify.PluginDaemon, "/inner/api": "", "/inner/api/invoke/llm": "", "/inner": dify.Web,
	}
	got := map[string]dify.Service{}
	for path := range want {
		got[path] = dify.RouteFor(path).Service
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("services by path (-want +got):\n%s", d)
	}
	for _, r := range dify.Routes() {
		if r.Service != "" && !slices.Contains(dify.Services(), r.Service) {
			t.Errorf("%s goes to %q, which is not among the services", r.Prefix, r.Service)
		}
	}
}
