package dify_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
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

// TestChoose checks which releases run with images of the user's, whose settings those get that are not known, and why others
// are refused.
func TestChoose(t *testing.T) {
	whole := func(but ...dify.Name) map[dify.Name]string {
		all := map[dify.Name]string{}
		for _, n := range dify.Imaged() {
			if !slices.Contains(but, n) {
				all[n] = "x"
			}
		}
		return all
	}
	for _, tc := range []struct {
		version string
		images  map[dify.Name]string
		like    string
		schema  string
		says    string // in the fault
	}{
		{version: "1.17.1", schema: "c3f1a9b2e6d4"},
		{version: "1.17.1", images: whole(dify.API), schema: "c3f1a9b2e6d4"},
		{version: "1.17.1", images: map[dify.Name]string{dify.API: "x"}}, // whose migrations may be others
		{version: "1.99.0", images: whole(), like: "1.17.1"},
		{version: "2.0.0-rc.1", images: whole(), like: "1.17.1"},
		{version: "1.17.1-mine.1", images: whole(), like: "1.17.1"},
		{version: "1.16.5", images: whole(), like: "1.16.1"},
		{version: "1.14.3", images: whole(), like: "1.14.2"},
		{version: "1.99.0", says: "Or name every image:\n    images:\n      api: 1.99.0\n      web: 1.99.0\n      plugin_daemon: VERSION-local\n"},
		{version: "1.99.0", images: whole(dify.Web, dify.SSRFProxy), says: "has none for web, ssrf_proxy"},
		{version: "1.14.1", images: whole(), says: "a newer daemon"},
		{version: "1.14.1", says: "service account's key"},
		{version: "main", images: whole(), says: "three numbers"},
		{version: "main", says: "does not know"},
		{version: "1.99", images: whole(), says: "three numbers"},
		{version: "1.99.0 x", images: whole(), says: "three numbers"},
		{version: "99999999999999999999.0.0", images: whole(), says: "three numbers"},
	} {
		r, err := dify.Choose(tc.version, tc.images)
		if tc.says != "" {
			if err == nil || !strings.Contains(err.Error()+"\n"+fault.All(err)[0].Remedy, tc.says) {
				t.Errorf("%s with %v: got %v, want %q", tc.version, tc.images, err, tc.says)
			}
			continue
		}
		if err != nil || r.Version != tc.version || r.Like != tc.like || r.Schema != tc.schema {
			t.Errorf("%s with %v: got %+v, %v", tc.version, tc.images, r, err)
		}
	}
}

// TestImages checks how the user's images, the release's and a mirror go together.
func TestImages(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	r, err := dify.Lookup("1.17.1")
	if err != nil {
		t.Fatal(err)
	}
	got := dify.Images(r, dify.Settings{Registry: "mirror.example.com/hub", Images: map[dify.Name]string{
		dify.API: "1.17.1-mine.1", dify.PluginDaemon: "ghcr.io:443/acme/daemon:7", dify.Sandbox: "acme/sandbox:7" + digest,
	}})
	want := map[dify.Name]string{
		dify.API: "mirror.example.com/hub/langgenius/dify-api:1.17.1-mine.1", dify.Worker: "mirror.example.com/hub/langgenius/dify-api:1.17.1-mine.1",
		dify.WorkerBeat: "mirror.example.com/hub/langgenius/dify-api:1.17.1-mine.1", dify.Web: "mirror.example.com/hub/langgenius/dify-web:1.17.1",
		dify.PluginDaemon: "ghcr.io:443/acme/daemon:7", dify.Sandbox: "acme/sandbox:7" + digest, dify.SSRFProxy: "mirror.example.com/hub/ubuntu/squid:6.6-24.04_beta",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("images (-want +got):\n%s", d)
	}
	for image, want := range map[string][3]string{
		"1.17.1": {"", "1.17.1", ""}, "a/b:1": {"a/b", "1", ""}, "h:5/b": {"h:5/b", "", ""}, "h:5/b:1" + digest: {"h:5/b", "1", digest[1:]}, "b" + digest: {"b", "", digest[1:]}, "": {},
	} {
		if repository, tag, digest := dify.SplitImage(image); want != [3]string{repository, tag, digest} {
			t.Errorf("%q: %q, %q, %q", image, repository, tag, digest)
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
