package resource

import (
	"fmt"
	"strconv"
	"strings"
)

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

// put gives v with value at path, below it, making the objects on the way and the element that follows a list's last.
func put(v any, path Path, value any) any {
	rest := string(path)
	if rest == "" {
		return value
	}
	if rest[0] == '[' {
		end := strings.IndexByte(rest, ']')
		list, _ := v.([]any)
		i, err := strconv.Atoi(rest[1:max(end, 1)])
		if err != nil || i < 0 || i > len(list) {
			panic(fmt.Sprintf("resource: no element for %q among %d. This is a bug in difyup.", path, len(list)))
		}
		if i == len(list) {
			list = append(list, nil)
		}
		list[i] = put(list[i], Path(strings.TrimPrefix(rest[end+1:], ".")), value)
		return list
	}
	end := strings.IndexAny(rest, ".[")
	if end < 0 {
		end = len(rest)
	}
	m, _ := v.(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	m[rest[:end]] = put(m[rest[:end]], Path(strings.TrimPrefix(rest[end:], ".")), value)
	return m
}
