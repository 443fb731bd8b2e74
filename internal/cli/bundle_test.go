package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/ops"
)

// TestSecretive takes out what looks like a secret, also where it stands in JSON, and leaves what only resembles one.
func TestSecretive(t *testing.T) {
	key := "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n+/=\n-----END RSA PRIVATE KEY-----"
	for text, want := range map[string]string{
		"Authorization: Bearer abcdef123456~+/=.":                    "Authorization: Bearer ***",
		"basic dXNlcjpwYXNz, next":                                   "basic ***, next",
		"token ya29.a0AfB_by-x.y end":                                "token *** end",
		"?passport=eyJhbGciOi.eyJzdWIi.c2ln&x=1":                     "?passport=***&x=1",
		"postgresql://dify:p%40ss@10.0.0.1/dify":                     "postgresql://***@10.0.0.1/dify",
		"redis://:hunter2@10.0.0.2:6379/1":                           "redis://***@10.0.0.2:6379/1",
		"key sk-proj_0123456789abcdef, app-ABCDEFGHIJKLMNOPQRSTUVWX": "key ***, ***",
		"x " + key + " y":                                            "x *** y",
		"cut -----BEGIN PRIVATE KEY-----\nMIIEpAIB":                  "cut ***",
		// The plugin daemon's lines have what lets one in at a plugin's address; Dify's have users' keys.
		`msg="HTTP request" method=POST path=/e/aBcD1234efgh/webhook?token=hunter2 status=200`:                                        `msg="HTTP request" method=POST path=/e/… status=200`,
		`{"msg":"HTTP request","path":"/e/aBcD1234efgh/","status":200}`:                                                               `{"msg":"HTTP request","path":"/e/…","status":200}`,
		`"GET /files/0b1c/file-preview?timestamp=1&nonce=2&sign=s1gn HTTP/1.1" 200`:                                                   `"GET /files/… HTTP/1.1" 200`,
		"POST https://dify.example.com/triggers/webhook/Wh00k, then http://api:5001/mcp/server/c0de/mcp":                              "POST https://dify.example.com/triggers/… then http://api:5001/mcp/…",
		`HTTP Request: GET https://generativelanguage.googleapis.com/v1beta/models?key=AIzaSyA0&alt=sse "HTTP/1.1 200 OK"`:            `HTTP Request: GET https://generativelanguage.googleapis.com/v1beta/models?… "HTTP/1.1 200 OK"`,
		"Request to URL https://api.example.com?key=AIzaSyA0 failed on attempt 1: timed out":                                          "Request to URL https://api.example.com?… failed on attempt 1: timed out",
		"(host='api.example.com', port=443): Max retries exceeded with url: /v1/x?appid=hunter2 (Caused by":                           "(host='api.example.com', port=443): Max retries exceeded with url: /v1/x?… (Caused by",
		`HTTP Request: POST https://api.telegram.org/bot123456789:AAH-x_y/sendMessage "HTTP/1.1 200 OK"`:                              `HTTP Request: POST https://api.telegram.org/bot…/sendMessage "HTTP/1.1 200 OK"`,
		"https://hooks.slack.com/services/T012ABCDE/B012ABCDE/s3cr3t: 200; with url: /services/T012ABCDE/B012ABCDE/s3cr3t (Caused by": "https://hooks.slack.com/… 200; with url: /services/… (Caused by",
		"https://discord.com/api/webhooks/123/t0k3n said 204, https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/c 200":       "https://discord.com/api/webhooks/… said 204, https://x.webhook.office.com/… 200",
		"https://open.feishu.cn/open-apis/bot/v2/hook/s3cr3t failed":                                                                  "https://open.feishu.cn/open-apis/bot/v2/hook/… failed",
		"/console/api/files/upload, /app/api/services/file_service.py and /v1/services/x: what is that? /e/ and /robots":              "/console/api/files/upload, /app/api/services/file_service.py and /v1/services/x: what is that? /e/ and /robots",
		"the bearer of it; app-of-mine; sk-1; https://dify.example.com:443/a@b; basic auth":                                           "the bearer of it; app-of-mine; sk-1; https://dify.example.com:443/a@b; basic auth",
	} {
		if got := harmlessText(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		raw, err := json.Marshal([]string{text, "\"next\""})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := json.Unmarshal([]byte(harmlessText(string(raw))), &got); err != nil || got[0] != want || got[1] != `"next"` {
			t.Errorf("%s: %q, %v", raw, got, err)
		}
	}
}

// TestLastLines has more lines than there is room for: the last ones are kept.
func TestLastLines(t *testing.T) {
	var lines []ops.LogLine
	for _, text := range []string{"first", "with ya29.token", strings.Repeat("x", 50)} {
		lines = append(lines, ops.LogLine{Instance: "demo-a", Container: "api", Text: text})
	}
	all, left := lastLines(lines, 1<<20)
	each := strings.SplitAfter(string(all), "\n")
	if left != 0 || len(each) != 4 || !strings.Contains(each[0], `"text":"first"`) || !strings.Contains(each[1], `"text":"with ***"`) {
		t.Fatalf("%d left out of %q", left, each)
	}
	for most, want := range map[int]int{len(all): 0, len(all) - 1: 1, len(each[2]): 2, len(each[2]) - 1: 3} {
		got, left := lastLines(lines, most)
		if left != want || string(got) != strings.Join(each[want:], "") {
			t.Errorf("of %d bytes: %d left out, %q", most, left, got)
		}
	}
}

// TestKeyOverEntries has a key whose lines are entries each, with others' between them, and one that does not end.
func TestKeyOverEntries(t *testing.T) {
	var lines []ops.LogLine
	var want []string
	for _, l := range []struct{ of, text, want string }{
		{"api", "-----END PRIVATE KEY-----", "-----END PRIVATE KEY-----"},
		{"api", "MIIE", "MIIE"},
		{"api", "x -----BEGIN RSA PRIVATE KEY-----", "x ***"},
		{"api", "MIIEpAIBAAKCAQEA+/=", "***"},
		{"worker", "done", "done"},
		{"api", "meanwhile: nothing", "meanwhile: nothing"},
		{"api", "  c2Vjb25k", "***"},
		{"api", "-----END RSA PRIVATE KEY-----", "***"},
		{"api", "done", "done"},
		{"worker", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "***"},
		{"worker", "done", "done"},
		{"worker", "-----BEGIN PRIVATE KEY-----\nMIIE", "***"},
		{"worker", "bGFzdA==-----END PRIVATE KEY-----, and more", "***, and more"},
		{"worker", "done", "done"},
	} {
		lines, want = append(lines, ops.LogLine{Instance: "demo-a", Container: l.of, Text: l.text}), append(want, l.want)
	}
	told := func() (all []string) {
		text, _ := lastLines(lines, 1<<20)
		for d := json.NewDecoder(bytes.NewReader(text)); ; {
			var l ops.LogLine
			if err := d.Decode(&l); err != nil {
				return all
			}
			all = append(all, l.Text)
		}
	}
	if d := cmp.Diff(want, told()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	lines = []ops.LogLine{{Text: "-----BEGIN PRIVATE KEY-----"}}
	for range 1000 {
		lines = append(lines, ops.LogLine{Text: "MIIE"})
	}
	if got := told(); got[100] != "***" || got[1000] != "MIIE" || lines[1].Text != "MIIE" {
		t.Errorf("of a key that does not end, its lines are %q and %q", got[100], got[1000])
	}
}

// TestBundleFile writes an archive for its owner alone, and over nothing that is there.
func TestBundleFile(t *testing.T) {
	b := &bundle{}
	b.add("a.txt", []byte("postgresql://u:p@h/d\n"))
	b.addJSON("b.json", map[string]int{"n": 1})
	b.fail("plan", errors.New("it\nfailed \x1b[2J ya29.token"))
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if err := b.write(file, "dir", time.Now()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if i, err := f.Stat(); err != nil || i.Mode() != 0o600 {
		t.Errorf("%v, %v", i.Mode(), err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(in)
		if err != nil || h.Mode != 0o600 {
			t.Errorf("%s: %o, %v", h.Name, h.Mode, err)
		}
		got[h.Name] = string(raw)
	}
	want := map[string]string{"dir/a.txt": "postgresql://***@h/d\n", "dir/b.json": "{\n  \"n\": 1\n}\n", "dir/errors.txt": `plan: it failed \x1b[2J ***` + "\n"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := b.write(file, "dir", time.Now()); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("written over: %v", err)
	}
	if err := b.write(filepath.Join(file, "no"), "dir", time.Now()); err == nil || !strings.Contains(err.Error(), "cannot be written") {
		t.Errorf("a place that is none: %v", err)
	}
}
