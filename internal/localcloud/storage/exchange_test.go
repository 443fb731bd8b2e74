package storage_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

var (
	generations = regexp.MustCompile(`\b\d{16}\b`)
	uploads     = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)
	times       = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z|\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT`)
	etags       = regexp.MustCompile(`AAZ[A-Za-z0-9+/]{19}==`)
	tokens      = regexp.MustCompile(`"nextPageToken": "[^"]*"`)
	boundaries  = regexp.MustCompile(`\b[0-9a-f]{60}\b`)
)

// steady replaces what differs from run to run by what it is: the first generation, the second, a time.
type steady struct{ generations, uploads []string }

func (s *steady) number(of *[]string, name, value string) string {
	i := slices.Index(*of, value)
	if i < 0 {
		*of = append(*of, value)
		i = len(*of) - 1
	}
	return fmt.Sprintf("<%s %d>", name, i+1)
}

func (s *steady) answer(text string) string {
	text = generations.ReplaceAllStringFunc(text, func(g string) string { return s.number(&s.generations, "generation", g) })
	text = uploads.ReplaceAllStringFunc(text, func(u string) string { return s.number(&s.uploads, "upload", u) })
	text = times.ReplaceAllString(text, "<time>")
	text = tokens.ReplaceAllString(text, `"nextPageToken": "<token>"`)
	text = boundaries.ReplaceAllString(text, "<boundary>")
	return etags.ReplaceAllString(text, "<etag>")
}

// request puts them back into a request.
func (s *steady) request(text string) string {
	for i, g := range s.generations {
		text = strings.ReplaceAll(text, fmt.Sprintf("<generation %d>", i+1), g)
	}
	for i, u := range s.uploads {
		text = strings.ReplaceAll(text, fmt.Sprintf("<upload %d>", i+1), u)
	}
	return text
}

// TestExchanges plays requests as clients send them, byte by byte, and compares the answers whole. A file of testdata
// holds what one client does: "> what" is a request, "< what" the answer to it.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no exchanges: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c := newCloud(t)
			var seen steady
			played := &txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				what, ok := strings.CutPrefix(f.Name, "> ")
				if !ok {
					continue
				}
				answer := seen.answer(c.exchange(seen.request(string(f.Data))))
				played.Files = append(played.Files, f, txtar.File{Name: "< " + what, Data: []byte(answer)})
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(played), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(played))); d != "" && !*update {
				t.Errorf("the answers have changed (go test -update rewrites them; -want +got):\n%s", d)
			}
		})
	}
}

// exchange sends a request that is written as text: a request line, headers, an empty line, the body.
func (c *cloud) exchange(text string) string {
	c.t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	head, body = strings.TrimSuffix(head, "\n"), strings.TrimSuffix(body, "\n")
	if strings.Contains(head, "multipart/") {
		body = strings.ReplaceAll(body, "\n", "\r\n")
	}
	raw := strings.ReplaceAll(head, "\n", "\r\n") + "\r\nAuthorization: Bearer " + token + "\r\n"
	switch {
	case strings.Contains(head, "Transfer-Encoding: chunked"):
		body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	case body != "" || !strings.HasPrefix(head, "GET") && !strings.HasPrefix(head, "HEAD"):
		raw += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw + "\r\n" + body)))
	if err != nil {
		c.t.Fatalf("%v: %s", err, text)
	}
	rec := httptest.NewRecorder()
	c.handler.ServeHTTP(rec, req.WithContext(c.t.Context()))
	var out bytes.Buffer
	fmt.Fprintf(&out, "%d %s\n", rec.Code, http.StatusText(rec.Code))
	var names []string
	for name := range rec.Header() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range rec.Header()[name] {
			fmt.Fprintf(&out, "%s: %s\n", name, value)
		}
	}
	answer, err := io.ReadAll(rec.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(answer) > 0 {
		fmt.Fprintf(&out, "\n%s\n", strings.TrimRight(strings.ReplaceAll(string(answer), "\r\n", "\n"), "\n"))
	}
	return out.String()
}
