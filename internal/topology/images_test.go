package topology_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/topology"
)

const three = "stack: demo\nproject: demo-project\nregion: us-east1\n"

// TestImages checks which images registries are asked for, what each follows from, and what people are told of them.
func TestImages(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0123", 16)
	for _, tc := range []struct {
		name, dify string
		images     []topology.Image
		notes      []string
	}{
		{
			name: "a release", dify: "{version: 1.17.1}",
			images: []topology.Image{
				{"langgenius/dify-api:1.17.1", "dify.version"}, {"langgenius/dify-plugin-daemon:0.6.10-local", "dify.version"},
				{"langgenius/dify-sandbox:0.2.15", "dify.version"}, {"langgenius/dify-web:1.17.1", "dify.version"}, {"ubuntu/squid:6.6-24.04_beta", "dify.version"},
			},
		},
		{
			name: "another tag, and a mirror", dify: "{registry: m.example.com, images: {sandbox: 0.2.16}}",
			images: []topology.Image{
				{"m.example.com/langgenius/dify-api:1.17.1", "dify.version"}, {"m.example.com/langgenius/dify-plugin-daemon:0.6.10-local", "dify.version"},
				{"m.example.com/langgenius/dify-sandbox:0.2.16", "dify.images.sandbox"}, {"m.example.com/langgenius/dify-web:1.17.1", "dify.version"},
				{"m.example.com/ubuntu/squid:6.6-24.04_beta", "dify.version"},
			},
		},
		{
			name: "a release that is not known, and one image for two services",
			dify: "{version: 1.16.5, registry: m.example.com, images: {api: ghcr.io/acme/all:1, web: ghcr.io/acme/all:1, plugin_daemon: langgenius/dify-plugin-daemon:0.7.0-local, " +
				"sandbox: acme/box:1" + digest + ", ssrf_proxy: ubuntu/squid" + digest + "}}",
			images: []topology.Image{{"ghcr.io/acme/all:1", "dify.images.api"}, {"langgenius/dify-plugin-daemon:0.7.0-local", "dify.images.plugin_daemon"}},
			notes: []string{
				"Dify 1.16.5 is not among the releases that difyup knows: it is given the settings, routes and memory of 1.16.1, the nearest before it.",
				"Images of other repositories than Dify's are run: ghcr.io/acme/all:1 for api, ghcr.io/acme/all:1 for web, acme/box:1" + digest + " for sandbox.",
			},
		},
	} {
		spec, err := config.Parse("difyup.yaml", []byte(three+"dify: "+tc.dify+"\n"))
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if d := cmp.Diff(tc.images, topology.Images(spec)); d != "" {
			t.Errorf("%s: images (-want +got):\n%s", tc.name, d)
		}
		if d := cmp.Diff(tc.notes, topology.Notes(spec)); d != "" {
			t.Errorf("%s: notes (-want +got):\n%s", tc.name, d)
		}
	}
}
