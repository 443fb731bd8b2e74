//go:build linux

package driver_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/api/storage/v1"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/test/cloud"
)

func connect(t *testing.T, url, token string) *gcp.Client {
	t.Helper()
	c, err := gcp.New(t.Context(), gcp.Options{Project: "demo-project", Endpoint: url, Token: token, Drivers: driver.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func params(pairs ...string) map[string]string {
	m := map[string]string{"project": "demo-project"}
	for p := range slices.Chunk(pairs, 2) {
		m[p[0]] = p[1]
	}
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDrivers has the drivers work on a local cloud, beside others who change the same things.
func TestDrivers(t *testing.T) {
	info := cloud.Start(t)
	c := connect(t, info.URL, info.Token)
	ctx := t.Context()
	call := func(api *resource.API, method, path string, query url.Values, body any) map[string]any {
		t.Helper()
		var out map[string]any
		must(t, c.Do(ctx, gcp.Call{API: api, Method: method, Path: path, Query: query, Body: body, Out: &out}))
		return out
	}

	services := kind.Services.New("enabled", params(), &kind.ServiceList{Services: []string{"secretmanager.googleapis.com", "compute.googleapis.com", "storage.googleapis.com"}})
	live, err := c.Read(ctx, services)
	must(t, err)
	if d := cmp.Diff(map[string]any{"services": []any{"storage.googleapis.com"}}, live); d != "" {
		t.Errorf("services before (-want +got):\n%s", d)
	}
	must(t, c.Update(ctx, services, services.Body, live, nil))
	if live, err = c.Read(ctx, services); err != nil || len(live["services"].([]any)) != 3 {
		t.Errorf("services after: %v, %v", live, err)
	}

	t.Run("a secret that an interrupted run left", func(t *testing.T) {
		s := kind.Secrets.New("s", params(), &kind.Secret{Labels: resource.Labels("demo"), Version: 1, Generate: 20})
		call(kind.SecretManagerAPI, http.MethodPost, "projects/demo-project/secrets", url.Values{"secretId": {"s"}}, map[string]any{
			"replication": map[string]any{"automatic": map[string]any{}}, "labels": resource.Labels("demo"),
		})
		half, err := c.Read(ctx, s)
		if err != nil || half == nil || c.Whole(s, half) {
			t.Errorf("without its value it must be seen, as half made: %v, %v", half, err)
		}
		other := kind.Secrets.New("s2", params(), &kind.Secret{Labels: resource.Labels("demo"), Version: 1, Generate: 20})
		if all, err := c.ReadAll(ctx, []*resource.Resource{s, other}); err != nil || len(all) != 1 || all[s.ID()] == nil {
			t.Errorf("in a list it must be seen too: %v, %v", all, err)
		}
		must(t, c.Create(ctx, s, s.Body))
		if live, err := c.Read(ctx, s); err != nil || !c.Whole(s, live) {
			t.Errorf("with its value it is half made: %v, %v", live, err)
		}
		first, err := c.Output(ctx, s, "payload")
		if err != nil || len(first) != 20 || strings.Trim(first, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Errorf("a value of %d characters, %v", len(first), err)
		}
		must(t, c.Create(ctx, s, s.Body)) // once more, as after a lost reply
		if again, err := c.Output(ctx, s, "payload"); err != nil || again != first {
			t.Errorf("the value was generated twice, %v", err)
		}
		if live, err := c.Read(ctx, s); err != nil || live == nil || strings.Contains(fmt.Sprint(live), first) {
			t.Errorf("its body: %d fields, %v", len(live), err)
		}
		foreign := kind.Secrets.New("s", params(), &kind.Secret{Labels: resource.Labels("other"), Version: 1, Generate: 20})
		if err := c.Create(ctx, foreign, foreign.Body); err == nil || !strings.Contains(err.Error(), "A name is taken") {
			t.Errorf("another stack took it: %v", err)
		}
	})

	t.Run("the version of a secret", func(t *testing.T) {
		secret := func(version int, payload string) *resource.Resource {
			return kind.Secrets.New("v", params(), &kind.Secret{Labels: resource.Labels("demo"), Version: version, Payload: payload})
		}
		check := func(what string, version int, payloads ...string) {
			t.Helper()
			live, err := c.Read(ctx, secret(0, ""))
			if err != nil || live["version"] != float64(version) || kind.Annotation(live, kind.SecretAdded) != fmt.Sprint(version) {
				t.Errorf("%s: version %v is written down, want %d; %v", what, live["version"], version, err)
			}
			if all, err := c.ReadAll(ctx, []*resource.Resource{secret(0, ""), kind.Secrets.New("none", params(), &kind.Secret{})}); err != nil || all["secretmanager.secrets/v"]["version"] != float64(version) {
				t.Errorf("%s: a list shows %v, %v", what, all, err)
			}
			for i, want := range payloads {
				if number, got, err := c.SecretVersion(ctx, secret(0, ""), fmt.Sprint(i+1)); err != nil || got != want || number != i+1 {
					t.Errorf("%s: version %d is number %d and %q, want %q; %v", what, i+1, number, got, want, err)
				}
			}
			if number, _, err := c.SecretState(ctx, secret(0, ""), "latest"); err != nil || number != len(payloads) {
				t.Errorf("%s: there are %d versions, want %d; %v", what, number, len(payloads), err)
			}
		}
		if number, state, err := c.SecretState(ctx, secret(0, ""), "latest"); number != 0 || state != "" || err != nil {
			t.Errorf("of no secret: %d %s %v", number, state, err)
		}
		// It takes the place of one of which version 2 was read.
		must(t, c.Create(ctx, secret(3, "one"), secret(3, "one").Body))
		check("created", 3, "one", "one", "one")
		must(t, c.Update(ctx, secret(4, "two"), secret(4, "two").Body, nil, []resource.Path{"payload", "version"}))
		check("renewed", 4, "one", "one", "one", "two")
		if got, err := c.Output(ctx, secret(2, ""), "payload"); err != nil || got != "one" {
			t.Errorf("what others take is %q of the newest version, not of the wanted one; %v", got, err)
		}
		must(t, c.Update(ctx, secret(4, "two"), secret(4, "two").Body, nil, []resource.Path{"version"}))
		check("again", 4, "one", "one", "one", "two")
		// Somebody adds one between the plan and the step: what is written down is where the value is, and the run says so.
		call(kind.SecretManagerAPI, http.MethodPost, "projects/demo-project/secrets/v:addVersion", nil, map[string]any{"payload": map[string]any{"data": "eA=="}})
		var f *fault.Fault
		err := c.Update(ctx, secret(5, "three"), secret(5, "three").Body, nil, []resource.Path{"payload", "version"})
		if !errors.As(err, &f) || f.Summary != "A secret got another version than planned" {
			t.Errorf("it was told %v", err)
		}
		check("raced", 6, "one", "one", "one", "two", "x", "three")
	})

	t.Run("a policy that others change too", func(t *testing.T) {
		for _, id := range []string{"vm-1", "other"} {
			call(kind.IAMAPI, http.MethodPost, "projects/demo-project/serviceAccounts", nil, map[string]any{"accountId": id + "-account"})
		}
		ours, theirs := "serviceAccount:vm-1-account@demo-project.iam.gserviceaccount.com", "serviceAccount:other-account@demo-project.iam.gserviceaccount.com"
		before := call(kind.ResourceManagerAPI, http.MethodPost, "projects/demo-project:getIamPolicy", nil, map[string]any{"options": map[string]any{"requestedPolicyVersion": 3}})
		bindings, _ := before["bindings"].([]any)
		bindings = append(bindings,
			map[string]any{"role": "roles/logging.logWriter", "members": []any{theirs}},
			map[string]any{"role": "roles/storage.objectViewer", "members": []any{ours}, "condition": map[string]any{"title": "soon over", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}},
		)
		before["bindings"], before["version"] = bindings, 3
		call(kind.ResourceManagerAPI, http.MethodPost, "projects/demo-project:setIamPolicy", nil, map[string]any{"policy": before})
		p := kind.ProjectIAM.New("vm", params("member", ours), &kind.Policy{Bindings: []kind.Binding{
			{Role: "roles/logging.logWriter", Members: []string{ours}}, {Role: "roles/cloudsql.client", Members: []string{ours}},
		}})
		must(t, c.Create(ctx, p, p.Body))
		live, err := c.Read(ctx, p)
		if err != nil || len(live["bindings"].([]any)) != 2 {
			t.Errorf("ours are %v, %v", live, err)
		}
		must(t, c.Delete(ctx, p))
		after := call(kind.ResourceManagerAPI, http.MethodPost, "projects/demo-project:getIamPolicy", nil, map[string]any{"options": map[string]any{"requestedPolicyVersion": 3}})
		if d := cmp.Diff(before["bindings"], after["bindings"], cmpopts.SortSlices(func(a, b any) bool { return fmt.Sprint(a) < fmt.Sprint(b) })); d != "" {
			t.Errorf("others' bindings (-before +after ours came and went):\n%s", d)
		}
	})

	t.Run("a bucket with older versions", func(t *testing.T) {
		call(kind.StorageAPI, http.MethodPost, "b", url.Values{"project": {"demo-project"}}, map[string]any{"name": "demo-project-files", "versioning": map[string]any{"enabled": true}})
		upload := *kind.StorageAPI
		upload.Base = "upload/" + upload.Base
		for range 3 {
			must(t, c.Do(ctx, gcp.Call{API: &upload, Method: http.MethodPost, Path: "b/demo-project-files/o", Query: url.Values{"uploadType": {"media"}, "name": {"a/b c"}}, Raw: []byte("x"), Type: "text/plain"}))
		}
		b := &resource.Resource{Kind: kind.Buckets.Kind, Name: "demo-project-files", Params: params()}
		must(t, c.Delete(ctx, b))
		if live, err := c.Read(ctx, b); err != nil || live != nil {
			t.Errorf("it is there: %v, %v", live, err)
		}
		must(t, c.Delete(ctx, b))
	})

	t.Run("a certificate that is signed by itself", func(t *testing.T) {
		r := kind.SSLCertificates.New("cert", params(), &kind.Certificate{Name: "cert", Description: resource.Description("demo"), Type: "SELF_MANAGED", Domains: []string{"dify.example.com"}})
		must(t, c.Create(ctx, r, r.Body))
		live, err := c.Read(ctx, r)
		must(t, err)
		text, _ := live["certificate"].(string)
		block, _ := pem.Decode([]byte(text))
		if block == nil || strings.Contains(fmt.Sprint(live), "PRIVATE KEY") {
			t.Fatal("no certificate, or one with its key")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || cert.VerifyHostname("dify.example.com") != nil || cert.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("the certificate is for %v, %v", cert.DNSNames, err)
		}
		must(t, c.Create(ctx, r, r.Body)) // once more, as after a lost reply: the new one is another, and not needed
		if again, err := c.Read(ctx, r); err != nil || again["certificate"] != text {
			t.Errorf("it was made again, %v", err)
		}
		foreign := kind.SSLCertificates.New("cert", params(), &kind.Certificate{Name: "cert", Description: resource.Description("other"), Type: "SELF_MANAGED", Domains: []string{"dify.example.com"}})
		if err := c.Create(ctx, foreign, foreign.Body); err == nil || !strings.Contains(err.Error(), "A name is taken") {
			t.Errorf("another stack took it: %v", err)
		}
	})

	t.Run("a bucket of another project", func(t *testing.T) {
		labels := resource.Labels("demo")
		call(kind.StorageAPI, http.MethodPost, "b", url.Values{"project": {"other-project"}}, map[string]any{"name": "squatted", "labels": labels})
		squatted := kind.Buckets.New("squatted", params(), &storage.Bucket{Name: "squatted", Labels: labels})
		ours := kind.Buckets.New("ours-files", params(), &storage.Bucket{Name: "ours-files", Labels: labels})
		must(t, c.Create(ctx, ours, ours.Body))
		must(t, c.Create(ctx, ours, ours.Body)) // once more, as after a lost reply
		if err := c.Create(ctx, squatted, squatted.Body); err == nil || !strings.Contains(err.Error(), "exists in another project") {
			t.Errorf("it was taken for ours: %v", err)
		}
		number, err := c.ProjectNumber(ctx)
		must(t, err)
		owner := resource.Owner{Stack: "demo", Project: "demo-project", Number: number}
		all, err := c.ReadAll(ctx, []*resource.Resource{ours, squatted}) // two at once, which the project's list would not show
		if err != nil || !owner.Marked(ours.Kind, all[ours.ID()]) || all[squatted.ID()] == nil || owner.Marked(squatted.Kind, all[squatted.ID()]) {
			t.Errorf("read: %v, %v", all, err)
		}
	})
}

// TestBucketOneMayNotRead checks that a bucket which Google does not show is told from one that lacks a permission by the
// project's list.
func TestBucketOneMayNotRead(t *testing.T) {
	items := `[]`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/storage/v1/b" && r.URL.Query().Get("project") == "demo-project" {
			fmt.Fprintf(w, `{"items":%s}`, items)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"error":{"code":403,"message":"no access","errors":[{"reason":"forbidden"}]}}`)
	}))
	defer server.Close()
	c := connect(t, server.URL, "")
	r := &resource.Resource{Kind: kind.Buckets.Kind, Name: "files", Params: params()}
	live, err := c.Read(t.Context(), r)
	if owner := (resource.Owner{Stack: "demo", Project: "demo-project", Number: "1"}); err != nil || live == nil || !owner.Elsewhere(r.Kind, live) {
		t.Errorf("another project's: %v, %v", live, err)
	}
	items = `[{"name":"files","projectNumber":"1"}]`
	if live, err := c.Read(t.Context(), r); !gcp.Is(err, 403) {
		t.Errorf("ours: %v, %v", live, err)
	}
}

// TestConnectionThatGoogleHolds takes down a connection whose producers are gone and which Google still holds, as it does
// for days after the last Cloud SQL instance. For any other reason the peering stays: cutting it would take the network
// from databases that are in use.
func TestConnectionThatGoogleHolds(t *testing.T) {
	const (
		held = `{"name":"operations/o","done":true,"error":{"code":9,"message":"Failed to delete connection; Producer services (e.g. CloudSQL, Cloud Memstore, etc.) are still using this connection."}}`
		done = `{"kind":"compute#operation","status":"DONE"}`
	)
	for _, tc := range []struct {
		name, reply string
		peering     string // the answer when it is removed; "" = it is not
		fails       bool
	}{
		{"held", held, done, false},
		{"held, and cut already", held, `{"error":{"code":400,"message":"There is no peering (servicenetworking-googleapis-com) for the network.","errors":[{"reason":"badRequest"}]}}`, false},
		{"held, and found to be cut", held, `{"kind":"compute#operation","status":"DONE","httpErrorStatusCode":400,"error":{"errors":[{"code":"BAD_REQUEST","message":"There is no peering (servicenetworking-googleapis-com) for the network."}]}}`, false},
		{"held, and not to be cut", held, `{"error":{"code":400,"message":"The network is not ours.","errors":[{"reason":"badRequest"}]}}`, true},
		{"another precondition", `{"name":"operations/o","done":true,"error":{"code":9,"message":"The network's peering is being changed."}}`, "", true},
		{"refused", `{"error":{"code":400,"status":"FAILED_PRECONDITION","message":"The consumer project is being deleted."}}`, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Method+" "+r.URL.Path)
				reply := tc.peering
				switch {
				case r.URL.Path == "/v1/projects/demo-project":
					reply = `{"projectNumber":"42"}`
				case strings.Contains(r.URL.Path, "/connections/"):
					reply = tc.reply
				}
				if strings.HasPrefix(reply, `{"error"`) {
					w.WriteHeader(http.StatusBadRequest)
				}
				fmt.Fprint(w, reply)
			}))
			defer server.Close()
			c := connect(t, server.URL, "")
			err := c.Delete(t.Context(), &resource.Resource{Kind: kind.Connections.Kind, Name: "demo-net", Params: params()})
			if (err != nil) != tc.fails {
				t.Errorf("Delete: %v", err)
			}
			want := []string{
				"GET /v1/projects/demo-project",
				"POST /v1/services/servicenetworking.googleapis.com/connections/servicenetworking-googleapis-com",
			}
			if tc.peering != "" {
				want = append(want, "POST /compute/v1/projects/demo-project/global/networks/demo-net/removePeering")
			}
			if d := cmp.Diff(want, asked); d != "" {
				t.Errorf("asked (-want +got):\n%s", d)
			}
		})
	}
}

// TestInstanceCalls changes Cloud SQL instances, and looks at what is sent: one request for each part that Cloud SQL does not take
// together with others, and never a disk smaller than the one it has.
func TestInstanceCalls(t *testing.T) {
	var sent []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPatch {
			raw, _ := io.ReadAll(q.Body)
			sent = append(sent, strings.TrimSpace(string(raw)))
		}
		fmt.Fprint(w, `{"name":"op","status":"DONE"}`)
	}))
	defer server.Close()
	c := connect(t, server.URL, "")
	for _, tc := range []struct {
		name, edition string
		changed       []resource.Path
		want          []string
	}{
		{"a tier", "ENTERPRISE", []resource.Path{"settings.tier"}, []string{`{"settings":{"days":7,"edition":"ENTERPRISE","tier":"t"}}`}},
		{"a start", "ENTERPRISE", []resource.Path{"settings.activationPolicy"}, []string{`{"settings":{"activationPolicy":"ALWAYS"}}`}},
		{"a start, a version and a tier", "ENTERPRISE", []resource.Path{"databaseVersion", "settings.activationPolicy", "settings.tier"}, []string{
			`{"settings":{"activationPolicy":"ALWAYS"}}`, `{"databaseVersion":"POSTGRES_17"}`, `{"settings":{"days":7,"edition":"ENTERPRISE","tier":"t"}}`,
		}},
		{"a disk", "ENTERPRISE", []resource.Path{"settings.dataDiskSizeGb"}, []string{`{"settings":{"dataDiskSizeGb":"20","days":7,"edition":"ENTERPRISE","tier":"t"}}`}},
		{"a version", "ENTERPRISE", []resource.Path{"databaseVersion"}, []string{`{"databaseVersion":"POSTGRES_17"}`}},
		{"a version and a tier", "ENTERPRISE", []resource.Path{"databaseVersion", "settings.tier"}, []string{`{"databaseVersion":"POSTGRES_17"}`, `{"settings":{"days":7,"edition":"ENTERPRISE","tier":"t"}}`}},
		{"a larger edition", "ENTERPRISE_PLUS", []resource.Path{"settings.edition", "settings.tier"}, []string{`{"settings":{"edition":"ENTERPRISE_PLUS","tier":"t"}}`}},
		{"a larger edition and more", "ENTERPRISE_PLUS", []resource.Path{"settings.days", "settings.edition", "settings.tier"}, []string{`{"settings":{"edition":"ENTERPRISE_PLUS","tier":"t"}}`, `{"settings":{"days":7}}`}},
		{"all, to a smaller edition", "ENTERPRISE", []resource.Path{"databaseVersion", "settings.days", "settings.edition", "settings.tier"}, []string{`{"databaseVersion":"POSTGRES_17"}`, `{"settings":{"days":7}}`, `{"settings":{"edition":"ENTERPRISE","tier":"t"}}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sent = nil
			body := map[string]any{"databaseVersion": "POSTGRES_17", "settings": map[string]any{"edition": tc.edition, "tier": "t", "days": 7, "dataDiskSizeGb": "20"}}
			if slices.Contains(tc.changed, "settings.activationPolicy") {
				body["settings"].(map[string]any)["activationPolicy"] = "ALWAYS"
			}
			r := &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params(), Body: body}
			must(t, c.Driver(r.Kind).Update(t.Context(), r, body, map[string]any{}, tc.changed))
			if d := cmp.Diff(tc.want, sent); d != "" {
				t.Errorf("sent (-want +got):\n%s", d)
			}
		})
	}
}

// TestGrownDisk checks that a disk which Cloud SQL enlarged is no difference, and one that is too small is.
func TestGrownDisk(t *testing.T) {
	size := "20"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"name":"demo-main","settings":{"dataDiskSizeGb":%q}}`, size)
	}))
	defer server.Close()
	c := connect(t, server.URL, "")
	r := &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params(), Body: map[string]any{"settings": map[string]any{"dataDiskSizeGb": "20"}}}
	for _, tc := range []struct{ live, shown string }{{"20", "20"}, {"35", "20"}, {"10", "10"}} {
		size = tc.live
		live, err := c.Read(t.Context(), r)
		must(t, err)
		if got, _ := resource.Lookup(live, "settings.dataDiskSizeGb"); got != tc.shown {
			t.Errorf("%s GB are shown as %v, want %s", tc.live, got, tc.shown)
		}
	}
}
