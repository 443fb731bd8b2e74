//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/topology"
)

// checker is what reports a failure: *testscript.TestScript or a wrapper of *testing.T.
type checker interface{ Check(err error) }

// secretsOf reads the values of a project's secrets.
func secretsOf(c checker, i *localcloud.Info, project string) map[string]string {
	var list struct{ Secrets []struct{ Name string } }
	read(c, i, "v1/projects/"+project+"/secrets", &list)
	out := map[string]string{}
	for _, s := range list.Secrets {
		var version struct{ Payload struct{ Data string } }
		read(c, i, "v1/"+s.Name+"/versions/latest:access", &version)
		value, err := base64.StdEncoding.DecodeString(version.Payload.Data)
		c.Check(err)
		if len(value) < 16 {
			c.Check(fmt.Errorf("%s has %d characters", s.Name, len(value)))
		}
		out[s.Name] = string(value)
	}
	return out
}

func read(c checker, i *localcloud.Info, path string, out any) {
	code, raw, err := cloud.Get(context.Background(), i, path)
	c.Check(err)
	if code != http.StatusOK {
		c.Check(fmt.Errorf("%s: %d", path, code))
	}
	c.Check(json.Unmarshal(raw, out))
}

// secret does with a secret what its owner does with gcloud: secret add NAME VALUE (which makes it first, if need be),
// secret annotate NAME [KEY=VALUE...], which are all that it has then, secret disable NAME VERSION, secret delete NAME.
func secret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: secret add|annotate|disable|delete NAME ...")
	}
	i := info(ts)
	call := func(method, path string, body any, taken ...int) {
		raw, err := json.Marshal(body)
		ts.Check(err)
		req, err := http.NewRequestWithContext(context.Background(), method, i.URL+"v1/projects/demo-project/secrets"+path, bytes.NewReader(raw))
		ts.Check(err)
		req.Header.Set("Authorization", "Bearer "+i.Token)
		resp, err := http.DefaultClient.Do(req)
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK && !slices.Contains(taken, resp.StatusCode) {
			ts.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	name := "/" + args[1]
	switch args[0] {
	case "add":
		call("POST", "?secretId="+args[1], map[string]any{"replication": map[string]any{"automatic": map[string]any{}}}, http.StatusConflict)
		call("POST", name+":addVersion", map[string]any{"payload": map[string]any{"data": []byte(args[2])}})
	case "annotate":
		annotations := map[string]string{}
		for _, a := range args[2:] {
			key, value, _ := strings.Cut(a, "=")
			annotations[key] = value
		}
		call("PATCH", name+"?updateMask=annotations", map[string]any{"annotations": annotations})
	case "disable":
		call("POST", name+"/versions/"+args[2]+":disable", map[string]any{})
	case "delete":
		call("DELETE", name, nil)
	default:
		ts.Fatalf("unknown: %s", args[0])
	}
}

// environ waits until every process of a service, on every instance, has a variable with a value, and there are so many at
// least: environ N SERVICE NAME VALUE; with a ! that none has the variable at all: ! environ N SERVICE NAME.
func environ(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 && (!neg || len(args) != 3) {
		ts.Fatalf("usage: [!] environ N SERVICE NAME [VALUE]")
	}
	least, err := strconv.Atoi(args[0])
	ts.Check(err)
	dir := ts.Getenv("DIFYUP_LOCAL_DIR")
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		all, err := filepath.Glob("/proc/[0-9]*")
		ts.Check(err)
		have, right := 0, 0
		for _, p := range all {
			command, err := os.ReadFile(filepath.Join(p, "cmdline"))
			words := strings.Split(string(command), "\x00")
			cwd, _ := os.Readlink(filepath.Join(p, "cwd")) // it may be gone
			if err != nil || len(words) < 3 || words[1] != "standin" || words[2] != args[1] || !strings.HasPrefix(words[0], dir) && !strings.HasPrefix(cwd, dir) {
				continue
			}
			have++
			raw, err := os.ReadFile(filepath.Join(p, "environ"))
			i := slices.IndexFunc(strings.Split(string(raw), "\x00"), func(v string) bool { return strings.HasPrefix(v, args[2]+"=") })
			switch {
			case err != nil:
			case neg && i < 0, !neg && i >= 0 && strings.Split(string(raw), "\x00")[i] == args[2]+"="+args[3]:
				right++
			}
		}
		switch {
		case have >= least && right == have:
			return
		case time.Now().After(end):
			ts.Fatalf("%d of %d processes of %s are so, want at least %d and all", right, have, args[1], least)
		}
	}
}

// noop makes a plan in this process, which must have nothing to do and send so many requests: noop N [FILE].
func noop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: noop N [FILE]")
	}
	ctx, i := context.Background(), info(ts)
	spec, err := config.Load(ctx, ts.MkAbs(append(args, "difyup.yaml")[1]))
	ts.Check(err)
	agent := filepath.Join(programs, "difyup-agent")
	raw, err := os.ReadFile(agent)
	ts.Check(err)
	stack, err := ops.Open(ctx, ops.Options{
		Spec: spec, Endpoint: i.URL, Token: i.Token, Version: "test",
		Agent: topology.Agent{Path: agent, SHA256: fmt.Sprintf("%x", sha256.Sum256(raw)), Runtime: "standin"},
	})
	ts.Check(err)
	defer stack.Close()
	p, err := stack.Plan(ctx)
	ts.Check(err)
	if got := fmt.Sprint(stack.Requests()); !p.Empty() || got != args[0] {
		ts.Fatalf("%d steps, with %s requests, want none with %s", len(p.Steps), got, args[0])
	}
}
