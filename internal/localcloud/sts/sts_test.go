package sts_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/secrets"
	"github.com/difyup/difyup/internal/localcloud/services"
	"github.com/difyup/difyup/internal/localcloud/storage"
	"github.com/difyup/difyup/internal/localcloud/store"
	"github.com/difyup/difyup/internal/localcloud/sts"
)

const (
	owner = "owner's token"
)

// cloud is a project with the buckets "files" and "others", a secret "s", and a service account that may do everything with
// them, whose token is token.
type cloud struct {
	t      *testing.T
	front  *front.Server
	faults *faults.Set
	token  string
}

func newCloud(t *testing.T, life time.Duration) *cloud {
	t.Helper()
	c := &cloud{t: t, faults: faults.NewSet(nil)}
	var err error
	if c.front, err = front.New(front.Options{Token: owner, Faults: c.faults, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.front.Close)
	st := store.New()
	policies := iam.NewPolicies(c.front, st)
	services.Register(c.front, st, policies, services.Options{Enabled: []string{"sts.googleapis.com", "secretmanager.googleapis.com"}})
	iam.Register(c.front, st, policies)
	secrets.Register(c.front, st, policies)
	storage.Register(c.front, st, policies, t.TempDir())
	sts.Register(c.front, policies)
	c.must(owner, "POST", "/v1/projects/demo-project/serviceAccounts", `{"accountId":"vm-account"}`)
	c.must(owner, "POST", "/v1/projects/demo-project/secrets?secretId=s", `{"replication":{"automatic":{}}}`)
	c.must(owner, "POST", "/v1/projects/demo-project/secrets/s:addVersion", `{"payload":{"data":"eA=="}}`)
	c.must(owner, "POST", "/v1/projects/demo-project:setIamPolicy", `{"policy":{"bindings":[
		{"role":"roles/owner","members":["serviceAccount:vm-account@demo-project.iam.gserviceaccount.com"]}]}}`)
	for _, bucket := range []string{"files", "others"} {
		c.must(owner, "POST", "/storage/v1/b?project=demo-project", `{"name":"`+bucket+`"}`)
		for _, name := range []string{"plugin/a", "plugin_packages/b", "privkeys/t/private.pem"} {
			c.must(owner, "POST", "/upload/storage/v1/b/"+bucket+"/o?uploadType=media&name="+name, "contents")
		}
	}
	c.token = c.front.Tokens().Issue("vm-account@demo-project.iam.gserviceaccount.com", life)
	return c
}

func (c *cloud) do(token, method, path, body string, headers ...string) (int, string) {
	c.t.Helper()
	req := httptest.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	c.front.ServeHTTP(rec, req)
	raw, err := io.ReadAll(rec.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return rec.Code, string(raw)
}

func (c *cloud) must(token, method, path, body string) {
	c.t.Helper()
	if code, answer := c.do(token, method, path, body); code >= 300 {
		c.t.Fatalf("%s %s: %d %s", method, path, code, answer)
	}
}

// form is a right request, with some parameters changed.
func form(token, options string, changes ...string) string {
	f := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token}, "options": {options},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:access_token"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}
	for i := 0; i < len(changes); i += 2 {
		f.Set(changes[i], changes[i+1])
	}
	return f.Encode()
}

const asForm = "Content-Type: application/x-www-form-urlencoded"

// narrow exchanges a token.
func (c *cloud) narrow(token, options string) (narrowed string, seconds int) {
	c.t.Helper()
	code, answer := c.do("", "POST", "/v1/token", form(token, options), asForm)
	var a struct {
		Token   string `json:"access_token"`
		Type    string `json:"token_type"`
		Issued  string `json:"issued_token_type"`
		Seconds int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil || code != http.StatusOK || a.Type != "Bearer" || a.Issued != "urn:ietf:params:oauth:token-type:access_token" || a.Token == "" {
		c.t.Fatalf("%d %v %s", code, err, answer)
	}
	return a.Token, a.Seconds
}

func rules(all ...string) string {
	return `{"accessBoundary":{"accessBoundaryRules":[` + strings.Join(all, ",") + `]}}`
}

func bounded(bucket, role, when string) string {
	text := `{"availableResource":"//storage.googleapis.com/projects/_/buckets/` + bucket + `","availablePermissions":["inRole:roles/` + role + `"]`
	if when != "" {
		text += fmt.Sprintf(`,"availabilityCondition":{"expression":%q}`, when)
	}
	return text + "}"
}

// TestBoundary has a token of one who may do everything narrowed, and tries what it is worth.
func TestBoundary(t *testing.T) {
	whole := rules(bounded("files", "storage.objectAdmin", ""), bounded("files", "storage.legacyBucketReader", ""))
	prefixes := rules(bounded("files", "storage.objectAdmin", `resource.name.startsWith('projects/_/buckets/files/objects/plugin/') || resource.name.startsWith("projects/_/buckets/files/objects/assets/") || api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('plugin/')`))
	reader := rules(bounded("files", "storage.objectViewer", ""))
	multipart := "Content-Type: multipart/related; boundary=b"
	parts := func(name string) string {
		return "--b\r\nContent-Type: application/json\r\n\r\n{\"name\":\"" + name + "\"}\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n"
	}
	tries := []struct {
		method, path, body    string
		header                string
		whole, prefix, reader int
	}{
		{"GET", "/storage/v1/b/files", "", "", 200, 403, 403},
		{"GET", "/storage/v1/b/files/o", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o?prefix=plugin/", "", "", 200, 200, 200},
		{"GET", "/storage/v1/b/files/o?prefix=plugin", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o?prefix=privkeys/", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o/plugin%2Fa?alt=media", "", "", 200, 200, 200},
		{"GET", "/files/plugin/a", "", "", 200, 200, 200},
		{"GET", "/files/privkeys/t/private.pem", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o/privkeys%2Ft%2Fprivate.pem?alt=media", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o/privkeys%2Ft%2Fprivate.pem?prefix=plugin/", "", "", 200, 403, 200},
		{"GET", "/storage/v1/b/files/o/plugin_packages%2Fb", "", "", 200, 403, 200},
		{"PATCH", "/storage/v1/b/files/o/privkeys%2Ft%2Fprivate.pem", `{"metadata":{"x":"y"}}`, "", 200, 403, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=media&name=assets/x", "x", "", 200, 200, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=media&name=privkeys/x", "x", "", 200, 403, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=multipart", parts("plugin/x"), multipart, 200, 200, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=multipart", parts("privkeys/x"), multipart, 200, 403, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=resumable", `{"name":"plugin/y"}`, "", 200, 200, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=resumable", `{"name":"privkeys/y"}`, "", 200, 403, 403},
		{"POST", "/storage/v1/b/files/o/privkeys%2Ft%2Fprivate.pem/rewriteTo/b/files/o/plugin%2Fstolen", "", "", 200, 403, 403},
		{"POST", "/storage/v1/b/files/o/plugin%2Fa/rewriteTo/b/files/o/privkeys%2Fforged", "", "", 200, 403, 403},
		{"POST", "/storage/v1/b/files/o/plugin%2Fa/copyTo/b/others/o/plugin%2Fa", "", "", 403, 403, 403},
		{"POST", "/storage/v1/b/others/o/plugin%2Fa/copyTo/b/files/o/plugin%2Fa", "", "", 403, 403, 403},
		{"POST", "/storage/v1/b/files/o/plugin%2Fc/compose", `{"sourceObjects":[{"name":"privkeys/t/private.pem"}]}`, "", 200, 403, 403},
		{"DELETE", "/storage/v1/b/files/o/plugin%2Fx", "", "", 204, 204, 403},
		{"DELETE", "/storage/v1/b/files/o/privkeys%2Fx", "", "", 204, 403, 403},
		{"PATCH", "/storage/v1/b/files", `{"labels":{"x":"y"}}`, "", 403, 403, 403},
		{"GET", "/storage/v1/b/files/iam", "", "", 403, 403, 403},
		{"GET", "/storage/v1/b/others", "", "", 403, 403, 403},
		{"GET", "/storage/v1/b/others/o/plugin%2Fa?alt=media", "", "", 403, 403, 403},
		{"GET", "/storage/v1/b?project=demo-project", "", "", 403, 403, 403},
		{"POST", "/storage/v1/b?project=demo-project", `{"name":"more"}`, "", 403, 403, 403},
		{"GET", "/storage/v1/projects/demo-project/serviceAccount", "", "", 403, 403, 403},
		// Nothing but Cloud Storage.
		{"GET", "/v1/projects/demo-project/secrets/s/versions/1:access", "", "", 403, 403, 403},
		{"GET", "/v1/projects/demo-project", "", "", 403, 403, 403},
		{"GET", "/v1/projects/demo-project/serviceAccounts", "", "", 403, 403, 403},
		{"POST", "/v1/projects/demo-project:testIamPermissions", `{"permissions":["secretmanager.versions.access"]}`, "", 403, 403, 403},
	}
	for name, of := range map[string]string{"whole": whole, "prefixes": prefixes, "reader": reader, "none": ""} {
		c := newCloud(t, time.Hour)
		c.must(owner, "POST", "/upload/storage/v1/b/files/o?uploadType=media&name=privkeys/x", "x")
		token := c.token
		if of != "" {
			token, _ = c.narrow(token, of)
		}
		for _, tc := range tries {
			want := map[string]int{"whole": tc.whole, "prefixes": tc.prefix, "reader": tc.reader}[name]
			code, answer := c.do(token, tc.method, tc.path, tc.body, tc.header)
			if of == "" && code >= 400 || of != "" && code != want {
				t.Errorf("%s %s, %s: %d, want %d: %s", tc.method, tc.path, name, code, want, answer)
			}
		}
	}
}

// TestBoundaryGivesNothing: a boundary that permits more than its token's owner may does not help them.
func TestBoundaryGivesNothing(t *testing.T) {
	c := newCloud(t, time.Hour)
	poor := c.front.Tokens().Issue("poor@demo-project.iam.gserviceaccount.com", time.Hour)
	token, _ := c.narrow(poor, rules(bounded("files", "storage.admin", "")))
	if code, answer := c.do(token, "GET", "/storage/v1/b/files/o/plugin%2Fa", ""); code != http.StatusForbidden {
		t.Errorf("%d %s", code, answer)
	}
	// The owner's, narrowed, opens none of the owner's doors.
	token, _ = c.narrow(owner, rules(bounded("files", "storage.objectViewer", "")))
	c.front.HandleHTTP("GET /local/v1/status", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for path, want := range map[string]int{"/storage/v1/b/files/o/plugin%2Fa": 200, "/storage/v1/b/others/o/plugin%2Fa": 403, "/local/v1/status": 403, "/v1/projects/demo-project/secrets": 403} {
		if code, answer := c.do(token, "GET", path, ""); code != want {
			t.Errorf("%s: %d, want %d: %s", path, code, want, answer)
		}
	}
	// Nor is a part of a batch worth more.
	batch := "--b\r\nContent-Type: application/http\r\n\r\nGET /storage/v1/b/%s/o/plugin%%2Fa HTTP/1.1\r\n\r\n\r\n--b--\r\n"
	for bucket, want := range map[string]string{"files": "HTTP/1.1 200", "others": "HTTP/1.1 403"} {
		if code, answer := c.do(token, "POST", "/batch/storage/v1", fmt.Sprintf(batch, bucket), "Content-Type: multipart/mixed; boundary=b"); code != 200 || !strings.Contains(answer, want) {
			t.Errorf("%s in a batch: %d, want %s: %s", bucket, code, want, answer)
		}
	}
	code, answer := c.do(token, "GET", "/storage/v1/b/files/iam/testPermissions?permissions=storage.objects.get&permissions=storage.objects.delete", "")
	if code != 200 || !strings.Contains(answer, "objects.get") || strings.Contains(answer, "objects.delete") {
		t.Errorf("what it may: %d %s", code, answer)
	}
}

// TestRefusals: what is no request for a narrower token is refused in OAuth's words, and gives no token.
func TestRefusals(t *testing.T) {
	c := newCloud(t, time.Hour)
	good := rules(bounded("files", "storage.objectViewer", ""))
	narrowed, _ := c.narrow(c.token, good)
	long := bounded("files", "storage.objectViewer", "resource.name.startsWith('"+strings.Repeat("x", 2048)+"')")
	for name, tc := range map[string]struct{ body, reason, says string }{
		"no token":                 {form("", good), "invalid_grant", "subject token"},
		"a token nobody gave":      {form("local.XYZ", good), "invalid_grant", "subject token"},
		"narrowed already":         {form(narrowed, good), "invalid_request", "cannot be narrowed again"},
		"another grant":            {form(c.token, good, "grant_type", "client_credentials"), "unsupported_grant_type", "client_credentials"},
		"another type":             {form(c.token, good, "requested_token_type", "urn:ietf:params:oauth:token-type:jwt"), "invalid_request", "requested_token_type"},
		"another subject":          {form(c.token, good, "subject_token_type", "urn:ietf:params:oauth:token-type:jwt"), "invalid_request", "subject_token_type"},
		"an audience":              {form(c.token, good, "audience", "x"), "invalid_request", "audience"},
		"no options":               {form(c.token, ""), "invalid_request", "options"},
		"no boundary":              {form(c.token, "{}"), "invalid_request", "options"},
		"no rules":                 {form(c.token, rules()), "invalid_request", "no rules"},
		"too many rules":           {form(c.token, rules(strings.Split(strings.Repeat(","+bounded("b", "storage.admin", ""), 11), "},")...)), "invalid_request", "options"},
		"too long":                 {form(c.token, rules(long)), "invalid_request", "2048"},
		"another service":          {form(c.token, rules(strings.Replace(bounded("files", "storage.admin", ""), "//storage", "//pubsub", 1))), "invalid_request", "no bucket"},
		"an object":                {form(c.token, rules(bounded("files/objects/x", "storage.admin", ""))), "invalid_request", "no bucket"},
		"no role":                  {form(c.token, rules(strings.Replace(bounded("files", "storage.admin", ""), "inRole:", "", 1))), "invalid_request", "inRole:"},
		"an unknown role":          {form(c.token, rules(bounded("files", "storage.emperor", ""))), "invalid_request", "storage.emperor"},
		"another condition":        {form(c.token, rules(bounded("files", "storage.admin", "true"))), "invalid_request", "does not evaluate"},
		"half a condition":         {form(c.token, rules(bounded("files", "storage.admin", "resource.name.startsWith('a') || !(resource.name == 'b')"))), "invalid_request", "does not evaluate"},
		"too many operators":       {form(c.token, rules(bounded("files", "storage.admin", strings.Repeat("resource.name.startsWith('a')||", 13)+"resource.name.startsWith('a')"))), "invalid_request", "logical operators"},
		"an escape":                {form(c.token, rules(bounded("files", "storage.admin", `resource.name.startsWith('a\'')`))), "invalid_request", "does not evaluate"},
		"an unknown field":         {form(c.token, strings.Replace(good, "availableResource", "availableResources", 1)), "invalid_request", "unknown field"},
		"twice":                    {form(c.token, good) + "&subject_token=x", "invalid_request", "more than once"},
		"twice, spelled otherwise": {form(c.token, good) + "&subjectToken=x", "invalid_request", "more than once"},
	} {
		code, answer := c.do("", "POST", "/v1/token", tc.body, asForm)
		var e struct {
			Error string `json:"error"`
			Says  string `json:"error_description"`
			Token string `json:"access_token"`
		}
		if err := json.Unmarshal([]byte(answer), &e); err != nil || code != http.StatusBadRequest || e.Error != tc.reason || !strings.Contains(e.Says, tc.says) || e.Token != "" {
			t.Errorf("%s: %d %v %s", name, code, err, answer)
		}
		if strings.Contains(answer, c.token) {
			t.Errorf("%s: the answer shows the token", name)
		}
	}
	if code, _ := c.do("", "POST", "/v1/token", strings.Replace(`{"grantType":"urn:ietf:params:oauth:grant-type:token-exchange","subjectToken":"TOKEN","subjectTokenType":"urn:ietf:params:oauth:token-type:access_token","requestedTokenType":"urn:ietf:params:oauth:token-type:access_token","options":`+string(quoted(t, good))+`}`, "TOKEN", c.token, 1)); code != 200 {
		t.Errorf("as JSON: %d", code)
	}
}

func quoted(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestLife: a narrowed token ends with the one that it was made of.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 10*time.Minute)
		time.Sleep(3 * time.Minute)
		token, seconds := c.narrow(c.token, rules(bounded("files", "storage.objectViewer", "")))
		if seconds != 420 {
			t.Errorf("it is good for %d s", seconds)
		}
		time.Sleep(7*time.Minute - time.Second)
		if code, _ := c.do(token, "GET", "/storage/v1/b/files/o", ""); code != 200 {
			t.Errorf("before its end: %d", code)
		}
		time.Sleep(time.Second)
		if code, _ := c.do(token, "GET", "/storage/v1/b/files/o", ""); code != 401 {
			t.Errorf("after its end: %d", code)
		}
		if code, answer := c.do("", "POST", "/v1/token", form(c.token, rules(bounded("files", "storage.objectViewer", ""))), asForm); code != 400 || !strings.Contains(answer, "invalid_grant") {
			t.Errorf("with one that has ended: %d %s", code, answer)
		}
	})
}

// TestFaults: the exchange goes wrong on request, and for nobody who has no token.
func TestFaults(t *testing.T) {
	c := newCloud(t, time.Hour)
	f, err := faults.Parse("503")
	if err != nil {
		t.Fatal(err)
	}
	c.faults.Add(faults.Rule{Surface: faults.API, Service: "sts", Rate: 1, Next: 1, Faults: []faults.Fault{f}})
	good := rules(bounded("files", "storage.objectViewer", ""))
	if code, _ := c.do("", "POST", "/v1/token", form("stranger", good), asForm); code != 400 {
		t.Errorf("a stranger: %d", code)
	}
	if code, _ := c.do("", "POST", "/v1/token", form(c.token, good), asForm); code != 503 {
		t.Errorf("the first: %d", code)
	}
	c.narrow(c.token, good)
}
