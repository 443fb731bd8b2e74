package diff

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/resource"
)

// Unknown is what Field.New says of a value that is not known before another resource exists.
var Unknown = resource.Unknown{}.String()

// Field is one difference. Old is nil for a field Google does not have, New for one that is to be cleared.
type Field struct {
	Path resource.Path `json:"path"` // "autoscalingPolicy.maxNumReplicas", "allowed[0].ports"
	Old  any           `json:"old"`
	New  any           `json:"new"`
}

// Top is the field's first part: the unit in which Google's PATCH takes changes.
func (f Field) Top() resource.Path {
	if i := strings.IndexAny(string(f.Path), ".["); i >= 0 {
		return f.Path[:i]
	}
	return f.Path
}

// Fields gives the differences between a resource's live body and what is wanted of it, sorted by path. Secret and
// ignored paths are left out. What is resource.Unknown in want differs, and New says so.
func Fields(k *resource.Kind, live, want map[string]any) []Field {
	d := differ{kind: k}
	d.object("", live, want)
	slices.SortFunc(d.fields, func(a, b Field) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return d.fields
}

// Immutable gives the differences that this kind cannot apply in place.
func Immutable(k *resource.Kind, fields []Field) []Field {
	if k.Update == resource.Replace {
		return fields
	}
	var out []Field
	for _, f := range fields {
		if covered(k.Immutable, f.Path) {
			out = append(out, f)
		}
	}
	return out
}

type differ struct {
	kind   *resource.Kind
	fields []Field
}

func (d *differ) add(p resource.Path, live, want any) {
	d.fields = append(d.fields, Field{Path: p, Old: live, New: shown(want)})
}

func (d *differ) object(at resource.Path, live, want map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		p := join(at, key)
		if covered(d.kind.Secret, p) || covered(d.kind.Ignored, p) {
			continue
		}
		d.value(p, live[key], want[key])
	}
	if !isLabels(at) && !isCondition(at) {
		return
	}
	// These are declared as a whole: a key that is not wanted any more goes, unless Google put it there.
	for _, key := range slices.Sorted(maps.Keys(live)) {
		if _, wanted := want[key]; !wanted && !strings.HasPrefix(key, "goog-") && (isLabels(at) || !zero(live[key])) {
			d.add(join(at, key), live[key], nil)
		}
	}
}

func (d *differ) value(p resource.Path, live, want any) {
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok && live != nil {
			d.add(p, live, want)
			return
		}
		if l == nil && len(w) > 0 && !allZero(w) {
			d.add(p, live, want)
			return
		}
		d.object(p, l, w)
	case []any:
		l, _ := live.([]any)
		switch {
		case len(l) != len(w):
			d.add(p, live, want)
		case exact(d.kind.Sets, p):
			if !d.sameSet(p, l, w) {
				d.add(p, live, want)
			}
		default:
			for i := range w {
				d.value(resource.Path(fmt.Sprintf("%s[%d]", p, i)), l[i], w[i])
			}
		}
	default:
		if !sameScalar(live, want) {
			d.add(p, live, want)
		}
	}
}

// sameSet matches each wanted element with a live one of its own that shows no difference.
func (d *differ) sameSet(p resource.Path, live, want []any) bool {
	left := slices.Clone(live)
	for _, w := range want {
		i := slices.IndexFunc(left, func(l any) bool {
			sub := differ{kind: d.kind}
			sub.value(p+"[0]", l, w)
			return len(sub.fields) == 0
		})
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return true
}

func join(at resource.Path, key string) resource.Path {
	if at == "" {
		return resource.Path(key)
	}
	return at + "." + resource.Path(key)
}

func isLabels(p resource.Path) bool {
	return p == "labels" || strings.HasSuffix(string(p), ".labels") || strings.HasSuffix(string(p), "userLabels")
}

// isCondition says whether p is what must hold for one of a list of rules, such as a bucket's. In it, zero is not the same as
// absent: no days are every object's age, and so cannot be wanted in place of no condition.
func isCondition(p resource.Path) bool { return strings.HasSuffix(string(p), "].condition") }

// general turns "rules[3].x" into "rules[].x", the form of a kind's paths.
func general(p resource.Path) string {
	s := string(p)
	if !strings.Contains(s, "[") {
		return s
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '[')
		if i < 0 {
			return b.String() + s
		}
		j := i + strings.IndexByte(s[i:], ']')
		b.WriteString(s[:i] + "[]")
		s = s[j+1:]
	}
}

func exact(paths []resource.Path, p resource.Path) bool {
	return slices.Contains(paths, resource.Path(general(p)))
}

// covered says whether p is one of the paths or lies below one.
func covered(paths []resource.Path, p resource.Path) bool {
	if len(paths) == 0 {
		return false
	}
	g := general(p)
	for _, x := range paths {
		if rest, ok := strings.CutPrefix(g, string(x)); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// sameScalar compares after the four normalisations: links by what they point to, numbers by their text (Google
// sends 64-bit integers as strings), and a wanted zero equals an absent field.
func sameScalar(live, want any) bool {
	if want == (resource.Unknown{}) {
		return false
	}
	if live == nil {
		return zero(want)
	}
	l, w := text(live), text(want)
	return l == w
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return resource.CanonicalLink(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		return v.String()
	case map[string]any, []any:
		raw, _ := json.Marshal(v)
		return string(raw)
	}
	return fmt.Sprint(v)
}

func zero(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0"
	case bool:
		return !v
	case float64:
		return v == 0
	case map[string]any:
		return allZero(v)
	case []any:
		return len(v) == 0
	}
	return false
}

func allZero(m map[string]any) bool {
	for _, v := range m {
		if !zero(v) {
			return false
		}
	}
	return true
}

func shown(want any) any {
	if want == (resource.Unknown{}) {
		return Unknown
	}
	return want
}
