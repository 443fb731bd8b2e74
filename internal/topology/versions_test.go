package topology_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// TestVersions decides which versions of secrets count. The plugins' key and the database's password stand for those that can
// be changed by other instances and those that cannot; Redis makes its own.
func TestVersions(t *testing.T) {
	data, err := os.ReadFile("../../examples/difyup.yaml")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := config.Parse("difyup.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	annotated := func(pairs ...string) map[string]any {
		a := map[string]any{}
		for p := range slices.Chunk(pairs, 2) {
			a[p[0]] = p[1]
		}
		return map[string]any{"annotations": a}
	}
	template := func(settings string) map[string]any {
		return map[string]any{"properties": map[string]any{"metadata": map[string]any{"items": []any{
			map[string]any{"key": "difyup-agent", "value": "x"}, map[string]any{"key": "difyup-config", "value": settings},
		}}}}
	}
	const (
		plugin, db, auth    = "secretmanager.secrets/demo-plugin-key", "secretmanager.secrets/demo-db-password", "secretmanager.secrets/demo-redis-auth"
		redis, old, current = "redis.instances/demo-redis", "compute.instanceTemplates/demo-vm-1", "compute.instanceTemplates/demo-vm-2"
	)
	pins := func(versions ...string) map[string]any {
		var secrets []string
		for _, v := range versions {
			secrets = append(secrets, fmt.Sprintf("%q:%q", v, "demo-"+v))
		}
		return template(`{"secrets":{` + strings.Join(secrets, ",") + `}}`)
	}
	type live = map[resource.ID]map[string]any
	for _, tc := range []struct {
		name   string
		live   live
		newest int // of any secret, in Secret Manager
		cutOff bool
		want   map[string]topology.Version // but {1, 1}
		notes  []string                    // what each begins with
		fault  string
	}{
		{name: "nothing is there"},
		{name: "all is as it was made", live: live{plugin: annotated("difyup-version", "1"), current: pins("plugin-key@1")}},
		{name: "another version was chosen", live: live{plugin: annotated("difyup-version", "1", "difyup-use", "3"), current: pins("plugin-key@1")},
			want: map[string]topology.Version{"PLUGIN_DAEMON_KEY": {Added: 1, Used: 3}}, notes: []string{"Instances get version 3 of the secret demo-plugin-key in place of 1:"}},
		{name: "and is used", live: live{plugin: annotated("difyup-version", "1", "difyup-use", "3"), old: pins("plugin-key@1"), current: pins("plugin-key@3")},
			want: map[string]topology.Version{"PLUGIN_DAEMON_KEY": {Added: 1, Used: 3}}},
		{name: "another version was chosen of a password", live: live{db: annotated("difyup-version", "1", "difyup-use", "3"), current: pins("db-password@1")},
			notes: []string{"The secret demo-db-password stays at version 1, though its annotation difyup-use asks for 3:"}},
		{name: "the one that is used was chosen", live: live{db: annotated("difyup-version", "2", "difyup-use", "2"), current: pins("db-password@2"), plugin: annotated("difyup-version", "2")},
			want: map[string]topology.Version{"DB_PASSWORD": {Added: 2, Used: 2}, "PLUGIN_DAEMON_KEY": {Added: 2, Used: 2}}},
		{name: "no version was chosen", live: live{plugin: annotated("difyup-version", "1", "difyup-use", "latest")}, fault: `difyup-use of the secret demo-plugin-key is "latest"`},
		{name: "one is gone", live: live{plugin: annotated("difyup-version", "2"), current: pins("plugin-key@2", "db-password@2")},
			want: map[string]topology.Version{"DB_PASSWORD": {Added: 3, Used: 3}, "PLUGIN_DAEMON_KEY": {Added: 2, Used: 2}}, notes: []string{"Instances get version 3 of the secret demo-db-password in place of 2:"}},
		{name: "one was never made, since the run was cut off", live: live{plugin: annotated("difyup-version", "1"), current: pins("plugin-key@1", "db-password@1")}, cutOff: true},
		{name: "one that was gone was not made again, since the run was cut off", live: live{plugin: annotated("difyup-version", "2"), current: pins("plugin-key@2", "db-password@2")}, cutOff: true,
			want: map[string]topology.Version{"DB_PASSWORD": {Added: 2, Used: 2}, "PLUGIN_DAEMON_KEY": {Added: 2, Used: 2}}},
		{name: "half made, without a value", live: live{plugin: {}}},
		{name: "half made, with a value", live: live{plugin: {}, current: pins("plugin-key@1", "db-password@1"), db: annotated("difyup-version", "1")}, newest: 1},
		{name: "an earlier difyup's", live: live{plugin: annotated("difyup-complete", "1"), current: pins("plugin-key")}, newest: 4,
			want: map[string]topology.Version{"PLUGIN_DAEMON_KEY": {Added: 4, Used: 4}}},
		{name: "Redis is there", live: live{auth: annotated("difyup-version", "2"), redis: {}}, want: map[string]topology.Version{"REDIS_AUTH": {Added: 2, Used: 2}}},
		{name: "Redis is gone", live: live{auth: annotated("difyup-version", "2"), current: pins("redis-auth@2")}, newest: 3,
			want: map[string]topology.Version{"REDIS_AUTH": {Added: 4, Used: 4}}, notes: []string{"Instances get version 4 of the secret demo-redis-auth in place of 2:"}},
		{name: "Google does not say", live: live{plugin: {}}, newest: -1, fault: "no answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, notes, err := topology.ReadVersions(spec, tc.live, !tc.cutOff, func(resource.ID) (int, error) {
				if tc.newest < 0 {
					return 0, errors.New("no answer")
				}
				return tc.newest, nil
			})
			if tc.fault != "" {
				if err == nil || !strings.Contains(fmt.Sprintf("%v %+v", err, err), tc.fault) {
					t.Errorf("got %v, want %q", err, tc.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for purpose, v := range got {
				if v == (topology.Version{Added: 1, Used: 1}) {
					delete(got, purpose)
				}
			}
			if len(tc.want)+len(got) > 0 {
				if d := cmp.Diff(topology.Versions(tc.want), got); d != "" {
					t.Errorf("versions (-want +got):\n%s", d)
				}
			}
			if !slices.EqualFunc(notes, tc.notes, strings.HasPrefix) {
				t.Errorf("notes %q, want %q", notes, tc.notes)
			}
		})
	}
}
