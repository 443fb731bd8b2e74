package agent

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/localcloud/plane"
)

// member is one of several instances of a stack, all of which are agents of this process.
type member struct {
	name  string
	at    netip.Addr
	url   string
	log   said
	ended chan error
}

// said is a log that may be read while it is written.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// get asks the instance's front door. An instance that has none yet gives 0.
func (m *member) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(m.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// until waits until a path is answered with a status, and with words.
func (m *member) until(t *testing.T, path string, code int, words string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		got, text := m.get(t, path)
		if got == code && strings.Contains(text, words) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s answers %s with %d %s, want %d with %q", m.name, path, got, text, code, words)
		}
	}
}

// TestPluginsOfThreeInstances installs a plugin through one instance: the other one gets it, and a third takes no traffic before
// it has it. When nobody can start it any more, a fourth takes traffic without it, and all warn of that.
func TestPluginsOfThreeInstances(t *testing.T) {
	data, settings := storesOf(t, "standin")
	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	google := &cloud{config: string(config), objects: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	var all []*member
	defer func() {
		cancel()
		for _, m := range all {
			if err := <-m.ended; err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Log(m.log.String())
			}
		}
	}()
	// start starts an instance, which need not be ready.
	start := func(name string) *member {
		at, err := data.Net.Addr(plane.Instance)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/") {
			case "name":
				io.WriteString(w, name)
			case "network-interfaces/0/ip":
				io.WriteString(w, at.String())
			default:
				google.ServeHTTP(w, r)
			}
		}))
		t.Cleanup(server.Close)
		m := &member{name: name, at: at, url: "http://" + netip.AddrPortFrom(at, Port).String(), ended: make(chan error, 1)}
		all = append(all, m)
		go func() {
			m.ended <- Run(ctx, Options{MetadataHost: server.Listener.Addr().String(), Log: slog.New(slog.NewTextHandler(&m.log, nil)), Runtimes: map[string]func(Instance) runtime.Runtime{"standin": func(i Instance) runtime.Runtime {
				return standin.NewProcesses(standin.ProcessOptions{
					Program: self, Address: i.Address, Instance: i.Name, Version: i.Settings.DifyVersion, Environ: os.Environ(), Output: io.Discard, Log: i.Log,
					Environment: map[string]string{"STORAGE_EMULATOR_HOST": i.Endpoint, "STANDIN_POLL": "100"},
				})
			}}})
		}()
		return m
	}
	first, second := start("vm-1"), start("vm-2")
	first.until(t, "/health", 200, "ready")
	second.until(t, "/health", 200, "ready")

	// The owner installs it through the first.
	cookies := map[string]*http.Cookie{}
	post := func(want int, path, contentType, body string) map[string]any {
		t.Helper()
		method := http.MethodPost
		if body == "" {
			method = http.MethodGet
		}
		req, err := http.NewRequestWithContext(t.Context(), method, first.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		for _, c := range cookies {
			req.AddCookie(c)
		}
		if c := cookies["csrf_token"]; c != nil {
			req.Header.Set("X-CSRF-Token", c.Value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for _, c := range resp.Cookies() {
			cookies[c.Name] = c
		}
		fields := map[string]any{}
		if err := json.NewDecoder(resp.Body).Decode(&fields); err != nil || resp.StatusCode != want {
			t.Fatalf("%s: %s %v (%v)", path, resp.Status, fields, err)
		}
		return fields
	}
	const asJSON, workspace = "application/json", "/console/api/workspaces/current"
	post(201, "/console/api/init", asJSON, fmt.Sprintf(`{"password":%q}`, secretOf("demo-init-password")))
	post(201, "/console/api/setup", asJSON, `{"email":"owner@example.com","name":"Owner","password":"0wnerOfEverything"}`)
	post(200, "/console/api/login", asJSON, fmt.Sprintf(`{"email":"owner@example.com","password":%q}`, base64.StdEncoding.EncodeToString([]byte("0wnerOfEverything"))))
	var archive, body bytes.Buffer
	z := zip.NewWriter(&archive)
	if f, err := z.Create("manifest.yaml"); err != nil {
		t.Fatal(err)
	} else if _, err := io.WriteString(f, "author: difyup\nname: clock\nversion: 0.0.1\nstandin_milliseconds: 1000\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Create(".verification.dify.json"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	form := multipart.NewWriter(&body)
	if f, err := form.CreateFormFile("pkg", "clock.difypkg"); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write(archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	identifier := fmt.Sprint(post(200, workspace+"/plugin/upload/pkg", form.FormDataContentType(), body.String())["unique_identifier"])
	post(200, workspace+"/plugin/install/pkg", asJSON, fmt.Sprintf(`{"plugin_unique_identifiers":[%q]}`, identifier))
	post(200, workspace+"/endpoints/create", asJSON, fmt.Sprintf(`{"plugin_unique_identifier":%q,"name":"a","settings":{"token":"word"}}`, identifier))
	hook := fmt.Sprint("/e/", post(200, workspace+"/endpoints/list/plugin?page=1&page_size=9&plugin_id=difyup/clock", asJSON, "")["endpoints"].([]any)[0].(map[string]any)["hook_id"], "/")

	const answers = `"plugin":"difyup/clock"`
	if code, says := first.get(t, hook); code != 200 || !strings.Contains(says, answers) {
		t.Fatalf("the instance that installed it answers %d %s", code, says)
	}
	second.until(t, hook, 200, answers)

	// What the third answers from its first moment on.
	third := start("vm-3")
	waited := 0
	for end, well := time.Now().Add(3*time.Minute), 0; well < 20; time.Sleep(5 * time.Millisecond) {
		code, says := third.get(t, hook)
		switch {
		case code == 200 && strings.Contains(says, answers):
			well++
		case code != 0 && code != 503:
			t.Fatalf("before it has the plugin, it answers %d %s", code, says)
		}
		if _, says := third.get(t, "/health"); strings.Contains(says, "waits for the plugin difyup/clock:0.0.1 of other instances to run here") {
			waited++
		}
		if time.Now().After(end) {
			t.Fatalf("it answers %d %s", code, says)
		}
	}
	if waited == 0 {
		t.Error("it did not wait for the plugin of the others")
	}

	// Nobody finds the package any more.
	google.mu.Lock()
	delete(google.objects, "plugin/"+identifier)
	google.mu.Unlock()
	for _, m := range all {
		m.until(t, hook, 404, "no available node")
		if code, says := m.get(t, "/health"); code != 200 {
			t.Errorf("%s, which has lost a plugin, answers %d %s", m.name, code, says)
		}
	}
	start("vm-4").until(t, "/health", 200, "ready")
	for _, m := range all {
		for end := time.Now().Add(3 * time.Minute); !strings.Contains(m.log.String(), "the plugin difyup/clock:0.0.1 runs on no instance, and is installed"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not warn", m.name)
			}
		}
	}
}
