package storage_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/storage"
	"github.com/difyup/difyup/internal/localcloud/store"
)

const token = "owner's token"

// cloud is Cloud Storage alone, behind the local cloud's front, with a bucket "files".
type cloud struct {
	t       *testing.T
	handler http.Handler
	storage *storage.Service
	tokens  *front.Tokens
	token   string // what requests bear
	dir     string // where contents are kept
	url     string // "" until listen
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, dir: t.TempDir(), token: token}
	f, err := front.New(front.Options{Token: token, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	st := store.New()
	policies := iam.NewPolicies(f, st)
	iam.Register(f, st, policies)
	c.storage = storage.Register(f, st, policies, c.dir)
	c.handler, c.tokens = f, f.Tokens()
	c.want(c.do("POST", "/storage/v1/b?project=demo", `{"name":"files"}`), 200)
	return c
}

// listen has the cloud serve on a loopback address.
func (c *cloud) listen() *cloud {
	s := httptest.NewServer(c.handler)
	c.t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("the answer is no JSON: %v: %s", err, a.body)
	}
	return m
}

// do sends a request, through a socket when the cloud listens. Headers are given as "Name: value".
func (c *cloud) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	return c.send(method, path, strings.NewReader(body), headers...)
}

func (c *cloud) send(method, path string, body io.Reader, headers ...string) answer {
	c.t.Helper()
	base := c.url
	if base == "" {
		base = "http://cloud.example"
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, base+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept-Encoding", "identity") // what the client's library would add and undo
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if c.url == "" {
		rec := httptest.NewRecorder()
		if req.Body == nil {
			req.Body = http.NoBody
		}
		c.handler.ServeHTTP(rec, req)
		return answer{rec.Code, rec.Header(), rec.Body.String()}
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect, which a 308 would be taken for
	if err != nil {
		c.t.Error(err)
		return answer{header: http.Header{}}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(raw)}
}

// want checks an answer's status, and that its body holds each text.
func (c *cloud) want(a answer, code int, texts ...string) answer {
	c.t.Helper()
	if a.code != code {
		c.t.Fatalf("got %d, want %d: %s", a.code, code, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			c.t.Errorf("the answer lacks %q: %s", text, a.body)
		}
	}
	return a
}

// stored checks what an object holds.
func (c *cloud) stored(name string, want []byte) {
	c.t.Helper()
	got := c.do("GET", "/storage/v1/b/files/o/"+name+"?alt=media", "")
	if got.code != 200 || !bytes.Equal([]byte(got.body), want) {
		c.t.Errorf("%s holds %d bytes (%d), want the %d that were sent", name, len(got.body), got.code, len(want))
	}
}
