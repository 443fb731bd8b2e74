package group

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// bodies are resources by key.
type bodies map[string]map[string]any

func (b bodies) Get(key string) (map[string]any, bool) {
	body, ok := b[key]
	return body, ok
}

func (b bodies) List(string) []map[string]any { return nil }

// TestOrdered checks that a group rests while instances that have orders end their old lives, which may take long, and that a
// newer order counts.
func TestOrdered(t *testing.T) {
	const manager, templates = "projects/p/regions/r/instanceGroupManagers/g", "projects/p/global/instanceTemplates/"
	for _, tc := range []struct {
		name   string
		method string   // of replacement
		action string   // the minimal one
		orders []string // TEMPLATE VERSION, one after the other
		want   string   // the order that is left, and what is running meanwhile
	}{
		{"recreate", "RECREATE", "REPLACE", []string{"new 1"}, "recreate new 1, RECREATING old 0"},
		{"recreate, and another version", "RECREATE", "REPLACE", []string{"new 1", "newer 2"}, "recreate newer 2, RECREATING old 0"},
		{"restart", "SUBSTITUTE", "RESTART", []string{"old 1"}, "restart old 1, RESTARTING old 0"},
		{"restart, and another name", "SUBSTITUTE", "RESTART", []string{"old 1", "old 2"}, "restart old 2, RESTARTING old 0"},
		{"recreate, where a restart would do then", "RECREATE", "RESTART", []string{"new 1", "new 2"}, "recreate new 2, RECREATING old 0"},
		{"recreate, where a name would do then", "RECREATE", "NONE", []string{"new 1", "new 2"}, "recreate new 2, RECREATING old 0"},
	} {
		resources := bodies{}
		g := newGroup(&Groups{opts: Options{Resources: resources}}, manager)
		v := &vm{g: g, name: "a", zone: "r-a", template: templates + "old", version: "0", status: statusRunning, action: actionNone, wake: make(chan struct{}, 1)}
		g.vms[v.name] = v
		for _, o := range tc.orders {
			var template, version string
			fmt.Sscan(o, &template, &version)
			resources[manager] = map[string]any{
				"targetSize": 1, "versions": []any{map[string]any{"instanceTemplate": wire.Link(templates + template), "name": version}},
				"updatePolicy": map[string]any{"type": "PROACTIVE", "minimalAction": tc.action, "replacementMethod": tc.method, "maxSurge": map[string]any{"fixed": 0}, "maxUnavailable": map[string]any{"fixed": 1}},
			}
			rounds := 0
			for g.poke(); len(g.wake) > 0 && rounds < 1000; rounds++ {
				<-g.wake
				g.reconcile(t.Context())
			}
			if rounds > 3 {
				t.Errorf("%s: the group looked at itself %d times after %q", tc.name, rounds, o)
			}
		}
		got := "none"
		if v.pending != nil {
			got = fmt.Sprintf("%s %s %s, %s %s %s", v.pending.act, wire.Name(v.pending.template), v.pending.version, v.action, wire.Name(v.template), v.version)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}
