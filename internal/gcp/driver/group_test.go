//go:build linux

package driver_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// TestNamedPorts changes a group, and looks at what is sent: its named ports go to the other face of it, and nothing else does.
func TestNamedPorts(t *testing.T) {
	const (
		region  = "/compute/v1/projects/demo-project/regions/r1/"
		patch   = "PATCH " + region + "instanceGroupManagers/g"
		ports   = "POST " + region + "instanceGroups/g/setNamedPorts"
		done    = `200 {"kind":"compute#operation","status":"DONE"}`
		policy  = patch + ` {"fingerprint":"f","updatePolicy":{"type":"PROACTIVE"}}`
		setting = ports + ` {"namedPorts":[{"name":"http","port":1080}]}`
	)
	body := map[string]any{"namedPorts": []any{map[string]any{"name": "http", "port": 1080}}, "updatePolicy": map[string]any{"type": "PROACTIVE"}}
	r := &resource.Resource{Kind: kind.RegionInstanceGroupManagers.Kind, Name: "g", Params: params("region", "r1"), Body: body}
	for _, tc := range []struct {
		name    string
		changed []resource.Path
		want    []string
	}{
		{"ports", []resource.Path{"namedPorts[name=http].port"}, []string{setting}},
		{"all ports", []resource.Path{"namedPorts"}, []string{setting}},
		{"a policy", []resource.Path{"updatePolicy.type"}, []string{policy}},
		{"both", []resource.Path{"namedPorts", "updatePolicy.type"}, []string{policy, setting}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, a := scripted(t, map[string][]string{patch: {done}, ports: {done}})
			must(t, c.Update(t.Context(), r, body, map[string]any{"fingerprint": "f"}, tc.changed))
			if d := cmp.Diff(tc.want, a.asked); d != "" {
				t.Errorf("sent (-want +got):\n%s", d)
			}
		})
	}
}
