package resource

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Placeholder is one "${ID:path}" in a body's string.
type Placeholder struct {
	ID   ID
	Path Path
	Text string // as it stands, with ${ and }
}

// Placeholders finds the placeholders in s.
func Placeholders(s string) []Placeholder {
	var found []Placeholder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			return found
		}
		s = s[i:]
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return found
		}
		// Resource names hold no colon (their projects may: "example.com:p" is a parameter, not a name).
		if id, path, ok := strings.Cut(s[2:end], ":"); ok && strings.Contains(id, "/") {
			found = append(found, Placeholder{ID: ID(id), Path: Path(path), Text: s[:end+1]})
		}
		s = s[end+1:]
	}
}

// CanonicalLink strips a link's scheme, host and version, so that the forms in which Google writes the same link are
// equal: "https://www.googleapis.com/compute/v1/projects/p/global/networks/n" gives "projects/p/global/networks/n".
// Other strings are returned as they are.
func CanonicalLink(s string) string {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "//") {
		if i := strings.Index(s, "/projects/"); i >= 0 {
			return s[i+1:]
		}
	}
	return s
}

// Strings gives every string in a decoded JSON value, in a fixed order.
func Strings(v any) iter.Seq[string] {
	return func(yield func(string) bool) { walkStrings(v, yield) }
}

func walkStrings(v any, yield func(string) bool) bool {
	switch v := v.(type) {
	case string:
		return yield(v)
	case []any:
		for _, e := range v {
			if !walkStrings(e, yield) {
				return false
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if !walkStrings(v[k], yield) {
				return false
			}
		}
	}
	return true
}

// Clone copies a decoded JSON value deeply.
func Clone[T any](v T) T {
	return cloneAny(v).(T)
}

func cloneAny(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = cloneAny(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = cloneAny(e)
		}
		return l
	}
	return v
}

// Lookup finds the value at path: names joined by dots, [2] for an element, [type=PRIVATE] for the first element whose
// field has that value. The second result is false where nothing is there.
func Lookup(body any, path Path) (any, bool) {
	v := body
	for rest := string(path); rest != ""; {
		var part string
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, false
			}
			part, rest = rest[1:end], rest[end+1:]
			list, ok := v.([]any)
			if !ok {
				return nil, false
			}
			if v, ok = element(list, part); !ok {
				return nil, false
			}
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			part, rest = rest[:end], rest[end:]
			m, ok := v.(map[string]any)
			if !ok {
				return nil, false
			}
			if v, ok = m[part]; !ok {
				return nil, false
			}
		}
		rest = strings.TrimPrefix(rest, ".")
	}
	return v, v != nil
}

func element(list []any, selector string) (any, bool) {
	if key, value, ok := strings.Cut(selector, "="); ok {
		for _, e := range list {
			if m, isMap := e.(map[string]any); isMap && fmt.Sprint(m[key]) == value {
				return e, true
			}
		}
		return nil, false
	}
	i, err := strconv.Atoi(selector)
	if err != nil || i < 0 || i >= len(list) {
		return nil, false
	}
	return list[i], true
}

// Resolve gives a copy of body with every placeholder that lookup knows replaced by its value. A string that is
// nothing but one placeholder becomes the value itself; inside a longer string the value's text is put in. Unknown
// placeholders stay as they are, and are returned.
func Resolve(body map[string]any, lookup func(Placeholder) (any, bool)) (map[string]any, []Placeholder) {
	var unknown []Placeholder
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			m := make(map[string]any, len(v))
			for _, k := range slices.Sorted(maps.Keys(v)) {
				m[k] = walk(v[k])
			}
			return m
		case []any:
			l := make([]any, len(v))
			for i, e := range v {
				l[i] = walk(e)
			}
			return l
		case string:
			s := v
			for _, p := range Placeholders(v) {
				value, ok := lookup(p)
				if !ok {
					unknown = append(unknown, p)
					continue
				}
				if p.Text == v {
					return value
				}
				s = strings.ReplaceAll(s, p.Text, fmt.Sprint(value))
			}
			return s
		}
		return v
	}
	return walk(body).(map[string]any), unknown
}
