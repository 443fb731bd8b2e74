// Command generate writes docs/config.md and docs/difyup.schema.json from the options in internal/config/spec.go: their
// tags, and their comments. Run it from anywhere in the repository:
//
//	go run ./internal/config/generate
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	root, err := repository()
	if err != nil {
		return err
	}
	files, err := generated()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(f.path)), f.data, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return nil
}

// file is one generated file. Its path is relative to the repository's root, with slashes.
type file struct {
	path string
	data []byte
}

func generated() ([]file, error) {
	said, err := comments()
	if err != nil {
		return nil, err
	}
	schema, err := said.schema()
	if err != nil {
		return nil, err
	}
	return []file{{"docs/config.md", said.markdown()}, {"docs/difyup.schema.json", schema}}, nil
}

// repository gives the directory with go.mod, at or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("find the repository: no go.mod here or above")
		}
		dir = up
	}
}
