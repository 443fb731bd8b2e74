package gcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// script answers requests one after another: each line is "STATUS BODY", or "! ERROR" for a connection that fails. What
// was asked is kept.
type script struct {
	mu    sync.Mutex
	lines []string
	asked []string // "METHOD PATH?QUERY BODY", request IDs left out
	ids   []string // requestId, in the order of the requests that had one
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	q := r.URL.Query()
	if id := q.Get("requestId"); id != "" {
		s.ids = append(s.ids, id)
		q.Del("requestId")
	}
	text := r.Method + " " + r.URL.Path
	if len(q) > 0 {
		decoded, _ := url.QueryUnescape(q.Encode())
		text += "?" + decoded
	}
	s.asked = append(s.asked, strings.TrimSpace(text+" "+string(body)))
	if len(s.lines) == 0 {
		return nil, errors.New("the script has no answer left")
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	status, answer, _ := strings.Cut(line, " ")
	if status == "!" {
		return nil, &url.Error{Op: r.Method, URL: r.URL.String(), Err: syscall.ECONNRESET}
	}
	var code int
	fmt.Sscan(status, &code)
	return &http.Response{StatusCode: code, Status: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

// client gives a client whose requests the script answers, and its events.
func client(t *testing.T, lines ...string) (*gcp.Client, *script, *[]string) {
	t.Helper()
	s := &script{lines: lines}
	var events []string
	c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: s}, Events: func(e event.Event) {
		events = append(events, string(e.Phase)+" "+e.Detail)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c, s, &events
}

func refusal(code int, reason, message string) string {
	raw, _ := json.Marshal(map[string]any{"error": map[string]any{"code": code, "message": message, "errors": []any{map[string]any{"reason": reason, "message": message}}}})
	return fmt.Sprint(code, " ", string(raw))
}

func get(ctx context.Context, c *gcp.Client) error {
	return c.Do(ctx, gcp.Call{API: kind.ComputeAPI, Method: http.MethodGet, Path: "projects/p/global/networks/n", For: "compute.networks/n"})
}

// TestToken has a client call an endpoint with a token: every request bears it, none goes where a redirect leads, and no error
// shows it.
func TestToken(t *testing.T) {
	var seen []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, "elsewhere "+r.Header.Get("Authorization"))
		fmt.Fprint(w, "{}")
	}))
	defer elsewhere.Close()
	var answer func(w http.ResponseWriter, r *http.Request)
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, "here "+r.Header.Get("Authorization"))
		answer(w, r)
	}))
	defer here.Close()
	c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: here.URL, Token: "t0ken"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer = func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"code":401,"message":"Login Required.","status":"UNAUTHENTICATED"}}`, http.StatusUnauthorized)
	}
	if err := get(t.Context(), c); !gcp.Is(err, 401) || strings.Contains(fmt.Sprintf("%v %+v", err, err), "t0ken") {
		t.Errorf("refused: %v", err)
	}
	answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	}
	err = c.Do(t.Context(), gcp.Call{API: kind.ComputeAPI, Method: http.MethodGet, Path: "projects/p/global/networks/n", Once: true})
	if err == nil || !strings.Contains(err.Error(), "leads elsewhere") {
		t.Errorf("redirected: %v", err)
	}
	if d := cmp.Diff([]string{"here Bearer t0ken", "here Bearer t0ken"}, seen); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
}

func TestRetriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make([]string, 1000)
		for i := range answers {
			answers[i] = refusal(503, "backendError", "try later")
		}
		c, _, _ := client(t, answers...)
		began := time.Now()
		if err := get(t.Context(), c); !gcp.Is(err, 503) || time.Since(began) > 100*time.Second || time.Since(began) < 30*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		// A context that ends ends the wait at once.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began = time.Now()
		if err := get(ctx, c); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestRequestIDs checks that a repeated creation bears the same ID, so that Compute knows it again.
func TestRequestIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, _ := client(t, "! reset", `200 {"kind":"compute#operation","status":"DONE"}`, `200 {"kind":"compute#operation","status":"DONE"}`)
		for range 2 {
			if _, err := c.Mutate(t.Context(), gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: "projects/p/global/networks", Body: map[string]any{"name": "n"}}); err != nil {
				t.Fatal(err)
			}
		}
		if len(s.ids) != 3 || s.ids[0] != s.ids[1] || s.ids[1] == s.ids[2] {
			t.Errorf("request IDs: %v", s.ids)
		}
	})
}

func TestOperations(t *testing.T) {
	compute := `{"kind":"compute#operation","status":"%s","selfLink":"https://www.googleapis.com/compute/v1/projects/p/global/operations/o"%s}`
	for _, tc := range []struct {
		name  string
		api   *resource.API
		lines []string
		asked []string // after the first
		want  string   // in the error
	}{
		{"compute", kind.ComputeAPI, []string{
			"200 " + fmt.Sprintf(compute, "PENDING", ""), refusal(404, "notFound", "not yet"), "200 " + fmt.Sprintf(compute, "RUNNING", ""), "200 " + fmt.Sprintf(compute, "DONE", ""),
		}, []string{"POST /compute/v1/projects/p/global/operations/o/wait", "GET /compute/v1/projects/p/global/operations/o", "POST /compute/v1/projects/p/global/operations/o/wait"}, ""},
		{"compute, not seen for a while", kind.ComputeAPI, slices.Concat(
			[]string{"200 " + fmt.Sprintf(compute, "PENDING", "")}, slices.Repeat([]string{refusal(404, "notFound", "not yet")}, 10), []string{"200 " + fmt.Sprintf(compute, "DONE", "")},
		), slices.Concat([]string{"POST /compute/v1/projects/p/global/operations/o/wait"}, slices.Repeat([]string{"GET /compute/v1/projects/p/global/operations/o"}, 10)), ""},
		{"compute, failed", kind.ComputeAPI, []string{
			"200 " + fmt.Sprintf(compute, "DONE", `,"httpErrorStatusCode":400,"error":{"errors":[{"code":"QUOTA_EXCEEDED","message":"Quota 'CPUS' exceeded."}]}`),
		}, nil, "Quota 'CPUS' exceeded. (400 QUOTA_EXCEEDED)"},
		{"sql", kind.SQLAPI, []string{
			`200 {"kind":"sql#operation","name":"o","status":"PENDING"}`, `200 {"kind":"sql#operation","name":"o","status":"DONE"}`,
		}, []string{"GET /v1/projects/p/operations/o"}, ""},
		{"sql, not seen at first", kind.SQLAPI, []string{
			`200 {"kind":"sql#operation","name":"o","status":"PENDING"}`, refusal(404, "operationDoesNotExist", "not yet"), `200 {"kind":"sql#operation","name":"o","status":"DONE"}`,
		}, []string{"GET /v1/projects/p/operations/o", "GET /v1/projects/p/operations/o"}, ""},
		{"sql, failed", kind.SQLAPI, []string{
			`200 {"kind":"sql#operation","name":"o","status":"RUNNING"}`, `200 {"kind":"sql#operation","name":"o","status":"DONE","error":{"errors":[{"code":"invalidFlag","message":"no such flag"}]}}`,
		}, []string{"GET /v1/projects/p/operations/o"}, "no such flag"},
		{"long-running", kind.RedisAPI, []string{
			`200 {"name":"projects/p/locations/r/operations/o"}`, `200 {"name":"projects/p/locations/r/operations/o","done":false}`, `200 {"name":"x","done":true,"response":{}}`,
		}, []string{"GET /v1/projects/p/locations/r/operations/o", "GET /v1/projects/p/locations/r/operations/o"}, ""},
		{"long-running, not seen at first", kind.RedisAPI, []string{
			`200 {"name":"projects/p/locations/r/operations/o"}`, newer(404, "NOT_FOUND", "", "not yet"), `200 {"name":"x","done":true,"response":{}}`,
		}, []string{"GET /v1/projects/p/locations/r/operations/o", "GET /v1/projects/p/locations/r/operations/o"}, ""},
		{"long-running, failed", kind.RedisAPI, []string{
			`200 {"name":"projects/p/locations/r/operations/o","done":true,"error":{"code":9,"message":"still in use"}}`,
		}, nil, "still in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s, _ := client(t, tc.lines...)
				_, err := c.Mutate(t.Context(), gcp.Call{API: tc.api, Method: http.MethodPost, Path: "things", For: "k/n"})
				if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if d := cmp.Diff(tc.asked, s.asked[1:]); d != "" && len(s.asked) > 1 {
					t.Errorf("asked (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestSettle checks that operations that work on the stack's resources are waited for, however they end, and no others.
func TestSettle(t *testing.T) {
	for _, tc := range []struct {
		name  string
		r     *resource.Resource
		lines []string
		asked []string
		want  string
	}{
		{"compute", network("demo"), []string{
			`200 {"items":[{"status":"RUNNING","targetLink":"https://www.googleapis.com/compute/v1/projects/p/regions/r1/routers/other","selfLink":"https://x/projects/p/regions/r1/operations/a"}],"nextPageToken":"2"}`,
			`200 {"items":[{"status":"RUNNING","targetLink":"https://www.googleapis.com/compute/v1/projects/p/regions/r1/routers/r","selfLink":"https://x/projects/p/regions/r1/operations/b"}]}`,
			`200 {"status":"DONE","error":{"errors":[{"code":"RESOURCE_NOT_FOUND","message":"gone"}]}}`,
		}, []string{
			`GET /compute/v1/projects/p/regions/r1/operations?filter=status != "DONE"`, `GET /compute/v1/projects/p/regions/r1/operations?filter=status != "DONE"&pageToken=2`,
			"POST /compute/v1/projects/p/regions/r1/operations/b/wait",
		}, ""},
		{"sql", &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: map[string]string{"project": "p"}}, []string{
			`200 {"items":[{"name":"o","status":"RUNNING","targetId":"demo-main"},{"name":"n","status":"DONE","targetId":"demo-main"}],"nextPageToken":"2"}`, `200 {"name":"o","status":"DONE"}`,
		}, []string{"GET /v1/projects/p/operations?instance=demo-main&maxResults=20", "GET /v1/projects/p/operations/o"}, ""},
		{"long-running", &resource.Resource{Kind: kind.RedisInstances.Kind, Name: "demo-redis", Params: map[string]string{"project": "p", "region": "r"}}, []string{
			`200 {"operations":[{"name":"projects/p/locations/r/operations/o","metadata":{"target":"projects/p/locations/r/instances/demo-redis"}}]}`,
			`200 {"name":"projects/p/locations/r/operations/o","done":true,"error":{"code":9,"message":"no"}}`,
		}, []string{"GET /v1/projects/p/locations/r/operations", "GET /v1/projects/p/locations/r/operations/o"}, ""},
		{"the API is not enabled", network("demo"), []string{refusal(403, "SERVICE_DISABLED", "not enabled")}, []string{`GET /compute/v1/projects/p/regions/r1/operations?filter=status != "DONE"`}, ""},
		{"not allowed", network("demo"), []string{refusal(403, "forbidden", "no right")}, []string{`GET /compute/v1/projects/p/regions/r1/operations?filter=status != "DONE"`}, "no right"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s, _ := client(t, tc.lines...)
				err := c.Settle(t.Context(), []*resource.Resource{tc.r})
				if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if d := cmp.Diff(tc.asked, s.asked); d != "" {
					t.Errorf("asked (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestErrorsKeepSecrets checks that what was sent is in no error: it may be a password.
func TestErrorsKeepSecrets(t *testing.T) {
	c, _, _ := client(t, refusal(400, "invalid", "bad user"))
	_, err := c.Mutate(t.Context(), gcp.Call{API: kind.SQLAPI, Method: http.MethodPost, Path: "projects/p/instances/i/users", Body: map[string]any{"password": "hunter2"}})
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "bad user") {
		t.Errorf("got %v", err)
	}
}

func network(stack string) *resource.Resource {
	return &resource.Resource{Kind: kind.Routers.Kind, Name: "r", Params: map[string]string{"project": "p", "region": "r1"}, Body: map[string]any{
		"name": "r", "description": resource.Description(stack), "nats": []any{map[string]any{"name": "nat"}},
	}}
}

func TestAdopt(t *testing.T) {
	exists := refusal(409, "alreadyExists", "exists already")
	done := `200 {"kind":"compute#operation","status":"DONE"}`
	t.Run("ours, as wanted", func(t *testing.T) {
		c, s, _ := client(t, exists, `200 {"name":"r","description":"managed-by=difyup;difyup-stack=demo","nats":[{"name":"nat"}]}`)
		if err := c.Create(t.Context(), network("demo"), network("demo").Body); err != nil || len(s.asked) != 2 {
			t.Errorf("%v after %q", err, s.asked)
		}
	})
	t.Run("ours, half done", func(t *testing.T) {
		c, s, _ := client(t, exists, `200 {"name":"r","description":"managed-by=difyup;difyup-stack=demo"}`, done)
		err := c.Create(t.Context(), network("demo"), network("demo").Body)
		if want := `PATCH /compute/v1/projects/p/regions/r1/routers/r {"nats":[{"name":"nat"}]}`; err != nil || s.asked[len(s.asked)-1] != want {
			t.Errorf("%v; the last request is %s", err, s.asked[len(s.asked)-1])
		}
	})
	t.Run("somebody else's", func(t *testing.T) {
		c, _, _ := client(t, exists, `200 {"name":"r","description":"managed-by=difyup;difyup-stack=other"}`)
		err := c.Create(t.Context(), network("demo"), network("demo").Body)
		var f *fault.Fault
		if !errors.As(err, &f) || f.Summary != "A name is taken" || !strings.Contains(f.Detail, "other") {
			t.Errorf("got %v", err)
		}
	})
}

// TestExists checks how each service says that what is to be created is there: Cloud SQL has words of its own for databases, and
// more conflicts than that one.
func TestExists(t *testing.T) {
	for _, tc := range []struct {
		name string
		api  *resource.API
		line string
		want bool
	}{
		{"a network", kind.ComputeAPI, refusal(409, "alreadyExists", "The resource 'n' already exists"), true},
		{"in an operation", kind.ComputeAPI, computeFailed("RESOURCE_ALREADY_EXISTS", "The resource 'n' already exists"), true},
		{"a secret", kind.SecretManagerAPI, newer(409, "ALREADY_EXISTS", "", "Secret [s] already exists."), true},
		{"an instance", kind.SQLAPI, refusal(409, "instanceAlreadyExists", "The Cloud SQL instance already exists."), true},
		{"an instance of which something else is said", kind.SQLAPI, refusal(409, "invalidState", "The instance or operation is not in an appropriate state to handle the request."), false},
		{"a database", kind.SQLAPI, refusal(400, "invalid", `Invalid request: failed to create database dify. Detail: pq: database "dify" already exists.`), true},
		{"a database, in an operation", kind.SQLAPI, sqlFailed("ERROR_RDBMS", `failed to create database dify. Detail: pq: database "dify" already exists.`), true},
		{"a database that cannot be", kind.SQLAPI, refusal(400, "invalid", `Invalid request: failed to create database dify. Detail: pq: permission denied.`), false},
		{"another network", kind.ComputeAPI, refusal(400, "invalid", "A peering of this name already exists"), false},
	} {
		c, _, _ := client(t, tc.line)
		_, err := c.Mutate(t.Context(), gcp.Call{API: tc.api, Method: http.MethodPost, Path: "projects/p/things", Once: true})
		if err == nil || gcp.Exists(tc.api, err) != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestWhoseQuota checks that requests to Google name the stack's project as the one that uses the services, whatever project the
// credentials are of; that who may not say so is asked on the credentials' account; and that a service which is not enabled there is
// not taken for one in which nothing is.
func TestWhoseQuota(t *testing.T) {
	const number = `200 {"projectNumber":"42"}`
	disabled := func(consumer string) string {
		raw, _ := json.Marshal(map[string]any{"error": map[string]any{"code": 403, "message": "The API has not been used in project 1 before or it is disabled.", "status": "PERMISSION_DENIED", "details": []any{
			map[string]any{"@type": "type.googleapis.com/google.rpc.Help", "metadata": "none"},
			map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "metadata": map[string]any{"consumer": consumer, "service": "x"}},
		}}})
		return "403 " + string(raw)
	}
	denied := newer(403, "PERMISSION_DENIED", "USER_PROJECT_DENIED", "Caller does not have required permission to use project p. Grant the caller the roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission.")
	database := &resource.Resource{Kind: kind.SQLDatabases.Kind, Name: "i/d", Params: map[string]string{"project": "p", "instance": "i"}}
	bucket := &resource.Resource{Kind: kind.Buckets.Kind, Name: "b", Params: map[string]string{"project": "p"}}
	services := &resource.Resource{Kind: kind.Services.Kind, Name: "x", Params: map[string]string{"project": "p"}}
	plain := *bucket.Kind
	plain.Driver = ""
	bucket.Kind = &plain
	usage := *services.Kind
	usage.Driver = ""
	services.Kind = &usage
	for _, tc := range []struct {
		name     string
		endpoint string
		r        *resource.Resource
		lines    []string
		named    []string // projects, by request, after the one for the number
		there    bool
		fails    string
	}{
		{"a service of the project", "", database, []string{`200 {"name":"d"}`}, []string{"p"}, true, ""},
		{"a local cloud", "http://cloud/", database, []string{`200 {"name":"d"}`}, []string{""}, true, ""},
		{"Cloud Storage, which asks the bucket's project", "", bucket, []string{`200 {"name":"b"}`}, []string{""}, true, ""},
		{"not enabled in the stack's project", "", database, []string{disabled("projects/42")}, []string{"p"}, false, ""},
		{"the same, by its ID", "", database, []string{disabled("projects/p")}, []string{"p"}, false, ""},
		{"nobody says where", "", database, []string{disabled("")}, []string{"p"}, false, ""},
		{"not enabled elsewhere", "", database, []string{disabled("projects/7")}, []string{"p"}, false, "gcloud projects add-iam-policy-binding p --member=user:YOUR_EMAIL --role=roles/serviceusage.serviceUsageConsumer"},
		{"who may not name it", "", database, []string{denied, `200 {"name":"d"}`}, []string{"p", ""}, true, ""},
		{"the same, and nothing is enabled there", "", database, []string{denied, disabled("projects/7")}, []string{"p", ""}, false, "--role=roles/serviceusage.serviceUsageConsumer"},
		{"the same, in the stack's project", "", database, []string{denied, disabled("projects/42")}, []string{"p", ""}, false, ""},
		{"Service Usage, with which all is enabled", "", services, []string{disabled("projects/42"), `200 {"name":"x"}`}, []string{"p", ""}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{lines: append([]string{number}, tc.lines...)}
				var named []string
				c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: tc.endpoint, HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					if strings.HasSuffix(r.URL.Path, "/services") { // what is enabled is asked besides
						return (&script{lines: []string{"200 {}"}}).RoundTrip(r)
					}
					named = append(named, r.Header.Get("X-Goog-User-Project"))
					return s.RoundTrip(r)
				})}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.ProjectNumber(t.Context()); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				live, err := c.Read(t.Context(), tc.r)
				var f *fault.Fault
				if (live != nil) != tc.there || tc.fails == "" && err != nil || tc.fails != "" && (!errors.As(err, &f) || !strings.Contains(f.Remedy, tc.fails)) || time.Since(began) > 0 {
					t.Errorf("after %s: %v, %v", time.Since(began), live, err)
				}
				if d := cmp.Diff(tc.named, named[1:]); d != "" {
					t.Errorf("named (-want +got):\n%s", d)
				}
				if found := len(c.Disabled()); (found > 0) != (tc.fails == "" && !tc.there) {
					t.Errorf("not enabled in the project: %v", c.Disabled())
				}
			})
		})
	}
	t.Run("a service this run enabled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{lines: []string{number, denied, disabled("projects/7"), disabled("projects/7")}}
			c, err := gcp.New(t.Context(), gcp.Options{Project: "p", HTTP: &http.Client{Transport: s}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.ProjectNumber(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Enabled("sqladmin.googleapis.com")
			for range 2 { // the second is not tried with the project again
				if _, err := c.Read(t.Context(), database); !errors.As(err, new(*fault.Fault)) {
					t.Errorf("got %v", err)
				}
			}
			if len(s.asked) != 4 {
				t.Errorf("asked %q", s.asked)
			}
		})
	})
	t.Run("not even the number is told", func(t *testing.T) {
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", HTTP: &http.Client{Transport: &script{lines: []string{denied, disabled("projects/7"), disabled("projects/7")}}}})
		if err != nil {
			t.Fatal(err)
		}
		var f *fault.Fault
		if _, err := c.ProjectNumber(t.Context()); !errors.As(err, &f) || !strings.Contains(f.Remedy, "serviceUsageConsumer") {
			t.Errorf("got %v", err)
		}
	})
}

// TestListsWithHoles checks that a list of which Google says that it is not whole is not believed: what is missing in it would be
// made again, or taken for deleted. Those that are known by name are asked for one by one.
func TestListsWithHoles(t *testing.T) {
	plain := *kind.SQLInstances.Kind
	plain.Driver = ""
	regional := func(name string) *resource.Resource {
		return &resource.Resource{Kind: &plain, Name: name, Params: map[string]string{"project": "p"}}
	}
	for _, tc := range []struct {
		name  string
		kind  *resource.Kind
		line  string
		where string // "" = it is whole
	}{
		{"Cloud SQL", kind.SQLInstances.Kind, `200 {"items":[{"name":"a"}],"warnings":[{"code":"REGION_UNREACHABLE","region":"us-east1","message":"us-east1 is away"}]}`, "us-east1"},
		{"Cloud SQL, something else", kind.SQLInstances.Kind, `200 {"items":[{"name":"a"}],"warnings":[{"code":"INTERNAL_STATE_FAILURE","message":"never mind"}]}`, ""},
		{"Memorystore", kind.RedisInstances.Kind, `200 {"instances":[{"name":"a"}],"unreachable":["projects/p/locations/us-east1"]}`, "projects/p/locations/us-east1"},
		{"Compute Engine", kind.Networks.Kind, `200 {"items":[{"name":"a"}],"warning":{"code":"UNREACHABLE","message":"The scope us-east1 is away"}}`, "The scope us-east1 is away"},
		{"Compute Engine, nothing there", kind.Networks.Kind, `200 {"items":[{"name":"a"}],"warning":{"code":"NO_RESULTS_ON_PAGE"}}`, ""},
	} {
		c, _, _ := client(t, tc.line)
		items, err := c.List(t.Context(), tc.kind, "projects/p/things", nil)
		var f *fault.Fault
		if tc.where == "" && (err != nil || len(items) != 1) || tc.where != "" && (!errors.As(err, &f) || f.Summary != "Google cannot list everything" || !strings.Contains(f.Detail, tc.where)) {
			t.Errorf("%s: %v, %v", tc.name, items, err)
		}
	}
	c, s, _ := client(t, `200 {"items":[{"name":"a"}],"warnings":[{"code":"REGION_UNREACHABLE","region":"us-east1"}]}`, `200 {"name":"a"}`, `200 {"name":"b"}`, refusal(404, "instanceDoesNotExist", "no"))
	got, err := c.ReadAll(t.Context(), []*resource.Resource{regional("a"), regional("b"), regional("c")})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[resource.ID]map[string]any{"sql.instances/a": {"name": "a"}, "sql.instances/b": {"name": "b"}}, got); d != "" {
		t.Errorf("read (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"GET /v1/projects/p/instances", "GET /v1/projects/p/instances/a", "GET /v1/projects/p/instances/b", "GET /v1/projects/p/instances/c"}, s.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
}

func TestUpdate(t *testing.T) {
	done := `200 {"kind":"compute#operation","status":"DONE"}`
	r := &resource.Resource{Kind: kind.BackendServices.Kind, Name: "b", Params: map[string]string{"project": "p"}}
	body := map[string]any{"name": "b", "timeoutSec": 30.0, "protocol": "HTTP"}
	live := map[string]any{"name": "b", "timeoutSec": 10.0, "protocol": "HTTP", "fingerprint": "old"}
	synctest.Test(t, func(t *testing.T) {
		// The fingerprint is stale: read again, and say again what is wanted.
		c, s, _ := client(t, refusal(412, "conditionNotMet", "stale"), `200 {"name":"b","timeoutSec":11,"fingerprint":"new"}`, done)
		if err := c.Update(t.Context(), r, body, live, []resource.Path{"timeoutSec"}); err != nil {
			t.Fatal(err)
		}
		want := []string{
			`PATCH /compute/v1/projects/p/global/backendServices/b {"fingerprint":"old","timeoutSec":30}`,
			`GET /compute/v1/projects/p/global/backendServices/b`,
			`PATCH /compute/v1/projects/p/global/backendServices/b {"fingerprint":"new","timeoutSec":30}`,
		}
		if d := cmp.Diff(want, s.asked); d != "" {
			t.Errorf("asked (-want +got):\n%s", d)
		}
	})
	t.Run("labels", func(t *testing.T) {
		got := gcp.Part(map[string]any{"labels": map[string]any{"a": "1"}}, map[string]any{"labels": map[string]any{"a": "1", "b": "2", "goog-x": "3"}}, []string{"labels"})
		if d := cmp.Diff(map[string]any{"labels": map[string]any{"a": "1", "b": nil}}, got); d != "" {
			t.Errorf("patch (-want +got):\n%s", d)
		}
	})
	t.Run("one field to a request", func(t *testing.T) {
		redis := &resource.Resource{Kind: kind.RedisInstances.Kind, Name: "c", Params: map[string]string{"project": "p", "region": "r1"}}
		c, s, _ := client(t, `200 {"name":"projects/p/locations/r1/operations/o","done":true}`, `200 {"name":"projects/p/locations/r1/operations/o","done":true}`)
		if err := c.Update(t.Context(), redis, map[string]any{"memorySizeGb": 2.0, "displayName": "d", "tier": "BASIC"}, nil, []resource.Path{"memorySizeGb", "displayName"}); err != nil {
			t.Fatal(err)
		}
		want := []string{
			`PATCH /v1/projects/p/locations/r1/instances/c?updateMask=displayName {"displayName":"d"}`,
			`PATCH /v1/projects/p/locations/r1/instances/c?updateMask=memorySizeGb {"memorySizeGb":2}`,
		}
		if d := cmp.Diff(want, s.asked); d != "" {
			t.Errorf("asked (-want +got):\n%s", d)
		}
	})
}

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := network("demo")
		c, s, _ := client(t, refusal(404, "notFound", "gone"))
		if err := c.Delete(t.Context(), r); err != nil || len(s.asked) != 1 {
			t.Errorf("what is not there: %v", err)
		}
		inUse := refusal(400, "resourceInUseByAnotherResource", "The router resource 'x' is already being used by 'y'")
		c, s, _ = client(t, inUse, inUse, `200 {"kind":"compute#operation","status":"DONE"}`)
		if err := c.Delete(t.Context(), r); err != nil || len(s.asked) != 3 {
			t.Errorf("what is still used for a while: %v after %d requests", err, len(s.asked))
		}
	})
}

// TestReadAll checks that resources of one collection are read with one list, all its pages, and that absence is no error.
func TestReadAll(t *testing.T) {
	address := func(name string) *resource.Resource {
		return &resource.Resource{Kind: kind.GlobalAddresses.Kind, Name: name, Params: map[string]string{"project": "p"}}
	}
	c, s, _ := client(t, `200 {"items":[{"name":"a"},{"name":"other"}],"nextPageToken":"2"}`, `200 {"items":[{"name":"b","address":"1.2.3.4"}]}`)
	live, err := c.ReadAll(t.Context(), []*resource.Resource{address("a"), address("b"), address("c")})
	if err != nil {
		t.Fatal(err)
	}
	want := map[resource.ID]map[string]any{"compute.globalAddresses/a": {"name": "a"}, "compute.globalAddresses/b": {"name": "b", "address": "1.2.3.4"}}
	if d := cmp.Diff(want, live); d != "" {
		t.Errorf("live (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"GET /compute/v1/projects/p/global/addresses", "GET /compute/v1/projects/p/global/addresses?pageToken=2"}, s.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
}

// TestSeenToBeNew checks that a service which does not know yet that it is enabled is new in all that it says, and that Service Usage is
// asked for that once.
func TestSeenToBeNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied := newer(403, "PERMISSION_DENIED", "", "The caller does not have permission")
		c, s, _ := client(t, newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", "not used before"), `200 {"services":[{"name":"projects/1/services/servicenetworking.googleapis.com"}]}`,
			newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", "not used before"), denied, "200 {}", denied, "200 {}")
		c.LearnProjectNumber("1")
		for range 2 {
			if err := c.Do(t.Context(), gcp.Call{API: kind.ServiceNetworkingAPI, Method: http.MethodGet, Path: "x"}); err != nil {
				t.Error(err)
			}
		}
		if len(s.asked) != 7 || s.asked[1] != "GET /v1/projects/p/services?filter=state:ENABLED&pageSize=200" {
			t.Errorf("asked %q", s.asked)
		}
	})
}

// TestProjectNumber checks that a new project, in which Resource Manager is not enabled, is known by number too.
func TestProjectNumber(t *testing.T) {
	disabled := `403 {"error":{"code":403,"message":"not used","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"SERVICE_DISABLED"}]}}`
	c, s, _ := client(t, disabled, `200 {"name":"projects/42/services/serviceusage.googleapis.com","parent":"projects/42"}`)
	for range 2 {
		if n, err := c.ProjectNumber(t.Context()); err != nil || n != "42" {
			t.Errorf("got %q, %v", n, err)
		}
	}
	if len(s.asked) != 2 {
		t.Errorf("asked %q", s.asked)
	}
	c, _, _ = client(t, refusal(403, "forbidden", "The caller does not have permission"))
	var f *fault.Fault
	if _, err := c.ProjectNumber(t.Context()); !errors.As(err, &f) || f.Summary != "The project cannot be read" {
		t.Errorf("got %v", err)
	}
}
