package compute

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// clause is one comparison of a filter: (name = "x"), name eq 'a.*', labels.env:prod.
var clause = regexp.MustCompile(`^\s*(NOT\s+|-)?\(?\s*([A-Za-z][A-Za-z0-9_.\-]*)\s*(!=|>=|<=|=|:|>|<|\s+eq\s+|\s+ne\s+)\s*("[^"]*"|'[^']*'|[^\s()]+)\s*\)?\s*(?:AND\s+)?`)

// parseFilter understands the two grammars of list filters as far as clients use them: comparisons joined by AND or by
// juxtaposition, with = != : < >, and eq and ne with a regular expression that must match as a whole.
func parseFilter(filter string) (func(map[string]any) bool, error) {
	var tests []func(map[string]any) bool
	for rest := strings.TrimSpace(filter); rest != ""; {
		m := clause.FindStringSubmatch(rest)
		if m == nil {
			return nil, front.Invalid("Invalid value for field 'filter': '%s'. Invalid list filter expression.", filter)
		}
		rest = strings.TrimSpace(rest[len(m[0]):])
		test, err := comparison(m[2], strings.TrimSpace(m[3]), strings.Trim(m[4], `"'`))
		if err != nil {
			return nil, front.Invalid("Invalid value for field 'filter': '%s'. %v", filter, err)
		}
		if negated := m[1] != ""; negated {
			inner := test
			test = func(b map[string]any) bool { return !inner(b) }
		}
		tests = append(tests, test)
	}
	return func(b map[string]any) bool {
		for _, test := range tests {
			if !test(b) {
				return false
			}
		}
		return true
	}, nil
}

func comparison(field, op, value string) (func(map[string]any) bool, error) {
	get := func(b map[string]any) (string, bool) {
		var v any = b
		for part := range strings.SplitSeq(field, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return "", false
			}
			if v, ok = m[part]; !ok {
				return "", false
			}
		}
		return fmt.Sprint(v), true
	}
	switch op {
	case "eq", "ne":
		re, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return nil, err
		}
		return func(b map[string]any) bool {
			have, _ := get(b)
			return re.MatchString(have) == (op == "eq")
		}, nil
	case "=", "!=":
		return func(b map[string]any) bool {
			have, _ := get(b)
			return (have == value) == (op == "=")
		}, nil
	case ":":
		return func(b map[string]any) bool {
			have, ok := get(b)
			return ok && (value == "*" || strings.Contains(strings.ToLower(have), strings.ToLower(value)))
		}, nil
	}
	limit, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return nil, err
	}
	return func(b map[string]any) bool {
		have, _ := get(b)
		n, err := strconv.ParseFloat(have, 64)
		if err != nil {
			return false
		}
		switch op {
		case "<":
			return n < limit
		case ">":
			return n > limit
		case "<=":
			return n <= limit
		}
		return n >= limit
	}, nil
}
