package logging

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// severities in their order.
var severities = []string{"DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"}

// parse reads a filter: comparisons that must all hold, with AND or nothing between them. A value may be several in parentheses with OR
// between them. Of Google's query language that is all there is; the rest is refused.
func parse(filter string) (func(map[string]any) bool, error) {
	words, err := scan(filter)
	if err != nil {
		return nil, err
	}
	var all []func(map[string]any) bool
	for i := 0; i < len(words); {
		if i > 0 && words[i].plain("AND") {
			i++
		}
		if i+2 >= len(words) || words[i].operator || !words[i+1].operator || strings.ContainsAny(words[i+1].text, "()") {
			return nil, unparseable(filter)
		}
		field, op := words[i], words[i+1].text
		i += 2
		var values []string
		if words[i].operator && words[i].text == "(" {
			for i++; ; i += 2 {
				if i+1 >= len(words) || words[i].operator {
					return nil, unparseable(filter)
				}
				values = append(values, words[i].text)
				if words[i+1].operator && words[i+1].text == ")" {
					break
				}
				if !words[i+1].plain("OR") {
					return nil, unparseable(filter)
				}
			}
			i += 2
		} else {
			if words[i].operator {
				return nil, unparseable(filter)
			}
			values = []string{words[i].text}
			i++
		}
		test, err := comparison(field.text, op, values)
		if err != nil {
			return nil, err
		}
		all = append(all, test)
	}
	return func(e map[string]any) bool {
		return !slices.ContainsFunc(all, func(test func(map[string]any) bool) bool { return !test(e) })
	}, nil
}

func unparseable(filter string) error {
	return front.Invalid("Unparseable filter: the local cloud knows comparisons with AND between them only: %q", filter)
}

// word is a part of a filter.
type word struct {
	text             string
	operator, quoted bool
}

func (w word) plain(text string) bool { return !w.operator && !w.quoted && w.text == text }

func scan(filter string) ([]word, error) {
	var words []word
	for rest := strings.TrimSpace(filter); rest != ""; rest = strings.TrimLeft(rest, " \t\r\n") {
		switch {
		case rest[0] == '"':
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, unparseable(filter)
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, unparseable(filter)
			}
			words, rest = append(words, word{text: text, quoted: true}), rest[len(quoted):]
		case strings.ContainsRune("=!<>:()", rune(rest[0])):
			n := 1
			if len(rest) > 1 && rest[1] == '=' && strings.ContainsRune("!<>", rune(rest[0])) {
				n = 2
			}
			words, rest = append(words, word{text: rest[:n], operator: true}), rest[n:]
		default:
			n := strings.IndexAny(rest, "=!<>:() \t\r\n\"")
			if n < 0 {
				n = len(rest)
			}
			text := rest[:n]
			if strings.HasSuffix(text, ".") && n < len(rest) && rest[n] == '"' { // labels."a.b/c"
				quoted, err := strconv.QuotedPrefix(rest[n:])
				if err != nil {
					return nil, unparseable(filter)
				}
				key, err := strconv.Unquote(quoted)
				if err != nil {
					return nil, unparseable(filter)
				}
				text, n = text+key, n+len(quoted)
			}
			words, rest = append(words, word{text: text}), rest[n:]
		}
	}
	return words, nil
}

// comparison is one comparison: with several values, one of them must fit. Texts are compared without case, as Google does.
func comparison(field, op string, values []string) (func(map[string]any) bool, error) {
	refuse := func() error {
		return front.Invalid("Unparseable filter: the local cloud cannot compare %s %s %q.", field, op, values)
	}
	var get func(map[string]any) string
	var order func(a, b string) (int, bool) // nil for what has none
	switch {
	case field == "timestamp" || field == "receiveTimestamp":
		get = func(e map[string]any) string { return body.String(e, field) }
		order = func(a, b string) (int, bool) {
			x, err := time.Parse(time.RFC3339Nano, a)
			y, also := time.Parse(time.RFC3339Nano, b)
			return x.Compare(y), err == nil && also == nil
		}
	case field == "severity":
		get = func(e map[string]any) string {
			if s := body.String(e, "severity"); s != "" {
				return s
			}
			return severities[0]
		}
		order = func(a, b string) (int, bool) {
			x, y := slices.Index(severities, a), slices.Index(severities, strings.ToUpper(b))
			return x - y, x >= 0 && y >= 0
		}
	case field == "logName" || field == "insertId" || field == "textPayload" || field == "resource.type" || strings.HasPrefix(field, "resource.labels."):
		get = func(e map[string]any) string { return body.String(e, field) }
	case strings.HasPrefix(field, "labels."):
		key := strings.TrimPrefix(field, "labels.")
		get = func(e map[string]any) string {
			text, _ := body.Map(e, "labels")[key].(string)
			return text
		}
	default:
		return nil, refuse()
	}
	var fits func(have, want string) bool
	by := func(test func(n int) bool) func(have, want string) bool {
		return func(have, want string) bool {
			n, ok := order(have, want)
			return ok && test(n)
		}
	}
	switch {
	case order != nil:
		for _, v := range values {
			if _, ok := order(get(map[string]any{"timestamp": v, "receiveTimestamp": v, "severity": strings.ToUpper(v)}), v); !ok {
				return nil, refuse()
			}
		}
		fits = map[string]func(have, want string) bool{
			"=": by(func(n int) bool { return n == 0 }), "<": by(func(n int) bool { return n < 0 }), "<=": by(func(n int) bool { return n <= 0 }),
			">": by(func(n int) bool { return n > 0 }), ">=": by(func(n int) bool { return n >= 0 }),
		}[op]
	case op == "=" || op == "!=":
		fits = strings.EqualFold
	case op == ":":
		fits = func(have, want string) bool { return strings.Contains(strings.ToLower(have), strings.ToLower(want)) }
	}
	if fits == nil {
		return nil, refuse()
	}
	return func(e map[string]any) bool {
		have := get(e)
		return slices.ContainsFunc(values, func(want string) bool { return fits(have, want) }) != (op == "!=")
	}, nil
}
