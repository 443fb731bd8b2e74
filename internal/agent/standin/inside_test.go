package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTokens(t *testing.T) {
	one, other := signer("one"), signer("other")
	want := claims{User: "u", Subject: "s", Expires: time.Now().Add(time.Hour).Unix()}
	token, err := one.issue(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := one.verify(token); got != want || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	old, err := one.issue(claims{User: "u", Expires: time.Now().Add(-time.Second).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(token, ".")
	for name, tc := range map[string]struct {
		by    signer
		token string
		want  error
	}{
		"of another key": {other, token, errSignature},
		"expired":        {one, old, errExpired},
		"without a sum":  {one, token[:strings.LastIndexByte(token, '.')], errSignature},
		"another body":   {one, head + "." + encode([]byte(`{"user_id":"x","exp":9999999999}`)) + token[strings.LastIndexByte(token, '.'):], errSignature},
		"empty":          {one, "", errSignature},
	} {
		if _, err := tc.by.verify(tc.token); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// TestVault encrypts for one tenant and decrypts with its key, another one's, and none.
func TestVault(t *testing.T) {
	objects := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/files/o/")
		switch {
		case strings.HasPrefix(r.URL.Path, "/computeMetadata/"):
			fmt.Fprint(w, `{"access_token":"t"}`)
		case r.Method == http.MethodPost:
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			objects[r.URL.Query().Get("name")] = string(raw)
		case r.URL.Path == "/storage/v1/b/files":
		case objects[name] == "":
			http.NotFound(w, r)
		default:
			fmt.Fprint(w, objects[name])
		}
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	b := newBucket("files", func(name string) string {
		return map[string]string{"GCE_METADATA_HOST": host, "STORAGE_EMULATOR_HOST": host}[name]
	}, http.DefaultClient)
	ctx := context.Background()
	public, err := b.newKey(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.newKey(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("longer than a key of RSA could encrypt ", 20)
	sealed, err := encrypt(public, text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.decrypt(ctx, "one", sealed); got != text || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for tenant, want := range map[string]string{"two": "another one", "three": "is not in the bucket files"} {
		if got, err := b.decrypt(ctx, tenant, sealed); got != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %q", tenant, got, err, want)
		}
	}
}

func TestWords(t *testing.T) {
	text := "A first line.\n\n  The harbour's lighthouse, the harbour.\n"
	if d := cmp.Diff([]string{"A first line.", "The harbour's lighthouse, the harbour."}, split(text)); d != "" {
		t.Errorf("segments (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"lighthouse", "harbour", "the"}, keywords(split(text)[1])); d != "" {
		t.Errorf("keywords (-want +got):\n%s", d)
	}
	near := func(a, b string) (product float32) {
		x, y := embed(a), embed(b)
		for i := range x {
			product += x[i] * y[i]
		}
		return product
	}
	if same, words, none := near("Ships at night", "ships at NIGHT!"), near("ships at night", "ships by day"), near("ships at night", "warm bread"); same < 0.999 || words <= none || words >= same {
		t.Errorf("the same words are %v near, some %v, none %v", same, words, none)
	}
	if v := embed(""); v[0] != 1 {
		t.Error("nothing has no direction")
	}
}
