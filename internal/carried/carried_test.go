package carried_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/difyup/difyup/internal/carried"
)

func packed(t *testing.T, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func about(program []byte, size int) []byte {
	sum := sha256.Sum256(program)
	return fmt.Appendf(nil, `{"platform":"linux/amd64","sha256":%q,"size":%d}`, hex.EncodeToString(sum[:]), size)
}

func TestLoad(t *testing.T) {
	program := bytes.Repeat([]byte("program"), 1000)
	whole := packed(t, program)
	for _, tc := range []struct {
		name           string
		about, program []byte
		load, read     string // what the errors say; "" = none
	}{
		{name: "right", about: about(program, len(program)), program: whole},
		{name: "of another build", about: about([]byte("other"), len(program)), program: whole, read: "this difyup is damaged, or was not built by `make build`"},
		{name: "longer than described", about: about(program, len(program)-1), program: whole, read: "this difyup is damaged"},
		{name: "shorter than described", about: about(program, len(program)+1), program: whole, read: "this difyup is damaged"},
		{name: "cut off", about: about(program, len(program)), program: whole[:len(whole)-9], read: "unexpected EOF"},
		{name: "not compressed", about: about(program, len(program)), program: program, read: "invalid header"},
		{name: "no program", about: about(program, len(program)), read: "file does not exist"},
		{name: "not JSON", about: []byte("agent"), load: "description"},
		{name: "no size", about: about(program, 0), program: whole, load: "it makes no sense"},
		{name: "a size beyond the limit", about: about(program, carried.Limit+1), program: whole, load: "it makes no sense"},
		{name: "no checksum", about: []byte(`{"platform":"linux/amd64","sha256":"","size":7}`), program: whole, load: "it makes no sense"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := fstest.MapFS{carried.About: {Data: tc.about}}
			if tc.program != nil {
				dir[carried.Program] = &fstest.MapFile{Data: tc.program}
			}
			a, err := carried.Load(dir)
			if !says(err, tc.load) {
				t.Fatalf("Load: %v, want %q", err, tc.load)
			}
			if err != nil {
				return
			}
			got, err := a.Read()
			if !says(err, tc.read) {
				t.Fatalf("Read: %v, want %q", err, tc.read)
			}
			if err == nil && !bytes.Equal(got, program) {
				t.Error("another program came out than went in")
			}
			if err != nil && got != nil {
				t.Error("a program came out together with an error")
			}
		})
	}
	if a, err := carried.Load(fstest.MapFS{"README": {}}); a != nil || err != nil {
		t.Errorf("an empty place gives %v, %v, want nothing", a, err)
	}
}

func says(err error, want string) bool {
	if want == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), want)
}

// TestReadFile checks that paths are paths, and the name is the agent or an error.
func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := carried.ReadFile(path); string(got) != "content" || err != nil {
		t.Errorf("a file gives %q, %v", got, err)
	}
	inside, err := carried.Find()
	if err != nil {
		t.Fatal(err)
	}
	got, err := carried.ReadFile(carried.Name)
	switch {
	case inside == nil && !says(err, "carries none"):
		t.Errorf("with no agent inside: %d bytes, %v", len(got), err)
	case inside != nil && (err != nil || int64(len(got)) != inside.Size):
		t.Errorf("with an agent of %d bytes inside: %d bytes, %v", inside.Size, len(got), err)
	}
}
