package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/dify"
)

// TestWhoIsGivenWhat compares who gets a token, and for what, with what was agreed; and the boundaries with what Google takes, for
// the longest name that a bucket can have.
func TestWhoIsGivenWhat(t *testing.T) {
	a := &agent{google: &google{}, settings: dify.Settings{
		Project: "p", Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192}, Stores: dify.Stores{Bucket: strings.Repeat("b", 63)},
	}}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = "secret"
	}
	for _, r := range dify.Releases() {
		services, err := dify.Project(r, a.settings, secrets)
		if err != nil {
			t.Fatal(err)
		}
		tokens := a.narrowed(t.Context(), services)
		var who []string
		for n, s := range tokens {
			who = append(who, string(n))
			var options struct {
				Boundary json.RawMessage `json:"accessBoundary"`
			}
			if err := json.Unmarshal([]byte(s.Boundary), &options); err != nil || len(options.Boundary) > 2048 {
				t.Errorf("%s: the boundary of %s has %d characters: %v", r.Version, n, len(options.Boundary), err)
			}
			if s.Endpoint != "https://sts." { // and the universe's domain, which nobody told here
				t.Errorf("it is asked of %s", s.Endpoint)
			}
		}
		slices.Sort(who)
		if !slices.Equal(who, []string{"api", "plugin_daemon", "worker"}) {
			t.Errorf("%s: tokens are given to %v", r.Version, who)
		}
		daemon := services[slices.IndexFunc(services, func(s dify.Service) bool { return s.Name == dify.PluginDaemon })]
		for _, name := range []string{"PLUGIN_INSTALLED_PATH", "PLUGIN_PACKAGE_CACHE_PATH", "PLUGIN_MEDIA_CACHE_PATH", "PERSISTENCE_STORAGE_PATH"} {
			if object := strings.TrimSuffix(daemon.Environment[name], "/") + "/x"; !slices.ContainsFunc(daemon.Identity.Objects, func(p string) bool { return p != "" && strings.HasPrefix(object, p) }) {
				t.Errorf("%s: the daemon may not use what is below %s=%s", r.Version, name, daemon.Environment[name])
			}
		}
		// What Dify itself keeps in the bucket.
		for _, object := range []string{"privkeys/t/private.pem", "upload_files/t/f", "image_files/t/f", "website_files/t/f", "tools/t/f", "keyword_files/t/f", "plugin", "difyup-probe/vm-1"} {
			if slices.ContainsFunc(daemon.Identity.Objects, func(p string) bool { return strings.HasPrefix(object, p) }) {
				t.Errorf("%s: the daemon may use %s", r.Version, object)
			}
		}
	}
}
