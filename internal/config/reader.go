package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/spelling"
	"go.yaml.in/yaml/v3"
)

// reader turns YAML nodes into a Spec, and gathers the faults.
type reader struct {
	file    string
	lines   []string
	places  map[string]fault.Position // where each value is written
	bad     map[string]bool           // paths with a fault, and the sections above them
	faults  fault.List
	aliased bool // some values are elsewhere, so that one may only seem to be missing
}

func (r *reader) add(at fault.Position, summary, detail, remedy string) {
	r.faults = append(r.faults, &fault.Fault{Summary: summary, Detail: detail, Remedy: remedy, At: at})
}

// at adds a fault about the value at path, which later checks will pass over.
func (r *reader) at(path, summary, detail, remedy string) {
	p, ok := lookup(r.places, path)
	if !ok {
		p = fault.Position{File: r.file}
	}
	r.add(p, summary, detail, remedy)
	r.spoil(path)
}

func (r *reader) spoil(path string) {
	for path != "" {
		r.bad[path] = true
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// ok says whether none of the values at the paths has a fault.
func (r *reader) ok(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return r.bad[p] })
}

func (r *reader) position(line, column int) fault.Position {
	p := fault.Position{File: r.file, Line: line, Column: column}
	if line > 0 && line <= len(r.lines) {
		p.Text = r.lines[line-1]
	}
	return p
}

func (r *reader) root(n *yaml.Node, spec *Spec) {
	r.section(n, Options(), reflect.ValueOf(spec).Elem(), "", fault.Position{File: r.file})
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// section reads the keys of a mapping. The place is where a missing key is reported.
func (r *reader) section(n *yaml.Node, options []Option, v reflect.Value, path string, place fault.Position) {
	setDefaults(options, v)
	first := map[string]int{}  // line by key
	meant := map[string]bool{} // keys that others are taken for
	merged := false
	for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := r.position(key.Line, key.Column)
		if key.Kind != yaml.ScalarNode {
			if key.Kind != yaml.AliasNode {
				r.add(at, "Wrong key", "A key is "+kindOf(key)+"; keys are plain texts.", "Write the key as one word, followed by a colon.")
			}
			continue
		}
		if key.ShortTag() == "!!merge" {
			if !r.aliased {
				r.add(at, "Anchor, alias or tag", "The key << merges other values into this section. difyup reads values where they stand only.", "Write the values themselves.")
			}
			merged, r.aliased = true, true
			continue
		}
		if line, twice := first[key.Value]; twice {
			r.add(at, "Duplicate key", fmt.Sprintf("%s is already set on line %d.", quote(join(path, key.Value)), line), "Keep one of the two lines.")
			r.spoil(join(path, key.Value))
			continue
		}
		first[key.Value] = key.Line
		j := slices.IndexFunc(options, func(o Option) bool { return o.Key == key.Value })
		if j < 0 {
			meant[r.unknown(at, key.Value, path, options)] = true
			continue
		}
		r.value(value, options[j], v.FieldByIndex(options[j].index), join(path, key.Value), at)
	}
	for _, o := range options {
		if _, given := first[o.Key]; given {
			continue
		}
		child := join(path, o.Key)
		if o.Required && !merged && !r.aliased {
			if !meant[o.Key] { // else what is to be done is said there
				r.add(place, "Missing option", quote(child)+" is not set, and there is no default for it.", "Add a line:\n    "+o.Key+": "+o.example())
			}
			r.spoil(child)
		}
		if o.Type == Section {
			r.section(nil, o.Children, v.FieldByIndex(o.index), child, place)
		}
	}
}

func (o Option) example() string {
	text := "…"
	switch {
	case o.Default != "":
		return o.Default
	case o.Shape != nil:
		text = o.Shape.Example
	case len(o.Enum) > 0:
		text = o.Enum[0]
	}
	if o.Type == Texts {
		return "[" + text + "]"
	}
	return text
}

// unknown finds out what a key that does not exist was meant to be. It returns the sibling it is taken for, or nothing.
func (r *reader) unknown(at fault.Position, key, path string, siblings []Option) string {
	if i := strings.IndexFunc(key, wide); i >= 0 {
		r.wide(r.position(at.Line, at.Column+len([]rune(key[:i]))), key[i:])
		return ""
	}
	detail := fmt.Sprintf("There is no option %s.", quote(join(path, key)))
	if before, after, ok := strings.Cut(key, ":"); ok && after != "" && slices.ContainsFunc(siblings, func(o Option) bool { return o.Key == before }) {
		r.add(at, "Unknown option", detail+" A space is missing after the colon.", "Write:\n    "+before+": "+after)
		return before
	}
	if len(r.faults) > maxFaults { // it will not be told
		r.add(at, "Unknown option", detail, "Remove it.")
		return ""
	}
	here := make([]string, len(siblings))
	for i, o := range siblings {
		here[i] = o.Key
	}
	elsewhere := map[string][]string{} // sections by key
	var walk func(path string, options []Option)
	walk = func(path string, options []Option) {
		for _, o := range options {
			elsewhere[o.Key] = append(elsewhere[o.Key], path)
			if o.Type != Entries { // an item's keys are of no use elsewhere
				walk(join(path, o.Key), o.Children)
			}
		}
	}
	walk("", Options())
	known := make([]string, 0, len(elsewhere))
	for k := range elsewhere {
		known = append(known, k)
	}
	word := strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	far := spelling.Nearest(word, known)
	var remedy, sibling string
	switch {
	case len(elsewhere[word]) > 0 && !slices.Contains(here, word):
		remedy = belongs(word, elsewhere[word])
	case spelling.Nearest(word, here) != "":
		sibling = spelling.Nearest(word, here)
		remedy = fmt.Sprintf("Did you mean %s?", quote(sibling))
	case far != "" && spelling.Edits(word, far) <= 2:
		remedy = fmt.Sprintf("Did you mean %s? %s", quote(far), belongs(far, elsewhere[far]))
	default:
		remedy = "Remove it. The options here are " + list(here, "and") + "."
	}
	r.add(at, "Unknown option", detail, remedy)
	return sibling
}

func belongs(key string, sections []string) string {
	var in []string
	for _, s := range sections {
		if s == "" {
			return quote(key) + " belongs to the top level: write it without indentation."
		}
		in = append(in, quote(s))
	}
	if len(in) > 1 {
		return fmt.Sprintf("%s belongs to a section. Move it into %s.", quote(key), list(in, "or"))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s belongs to a section. Move it there:", quote(key))
	indent := "    "
	for s := range strings.SplitSeq(sections[0], ".") {
		b.WriteString("\n" + indent + s + ":")
		indent += "  "
	}
	b.WriteString("\n" + indent + key + ": …")
	return b.String()
}

// value reads what stands after a key. The place is the key's.
func (r *reader) value(n *yaml.Node, o Option, v reflect.Value, path string, key fault.Position) {
	r.places[path] = key
	if n.Kind == yaml.AliasNode {
		r.spoil(path)
		return
	}
	null := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
	if !null && n.Kind == yaml.ScalarNode {
		r.places[path] = r.position(n.Line, n.Column)
	}
	switch o.Type {
	case Section:
		if null || n.Kind == yaml.MappingNode { // with all its keys commented out, a section is as if not there
			if null {
				n = nil
			}
			r.section(n, o.Children, v, path, key)
			return
		}
		setDefaults(o.Children, v)
		r.wrong(n, o, path, "")
	case Map:
		if null {
			return
		}
		if n.Kind != yaml.MappingNode {
			r.wrong(n, o, path, "")
			return
		}
		r.texts(n, o, v, path)
	case Entries, Texts:
		if n.Kind != yaml.SequenceNode {
			r.wrong(n, o, path, "")
			return
		}
		all := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		v.Set(all)
		for i, item := range n.Content {
			child := fmt.Sprintf("%s[%d]", path, i)
			at := r.position(item.Line, item.Column)
			r.places[child] = at
			switch {
			case item.Kind == yaml.AliasNode:
				r.spoil(child)
			case o.Type == Entries && item.Kind == yaml.MappingNode:
				r.section(item, o.Children, all.Index(i), child, at)
			case o.Type == Entries:
				r.wrong(item, Option{Key: o.Key, Type: Section, Children: o.Children}, child, "")
			default:
				one := o
				one.Type, one.Required = Text, o.Required || o.Default != "" || o.Derived != ""
				one.Default, one.Derived = "", "" // the list's
				r.scalar(item, one, all.Index(i), child)
			}
		}
	default:
		r.scalar(n, o, v, path)
	}
}

// texts reads a map. Its keys are the user's own.
func (r *reader) texts(n *yaml.Node, o Option, v reflect.Value, path string) {
	m := map[string]string{}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := r.position(key.Line, key.Column)
		if key.Kind == yaml.AliasNode || key.ShortTag() == "!!merge" {
			r.spoil(path)
			continue
		}
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
			r.add(at, "Wrong key", fmt.Sprintf("A key in %s is %s; keys are plain texts.", quote(path), kindOf(key)), "Write the key as one word, followed by a colon.")
			continue
		}
		if line, twice := first[key.Value]; twice {
			r.add(at, "Duplicate key", fmt.Sprintf("%s is already set on line %d.", quote(join(path, key.Value)), line), "Keep one of the two lines.")
			continue
		}
		first[key.Value] = key.Line
		child := join(path, key.Value)
		r.places[child] = at
		var text string
		if o.Keys != nil && !o.Keys.Fits(key.Value) {
			r.words(child, key.Value, Option{Key: key.Value, Type: Text, Shape: o.Keys, Required: true})
			continue
		}
		one := Option{Key: key.Value, Type: Text, Numbers: o.Numbers, Shape: o.Shape, Required: o.Shape != nil}
		if value.Kind == yaml.AliasNode {
			r.spoil(child)
		} else if r.scalar(value, one, reflect.ValueOf(&text).Elem(), child) {
			m[key.Value] = text
		}
	}
	v.Set(reflect.ValueOf(m))
}

var (
	wholeNumber   = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
	decimalNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*|(0|[1-9][0-9]*)?\.[0-9]+)$`)
	leadingNumber = regexp.MustCompile(`^-?[0-9]+`)
)

// scalar reads one value into v and says whether it could.
func (r *reader) scalar(n *yaml.Node, o Option, v reflect.Value, path string) bool {
	if n.Kind != yaml.ScalarNode {
		r.wrong(n, o, path, "")
		return false
	}
	tag, text := n.ShortTag(), n.Value
	if tag == "!!null" {
		what := "line"
		if strings.HasSuffix(path, "]") {
			what = "item"
		}
		r.at(path, "Missing value", quote(path)+" has no value.", "Write one, or remove the "+what+":\n    "+written(o, path, o.example()))
		return false
	}
	number := tag == "!!int" || tag == "!!float"
	switch o.Type {
	case Text:
		if tag != "!!str" && !(o.Numbers && (number || tag == "!!timestamp")) {
			if o.Shape != nil && !o.Shape.Fits(text) { // quotes would not make it right
				return r.words(path, text, o)
			}
			hint := strconv.Quote(text)
			if tag == "!!bool" && strings.Contains(path, ".flags.") {
				hint = map[bool]string{true: "on", false: "off"}[strings.EqualFold(text, "true")]
			}
			r.wrong(n, o, path, hint)
			return false
		}
		v.SetString(text)
	case Switch:
		if tag != "!!bool" {
			hint := map[string]string{"yes": "true", "y": "true", "on": "true", "1": "true", "true": "true", "enabled": "true",
				"no": "false", "n": "false", "off": "false", "0": "false", "false": "false", "disabled": "false"}[strings.ToLower(text)]
			r.wrong(n, o, path, hint)
			return false
		}
		v.SetBool(strings.EqualFold(text, "true"))
	case Number:
		if tag != "!!int" && tag != "!!float" || !wholeNumber.MatchString(text) {
			hint := ""
			text := narrow.Replace(text)
			switch digits := leadingNumber.FindString(text); {
			case strings.HasPrefix(strings.ToLower(text), "0x") || strings.HasPrefix(strings.ToLower(text), "0o"):
			case tag == "!!int" && strings.Trim(text, "0_") != "": // 0644 would be 420, and 1_000 is readable in YAML 1.1 only
				hint = strings.TrimLeft(strings.ReplaceAll(text, "_", ""), "0+")
			case strings.Contains(strings.ToUpper(text), "E") && number, digits == "":
			case tag == "!!str" && digits != text:
				hint = inUnit(o.Key, text)
			default:
				hint = strings.TrimLeft(digits, "0")
			}
			if !wholeNumber.MatchString(hint) {
				hint = ""
			}
			r.wrong(n, o, path, hint)
			return false
		}
		f, err := strconv.ParseFloat(text, 64)
		if err == nil && !r.limits(path, text, f, o) {
			return false
		}
		i, err := strconv.Atoi(text)
		if err != nil {
			r.wrong(n, o, path, "")
			return false
		}
		v.SetInt(int64(i))
	case Decimal:
		if !number || !decimalNumber.MatchString(text) {
			hint := ""
			if percent, ok := strings.CutSuffix(text, "%"); ok && decimalNumber.MatchString(percent) {
				if f, err := strconv.ParseFloat(percent, 64); err == nil {
					hint = strconv.FormatFloat(f/100, 'g', 6, 64)
				}
			} else if decimalNumber.MatchString(text) {
				hint = text
			}
			r.wrong(n, o, path, hint)
			return false
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			r.wrong(n, o, path, "")
			return false
		}
		v.SetFloat(f)
		return r.limits(path, text, f, o)
	}
	return o.Type != Text || r.words(path, text, o)
}

// units are what one of a unit is in the unit that the end of an option's name says.
var units = map[string]map[string]int{
	"_seconds": {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600},
	"_gb":      {"g": 1, "gb": 1, "gib": 1, "t": 1024, "tb": 1024, "tib": 1024},
	"_days":    {"d": 1, "day": 1, "w": 7, "week": 7},
}

var numberInUnit = regexp.MustCompile(`^([0-9]{1,9}) ?([A-Za-z]*)$`)

// inUnit gives a number with a unit in the one of an option, or "".
func inUnit(key, text string) string {
	m := numberInUnit.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return ""
	}
	if m[2] == "" {
		return strconv.Itoa(n)
	}
	for end, known := range units {
		unit := strings.ToLower(m[2])
		one, ok := known[unit]
		if !ok {
			one, ok = known[strings.TrimSuffix(unit, "s")]
		}
		if ok && strings.HasSuffix(key, end) {
			return strconv.Itoa(n * one)
		}
	}
	return ""
}

// written is how a value is written: behind its key, or as an item of a list.
func written(o Option, path, value string) string {
	if strings.HasSuffix(path, "]") {
		return "- " + value
	}
	return o.Key + ": " + value
}

// wrong reports a value of the wrong type. With a hint it says what to write.
func (r *reader) wrong(n *yaml.Node, o Option, path, hint string) {
	if _, ok := r.places[path]; !ok {
		r.places[path] = r.position(n.Line, n.Column)
	}
	got := kindOf(n)
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		got = quote(n.Value) + ", " + got
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			got = quote(strconv.Quote(n.Value)) + ", a text"
		}
		if n.ShortTag() == "!!bool" {
			got = quote(n.Value)
		}
		if o.Type == Number && n.ShortTag() == "!!int" {
			got = quote(n.Value) + ", which may mean another number than it seems"
		}
	}
	want := map[Type]string{
		Text: "a text", Number: "a whole number", Decimal: "a number", Switch: "true or false", Texts: "a list of texts",
		Map: "keys with values, indented below it", Section: "a section: keys with values, indented below it", Entries: "a list of sections",
	}[o.Type]
	detail := fmt.Sprintf("%s takes %s. Here it is %s.", quote(path), want, got)
	remedy := "Write " + want + "."
	if example := o.example(); example != "…" && n.Kind != yaml.SequenceNode {
		remedy = "Write " + want + ", for instance:\n    " + written(o, path, example)
	}
	if hint != "" {
		remedy = "Write:\n    " + written(o, path, hint)
	} else {
		switch {
		case n.Kind == yaml.ScalarNode && (o.Type == Section || o.Type == Map) && strings.ContainsFunc(n.Value, wide):
			remedy = "It has a full-width colon or space where YAML takes plain ones. Write:\n    " + o.Key + ":\n      key: value"
		case n.Kind == yaml.ScalarNode && (o.Type == Section || o.Type == Map) && strings.Contains(n.Value, ":"):
			before, after, _ := strings.Cut(n.Value, ":")
			remedy = fmt.Sprintf("A space is missing after the colon. Write:\n    %s:\n      %s: %s", o.Key, before, strings.TrimSpace(after))
		case o.Type == Section && len(o.Children) > 0:
			remedy = fmt.Sprintf("Write the options below it, indented:\n    %s:\n      %s: %s", o.Key, o.Children[0].Key, o.Children[0].example())
			if strings.HasSuffix(path, "]") {
				remedy = fmt.Sprintf("Write its options as keys with values:\n    - %s: %s", o.Children[0].Key, o.Children[0].example())
			}
		case o.Type == Texts && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null":
			remedy = fmt.Sprintf("Put it in brackets:\n    %s: [%s]", o.Key, n.Value)
		case o.Type == Texts:
			remedy = fmt.Sprintf("Write a list, or remove the line:\n    %s: %s", o.Key, o.example())
		case o.Type == Entries && len(o.Children) > 0:
			remedy = fmt.Sprintf("Begin each entry with a hyphen:\n    %s:\n      - %s: %s", o.Key, o.Children[0].Key, o.Children[0].example())
		case o.Type == Map:
			remedy = fmt.Sprintf("Write:\n    %s:\n      name: value", o.Key)
		case o.Type == Switch:
			remedy = "Write true or false, without quotes."
		case n.Kind == yaml.SequenceNode && len(n.Content) == 1 && n.Content[0].Kind == yaml.ScalarNode:
			remedy = "It takes one value, not a list:\n    " + written(o, path, n.Content[0].Value)
		}
	}
	r.at(path, "Wrong type", detail, remedy)
}

func (r *reader) limits(path, text string, n float64, o Option) bool {
	if len(o.Enum) > 0 {
		return r.words(path, text, o)
	}
	format := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	remedy := ""
	switch {
	case o.Min != nil && n < *o.Min:
		remedy = "Write " + format(*o.Min) + " or more."
	case o.Max != nil && n > *o.Max:
		remedy = "Write " + format(*o.Max) + " or less."
		if o.Type == Decimal && *o.Max == 1 && n <= 100 {
			remedy = fmt.Sprintf("It is a share of 1, not a percentage. Write:\n    %s: %s", o.Key, strconv.FormatFloat(n/100, 'g', 6, 64))
		}
	default:
		return true
	}
	between := ""
	if o.Min != nil && o.Max != nil {
		between = fmt.Sprintf(" It takes %s to %s.", format(*o.Min), format(*o.Max))
	}
	r.at(path, "Value out of range", fmt.Sprintf("%s cannot be %s.%s", quote(path), text, between), remedy)
	return false
}

// words checks a text against the option's words or shape.
func (r *reader) words(path, text string, o Option) bool {
	if len(o.Enum) > 0 && !slices.Contains(o.Enum, text) {
		all := make([]string, len(o.Enum))
		for i, e := range o.Enum {
			all[i] = quote(e)
		}
		remedy := "Choose one of them."
		if w := spelling.Nearest(strings.ToLower(strings.ReplaceAll(text, "_", "-")), o.Enum); w != "" && o.Type == Text && !o.Numbers {
			remedy = fmt.Sprintf("Did you mean %s?", quote(w))
		}
		r.at(path, "Unknown value", fmt.Sprintf("%s cannot be %s. It takes %s.", quote(path), quote(text), list(all, "or")), remedy)
		return false
	}
	if o.Shape == nil || o.Shape.Fits(text) || text == "" && o.Default == "" && !o.Required && o.Derived == "" {
		return true
	}
	remedy := "Write it like this: " + o.Shape.Example
	if hint := o.Shape.repair(text); hint != "" {
		remedy = fmt.Sprintf("Did you mean %s?", quote(hint))
	}
	r.at(path, "Malformed value", fmt.Sprintf("%s cannot be %s. It must be %s.", quote(path), quote(text), o.Shape.Says), remedy)
	return false
}

// setDefaults gives every option of a section that is not one itself the default of its tag.
func setDefaults(options []Option, v reflect.Value) {
	for _, o := range options {
		f := v.FieldByIndex(o.index)
		if o.Type == Section {
			setDefaults(o.Children, f)
			continue
		}
		if o.Default == "" {
			continue
		}
		if err := yaml.Unmarshal([]byte(o.Default), f.Addr().Interface()); err != nil {
			panic(fmt.Sprintf("config: the default of %s.%s: %v. This is a bug in difyup.", o.Struct, o.Field, err))
		}
	}
}

// quote puts what the user wrote between backquotes, on one line and not too long.
func quote(text string) string {
	const most = 80
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	if strings.ContainsAny(text, "`\n") || strconv.Quote(text) != `"`+text+`"` && !strings.ContainsAny(text, `"\`) {
		return strconv.Quote(text)
	}
	return "`" + text + "`"
}

// list joins words as a sentence does.
func list(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}
