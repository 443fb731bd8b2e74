//go:build linux

package plane

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// private lays out a PostgreSQL of our own below dir: copies of the programs, which find their other files relative to
// themselves, links to those files, and a control file of pgvector that says "trusted". On Cloud SQL, users who are no
// superusers may create that extension; as packaged, only superusers may. It returns the directory of the programs.
func private(bin, dir string) (string, error) {
	share, ok := shareOf(bin)
	if !ok {
		return "", fmt.Errorf("%s has no pgvector", bin)
	}
	root := ancestor(bin, share)
	target := func(path string) string { return filepath.Join(dir, strings.TrimPrefix(path, root)) }
	newBin, extensions := target(bin), filepath.Join(share, "extension")
	if err := errors.Join(os.Mkdir(dir, 0o700), own(dir)); err != nil { // what is in it others can read
		return "", err
	}
	for _, d := range []string{newBin, target(extensions)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	for _, program := range []string{"postgres", "initdb"} {
		if err := copyProgram(filepath.Join(bin, program), filepath.Join(newBin, program)); err != nil {
			return "", err
		}
	}
	lib := filepath.Join(filepath.Dir(bin), "lib")
	if err := os.Symlink(lib, target(lib)); err != nil {
		return "", err
	}
	if err := link(share, target(share), "extension"); err != nil {
		return "", err
	}
	if err := link(extensions, target(extensions), "vector.control"); err != nil {
		return "", err
	}
	control, err := os.ReadFile(filepath.Join(extensions, "vector.control"))
	if err != nil {
		return "", err
	}
	return newBin, os.WriteFile(filepath.Join(target(extensions), "vector.control"), append(control, "\ntrusted = true\n"...), 0o644)
}

// link makes links to all entries of a directory but one.
func link(from, to, but string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == but {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// ancestor gives the longest directory that both paths are in.
func ancestor(a, b string) string {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	return strings.Join(x[:n], "/")
}
