package standin

import (
	"fmt"
	"strconv"
	"strings"
)

// settings are one container's environment.
type settings func(string) string

// number gives a number; 0 when there is none.
func (s settings) number(name string) int {
	n, _ := strconv.Atoi(s(name)) // what is no number counts as not set
	return n
}

// port gives a port, which must be one.
func (s settings) port(name string) (int, error) {
	n := s.number(name)
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("the setting %s is missing or no port", name)
	}
	return n, nil
}

// or gives a setting, or what holds without it.
func (s settings) or(name, otherwise string) string {
	if v := s(name); v != "" {
		return v
	}
	return otherwise
}

// must checks that settings are what the stand-in knows. It names the first that is not, in the order given.
func (s settings) must(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if got := s(pairs[i]); got != pairs[i+1] {
			return fmt.Errorf("the setting %s is %q; the stand-in knows %q only", pairs[i], got, pairs[i+1])
		}
	}
	return nil
}

// hide keeps secrets out of the errors of libraries.
func (s settings) hide(err error) string {
	text := err.Error()
	for _, name := range []string{
		"SECRET_KEY", "INIT_PASSWORD", "DB_PASSWORD", "PGVECTOR_PASSWORD", "REDIS_PASSWORD", "PLUGIN_DAEMON_KEY", "SERVER_KEY",
		"INNER_API_KEY_FOR_PLUGIN", "DIFY_INNER_API_KEY", "CODE_EXECUTION_API_KEY", "API_KEY",
	} {
		if v := s(name); v != "" {
			text = strings.ReplaceAll(text, v, "***")
		}
	}
	return strings.Join(strings.Fields(text), " ")
}
