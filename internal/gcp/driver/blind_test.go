//go:build linux

package driver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/sqladmin/v1"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/test/cloud"
)

// answers gives the answers to one method and path after another, "STATUS BODY"; the last one for ever. What was asked is
// kept.
type answers struct {
	mu    sync.Mutex
	lines map[string][]string // by "METHOD PATH"
	asked []string
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	key := r.Method + " " + r.URL.Path
	a.asked = append(a.asked, strings.TrimSpace(key+" "+string(body)))
	list := a.lines[key]
	if len(list) == 0 {
		return nil, errors.New("nobody expects " + key)
	}
	if len(list) > 1 {
		a.lines[key] = list[1:]
	}
	status, text, _ := strings.Cut(list[0], " ")
	var code int
	fmt.Sscan(status, &code)
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// changes gives what was asked beside reading.
func (a *answers) changes() []string {
	var out []string
	for _, q := range a.asked {
		if !strings.HasPrefix(q, http.MethodGet) && !strings.Contains(q, ":getIamPolicy") {
			out = append(out, q)
		}
	}
	return out
}

func scripted(t *testing.T, lines map[string][]string) (*gcp.Client, *answers) {
	t.Helper()
	a := &answers{lines: lines}
	c, err := gcp.New(t.Context(), gcp.Options{Project: "demo-project", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: a}, Drivers: driver.All()})
	must(t, err)
	return c, a
}

// TestPoliciesAreReadFirst checks that a policy that cannot be read is waited for, and none is written that was not read:
// everybody else's bindings would be lost.
func TestPoliciesAreReadFirst(t *testing.T) {
	const (
		member = "serviceAccount:vm@demo-project.iam.gserviceaccount.com"
		absent = `404 {"error":{"code":404,"message":"The specified bucket does not exist.","errors":[{"reason":"notFound"}]}}`
		theirs = `200 {"etag":"CAE=","version":1,"bindings":[{"role":"roles/storage.admin","members":["user:owner@example.com"]}]}`
		ours   = `200 {"etag":"CAI=","bindings":[{"role":"roles/viewer","members":["` + member + `"]},{"role":"roles/storage.admin","members":["user:owner@example.com"]}]}`
		wants  = `"bindings":[{"members":["user:owner@example.com"],"role":"roles/storage.admin"},{"members":["` + member + `"],"role":"roles/viewer"}],"etag":"CAE=","version":3`
	)
	body := &kind.Policy{Bindings: []kind.Binding{{Role: "roles/viewer", Members: []string{member}}}}
	for _, k := range []struct {
		r          *resource.Resource
		read, send string
		body       string
	}{
		{kind.BucketIAM.New("vm", params("bucket", "b", "member", member), body), "GET /storage/v1/b/b/iam", "PUT /storage/v1/b/b/iam", "{" + wants + "}"},
		{kind.SecretIAM.New("vm", params("secret", "s", "member", member), body), "GET /v1/projects/demo-project/secrets/s:getIamPolicy", "POST /v1/projects/demo-project/secrets/s:setIamPolicy", `{"policy":{` + wants + "}}"},
		{kind.ProjectIAM.New("vm", params("member", member), body), "POST /v1/projects/demo-project:getIamPolicy", "POST /v1/projects/demo-project:setIamPolicy", `{"policy":{` + wants + "}}"},
	} {
		for _, tc := range []struct {
			name    string
			read    []string
			send    []string
			changes []string
			fails   string
			least   time.Duration
		}{
			{"not seen everywhere yet", []string{absent, absent, absent, theirs}, []string{"200 {}"}, []string{k.send + " " + k.body}, "", time.Millisecond},
			{"never seen", []string{absent}, []string{"200 {}"}, nil, "read the IAM policy: ", 2 * time.Minute},
			{"without an etag", []string{`200 {"bindings":[]}`}, []string{"200 {}"}, nil, "without an etag", 0},
			{"not allowed", []string{`403 {"error":{"code":403,"message":"denied"}}`}, []string{"200 {}"}, nil, "denied", 0},
			{"changed meanwhile", []string{theirs, theirs}, []string{`409 {"error":{"code":409,"message":"There were concurrent policy changes.","status":"ABORTED"}}`, "200 {}"}, []string{k.send + " " + k.body, k.send + " " + k.body}, "", 0},
			{"written, and the answer lost", []string{theirs, ours}, []string{`409 {"error":{"code":409,"message":"There were concurrent policy changes.","status":"ABORTED"}}`}, []string{k.send + " " + k.body}, "", 0},
		} {
			synctest.Test(t, func(t *testing.T) {
				c, a := scripted(t, map[string][]string{k.read: tc.read, k.send: tc.send})
				began := time.Now()
				err := c.Create(t.Context(), k.r, k.r.Body)
				if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) || time.Since(began) < tc.least {
					t.Errorf("%s, %s: after %s: %v, want %q", k.r.Kind.Name, tc.name, time.Since(began), err, tc.fails)
				}
				if d := cmp.Diff(tc.changes, a.changes()); d != "" {
					t.Errorf("%s, %s: written (-want +got):\n%s", k.r.Kind.Name, tc.name, d)
				}
			})
		}
	}
}

// TestDeletesWhatFailed checks that a database whose creation failed is deleted at once, though it may not be changed, and that one
// which runs is not deleted while it is protected.
func TestDeletesWhatFailed(t *testing.T) {
	const path = "/v1/projects/demo-project/instances/demo-main"
	const refused = `409 {"error":{"code":409,"message":"The instance or operation is not in an appropriate state to handle the request.","errors":[{"reason":"invalidState"}]}}`
	for state, want := range map[string][]string{
		"FAILED":    {"PATCH " + path + ` {"settings":{"deletionProtectionEnabled":false}}`, "DELETE " + path},
		"SUSPENDED": nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			gone := `404 {"error":{"code":404,"message":"gone"}}`
			c, a := scripted(t, map[string][]string{
				"GET " + path:    {`200 {"state":"` + state + `","settings":{"deletionProtectionEnabled":true}}`},
				"PATCH " + path:  {refused},
				"DELETE " + path: {gone},
			})
			began := time.Now()
			err := c.Delete(t.Context(), &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params()})
			if (err == nil) != (want != nil) {
				t.Errorf("%s: %v", state, err)
			}
			if want == nil {
				want = a.changes()
				if slices.ContainsFunc(want, func(q string) bool { return strings.HasPrefix(q, "DELETE") }) {
					t.Errorf("%s: deleted, %q", state, want)
				}
			} else if took := time.Since(began); took > 0 {
				t.Errorf("%s: it took %s", state, took)
			}
			if d := cmp.Diff(want, a.changes()); d != "" {
				t.Errorf("%s (-want +got):\n%s", state, d)
			}
		})
	}
}

// TestNothingIsWrittenBlindly checks the other things that are read, changed and written.
func TestNothingIsWrittenBlindly(t *testing.T) {
	backend := &resource.Resource{Kind: kind.BackendServices.Kind, Name: "b", Params: params()}
	const path = "/compute/v1/projects/demo-project/global/backendServices/b"
	change := func(c *gcp.Client, live map[string]any) error {
		return c.Update(t.Context(), backend, map[string]any{"timeoutSec": 30.0}, live, []resource.Path{"timeoutSec"})
	}
	t.Run("a fingerprint that was not read", func(t *testing.T) {
		c, a := scripted(t, nil)
		if err := change(c, map[string]any{"timeoutSec": 10.0}); err == nil || !strings.Contains(err.Error(), "without its fingerprint") || len(a.asked) > 0 {
			t.Errorf("%v after %q", err, a.asked)
		}
	})
	t.Run("gone after a stale fingerprint", func(t *testing.T) {
		c, a := scripted(t, map[string][]string{"PATCH " + path: {`412 {"error":{"code":412,"message":"stale"}}`}, "GET " + path: {`404 {"error":{"code":404,"message":"gone"}}`}})
		var f *fault.Fault
		if err := change(c, map[string]any{"fingerprint": "old"}); !errors.As(err, &f) || f.Summary != "A resource disappeared" || len(a.changes()) != 1 {
			t.Errorf("%v after %q", err, a.asked)
		}
	})
	t.Run("somebody's annotations of a secret", func(t *testing.T) {
		const secret = "/v1/projects/demo-project/secrets/s"
		s := kind.Secrets.New("s", params(), &kind.Secret{Labels: resource.Labels("demo"), Version: 7, Payload: "x"})
		c, a := scripted(t, map[string][]string{
			"POST /v1/projects/demo-project/secrets": {"200 {}"}, "GET " + secret + "/versions/latest:access": {`200 {"name":"projects/1/secrets/s/versions/7","payload":{"data":"eA=="}}`},
			"GET " + secret: {`200 {"annotations":{"team":"one","difyup-complete":"1"},"etag":"\"1\""}`, `200 {"annotations":{"team":"two"},"etag":"\"2\""}`}, "PATCH " + secret: {`409 {"error":{"code":409,"message":"etag"}}`, "200 {}"},
		})
		must(t, c.Create(t.Context(), s, s.Body))
		want := []string{
			`POST /v1/projects/demo-project/secrets {"labels":{"difyup-stack":"demo","managed-by":"difyup"},"replication":{"automatic":{}}}`,
			`PATCH ` + secret + ` {"annotations":{"difyup-version":"7","team":"one"},"etag":"\"1\""}`,
			`PATCH ` + secret + ` {"annotations":{"difyup-version":"7","team":"two"},"etag":"\"2\""}`,
		}
		if d := cmp.Diff(want, a.changes()); d != "" {
			t.Errorf("written (-want +got):\n%s", d)
		}
	})
}

// TestObjectsAreUploadedOnce checks that an upload never takes the place of a generation that was not read.
func TestObjectsAreUploadedOnce(t *testing.T) {
	info := cloud.Start(t)
	c := connect(t, info.URL, info.Token)
	ctx := t.Context()
	must(t, c.Do(ctx, gcp.Call{API: kind.StorageAPI, Method: http.MethodPost, Path: "b", Query: url.Values{"project": {"demo-project"}}, Body: map[string]any{"name": "demo-files", "versioning": map[string]any{"enabled": true}}}))
	file := filepath.Join(t.TempDir(), "agent")
	object := func(content, sum string) *resource.Resource {
		must(t, os.WriteFile(file, []byte(content), 0o600))
		return kind.BucketObjects.New("demo-files/agent", params("bucket", "demo-files"), &kind.Object{Bucket: "demo-files", Name: "agent", SHA256: sum, Source: file})
	}
	generations := func(want int, what string) {
		t.Helper()
		items, err := c.List(ctx, kind.Buckets.Kind, "b/demo-files/o", url.Values{"versions": {"true"}})
		if err != nil || len(items) != want {
			t.Errorf("%s: %d generations, want %d; %v", what, len(items), want, err)
		}
	}
	one := object("one", "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed")
	must(t, c.Create(ctx, one, one.Body))
	must(t, c.Create(ctx, one, one.Body))
	generations(1, "created twice")
	stale, err := c.Read(ctx, one)
	must(t, err)
	two := object("two", "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3")
	must(t, c.Update(ctx, two, two.Body, stale, nil))
	must(t, c.Update(ctx, two, two.Body, stale, nil))
	generations(2, "changed twice")
	live, err := c.Read(ctx, two)
	if err != nil || live["sha256"] != two.Body["sha256"] {
		t.Errorf("it is %v, %v", live, err)
	}
	// Somebody else's later generation is read before it is replaced.
	one = object("one", one.Body["sha256"].(string))
	must(t, c.Update(ctx, one, one.Body, stale, nil))
	generations(3, "changed after somebody else")
}

// TestObjectsThatAreNoFiles checks that what is uploaded comes from where the client is told, and that an upload of anything
// but what the plan spoke of, or of what cannot be read, sends nothing.
func TestObjectsThatAreNoFiles(t *testing.T) {
	const sum = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" // of "one"
	for _, tc := range []struct {
		name, content string
		err           error
		says          string // "" = it is uploaded
	}{
		{name: "as planned", content: "one"},
		{name: "another", content: "two", says: "changed since the plan was made"},
		{name: "none", err: errors.New("it is damaged"), says: "it is damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &answers{lines: map[string][]string{"POST /upload/storage/v1/b/demo-files/o": {"200 {}"}}}
			c, err := gcp.New(t.Context(), gcp.Options{
				Project: "demo-project", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: a}, Drivers: driver.All(),
				ReadFile: func(path string) ([]byte, error) {
					if path != "inside" {
						t.Errorf("%q is read", path)
					}
					return []byte(tc.content), tc.err
				},
			})
			must(t, err)
			r := kind.BucketObjects.New("demo-files/agent", params("bucket", "demo-files"), &kind.Object{Bucket: "demo-files", Name: "agent", SHA256: sum, Source: "inside"})
			err = c.Create(t.Context(), r, r.Body)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) || len(a.asked) > 0 {
					t.Errorf("%v, after %q; want %q", err, a.asked, tc.says)
				}
				return
			}
			must(t, err)
			if sent := strings.Join(a.asked, "\n"); !strings.Contains(sent, "\r\n\r\none\r\n") {
				t.Errorf("sent:\n%s", sent)
			}
		})
	}
}

// TestUploadToANewBucket checks that an upload waits for a bucket that is not seen everywhere yet, and not for ever.
func TestUploadToANewBucket(t *testing.T) {
	const (
		sum    = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" // of "one"
		absent = `404 {"error":{"code":404,"message":"The specified bucket does not exist.","errors":[{"reason":"notFound"}]}}`
	)
	r := kind.BucketObjects.New("demo-files/agent", params("bucket", "demo-files"), &kind.Object{Bucket: "demo-files", Name: "agent", SHA256: sum, Source: "inside"})
	for _, tc := range []struct {
		name    string
		answers []string
		least   time.Duration
		code    int
	}{
		{"seen after a while", slices.Concat(slices.Repeat([]string{absent}, 12), []string{"200 {}"}), 10 * time.Second, 0},
		{"never seen", []string{absent}, 2 * time.Minute, 404},
		{"refused", []string{`403 {"error":{"code":403,"message":"no right"}}`}, 0, 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &answers{lines: map[string][]string{"POST /upload/storage/v1/b/demo-files/o": tc.answers}}
				c, err := gcp.New(t.Context(), gcp.Options{
					Project: "demo-project", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: a}, Drivers: driver.All(), ReadFile: func(string) ([]byte, error) { return []byte("one"), nil },
				})
				must(t, err)
				began := time.Now()
				err = c.Create(t.Context(), r, r.Body)
				if took := time.Since(began); tc.code == 0 && err != nil || tc.code != 0 && !gcp.Is(err, tc.code) || took < tc.least || took > tc.least+time.Minute {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

// TestInsideOfAnAbsentInstance checks that what lies in a Cloud SQL instance that is not there is absent, though Cloud SQL
// says that it may not be seen, and that the instance is asked for then only.
func TestInsideOfAnAbsentInstance(t *testing.T) {
	database := kind.SQLDatabases.New("demo-main/dify", params("instance", "demo-main"), nil)
	user := kind.SQLUsers.New("demo-main/dify", params("instance", "demo-main"), nil)
	t.Run("the local cloud", func(t *testing.T) {
		info := cloud.Start(t)
		c := connect(t, info.URL, info.Token)
		services := kind.Services.New("enabled", params(), &kind.ServiceList{Services: []string{"sqladmin.googleapis.com"}})
		must(t, c.Create(t.Context(), services, services.Body))
		for _, r := range []*resource.Resource{database, user} {
			err := c.Do(t.Context(), gcp.Call{API: r.Kind.API, Method: http.MethodGet, Path: r.CollectionPath()})
			if e := (*gcp.Error)(nil); !errors.As(err, &e) || e.Code != 403 || e.Reason != "notAuthorized" {
				t.Errorf("%s: the local cloud does not answer as Cloud SQL does: %v", r.ID(), err)
			}
			if live, err := c.Read(t.Context(), r); err != nil || live != nil {
				t.Errorf("%s: %v, %v", r.ID(), live, err)
			}
			must(t, c.Delete(t.Context(), r))
		}
		other := kind.SQLDatabases.New("demo-main/other", params("instance", "demo-main"), nil)
		if live, err := c.ReadAll(t.Context(), []*resource.Resource{database, other, user}); err != nil || len(live) > 0 {
			t.Errorf("all at once: %v, %v", live, err)
		}
	})
	const (
		instance = "/v1/projects/demo-project/instances/demo-main"
		denied   = `403 {"error":{"code":403,"message":"The client is not authorized to make this request.","errors":[{"reason":"notAuthorized"}]}}`
		gone     = `404 {"error":{"code":404,"message":"The Cloud SQL instance does not exist.","errors":[{"reason":"instanceDoesNotExist"}]}}`
	)
	for _, tc := range []struct {
		name     string
		inside   string
		instance string
		asked    []string
		fails    bool
	}{
		{"absent", denied, gone, []string{"GET " + instance + "/users", "GET " + instance}, false},
		{"there, and not for us", denied, "200 {}", []string{"GET " + instance + "/users", "GET " + instance}, true},
		{"hidden altogether", denied, denied, []string{"GET " + instance + "/users", "GET " + instance}, true},
		{"there", `200 {"items":[{"name":"dify"}]}`, "200 {}", []string{"GET " + instance + "/users"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, a := scripted(t, map[string][]string{"GET " + instance + "/users": {tc.inside}, "GET " + instance: {tc.instance}})
			_, err := c.Read(t.Context(), user)
			var f *fault.Fault
			if tc.fails != errors.As(err, &f) || !tc.fails && err != nil || tc.fails && !strings.Contains(f.Remedy, "--role=roles/cloudsql.admin") {
				t.Errorf("got %v", err)
			}
			if d := cmp.Diff(tc.asked, a.asked); d != "" {
				t.Errorf("asked (-want +got):\n%s", d)
			}
		})
	}
}

// TestHiddenAccount checks that a service account of which IAM says no more than that it may not be seen is absent only if the
// project's whole list, which can be had, lacks it.
func TestHiddenAccount(t *testing.T) {
	const (
		list   = "/v1/projects/demo-project/serviceAccounts"
		one    = list + "/demo-vm@demo-project.iam.gserviceaccount.com"
		denied = `403 {"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission 'iam.serviceAccounts.get' denied on resource (or it may not exist).","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"IAM_PERMISSION_DENIED"}]}}`
		first  = `200 {"accounts":[{"name":"projects/demo-project/serviceAccounts/other@demo-project.iam.gserviceaccount.com","email":"other@demo-project.iam.gserviceaccount.com"}],"nextPageToken":"2"}`
		ours   = `200 {"accounts":[{"name":"projects/demo-project/serviceAccounts/demo-vm@demo-project.iam.gserviceaccount.com","email":"demo-vm@demo-project.iam.gserviceaccount.com"}]}`
	)
	account := kind.ServiceAccounts.New("demo-vm", params(), nil)
	t.Run("the local cloud", func(t *testing.T) {
		info := cloud.Start(t)
		c := connect(t, info.URL, info.Token)
		services := kind.Services.New("enabled", params(), &kind.ServiceList{Services: []string{"iam.googleapis.com"}})
		must(t, c.Create(t.Context(), services, services.Body))
		must(t, c.Do(t.Context(), gcp.Call{API: kind.IAMAPI, Method: http.MethodPost, Path: "projects/demo-project/serviceAccounts", Body: map[string]any{"accountId": "demo-vm"}}))
		must(t, c.Delete(t.Context(), account))
		err := c.Do(t.Context(), gcp.Call{API: kind.IAMAPI, Method: http.MethodGet, Path: strings.TrimPrefix(one, "/v1/")})
		if e := (*gcp.Error)(nil); !errors.As(err, &e) || e.Code != 403 || e.Reason != "IAM_PERMISSION_DENIED" {
			t.Errorf("the local cloud does not answer as IAM does: %v", err)
		}
		if live, err := c.Read(t.Context(), account); err != nil || live != nil {
			t.Errorf("deleted: %v, %v", live, err)
		}
		must(t, c.Delete(t.Context(), account))
	})
	for _, tc := range []struct {
		name  string
		lists []string
		asked int    // requests in all
		says  string // the error has it; "" for none
	}{
		{"deleted", []string{first, "200 {}"}, 3, ""},
		{"there, and not for us", []string{first, ours}, 3, "(or it may not exist)"},
		{"hidden altogether", []string{denied}, 2, "(or it may not exist)"},
		{"the list fails", []string{`400 {"error":{"code":400,"status":"INVALID_ARGUMENT","message":"No such page."}}`}, 2, "No such page."},
	} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			t.Run(tc.name+", "+method, func(t *testing.T) {
				c, a := scripted(t, map[string][]string{method + " " + one: {denied}, "GET " + list: tc.lists})
				live, err := map[string]any(nil), error(nil)
				if method == http.MethodGet {
					live, err = c.Read(t.Context(), account)
				} else {
					err = c.Delete(t.Context(), account)
				}
				if live != nil || (err != nil) != (tc.says != "") || err != nil && !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %v, %v", live, err)
				}
				if len(a.asked) != tc.asked {
					t.Errorf("asked %q", a.asked)
				}
			})
		}
	}
}

// TestInterruptedQuestion has a command interrupted while it asks whether what it may not see is there: it was interrupted, and not
// refused anything.
func TestInterruptedQuestion(t *testing.T) {
	for _, tc := range []struct {
		r      *resource.Resource
		list   string
		denied string
	}{
		{
			kind.ServiceAccounts.New("demo-vm", params(), nil), "/v1/projects/demo-project/serviceAccounts",
			`{"error":{"code":403,"message":"Denied.","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"IAM_PERMISSION_DENIED"}]}}`,
		},
		{kind.Buckets.New("demo-files", params(), nil), "/storage/v1/b", `{"error":{"code":403,"message":"Denied.","errors":[{"reason":"forbidden"}]}}`},
	} {
		t.Run(tc.r.Name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != tc.list {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusForbidden)
					io.WriteString(w, tc.denied)
					return
				}
				cancel()
				<-r.Context().Done()
			}))
			defer s.Close()
			if live, err := connect(t, s.URL, "token").Read(ctx, tc.r); live != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, %v", live, err)
			}
		})
	}
}

// TestInsideOfAStoppedInstance checks that what lies in a Cloud SQL instance that does not run is not taken for absent, since nobody
// can see it: it counts as wanted. In one that is being created there is nothing yet.
func TestInsideOfAStoppedInstance(t *testing.T) {
	const (
		instance = "/v1/projects/demo-project/instances/demo-main"
		stopped  = `400 {"error":{"code":400,"message":"Invalid request: Invalid request since instance is not running.","errors":[{"reason":"invalid"}]}}`
		gone     = `404 {"error":{"code":404,"message":"The Cloud SQL instance does not exist.","errors":[{"reason":"instanceDoesNotExist"}]}}`
		denied   = `403 {"error":{"code":403,"message":"The client is not authorized to make this request.","errors":[{"reason":"notAuthorized"}]}}`
	)
	inside := params("instance", "demo-main")
	one := kind.SQLDatabases.New("demo-main/dify", inside, &sqladmin.Database{Name: "dify", Charset: "UTF8"})
	two := kind.SQLDatabases.New("demo-main/dify_plugin", inside, &sqladmin.Database{Name: "dify_plugin", Charset: "UTF8"})
	user := kind.SQLUsers.New("demo-main/dify", inside, &sqladmin.User{Name: "dify"})
	orphan := &resource.Resource{Kind: kind.SQLUsers.Kind, Name: "demo-main/former", Params: inside} // known from the state alone
	asWanted := map[resource.ID]map[string]any{one.ID(): one.Body, two.ID(): two.Body, user.ID(): user.Body, orphan.ID(): {}}
	for _, tc := range []struct {
		name, instance string
		want           map[resource.ID]map[string]any
		fault          bool
	}{
		{"stopped by its owner", `200 {"state":"RUNNABLE","settings":{"activationPolicy":"NEVER"}}`, asWanted, true},
		{"suspended", `200 {"state":"SUSPENDED"}`, asWanted, true},
		{"not for us", denied, asWanted, true},
		{"being created", `200 {"state":"PENDING_CREATE"}`, map[resource.ID]map[string]any{}, false},
		{"gone meanwhile", gone, map[resource.ID]map[string]any{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := scripted(t, map[string][]string{
				"GET " + instance + "/databases": {stopped}, "GET " + instance + "/users": {stopped}, "GET " + instance + "/databases/dify": {stopped},
				"DELETE " + instance + "/users": {stopped}, "GET " + instance: {tc.instance},
			})
			live, err := c.ReadAll(t.Context(), []*resource.Resource{one, two, user, orphan})
			must(t, err)
			if d := cmp.Diff(tc.want, live); d != "" {
				t.Errorf("read (-want +got):\n%s", d)
			}
			if live, err := c.ReadAll(t.Context(), []*resource.Resource{one}); err != nil || (live[one.ID()] != nil) != tc.fault {
				t.Errorf("one alone: %v, %v", live, err)
			}
			var f *fault.Fault
			if _, err := c.Read(t.Context(), one); errors.As(err, &f) != tc.fault || tc.fault && f.Summary != "A Cloud SQL instance does not run" || !tc.fault && err != nil {
				t.Errorf("by itself: %v", err)
			}
			if err := c.Delete(t.Context(), user); errors.As(err, &f) != tc.fault || !tc.fault && err != nil {
				t.Errorf("deleted: %v", err)
			}
		})
	}
}
