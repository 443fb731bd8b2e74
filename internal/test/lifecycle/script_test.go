//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	// What the programs are built of: so that go test does not take an old result for one of the changed programs.
	_ "github.com/difyup/difyup/internal/agent"
	_ "github.com/difyup/difyup/internal/agent/standin"
	_ "github.com/difyup/difyup/internal/cli"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/smoke"
	"github.com/difyup/difyup/internal/test/cloud"
)

var programs string // a directory with difyup and difyup-agent

// TestMain builds the programs. They are started as processes, which local clouds and instances are. With an address block
// in its environment it is the intruder of TestIntruder, with a question the asker of TestContainersTokens.
func TestMain(m *testing.M) {
	if block := os.Getenv("INTRUDER_BLOCK"); block != "" {
		intrude(block, os.Getenv("INTRUDER_DIR"))
		return
	}
	if url := os.Getenv("QUESTION"); url != "" {
		if err := question(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(func() int {
		var err error
		if programs, err = os.MkdirTemp("", "difyup-programs-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs)
		if err := os.Chmod(programs, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := cloud.Build(programs, "difyup", "difyup-agent"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// root is the top of the source tree.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "difyup-")
			if err != nil {
				return err
			}
			e.Defer(func() {
				// A script that failed half way leaves a cloud behind.
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
				defer cancel()
				if _, err := localcloud.Down(ctx, filepath.Join(dir, "local"), nil); err != nil {
					t.Error(err)
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			})
			if err := os.Chmod(dir, 0o755); err != nil {
				return err
			}
			e.Setenv("DIFYUP_LOCAL_DIR", filepath.Join(dir, "local"))
			e.Setenv("PATH", programs+":"+e.Getenv("PATH"))
			e.Setenv("NO_COLOR", "1")
			for _, name := range []string{"DIFYUP_POSTGRES", "DIFYUP_REDIS", "DIFYUP_TEST_PROGRAMS"} {
				e.Setenv(name, os.Getenv(name))
			}
			example, err := os.ReadFile(filepath.Join(root(t), "examples", "difyup.yaml"))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "difyup.yaml"), example, 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"edit": edit, "get": get, "meet": meet, "gone": gone, "secretless": secretless, "held": held, "bucket": bucket, "listed": listed, "until": until,
			"recorded": recorded, "forget": forget, "secret": secret, "environ": environ, "noop": noop, "call": call, "meddle": meddle, "authorities": authorities, "openly": openly, "queued": queued, "bundled": bundled, "say": say,
		},
	})
}

// edit replaces a text in a file, which must be there: edit FILE OLD NEW; OLD "" appends. \n stands for a new line.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	file := ts.MkAbs(args[0])
	text := ts.ReadFile(args[0])
	from, to := strings.ReplaceAll(args[1], `\n`, "\n"), strings.ReplaceAll(args[2], `\n`, "\n")
	if from == "" {
		text += to
	} else if !strings.Contains(text, from) {
		ts.Fatalf("%s does not contain %q", args[0], from)
	} else {
		text = strings.Replace(text, from, to, 1)
	}
	ts.Check(os.WriteFile(file, []byte(text), 0o644))
}

func info(ts *testscript.TestScript) *localcloud.Info {
	i, err := localcloud.Find(context.Background(), ts.Getenv("DIFYUP_LOCAL_DIR"))
	ts.Check(err)
	return i
}

// web is a client that sees what a browser sees, but for the certificate's issuer.
func web() *http.Client {
	return &http.Client{
		Timeout:       2 * time.Minute,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, // the certificate is self-signed
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get asks the load balancer's listener of a scheme: get https /path. The answer's status, location and body are stdout.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: get SCHEME PATH")
	}
	for _, l := range info(ts).Listeners {
		if l.Scheme != args[0] {
			continue
		}
		resp, err := web().Get(l.URL() + args[1])
		ts.Check(err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "%d %s\n%s", resp.StatusCode, resp.Header.Get("Location"), body)
		if ok := resp.StatusCode < 400; ok == neg {
			ts.Fatalf("%s %s: %s", args[0], args[1], resp.Status)
		}
		return
	}
	ts.Fatalf("nothing listens for %s", args[0])
}

// bucket prints a field of a bucket as Google's API gives it, in JSON: bucket NAME FIELD.
func bucket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: bucket NAME FIELD")
	}
	_, raw, err := cloud.Get(context.Background(), info(ts), "storage/v1/b/"+args[0])
	ts.Check(err)
	var body map[string]json.RawMessage
	ts.Check(json.Unmarshal(raw, &body))
	var line bytes.Buffer
	ts.Check(json.Compact(&line, body[args[1]]))
	fmt.Fprintln(ts.Stdout(), line.String())
}

// meet has smoke prove the stack, on so many instances at least (one that is surplus goes later): meet N [FLAG…].
func meet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: meet N [FLAG...]")
	}
	var want int
	_, err := fmt.Sscan(args[0], &want)
	ts.Check(err)
	ran := ts.Exec("difyup", append([]string{"smoke", "--local", "--json"}, args[1:]...)...)
	var report smoke.Report
	raw := ts.ReadFile("stdout")
	ts.Check(json.Unmarshal([]byte(raw), &report))
	if ran != nil || !report.OK || len(report.Instances) < want {
		ts.Fatalf("%v, on %d instances:\n%s", ran, len(report.Instances), raw)
	}
}

// until runs a program again and again until it says something: until REGEXP PROGRAM [ARGUMENT...].
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP PROGRAM [ARGUMENT...]")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		switch out := ts.ReadFile("stdout"); {
		case want.MatchString(out):
			return
		case time.Now().After(end):
			ts.Fatalf("%q is never said; at last, with %v:\n%s", args[0], err, out)
		}
	}
}

// gone checks that a local cloud ended and left nothing: no process of it, no listener on its addresses, no directory.
// Its address block and process come from the environment, which "gone -remember" fills while it runs.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 && args[0] == "-remember" {
		i := info(ts)
		ts.Setenv("CLOUD_BLOCK", strings.TrimSuffix(i.Addresses, "0.0/16"))
		ts.Setenv("CLOUD_DIR", i.Dir)
		ts.Setenv("CLOUD_CLAIM", listeners(ts, ts.Getenv("CLOUD_BLOCK"))[claim(ts)])
		return
	}
	if _, err := os.Stat(ts.Getenv("CLOUD_DIR")); !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("the directory %s is left: %v", ts.Getenv("CLOUD_DIR"), err)
	}
	left := listeners(ts, ts.Getenv("CLOUD_BLOCK"))
	if by := left[claim(ts)]; by != "" && by != ts.Getenv("CLOUD_CLAIM") {
		ts.Logf("another local cloud has taken the addresses already: what listens there is not looked at")
	} else if len(left) > 0 {
		ts.Fatalf("still listening: %v", slices.Sorted(maps.Keys(left)))
	}
	running, err := commandLines(ts.Getenv("CLOUD_DIR"))
	ts.Check(err)
	if len(running) > 0 {
		ts.Fatalf("still running: %v", running)
	}
}

// claim is the address on which who has the remembered block listens.
func claim(ts *testscript.TestScript) string { return ts.Getenv("CLOUD_BLOCK") + "0.1:17064" }

// listeners gives the TCP listeners on addresses that begin so, "127.64.", with the numbers (inodes) of their sockets.
func listeners(ts *testscript.TestScript, prefix string) map[string]string {
	raw, err := os.ReadFile("/proc/net/tcp")
	ts.Check(err)
	out := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		var a, b, c, d, port int
		if n, _ := fmt.Sscanf(f[1], "%02X%02X%02X%02X:%04X", &d, &c, &b, &a, &port); n == 5 {
			if addr := fmt.Sprintf("%d.%d.%d.%d", a, b, c, d); strings.HasPrefix(addr, prefix) {
				out[fmt.Sprintf("%s:%d", addr, port)] = f[9]
			}
		}
	}
	return out
}

// held waits until a run holds the stack's lock.
func held(ts *testscript.TestScript, _ bool, _ []string) {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		code, _, err := cloud.Get(context.Background(), info(ts), "storage/v1/b/demo-project-demo-difyup/o/lock.json")
		ts.Check(err)
		if code == http.StatusOK {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("nobody took the lock")
}

// stateObject is the path of the example's state among the local cloud's APIs.
const stateObject = "storage/v1/b/demo-project-demo-difyup/o/state.json?alt=media"

// recorded checks what the state says the databases were migrated to: recorded VERSION HEAD.
func recorded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: recorded VERSION HEAD")
	}
	_, raw, err := cloud.Get(context.Background(), info(ts), stateObject)
	ts.Check(err)
	var state struct {
		Schema struct{ Version, Head string }
	}
	ts.Check(json.Unmarshal(raw, &state))
	if s := state.Schema; s.Version != args[0] || s.Head != args[1] {
		ts.Fatalf("recorded is %+v:\n%s", s, raw)
	}
}

// forget takes the record of the schema out of the state.
func forget(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: forget")
	}
	i := info(ts)
	_, raw, err := cloud.Get(context.Background(), i, stateObject)
	ts.Check(err)
	var state map[string]json.RawMessage
	ts.Check(json.Unmarshal(raw, &state))
	delete(state, "schema")
	raw, err = json.Marshal(state)
	ts.Check(err)
	req, err := http.NewRequest(http.MethodPost, i.URL+"upload/storage/v1/b/demo-project-demo-difyup/o?uploadType=media&name=state.json", bytes.NewReader(raw))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+i.Token)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("the state is not written: %s", resp.Status)
	}
}

// listed checks how often Cloud SQL's list of flags was asked for: listed N.
func listed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listed N")
	}
	if got := fmt.Sprint(info(ts).Methods["sql.flags.list"]); got != args[0] {
		ts.Fatalf("the flags were listed %s times, not %s", got, args[0])
	}
}

// secretless checks that no secret of the stack is in the files given, in the local cloud's directory apart from the
// databases themselves, in the state or in any instance template.
func secretless(ts *testscript.TestScript, neg bool, args []string) {
	i := info(ts)
	secrets := secretsOf(ts, i, "demo-project")
	if len(secrets) < 8 { // and those that its user made
		ts.Fatalf("the stack has %d secrets, not 8", len(secrets))
	}
	check := func(where string, text []byte) {
		for name, value := range secrets {
			if strings.Contains(string(text), value) {
				ts.Fatalf("%s holds the secret %s", where, name)
			}
		}
	}
	for _, file := range args {
		check(file, []byte(ts.ReadFile(file)))
	}
	seen := 0
	ts.Check(filepath.WalkDir(i.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() || strings.Contains(path, "/sql/") && !strings.HasSuffix(path, ".log") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			check(path, raw)
			seen++
		}
		return err
	}))
	if seen < 6 {
		ts.Fatalf("only %d files were looked at", seen)
	}
	for _, path := range []string{
		"compute/v1/projects/demo-project/global/instanceTemplates", "storage/v1/b/demo-project-demo-difyup/o/state.json?alt=media",
		"compute/v1/projects/demo-project/aggregated/instances", "v1/projects/demo-project/instances", "v1/projects/demo-project/instances/demo-main/users",
		"v1/projects/demo-project/locations/-/instances", "local/v1/status", "local/v1/dump",
	} {
		code, body, err := cloud.Get(context.Background(), i, path)
		ts.Check(err)
		if code != http.StatusOK {
			ts.Fatalf("%s: %d", path, code)
		}
		check(path, body)
	}
}
