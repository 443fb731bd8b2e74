package ops

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// TestCertificatesStay has a stack get a certificate of Google's in place of one of its own.
func TestCertificatesStay(t *testing.T) {
	build := func(more string, given topology.Given) *resource.Graph {
		t.Helper()
		spec, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: asia-northeast1\n"+more))
		if err != nil {
			t.Fatal(err)
		}
		g, err := topology.Build(spec, topology.Agent{SHA256: strings.Repeat("0", 64), Runtime: "compose"}, given)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	of := func(g *resource.Graph, k *resource.Kind) *resource.Resource {
		return g.Resources()[slices.IndexFunc(g.Resources(), func(r *resource.Resource) bool { return r.Kind == k })]
	}
	was, now, own := build("", topology.Given{}), build("domain: dify.example.com\n", topology.Given{}), build("domain: dify.example.com\nload_balancer: {certificate: self-signed}\n", topology.Given{})
	old := of(was, kind.SSLCertificates.Kind)
	gone := []*resource.Resource{{Kind: old.Kind, Name: old.Name, Params: old.Params}}
	owner := resource.Owner{Stack: "demo", Project: "demo-project"}
	live := func(status string) map[resource.ID]map[string]any {
		all := map[resource.ID]map[string]any{
			old.ID():                                {"name": old.Name, "description": old.Body["description"]},
			"compute.targetHttpsProxies/demo-https": {"sslCertificates": []any{old.URL()}},
		}
		if status != "" {
			new := of(now, kind.SSLCertificates.Kind)
			all[new.ID()] = map[string]any{"managed": map[string]any{"status": status}}
		}
		return all
	}
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	issued := func(ago time.Duration) map[resource.ID]map[string]any {
		all := live("ACTIVE")
		all[of(now, kind.SSLCertificates.Kind).ID()]["expireTime"] = at.Add(-ago).AddDate(0, 0, 90).Format(time.RFC3339)
		return all
	}
	for _, tc := range []struct {
		name   string
		wanted *resource.Graph
		live   map[resource.ID]map[string]any
		stays  bool
	}{
		{"there is none yet", now, live(""), true}, {"Google issues it", now, live("PROVISIONING"), true}, {"Google cannot", now, live("FAILED_NOT_VISIBLE"), true},
		{"Google has issued it", now, live("ACTIVE"), false}, {"another of its own", own, live(""), false}, {"nothing is there", now, nil, false},
		{"Google has issued it just now", now, issued(10 * time.Minute), true}, {"Google has issued it a while ago", now, issued(2 * time.Hour), false},
	} {
		all := stays(tc.wanted, owner, tc.live, gone, at)
		if (len(all) == 1) != tc.stays {
			t.Errorf("%s: %v", tc.name, all)
		}
		if !tc.stays {
			continue
		}
		p := &plan.Plan{Steps: []plan.Step{{ID: old.ID(), Action: plan.Delete, Res: gone[0]}}}
		if serveOn(p, all); len(p.Steps) > 0 || len(p.Notes) != 1 {
			t.Errorf("%s: %v, %v", tc.name, p.Steps, p.Notes)
		}
		g := build("domain: dify.example.com\n", topology.Given{Certificates: []string{all[0].URL()}})
		if got, _ := of(g, kind.TargetHTTPSProxies.Kind).Body["sslCertificates"].([]any); len(got) != 2 || got[0] != of(now, kind.SSLCertificates.Kind).URL() || got[1] != old.URL() {
			t.Errorf("%s: %v is served", tc.name, got)
		}
	}
	if got, _ := of(now, kind.TargetHTTPSProxies.Kind).Body["sslCertificates"].([]any); len(got) != 1 {
		t.Errorf("%v is served", got)
	}
}
