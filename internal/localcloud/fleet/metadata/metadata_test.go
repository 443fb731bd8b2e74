package metadata_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/metadata"
)

func serve(t *testing.T, value *atomic.Value, uid int) *metadata.Server {
	t.Helper()
	s, err := metadata.Serve(netip.MustParseAddr("127.0.0.1"), metadata.Options{
		Describe: func() metadata.Document {
			return metadata.Document{ProjectID: "p", ProjectNumber: "123456789012", ProjectAttributes: map[string]string{"difyup-api-endpoint": "http://127.0.0.1:1/"},
				ID: "42", Name: "vm-a1", Zone: "z-a", MachineType: "e2-standard-4", Address: netip.MustParseAddr("127.0.0.9"), Network: "net",
				Tags: []string{"web"}, Attributes: map[string]string{"difyup-stack": value.Load().(string), "enable-guest-attributes": "TRUE"},
				Accounts: []metadata.Account{{Email: "vm@p.iam.gserviceaccount.com", Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}}}}
		},
		Token: func(email string) (string, time.Duration, error) { return "ya29." + email, time.Hour, nil },
		UID:   uid,
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ask(ctx context.Context, t *testing.T, s *metadata.Server, method, path, body string, header http.Header) (string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status[:3] + " " + string(data), resp.Header
}

func TestAnswers(t *testing.T) {
	var v atomic.Value
	v.Store("demo")
	s := serve(t, &v, os.Geteuid())
	flavor := http.Header{"Metadata-Flavor": {"Google"}}
	const m = "/computeMetadata/v1/"
	for _, tc := range []struct {
		name, method, path, body string
		header                   http.Header
		want                     string
	}{
		{"no flavor", "GET", m + "project/project-id", "", nil, "403 Missing Metadata-Flavor:Google header.\n"},
		{"forwarded", "GET", m + "project/project-id", "", http.Header{"Metadata-Flavor": {"Google"}, "X-Forwarded-For": {"1.2.3.4"}}, "403 Requests with an X-Forwarded-For header are refused.\n"},
		{"detection needs no flavor", "GET", "/", "", nil, "200 computeMetadata/\n"},
		{"project", "GET", m + "project/project-id", "", flavor, "200 p"},
		{"number", "GET", m + "project/numeric-project-id", "", flavor, "200 123456789012"},
		{"endpoint", "GET", m + "project/attributes/difyup-api-endpoint", "", flavor, "200 http://127.0.0.1:1/"},
		{"id", "GET", m + "instance/id", "", flavor, "200 42"},
		{"hostname", "GET", m + "instance/hostname", "", flavor, "200 vm-a1.z-a.c.p.internal"},
		{"zone", "GET", m + "instance/zone", "", flavor, "200 projects/123456789012/zones/z-a"},
		{"ip", "GET", m + "instance/network-interfaces/0/ip", "", flavor, "200 127.0.0.9"},
		{"tags", "GET", m + "instance/tags", "", flavor, `200 ["web"]`},
		{"preempted", "GET", m + "instance/preempted", "", flavor, "200 FALSE"},
		{"attribute", "GET", m + "instance/attributes/difyup-stack", "", flavor, "200 demo"},
		{"attribute as json", "GET", m + "instance/attributes/difyup-stack?alt=json", "", flavor, `200 "demo"`},
		{"attributes", "GET", m + "instance/attributes/", "", flavor, "200 difyup-stack\nenable-guest-attributes\n"},
		{"attributes, all", "GET", m + "instance/attributes/?recursive=true", "", flavor, `200 {"difyup-stack":"demo","enable-guest-attributes":"TRUE"}`},
		{"attributes, as text", "GET", m + "instance/attributes/?recursive=true&alt=text", "", flavor, "200 difyup-stack demo\nenable-guest-attributes TRUE\n"},
		{"missing", "GET", m + "instance/attributes/none", "", flavor, "404 Not found: /instance/attributes/none\n"},
		{"email", "GET", m + "instance/service-accounts/default/email", "", flavor, "200 vm@p.iam.gserviceaccount.com"},
		{"scopes", "GET", m + "instance/service-accounts/default/scopes", "", flavor, "200 https://www.googleapis.com/auth/cloud-platform\n"},
		{"token", "GET", m + "instance/service-accounts/vm@p.iam.gserviceaccount.com/token", "", flavor, `200 {"access_token":"ya29.vm@p.iam.gserviceaccount.com","expires_in":3600,"token_type":"Bearer"}`},
		{"account, without its token", "GET", m + "instance/service-accounts/default/?recursive=true", "", flavor, `200 {"aliases":["default"],"email":"vm@p.iam.gserviceaccount.com","scopes":["https://www.googleapis.com/auth/cloud-platform"]}`},
		{"accounts", "GET", m + "instance/service-accounts/", "", flavor, "200 default/\nvm@p.iam.gserviceaccount.com/\n"},
		{"universe", "GET", m + "universe/universe-domain", "", flavor, "200 googleapis.com"},
		{"read only", "PUT", m + "instance/name", "x", flavor, "405 Only GET is allowed here.\n"},
		{"guest attribute", "PUT", m + "instance/guest-attributes/boot/phase", "ready", flavor, "200 "},
		{"guest attribute back", "GET", m + "instance/guest-attributes/boot/phase", "", flavor, "200 ready"},
		{"guest namespaces", "GET", m + "instance/guest-attributes/", "", flavor, "200 boot\n"},
	} {
		got, h := ask(t.Context(), t, s, tc.method, tc.path, tc.body, tc.header)
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
		if h.Get("Metadata-Flavor") != "Google" {
			t.Errorf("%s: the flavor is not in the answer", tc.name)
		}
	}
	got, h := ask(t.Context(), t, s, "GET", m+"instance/attributes", "", flavor)
	if h.Get("Location") != m+"instance/attributes/" {
		t.Errorf("a directory without slash: %q to %q", got, h.Get("Location"))
	}
	if d := cmp.Diff(map[string]map[string]string{"boot": {"phase": "ready"}}, s.GuestAttributes()); d != "" {
		t.Errorf("guest attributes (-want +got):\n%s", d)
	}
}

func TestWaitForChange(t *testing.T) {
	var v atomic.Value
	v.Store("one")
	s := serve(t, &v, os.Geteuid())
	flavor := http.Header{"Metadata-Flavor": {"Google"}}
	const path = "/computeMetadata/v1/instance/attributes/difyup-stack?wait_for_change=true"
	_, h := ask(t.Context(), t, s, "GET", path+"&timeout_sec=0", "", flavor)
	done := make(chan string)
	go func() {
		got, _ := ask(t.Context(), t, s, "GET", path+"&last_etag="+h.Get("ETag"), "", flavor)
		done <- got
	}()
	s.Changed() // of something else
	v.Store("two")
	s.Changed()
	if got := <-done; got != "200 two" {
		t.Errorf("after the change: %q", got)
	}
	if got, _ := ask(t.Context(), t, s, "GET", path+"&last_etag=0", "", flavor); got != "200 two" {
		t.Errorf("with an older etag: %q", got)
	}
}
