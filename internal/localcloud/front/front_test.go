package front_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/schema"
)

const token = "owner's token"

func newServer(t *testing.T) *front.Server {
	t.Helper()
	s, err := front.New(front.Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, s http.Handler, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, req)
	return rec
}

// TestNameInBody: Google's generated clients send a resource's name in the body too. It must be the path's.
func TestNameInBody(t *testing.T) {
	s := newServer(t)
	var got map[string]any
	for _, id := range []string{"secrets.addVersion", "secrets.setIamPolicy", "secrets.versions.disable", "secrets.create"} {
		s.Handle("secretmanager.projects."+id, func(_ context.Context, r *front.Request) (any, error) {
			got = r.Body
			return map[string]any{}, nil
		})
	}
	number := s.ProjectNumber("demo")
	for _, c := range []struct {
		name, path, body string
		code             int
		left             string
	}{
		{"addVersion", "/v1/projects/demo/secrets/s:addVersion", `{"parent":"projects/demo/secrets/s","payload":{}}`, 200, `{"payload":{}}`},
		{"by number", "/v1/projects/demo/secrets/s:addVersion", `{"parent":"projects/` + number + `/secrets/s"}`, 200, `{}`},
		{"disable", "/v1/projects/demo/secrets/s/versions/1:disable", `{"name":"projects/demo/secrets/s/versions/1"}`, 200, `{}`},
		{"setIamPolicy", "/v1/projects/demo/secrets/s:setIamPolicy", `{"resource":"projects/demo/secrets/s","policy":{}}`, 200, `{"policy":{}}`},
		{"another secret", "/v1/projects/demo/secrets/s:addVersion", `{"parent":"projects/demo/secrets/other"}`, 400, ""},
		{"another project", "/v1/projects/demo/secrets/s:addVersion", `{"parent":"projects/other/secrets/s"}`, 400, ""},
		{"no name", "/v1/projects/demo/secrets/s:addVersion", `{"parent":7}`, 400, ""},
		{"another parameter", "/v1/projects/demo/secrets/s:addVersion", `{"name":"projects/demo/secrets/s"}`, 400, ""},
		{"a field of the same name", "/v1/projects/demo/secrets?secretId=s", `{"name":"anything"}`, 200, `{"name":"anything"}`},
	} {
		got = nil
		rec := do(t, s, "POST", c.path, c.body)
		left := ""
		if got != nil {
			raw, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			left = string(raw)
		}
		if rec.Code != c.code || left != c.left {
			t.Errorf("%s: got %d and %s, want %d and %s: %s", c.name, rec.Code, left, c.code, c.left, rec.Body)
		}
	}
}

// TestUnserved calls every method of every API of a server that has none: each is refused with a 4xx, since clients ask
// again without end after 501.
func TestUnserved(t *testing.T) {
	s := newServer(t)
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	param := regexp.MustCompile(`\{\w+\}`)
	n := 0
	for _, api := range set.APIs() {
		methods, err := set.Methods(api)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range methods {
			if strings.Contains(strings.ToLower(m.ID), "operations.") {
				continue // the front's own
			}
			n++
			body := ""
			if m.API == "sts" { // who asks stands there
				body = `{"subjectToken":"` + token + `"}`
			}
			rec := do(t, s, m.HTTPMethod, param.ReplaceAllString(m.Path, "demo"), body)
			if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), "does not implement") {
				t.Errorf("%s: got %d: %s", m.ID, rec.Code, rec.Body)
			}
		}
	}
	if n < 300 {
		t.Errorf("only %d methods were called", n)
	}
	for _, path := range []string{"/", "/nothing", "/v1/nothing/here", "/storage/v1/nothing", "/some-bucket/some/object"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if rec := do(t, s, method, path, ""); rec.Code/100 != 4 {
				t.Errorf("%s %s: got %d", method, path, rec.Code)
			}
		}
	}
}

// TestBooleans: Python's client writes True where the documents have true.
func TestBooleans(t *testing.T) {
	s := newServer(t)
	s.Handle("storage.objects.list", func(_ context.Context, r *front.Request) (any, error) {
		return map[string]any{"versions": r.Query.Get("versions")}, nil
	})
	for given, want := range map[string]string{"true": `"true"`, "True": `"true"`, "False": `"false"`, "1": `"true"`, "yes": "Invalid value"} {
		if rec := do(t, s, "GET", "/storage/v1/b/files/o?versions="+given, ""); !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: got %d: %s", given, rec.Code, rec.Body)
		}
	}
}
