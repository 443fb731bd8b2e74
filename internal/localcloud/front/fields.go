package front

import (
	"slices"
	"strings"
)

// selectFields applies a partial-response mask: "items(name,generation),nextPageToken", "items/name".
func selectFields(m map[string]any, mask string) map[string]any {
	whole, below := map[string]bool{}, map[string][]string{} // what is mentioned more than once is given with all that is
	for _, item := range splitMask(mask) {
		key, sub := item, ""
		if i := strings.IndexAny(item, "(/"); i >= 0 {
			key, sub = item[:i], item[i+1:]
			if item[i] == '(' {
				sub = strings.TrimSuffix(sub, ")")
			}
		}
		if sub == "" {
			whole[key] = true
		} else {
			below[key] = append(below[key], sub)
		}
	}
	out := map[string]any{}
	for k, v := range m {
		subs := slices.Concat(below[k], below["*"])
		switch {
		case whole[k], whole["*"]:
			out[k] = v
		case len(subs) > 0:
			out[k] = selectIn(v, strings.Join(subs, ","))
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
