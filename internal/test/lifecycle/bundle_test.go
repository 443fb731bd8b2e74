//go:build linux

package lifecycle

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// bundled unpacks a bundle into ARCHIVE.d, and checks that it is its owner's alone, holds these files and no others, and none of the
// stack's secrets, nor the owner's token, nor a user's in $TOKEN, however they are written: bundled ARCHIVE FILE...
func bundled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: bundled ARCHIVE FILE...")
	}
	file := ts.MkAbs(args[0])
	about, err := os.Stat(file)
	ts.Check(err)
	if about.Mode() != 0o600 {
		ts.Fatalf("the bundle's mode is %v", about.Mode())
	}
	i := info(ts)
	secrets := secretsOf(ts, i, "demo-project")
	if len(secrets) < 8 || len(i.Token) < 16 {
		ts.Fatalf("there are %d secrets and a token of %d characters to look for", len(secrets), len(i.Token))
	}
	secrets["the owner's token"] = i.Token
	if users := ts.Getenv("TOKEN"); users != "" {
		secrets["a user's token"] = users
	}
	f, err := os.Open(file)
	ts.Check(err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	ts.Check(err)
	ts.Check(os.MkdirAll(file+".d", 0o700))
	var names []string
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		raw, err := io.ReadAll(in)
		ts.Check(err)
		if len(raw) == 0 && !strings.HasSuffix(h.Name, ".jsonl") || path.Dir(h.Name) == "." {
			ts.Fatalf("%s has %d bytes", h.Name, len(raw))
		}
		for name, value := range secrets {
			for _, form := range written(value) {
				if strings.Contains(string(raw), form) {
					ts.Fatalf("%s holds %s", h.Name, name)
				}
			}
		}
		names = append(names, path.Base(h.Name))
		ts.Check(os.WriteFile(filepath.Join(file+".d", path.Base(h.Name)), raw, 0o600))
	}
	slices.Sort(names)
	if !slices.Equal(names, args[1:]) {
		ts.Fatalf("the bundle has %q", names)
	}
}

// written gives how a value may be written: as it is, in base64, in URLs and in JSON. What base64 makes of it among other bytes depends on
// where it begins, so that there are three.
func written(value string) []string {
	quoted, _ := json.Marshal(value) // a string
	forms := []string{value, url.QueryEscape(value), url.PathEscape(value), strings.Trim(string(quoted), `"`)}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			// Of what comes before, and after, some bits are in the characters at the ends.
			text := e.EncodeToString([]byte(strings.Repeat("x", shift) + value))
			whole := (shift + len(value)) / 3 * 4
			forms = append(forms, text[(shift+2)/3*4:whole])
		}
	}
	return forms
}

// TestWritten finds a value in texts that hold it in one of the ways that are looked for, and not in its neighbour's.
func TestWritten(t *testing.T) {
	const value = `Zx9+/"&q1W2e3R4t5Y6` // which each way writes differently
	found := func(text string) bool {
		return slices.ContainsFunc(written(value), func(form string) bool { return strings.Contains(text, form) })
	}
	for before := range 6 {
		for after := range 6 {
			whole := strings.Repeat("{", before) + value + strings.Repeat("}", after)
			quoted, err := json.Marshal(whole)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{
				whole, url.QueryEscape(whole), url.PathEscape(whole), string(quoted), base64.StdEncoding.EncodeToString([]byte(whole)), base64.RawURLEncoding.EncodeToString([]byte(whole)),
			} {
				if !found(text) {
					t.Errorf("it is not found in %s", text)
				}
			}
			if other := strings.Replace(whole, "q1", "q2", 1); found(base64.StdEncoding.EncodeToString([]byte(other))) {
				t.Errorf("it is found in %s", other)
			}
		}
	}
}
