// Command generate builds difyup-agent as Google's instances run it and puts it where package carried embeds it. Run it from
// anywhere in the repository, before difyup is built; `make build` does:
//
//	go run ./internal/carried/generate
//
// The same sources and the same Go give the same bytes: no path, no version and no commit is in them, and no setting of the
// caller's that would change them is used.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/difyup/difyup/internal/carried"
)

const module = "github.com/difyup/difyup/"

func main() {
	log.SetFlags(0)
	out := flag.String("o", "", "the directory to write to (default internal/carried/agent)")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal(err)
	}
}

func run(dir string) error {
	if dir == "" {
		var err error
		if dir, err = embedded(); err != nil {
			return err
		}
	}
	program, err := agent("linux", "amd64")
	if err != nil {
		return err
	}
	if len(program) > carried.Limit {
		return fmt.Errorf("difyup-agent has %.1f MB, and may have %.0f: what was imported lately? (go version -m)", float64(len(program))/1e6, carried.Limit/1e6)
	}
	if err := write(dir, "linux/amd64", program); err != nil {
		return err
	}
	a, err := carried.Load(os.DirFS(dir))
	if err != nil {
		return err
	}
	if _, err := a.Read(); err != nil {
		return err
	}
	packed, err := os.Stat(filepath.Join(dir, carried.Program))
	if err != nil {
		return err
	}
	fmt.Printf("difyup-agent for %s: %.1f MB, %.1f MB in difyup, sha256 %s\n", a.Platform, float64(a.Size)/1e6, float64(packed.Size())/1e6, a.SHA256)
	return nil
}

// embedded gives the directory that is embedded in difyup.
func embedded() (string, error) {
	cmd := exec.Command("go", "list", "-f", "{{.Dir}}", module+"internal/carried")
	cmd.Stderr = os.Stderr
	dir, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "agent"), nil
}

// agent builds difyup-agent.
func agent(system, machine string) ([]byte, error) {
	// Experiments make other bytes. An empty variable means what `go env -w` set, so that they can only be refused.
	switch out, err := exec.Command("go", "env", "GOEXPERIMENT").Output(); {
	case err != nil:
		return nil, fmt.Errorf("ask for Go's settings: %w", err)
	case len(bytes.TrimSpace(out)) > 0:
		return nil, fmt.Errorf("GOEXPERIMENT is set (%s), and makes another agent, which would replace every instance of every stack: go env -u GOEXPERIMENT", bytes.TrimSpace(out))
	}
	dir, err := os.MkdirTemp("", "difyup-agent-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "difyup-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-pgo=off", "-ldflags=-s -w -buildid=", "-o", path, module+"cmd/difyup-agent")
	// GOFLAGS has the default in it: an empty one would leave what `go env -w` set.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+machine, "GOAMD64=v1", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOFIPS140=off")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build difyup-agent: %w", err)
	}
	return os.ReadFile(path)
}

// write puts an agent into dir. The description goes first and comes last: whatever this is cut off at, there is none or the
// right one.
func write(dir, platform string, program []byte) error {
	sum := sha256.Sum256(program)
	about, err := json.Marshal(carried.Agent{Platform: platform, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(program))})
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression) // neither name nor time in its header
	if err != nil {
		return err
	}
	if _, err := z.Write(program); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	aboutPath := filepath.Join(dir, carried.About)
	if err := os.Remove(aboutPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, carried.Program), packed.Bytes(), 0o644); err != nil {
		return err
	}
	next := aboutPath + ".next"
	if err := os.WriteFile(next, append(about, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, aboutPath)
}
