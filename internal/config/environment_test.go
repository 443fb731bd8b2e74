package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
)

// TestVariables reads what containers are given, for each its own.
func TestVariables(t *testing.T) {
	s, err := config.Parse("difyup.yaml", []byte(smallest+`dify:
  environment:
    api: {RATE: 0.10, TEXT: "a$b'c\"d#e \\ ü\n\t", EMPTY: ""}
    ssrf_proxy:
  environment_secrets:
    plugin_daemon: {TOKEN: my_Token-1@12}
`))
	if err != nil {
		t.Fatal(show(err))
	}
	if d := cmp.Diff(map[dify.Name]map[string]string{dify.API: {"RATE": "0.10", "TEXT": "a$b'c\"d#e \\ ü\n\t", "EMPTY": ""}}, s.Variables()); d != "" {
		t.Errorf("variables (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[dify.Name]map[string]dify.SecretVersion{dify.PluginDaemon: {"TOKEN": {Name: "my_Token-1", Version: 12}}}, s.SecretVariables()); d != "" {
		t.Errorf("secret variables (-want +got):\n%s", d)
	}
}

const smallest = "stack: demo\nproject: demo-project\nregion: asia-northeast1\n"

// TestLargeEnvironment holds variables to what Google and Linux take, in the form in which they are sent.
func TestLargeEnvironment(t *testing.T) {
	parse := func(variables string) string {
		_, err := config.Parse("difyup.yaml", []byte(smallest+"dify:\n  environment:\n    web: {SMALL: x}\n    api:\n"+variables))
		return show(err)
	}
	line := func(name, what string, n int) string {
		return "      " + name + ": '" + strings.Repeat(what, n) + "'\n"
	}
	for _, tc := range []struct{ name, variables, want string }{
		{"as much as there is room for", line("A", "x", 120_000) + line("B", "x", 120_000), ""},
		{"more", line("A", "x", 120_000) + line("B", "x", 126_000), "Environment is too large"},
		{"more as it is sent", line("A", "<", 45_000), "Environment is too large"},
		{"more than a program can be given", line("A", "x", 131_070), "Value is too long"},
		{"as much as a program can be given", line("A", "x", 131_069), ""},
	} {
		if got := parse(tc.variables); tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) || len(got) > 2_000_000 {
			t.Errorf("%s: %.300s, want %q", tc.name, got, tc.want)
		}
	}
	if got := parse(line("A", "x", 120_000) + line("B", "x", 126_000)); !strings.Contains(got, "Google takes 262144 in one value") || !strings.Contains(got, "those of `api` take the most") {
		t.Errorf("the reason is missing: %.300s", got)
	}
}
