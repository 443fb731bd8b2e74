package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/report"
)

const value = "ABCsecretvalue123"

// world is a metadata server and Secret Manager in one, in which every secret has six versions: the first is disabled, the
// second destroyed, the sixth no text. Secrets are refused so often before they are given, as they are while permissions spread.
func world(t *testing.T, config string, refusals int64) (*agent, *bytes.Buffer) {
	t.Helper()
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /computeMetadata/v1/{path...}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		switch r.PathValue("path") {
		case "instance/name":
			fmt.Fprint(w, "vm-1")
		case "instance/zone":
			fmt.Fprint(w, "projects/1/zones/r-b")
		case "instance/network-interfaces/0/ip":
			fmt.Fprint(w, "127.0.0.1")
		case "instance/attributes/difyup-config":
			fmt.Fprint(w, config)
		case "project/attributes/difyup-api-endpoint":
			fmt.Fprint(w, "http://"+r.Host+"/")
		case "instance/service-accounts/default/email":
			fmt.Fprint(w, "vm@p.iam.gserviceaccount.com")
		case "instance/service-accounts/default/token":
			fmt.Fprint(w, `{"access_token":"token-1","expires_in":3600,"token_type":"Bearer"}`)
		default:
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /v1/projects/p/secrets/{secret}/versions/{version}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token-1" || asked.Add(1) <= refusals {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		version, _ := strings.CutSuffix(r.PathValue("version"), ":access")
		switch version {
		case "1", "2":
			state := map[string]string{"1": "DISABLED", "2": "DESTROYED"}[version]
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":{"code":400,"message":"Secret Version [projects/1/secrets/%s/versions/%s] is in %s state.","status":"FAILED_PRECONDITION"}}`, r.PathValue("secret"), version, state)
		case "3", "4", "5":
			fmt.Fprintf(w, `{"payload":{"data":%q}}`, base64.StdEncoding.EncodeToString([]byte(value+r.PathValue("secret")+version)))
		case "6":
			fmt.Fprintf(w, `{"payload":{"data":%q}}`, base64.StdEncoding.EncodeToString([]byte("\xff\xfe")))
		default:
			http.NotFound(w, r)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	var log bytes.Buffer
	a := &agent{log: slog.New(slog.NewTextHandler(&log, nil)), google: &google{host: server.Listener.Addr().String(), client: server.Client()}}
	a.opts.MetadataHost = a.google.host
	return a, &log
}

const config = `{"stack":"demo","project":"p","runtime":"standin","secrets":{"SECRET_KEY":"demo-secret-key@4","REDIS_AUTH":"demo-redis-auth@3"},
	"secretEnvironment":{"api":{"SENTRY_DSN":"sentry@5"},"worker":{"SENTRY_DSN":"sentry@5","OTHER":"sentry@3"}}}`

func TestSecretsAreWaitedFor(t *testing.T) {
	a, log := world(t, config, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.learn(ctx); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := a.try(ctx, report.Secrets, "the secrets", func(ctx context.Context) (err error) { got, err = a.fetch(ctx); return err }); err != nil {
		t.Fatal(err)
	}
	if got["SECRET_KEY"] != value+"demo-secret-key4" || got["REDIS_AUTH"] != value+"demo-redis-auth3" ||
		got["sentry@5"] != value+"sentry5" || got["sentry@3"] != value+"sentry3" || len(got) != 4 {
		t.Errorf("got %d secrets, and not the versions that the settings name", len(got))
	}
	if text := log.String(); !strings.Contains(text, "403 Forbidden") || !strings.Contains(text, "the secrets") || strings.Contains(text, value) || strings.Contains(text, "token-1") {
		t.Errorf("the log does not say what is waited for, or says too much:\n%s", text)
	}
}

// TestVersionsThatCannotBeRead checks that what is wrong with a version is named, with the version, and shown to everybody
// without anything of Google's.
func TestVersionsThatCannotBeRead(t *testing.T) {
	for version, want := range map[string]string{
		"@1": "the secret demo-secret-key@1 is disabled", "@2": "the secret demo-secret-key@2 is destroyed", "@9": "the secret demo-secret-key@9 is not there",
		"@6": "the secret demo-secret-key@6 is not a text, and cannot be a variable's value",
	} {
		a, _ := world(t, strings.Replace(config, "@4", version, 1), 0)
		if err := a.learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := a.fetch(t.Context())
		if words(err) != want || got != nil {
			t.Errorf("%s: %q, %v, want %q", version, words(err), err, want)
		}
	}
	a, _ := world(t, strings.Replace(config, "@4", "", 1), 0)
	if err := a.learn(t.Context()); err == nil || !strings.Contains(err.Error(), "NAME@VERSION") {
		t.Errorf("a secret without a version: %v", err)
	}
}

// TestRefusedToken has Google take a token no longer, as when it ended while the machine was suspended: the next request has another one.
// Until when a token is good is told by the clock that goes on then.
func TestRefusedToken(t *testing.T) {
	tokens := 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/token", func(w http.ResponseWriter, _ *http.Request) {
		tokens++
		fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3600,"token_type":"Bearer"}`, tokens)
	})
	mux.HandleFunc("GET /v1/thing", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer token-1" {
			http.Error(w, "Invalid Credentials", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	g := &google{host: server.Listener.Addr().String(), client: server.Client()}
	for _, want := range []string{"the thing: 401 Unauthorized", "Bearer token-2", "Bearer token-2"} {
		raw, err := g.call(t.Context(), server.URL, request{Method: http.MethodGet, Path: "/v1/thing", What: "the thing"})
		got := string(raw)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if tokens != 2 {
		t.Errorf("the metadata server was asked for %d tokens", tokens)
	}
	if g.expires != g.expires.Round(0) {
		t.Errorf("the token is good until %s", g.expires)
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	a, _ := world(t, config, 1<<60)
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := a.try(ctx, report.Stores, "nothing", func(context.Context) error {
		if tries++; tries == 2 {
			cancel()
		}
		return errors.New("never")
	})
	if !errors.Is(err, context.Canceled) || tries != 2 {
		t.Errorf("got %v after %d tries", err, tries)
	}
}

func TestUnknownRuntime(t *testing.T) {
	a, log := world(t, strings.Replace(config, "standin", "kubernetes", 1), 0)
	err := Run(t.Context(), Options{MetadataHost: a.opts.MetadataHost, Log: a.log, Runtimes: map[string]func(Instance) runtime.Runtime{"compose": nil}})
	var f *fault.Fault
	if !errors.As(err, &f) || f.Summary != "Unknown runtime" || f.Remedy == "" || !strings.Contains(f.Detail, "compose") {
		t.Errorf("got %v\n%s", err, log)
	}
}

// TestUnknownRelease checks that the images of the settings count, and that a version runs by none but them when it is not known.
func TestUnknownRelease(t *testing.T) {
	a, log := world(t, strings.Replace(config, `"runtime"`, `"difyVersion":"1.99.0","images":{"api":"1.99.0"},"runtime"`, 1), 0)
	err := Run(t.Context(), Options{MetadataHost: a.opts.MetadataHost, Log: a.log, Runtimes: map[string]func(Instance) runtime.Runtime{
		"standin": func(Instance) runtime.Runtime { t.Fatal("it was started"); return nil },
	}})
	var f *fault.Fault
	if !errors.As(err, &f) || f.Summary != "Images are missing" || !strings.Contains(f.Detail, "web, plugin_daemon, sandbox, ssrf_proxy") {
		t.Errorf("got %v\n%s", err, log)
	}
}

func TestErrorsHideSecrets(t *testing.T) {
	err := hide(errors.New("dial\n\tpostgres://dify:"+value+"@db failed"), map[string]string{dify.DBPassword: value})
	if want := "dial postgres://dify:***@db failed"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// TestLogin says with which credentials images are fetched.
func TestLogin(t *testing.T) {
	a, _ := world(t, "", 0)
	a.logins = map[string]string{"docker.io": "somebody:pass:word\n", "ghcr.io": "no-password", "quay.io": ":nobody"}
	a.settings.RegistryCredentials = map[string]dify.SecretVersion{"ghcr.io": {Name: "mine", Version: 2}, "quay.io": {Name: "other", Version: 1}}
	for registry, want := range map[string][3]string{
		"docker.io":                      {"somebody", "pass:word"},
		"registry.example.com:5000":      {},
		"asia-northeast1-docker.pkg.dev": {"oauth2accesstoken", "token-1"},
		"gcr.io":                         {"oauth2accesstoken", "token-1"},
		"ghcr.io":                        {"", "", "the secret mine@2 has no text of the form USER:PASSWORD"},
		"quay.io":                        {"", "", "the secret other@1 has no text of the form USER:PASSWORD"},
	} {
		user, password, err := a.login(t.Context(), registry)
		got := [3]string{user, password, ""}
		if err != nil {
			got = [3]string{"", "", words(fmt.Errorf("pull: %w", err))}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", registry, got, want)
		}
	}
}
