//go:build linux

package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/topology"
)

const (
	project = "demo-project"
	region  = "asia-northeast1"
	bucket  = "demo-project-demo-difyup"
)

// place is a local cloud, and what the tests put into it by hand.
type place struct {
	t      *testing.T
	url    string
	token  string
	client *gcp.Client
	info   localcloud.Info

	digest func(ctx context.Context, image, platform string) (string, error) // of the stacks that are opened
	edit   func(*config.Spec)

	mu      sync.Mutex
	said    []string
	started func() // called when a step starts
}

// newPlace gives a project with all services that a stack uses, but for those named.
func newPlace(t *testing.T, without ...string) *place {
	t.Helper()
	info := cloud.Start(t)
	c, err := gcp.New(t.Context(), gcp.Options{Project: project, Endpoint: info.URL, Token: info.Token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := &place{t: t, url: info.URL, token: info.Token, client: c, info: info}
	if names := slices.DeleteFunc(topology.APIs(), func(name string) bool { return slices.Contains(without, name) }); len(names) > 0 {
		p.enable(names)
	}
	return p
}

func (p *place) enable(names []string) {
	p.t.Helper()
	p.call(kind.ServiceUsageAPI, http.MethodPost, "projects/"+project+"/services:batchEnable", nil, map[string]any{"serviceIds": names})
}

func (p *place) call(api *resource.API, method, path string, query url.Values, body any) {
	p.t.Helper()
	if _, err := p.client.Mutate(p.t.Context(), gcp.Call{API: api, Method: method, Path: path, Query: query, Body: body}); err != nil {
		p.t.Fatal(err)
	}
}

// there says whether something exists.
func (p *place) there(api *resource.API, path string) bool {
	p.t.Helper()
	var raw []byte
	err := p.client.Do(p.t.Context(), gcp.Call{API: api, Method: http.MethodGet, Path: path, Out: &raw})
	if err != nil && !gcp.Is(err, 404) {
		p.t.Fatal(err)
	}
	return err == nil
}

func (p *place) network(name, description string) {
	p.t.Helper()
	p.call(kind.ComputeAPI, http.MethodPost, "projects/"+project+"/global/networks", nil, map[string]any{"name": name, "description": description, "autoCreateSubnetworks": false})
}

func (p *place) hasNetwork(name string) bool {
	p.t.Helper()
	return p.there(kind.ComputeAPI, "projects/"+project+"/global/networks/"+name)
}

// secret makes a secret as an interrupted run leaves it: with its value, and not said to be whole.
func (p *place) secret(name string, labels map[string]string) {
	p.t.Helper()
	p.call(kind.SecretManagerAPI, http.MethodPost, "projects/"+project+"/secrets", url.Values{"secretId": {name}}, map[string]any{
		"replication": map[string]any{"automatic": map[string]any{}}, "labels": labels,
	})
	p.call(kind.SecretManagerAPI, http.MethodPost, "projects/"+project+"/secrets/"+name+":addVersion", nil, map[string]any{"payload": map[string]any{"data": "cGFzc3dvcmQ="}})
}

func (p *place) hasSecret(name string) bool {
	p.t.Helper()
	return p.there(kind.SecretManagerAPI, "projects/"+project+"/secrets/"+name)
}

func (p *place) makeBucket(name, project string, labels map[string]string) {
	p.t.Helper()
	p.call(kind.StorageAPI, http.MethodPost, "b", url.Values{"project": {project}}, map[string]any{
		"name": name, "location": strings.ToUpper(region), "labels": labels, "versioning": map[string]any{"enabled": true},
	})
}

// state writes the state's object.
func (p *place) state(stack string, refs ...resource.Ref) {
	p.t.Helper()
	raw, err := json.Marshal(map[string]any{"version": 2, "stack": stack, "project": project, "owned": refs, "history": []any{}})
	if err != nil {
		p.t.Fatal(err)
	}
	api := *kind.StorageAPI
	api.Base = "upload/" + api.Base
	err = p.client.Do(p.t.Context(), gcp.Call{API: &api, Method: http.MethodPost, Path: "b/" + bucket + "/o", Query: url.Values{"uploadType": {"media"}, "name": {"state.json"}}, Raw: raw, Type: "application/json"})
	if err != nil {
		p.t.Fatal(err)
	}
}

func ref(k *resource.Kind, name string) resource.Ref {
	return resource.Ref{ID: resource.ID(k.Name + "/" + name), Kind: k.Name, Name: name, Params: map[string]string{"project": project, "region": region}}
}

// open opens the example's stack; without a spec, by its names alone.
func (p *place) open(blind bool) *ops.Stack {
	p.t.Helper()
	o := ops.Options{Endpoint: p.url, Token: p.token, Version: "test", Digest: p.digest, Events: func(e event.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if e.Phase == event.Info || e.Phase == event.Retried {
			p.said = append(p.said, e.Detail)
		}
		if e.Phase == event.Started && p.started != nil {
			p.started()
		}
	}}
	if blind {
		o.Identity = config.Identity{Stack: "demo", Project: project}
	} else {
		file, err := filepath.Abs("../../examples/difyup.yaml")
		if err != nil {
			p.t.Fatal(err)
		}
		if o.Spec, err = config.Load(p.t.Context(), file); err != nil {
			p.t.Fatal(err)
		}
		if p.edit != nil {
			p.edit(o.Spec)
		}
	}
	s, err := ops.Open(p.t.Context(), o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(s.Close)
	return s
}

func (p *place) destroy(blind bool) (*ops.Result, error) {
	return p.open(blind).Destroy(p.t.Context(), ops.RunOptions{Command: "destroy", Args: []string{"--yes"}})
}

func wantFault(t *testing.T, err error, summary, part string) {
	t.Helper()
	for _, f := range fault.All(err) {
		if f.Summary == summary && strings.Contains(f.Detail+f.Remedy, part) {
			return
		}
	}
	t.Errorf("got %v, want %q with %q", err, summary, part)
}

// TestHalfMadeSecret checks that a secret which an interrupted apply left half made, with a password in it, is deleted.
func TestHalfMadeSecret(t *testing.T) {
	for _, name := range []string{"with a state", "the state being lost", "by the stack's names alone"} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.secret("demo-secret-key", resource.Labels("demo"))
			p.makeBucket(bucket, project, resource.Labels("demo"))
			if name != "the state being lost" {
				p.state("demo", p.open(false).Graph().Refs()...)
			}
			res, err := p.destroy(name == "by the stack's names alone")
			if err != nil || res.Deleted != 1 {
				t.Errorf("%+v, %v", res, err)
			}
			if p.hasSecret("demo-secret-key") || p.there(kind.StorageAPI, "b/"+bucket) {
				t.Error("it is left, or the state's bucket")
			}
		})
	}
}

// TestDisabledService checks that destroy does not call a stack gone when it could not look everywhere.
func TestDisabledService(t *testing.T) {
	p := newPlace(t, "compute.googleapis.com")
	p.secret("demo-secret-key", resource.Labels("demo"))
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.state("demo", p.open(false).Graph().Refs()...)
	res, err := p.destroy(false)
	if err != nil || res.Deleted != 1 || !slices.Equal(res.Unseen, []string{"compute.googleapis.com"}) {
		t.Errorf("%+v, %v", res, err)
	}
	p = newPlace(t)
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.state("demo", p.open(false).Graph().Refs()...)
	if res, err := p.destroy(false); err != nil || len(res.Unseen) > 0 {
		t.Errorf("with everything enabled: %+v, %v", res, err)
	}
}

// TestSomebodysSecret checks that a name which somebody else's secret bears is found before anything is made.
func TestSomebodysSecret(t *testing.T) {
	p := newPlace(t)
	p.secret("demo-secret-key", nil)
	_, err := p.open(false).Apply(t.Context(), ops.RunOptions{Command: "apply"})
	wantFault(t, err, "A name is taken", "secretmanager.secrets/demo-secret-key exists and does not bear the mark")
	if p.hasNetwork("demo-net") {
		t.Error("something was made")
	}
	// What the plan wrote of it is no proof either.
	p.state("demo", p.open(false).Graph().Refs()...)
	_, err = p.open(false).Plan(t.Context())
	wantFault(t, err, "A name is taken", "gcloud secrets delete demo-secret-key --project="+project)
	_, err = p.destroy(false)
	wantFault(t, err, "Not everything was deleted", "gcloud secrets delete demo-secret-key --project="+project)
	if !p.hasSecret("demo-secret-key") {
		t.Error("it was deleted")
	}
}

// TestAnotherStacksState puts prod's state where demo's is.
func TestAnotherStacksState(t *testing.T) {
	p := newPlace(t)
	p.network("prod-net", resource.Description("prod"))
	p.network("demo-net", resource.Description("demo"))
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.state("prod", ref(kind.Networks.Kind, "prod-net"))
	_, err := p.destroy(false)
	wantFault(t, err, "The state is another stack's", `the state of the stack "prod"`)
	// And one that only says that it is demo's.
	p.state("demo", ref(kind.Networks.Kind, "prod-net"), ref(kind.Networks.Kind, "demo-net"))
	_, err = p.destroy(false)
	wantFault(t, err, "Not everything was deleted", "gcloud compute networks delete prod-net --project="+project)
	if !p.hasNetwork("prod-net") || p.hasNetwork("demo-net") {
		t.Errorf("prod's network is there: %v, demo's: %v", p.hasNetwork("prod-net"), p.hasNetwork("demo-net"))
	}
	if res, err := p.destroy(false); err != nil || res.Deleted != 0 {
		t.Errorf("destroyed again: %+v, %v", res, err)
	}
}

// TestNobodysBinding checks that a member which is not the stack's own account keeps what it may do.
func TestNobodysBinding(t *testing.T) {
	p := newPlace(t)
	member := "user:owner@example.com"
	p.call(kind.ResourceManagerAPI, http.MethodPost, "projects/"+project+":setIamPolicy", nil, map[string]any{"policy": map[string]any{
		"bindings": []any{map[string]any{"role": "roles/owner", "members": []any{member}}},
	}})
	p.makeBucket(bucket, project, resource.Labels("demo"))
	r := ref(kind.ProjectIAM.Kind, "demo-vm")
	r.Params["member"] = member
	p.state("demo", r)
	_, err := p.destroy(false)
	wantFault(t, err, "Not everything was deleted", "cloudresourcemanager.projectIam/demo-vm")
	var policy map[string]any
	if err := p.client.Do(t.Context(), gcp.Call{API: kind.ResourceManagerAPI, Method: http.MethodPost, Path: "projects/" + project + ":getIamPolicy", Body: map[string]any{}, Out: &policy}); err != nil || !strings.Contains(fmt.Sprint(policy), member) {
		t.Errorf("the policy is %v, %v", policy, err)
	}
}

// TestLostState checks that a stack whose state was lost is found by its marks, and nothing else is.
func TestLostState(t *testing.T) {
	p := newPlace(t)
	p.network("demo-net", "somebody's")
	p.network("demo-old", resource.Description("demo"))
	p.network("demo-other", resource.Description("demo-other"))
	p.secret("demo-of-an-older-version", resource.Labels("demo"))
	res, err := p.destroy(false)
	wantFault(t, err, "Not everything was deleted", "compute.networks/demo-net")
	if res.Deleted != 2 || p.hasNetwork("demo-old") || p.hasSecret("demo-of-an-older-version") {
		t.Errorf("%+v", res)
	}
	if !p.hasNetwork("demo-net") || !p.hasNetwork("demo-other") {
		t.Error("somebody else's network was deleted")
	}
	_, err = p.destroy(true)
	wantFault(t, err, "There is no state", "Fix the file")
}

// TestNothingIsLeft checks that this is said only after it was looked.
func TestNothingIsLeft(t *testing.T) {
	p := newPlace(t)
	p.network("demo-net", resource.Description("demo"))
	p.network("demo-more", resource.Description("demo")) // which no state names
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.state("demo", ref(kind.Networks.Kind, "demo-net"))
	res, err := p.destroy(true)
	wantFault(t, err, "Something of the stack is left", "compute.networks/demo-more")
	if res == nil || res.Left != 1 || p.hasNetwork("demo-net") {
		t.Errorf("%+v", res)
	}
	if res, err = p.destroy(true); err != nil || res.Deleted != 1 || p.hasNetwork("demo-more") || p.there(kind.StorageAPI, "b/"+bucket) {
		t.Errorf("destroyed again: %+v, %v", res, err)
	}
}

// TestSquattedBuckets checks that buckets of another project are neither believed nor used, whatever their labels say.
func TestSquattedBuckets(t *testing.T) {
	t.Run("the state's", func(t *testing.T) {
		p := newPlace(t)
		p.network("demo-net", resource.Description("demo"))
		p.makeBucket(bucket, "other-project", resource.Labels("demo"))
		p.state("demo", ref(kind.Networks.Kind, "demo-net"))
		_, err := p.open(false).Plan(t.Context())
		wantFault(t, err, "The state's bucket is in another project", bucket)
		_, err = p.open(false).Apply(t.Context(), ops.RunOptions{Command: "apply", BreakLock: true})
		wantFault(t, err, "The state's bucket is in another project", bucket)
		_, err = p.destroy(false)
		wantFault(t, err, "The state's bucket is in another project", bucket)
		if p.there(kind.StorageAPI, "b/"+bucket+"/o/lock.json") || !p.hasNetwork("demo-net") {
			t.Error("it was used")
		}
	})
	t.Run("the state's, still empty", func(t *testing.T) {
		p := newPlace(t)
		p.makeBucket(bucket, "other-project", resource.Labels("demo"))
		_, err := p.open(false).Apply(t.Context(), ops.RunOptions{Command: "apply"})
		wantFault(t, err, "The state's bucket is in another project", bucket)
		if p.there(kind.StorageAPI, "b/"+bucket+"/o/lock.json") {
			t.Error("it was used")
		}
	})
	for whose, name := range map[string]string{"the files'": "demo-project-demo-files", "the agent's": "demo-project-demo-agent"} {
		t.Run(whose, func(t *testing.T) {
			p := newPlace(t)
			p.makeBucket(name, "other-project", resource.Labels("demo"))
			_, err := p.open(false).Apply(t.Context(), ops.RunOptions{Command: "apply"})
			wantFault(t, err, "A name is taken", "storage.buckets/"+name+" exists in another project")
			if p.hasNetwork("demo-net") {
				t.Error("something was made")
			}
			p.state("demo", ref(kind.Buckets.Kind, name))
			_, err = p.destroy(false)
			wantFault(t, err, "Not everything was deleted", "storage.buckets/"+name)
			if !p.there(kind.StorageAPI, "b/"+name) {
				t.Error("it was deleted")
			}
		})
	}
}

// TestFormerAgent checks what becomes of the agent of a stack that has it in the bucket of Dify's files, as difyup once did.
func TestFormerAgent(t *testing.T) {
	p := newPlace(t)
	const files, object = "demo-project-demo-files", "agent/difyup-agent-0123456789ab"
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.makeBucket(files, project, resource.Labels("demo"))
	api := *kind.StorageAPI
	api.Base = "upload/" + api.Base
	if err := p.client.Do(t.Context(), gcp.Call{API: &api, Method: http.MethodPost, Path: "b/" + files + "/o", Query: url.Values{"uploadType": {"media"}, "name": {object}}, Raw: []byte("x"), Type: "application/octet-stream"}); err != nil {
		t.Fatal(err)
	}
	former := ref(kind.BucketObjects.Kind, files+"/"+object)
	former.Params["bucket"] = files
	p.state("demo", ref(kind.Buckets.Kind, files), former)
	made, err := p.open(false).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[resource.ID]plan.Action{}
	for _, s := range made.Steps {
		if s.Action == plan.Delete || strings.HasPrefix(string(s.ID), "storage.buckets/") {
			got[s.ID] = s.Action
		}
	}
	want := map[resource.ID]plan.Action{former.ID: plan.Delete, "storage.buckets/demo-project-demo-agent": plan.Create, "storage.buckets/" + files: plan.Update}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the plan (-want +got):\n%s", d)
	}
}

// TestIntent checks that the state says what a run that did not end was about, and that the next one says so.
func TestIntent(t *testing.T) {
	p := newPlace(t)
	p.network("demo-net", resource.Description("demo"))
	p.makeBucket(bucket, project, resource.Labels("demo"))
	p.state("demo", ref(kind.Networks.Kind, "demo-net"))
	// A subnetwork keeps the network from being deleted, until the run is interrupted.
	p.call(kind.ComputeAPI, http.MethodPost, "projects/"+project+"/regions/"+region+"/subnetworks", nil, map[string]any{
		"name": "s", "network": "projects/" + project + "/global/networks/demo-net", "ipCidrRange": "10.0.0.0/24",
	})
	ctx, interrupt := context.WithCancel(t.Context())
	p.started = interrupt
	_, err := p.open(false).Destroy(ctx, ops.RunOptions{Command: "destroy", Args: []string{"--yes", "-f", "x.yaml"}})
	if err == nil {
		t.Fatal("it was interrupted")
	}
	var raw []byte
	if err := p.client.Do(t.Context(), gcp.Call{API: kind.StorageAPI, Method: http.MethodGet, Path: "b/" + bucket + "/o/state.json", Query: url.Values{"alt": {"media"}}, Out: &raw}); err != nil {
		t.Fatal(err)
	}
	var st struct {
		Intent struct {
			Run, Command, By, Version string
			HostID                    string `json:"host_id"`
			Args                      []string
		}
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		t.Fatal(err)
	}
	i := st.Intent
	if i.Command != "destroy" || !slices.Equal(i.Args, []string{"--yes", "-f", "x.yaml"}) || len(i.Run) != 26 || len(i.HostID) != 26 || i.Version != "test" || !strings.Contains(i.By, "@") {
		t.Errorf("the intent is %+v", i)
	}
	p.call(kind.ComputeAPI, http.MethodDelete, "projects/"+project+"/regions/"+region+"/subnetworks/s", nil, nil)
	p.said, p.started = nil, nil
	if _, err := p.destroy(false); err != nil {
		t.Error(err)
	}
	if len(p.said) == 0 || !strings.HasPrefix(p.said[0], "`destroy` of "+i.By+" did not end") {
		t.Errorf("said %q", p.said)
	}
	if p.there(kind.StorageAPI, "b/"+bucket) {
		t.Error("the state is left")
	}
}

// TestJustEnabled checks that a run which follows one that enabled services, and was interrupted, knows that they are new, and that one
// in a project that has had them for long takes a refusal for what it is.
func TestJustEnabled(t *testing.T) {
	denied := func(p *place) {
		t.Helper()
		rule := faults.Rule{Surface: faults.API, Service: "servicenetworking", Rate: 1, Next: 2, Faults: []faults.Fault{{What: faults.Status, Code: http.StatusForbidden}}}
		if _, err := p.info.AddFault(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlace(t, topology.APIs()...)
	ctx, interrupt := context.WithCancel(t.Context())
	p.started = interrupt
	if _, err := p.open(false).Apply(ctx, ops.RunOptions{Command: "apply"}); err == nil {
		t.Fatal("it was not interrupted")
	}
	p.started = nil
	p.enable(topology.APIs())
	denied(p)
	p.said = nil
	if _, err := p.open(false).Plan(t.Context()); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(p.said, func(said string) bool { return strings.HasPrefix(said, "Service Networking was just enabled") }) {
		t.Errorf("said %q", p.said)
	}

	p = newPlace(t)
	denied(p)
	if _, err := p.open(false).Plan(t.Context()); !gcp.Is(err, http.StatusForbidden) || len(p.said) > 0 {
		t.Errorf("enabled since long: %v, said %q", err, p.said)
	}
}
