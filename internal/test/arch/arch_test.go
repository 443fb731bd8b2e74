package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/difyup/difyup/"

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps=false", "-json=ImportPath,Dir,GoFiles,Imports,Deps", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within says whether path is the package, or below it. "google.golang.org/api" covers its subpackages too.
func within(path, of string) bool { return path == of || strings.HasPrefix(path, of+"/") }

// bans forbid packages from depending on others, directly or through something else.
var bans = []struct{ from, on, why string }{
	{"internal/localcloud", "internal/kind", "a shared table would only prove that it equals itself"},
	{"internal/localcloud", "internal/resource", "the local cloud knows Google, not the engine"},
	{"internal/localcloud", "internal/gcp", "the local cloud is proven by clients, it must not be one"},
	{"internal/localcloud", "internal/plan", "the local cloud knows Google, not the engine"},
	{"internal/localcloud", "internal/apply", "the local cloud knows Google, not the engine"},
	{"internal/localcloud", "internal/topology", "the local cloud serves any client, not one architecture"},
	{"internal/localcloud", "internal/config", "the local cloud serves any client, not one architecture"},
	{"internal/localcloud", "google.golang.org/api", "bodies are JSON there, checked against the discovery documents; the generated code costs a minute to compile"},
	{"internal/kind", "internal/localcloud", "a shared table would only prove that it equals itself"},
	{"internal/gcp", "internal/localcloud", "the client must not know whom it talks to"},
	{"internal/plan", "internal/gcp", "planning decides; reading is behind an interface"},
	{"internal/resource", "net/http", "the vocabulary is pure"},
	{"internal/diff", "net/http", "comparing is pure"},
	{"internal/plan", "net/http", "planning is pure"},
	{"internal/dify", "internal/resource", "what we know of Dify has nothing of Google"},
	{"internal/dify", "google.golang.org/api", "what we know of Dify has nothing of Google"},
	{"internal/agent", "google.golang.org/api", "the agent is a small binary"},
	{"internal/agent", "internal/gcp", "the agent is a small binary"},
	{"internal/agent", "internal/localcloud", "the agent must not know that it is in a rehearsal"},
	{"internal/smoke", "internal/agent", "smoke sees Dify from outside"},
	{"internal/smoke", "internal/localcloud", "smoke sees Dify from outside"},
	{"internal/smoke", "internal/gcp", "smoke works for any Dify, wherever it runs"},
	{"internal/smoke", "internal/kind", "smoke works for any Dify, wherever it runs"},
	{"cmd/difyup-agent", "github.com/spf13/cobra", "the agent is a small binary"},
	{"cmd/difyup-agent", "internal/cli", "a change of difyup alone must not change the agent: a new agent replaces every instance"},
	{"cmd/difyup-agent", "internal/ops", "a change of difyup alone must not change the agent: a new agent replaces every instance"},
	{"cmd/difyup-agent", "internal/topology", "a change of difyup alone must not change the agent: a new agent replaces every instance"},
	{"cmd/difyup-agent", "internal/smoke", "a change of difyup alone must not change the agent: a new agent replaces every instance"},
	{"cmd/difyup-agent", "internal/carried", "the agent would carry itself"},
	{"internal/carried", "net/http", "it is read, and nothing else"},
	{"internal/fault", module + "internal", "fault is a leaf"},
	{"internal/event", module + "internal", "event is a leaf"},
	{"internal/sockets", module + "internal", "sockets is a leaf, which the agent and the local cloud share"},
}

// only lists packages that alone may import something directly.
var only = []struct {
	what    string
	by      []string
	because string
}{
	{"github.com/spf13/cobra", []string{"internal/cli"}, "run functions take typed options, so that the CLI library can change"},
	{"github.com/spf13/pflag", []string{"internal/cli"}, "as cobra, whose flags they are"},
	{"google.golang.org/api", []string{"internal/kind", "internal/topology"}, "bodies are JSON elsewhere; the import is dear to compile"},
	{module + "internal/agent/standin", []string{"cmd/difyup-agent", "internal/test"}, "a runtime is an interface; who runs Dify is told apart in one place"},
	{module + "internal/agent/runtime/compose", []string{"cmd/difyup-agent", "internal/test"}, "a runtime is an interface; who runs Dify is told apart in one place"},
	{"github.com/google/go-containerregistry", []string{"internal/registry"}, "what talks to registries is one package"},
	{module + "internal/registry", []string{"internal/cli"}, "the engine is given a function"},
	{"golang.org/x/term", []string{"internal/cli"}, "colour and width belong to the views"},
}

func TestImports(t *testing.T) {
	all := packages(t)
	seen := map[string]bool{}
	for _, p := range all {
		for _, b := range bans {
			if !within(p.ImportPath, module+b.from) {
				continue
			}
			seen[b.from] = true
			if i := slices.IndexFunc(p.Deps, func(d string) bool { return within(d, b.on) || within(d, module+b.on) }); i >= 0 {
				t.Errorf("%s depends on %s: forbidden, %s", p.ImportPath, p.Deps[i], b.why)
			}
		}
		for _, o := range only {
			if !slices.ContainsFunc(p.Imports, func(i string) bool { return within(i, o.what) }) {
				continue
			}
			if !slices.ContainsFunc(o.by, func(by string) bool { return within(p.ImportPath, module+by) }) {
				t.Errorf("%s imports %s: only %v may, %s", p.ImportPath, o.what, o.by, o.because)
			}
		}
	}
	for _, b := range bans {
		if !seen[b.from] {
			t.Errorf("the ban on %s covers no package: was it renamed?", b.from)
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 && !strings.Contains(p.ImportPath, "/internal/test/") {
			continue
		}
		var docs []string
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs = append(docs, name)
			}
		}
		want := "doc.go"
		if strings.Contains(p.ImportPath, "/cmd/") || strings.HasSuffix(p.ImportPath, "/generate") {
			want = "main.go"
		}
		if !slices.Equal(docs, []string{want}) {
			t.Errorf("%s: the package comment stands in %v, want it in %s and nowhere else", p.ImportPath, docs, want)
		}
	}
}

// Only main may end the process: anywhere else, deferred work would be lost.
func TestNobodyExits(t *testing.T) {
	forbidden := map[string][]string{"os": {"Exit"}, "log": {"Fatal", "Fatalf", "Fatalln"}}
	eachFile(t, func(path string, f *ast.File) {
		if strings.Contains(path, "/cmd/") || strings.Contains(path, "/generate/") || strings.HasSuffix(path, "_test.go") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(forbidden[x.Name], sel.Sel.Name) {
					t.Errorf("%s calls %s.%s: return an error instead", path, x.Name, sel.Sel.Name)
				}
			}
			return true
		})
	})
}

// Sleeping ignores the context; init functions run where nobody asked.
func TestNoSleepNoInit(t *testing.T) {
	eachFile(t, func(path string, f *ast.File) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s sleeps: select on the context and a timer", path)
				}
			}
			return true
		})
	})
}

// What a test lacks is said in one place, which also knows where lacking it is a failure.
func TestNobodySkips(t *testing.T) {
	eachFile(t, func(path string, f *ast.File) {
		tests := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` })
		if !tests || strings.Contains(path, "/internal/test/need/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					t.Errorf("%s calls %s: a test that lacks something says so with internal/test/need", path, sel.Sel.Name)
				}
			}
			return true
		})
	})
	scripts, err := filepath.Glob("../*/testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("the scripts: %v, %v", scripts, err)
	}
	skips := regexp.MustCompile(`(?m)^(\[.*\] *)?skip\b.*`)
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range skips.FindAllString(string(text), -1) {
			t.Errorf("%s says %q: a script that is skipped has shown nothing", path, line)
		}
	}
}

// A claim about security names the test that shows it; a test that was renamed or removed leaves a claim alone.
func TestSecurityNamesTests(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	there := tests(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(raw), -1)
	if len(named) < 20 {
		t.Fatalf("docs/security.md names %d tests", len(named))
	}
	for _, m := range named {
		if there[m[1]] == nil {
			t.Errorf("docs/security.md names %s, which there is not", m[1])
		}
	}
}

// TestBusyNamesTests has scripts/busy repeat tests that there are, each in one of its packages.
func TestBusyNamesTests(t *testing.T) {
	raw, err := os.ReadFile("../../../scripts/busy")
	if err != nil {
		t.Fatal(err)
	}
	script, there := string(raw), tests(t)
	lists := regexp.MustCompile(`(?s)\npackages=\((.*?)\)`).FindStringSubmatch(script)
	names := regexp.MustCompile(`(?m)^timed\+?='.*`).FindAllString(script, -1)
	if lists == nil || len(names) < 3 {
		t.Fatal("scripts/busy has its lists elsewhere")
	}
	in := func(dir string) bool {
		return slices.ContainsFunc(strings.Fields(lists[1]), func(p string) bool {
			p, below := strings.CutSuffix(strings.TrimPrefix(p, "./"), "/...")
			return dir == p || below && within(dir, p)
		}) && dir != "internal/agent/migrate" && dir != "internal/agent/runtime/compose" || dir == "internal/test/lifecycle"
	}
	for _, name := range regexp.MustCompile(`Test[A-Za-z0-9]+`).FindAllString(strings.Join(names, "\n"), -1) {
		if !slices.ContainsFunc(there[name], in) {
			t.Errorf("scripts/busy names %s, which is in none of its packages: %v", name, there[name])
		}
	}
}

// tests gives the directories in which there is a test, or whatever a test file declares, of a name.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	there := map[string][]string{}
	eachFile(t, func(path string, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasSuffix(path, "_test.go") {
				there[fn.Name.Name] = append(there[fn.Name.Name], strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../../../"))
			}
		}
	})
	return there
}

func eachFile(t *testing.T, visit func(path string, f *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..", "..")
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			visit(filepath.ToSlash(path), f)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
