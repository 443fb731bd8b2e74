package gcp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// always answers every request alike, until it has done so often enough: then it answers well.
type always struct {
	line  string
	until int // number of bad answers; 0 for ever
	asked int

	enabled string // the service that Service Usage calls enabled; it is not counted that it was asked
	usage   int    // how often it was
}

func (a *always) RoundTrip(r *http.Request) (*http.Response, error) {
	line := a.line
	if strings.HasSuffix(r.URL.Path, "/services") {
		a.usage++
		line = fmt.Sprintf(`200 {"services":[{"name":"projects/1/services/%s.googleapis.com"}]}`, a.enabled)
	} else if a.asked++; a.until > 0 && a.asked > a.until {
		line = "200 {}"
	}
	status, body, _ := strings.Cut(line, " ")
	switch status {
	case "reset":
		return nil, syscall.ECONNRESET
	case "hang":
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	header := http.Header{"Content-Type": {"application/json; charset=UTF-8"}}
	if strings.HasPrefix(body, "<") {
		header.Set("Content-Type", "text/html")
	}
	var code int
	fmt.Sscan(status, &code)
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// The errors of operations, in the three dialects.
func computeFailed(code, message string) string {
	return fmt.Sprintf(`200 {"kind":"compute#operation","status":"DONE","httpErrorStatusCode":400,"error":{"errors":[{"code":%s,"message":%s}]}}`, quote(code), quote(message))
}

func quote(s string) string {
	raw, _ := json.Marshal(s)
	return string(raw)
}

func sqlFailed(code, message string) string {
	return fmt.Sprintf(`200 {"kind":"sql#operation","status":"DONE","error":{"errors":[{"code":%s,"message":%s}]}}`, quote(code), quote(message))
}

func longFailed(code int, message string) string {
	return fmt.Sprintf(`200 {"name":"operations/o","done":true,"error":{"code":%d,"message":%s}}`, code, quote(message))
}

// newer is a refusal of one of the APIs made of protocol buffers.
func newer(code int, status, reason, message string) string {
	details := []any{}
	if reason != "" {
		details = append(details, map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
	}
	raw, _ := json.Marshal(map[string]any{"error": map[string]any{"code": code, "message": message, "status": status, "details": details}})
	return fmt.Sprint(code, " ", string(raw))
}

// world is how a request meets an answer.
type world struct {
	api     *resource.API
	method  string // "" is POST
	path    string // "" is one of some things
	line    string
	enabled string // by this run
	lately  string // by one before it, perhaps
	on      string // as Service Usage says
	account bool   // made by this run
	google  bool   // no endpoint is set
}

func (w world) call() gcp.Call {
	call := gcp.Call{API: w.api, Method: w.method, Path: w.path, For: "k/n"}
	if call.Method == "" {
		call.Method = http.MethodPost
	}
	if call.Path == "" {
		call.Path = "projects/p/global/things"
	}
	return call
}

// run sends one request into the world, in which until answers are bad. It gives what was said, how long it took, and how
// it ended.
func (w world) run(t *testing.T, until int) (said []string, took time.Duration, asked int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := &always{line: w.line, until: until, enabled: w.on}
		o := gcp.Options{Project: "p", HTTP: &http.Client{Transport: a}, Events: func(e event.Event) {
			what, _, _ := strings.Cut(e.Detail, "; again in ")
			said = append(said, string(e.Phase)+" "+e.ID+" "+what)
		}}
		if !w.google {
			o.Endpoint = "http://cloud/"
		}
		c, newErr := gcp.New(t.Context(), o)
		if newErr != nil {
			t.Fatal(newErr)
		}
		if w.on != "" {
			c.LearnProjectNumber("1")
		}
		if w.enabled != "" {
			c.Enabled(w.enabled + ".googleapis.com")
		}
		if w.lately != "" {
			c.EnabledLately(w.lately + ".googleapis.com")
		}
		if w.account {
			c.MadeAccount()
		}
		began := time.Now()
		_, err = c.Mutate(t.Context(), w.call())
		took, asked = time.Since(began), a.asked
		if a.usage > 1 {
			t.Errorf("Service Usage was asked %d times", a.usage)
		}
	})
	return said, took, asked, err
}

const agentRole = "gcloud projects add-iam-policy-binding p --member=serviceAccount:service-PROJECT_NUMBER@service-networking.iam.gserviceaccount.com --role=roles/servicenetworking.serviceAgent"

// TestRules holds every row of the table of retries against what it speaks of and what stands beside it: what is its own is
// sent again, for as long as the row says and no longer, with the row's words; its neighbours are not.
func TestRules(t *testing.T) {
	const (
		disabledText = "Compute Engine API has not been used in project 1 before or it is disabled."
		peeringText  = "There is a peering operation in progress on the local or peer network. Try again later."
		subnetText   = "Failed to create subnetwork. Please create Service Networking connection with service 'servicenetworking.googleapis.com' from consumer project '1' network 'n' again."
		inUse        = "The network resource 'n' is already being used by 'f'"
		credentials  = "Request had invalid authentication credentials. Expected OAuth 2 access token"
		elsewhere    = `403 {"error":{"code":403,"message":"not used","details":[{"reason":"SERVICE_DISABLED","metadata":{"consumer":"projects/7"}}]}}`
		noRight      = "Required 'compute.globalAddresses.list' permission for 'projects/1'"
	)
	var (
		sql, compute, redis, sn, iam, storage = kind.SQLAPI, kind.ComputeAPI, kind.RedisAPI, kind.ServiceNetworkingAPI, kind.IAMAPI, kind.StorageAPI
		usage                                 = kind.ServiceUsageAPI
	)
	tests := []struct {
		rule   string
		worlds []world
		says   string   // at first
		ends   []string // in the error, when it never passes
		not    []world  // neighbours
	}{
		{"connection", []world{{api: compute, line: "reset", google: true}}, "the connection failed (connection reset by peer)", []string{"Google does not answer", "compute.googleapis.com", "connection reset"}, nil},
		{"connection to the local cloud", []world{{api: compute, line: "reset"}}, "the connection failed (connection reset by peer)", []string{"The local cloud does not answer", "difyup local down"}, nil},
		{"no answer", []world{{api: compute, line: "hang", google: true}}, "no answer within 1m0s", []string{"Google does not answer", "no answer within"}, nil},
		{"no answer from the local cloud", []world{{api: compute, line: "hang"}}, "no answer within 15s", []string{"The local cloud does not answer", "difyup local down"}, nil},
		{"not JSON", []world{
			{api: compute, line: "200 <html>\x1b[31mlogin here: hunter2</html>"}, {api: sql, line: "200 <html>page</html>", google: true},
		}, "the answer (HTTP 200) is no JSON (", []string{"Something else answers in Google's place", "text/html"}, []world{{api: compute, line: `200 ["a list"]`}}},
		{
			"a service that is enabled",
			[]world{
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), enabled: "compute"},
				{api: redis, line: refusal(403, "accessNotConfigured", disabledText), enabled: "redis"},
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), on: "compute"},
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), lately: "compute", on: "compute", google: true},
			},
			"the API was just enabled and is not ready everywhere",
			[]string{"A service that was just enabled is not ready", disabledText, "difyup apply"},
			[]world{
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText)},
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), enabled: "redis"},
				{api: compute, line: newer(403, "PERMISSION_DENIED", "", "no right"), enabled: "compute"},
				{api: compute, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), lately: "compute", on: "redis"}, // it did not come to that
				{api: compute, line: newer(403, "PERMISSION_DENIED", "", "no right"), on: "compute", lately: "compute"},
				{api: compute, line: elsewhere, on: "compute"},
				{api: usage, line: newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", disabledText), on: "serviceusage"},
			},
		},
		{
			"a project Compute does not know yet",
			[]world{
				{api: compute, line: refusal(404, "notFound", "The resource 'projects/p' was not found"), enabled: "compute"},
				{api: compute, line: refusal(404, "notFound", "Failed to find project p"), enabled: "compute"},
				{api: compute, line: refusal(404, "notFound", "Failed to find project p"), on: "compute"},
			},
			"Compute Engine was just enabled and does not know the project everywhere",
			[]string{"A service that was just enabled is not ready", "The resource 'projects/p' was not found"},
			[]world{
				{api: compute, line: refusal(404, "notFound", "The resource 'projects/p' was not found")},
				{api: compute, line: refusal(404, "notFound", "The resource 'projects/p/global/networks/n' was not found"), enabled: "compute"},
				{api: compute, line: refusal(404, "notFound", "The resource 'projects/p/global/networks/n' was not found"), on: "compute"},
				{api: sql, line: refusal(404, "notFound", "The resource 'projects/p' was not found"), enabled: "sqladmin"},
			},
		},
		{
			"credentials Service Networking does not know yet",
			[]world{{api: sn, line: newer(401, "UNAUTHENTICATED", "", credentials)}, {api: sn, method: http.MethodGet, line: newer(401, "UNAUTHENTICATED", "", credentials)}},
			"Service Networking is not ready in the project", []string{"Service Networking may not work in the project", agentRole},
			[]world{{api: compute, line: newer(401, "UNAUTHENTICATED", "", credentials)}, {api: sn, line: newer(401, "UNAUTHENTICATED", "", "no token")}},
		},
		{
			"Service Networking's preconditions",
			[]world{{api: sn, line: newer(400, "FAILED_PRECONDITION", "", "Precondition check failed.")}, {api: sn, method: http.MethodGet, line: newer(400, "FAILED_PRECONDITION", "", "Precondition check failed.")}},
			"Service Networking is not ready in the project", []string{agentRole},
			[]world{
				{api: iam, line: newer(400, "FAILED_PRECONDITION", "", "Precondition check failed.")},
				{api: sn, line: longFailed(9, "Failed to delete connection; Producer services are still using this connection.")},
			},
		},
		{
			"Service Networking's own rights", []world{{api: sn, line: longFailed(7, noRight)}, {api: sn, line: newer(403, "PERMISSION_DENIED", "", noRight)}},
			"Service Networking's service account has no rights yet", []string{agentRole, noRight},
			[]world{{api: compute, line: refusal(403, "forbidden", noRight)}, {api: sn, line: longFailed(7, "The caller does not have permission")}},
		},
		{
			"Service Networking right after it was enabled",
			[]world{{api: sn, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission"), enabled: "servicenetworking"}, {api: sn, line: longFailed(7, "Denied"), enabled: "servicenetworking"},
				{api: sn, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission"), lately: "servicenetworking", on: "servicenetworking"}},
			"Service Networking was just enabled and is not ready everywhere", []string{agentRole},
			[]world{
				{api: sn, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission")},
				{api: sn, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission"), on: "servicenetworking"}, // since long
				{api: sn, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission"), lately: "servicenetworking"},
				{api: kind.SecretManagerAPI, line: newer(403, "PERMISSION_DENIED", "", "The caller does not have permission"), enabled: "secretmanager"},
			},
		},
		{
			"services that are being enabled",
			[]world{
				{api: usage, line: newer(400, "FAILED_PRECONDITION", "", "Another activation or deactivation is in progress for the project")},
				{api: usage, line: newer(400, "FAILED_PRECONDITION", "", "Precondition check failed.")}, {api: usage, line: newer(412, "FAILED_PRECONDITION", "", "Precondition check failed.")},
				{api: usage, line: longFailed(13, "[160009] encountered internal error with failed services [compute.googleapis.com]")},
			},
			"services are being enabled or disabled", []string{"Another activation"},
			[]world{{api: usage, line: newer(400, "FAILED_PRECONDITION", "UREQ_PROJECT_BILLING_NOT_FOUND", "Billing must be enabled")}, {api: iam, line: newer(400, "FAILED_PRECONDITION", "", "Another activation or deactivation is in progress")}},
		},
		{
			"peering",
			[]world{
				{api: compute, line: refusal(400, "badRequest", peeringText)}, {api: compute, line: computeFailed("BAD_REQUEST", peeringText)},
				{api: sql, line: sqlFailed("INTERNAL_ERROR", peeringText)}, {api: redis, line: longFailed(9, peeringText)}, {api: sn, line: longFailed(9, peeringText)},
			},
			"another peering operation is in progress in the network", []string{peeringText},
			[]world{{api: storage, line: refusal(400, "badRequest", peeringText)}, {api: redis, line: longFailed(9, "The network has no peering")}},
		},
		{
			"first producers", []world{{api: sql, line: sqlFailed("INTERNAL_ERROR", subnetText)}, {api: redis, line: longFailed(9, subnetText)}},
			"Google is still making the network of the first store", []string{"A store gets no private address", "gcloud compute networks peerings list --project=p"},
			[]world{{api: sql, line: sqlFailed("INTERNAL_ERROR", "Failed to create subnetwork. The range is exhausted.")}, {api: compute, line: computeFailed("X", subnetText)}},
		},
		{
			"busy", []world{{api: sql, line: refusal(409, "operationInProgress", "busy")}, {api: compute, line: refusal(409, "operationInProgress", "busy")}, {api: sql, line: sqlFailed("operationInProgress", "busy")}},
			"another operation is in progress", []string{"busy (409 operationInProgress)"},
			[]world{{api: sql, line: refusal(409, "instanceAlreadyExists", "exists")}, {api: storage, line: refusal(409, "operationInProgress", "busy")}},
		},
		{
			"a Cloud SQL instance in another state",
			[]world{{api: sql, line: refusal(409, "invalidState", "The instance or operation is not in an appropriate state to handle the request.")}, {api: sql, method: http.MethodDelete, line: refusal(409, "conflict", "try later")}},
			"the instance is not in a state for it (", []string{"not in an appropriate state", "gcloud sql instances list --project=p"},
			[]world{
				{api: sql, line: refusal(409, "instanceAlreadyExists", "The Cloud SQL instance already exists.")}, {api: sql, line: refusal(400, "invalidState", "no")},
				{api: compute, line: refusal(409, "invalidState", "no")},
			},
		},
		{
			"a busy Redis instance",
			[]world{
				{api: redis, line: newer(400, "FAILED_PRECONDITION", "", "Another operation is in progress on 'c'; the instance is not in the state READY.")},
				{api: redis, line: newer(409, "ABORTED", "", "another operation on the instance is in progress")}, {api: redis, line: longFailed(9, "Another operation is in progress")},
			},
			"another operation is in progress", []string{"FAILED_PRECONDITION"},
			[]world{{api: redis, line: newer(400, "FAILED_PRECONDITION", "", "The range is exhausted")}, {api: kind.SecretManagerAPI, line: newer(400, "FAILED_PRECONDITION", "", "Another operation is in progress")}},
		},
		{
			"not ready", []world{{api: compute, line: refusal(400, "resourceNotReady", "The resource 'n' is not ready")}, {api: compute, line: computeFailed("RESOURCE_NOT_READY", "The resource 'n' is not ready")}},
			"what it stands on is not ready", []string{"is not ready"},
			[]world{{api: compute, line: computeFailed("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded.")}, {api: sql, line: refusal(400, "resourceNotReady", "not ready")}},
		},
		{
			"in use", []world{{api: compute, method: http.MethodDelete, line: refusal(400, "resourceInUseByAnotherResource", inUse)}, {api: compute, method: http.MethodDelete, line: computeFailed("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", inUse)}},
			inUse + " (400 ", []string{inUse},
			[]world{{api: compute, line: refusal(400, "resourceInUseByAnotherResource", inUse)}, {api: kind.DNSAPI, method: http.MethodDelete, line: refusal(400, "containerNotEmpty", "not empty")}},
		},
		{
			"a new service account",
			[]world{{api: kind.ResourceManagerAPI, line: newer(400, "INVALID_ARGUMENT", "", "Service account vm@p.iam.gserviceaccount.com does not exist.")}, {api: storage, line: refusal(400, "invalid", "Service account vm@p.iam.gserviceaccount.com does not exist.")}},
			"the service account was just created and is not known everywhere", []string{"does not exist"},
			[]world{{api: storage, line: refusal(400, "invalid", "The bucket does not exist.")}, {api: storage, line: refusal(404, "notFound", "Service account x does not exist.")}},
		},
		{
			"a service account that cannot be seen yet",
			[]world{{api: iam, method: http.MethodGet, line: newer(403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED", "Permission 'iam.serviceAccounts.get' denied on resource (or it may not exist)."), account: true}},
			"the service account was just created and is not known everywhere", []string{"iam.serviceAccounts.get"},
			[]world{
				{api: iam, method: http.MethodGet, line: newer(403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED", "Permission 'iam.serviceAccounts.get' denied on resource (or it may not exist).")},
				{api: iam, line: newer(403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED", "Permission 'iam.roles.get' denied on resource (or it may not exist)."), account: true},
			},
		},
		{
			"an operation that cannot be seen yet",
			[]world{
				{api: sql, method: http.MethodGet, path: "projects/p/operations/o", line: refusal(404, "operationDoesNotExist", "The Cloud SQL instance operation does not exist.")},
				{api: redis, method: http.MethodGet, path: "projects/p/locations/r/operations/o", line: newer(404, "NOT_FOUND", "", "Operation not found")},
				{api: usage, method: http.MethodGet, path: "operations/acf.p2-1-o", line: newer(404, "NOT_FOUND", "", "Operation not found")},
				{api: compute, method: http.MethodGet, path: "projects/p/global/operations/o", line: refusal(404, "notFound", "The resource 'projects/p/global/operations/o' was not found")},
			},
			"the operation is not seen everywhere yet", []string{"An operation cannot be found", "The Cloud SQL instance operation does not exist."},
			[]world{
				{api: compute, method: http.MethodGet, path: "projects/acme-operations/global/networks/n", line: refusal(404, "notFound", "no")},
				{api: compute, method: http.MethodGet, path: "projects/operations/global/networks/n", line: refusal(404, "notFound", "no")},
				{api: sql, method: http.MethodGet, path: "projects/p/operations", line: refusal(404, "notFound", "no")}, {api: sql, method: http.MethodGet, path: "projects/p/operations/o", line: refusal(400, "invalid", "no")},
			},
		},
		{
			"rate", []world{{api: compute, line: refusal(403, "rateLimitExceeded", "slow down")}, {api: compute, line: newer(403, "PERMISSION_DENIED", "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED", "slow down")}},
			"the rate limit is reached", []string{"slow down"},
			[]world{{api: compute, line: refusal(403, "quotaExceeded", "Quota 'CPUS' exceeded. Limit: 8.0 in region r.")}, {api: compute, line: refusal(403, "forbidden", "no right")}},
		},
		{
			"rate, by its text", []world{{api: compute, line: refusal(403, "quotaExceeded", "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service 'compute.googleapis.com'")}},
			"the rate limit is reached", []string{"Queries per minute"},
			[]world{{api: compute, line: refusal(400, "invalid", "Quota exceeded ... per minute")}},
		},
		{
			"overload",
			[]world{
				{api: sql, line: refusal(503, "backendError", "try later")}, {api: compute, line: "500 <html>oops</html>"}, {api: iam, line: newer(429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED", "slow")},
				{api: redis, line: "502 "}, {api: redis, line: "504 "}, {api: storage, line: "408 "},
			},
			"the local cloud answered ", []string{"503"},
			[]world{
				{api: compute, line: refusal(501, "notImplemented", "no")}, {api: compute, line: refusal(400, "invalid", "bad")}, {api: compute, line: refusal(404, "notFound", "not there")},
				{api: compute, line: refusal(412, "conditionNotMet", "stale")}, {api: iam, line: newer(409, "ABORTED", "", "There were concurrent policy changes.")},
			},
		},
	}
	left := gcp.Rules()
	for _, tc := range tests {
		within, known := left[tc.rule]
		if !known {
			t.Errorf("no rule is called %q, or it stands here twice", tc.rule)
			continue
		}
		delete(left, tc.rule)
		if gcp.Sources()[tc.rule] == "" {
			t.Errorf("%s: it has no source", tc.rule)
		}
		for i, w := range tc.worlds {
			name := fmt.Sprint(tc.rule, "/", i)
			if said, took, asked, err := w.run(t, 2); err != nil || asked != 3 || took == 0 {
				t.Errorf("%s: what passes ended after %d requests and %s with %v; said %q", name, asked, took, err, said)
			}
			said, took, _, err := w.run(t, 0)
			longest := within + 1
			if strings.HasPrefix(w.line, "hang") {
				longest += 130 // the deadlines of the first and the last try
			}
			if err == nil || took.Seconds() < within || took.Seconds() > longest {
				t.Errorf("%s: what does not pass ended after %s, want %gs, with %v", name, took, within, err)
				continue
			}
			if want := "retried k/n " + tc.says; len(said) == 0 || !strings.HasPrefix(said[0], want) {
				t.Errorf("%s: said %q, want %q first", name, said[:min(2, len(said))], want)
			}
			text := err.Error()
			if f := (*fault.Fault)(nil); errors.As(err, &f) {
				text += " " + f.Remedy
			}
			for _, want := range tc.ends {
				if i == 0 && !strings.Contains(text, want) {
					t.Errorf("%s: ended with\n%s\nwithout %q", name, text, want)
				}
			}
			if strings.Contains(text+strings.Join(said, ""), "hunter2") || strings.Contains(text, "\x1b") {
				t.Errorf("%s: a page is repeated: %s", name, text)
			}
		}
		for i, w := range tc.not {
			if said, took, asked, err := w.run(t, 0); err == nil || asked != 1 || took != 0 || len(said) > 0 {
				t.Errorf("%s, neighbour %d: %d requests in %s, %v; said %q", tc.rule, i, asked, took, err, said)
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("rules that no case here is about: %q", slices.Sorted(maps.Keys(left)))
	}
}

// TestRulesKnowTheNumber checks that the remedy for Service Networking's account can be pasted.
func TestRulesKnowTheNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := []string{`200 {"projectNumber":"42"}`}
		for range 200 {
			lines = append(lines, newer(401, "UNAUTHENTICATED", "", "Request had invalid authentication credentials."))
		}
		c, _, _ := client(t, lines...)
		if _, err := c.ProjectNumber(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := c.Mutate(t.Context(), gcp.Call{API: kind.ServiceNetworkingAPI, Method: http.MethodPost, Path: "services/servicenetworking.googleapis.com/connections"})
		var f *fault.Fault
		if !errors.As(err, &f) {
			t.Fatal(err)
		}
		want := "Give it its role, then apply again:\n    " + strings.ReplaceAll(agentRole, "PROJECT_NUMBER", "42")
		if f.Remedy != want {
			t.Errorf("remedy\n%s\nwant\n%s", f.Remedy, want)
		}
	})
}

// TestFaultsAreNotAbsence checks that a service which does not get ready is not taken for one in which nothing is.
func TestFaultsAreNotAbsence(t *testing.T) {
	for _, line := range []string{refusal(404, "notFound", "The resource 'projects/p' was not found"), newer(403, "PERMISSION_DENIED", "SERVICE_DISABLED", "not used before")} {
		synctest.Test(t, func(t *testing.T) {
			c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: &always{line: line}}})
			if err != nil {
				t.Fatal(err)
			}
			r := network("demo")
			if live, err := c.Read(t.Context(), r); err != nil || live != nil {
				t.Errorf("before this run enabled it: %v, %v", live, err)
			}
			c.Enabled("compute.googleapis.com")
			var f *fault.Fault
			if live, err := c.Read(t.Context(), r); !errors.As(err, &f) || live != nil {
				t.Errorf("read: %v, %v", live, err)
			}
			if err := c.Delete(t.Context(), r); !errors.As(err, &f) {
				t.Errorf("delete: %v", err)
			}
		})
	}
}

// TestRetryAfter checks that Google's own wish for the wait is followed, as far as there is time.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			if asked > 2 {
				return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}"))}, nil
			}
			return &http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"40"}}, Body: io.NopCloser(strings.NewReader(""))}, nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := get(t.Context(), c); err != nil || time.Since(began) != 80*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// tokens is a source of tokens that fails a number of times.
type tokens struct {
	fails int
	err   error
}

func (s *tokens) Token() (*oauth2.Token, error) {
	if s.fails > 0 {
		s.fails--
		return nil, s.err
	}
	return &oauth2.Token{AccessToken: "t"}, nil
}

// TestTokensThatDoNotCome checks that a source of tokens that cannot be reached is asked again, and one that refuses is not.
func TestTokensThatDoNotCome(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		left int
		want string
	}{
		{"out of reach", &url.Error{Op: "Post", URL: "https://oauth2.googleapis.com/token", Err: syscall.ECONNREFUSED}, 0, ""},
		{"busy", &oauth2.RetrieveError{Response: &http.Response{StatusCode: 503}}, 0, ""},
		{"asked too often", &oauth2.RetrieveError{Response: &http.Response{StatusCode: 429}}, 0, ""},
		{"cut off", errors.New("oauth2: cannot fetch token: unexpected EOF"), 0, ""},
		{"a federation that is busy", errors.New("oauth2/google: status code 503: {}"), 0, ""},
		{"a federation that refuses", errors.New(`oauth2/google: status code 400: {"error":"invalid_grant"}`), 1, "Google Cloud credentials were refused"},
		{"an account that may not be impersonated", errors.New("oauth2/google: status code 403: PERMISSION_DENIED"), 1, "Google Cloud credentials were refused"},
		{"a file that is not there", errors.New(`oauth2/google/externalaccount: failed to open credential file "/token"`), 1, "Google Cloud credentials were refused"},
		{"refused by its status", &oauth2.RetrieveError{Response: &http.Response{StatusCode: 401}}, 1, "Google Cloud credentials were refused"},
		{"refused", &oauth2.RetrieveError{ErrorCode: "invalid_grant"}, 1, "Google Cloud credentials were refused"},
	} {
		synctest.Test(t, func(t *testing.T) {
			source := &tokens{fails: 2, err: tc.err}
			c, err := gcp.New(t.Context(), gcp.Options{Project: "p", HTTP: &http.Client{Transport: gcp.WithTokens(source, &always{line: "200 {}"})}})
			if err != nil {
				t.Fatal(err)
			}
			err = get(t.Context(), c)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) || source.fails != tc.left {
				t.Errorf("%s: %v, %d failures left", tc.name, err, source.fails)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestOperationsAreStartedAgain checks that a creation whose operation failed in a way that passes is sent again, as another
// request, after a look at what it left.
func TestOperationsAreStartedAgain(t *testing.T) {
	const peering = "There is a peering operation in progress on the local or peer network. Try again later."
	done := `200 {"kind":"compute#operation","status":"DONE"}`
	labels := map[string]any{"managed-by": "difyup", "difyup-stack": "demo"}
	instance := &resource.Resource{Kind: kind.RedisInstances.Kind, Name: "c", Params: map[string]string{"project": "p", "region": "r1"}, Body: map[string]any{"labels": labels}}
	const (
		insert  = `POST /v1/projects/p/locations/r1/instances?instanceId=c {"labels":{"difyup-stack":"demo","managed-by":"difyup"}}`
		one     = "/v1/projects/p/locations/r1/instances/c"
		working = `200 {"name":"projects/p/locations/r1/operations/o","done":true,"response":{}}`
	)
	for _, tc := range []struct {
		name  string
		r     *resource.Resource
		lines []string
		asked []string
		fails string
	}{
		{"nothing is there", network("demo"), []string{computeFailed("BAD_REQUEST", peering), refusal(404, "notFound", "no"), done}, []string{
			`POST /compute/v1/projects/p/regions/r1/routers {"description":"managed-by=difyup;difyup-stack=demo","name":"r","nats":[{"name":"nat"}]}`,
			"GET /compute/v1/projects/p/regions/r1/routers/r",
			`POST /compute/v1/projects/p/regions/r1/routers {"description":"managed-by=difyup;difyup-stack=demo","name":"r","nats":[{"name":"nat"}]}`,
		}, ""},
		{"it is there after all", instance, []string{longFailed(9, peering), `200 {"labels":{"managed-by":"difyup","difyup-stack":"demo"},"state":"READY"}`, `200 {"labels":{"managed-by":"difyup","difyup-stack":"demo"},"state":"READY"}`, `200 {"labels":{"managed-by":"difyup","difyup-stack":"demo"},"state":"READY"}`},
			[]string{insert, "GET " + one, "GET " + one, "GET " + one}, ""},
		{"what is left is FAILED", instance, []string{longFailed(9, peering), `200 {"labels":{"managed-by":"difyup","difyup-stack":"demo"},"state":"FAILED"}`, working, working},
			[]string{insert, "GET " + one, "DELETE " + one, insert}, ""},
		{"what is FAILED is somebody else's", instance, []string{longFailed(9, peering), `200 {"labels":{"managed-by":"difyup","difyup-stack":"other"},"state":"FAILED"}`, `200 {"labels":{"managed-by":"difyup","difyup-stack":"other"},"state":"FAILED"}`},
			[]string{insert, "GET " + one, "GET " + one}, "A name is taken"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s, _ := client(t, tc.lines...)
				err := c.Create(t.Context(), tc.r, tc.r.Body)
				if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) {
					t.Errorf("got %v, want %q", err, tc.fails)
				}
				if d := cmp.Diff(tc.asked, s.asked); d != "" {
					t.Errorf("asked (-want +got):\n%s", d)
				}
				if len(s.ids) == 2 && s.ids[0] == s.ids[1] {
					t.Error("the second request bears the first one's ID: Compute would give the failed operation again")
				}
			})
		})
	}
}

// TestDeadlines checks that every kind of request ends when nobody answers, and that a caller's own end comes first.
func TestDeadlines(t *testing.T) {
	for _, tc := range []struct {
		name   string
		call   gcp.Call
		google bool
		want   time.Duration
	}{
		{"a read", gcp.Call{API: kind.SQLAPI, Method: http.MethodGet, Path: "x"}, true, 30 * time.Second},
		{"a change", gcp.Call{API: kind.SQLAPI, Method: http.MethodPost, Path: "x", Body: map[string]any{}}, true, time.Minute},
		{"a long poll", gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: "projects/p/global/operations/o/wait"}, true, 150 * time.Second},
		{"an upload", gcp.Call{API: kind.StorageAPI, Method: http.MethodPost, Path: "x", Raw: make([]byte, 20<<20)}, true, time.Minute + 320*time.Second},
		{"a local read", gcp.Call{API: kind.SQLAPI, Method: http.MethodGet, Path: "x"}, false, 15 * time.Second},
		{"a local upload", gcp.Call{API: kind.StorageAPI, Method: http.MethodPost, Path: "x", Raw: make([]byte, 20<<20)}, false, 35 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := gcp.Options{Project: "p", HTTP: &http.Client{Transport: &always{line: "hang"}}}
				if !tc.google {
					o.Endpoint = "http://cloud/"
				}
				c, err := gcp.New(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				tc.call.Once = true
				began := time.Now()
				err = c.Do(t.Context(), tc.call)
				if want := "no answer within " + tc.want.String(); err == nil || !strings.HasSuffix(err.Error(), want) || time.Since(began) != tc.want {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}

// TestStoppedCloud checks that with a local cloud that is stopped every request ends in about a minute, a wait for an
// operation too, and says what to do.
func TestStoppedCloud(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		_, took, _, err := world{api: kind.ComputeAPI, method: method, line: "hang"}.run(t, 0)
		var f *fault.Fault
		if !errors.As(err, &f) || f.Summary != "The local cloud does not answer" || took > 60*time.Second {
			t.Errorf("%s: after %s: %v", method, took, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		hang := &always{line: "hang"}
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/wait") {
				return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"kind":"compute#operation","status":"RUNNING","selfLink":"https://x/projects/p/global/operations/o"}`))}, nil
			}
			return hang.RoundTrip(r)
		})}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = c.Mutate(t.Context(), gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: "projects/p/global/networks"})
		var f *fault.Fault
		if !errors.As(err, &f) || f.Summary != "The local cloud does not answer" || time.Since(began) > 70*time.Second {
			t.Errorf("waiting for an operation: after %s: %v", time.Since(began), err)
		}
	})
}

// TestLongPollThatIsCut checks that an operation which outlasts its long poll is waited for all the same.
func TestLongPollThatIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		operation := func(status string) *http.Response {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"kind":"compute#operation","status":"` + status + `","selfLink":"https://x/projects/p/global/operations/o"}`))}
		}
		looks := 0
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/wait"):
				<-r.Context().Done()
				return nil, r.Context().Err()
			case r.Method == http.MethodGet:
				if looks++; looks == 10 {
					return operation("DONE"), nil
				}
			}
			return operation("RUNNING"), nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err = c.Mutate(t.Context(), gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: "projects/p/global/networks"}); err != nil || time.Since(began) != 150*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestAnswers checks what counts as an answer of Google's.
func TestAnswers(t *testing.T) {
	answer := func(code int, header http.Header, body string) *http.Client {
		return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		}), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	html := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	for _, tc := range []struct {
		name string
		http *http.Client
		raw  bool
		want string
	}{
		{"JSON", answer(200, nil, "{}"), false, ""},
		{"nothing after a deletion", answer(204, nil, ""), false, ""},
		{"nothing", answer(200, nil, ""), false, "get x: the answer (HTTP 200) is empty"},
		{"half of it", answer(200, nil, `{"a":`), false, "get x: the answer (HTTP 200) is no JSON (5 bytes)"},
		{"a page", answer(200, html, "<html>"), false, "get x: the answer (HTTP 200) is no JSON (6 bytes of text/html; charset=utf-8)"},
		{"a page in an object's place", answer(200, html, "<html>"), true, "get x: the answer (HTTP 200) is no JSON (6 bytes of text/html; charset=utf-8)"},
		{"an empty object", answer(200, http.Header{"X-Goog-Generation": {"1"}}, ""), true, ""},
		{"nothing in an object's place", answer(200, nil, ""), true, "get x: the answer (HTTP 200) is empty"},
		{"a redirection", answer(302, http.Header{"Location": {"http://portal/"}}, ""), false, "get x: the answer leads elsewhere (HTTP 302)"},
		{"a portal", answer(511, html, "<html>"), false, "get x: the answer (HTTP 511) is no JSON (6 bytes of text/html; charset=utf-8)"},
		{"another type", answer(200, nil, `[1]`), false, "get x: decode the answer: json: cannot unmarshal array into Go value of type map[string]interface {}"},
	} {
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: tc.http})
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		var raw []byte
		call := gcp.Call{API: kind.StorageAPI, Method: http.MethodGet, Path: "x", Out: &body, Once: true}
		if tc.raw {
			call.Out = &raw
		}
		got := ""
		if err := c.Do(t.Context(), call); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestHarmless checks that texts of answers are bounded, and that a terminal obeys nothing in them.
func TestHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"plain, Größe 東京\nnext line":       "plain, Größe 東京\nnext line",
		"\x1b[2J\x1b]0;title\a\r\u009b31m": "?[2J?]0;title? ?31m",
		"right \u202eto left\u200b":        "right ?to left?",
		"no \xff UTF-8\t\u00a0":            "no � UTF-8  ",
		strings.Repeat("東", 2000):          strings.Repeat("東", 1000) + "…",
	} {
		if got := gcp.Harmless(in, 1000); got != want {
			t.Errorf("%.60q becomes %.60q, want %.60q", in, got, want)
		}
	}
	c, _, _ := client(t, refusal(400, strings.Repeat("r", 5000), "\x1b[31m"+strings.Repeat("x", 1<<20)))
	if err := get(t.Context(), c); err == nil || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	c, _, _ = client(t, computeFailed("C", "\x1b[31m"+strings.Repeat("x", 1<<20)))
	if _, err := c.Mutate(t.Context(), world{api: kind.ComputeAPI}.call()); err == nil || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("an operation's error of %d bytes", len(err.Error()))
	}
}

// TestRequestIDsOfCompute asks Compute's discovery document which methods of the collections in use take a request ID.
func TestRequestIDsOfCompute(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "compute", "v1", "compute-api.json"))
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		Methods map[string]struct {
			ID, FlatPath, HTTPMethod string
			Parameters               map[string]struct{ Location string }
		}
	}
	var doc struct{ Resources map[string]node }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, k := range kind.All() {
		name, ok := strings.CutPrefix(k.Name, "compute.")
		if !ok {
			continue
		}
		for _, m := range doc.Resources[name].Methods {
			_, takes := m.Parameters["requestId"]
			if got := gcp.TakesRequestID(gcp.Call{API: kind.ComputeAPI, Method: m.HTTPMethod, Path: m.FlatPath}); got != takes {
				t.Errorf("%s: a request ID is sent: %t, taken: %t", m.ID, got, takes)
			}
			checked++
		}
	}
	if checked < 100 {
		t.Errorf("only %d methods were found", checked)
	}
}
