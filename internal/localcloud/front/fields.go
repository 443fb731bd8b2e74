package front

import "strings"

// selectFields applies a partial-response mask: "items(name,generation),nextPageToken", "items/name".
func selectFields(m map[string]any, mask string) map[string]any {
	out := map[string]any{}
	for _, item := range splitMask(mask) {
		key, sub := item, ""
		if i := strings.IndexAny(item, "(/"); i >= 0 {
			key, sub = item[:i], item[i+1:]
			if item[i] == '(' {
				sub = strings.TrimSuffix(sub, ")")
			}
		}
		keys := []string{key}
		if key == "*" {
			keys = keys[:0]
			for k := range m {
				keys = append(keys, k)
			}
		}
		for _, k := range keys {
			v, ok := m[k]
			if !ok {
				continue
			}
			if sub != "" {
				v = selectIn(v, sub)
			}
			if before, ok := out[k].(map[string]any); ok {
				if now, ok := v.(map[string]any); ok {
					for kk, vv := range now {
						before[kk] = vv
					}
					continue
				}
			}
			out[k] = v
		}
	}
	return out
}

func selectIn(v any, mask string) any {
	switch v := v.(type) {
	case map[string]any:
		return selectFields(v, mask)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = selectIn(e, mask)
		}
		return list
	}
	return v
}

// splitMask splits at the commas that are not inside parentheses.
func splitMask(mask string) []string {
	var parts []string
	depth, from := 0, 0
	for i, r := range mask {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				parts = append(parts, strings.TrimSpace(mask[from:i]))
				from = i + 1
			}
		}
	}
	return append(parts, strings.TrimSpace(mask[from:]))
}
