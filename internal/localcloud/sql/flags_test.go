//go:build linux

package sql

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/test/servers"
)

// setting is what PostgreSQL says of a setting.
type setting struct {
	Context, Type string
	Min, Max      *string
	Words         []string
}

// TestFlagsArePostgreSQLs compares the flags with the settings of a real server: each is one, needs a restart if and only if
// PostgreSQL says so, and has limits and words that PostgreSQL takes. Flags of Cloud SQL itself, and of extensions that this
// machine does not have, cannot be compared.
func TestFlagsArePostgreSQLs(t *testing.T) {
	major, settings := realSettings(t)
	for _, f := range flags() {
		if slices.ContainsFunc([]string{"cloudsql.", "cron.", "pgaudit."}, func(p string) bool { return strings.HasPrefix(f.name, p) }) {
			continue
		}
		if f.till != 0 && major > f.till || major < f.since {
			if _, there := settings[f.name]; there {
				t.Errorf("%s: PostgreSQL %d has it", f.name, major)
			}
			continue
		}
		s, there := settings[f.name]
		if !there {
			t.Errorf("%s: PostgreSQL %d has no such setting", f.name, major)
			continue
		}
		if want := s.Context == "postmaster"; f.restart != want {
			t.Errorf("%s: its context is %s, and restart is %t", f.name, s.Context, f.restart)
		}
		types := map[string][]string{boolean: {"bool"}, integer: {"integer"}, float: {"real"}, text: {"string", "enum"}}
		if !slices.Contains(types[f.kind], s.Type) && !(f.name == "wal_compression" && s.Type == "enum") {
			t.Errorf("%s: its type is %s, not %s", f.name, f.kind, s.Type)
		}
		for _, n := range append([]int64{f.low, f.high}, f.also...) {
			if s.Min == nil || f.low == 0 && f.high == 0 {
				continue
			}
			low, err1 := strconv.ParseFloat(*s.Min, 64)
			high, err2 := strconv.ParseFloat(*s.Max, 64)
			if err1 != nil || err2 != nil || float64(n) < low || float64(n) > high {
				t.Errorf("%s: PostgreSQL takes %s to %s, not %d", f.name, *s.Min, *s.Max, n)
			}
		}
		for _, w := range f.words {
			if s.Type == "enum" && !slices.Contains(s.Words, w) && !(f.name == "synchronous_commit" || f.name == "wal_compression" || f.name == "constraint_exclusion") {
				t.Errorf("%s: PostgreSQL takes %v, not %s", f.name, s.Words, w)
			}
		}
	}
}

// realSettings starts a PostgreSQL and gives its settings, by their names in lower case.
func realSettings(t *testing.T) (int, map[string]setting) {
	t.Helper()
	data := servers.Open(t)
	e := data.SQL
	addr, err := e.Create(t.Context(), "p/flags", map[string]string{"shared_preload_libraries": "auto_explain,pg_stat_statements"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetUser(t.Context(), "p/flags", "reader", "secret"); err != nil {
		t.Fatal(err)
	}
	return ask(t, addr)
}

func ask(t *testing.T, addr netip.Addr) (major int, settings map[string]setting) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://reader:secret@%s:5432/postgres?sslmode=disable", addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	rows, err := c.Query(t.Context(), "SELECT lower(name), context, vartype, min_val, max_val, coalesce(enumvals, '{}'), current_setting('server_version_num')::int / 10000 FROM pg_settings")
	if err != nil {
		t.Fatal(err)
	}
	settings = map[string]setting{}
	for rows.Next() {
		var name string
		var s setting
		if err := rows.Scan(&name, &s.Context, &s.Type, &s.Min, &s.Max, &s.Words, &major); err != nil {
			t.Fatal(err)
		}
		settings[name] = s
	}
	if err := rows.Err(); err != nil || len(settings) < 300 {
		t.Fatalf("%d settings: %v", len(settings), err)
	}
	return major, settings
}

// TestCheckFlags says which flags are refused, and in which words.
func TestCheckFlags(t *testing.T) {
	for _, tc := range []struct{ version, name, value, want string }{
		{"POSTGRES_16", "max_connections", "600", ""},
		{"POSTGRES_16", "log_min_duration_statement", "-1", ""},
		{"POSTGRES_16", "autovacuum_vacuum_cost_limit", "-1", ""},
		{"POSTGRES_16", "checkpoint_completion_target", "0.9", ""},
		{"POSTGRES_16", "pgaudit.log", "read,-misc", ""},
		{"POSTGRES_16", "cloudsql.iam_authentication", "on", ""},
		{"POSTGRES_16", "old_snapshot_threshold", "-1", ""},
		{"POSTGRES_17", "old_snapshot_threshold", "-1", "invalidFlagName: Flag requested cannot be set. old_snapshot_threshold is not a flag of POSTGRES_17."},
		{"POSTGRES_16", "max_connections", "many", "invalidFlagValue: Value requested is not valid. Failed to set max_connections: many was not a number of the flag's type."},
		{"POSTGRES_16", "max_connections", "3", "invalidFlagValue: Value requested is not valid. Failed to set max_connections: 3 was not between 14 and 262143."},
		{"POSTGRES_16", "max_connections", "15.5", "invalidFlagValue: Value requested is not valid. Failed to set max_connections: 15.5 was not a number of the flag's type."},
		{"POSTGRES_16", "checkpoint_completion_target", "NaN", "invalidFlagValue: Value requested is not valid. Failed to set checkpoint_completion_target: NaN was not a number of the flag's type."},
		{"POSTGRES_16", "log_statement", "DDL", "invalidFlagValue: Value requested is not valid. Failed to set log_statement: DDL was not an expected string."},
		{"POSTGRES_16", "autovacuum", "true", "invalidFlagValue: Value requested is not valid. Failed to set autovacuum: true was not on or off."},
		{"POSTGRES_16", "log_line_prefix", "a\nb", "invalidFlagValue: Value requested is not valid. Failed to set log_line_prefix: a\nb holds control characters."},
	} {
		if d := cmp.Diff(tc.want, refusal(tc.version, tc.name, tc.value)); d != "" {
			t.Errorf("%s %s=%s (-want +got):\n%s", tc.version, tc.name, tc.value, d)
		}
	}
	// What would reach files, sockets, addresses or programs of the server.
	for _, name := range []string{
		"archive_command", "archive_library", "restore_command", "unix_socket_directories", "log_directory", "log_filename", "log_destination", "logging_collector",
		"listen_addresses", "port", "data_directory", "hba_file", "ident_file", "config_file", "external_pid_file", "session_preload_libraries", "shared_preload_libraries",
		"local_preload_libraries", "dynamic_library_path", "extension_destdir", "ssl", "ssl_cert_file", "ssl_key_file", "ssl_passphrase_command", "krb_server_keyfile", "fsync",
		"wal_level", "primary_conninfo", "jit_provider", "search_path", "", "max_connections ", "MAX_CONNECTIONS",
	} {
		if got := refusal("POSTGRES_16", name, "x.so"); !strings.HasPrefix(got, "invalidFlagName: ") {
			t.Errorf("%q is let through: %s", name, got)
		}
	}
}

func refusal(version, name, value string) string {
	err := checkFlags(map[string]any{"databaseVersion": version, "settings": map[string]any{"databaseFlags": []any{map[string]any{"name": name, "value": value}}}})
	if err == nil {
		return ""
	}
	return reason(err) + ": " + err.Error()
}

func reason(err error) string {
	var e *front.Error
	if !errors.As(err, &e) {
		return "no refusal of Google's"
	}
	return e.Reason
}
