package sql

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// The types of flags, as the API names them.
const (
	boolean = "BOOLEAN"
	integer = "INTEGER"
	float   = "FLOAT"
	text    = "STRING"
	texts   = "REPEATED_STRING" // separated by commas
)

// flag is a setting that Cloud SQL lets users set.
type flag struct {
	name, kind  string
	low, high   int64    // of numbers; both 0 for no limits
	also        []int64  // numbers besides
	words       []string // of texts; none for any
	restart     bool
	since, till int // major versions of PostgreSQL; 0 for no limit
}

const most = 1<<31 - 1

// flags are those of Cloud SQL for PostgreSQL that a stack may want. Which there are was written down without Google's page
// ("Configure database flags") at hand, so that on Google its own list counts, which difyup asks for. Names, limits and what needs a restart are compared with a real PostgreSQL by
// TestFlagsArePostgreSQLs. Where Google bounds a value by the machine's memory, the bound is PostgreSQL's.
//
// What is not here cannot be set: files, sockets, addresses and programs of the server are Google's affair.
func flags() []flag {
	onOff := func(restart bool, names ...string) []flag {
		all := make([]flag, len(names))
		for i, n := range names {
			all[i] = flag{name: n, kind: boolean, restart: restart}
		}
		return all
	}
	levels := []string{"debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "error", "log", "fatal", "panic"}
	audit := []string{"debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "log"}
	all := slices.Concat(
		onOff(false,
			"autovacuum", "enable_async_append", "enable_bitmapscan", "enable_gathermerge", "enable_hashagg", "enable_hashjoin", "enable_incremental_sort",
			"enable_indexonlyscan", "enable_indexscan", "enable_material", "enable_memoize", "enable_mergejoin", "enable_nestloop", "enable_parallel_append",
			"enable_parallel_hash", "enable_partition_pruning", "enable_partitionwise_aggregate", "enable_partitionwise_join", "enable_seqscan", "enable_sort",
			"enable_tidscan", "geqo", "hot_standby_feedback", "log_checkpoints", "log_connections", "log_disconnections", "log_duration", "log_executor_stats",
			"log_hostname", "log_lock_waits", "log_parser_stats", "log_planner_stats", "log_recovery_conflict_waits", "log_replication_commands",
			"log_statement_stats", "parallel_leader_participation", "standard_conforming_strings", "synchronize_seqscans", "track_activities", "track_counts",
			"track_io_timing", "transform_null_equals", "default_transaction_deferrable", "default_transaction_read_only",
			"auto_explain.log_analyze", "auto_explain.log_buffers", "auto_explain.log_nested_statements", "auto_explain.log_settings",
			"auto_explain.log_timing", "auto_explain.log_triggers", "auto_explain.log_verbose", "auto_explain.log_wal",
			"pg_stat_statements.save", "pg_stat_statements.track_utility",
			"pgaudit.log_catalog", "pgaudit.log_client", "pgaudit.log_parameter", "pgaudit.log_relation", "pgaudit.log_statement_once",
			"cloudsql.iam_authentication", "cloudsql.allow_passwordless_local_connections", "cloudsql.enable_google_ml_integration"),
		onOff(true,
			"track_commit_timestamp", "cloudsql.enable_anon", "cloudsql.enable_auto_explain", "cloudsql.enable_pg_bigm", "cloudsql.enable_pg_cron",
			"cloudsql.enable_pg_hint_plan", "cloudsql.enable_pg_wait_sampling", "cloudsql.enable_pgaudit", "cloudsql.enable_pglogical", "cloudsql.logical_decoding",
			"cron.log_run", "cron.log_statement"),
		[]flag{
			{name: "autovacuum_analyze_scale_factor", kind: float, high: 100},
			{name: "autovacuum_analyze_threshold", kind: integer, high: most},
			{name: "autovacuum_freeze_max_age", kind: integer, low: 100_000, high: 2_000_000_000, restart: true},
			{name: "autovacuum_max_workers", kind: integer, low: 1, high: 262_143, restart: true},
			{name: "autovacuum_multixact_freeze_max_age", kind: integer, low: 10_000, high: 2_000_000_000, restart: true},
			{name: "autovacuum_naptime", kind: integer, low: 1, high: 2_147_483},
			{name: "autovacuum_vacuum_cost_delay", kind: float, high: 100, also: []int64{-1}},
			{name: "autovacuum_vacuum_cost_limit", kind: integer, high: 10_000, also: []int64{-1}},
			{name: "autovacuum_vacuum_insert_scale_factor", kind: float, high: 100},
			{name: "autovacuum_vacuum_insert_threshold", kind: integer, high: most, also: []int64{-1}},
			{name: "autovacuum_vacuum_scale_factor", kind: float, high: 100},
			{name: "autovacuum_vacuum_threshold", kind: integer, high: most},
			{name: "autovacuum_work_mem", kind: integer, high: most, also: []int64{-1}},
			{name: "bgwriter_delay", kind: integer, low: 10, high: 10_000},
			{name: "bgwriter_lru_maxpages", kind: integer, high: 1_073_741_823},
			{name: "bgwriter_lru_multiplier", kind: float, high: 10},
			{name: "checkpoint_completion_target", kind: float, high: 1},
			{name: "checkpoint_timeout", kind: integer, low: 30, high: 86_400},
			{name: "checkpoint_warning", kind: integer, high: most},
			{name: "client_connection_check_interval", kind: integer, high: most},
			{name: "commit_delay", kind: integer, high: 100_000},
			{name: "commit_siblings", kind: integer, high: 1_000},
			{name: "constraint_exclusion", kind: text, words: []string{"partition", "on", "off"}},
			{name: "cpu_index_tuple_cost", kind: float, high: most},
			{name: "cpu_operator_cost", kind: float, high: most},
			{name: "cpu_tuple_cost", kind: float, high: most},
			{name: "cursor_tuple_fraction", kind: float, high: 1},
			{name: "deadlock_timeout", kind: integer, low: 1, high: most},
			{name: "default_statistics_target", kind: integer, low: 1, high: 10_000},
			{name: "default_tablespace", kind: text},
			{name: "default_transaction_isolation", kind: text, words: []string{"serializable", "repeatable read", "read committed", "read uncommitted"}},
			{name: "effective_cache_size", kind: integer, low: 1, high: most},
			{name: "effective_io_concurrency", kind: integer, high: 1_000},
			{name: "from_collapse_limit", kind: integer, low: 1, high: most},
			{name: "geqo_effort", kind: integer, low: 1, high: 10},
			{name: "geqo_generations", kind: integer, high: most},
			{name: "geqo_pool_size", kind: integer, high: most},
			{name: "geqo_seed", kind: float, high: 1},
			{name: "geqo_threshold", kind: integer, low: 2, high: most},
			{name: "gin_fuzzy_search_limit", kind: integer, high: most},
			{name: "gin_pending_list_limit", kind: integer, low: 64, high: most},
			{name: "hash_mem_multiplier", kind: float, low: 1, high: 1_000},
			{name: "huge_pages", kind: text, words: []string{"try", "off"}, restart: true},
			{name: "idle_in_transaction_session_timeout", kind: integer, high: most},
			{name: "idle_session_timeout", kind: integer, high: most},
			{name: "join_collapse_limit", kind: integer, low: 1, high: most},
			{name: "lock_timeout", kind: integer, high: most},
			{name: "log_autovacuum_min_duration", kind: integer, high: most, also: []int64{-1}},
			{name: "log_error_verbosity", kind: text, words: []string{"terse", "default", "verbose"}},
			{name: "log_line_prefix", kind: text},
			{name: "log_min_duration_statement", kind: integer, low: -1, high: most},
			{name: "log_min_error_statement", kind: text, words: levels},
			{name: "log_min_messages", kind: text, words: levels},
			{name: "log_statement", kind: text, words: []string{"none", "ddl", "mod", "all"}},
			{name: "log_temp_files", kind: integer, high: most, also: []int64{-1}},
			{name: "log_timezone", kind: text},
			{name: "logical_decoding_work_mem", kind: integer, low: 64, high: most},
			{name: "maintenance_io_concurrency", kind: integer, high: 1_000},
			{name: "maintenance_work_mem", kind: integer, low: 1_024, high: most},
			{name: "max_connections", kind: integer, low: 14, high: 262_143, restart: true},
			{name: "max_locks_per_transaction", kind: integer, low: 10, high: most, restart: true},
			{name: "max_logical_replication_workers", kind: integer, low: 4, high: 8_192, restart: true},
			{name: "max_parallel_maintenance_workers", kind: integer, high: 1_024},
			{name: "max_parallel_workers", kind: integer, high: 1_024},
			{name: "max_parallel_workers_per_gather", kind: integer, high: 1_024},
			{name: "max_pred_locks_per_page", kind: integer, high: most},
			{name: "max_pred_locks_per_relation", kind: integer, low: -most - 1, high: most},
			{name: "max_pred_locks_per_transaction", kind: integer, low: 64, high: 1_048_576, restart: true},
			{name: "max_prepared_transactions", kind: integer, high: 262_143, restart: true},
			{name: "max_replication_slots", kind: integer, low: 10, high: 262_143, restart: true},
			{name: "max_slot_wal_keep_size", kind: integer, high: most, also: []int64{-1}},
			{name: "max_standby_archive_delay", kind: integer, high: most, also: []int64{-1}},
			{name: "max_standby_streaming_delay", kind: integer, high: most, also: []int64{-1}},
			{name: "max_sync_workers_per_subscription", kind: integer, high: 262_143},
			{name: "max_wal_senders", kind: integer, low: 10, high: 262_143, restart: true},
			{name: "max_wal_size", kind: integer, low: 2, high: most},
			{name: "max_worker_processes", kind: integer, low: 8, high: 262_143, restart: true},
			{name: "min_parallel_index_scan_size", kind: integer, high: 715_827_882},
			{name: "min_parallel_table_scan_size", kind: integer, high: 715_827_882},
			{name: "min_wal_size", kind: integer, low: 32, high: most},
			{name: "old_snapshot_threshold", kind: integer, high: 86_400, also: []int64{-1}, restart: true, till: 16},
			{name: "parallel_setup_cost", kind: float, high: most},
			{name: "parallel_tuple_cost", kind: float, high: most},
			{name: "password_encryption", kind: text, words: []string{"md5", "scram-sha-256"}},
			{name: "plan_cache_mode", kind: text, words: []string{"auto", "force_generic_plan", "force_custom_plan"}},
			{name: "random_page_cost", kind: float, high: most},
			{name: "reserved_connections", kind: integer, high: 262_143, restart: true, since: 16},
			{name: "shared_buffers", kind: integer, low: 16, high: 1_073_741_823, restart: true},
			{name: "ssl_max_protocol_version", kind: text, words: []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}},
			{name: "ssl_min_protocol_version", kind: text, words: []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}},
			{name: "statement_timeout", kind: integer, high: most},
			{name: "synchronous_commit", kind: text, words: []string{"local", "off", "on"}},
			{name: "tcp_keepalives_count", kind: integer, high: most},
			{name: "tcp_keepalives_idle", kind: integer, high: most},
			{name: "tcp_keepalives_interval", kind: integer, high: most},
			{name: "temp_buffers", kind: integer, low: 100, high: 1_073_741_823},
			{name: "temp_file_limit", kind: integer, low: 1_048_576, high: most},
			{name: "timezone", kind: text},
			{name: "track_activity_query_size", kind: integer, low: 100, high: 102_400, restart: true},
			{name: "track_functions", kind: text, words: []string{"none", "pl", "all"}},
			{name: "vacuum_cost_delay", kind: float, high: 100},
			{name: "vacuum_cost_limit", kind: integer, low: 1, high: 10_000},
			{name: "vacuum_cost_page_dirty", kind: integer, high: 10_000},
			{name: "vacuum_cost_page_hit", kind: integer, high: 10_000},
			{name: "vacuum_cost_page_miss", kind: integer, high: 10_000},
			{name: "vacuum_failsafe_age", kind: integer, high: 2_100_000_000},
			{name: "vacuum_freeze_min_age", kind: integer, high: 1_000_000_000},
			{name: "vacuum_freeze_table_age", kind: integer, high: 2_000_000_000},
			{name: "vacuum_multixact_failsafe_age", kind: integer, high: 2_100_000_000},
			{name: "vacuum_multixact_freeze_min_age", kind: integer, high: 1_000_000_000},
			{name: "vacuum_multixact_freeze_table_age", kind: integer, high: 2_000_000_000},
			{name: "wal_buffers", kind: integer, low: 0, high: 262_143, also: []int64{-1}, restart: true},
			{name: "wal_compression", kind: text, words: []string{"off", "on"}},
			{name: "wal_receiver_timeout", kind: integer, high: most},
			{name: "wal_sender_timeout", kind: integer, high: most},
			{name: "work_mem", kind: integer, low: 64, high: most},

			{name: "auto_explain.log_format", kind: text, words: []string{"text", "xml", "json", "yaml"}},
			{name: "auto_explain.log_min_duration", kind: integer, low: -1, high: most},
			{name: "auto_explain.sample_rate", kind: float, high: 1},
			{name: "cron.database_name", kind: text, restart: true},
			{name: "cron.max_running_jobs", kind: integer, high: most, restart: true},
			{name: "cron.timezone", kind: text, restart: true},
			{name: "pg_stat_statements.max", kind: integer, low: 100, high: 1_073_741_823, restart: true},
			{name: "pg_stat_statements.track", kind: text, words: []string{"none", "top", "all"}},
			{name: "pgaudit.log", kind: texts, words: []string{"read", "write", "function", "role", "ddl", "misc", "misc_set", "all", "none"}},
			{name: "pgaudit.log_level", kind: text, words: audit},
			{name: "pgaudit.role", kind: text},
			{name: "cloudsql.pg_authid_select_role", kind: text},
		})
	slices.SortFunc(all, func(a, b flag) int { return strings.Compare(a.name, b.name) })
	return all
}

// majors are the versions that the flags are listed for.
var majors = []int{14, 15, 16, 17}

// appliesTo gives the versions that have the flag, as the API names them.
func (f flag) appliesTo() []any {
	var out []any
	for _, v := range majors {
		if v >= f.since && (f.till == 0 || v <= f.till) {
			out = append(out, "POSTGRES_"+strconv.Itoa(v))
		}
	}
	return out
}

// in says whether a version has the flag. Versions that the flags are not listed for have them all.
func (f flag) in(version string) bool {
	listed := slices.ContainsFunc(majors, func(v int) bool { return version == "POSTGRES_"+strconv.Itoa(v) })
	return !listed || slices.Contains(f.appliesTo(), any(version))
}

// shown is the flag as flags.list has it.
func (f flag) shown() map[string]any {
	b := map[string]any{"kind": "sql#flag", "name": f.name, "type": f.kind, "appliesTo": f.appliesTo(), "requiresRestart": f.restart, "flagScope": "SQL_FLAG_SCOPE_DATABASE"}
	if f.low != 0 || f.high != 0 {
		b["minValue"], b["maxValue"] = strconv.FormatInt(f.low, 10), strconv.FormatInt(f.high, 10)
	}
	if len(f.also) > 0 {
		var also []any
		for _, n := range f.also {
			also = append(also, strconv.FormatInt(n, 10))
		}
		b["allowedIntValues"] = also
	}
	if len(f.words) > 0 {
		b["allowedStringValues"] = f.words
	}
	return b
}

// listFlags serves flags.list.
func (v *Service) listFlags(_ context.Context, r *front.Request) (any, error) {
	version := r.Query.Get("databaseVersion")
	items := []any{}
	if scope := r.Query.Get("flagScope"); scope == "" || !strings.HasSuffix(scope, "CONNECTION_POOL") {
		for _, f := range flags() {
			if version == "" || slices.Contains(f.appliesTo(), any(version)) {
				items = append(items, f.shown())
			}
		}
	}
	return map[string]any{"kind": "sql#flagsList", "items": items}, nil
}

// checkFlags refuses flags that Cloud SQL does not have for the version, and values it does not take.
func checkFlags(b map[string]any) error {
	version := body.String(b, "databaseVersion")
	seen := map[string]bool{}
	for _, given := range body.Maps(b, "settings.databaseFlags") {
		name, value := body.String(given, "name"), body.String(given, "value")
		i := slices.IndexFunc(flags(), func(f flag) bool { return f.name == name && f.in(version) })
		if i < 0 {
			return &front.Error{Code: 400, Reason: "invalidFlagName", Message: fmt.Sprintf("Flag requested cannot be set. %s is not a flag of %s.", name, version)}
		}
		if seen[name] {
			return invalid("The flag %s is given twice.", name)
		}
		seen[name] = true
		if why := flags()[i].refuses(value); why != "" {
			return &front.Error{Code: 400, Reason: "invalidFlagValue", Message: fmt.Sprintf("Value requested is not valid. Failed to set %s: %s %s.", name, value, why)}
		}
	}
	return nil
}

// refuses says why the flag does not take a value, "" when it does.
func (f flag) refuses(value string) string {
	within := func(n float64) string {
		if (f.low != 0 || f.high != 0) && (n < float64(f.low) || n > float64(f.high)) {
			return fmt.Sprintf("was not between %d and %d", f.low, f.high)
		}
		return ""
	}
	switch f.kind {
	case boolean:
		if value != "on" && value != "off" {
			return "was not on or off"
		}
	case integer, float:
		n, err := strconv.ParseFloat(value, 64)
		if i, intErr := strconv.ParseInt(value, 10, 64); intErr == nil && slices.Contains(f.also, i) {
			return ""
		} else if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || f.kind == integer && intErr != nil {
			return "was not a number of the flag's type"
		}
		return within(n)
	case texts:
		for _, word := range strings.Split(value, ",") {
			if !slices.Contains(f.words, strings.TrimPrefix(strings.ToLower(strings.TrimSpace(word)), "-")) {
				return "was not an expected string"
			}
		}
	default:
		if len(f.words) > 0 && !slices.Contains(f.words, value) {
			return "was not an expected string"
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "holds control characters"
		}
	}
	return ""
}
