package storage

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// entry is what a list has under a name: a generation, or the folder that names are folded into.
type entry struct {
	key    string // where it stands in the list: the name, then the generation in twenty digits
	folder string
	object *object
}

// listObjects lists live objects, or all generations, in the order of their names, with folders folded at a delimiter.
func (v *Service) listObjects(r *front.Request, bucket string, _ map[string]any) (any, error) {
	size := 1000
	if given := r.Query.Get("maxResults"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 0 {
			return nil, front.Invalid("Invalid value for maxResults: %q", given)
		}
		if n > 0 {
			size = min(n, size)
		}
	}
	// A page goes on behind a place and not behind a number, since clients delete what they have listed.
	behind, err := base64.RawURLEncoding.DecodeString(r.Query.Get("pageToken"))
	if err != nil {
		return nil, front.Invalid("Invalid page token.")
	}
	var glob *regexp.Regexp
	if pattern := r.Query.Get("matchGlob"); pattern != "" {
		if glob, err = parseGlob(pattern); err != nil {
			return nil, err
		}
	}
	answer := map[string]any{"kind": "storage#objects"}
	var items, folders []any
	n, last := 0, ""
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.entries(r, bucket, glob) {
		if e.key <= string(behind) {
			continue
		}
		if n == size {
			answer["nextPageToken"] = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		n, last = n+1, e.key
		if e.object == nil {
			folders = append(folders, e.folder)
		} else {
			items = append(items, e.object.shown(base(r.HTTP), bucket))
		}
	}
	if items != nil {
		answer["items"] = items
	}
	if folders != nil {
		answer["prefixes"] = folders
	}
	return answer, nil
}

// entries gives all that a request lists. The service is locked.
func (v *Service) entries(r *front.Request, bucket string, glob *regexp.Regexp) []entry {
	q := r.Query
	prefix, delimiter, start, end, versions := q.Get("prefix"), q.Get("delimiter"), q.Get("startOffset"), q.Get("endOffset"), q.Get("versions") == "true"
	folders := map[string]bool{}
	var all []entry
	for _, name := range slices.Sorted(maps.Keys(v.objects[bucket])) {
		if !strings.HasPrefix(name, prefix) || name < start || end != "" && name >= end || glob != nil && !glob.MatchString(name) || !versions && v.live(bucket, name) == nil {
			continue
		}
		if i := strings.Index(name[len(prefix):], delimiter); delimiter != "" && i >= 0 {
			folder := name[:len(prefix)+i+len(delimiter)]
			if !folders[folder] {
				folders[folder] = true
				all = append(all, entry{key: folder, folder: folder})
			}
			if name != folder || q.Get("includeTrailingDelimiter") != "true" {
				continue
			}
		}
		for _, o := range v.objects[bucket][name] {
			if versions || o.deleted.IsZero() {
				all = append(all, entry{key: fmt.Sprintf("%s\x00%020d", name, o.generation), object: o})
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return all
}

// parseGlob reads a glob of Cloud Storage's: * and ? do not pass a slash, ** does, [a-z] and {a,b} choose.
func parseGlob(glob string) (*regexp.Regexp, error) {
	bad := front.Invalid("Invalid glob: %q", glob)
	if len(glob) > 1024 {
		return nil, bad
	}
	var out strings.Builder
	out.WriteString(`(?s)\A`)
	depth := 0
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			if strings.HasPrefix(glob[i:], "**") {
				out.WriteString(".*")
				i++
			} else {
				out.WriteString("[^/]*")
			}
		case '?':
			out.WriteString("[^/]")
		case '[':
			n := strings.IndexByte(glob[i+1:], ']')
			if n < 1 {
				return nil, bad
			}
			set := glob[i+1 : i+1+n]
			out.WriteByte('[')
			if set[0] == '!' || set[0] == '^' {
				out.WriteByte('^')
				set = set[1:]
			}
			out.WriteString(strings.NewReplacer(`\`, `\\`, `^`, `\^`, `[`, `\[`).Replace(set))
			out.WriteByte(']')
			i += n + 1
		case '{':
			depth++
			out.WriteString("(?:")
		case '}':
			if depth--; depth < 0 {
				return nil, bad
			}
			out.WriteByte(')')
		case ',':
			if depth > 0 {
				out.WriteByte('|')
			} else {
				out.WriteByte(',')
			}
		case '\\':
			if i++; i == len(glob) {
				return nil, bad
			}
			out.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		default:
			if c < 0x80 {
				out.WriteString(regexp.QuoteMeta(string(c)))
			} else {
				out.WriteByte(c) // part of a character, which stands for itself
			}
		}
	}
	out.WriteString(`\z`)
	re, err := regexp.Compile(out.String())
	if err != nil || depth != 0 {
		return nil, bad
	}
	return re, nil
}
