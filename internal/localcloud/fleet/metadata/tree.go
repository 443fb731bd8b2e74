package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// A node is a place in the tree: a dir, a list, a token (computed when read) or a value (string, int, bool, []string).
type node any

// dir is a directory in the order it lists. An entry's json name is its path's in camel case, except under attributes.
type dir []entry

type entry struct {
	name string
	json string
	node node
}

// list is a directory whose entries are numbers, and an array in JSON.
type list []node

// token is a leaf that is made when it is asked for, and not part of recursive answers.
type token func() (map[string]any, error)

func at(name string, n node) entry { return entry{name: name, json: camel(name), node: n} }

func camel(name string) string {
	parts := strings.Split(name, "-")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

// attributes is a directory of verbatim names.
func attributes(values map[string]string) dir {
	d := make(dir, 0, len(values))
	for _, k := range sortedKeys(values) {
		d = append(d, entry{name: k, json: k, node: values[k]})
	}
	return d
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// find walks to a path without leading slash. Attribute keys hold no slashes, so a path splits plainly.
func find(n node, path string) (node, bool) {
	for part := range strings.SplitSeq(strings.TrimSuffix(path, "/"), "/") {
		if part == "" {
			continue
		}
		switch t := n.(type) {
		case dir:
			i := 0
			for i < len(t) && t[i].name != part {
				i++
			}
			if i == len(t) {
				return nil, false
			}
			n = t[i].node
		case list:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(t) {
				return nil, false
			}
			n = t[i]
		default:
			return nil, false
		}
	}
	return n, true
}

// listing is a directory as text: a name a line, directories with a slash.
func listing(n node) string {
	var b strings.Builder
	line := func(name string, n node) {
		b.WriteString(name)
		if isDir(n) {
			b.WriteByte('/')
		}
		b.WriteByte('\n')
	}
	switch t := n.(type) {
	case dir:
		for _, e := range t {
			line(e.name, e.node)
		}
	case list:
		for i, e := range t {
			line(strconv.Itoa(i), e)
		}
	}
	return b.String()
}

func isDir(n node) bool {
	switch n.(type) {
	case dir, list:
		return true
	}
	return false
}

// text is a leaf as Google prints it.
func text(n node) string {
	switch t := n.(type) {
	case string:
		return t
	case bool:
		return strings.ToUpper(strconv.FormatBool(t))
	case []string:
		return jsonText(t)
	}
	return fmt.Sprint(n)
}

func jsonText(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Strings, numbers, and maps and lists of them always encode.
	if err := enc.Encode(v); err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// value is the JSON value of a subtree, with what is computed left out.
func value(n node) any {
	switch t := n.(type) {
	case dir:
		m := map[string]any{}
		for _, e := range t {
			if _, computed := e.node.(token); !computed {
				m[e.json] = value(e.node)
			}
		}
		return m
	case list:
		all := make([]any, 0, len(t))
		for _, e := range t {
			all = append(all, value(e))
		}
		return all
	case bool:
		return strings.ToUpper(strconv.FormatBool(t))
	}
	return n
}

// flat is a subtree as text, one "path value" a line.
func flat(prefix string, n node, b *strings.Builder) {
	switch t := n.(type) {
	case dir:
		for _, e := range t {
			flat(strings.TrimPrefix(prefix+"/"+e.name, "/"), e.node, b)
		}
	case list:
		for i, e := range t {
			flat(strings.TrimPrefix(prefix+"/"+strconv.Itoa(i), "/"), e, b)
		}
	case token:
	default:
		fmt.Fprintf(b, "%s %s\n", prefix, text(n))
	}
}
