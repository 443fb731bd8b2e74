//go:build linux

package conformance_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gcs "cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/secrets"
	"github.com/difyup/difyup/internal/localcloud/storage"
	"github.com/difyup/difyup/internal/localcloud/store"
	"github.com/difyup/difyup/internal/localcloud/sts"
	"github.com/difyup/difyup/internal/test/need"
)

// machine is an instance whose service account may use two buckets and a secret, and the endpoint of one of its containers.
type machine struct {
	google string // the root of the APIs
	self   string // HOST:PORT of the endpoint

	mu     sync.Mutex
	asked  []string // of the endpoint
	issued int      // tokens of the machine's own
}

// newMachine starts one whose own tokens are good for life. Objects are the beginnings of names that the container may use.
func newMachine(t *testing.T, life time.Duration, objects ...string) *machine {
	t.Helper()
	const owner, account = "owner's token", "vm-account@demo-project.iam.gserviceaccount.com"
	f, err := front.New(front.Options{Token: owner, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	st := store.New()
	policies := iam.NewPolicies(f, st)
	iam.Register(f, st, policies)
	secrets.Register(f, st, policies)
	storage.Register(f, st, policies, t.TempDir())
	sts.Register(f, policies)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	m := &machine{google: server.URL}
	admin := fmt.Sprintf(`{"bindings":[{"role":"roles/storage.objectAdmin","members":["serviceAccount:%s"]},{"role":"roles/storage.legacyBucketReader","members":["serviceAccount:%[1]s"]}]}`, account)
	for _, call := range [][3]string{
		{"POST", "/v1/projects/demo-project/serviceAccounts", `{"accountId":"vm-account"}`},
		{"POST", "/v1/projects/demo-project/secrets?secretId=s", `{"replication":{"automatic":{}}}`},
		{"POST", "/v1/projects/demo-project/secrets/s:addVersion", `{"payload":{"data":"eA=="}}`},
		{"POST", "/v1/projects/demo-project/secrets/s:setIamPolicy", `{"policy":{"bindings":[{"role":"roles/secretmanager.secretAccessor","members":["serviceAccount:` + account + `"]}]}}`},
		{"POST", "/storage/v1/b?project=demo-project", `{"name":"files","iamConfiguration":{"uniformBucketLevelAccess":{"enabled":true}}}`},
		{"POST", "/storage/v1/b?project=demo-project", `{"name":"others","iamConfiguration":{"uniformBucketLevelAccess":{"enabled":true}}}`},
		{"PUT", "/storage/v1/b/files/iam", admin}, {"PUT", "/storage/v1/b/others/iam", admin},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=media&name=privkeys/t/private.pem", "key"},
		{"POST", "/upload/storage/v1/b/others/o?uploadType=media&name=plugin/a", "x"},
	} {
		if code, text := m.call(t, owner, call[0], call[1], call[2]); code != http.StatusOK {
			t.Fatalf("%s %s: %d %s", call[0], call[1], code, text)
		}
	}

	client := &http.Client{Timeout: 20 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	own := func(context.Context) (identity.Token, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.issued++
		return identity.Token{Value: f.Tokens().Issue(account, life), Expires: time.Now().Add(life)}, nil
	}
	source := &identity.Source{Endpoint: server.URL + "/", Client: client, Own: own, Boundary: identity.Boundary("files", objects)}
	endpoint := &identity.Endpoint{Instance: identity.Instance{Project: "demo-project", Account: account, Universe: "googleapis.com"}, Token: source.Token, Log: slog.New(slog.DiscardHandler)}
	self := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked = append(m.asked, strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/"))
		m.mu.Unlock()
		endpoint.ServeHTTP(w, r)
	}))
	t.Cleanup(self.Close)
	m.self = self.Listener.Addr().String()
	return m
}

func (m *machine) call(t *testing.T, token, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, m.google+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// Google's clients think a token too old when less than 3:45 is left. With a life of a little more, they keep one for some seconds;
// with one of some seconds they ask before each request, and what they had is soon worth nothing.
var lives = map[string]time.Duration{"kept": 3*time.Minute + 48*time.Second, "short": 20 * time.Second}

// renewed is how many tokens a client must have had: the first, and two after that.
const renewed = 3

func (m *machine) tokens() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.issued
}

// variables give what the runtimes give containers by which a client finds who it is. Nothing else in the environment may tell it.
func (m *machine) variables() map[string]string {
	return runtime.IdentityVariables(netip.MustParseAddrPort(m.self))
}

// TestIdentityGo has Google's Go client find by itself who it is, as the plugin daemon's does, and do what that does, until its
// tokens were renewed twice.
func TestIdentityGo(t *testing.T) {
	for name, life := range lives {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, life, "plugin/", "assets/")
			for name, value := range m.variables() { // before the client looks: it must not come to another metadata server
				t.Setenv(name, value)
			}
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
			t.Setenv("HOME", t.TempDir())
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			client, err := gcs.NewClient(ctx, option.WithEndpoint(m.google+"/storage/v1/"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			files := client.Bucket("files")
			must := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s after %d tokens: %v", what, m.tokens(), err)
				}
			}
			for i := 0; m.tokens() < renewed || i < renewed; i++ {
				o := files.Object(fmt.Sprintf("plugin/p:%d", i))
				w := o.NewWriter(ctx)
				_, err := w.Write([]byte("contents"))
				must("write", errors.Join(err, w.Close()))
				_, err = o.Attrs(ctx)
				must("attributes", err)
				r, err := o.NewReader(ctx)
				must("read", err)
				raw, err := io.ReadAll(r)
				must("read", errors.Join(err, r.Close()))
				if string(raw) != "contents" {
					t.Fatalf("it holds %q", raw)
				}
				_, err = files.Objects(ctx, &gcs.Query{Prefix: "plugin/"}).Next()
				must("list", err)
				must("delete", o.Delete(ctx))
			}
			_, all := files.Objects(ctx, nil).Next()
			_, bucket := files.Attrs(ctx)
			_, key := files.Object("privkeys/t/private.pem").Attrs(ctx)
			_, read := files.Object("privkeys/t/private.pem").NewReader(ctx)
			_, others := client.Bucket("others").Object("plugin/a").Attrs(ctx)
			for what, err := range map[string]error{"list all": all, "the bucket": bucket, "the key": key, "the key's contents": read, "another bucket": others} {
				var e *googleapi.Error
				if !errors.As(err, &e) || e.Code != http.StatusForbidden {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// pythons runs a test with each Python that scripts/install-clients makes: that of the newest clients, or $DIFYUP_PYTHON, and that of old
// ones, as releases of Dify have them, or $DIFYUP_PYTHON_OLD. The program versions says whether the clients are there, and which.
func pythons(t *testing.T, versions string, run func(t *testing.T, python string)) {
	for variable, otherwise := range map[string]string{"DIFYUP_PYTHON": "/python/bin/python", "DIFYUP_PYTHON_OLD": "/python-old/bin/python"} {
		t.Run(variable, func(t *testing.T) {
			python := cmp.Or(os.Getenv(variable), clientTree+otherwise)
			out, err := exec.CommandContext(t.Context(), python, "-c", versions).CombinedOutput()
			if err != nil {
				need.Missing(t, fmt.Sprintf("%s lacks clients: %v %s; to install: scripts/install-clients", python, err, lastLine(out)))
			}
			t.Logf("%s: %s", versions, out)
			run(t, python)
		})
	}
}

// TestIdentityPython has Google's Python client find by itself who it is, as Dify's does, and do what that does, until its tokens were
// renewed twice.
func TestIdentityPython(t *testing.T) {
	pythons(t, "import google.auth, google.cloud.storage; print(google.auth.__version__, google.cloud.storage.__version__)", func(t *testing.T, python string) {
		for name, life := range lives {
			t.Run(name, func(t *testing.T) {
				m := newMachine(t, life, "")
				cmd := exec.CommandContext(t.Context(), python, "testdata/identity.py", m.google, fmt.Sprint(renewed))
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
				for name, value := range m.variables() {
					cmd.Env = append(cmd.Env, name+"="+value)
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				if n := m.tokens(); n < renewed {
					t.Errorf("%d tokens were had", n)
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				slices.Sort(m.asked)
				t.Logf("it asks for %q", slices.Compact(m.asked))
			})
		}
	})
}
