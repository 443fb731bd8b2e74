package compose_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/test/need"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// odd is a password of what a keyboard has, in an order that has broken things: interpolation, quotes, comments, escapes, the
// parts of a URL.
const odd = `a$b'c"d#e f\g%h${X}$$i:j@k/l?m&n=o;p|q~r` + "`s"

// settings are an instance's, and its secrets, all of one value.
func settings(value string) (dify.Settings, map[string]string) {
	s := dify.Settings{
		Stack: "demo", Project: "p", Region: "r", Runtime: "compose", DifyVersion: dify.Default, Domain: "dify.example.com",
		Stores: dify.Stores{
			Database: dify.Database{Host: "db.demo.internal", Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: "vector.demo.internal", Port: 5432, User: "dify", Name: "dify_vector"},
			Redis:    dify.Address{Host: "redis.demo.internal", Port: 6379}, Bucket: "files",
		},
		Machine: dify.Machine{CPUs: 2, MemoryMiB: 8192},
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = value
	}
	return s, secrets
}

func services(t *testing.T, version string, s dify.Settings, secrets map[string]string) []dify.Service {
	t.Helper()
	r, err := dify.Lookup(version)
	if err != nil {
		t.Fatal(err)
	}
	all, err := dify.Project(r, s, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRender compares the project of each release.
func TestRender(t *testing.T) {
	for _, r := range dify.Releases() {
		s, secrets := settings("the-secret")
		files, err := compose.Render("dify", services(t, r.Version, s, secrets), "missing", "")
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string][]byte{r.Version + ".yaml": files.Compose, "squid.conf": files.Squid} {
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (-want +got; -update rewrites it):\n%s", name, d)
			}
		}
	}
}

// TestAuthorities has services that verify stores see the authorities, to read, and nobody else; without a directory of them nothing
// is rendered.
func TestAuthorities(t *testing.T) {
	s, secrets := settings("the-secret")
	s.Stores.Database.TLS, s.Stores.Vector.TLS, s.Stores.Redis.TLS = dify.Verified, dify.Verified, dify.Verified
	all := services(t, dify.Default, s, secrets)
	if _, err := compose.Render("dify", all, "missing", ""); err == nil {
		t.Error("it is rendered without a directory")
	}
	files, err := compose.Render("dify", all, "missing", "/var/lib/authorities")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Services map[string]struct {
			Volumes []struct {
				Type, Source, Target string
				ReadOnly             bool `yaml:"read_only"`
			}
		}
	}
	if err := yaml.Unmarshal(files.Compose, &p); err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			if v.Target == dify.AuthorityDir {
				got = append(got, fmt.Sprintf("%s %s %s read-only %t", name, v.Type, v.Source, v.ReadOnly))
			}
		}
	}
	slices.Sort(got)
	want := []string{"api", "plugin_daemon", "worker", "worker_beat"}
	for i := range want {
		want[i] += " bind /var/lib/authorities read-only true"
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("who sees the authorities (-want +got):\n%s", d)
	}
}

// TestNothingIsOpen reads what is rendered as somebody else would: no port is published, the sandbox leads nowhere,
// and nobody has a right that it does not need.
func TestNothingIsOpen(t *testing.T) {
	for _, r := range dify.Releases() {
		s, secrets := settings("the-secret")
		files, err := compose.Render("dify", services(t, r.Version, s, secrets), "missing", "")
		if err != nil {
			t.Fatal(err)
		}
		var p struct {
			Services map[string]struct {
				Ports    any
				Networks map[string]any
				Env      map[string]string `yaml:"environment"`
				CapDrop  []string          `yaml:"cap_drop"`
				Security []string          `yaml:"security_opt"`
				Restart  string
				Memory   string `yaml:"mem_limit"`
				Volumes  []struct{ Source, Target string }
			}
			Networks map[string]struct {
				Internal bool
				Options  map[string]string `yaml:"driver_opts"`
				IPAM     struct{ Config []struct{ Subnet string } }
			}
		}
		if err := yaml.Unmarshal(files.Compose, &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Services) != len(dify.Names()) {
			t.Errorf("%s: %d services", r.Version, len(p.Services))
		}
		for name, s := range p.Services {
			if s.Ports != nil {
				t.Errorf("%s: %s publishes %v", r.Version, name, s.Ports)
			}
			// Who has an identity is told of it, and shares the network in which it asks with nobody.
			ask := string(dify.Name(name).Ask())
			if _, in := s.Networks[ask]; in != (ask != "") || (s.Env["GCE_METADATA_HOST"] != "") != in || s.Env["GCE_METADATA_IP"] != s.Env["GCE_METADATA_HOST"] {
				t.Errorf("%s: %s is in %v, and asks at %q", r.Version, name, s.Networks, s.Env["GCE_METADATA_HOST"])
			}
			for n := range s.Networks {
				if strings.HasPrefix(n, "ask-") && n != ask {
					t.Errorf("%s: %s is in %s", r.Version, name, n)
				}
			}
			if !slices.Equal(s.CapDrop, []string{"NET_RAW"}) || s.Memory == "" || s.Restart != "on-failure" || (len(s.Security) == 0) != (name == "sandbox") {
				t.Errorf("%s: %s: %+v", r.Version, name, s)
			}
			_, out := s.Networks["outward"]
			if _, names := s.Networks["names"]; out == (name == "sandbox") || names == out { // names: of the sandbox alone
				t.Errorf("%s: %s is in %v", r.Version, name, s.Networks)
			}
			for _, v := range s.Volumes {
				if strings.HasPrefix(v.Source, "/") {
					t.Errorf("%s: %s sees %s of the machine", r.Version, name, v.Source)
				}
			}
		}
		if p.Networks["outward"].Internal || !p.Networks["inward"].Internal {
			t.Errorf("%s: networks %+v", r.Version, p.Networks)
		}
		var seen []netip.Prefix
		for name, n := range p.Networks {
			if n.Internal == (name == "outward" || name == "names") || n.Options["com.docker.network.bridge.name"] != "difyup-"+name || len("difyup-"+name) > 15 {
				t.Errorf("%s: the network %s: %+v", r.Version, name, n)
			}
			if len(n.IPAM.Config) != 1 {
				t.Fatalf("%s: the subnet of %s is not fixed", r.Version, name)
			}
			subnet := netip.MustParsePrefix(n.IPAM.Config[0].Subnet)
			for _, other := range append(seen, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")) {
				if subnet.Overlaps(other) {
					t.Errorf("%s: %s of %s overlaps %s", r.Version, subnet, name, other)
				}
			}
			seen = append(seen, subnet)
		}
	}
}

// TestSquidReads has a real squid read the configuration of the proxy.
func TestSquidReads(t *testing.T) {
	program := squidProgram(t)
	s, secrets := settings("the-secret")
	files, err := compose.Render("dify", services(t, dify.Default, s, secrets), "missing", "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "squid.conf")
	if err := os.WriteFile(file, files.Squid, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "-k", "parse", "-f", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		for _, word := range []string{"WARNING", "ERROR", "FATAL", "bungled", "obsolete"} {
			if strings.Contains(line, word) {
				t.Errorf("squid says: %s", line)
			}
		}
	}
}

// squidProgram gives a squid, and skips a test where there is none.
func squidProgram(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"squid", "/usr/sbin/squid"} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	need.Missing(t, "there is no squid; to install: scripts/install-engine")
	return ""
}
