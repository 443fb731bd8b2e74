//go:build linux

package driver_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/apply"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/topology"
)

// loser carries every change out and loses its answer, the first time it is asked for it.
type loser struct {
	mu   sync.Mutex
	lost []string // in the order of the requests
}

func (l *loser) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	reads := r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "/wait") || strings.HasSuffix(r.URL.Path, ":getIamPolicy")
	if err != nil || reads {
		return resp, err
	}
	q := r.URL.Query()
	q.Del("requestId")
	key := r.Method + " " + r.URL.Path + "?" + q.Encode()
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.lost, key) {
		return resp, nil
	}
	l.lost = append(l.lost, key)
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return nil, syscall.ECONNRESET
}

// rehearsal applies a stack to a local cloud through a transport.
type rehearsal struct {
	t      *testing.T
	client *gcp.Client
	file   []byte
	agent  string
}

func rehearse(t *testing.T, agent string, transport http.RoundTripper) *rehearsal {
	t.Helper()
	info := cloud.Start(t)
	c, err := gcp.New(t.Context(), gcp.Options{Project: "demo-project", Endpoint: info.URL, Token: info.Token, HTTP: &http.Client{Transport: transport}, Drivers: driver.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	file, err := os.ReadFile(filepath.Join("..", "..", "..", "examples", "difyup.yaml"))
	must(t, err)
	return &rehearsal{t: t, client: c, file: file, agent: agent}
}

func (r *rehearsal) graph() *resource.Graph {
	r.t.Helper()
	spec, err := config.Parse("difyup.yaml", r.file)
	must(r.t, err)
	content, err := os.ReadFile(r.agent)
	must(r.t, err)
	sum := sha256.Sum256(content)
	g, err := topology.Build(spec, topology.Agent{Path: r.agent, SHA256: hex.EncodeToString(sum[:])}, topology.Given{})
	must(r.t, err)
	return g
}

// owner is the stack that plans are made for.
func (r *rehearsal) owner() resource.Owner {
	r.t.Helper()
	number, err := r.client.ProjectNumber(r.t.Context())
	must(r.t, err)
	return resource.Owner{Stack: "demo", Project: "demo-project", Number: number, Account: topology.Account("demo", "demo-project")}
}

// apply carries a plan out, and gives how many steps it had.
func (r *rehearsal) apply(owned []resource.Ref) int {
	r.t.Helper()
	p, err := plan.Make(r.t.Context(), r.owner(), r.graph(), r.client, owned, kind.ByName)
	must(r.t, err)
	_, err = apply.Run(r.t.Context(), p, apply.NewSteps(r.client, p), 32, nil)
	must(r.t, err)
	return len(p.Steps)
}

func (r *rehearsal) destroy() {
	r.t.Helper()
	p, err := plan.Destroy(r.t.Context(), r.owner(), r.graph().Refs(), r.client, kind.ByName)
	must(r.t, err)
	_, err = apply.Run(r.t.Context(), p, apply.NewSteps(r.client, p), 32, nil)
	must(r.t, err)
}

// cloud gives what is there, a line for each: resources, every version of secrets and of objects, what IAM grants.
func (r *rehearsal) cloud() string {
	r.t.Helper()
	ctx, g := r.t.Context(), r.graph()
	live, err := r.client.ReadAll(ctx, g.Resources())
	must(r.t, err)
	var lines []string
	for _, res := range g.Resources() {
		body := live[res.ID()]
		if body == nil {
			lines = append(lines, string(res.ID())+" is absent")
			continue
		}
		line := string(res.ID())
		switch res.Kind.Name {
		case kind.Secrets.Name:
			versions, err := r.client.List(ctx, &resource.Kind{API: kind.SecretManagerAPI, List: "versions"}, res.Link()+"/versions", nil)
			must(r.t, err)
			for _, v := range versions {
				line += fmt.Sprint(" ", v["state"])
			}
		case kind.Buckets.Name:
			objects, err := r.client.List(ctx, kind.Buckets.Kind, "b/"+res.Leaf()+"/o", url.Values{"versions": {"true"}})
			must(r.t, err)
			for _, o := range objects {
				line += fmt.Sprint(" ", o["name"])
			}
		case kind.ProjectIAM.Name, kind.BucketIAM.Name, kind.SecretIAM.Name:
			line += fmt.Sprint(" ", body["bindings"])
		case kind.SQLInstances.Name, kind.RedisInstances.Name:
			line += fmt.Sprint(" ", body["state"])
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// TestLostReplies applies, changes and destroys a stack while the answer of every change is lost once, after the cloud
// carried it out. What comes out is what an undisturbed run makes, every version of everything included.
func TestLostReplies(t *testing.T) {
	dir := t.TempDir()
	must(t, cloud.Build(dir, "difyup-agent"))
	l := &loser{}
	agent := filepath.Join(dir, "difyup-agent")
	plain, lossy := rehearse(t, agent, http.DefaultTransport), rehearse(t, agent, l)
	same := func(what string) {
		t.Helper()
		if d := cmp.Diff(plain.cloud(), lossy.cloud()); d != "" {
			t.Errorf("%s (-an undisturbed run +one that lost answers):\n%s", what, d)
		}
	}
	var owned []resource.Ref
	for _, r := range []*rehearsal{plain, lossy} {
		r.apply(nil)
		owned = r.graph().Refs()
	}
	same("applied")
	if n := lossy.apply(owned); n > 0 {
		t.Errorf("the plan after an apply that lost answers has %d steps", n)
	}
	if len(l.lost) < 60 {
		t.Errorf("only %d answers were lost", len(l.lost))
	}
	for _, r := range []*rehearsal{plain, lossy} {
		for before, after := range map[string]string{"max: 3": "max: 4", "db-custom-1-3840": "db-custom-2-7680", "database:": "storage:\n  versioning: false\nredis:\n  memory_gb: 2\ndatabase:"} {
			r.file = bytes.Replace(r.file, []byte(before), []byte(after), 1)
		}
		r.apply(owned)
	}
	same("changed")
	for _, r := range []*rehearsal{plain, lossy} {
		r.destroy()
	}
	same("destroyed")
	if there := slices.DeleteFunc(strings.Split(lossy.cloud(), "\n"), func(s string) bool { return strings.HasSuffix(s, " is absent") }); len(there) > 1 { // the services stay
		t.Errorf("left:\n%s", strings.Join(there, "\n"))
	}
}
