package driver_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// flagsOfGoogle is an answer of Cloud SQL's, cut short.
const flagsOfGoogle = `{"kind":"sql#flagsList","items":[
	{"name":"max_connections","type":"INTEGER","appliesTo":["POSTGRES_16","MYSQL_8_0"],"minValue":"14","maxValue":"262143","requiresRestart":true},
	{"name":"autovacuum_vacuum_cost_limit","type":"INTEGER","appliesTo":["POSTGRES_16"],"minValue":"0","maxValue":"10000","allowedIntValues":["-1"]},
	{"name":"checkpoint_completion_target","type":"FLOAT","appliesTo":["POSTGRES_16"],"minValue":"0","maxValue":"1"},
	{"name":"autovacuum","type":"BOOLEAN","appliesTo":["POSTGRES_16"]},
	{"name":"log_statement","type":"STRING","appliesTo":["POSTGRES_16"],"allowedStringValues":["none","ddl","mod","all"]},
	{"name":"pgaudit.log","type":"REPEATED_STRING","appliesTo":["POSTGRES_16"],"allowedStringValues":["read","write","all"]},
	{"name":"skip_name","type":"NONE","appliesTo":["POSTGRES_16"]},
	{"name":"future","type":"SOMETHING_NEW","appliesTo":["POSTGRES_16"]},
	{"name":"innodb_buffer_pool_size","type":"INTEGER","appliesTo":["MYSQL_8_0"]}]}`

func instance(flags ...string) *resource.Resource {
	var list []any
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		list = append(list, map[string]any{"name": name, "value": value})
	}
	return &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params(), Body: map[string]any{
		"databaseVersion": "POSTGRES_16", "settings": map[string]any{"databaseFlags": list},
	}}
}

// TestFlags says what is told of flags that Cloud SQL would refuse, and when it is asked for its list: once for a version.
func TestFlags(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/flags" || r.URL.Query().Get("databaseVersion") != "POSTGRES_16" {
			t.Errorf("asked for %s %s", r.Method, r.URL)
		}
		asked++
		fmt.Fprint(w, flagsOfGoogle)
	}))
	defer server.Close()
	c := connect(t, server.URL, "")
	for _, changed := range [][]resource.Path{{}, {"settings.tier"}, {"settings.databaseFlagsOfOthers"}} {
		if refused, err := c.Refused(t.Context(), instance("nonsense=1"), changed); err != nil || refused != nil || asked != 0 {
			t.Errorf("a change of %v asks for the list: %v, %v, %d requests", changed, refused, err, asked)
		}
	}
	for flag, want := range map[string]string{
		"max_connections=600":              "",
		"autovacuum_vacuum_cost_limit=-1":  "",
		"checkpoint_completion_target=0.9": "",
		"autovacuum=off":                   "",
		"log_statement=ddl":                "",
		"pgaudit.log=all,-READ":            "",
		"skip_name=":                       "",
		"future=anything":                  "",
		"max_conections=600":               "Unknown database flag: sql.instances/demo-main: Cloud SQL has no flag `max_conections` for PostgreSQL 16. > Did you mean `max_connections`?",
		"archive_command=/bin/sh":          "Unknown database flag: sql.instances/demo-main: Cloud SQL has no flag `archive_command` for PostgreSQL 16. > Remove it. Flags that Google does not offer cannot be set.",
		"innodb_buffer_pool_size=1":        "Unknown database flag: sql.instances/demo-main: Cloud SQL has no flag `innodb_buffer_pool_size` for PostgreSQL 16. > Remove it. Flags that Google does not offer cannot be set.",
		"max_connections=1":                "Invalid database flag value: sql.instances/demo-main: The flag `max_connections` cannot be `1`. It takes a whole number from 14 to 262143. > Write one of these values, or remove the flag.",
		"max_connections=1e3":              "Invalid database flag value: sql.instances/demo-main: The flag `max_connections` cannot be `1e3`. It takes a whole number from 14 to 262143. > Write one of these values, or remove the flag.",
		"autovacuum_vacuum_cost_limit=-2":  "Invalid database flag value: sql.instances/demo-main: The flag `autovacuum_vacuum_cost_limit` cannot be `-2`. It takes a whole number from 0 to 10000 or -1. > Write one of these values, or remove the flag.",
		"checkpoint_completion_target=NaN": "Invalid database flag value: sql.instances/demo-main: The flag `checkpoint_completion_target` cannot be `NaN`. It takes a number from 0 to 1. > Write one of these values, or remove the flag.",
		"autovacuum=onn":                   "Invalid database flag value: sql.instances/demo-main: The flag `autovacuum` cannot be `onn`. It takes on or off. > Did you mean `on`?",
		"log_statement=DLD":                "Invalid database flag value: sql.instances/demo-main: The flag `log_statement` cannot be `DLD`. It takes none, ddl, mod or all. > Did you mean `ddl`?",
		"pgaudit.log=read,everything":      "Invalid database flag value: sql.instances/demo-main: The flag `pgaudit.log` cannot be `read,everything`. It takes a list of read, write or all, separated by commas. > Write one of these values, or remove the flag.",
		"skip_name=on":                     "Invalid database flag value: sql.instances/demo-main: The flag `skip_name` cannot be `on`. It takes no value. > Write one of these values, or remove the flag.",
	} {
		refused, err := c.Refused(t.Context(), instance(flag), nil)
		must(t, err)
		got := ""
		for _, r := range refused {
			name, _, _ := strings.Cut(flag, "=")
			if r.Path != resource.Path("settings.databaseFlags[name="+name+"]") {
				t.Errorf("%s: its path is %s", flag, r.Path)
			}
			got += r.Fault.Summary + ": " + r.Fault.Detail + " > " + r.Fault.Remedy
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", flag, d)
		}
	}
	if asked != 1 {
		t.Errorf("%d requests for one version, not 1", asked)
	}
	// What could not be asked while planning is refused before it is sent.
	for name, err := range map[string]error{
		"create": c.Create(t.Context(), instance("nonsense=1"), instance("nonsense=1").Body),
		"update": c.Update(t.Context(), instance("nonsense=1"), instance("nonsense=1").Body, nil, []resource.Path{"settings.databaseFlags"}),
	} {
		if all := fault.All(err); len(all) != 1 || all[0].Summary != "Unknown database flag" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFlagsOutOfReach checks that a list which Google does not give refuses nothing and is asked for again, and that the list, which is
// of no project, is asked for on the stack's project's account, or on one's own where that may not be.
func TestFlagsOutOfReach(t *testing.T) {
	const (
		disabled = `{"error":{"code":403,"message":"Cloud SQL Admin API has not been used in project 1 before or it is disabled.","details":[{"reason":"SERVICE_DISABLED"}]}}`
		denied   = `{"error":{"code":403,"message":"Caller does not have required permission to use project demo-project.","details":[{"reason":"USER_PROJECT_DENIED"}]}}`
	)
	for _, tc := range []struct {
		name    string
		answers map[string]string // by the project that is named
		asked   []string          // the projects that are named when the list is asked for twice
		refused int
	}{
		{"not enabled", map[string]string{"demo-project": disabled}, []string{"demo-project", "demo-project"}, 0},
		{"given", map[string]string{"demo-project": flagsOfGoogle}, []string{"demo-project"}, 1},
		{"given to who may not name the project", map[string]string{"demo-project": denied, "": flagsOfGoogle}, []string{"demo-project", ""}, 1},
		{"not given either way", map[string]string{"demo-project": denied, "": disabled}, []string{"demo-project", "", ""}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked []string
			c, err := gcp.New(t.Context(), gcp.Options{Project: "demo-project", Drivers: driver.All(), HTTP: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				project := r.Header.Get("X-Goog-User-Project")
				asked = append(asked, project)
				code := http.StatusOK
				if strings.HasPrefix(tc.answers[project], `{"error"`) {
					code = http.StatusForbidden
				}
				return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tc.answers[project])), Request: r}, nil
			})}})
			must(t, err)
			for range 2 {
				if refused, err := c.Refused(t.Context(), instance("nonsense=1"), nil); err != nil || len(refused) != tc.refused {
					t.Errorf("refused: %v, %v", refused, err)
				}
			}
			if d := cmp.Diff(tc.asked, asked); d != "" {
				t.Errorf("asked for (-want +got):\n%s", d)
			}
		})
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
