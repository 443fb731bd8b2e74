//go:build linux

package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// registries stand for all of them: each push of a tag is an image of its own.
type registries struct {
	mu     sync.Mutex
	pushes int
	asked  []string
	away   error  // what they say instead
	only   string // of this image alone; "" = of all
}

func (r *registries) digest(_ context.Context, image, platform string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil && (r.only == "" || r.only == image) {
		return "", r.away
	}
	r.asked = append(r.asked, image+" for "+platform)
	return fmt.Sprintf("sha256:%064x", r.pushes), nil
}

// take gives what was asked since it was called last, sorted.
func (r *registries) take() []string {
	asked := r.asked
	slices.Sort(asked)
	r.asked = nil
	return asked
}

// pinsOf gives what the wanted template tells instances of their images.
func pinsOf(t *testing.T, p *plan.Plan) (template string, pins map[string]string) {
	t.Helper()
	for _, r := range p.Graph.Resources() {
		if r.Kind != kind.InstanceTemplates.Kind {
			continue
		}
		raw, _ := resource.Lookup(r.Body, "properties.metadata.items[key=difyup-config].value")
		var settings dify.Settings
		if err := json.Unmarshal([]byte(fmt.Sprint(raw)), &settings); err != nil {
			t.Fatal(err)
		}
		return r.Name, settings.Pins
	}
	t.Fatal("there is no template")
	return "", nil
}

// TestPins checks that registries are asked once what a tag stands for, and that instances are told so from then on: a tag that is
// pushed again changes nothing, another version asks for what is new, and a state that was lost is no reason to ask.
func TestPins(t *testing.T) {
	p, hub := newPlace(t), &registries{}
	p.digest = hub.digest
	planned := func(s *ops.Stack) (string, map[string]string) {
		t.Helper()
		made, err := s.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return pinsOf(t, made)
	}
	first := fmt.Sprintf("sha256:%064x", 0)
	want := map[string]string{
		"langgenius/dify-api:1.17.1": first, "langgenius/dify-web:1.17.1": first, "langgenius/dify-plugin-daemon:0.6.10-local": first,
		"langgenius/dify-sandbox:0.2.15": first, "ubuntu/squid:6.6-24.04_beta": first,
	}
	stack := p.open(false)
	template, pins := planned(stack)
	if d := cmp.Diff(want, pins); d != "" {
		t.Errorf("pins (-want +got):\n%s", d)
	}
	if asked := hub.take(); len(asked) != len(want) || asked[0] != "langgenius/dify-api:1.17.1 for linux/amd64" {
		t.Errorf("asked %q", asked)
	}
	if again, _ := planned(stack); again != template || len(hub.take()) > 0 {
		t.Errorf("another template for the same stack: %s, %s", template, again)
	}

	// They are in the state before anything is made.
	ctx, interrupt := context.WithCancel(t.Context())
	p.started = interrupt
	if _, err := p.open(false).Apply(ctx, ops.RunOptions{Command: "apply"}); err == nil {
		t.Fatal("it was interrupted")
	}
	p.started = nil
	hub.take()
	hub.pushes = 1
	if again, _ := planned(p.open(false)); again != template || len(hub.take()) > 0 {
		t.Errorf("a tag that was pushed again makes the template %s of %s", again, template)
	}
	hub.away = &fault.Fault{Summary: "The registry does not answer"}
	if again, _ := planned(p.open(false)); again != template {
		t.Errorf("without a registry, the template is %s", again)
	}

	// Another version asks for what is new, and says so when it cannot.
	p.edit = func(s *config.Spec) { s.Dify.Version = "1.17.0" }
	if _, err := p.open(false).Plan(t.Context()); !errors.Is(err, hub.away) || !strings.Contains(err.Error(), "difyup.yaml") {
		t.Errorf("got %v", err)
	}
	hub.away = nil
	_, pins = planned(p.open(false))
	if asked := hub.take(); !slices.Equal(asked, []string{"langgenius/dify-api:1.17.0 for linux/amd64", "langgenius/dify-web:1.17.0 for linux/amd64"}) {
		t.Errorf("asked %q", asked)
	}
	if pins["langgenius/dify-api:1.17.0"] == first || pins["langgenius/dify-sandbox:0.2.15"] != first {
		t.Errorf("pins are %v", pins)
	}
	p.edit = nil

	// The state is lost; what runs knows.
	p.network("default", "somebody's")
	old, err := json.Marshal(dify.Settings{DifyVersion: "1.17.1", Pins: want})
	if err != nil {
		t.Fatal(err)
	}
	p.call(kind.ComputeAPI, http.MethodPost, "projects/"+project+"/global/instanceTemplates", nil, map[string]any{
		"name": "demo-vm-old", "description": resource.Description("demo"), "properties": map[string]any{
			"machineType": "e2-standard-2", "metadata": map[string]any{"items": []any{map[string]any{"key": "difyup-config", "value": string(old)}}},
			"networkInterfaces": []any{map[string]any{"network": "projects/" + project + "/global/networks/default"}},
			"disks":             []any{map[string]any{"boot": true, "initializeParams": map[string]any{"sourceImage": "projects/ubuntu-os-cloud/global/images/family/ubuntu-2204-lts"}}},
		},
	})
	p.call(kind.ComputeAPI, http.MethodPost, "projects/"+project+"/regions/"+region+"/instanceGroupManagers", nil, map[string]any{
		"name": "demo-group", "description": resource.Description("demo"), "baseInstanceName": "demo-vm", "targetSize": 0,
		"versions": []any{map[string]any{"instanceTemplate": "projects/" + project + "/global/instanceTemplates/demo-vm-old"}},
	})
	p.call(kind.StorageAPI, http.MethodDelete, "b/"+bucket+"/o/state.json", nil, nil)
	p.state("demo")
	_, err = p.open(false).Plan(t.Context())
	if asked := hub.take(); len(asked) > 0 {
		t.Errorf("asked %q, %v", asked, err)
	}
}

// TestPinsOfOwnImages checks that no registry is asked for an image that is named with its digest, that another is asked for as it
// is named, and that a fault about one has its place.
func TestPinsOfOwnImages(t *testing.T) {
	p, hub := newPlace(t), &registries{}
	p.digest = hub.digest
	whole := "ghcr.io/acme/api:1.99.0@sha256:" + strings.Repeat("a", 64)
	description := "stack: demo\nproject: " + project + "\nregion: " + region + "\ndify:\n  version: 1.99.0\n  images:\n    api: " + whole +
		"\n    web: ghcr.io/acme/web:1.99.0\n    plugin_daemon: 0.7.0-local\n    sandbox: 0.2.16\n    ssrf_proxy: 6.6-24.04_beta\n"
	spec, err := config.Parse("difyup.yaml", []byte(description))
	if err != nil {
		t.Fatal(err)
	}
	p.edit = func(s *config.Spec) { *s = *spec }
	made, err := p.open(false).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("sha256:%064x", 0)
	_, pins := pinsOf(t, made)
	if d := cmp.Diff(map[string]string{
		"ghcr.io/acme/web:1.99.0": digest, "langgenius/dify-plugin-daemon:0.7.0-local": digest, "langgenius/dify-sandbox:0.2.16": digest, "ubuntu/squid:6.6-24.04_beta": digest,
	}, pins); d != "" {
		t.Errorf("pins (-want +got):\n%s", d)
	}
	if asked := hub.take(); len(asked) != 4 || asked[0] != "ghcr.io/acme/web:1.99.0 for linux/amd64" {
		t.Errorf("asked %q", asked)
	}
	if len(made.Notes) != 2 || !strings.Contains(made.Notes[0], "memory of 1.17.1") || !strings.Contains(made.Notes[1], whole+" for api") {
		t.Errorf("notes are %q", made.Notes)
	}
	hub.only, hub.away = "ghcr.io/acme/web:1.99.0", &fault.Fault{Summary: "There is no such image"}
	if _, err := p.open(false).Plan(t.Context()); len(fault.All(err)) != 1 || fault.All(err)[0].At.Line != 8 {
		t.Errorf("got %v", err)
	}
}

// TestNoRegistryInARehearsal checks that images run by their tags where nobody says what they stand for.
func TestNoRegistryInARehearsal(t *testing.T) {
	made, err := newPlace(t).open(false).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if name, pins := pinsOf(t, made); len(pins) > 0 || !strings.HasPrefix(name, "demo-vm-") {
		t.Errorf("%s has %v", name, pins)
	}
}
