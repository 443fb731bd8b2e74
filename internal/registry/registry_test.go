package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	inmemory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/registry"
)

const amd64 = "linux/amd64"

// hub is a registry that tokens open, as Docker Hub and others do: who asks without is told where tokens are given.
type hub struct {
	t      *testing.T
	server *httptest.Server
	user   string // whom tokens are given to, with the password "secret"; "" = everybody
	status int    // of every answer but a token's; 0 = the registry's own
}

func newHub(t *testing.T, user string) *hub {
	t.Helper()
	// Nobody's own configuration counts.
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	h := &hub{t: t, user: user}
	images := inmemory.New(inmemory.Logger(log.New(io.Discard, "", 0)))
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			name, password, _ := r.BasicAuth()
			if h.user != "" && (name != h.user || password != "secret") {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "ticket for " + r.URL.Query().Get("scope")})
		case h.status != 0:
			w.WriteHeader(h.status)
		case !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ticket for "):
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="hub"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			images.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *hub) host() string { return strings.TrimPrefix(h.server.URL, "http://") }

// login writes Docker's configuration.
func (h *hub) login(user, password string) {
	h.t.Helper()
	dir := filepath.Join(os.Getenv("HOME"), ".docker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, h.host(), auth), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// image gives an image for a machine, another one each time.
func image(t *testing.T, architecture string) v1.Image {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", architecture
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func (h *hub) push(ref string, img v1.Image) {
	h.t.Helper()
	if err := remote.Write(h.name(ref), img); err != nil {
		h.t.Fatal(err)
	}
}

// pushIndex pushes an index of images for machines in this order, and gives their digests.
func (h *hub) pushIndex(ref string, architectures ...string) map[string]string {
	h.t.Helper()
	index, digests := v1.ImageIndex(empty.Index), map[string]string{}
	for _, a := range architectures {
		img := image(h.t, a)
		digests[a] = digest(h.t, img)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: a}}})
	}
	if err := remote.WriteIndex(h.name(ref), index); err != nil {
		h.t.Fatal(err)
	}
	return digests
}

func (h *hub) name(ref string) name.Reference {
	h.t.Helper()
	parsed, err := name.ParseReference(h.host() + "/" + ref)
	if err != nil {
		h.t.Fatal(err)
	}
	return parsed
}

func (h *hub) wantDigest(ref, want string) {
	h.t.Helper()
	got, err := new(registry.Client).Digest(h.t.Context(), h.host()+"/"+ref, amd64)
	if err != nil || got != want {
		h.t.Errorf("%s: got %s, %v; want %s", ref, got, err, want)
	}
}

func wantFault(t *testing.T, err error, summary string, parts ...string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok || f.Summary != summary || f.Remedy == "" {
		t.Fatalf("got %v, want %q", err, summary)
	}
	for _, part := range parts {
		if !strings.Contains(f.Detail+"\n"+f.Remedy, part) {
			t.Errorf("%q is not in:\n%s\n%s", part, f.Detail, f.Remedy)
		}
	}
	if strings.Contains(err.Error()+f.Remedy, "secret") {
		t.Errorf("a password is told: %v", err)
	}
}

// TestDigest checks what a tag stands for: the image for the instances out of an index, whichever place it has, or the one image
// that there is; and that a mirror is asked below its path.
func TestDigest(t *testing.T) {
	h := newHub(t, "")
	digests := h.pushIndex("langgenius/dify-api:1.17.1", "arm64", "amd64")
	h.wantDigest("langgenius/dify-api:1.17.1", digests["amd64"])
	one := image(t, "amd64")
	h.push("mirror/hub/langgenius/dify-web:1.17.1", one)
	h.wantDigest("mirror/hub/langgenius/dify-web:1.17.1", digest(t, one))
	// A tag that is pushed again stands for something else from then on.
	other := image(t, "amd64")
	h.push("mirror/hub/langgenius/dify-web:1.17.1", other)
	h.wantDigest("mirror/hub/langgenius/dify-web:1.17.1", digest(t, other))
}

func TestRefused(t *testing.T) {
	h := newHub(t, "")
	h.pushIndex("for/arm:1", "arm64")
	h.push("one/arm:1", image(t, "arm64"))
	ask := func(ref string) error {
		_, err := new(registry.Client).Digest(t.Context(), h.host()+"/"+ref, amd64)
		return err
	}
	wantFault(t, ask("for/arm:1"), "No image for the instances", "for/arm:1", amd64)
	wantFault(t, ask("one/arm:1"), "No image for the instances", "one/arm:1")
	wantFault(t, ask("for/arm:2"), "There is no such image", "knows no "+h.host()+"/for/arm:2", "dify.registry")
	wantFault(t, ask("for/Arm:1"), "Malformed image", "for/Arm:1")
	for status, summary := range map[int]string{429: "The registry allows no more requests", 500: "The registry does not answer", 403: "The registry lets nobody in"} {
		h.status = status
		wantFault(t, ask("for/arm:1"), summary, "for/arm:1")
	}
	h.server.Close()
	wantFault(t, ask("for/arm:1"), "The registry does not answer", "for/arm:1", "Nothing was changed")
}

// TestCredentials checks that a private registry gets what Docker's configuration has for it, and that the fault says what to do
// without.
func TestCredentials(t *testing.T) {
	h := newHub(t, "")
	digests := h.pushIndex("private/api:1", "amd64")
	h.user = "me"
	ask := func() error {
		_, err := new(registry.Client).Digest(t.Context(), h.host()+"/private/api:1", amd64)
		return err
	}
	wantFault(t, ask(), "The registry lets nobody in", "private/api:1", "docker login "+h.host())
	h.login("me", "wrong")
	wantFault(t, ask(), "The registry lets nobody in", "docker login "+h.host())
	h.login("me", "secret")
	h.wantDigest("private/api:1", digests["amd64"])
}

// lead takes requests for any host to the hub.
type lead struct{ hub *hub }

func (l lead) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = r.URL.Host
	r.URL.Scheme, r.URL.Host = "http", l.hub.host()
	return http.DefaultTransport.RoundTrip(r)
}

// TestGoogle checks that a Google access token opens Google's registries, and that nobody else is given one.
func TestGoogle(t *testing.T) {
	h := newHub(t, "")
	digests := h.pushIndex("my-project/hub/langgenius/dify-api:1", "amd64")
	h.user = "oauth2accesstoken"
	const image = "/my-project/hub/langgenius/dify-api:1"
	c := &registry.Client{Transport: lead{h}, Token: func(context.Context) (string, error) { return "secret", nil }}
	for _, host := range []string{"asia-northeast1-docker.pkg.dev", "gcr.io", "eu.gcr.io"} {
		if got, err := c.Digest(t.Context(), host+image, amd64); err != nil || got != digests["amd64"] {
			t.Errorf("%s: %s, %v", host, got, err)
		}
	}
	for _, host := range []string{"pkg.dev.example.com", "notgcr.io", "registry.example.com"} {
		_, err := c.Digest(t.Context(), host+image, amd64)
		wantFault(t, err, "The registry lets nobody in", "docker login "+host)
	}
	c.Token = func(context.Context) (string, error) { return "wrong", nil }
	_, err := c.Digest(t.Context(), "asia-northeast1-docker.pkg.dev"+image, amd64)
	wantFault(t, err, "The registry lets nobody in", "roles/artifactregistry.reader")
	c.Token = func(context.Context) (string, error) { return "", errors.New("expired") }
	_, err = c.Digest(t.Context(), "asia-northeast1-docker.pkg.dev"+image, amd64)
	wantFault(t, err, "No credentials for the registry", "gcloud auth application-default login")
}

// TestSilence checks that a registry which takes requests and answers none is given up, and that an interruption is one.
func TestSilence(t *testing.T) {
	_ = newHub(t, "")
	hung := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(hung)
	c := &registry.Client{Patience: 50 * time.Millisecond}
	_, err := c.Digest(t.Context(), strings.TrimPrefix(s.URL, "http://")+"/a/b:1", amd64)
	wantFault(t, err, "The registry does not answer", "a/b:1")
	if !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Error(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if _, err := c.Digest(ctx, strings.TrimPrefix(s.URL, "http://")+"/a/b:1", amd64); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestDockersProgram checks that a program for credentials which hangs, fails or is not there is what is blamed, and holds nobody up.
func TestDockersProgram(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	image := strings.TrimPrefix(s.URL, "http://") + "/a/b:1"
	programs := t.TempDir()
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	hung := filepath.Join(programs, "hung") // a pipe that nobody writes to
	if out, err := exec.CommandContext(t.Context(), "mkfifo", hung).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, text := range map[string]string{"hangs": "exec cat <" + hung, "fails": "echo locked; exit 1"} {
		if err := os.WriteFile(filepath.Join(programs, "docker-credential-"+name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"fails", "missing", "hangs"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"`+name+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("DOCKER_CONFIG", dir)
		c := &registry.Client{}
		if name == "hangs" {
			c.Patience = 50 * time.Millisecond
		}
		_, err := c.Digest(t.Context(), image, amd64)
		wantFault(t, err, "Docker's credentials cannot be read", "config.json")
	}
	// It ends now, and what waits for it.
	if err := os.WriteFile(hung, nil, 0); err != nil {
		t.Fatal(err)
	}
}
