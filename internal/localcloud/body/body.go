package body

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/store"
)

// Get gives the value at a dotted path, "settings.tier", and whether there is one. A null counts as none.
func Get(m map[string]any, path string) (any, bool) {
	for {
		first, rest, more := strings.Cut(path, ".")
		v, ok := m[first]
		if !ok || v == nil {
			return nil, false
		}
		if !more {
			return v, true
		}
		if m, ok = v.(map[string]any); !ok {
			return nil, false
		}
		path = rest
	}
}

// Has says whether there is a value at path.
func Has(m map[string]any, path string) bool {
	_, ok := Get(m, path)
	return ok
}

// String gives the string at path, "" when there is none. Numbers are written out, since JSON has 64-bit integers as
// either.
func String(m map[string]any, path string) string {
	v, _ := Get(m, path)
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int, int64:
		return fmt.Sprint(v)
	}
	return ""
}

// Bool gives the boolean at path, false when there is none.
func Bool(m map[string]any, path string) bool {
	v, _ := Get(m, path)
	b, _ := v.(bool)
	return b
}

// Int gives the whole number at path, written as a number or as a string, and whether there is one.
func Int(m map[string]any, path string) (int64, bool) {
	v, _ := Get(m, path)
	switch v := v.(type) {
	case float64:
		return int64(v), true
	case int:
		return int64(v), true
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// Map gives the object at path, nil when there is none. It is the object itself, not a copy.
func Map(m map[string]any, path string) map[string]any {
	v, _ := Get(m, path)
	o, _ := v.(map[string]any)
	return o
}

// List gives the list at path, nil when there is none.
func List(m map[string]any, path string) []any {
	v, _ := Get(m, path)
	switch v := v.(type) {
	case []any:
		return v
	case []string:
		out := make([]any, len(v))
		for i, s := range v {
			out[i] = s
		}
		return out
	case []map[string]any:
		out := make([]any, len(v))
		for i, o := range v {
			out[i] = o
		}
		return out
	}
	return nil
}

// Maps gives the objects of the list at path.
func Maps(m map[string]any, path string) []map[string]any {
	var out []map[string]any
	for _, v := range List(m, path) {
		if o, ok := v.(map[string]any); ok {
			out = append(out, o)
		}
	}
	return out
}

// Strings gives the strings of the list at path.
func Strings(m map[string]any, path string) []string {
	var out []string
	for _, v := range List(m, path) {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// Set puts a value at path, making the objects on the way.
func Set(m map[string]any, path string, v any) {
	for {
		first, rest, more := strings.Cut(path, ".")
		if !more {
			m[first] = v
			return
		}
		next, ok := m[first].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[first] = next
		}
		m, path = next, rest
	}
}

// Default puts a value at path unless there is one.
func Default(m map[string]any, path string, v any) {
	if !Has(m, path) {
		Set(m, path, v)
	}
}

// Unset removes what is at path.
func Unset(m map[string]any, path string) {
	for {
		first, rest, more := strings.Cut(path, ".")
		if !more {
			delete(m, first)
			return
		}
		next, ok := m[first].(map[string]any)
		if !ok {
			return
		}
		m, path = next, rest
	}
}

// Merge applies a patch as Google's PATCH does: objects merge, lists and values replace, null removes.
func Merge(into, patch map[string]any) {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(into, k)
		case map[string]any:
			sub, ok := into[k].(map[string]any)
			if !ok {
				sub = map[string]any{}
				into[k] = sub
			}
			Merge(sub, v)
		default:
			into[k] = v
		}
	}
}

// Mask splits an update mask, "labels,annotations", into its paths; snake case, which Google also takes, becomes
// camel case.
func Mask(mask string) []string {
	var out []string
	for path := range strings.SplitSeq(mask, ",") {
		if path = strings.TrimSpace(path); path != "" && !slices.Contains(out, camel(path)) {
			out = append(out, camel(path))
		}
	}
	return out
}

func camel(s string) string {
	parts := strings.Split(s, "_")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

// Copy takes the value at path from one object to another; none there removes it here too.
func Copy(into, from map[string]any, path string) {
	v, ok := Get(from, path)
	if !ok {
		Unset(into, path)
		return
	}
	Set(into, path, store.Clone(map[string]any{"v": v})["v"])
}

// Time writes a time as Google's newer APIs do, in microseconds.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// Millis writes a time as Google's older APIs do, in milliseconds.
func Millis(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Page cuts a page out of items that are in a fixed order. The token is the first item's index; size at most limit,
// which is also meant by 0. It returns the next page's token, "" after the last, and false for a bad token.
func Page[T any](items []T, size, limit int, token string) (page []T, next string, ok bool) {
	start := 0
	if token != "" {
		n, err := strconv.Atoi(token)
		if err != nil || n < 0 || n > len(items) {
			return nil, "", false
		}
		start = n
	}
	if size <= 0 || size > limit {
		size = limit
	}
	end := min(start+size, len(items))
	if end < len(items) {
		next = strconv.Itoa(end)
	}
	return items[start:end], next, true
}
