package carried_test

import (
	"bytes"
	"debug/buildinfo"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	// What the agent is built of: so that go test does not take an old result for a changed one.
	_ "github.com/difyup/difyup/internal/agent"
	_ "github.com/difyup/difyup/internal/agent/standin"
	_ "github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/test/need"
)

// TestSameBytes builds the agent from two copies of the sources: one that is no repository, and one in another directory that
// is, with a commit and a tag of its own, another CLI, and a caller who wants stamps. If the bytes differed, each new difyup
// would replace every instance of every stack.
func TestSameBytes(t *testing.T) {
	need.Long(t, "builds the agent twice")
	plain := filepath.Join(t.TempDir(), "plain")
	copySources(t, plain)
	first := generate(t, plain)

	other := filepath.Join(t.TempDir(), "a", "longer", "path")
	copySources(t, other)
	version := filepath.Join(other, "internal", "cli", "version.go")
	source, err := os.ReadFile(version)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(version, append(source, "\nconst another = 1\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, other, "git", "init", "--quiet")
	run(t, other, "git", "add", "--all")
	run(t, other, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "another")
	run(t, other, "git", "tag", "v0.9.9")
	second := generate(t, other, "GOFLAGS=-buildvcs=true")

	generator := filepath.Join(t.TempDir(), "generate")
	run(t, plain, "go", "build", "-o", generator, "./internal/carried/generate")
	cmd := exec.CommandContext(t.Context(), generator, "-o", t.TempDir())
	cmd.Dir, cmd.Env = plain, append(os.Environ(), "GOEXPERIMENT=jsonv2")
	if said, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(said, []byte("GOEXPERIMENT is set (jsonv2)")) {
		t.Errorf("with an experiment of Go's: %v\n%s", err, said)
	}
	for name, content := range first {
		if !bytes.Equal(content, second[name]) {
			t.Errorf("%s differs: %d bytes of one copy, %d of the other", name, len(content), len(second[name]))
		}
	}
}

// generate runs the generator of a copy and gives the files it wrote. It checks the agent in them.
func generate(t *testing.T, root string, env ...string) map[string][]byte {
	t.Helper()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./internal/carried/generate", "-o", out)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, said)
	}
	t.Logf("%s", said)

	dir := os.DirFS(out)
	agent, err := carried.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	program, err := agent.Read()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if info.Main.Version != "(devel)" {
		t.Errorf("the agent has the version %s in it", info.Main.Version)
	}
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "vcs") {
			t.Errorf("the agent has %s=%s in it", s.Key, s.Value)
		}
	}
	if bytes.Contains(program, []byte(root)) {
		t.Errorf("the agent has the path of its sources in it: %s", root)
	}

	files := map[string][]byte{}
	for _, name := range []string{carried.About, carried.Program} {
		if files[name], err = fs.ReadFile(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// copySources copies what programs are built of: no tests, nothing generated that is not committed.
func copySources(t *testing.T, to string) {
	t.Helper()
	from := filepath.Join("..", "..")
	cp := func(path string) error {
		content, err := os.ReadFile(filepath.Join(from, path))
		if err != nil {
			return err
		}
		target := filepath.Join(to, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o644)
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := cp(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"cmd", "internal"} {
		err := fs.WalkDir(os.DirFS(from), dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || d.IsDir() && d.Name() != "testdata":
				return err
			case d.IsDir():
				return fs.SkipDir
			case strings.HasSuffix(path, "_test.go"), d.Name() == carried.About, d.Name() == carried.Program:
				return nil
			}
			return cp(filepath.FromSlash(path))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}
