package identity

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const email = "vm@demo.iam.gserviceaccount.com"

func endpoint(token func(context.Context) (Token, error)) *Endpoint {
	return &Endpoint{Instance: Instance{Project: "demo", Account: email, Universe: "googleapis.com"}, Token: token, Log: slog.New(slog.DiscardHandler)}
}

func good(context.Context) (Token, error) {
	return Token{"narrowed", time.Now().Add(400*time.Second + 500*time.Millisecond)}, nil
}

// TestEndpoint asks what Google's clients ask, and what a caller must not learn or have.
func TestEndpoint(t *testing.T) {
	const v1 = "/computeMetadata/v1/"
	info := `{"aliases":["default"],"email":"` + email + `","scopes":["https://www.googleapis.com/auth/cloud-platform"]}`
	token := `{"access_token":"narrowed","expires_in":400,"token_type":"Bearer"}`
	for _, tc := range []struct {
		method, path, header string
		code                 int
		want, kind           string
	}{
		{"GET", "/", "-", 200, "computeMetadata/", ""}, // by which clients know that they are on Google; some send no header
		{"GET", "/", "", 200, "computeMetadata/", ""},
		{"HEAD", "/", "", 200, "computeMetadata/", ""},
		{"GET", v1 + "project/project-id", "", 200, "demo", ""},
		{"GET", v1 + "universe/universe-domain", "", 200, "googleapis.com", ""},
		{"GET", v1 + "instance/service-accounts/default/?recursive=true", "", 200, info, "application/json"},
		{"GET", v1 + "instance/service-accounts/default?recursive=true", "", 200, info, "application/json"},
		{"GET", v1 + "instance/service-accounts/" + email + "/?recursive=true", "", 200, info, "application/json"},
		{"GET", v1 + "instance/service-accounts/default/", "", 200, "aliases\nemail\nscopes\ntoken", ""},
		{"GET", v1 + "instance/service-accounts/default/email", "", 200, email, ""},
		{"GET", v1 + "instance/service-accounts/default/scopes", "", 200, "https://www.googleapis.com/auth/cloud-platform", ""},
		{"GET", v1 + "instance/service-accounts/default/token", "", 200, token, "application/json"},
		{"GET", v1 + "instance/service-accounts/" + email + "/token?scopes=https://www.googleapis.com/auth/devstorage.read_write", "", 200, token, "application/json"},

		{"GET", v1 + "project/project-id", "-", 403, "Missing Metadata-Flavor:Google header.", ""},
		{"GET", v1 + "instance/service-accounts/default/token", "-", 403, "Missing Metadata-Flavor:Google header.", ""},
		{"GET", v1 + "instance/service-accounts/default/token", "Metadata-Flavor: google", 403, "Missing Metadata-Flavor:Google header.", ""},
		{"GET", v1 + "instance/service-accounts/default/token", "X-Forwarded-For: 10.0.0.1", 403, "X-Forwarded-For", ""},
		{"GET", v1 + "instance/service-accounts/default/token", "X-Forwarded-For: ", 403, "X-Forwarded-For", ""},
		{"GET", "/", "X-Forwarded-For: 10.0.0.1", 403, "X-Forwarded-For", ""},
		{"POST", v1 + "instance/service-accounts/default/token", "", 405, "Only GET", ""},
		{"PUT", v1 + "instance/guest-attributes/difyup/status", "", 405, "Only GET", ""},

		{"GET", v1, "", 404, "Not found", ""},
		{"GET", v1 + "?recursive=true", "", 404, "Not found", ""},
		{"GET", v1 + "instance/?recursive=true", "", 404, "Not found", ""},
		{"GET", v1 + "instance/attributes/difyup-config", "", 404, "Not found", ""},
		{"GET", v1 + "instance/attributes/user-data", "", 404, "Not found", ""},
		{"GET", v1 + "instance/guest-attributes/", "", 404, "Not found", ""},
		{"GET", v1 + "instance/service-accounts/", "", 404, "Not found", ""},
		{"GET", v1 + "instance/service-accounts/default/identity?audience=x", "", 404, "Not found", ""},
		{"GET", v1 + "instance/service-accounts/other@demo.iam.gserviceaccount.com/token", "", 404, "Not found", ""},
		{"GET", "/computeMetadata/v1beta1/instance/service-accounts/default/token", "", 404, "Not found", ""},
		{"GET", "/0.1/meta-data/service-accounts/default/acquire", "", 404, "Not found", ""},
	} {
		req := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, nil)
		req.Header.Set("Metadata-Flavor", "Google")
		switch name, value, given := strings.Cut(tc.header, ": "); {
		case given:
			req.Header[name] = []string{value}
		case tc.header == "-":
			req.Header.Del("Metadata-Flavor")
		}
		rec := httptest.NewRecorder()
		endpoint(good).ServeHTTP(rec, req)
		if got := strings.TrimSpace(rec.Body.String()); rec.Code != tc.code || (got != tc.want && (tc.code == 200 || !strings.Contains(got, tc.want))) {
			t.Errorf("%s %s %s: %d %q, want %d %q", tc.method, tc.path, tc.header, rec.Code, got, tc.code, tc.want)
		}
		if rec.Header().Get("Metadata-Flavor") != "Google" { // or clients do not believe that it is Google's
			t.Errorf("%s %s: no Metadata-Flavor", tc.method, tc.path)
		}
		if tc.kind != "" && rec.Header().Get("Content-Type") != tc.kind {
			t.Errorf("%s %s: %s", tc.method, tc.path, rec.Header().Get("Content-Type"))
		}
		if tc.code != 200 && strings.Contains(rec.Body.String(), "narrowed") {
			t.Errorf("%s %s %s gives a token", tc.method, tc.path, tc.header)
		}
	}
}

// TestNoToken: one who gets none learns who it is all the same, and one whose token cannot be had now is to ask again.
func TestNoToken(t *testing.T) {
	ask := func(e *Endpoint, path string) (int, string) {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/computeMetadata/v1/"+path, nil)
		req.Header.Set("Metadata-Flavor", "Google")
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		return rec.Code, strings.TrimSpace(rec.Body.String())
	}
	none := endpoint(nil)
	if code, text := ask(none, "instance/service-accounts/default/token"); code != 404 {
		t.Errorf("a token: %d %s", code, text)
	}
	if code, text := ask(none, "instance/service-accounts/default/"); code != 200 || text != "aliases\nemail\nscopes" {
		t.Errorf("what there is: %d %s", code, text)
	}
	if code, text := ask(none, "project/project-id"); code != 200 || text != "demo" {
		t.Errorf("the project: %d %s", code, text)
	}
	failing := endpoint(func(context.Context) (Token, error) { return Token{}, errors.New("token-1 is refused") })
	if code, text := ask(failing, "instance/service-accounts/default/token"); code != 503 || strings.Contains(text, "token-1") {
		t.Errorf("without the service: %d %s", code, text)
	}
}

// TestServe: whom the listener does not know is not answered, too many are not, and the end is prompt.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	stranger := make(chan struct{}, 1)
	stranger <- struct{}{}
	know := func(net.Conn) error {
		select {
		case <-stranger:
			return errors.New("it is another container's")
		default:
			return nil
		}
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, know, endpoint(good)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func() error {
		resp, err := client.Get("http://" + l.Addr().String() + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if get() == nil {
		t.Error("a stranger is answered")
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	var open []net.Conn
	for range mostConnections {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if get() == nil {
		t.Error("one more than may be is answered")
	}
	for _, c := range open {
		c.Close()
	}
	for get() != nil { // until it has seen that they are closed
		if t.Context().Err() != nil {
			t.Fatal("those that are gone keep others out")
		}
	}
	end()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
