//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/difyup/difyup/internal/localcloud"
)

// call sends a request to the local cloud's APIs, as its owner, with the answer as stdout, and waits for an operation of Cloud
// SQL's: call METHOD PATH [BODY].
func call(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: [!] call METHOD PATH [BODY]")
	}
	body := ""
	if len(args) == 3 {
		body = args[2]
	}
	status, raw := request(ts, info(ts), args[0], args[1], body)
	fmt.Fprintf(ts.Stdout(), "%s\n", raw)
	if (status < 400) == neg {
		ts.Fatalf("%s %s: %d\n%s", args[0], args[1], status, raw)
	}
}

// request sends a request to the local cloud's APIs as its owner, and waits for an operation of Cloud SQL's, whose failure is one of c.
func request(c checker, i *localcloud.Info, method, path, body string) (status int, answer []byte) {
	req, err := http.NewRequestWithContext(context.Background(), method, i.URL+path, strings.NewReader(body))
	c.Check(err)
	req.Header.Set("Authorization", "Bearer "+i.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	c.Check(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	c.Check(err)
	var op struct {
		Kind, Name, Status string
		Error              any
	}
	if err := json.Unmarshal(raw, &op); err == nil && op.Kind == "sql#operation" {
		for end := time.Now().Add(2 * time.Minute); op.Status != "DONE"; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				c.Check(fmt.Errorf("%s does not end", op.Name))
			}
			read(c, i, "v1/projects/demo-project/operations/"+op.Name, &op)
		}
		if op.Error != nil {
			c.Check(fmt.Errorf("%s %s: %v", method, path, op.Error))
		}
	}
	return resp.StatusCode, raw
}

// meddle changes fields of a resource of Compute Engine's as somebody would by other means than difyup: meddle PATH BODY.
func meddle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: meddle PATH BODY")
	}
	var live struct{ Fingerprint string }
	read(ts, info(ts), args[0], &live)
	var body map[string]any
	ts.Check(json.Unmarshal([]byte(args[1]), &body))
	if live.Fingerprint != "" {
		body["fingerprint"] = live.Fingerprint
	}
	raw, err := json.Marshal(body)
	ts.Check(err)
	call(ts, false, []string{http.MethodPatch, args[0], string(raw)})
}

// authorities waits until each instance, of so many at least, has a file with so many certificates: authorities N FILE COUNT.
func authorities(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: authorities N FILE COUNT")
	}
	least, err := strconv.Atoi(args[0])
	ts.Check(err)
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	known(ts, ts.Getenv("DIFYUP_LOCAL_DIR"), args[1], least, want)
}

// known waits until each instance of a local cloud, of so many at least, has a file with so many certificates.
func known(c checker, dir, file string, least, want int) {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(dir, "instances", "*", "*", "*", "authorities", file))
		c.Check(err)
		right := 0
		for _, f := range files {
			if raw, err := os.ReadFile(f); err == nil && bytes.Count(raw, []byte("BEGIN CERTIFICATE")) == want {
				right++
			}
		}
		switch {
		case right >= least && right == len(files):
			return
		case time.Now().After(end):
			c.Check(fmt.Errorf("%d of %d instances have %d authorities in %s, want %d at least and all", right, len(files), want, file, least))
		}
	}
}

// openly logs in to a store of the stack without TLS, as its user: openly main|vector|redis PORT.
func openly(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] openly STORE PORT")
	}
	i := info(ts)
	secrets := secretsOf(ts, i, "demo-project")
	secret := func(name string) string {
		for full, value := range secrets {
			if filepath.Base(full) == "demo-"+name {
				return value
			}
		}
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if args[0] == "redis" {
		var body struct{ Host string }
		read(ts, i, "v1/projects/demo-project/locations/asia-northeast1/instances/demo-redis", &body)
		r := redis.NewClient(&redis.Options{Addr: net.JoinHostPort(body.Host, args[1]), Password: secret("redis-auth"), MaxRetries: -1, DialerRetries: 1})
		err = r.Ping(ctx).Err()
		r.Close()
	} else {
		var body struct{ IPAddresses []struct{ IPAddress string } }
		read(ts, i, "v1/projects/demo-project/instances/demo-"+args[0], &body)
		password := map[string]string{"main": "db-password", "vector": "vector-password"}[args[0]]
		var c *pgx.Conn
		c, err = pgx.Connect(ctx, fmt.Sprintf("postgres://dify:%s@%s/dify?sslmode=disable", secret(password), net.JoinHostPort(body.IPAddresses[0].IPAddress, args[1])))
		if err == nil {
			err = c.Close(ctx)
		}
	}
	switch {
	case err == nil && neg:
		ts.Fatalf("%s takes what is not encrypted", args[0])
	case err != nil && !neg:
		ts.Fatalf("%s: %v", args[0], err)
	case err != nil:
		fmt.Fprintln(ts.Stdout(), err)
	}
}
