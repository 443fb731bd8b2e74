package dns

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// TestWhoIsAnswered checks that no two projects have a zone of one name, since all instances ask one name server, and that a zone
// that no network sees answers nobody.
func TestWhoIsAnswered(t *testing.T) {
	server, err := front.New(front.Options{Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	st := store.New()
	v := Register(server, st)
	network := func(project string) []any {
		key := "projects/" + project + "/global/networks/net"
		st.Collection("networks").Put(key, map[string]any{"name": "net"})
		return []any{map[string]any{"networkUrl": "https://www.googleapis.com/compute/v1/" + key}}
	}
	ask := func(h front.Handler, project, zone string, b map[string]any) error {
		_, err := h(t.Context(), &front.Request{Path: map[string]string{"project": project, "managedZone": zone}, Caller: front.Owner, Body: b})
		return err
	}
	zone := func(name, dnsName string, networks []any) map[string]any {
		b := map[string]any{"name": name, "dnsName": dnsName, "visibility": "private"}
		if networks != nil {
			b["privateVisibilityConfig"] = map[string]any{"networks": networks}
		}
		return b
	}
	known := func() string {
		text := fmt.Sprint(v.Zones())
		for _, name := range []string{"db.demo.internal.", "db.hidden.internal."} {
			data, _, ok := v.Lookup(name, "A")
			text += fmt.Sprint(" ", data, ok)
		}
		return text
	}
	for _, step := range []error{
		ask(v.create, "p", "", zone("demo", "demo.internal.", network("p"))), ask(v.create, "p", "", zone("hidden", "hidden.internal.", nil)),
		ask(v.createRecord, "p", "demo", map[string]any{"name": "db.demo.internal.", "type": "A", "rrdatas": []any{"127.0.0.1"}}),
		ask(v.createRecord, "p", "hidden", map[string]any{"name": "db.hidden.internal.", "type": "A", "rrdatas": []any{"127.0.0.2"}}),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if d := cmp.Diff("[demo.internal.] [127.0.0.1] true [] false", known()); d != "" {
		t.Errorf("with a zone that no network sees (-want +got):\n%s", d)
	}
	if err := ask(v.patch, "p", "hidden", zone("hidden", "hidden.internal.", network("p"))); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff("[hidden.internal. demo.internal.] [127.0.0.1] true [127.0.0.2] true", known()); d != "" {
		t.Errorf("once a network sees it (-want +got):\n%s", d)
	}

	err = ask(v.create, "q", "", zone("other", "demo.internal.", network("q")))
	if e := (*front.Error)(nil); !errors.As(err, &e) || e.Status != "UNIMPLEMENTED" || !strings.Contains(e.Message, "'projects/p/managedZones/demo'") {
		t.Errorf("another project's zone of the same name: %v", err)
	}
	err = ask(v.create, "p", "", zone("other", "demo.internal.", network("p")))
	if e := (*front.Error)(nil); !errors.As(err, &e) || e.Reason != "invalid" {
		t.Errorf("the same project's zone of the same name: %v", err)
	}
	if err := ask(v.create, "q", "", zone("demo", "q.internal.", network("q"))); err != nil {
		t.Errorf("another project's zone of another name: %v", err)
	}
}
