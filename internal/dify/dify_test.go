package dify_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
)

func TestLookup(t *testing.T) {
	r, err := dify.Lookup("1.16.1")
	if err != nil || r.PluginDaemon != "0.6.8" {
		t.Errorf("1.16.1: %v, %v", r, err)
	}
	if _, err := dify.Lookup(dify.Default); err != nil {
		t.Errorf("the default release is unknown: %v", err)
	}
	for version, want := range map[string]string{"1.9.0": "service account's key", "2.0.0": "does not know", "latest": "does not know"} {
		if _, err := dify.Lookup(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

// TestReleases checks what others count on: the order, and that no row is half a row.
func TestReleases(t *testing.T) {
	tag := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	head := regexp.MustCompile(`^[0-9a-f]{12}$`)
	all := dify.Releases()
	for i, r := range all {
		if !tag.MatchString(r.Version) || !tag.MatchString(r.PluginDaemon) || !tag.MatchString(r.Sandbox) || r.Schema != "" && !head.MatchString(r.Schema) {
			t.Errorf("%+v", r)
		}
		if i > 0 && !dify.Older(all[i-1].Version, r.Version) {
			t.Errorf("%s stands before %s", all[i-1].Version, r.Version)
		}
		for _, n := range r.Notes {
			if !strings.HasSuffix(n, ".") {
				t.Errorf("%s: %q is no sentence", r.Version, n)
			}
		}
	}
	for _, tc := range []struct {
		a, b string
		want bool
	}{{"1.9.0", "1.14.2", true}, {"1.14.2", "1.14.2", false}, {"1.17.1", "1.17.0", false}, {"latest", "1.14.2", false}, {"1.14", "1.14.2", true}} {
		if dify.Older(tc.a, tc.b) != tc.want {
			t.Errorf("Older(%s, %s) is not %t", tc.a, tc.b, tc.want)
		}
	}
}

func TestRouteFor(t *testing.T) {
	want := map[string]dify.Name{
		"/": dify.Web, "": dify.Web, "/apps": dify.Web, "/explore": dify.Web, "/explore/apps": dify.Web, "/_next/static/a.js": dify.Web,
		"/apiary": dify.Web, "/v10": dify.Web, "/evil": dify.Web, "/console": dify.Web, "/filesystem": dify.Web,
		"/console/api": dify.API, "/console/api/setup": dify.API, "/api": dify.API, "/api/": dify.API, "/v1/chat-messages": dify.API,
		"/openapi/v1": dify.API, "/files/x/y": dify.API, "/mcp/server/x/mcp": dify.API, "/triggers/webhook/x": dify.API, "/socket.io/": dify.API,
		"/e/hook": dify.PluginDaemon, "/e": dify.PluginDaemon, "/inner/api": "", "/inner/api/invoke/llm": "", "/inner": dify.Web,
	}
	got := map[string]dify.Name{}
	for path := range want {
		got[path] = dify.RouteFor(path).Service
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("services by path (-want +got):\n%s", d)
	}
	for _, r := range dify.Routes() {
		if r.Service != "" && !slices.Contains(dify.Services(), r.Service) {
			t.Errorf("%s goes to %q, which is not among the services", r.Prefix, r.Service)
		}
	}
}

// TestBetween checks what is said of a change of the release, and of which releases.
func TestBetween(t *testing.T) {
	said := func(c *dify.Change) string {
		if c == nil {
			return "none"
		}
		text := c.From + " to " + c.To
		if c.Migrates {
			text += ", migrates"
		}
		for _, n := range c.Notes {
			text += "; " + strings.Join(n.Versions, " ") + ": " + strings.Fields(n.Text)[1]
		}
		return text
	}
	for _, tc := range []struct{ from, to, want string }{
		{"1.17.1", "1.17.1", "none"},
		{"1.14.2", "1.17.1", "1.14.2 to 1.17.1, migrates; 1.15.0 1.16.0 1.16.1 1.17.0 1.17.1: agent; 1.15.0: that; 1.17.1: migration"},
		{"1.15.0", "1.17.0", "1.15.0 to 1.17.0, migrates"}, // what held before is no news
		{"1.17.0", "1.17.1", "1.17.0 to 1.17.1, migrates; 1.17.1: migration"},
		{"1.17.1", "1.16.0", "1.17.1 to 1.16.0"},
		{"1.13.0", "1.14.2", "1.13.0 to 1.14.2, migrates"},
		{"1.17.1", "1.18.0", "1.17.1 to 1.18.0, migrates"},
		{"1.16.0", "1.18.0", "1.16.0 to 1.18.0, migrates; 1.17.1: migration"},
		{"1.17.1", "1.17.1-fix.1", "1.17.1 to 1.17.1-fix.1, migrates"}, // which of them is the older one is not known
	} {
		if got := said(dify.Between(tc.from, tc.to)); got != tc.want {
			t.Errorf("%s to %s (-want +got):\n%s", tc.from, tc.to, cmp.Diff(tc.want, got))
		}
	}
}
