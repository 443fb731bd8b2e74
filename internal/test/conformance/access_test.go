//go:build linux

package conformance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
)

// send sends a request with a header "Authorization", "" for none, and gives status, challenge and body.
func send(t *testing.T, info localcloud.Info, authorization, method, path, contentType, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, info.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(raw)
}

const batch = "--b\r\nContent-Type: application/http\r\nContent-ID: <1>\r\n\r\n%s\r\n--b--\r\n"

// TestUnauthenticated knocks at every kind of door without a token, with one that nobody issued, and with the right one
// where it does not count.
func TestUnauthenticated(t *testing.T) {
	info := cloud.Start(t)
	owner := "Bearer " + info.Token
	must := func(method, path, contentType, body string) *http.Response {
		t.Helper()
		resp, text := send(t, info, owner, method, path, contentType, body)
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
		}
		return resp
	}
	must("POST", "v1/projects/demo-project/services/compute.googleapis.com:enable", "application/json", "{}")
	must("POST", "storage/v1/b?project=demo-project", "application/json", `{"name":"access-files"}`)
	must("POST", "upload/storage/v1/b/access-files/o?uploadType=media&name=o", "text/plain", "contents")
	session := must("POST", "upload/storage/v1/b/access-files/o?uploadType=resumable&name=r", "application/json", "{}").Header.Get("Location")
	session = strings.TrimPrefix(session, info.URL)

	before := status(t, info)
	inner := "GET /compute/v1/projects/demo-project/global/networks HTTP/1.1\r\nAuthorization: " + owner + "\r\n\r\n"
	for _, r := range []struct{ method, path, contentType, body string }{
		{"GET", "", "", ""},
		{"GET", "compute/v1/nothing/like/this", "", ""},
		{"GET", "compute/v1/projects/demo-project/global/networks", "", ""},
		{"GET", "compute/v1/projects/demo-project/global/networks?access_token=" + info.Token, "", ""},
		{"GET", "compute/v1/projects/demo-project/global/networks?oauth_token=" + info.Token, "", ""},
		{"POST", "compute/v1/projects/demo-project/global/networks", "application/json", `{"name":"n"}`},
		{"POST", "compute/v1/projects/demo-project/global/networks", "application/x-www-form-urlencoded", "access_token=" + info.Token},
		{"POST", "batch/compute/v1", "multipart/mixed; boundary=b", fmt.Sprintf(batch, inner)},
		{"GET", "sql/v1beta4/projects/demo-project/instances", "", ""},
		{"GET", "v1/projects/demo-project/locations/-/instances", "", ""},
		{"GET", "storage/v1/b/access-files/o/o?alt=media", "", ""},
		{"GET", "download/storage/v1/b/access-files/o/o?alt=media", "", ""},
		{"DELETE", "storage/v1/b/access-files/o/o", "", ""},
		{"POST", "upload/storage/v1/b/access-files/o?uploadType=media&name=o", "text/plain", "others"},
		{"PUT", session, "text/plain", "others"},
		{"GET", "v1/projects/demo-project/secrets", "", ""},
		{"GET", "dns/v1/projects/demo-project/managedZones", "", ""},
		{"POST", "v1/projects/demo-project:setIamPolicy", "application/json", `{"policy":{}}`},
		{"GET", "local/v1/status", "", ""},
		{"GET", "local/v1/dump", "", ""},
		{"GET", "local/v1/faults", "", ""},
		{"POST", "local/v1/faults", "application/json", `{"surface":"api","rate":1,"faults":[{"what":"reset-before"}]}`},
		{"DELETE", "local/v1/faults", "", ""},
		{"POST", "local/v1/shutdown", "", ""},
	} {
		for authorization, challenge := range map[string]string{
			"":                         `Bearer realm="https://accounts.google.com/"`,
			"Basic b3duZXI6b3duZXI=":   `Bearer realm="https://accounts.google.com/"`,
			info.Token:                 `Bearer realm="https://accounts.google.com/"`,
			"Bearer":                   `Bearer realm="https://accounts.google.com/"`,
			"Bearer owner":             `Bearer realm="https://accounts.google.com/", error="invalid_token"`,
			"Bearer garbage":           `Bearer realm="https://accounts.google.com/", error="invalid_token"`,
			owner[:len(owner)-1]:       `Bearer realm="https://accounts.google.com/", error="invalid_token"`,
			owner + "x":                `Bearer realm="https://accounts.google.com/", error="invalid_token"`,
			"Bearer garbage, " + owner: `Bearer realm="https://accounts.google.com/", error="invalid_token"`,
		} {
			resp, text := send(t, info, authorization, r.method, r.path, r.contentType, r.body)
			var e struct {
				Error struct {
					Code   int
					Status string
				}
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil || resp.StatusCode != 401 || e.Error.Code != 401 || e.Error.Status != "UNAUTHENTICATED" {
				t.Errorf("%s %s with %q: %s %v\n%s", r.method, r.path, authorization, resp.Status, err, text)
			}
			if got := resp.Header.Get("WWW-Authenticate"); got != challenge {
				t.Errorf("%s %s with %q: the challenge is %s, want %s", r.method, r.path, authorization, got, challenge)
			}
			if strings.Contains(text, info.Token) {
				t.Errorf("%s %s: the answer shows the token", r.method, r.path)
			}
		}
	}
	if d := cmp.Diff(before, status(t, info)); d != "" {
		t.Errorf("the local cloud (-before +after):\n%s", d)
	}
	if resp, text := send(t, info, owner, "GET", "local/v1/faults", "", ""); text != "[]\n" {
		t.Errorf("the faults are %s %q", resp.Status, text)
	}
	if resp, text := send(t, info, owner, "GET", "storage/v1/b/access-files/o/o?alt=media", "", ""); text != "contents" {
		t.Errorf("the object is %s %q", resp.Status, text)
	}
	must("PUT", session, "text/plain", "mine")
	if resp, text := send(t, info, owner, "POST", "batch/compute/v1", "multipart/mixed; boundary=b", fmt.Sprintf(batch, strings.ReplaceAll(inner, info.Token, "garbage"))); !strings.Contains(text, "200 OK") {
		t.Errorf("the parts of the owner's batch are the owner's: %s %s", resp.Status, text)
	}
	if resp, _ := send(t, info, "bearer "+info.Token, "GET", "compute/v1/projects/demo-project/global/networks", "", ""); resp.StatusCode != 200 {
		t.Errorf("the name of a scheme has no case: %s", resp.Status)
	}
}

// status is what there is in the local cloud, and how much it was asked.
func status(t *testing.T, info localcloud.Info) map[string]any {
	t.Helper()
	resp, text := send(t, info, "Bearer "+info.Token, "GET", "local/v1/status", "", "")
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %v", resp.Status, err)
	}
	if strings.Contains(text, info.Token) {
		t.Error("the status shows the token")
	}
	return m
}

// TestHosts asks for other hosts than the one that is served, as a page does whose name leads here, and as other sites'
// pages do. Not even the owner is answered.
func TestHosts(t *testing.T) {
	info := cloud.Start(t)
	at := strings.TrimSuffix(strings.TrimPrefix(info.URL, "http://"), "/")
	_, port, _ := strings.Cut(at, ":")
	for _, tc := range []struct {
		host, site string
		want       int
	}{
		{at, "", 200}, {at, "same-origin", 200}, {at, "none", 200},
		{at, "cross-site", 403}, {at, "same-site", 403}, {at, "anything", 403},
		{"evil.example.com", "", 421}, {"evil.example.com:" + port, "same-origin", 421}, {"localhost:" + port, "", 421}, {"127.0.0.1:" + port, "", 421},
		{strings.TrimSuffix(at, ":"+port), "", 421}, {at + ".evil.example.com", "", 421}, {"storage.googleapis.com", "", 421},
	} {
		for _, path := range []string{"local/v1/status", "storage/v1/b?project=demo-project"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, info.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tc.host
			req.Header.Set("Authorization", "Bearer "+info.Token)
			if tc.site != "" {
				req.Header.Set("Sec-Fetch-Site", tc.site)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.want {
				t.Errorf("%+v %s: %s", tc, path, resp.Status)
			}
		}
	}
}
