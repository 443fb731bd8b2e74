package topology_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/difyup/difyup/internal/test/boot"
	"github.com/difyup/difyup/internal/test/need"
)

// userData gives the user data of a template's metadata, and puts the files that it writes below a directory.
func userData(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile("../../examples/difyup.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, r := range build(t, "difyup.yaml", data).Resources() {
		var template struct {
			Properties struct {
				Metadata struct{ Items []struct{ Key, Value string } }
			}
		}
		raw, err := json.Marshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind.Name != "compute.instanceTemplates" {
			continue
		}
		if err := json.Unmarshal(raw, &template); err != nil {
			t.Fatal(err)
		}
		for _, item := range template.Properties.Metadata.Items {
			if item.Key == "user-data" {
				text = item.Value
			}
		}
	}
	var parsed struct {
		Files []struct {
			Path, Permissions, Content string
		} `yaml:"write_files"`
	}
	if err := yaml.Unmarshal([]byte(text), &parsed); err != nil || len(parsed.Files) == 0 {
		t.Fatalf("the user data have %d files: %v", len(parsed.Files), err)
	}
	for _, f := range parsed.Files {
		path, mode := filepath.Join(dir, f.Path), os.FileMode(0o644)
		if f.Permissions == "0755" {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.Content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return text
}

// TestUserData has those who know judge the user data: cloud-init its shape, shellcheck the scripts, systemd the units, JSON's
// parser Docker's settings.
func TestUserData(t *testing.T) {
	dir := t.TempDir()
	text := userData(t, dir)
	run := func(t *testing.T, env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(name), err, out)
		}
		return string(out)
	}
	t.Run("order", func(t *testing.T) {
		var said struct {
			Files []struct{ Path string } `yaml:"write_files"`
			Run   [][]string              `yaml:"runcmd"`
		}
		if err := yaml.Unmarshal([]byte(text), &said); err != nil {
			t.Fatal(err)
		}
		at := func(words ...string) int {
			return slices.IndexFunc(said.Run, func(c []string) bool { return slices.Equal(c, words) })
		}
		for _, f := range said.Files { // what runs already does not read what is written for it now
			if m := regexp.MustCompile(`^/etc/systemd/([a-z]+)\.conf\.d/`).FindStringSubmatch(f.Path); m != nil && at("systemctl", "try-restart", "systemd-"+m[1]+".service") < 0 {
				t.Errorf("nobody reads %s", f.Path)
			}
		}
		if disk, mark := at("sync"), at("touch", "/var/lib/difyup/configured"); disk < 0 || mark < disk {
			t.Errorf("that all is written is said at step %d, and it is on the disk after step %d", mark, disk)
		}
	})
	t.Run("schema", func(t *testing.T) {
		need.Missing(t, boot.MissingCloudInit())
		file := filepath.Join(t.TempDir(), "user-data")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, []string{"PYTHONPATH=" + boot.CloudInit + "/usr/lib/python3/dist-packages"},
			"/usr/bin/python3", boot.CloudInit+"/usr/bin/cloud-init", "schema", "--config-file", file)
	})
	t.Run("scripts", func(t *testing.T) {
		need.Missing(t, boot.MissingProgram("shellcheck"))
		scripts, err := filepath.Glob(filepath.Join(dir, "usr/local/sbin/*"))
		if err != nil || len(scripts) != 2 {
			t.Fatalf("the scripts %v, %v", scripts, err)
		}
		run(t, nil, "shellcheck", scripts...)
	})
	t.Run("units", func(t *testing.T) {
		need.Missing(t, boot.MissingProgram("systemd-analyze"))
		// Programs are looked for where they will be: the agent comes later, and other units are of Docker and of the system.
		agent := filepath.Join(dir, "usr/local/bin/difyup-agent")
		if err := os.MkdirAll(filepath.Dir(agent), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(agent, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		units, err := filepath.Glob(filepath.Join(dir, "etc/systemd/system/*.service"))
		if err != nil || len(units) != 2 {
			t.Fatalf("the units %v, %v", units, err)
		}
		for _, unit := range units {
			raw, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			raw = bytes.ReplaceAll(raw, []byte("/usr/local/"), []byte(dir+"/usr/local/"))
			if err := os.WriteFile(unit, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out := run(t, nil, "systemd-analyze", append([]string{"--man=no", "verify"}, units...)...); out != "" {
			t.Errorf("systemd-analyze verify says:\n%s", out)
		}
		// 10 is a service that may do everything.
		run(t, nil, "systemd-analyze", "security", "--offline=true", "--threshold=25", filepath.Join(dir, "etc/systemd/system/difyup-agent.service"))
	})
	t.Run("docker", func(t *testing.T) {
		raw, err := os.ReadFile(filepath.Join(dir, "etc/docker/daemon.json"))
		if err != nil {
			t.Fatal(err)
		}
		var settings map[string]any
		if err := json.Unmarshal(raw, &settings); err != nil {
			t.Error(err)
		}
	})
	t.Run("size", func(t *testing.T) {
		if len(text) > 100<<10 { // Google allows 256 KiB for a value, and 512 KB for all
			t.Errorf("the user data have %d bytes", len(text))
		}
	})
	t.Run("nothing of the stack", func(t *testing.T) {
		// What the agent must know stands in the metadata, and what nobody may know in Secret Manager.
		if found := regexp.MustCompile(`(?i)demo|password|secret[^s ]|api[_-]?key`).FindString(strings.ReplaceAll(text, "no secret here", "")); found != "" {
			t.Errorf("the user data say %q", found)
		}
	})
}
