package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Type is what YAML a key takes.
type Type string

// The types of options.
const (
	Text    Type = "text"
	Number  Type = "whole number"
	Decimal Type = "number"
	Switch  Type = "true or false"
	Texts   Type = "list of texts"
	Map     Type = "map of texts"
	Section Type = "section"
	Entries Type = "list of sections"
)

// Option is one key as the tags in spec.go describe it.
type Option struct {
	Key      string
	Type     Type
	Required bool
	Default  string // as in YAML; "" with Derived == "" and !Required means the empty text
	Derived  string // a default in words
	Enum     []string
	Min, Max *float64
	Shape    *Shape
	Keys     *Shape // of a Map
	Numbers  bool   // a text that may look like a number
	Change   string // what a change of the value leads to
	Struct   string // the Go struct and field that hold the comment
	Field    string
	Children []Option // of Section and Entries
	index    []int
}

//go:embed spec.go
var source string

// Source gives the Go source of the options, whose comments describe them.
func Source() string { return source }

// Options gives the description of the whole file: the top-level keys and, below them, all others.
func Options() []Option { return optionsOf(reflect.TypeFor[Spec](), shapes()) }

func optionsOf(t reflect.Type, known map[string]Shape) []Option {
	var all []Option
	for i := range t.NumField() {
		f := t.Field(i)
		key, flag, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if flag == "inline" {
			for _, o := range optionsOf(f.Type, known) {
				o.index = append([]int{i}, o.index...)
				all = append(all, o)
			}
			continue
		}
		if key == "" {
			continue
		}
		o := Option{
			Key: key, Required: f.Tag.Get("required") == "true", Default: f.Tag.Get("default"), Derived: f.Tag.Get("derived"),
			Enum: strings.Fields(f.Tag.Get("enum")), Numbers: f.Tag.Get("accept") == "numbers", Change: f.Tag.Get("change"),
			Min: limit(f, "min"), Max: limit(f, "max"), Struct: t.Name(), Field: f.Name, index: []int{i},
		}
		for tag, into := range map[string]**Shape{"shape": &o.Shape, "keys": &o.Keys} {
			name := f.Tag.Get(tag)
			if name == "" {
				continue
			}
			s, ok := known[name]
			if !ok {
				panic(fmt.Sprintf("config: %s.%s: no shape %q. This is a bug in difyup.", t.Name(), f.Name, name))
			}
			*into = &s
		}
		switch f.Type.Kind() {
		case reflect.String:
			o.Type = Text
		case reflect.Int:
			o.Type = Number
		case reflect.Float64:
			o.Type = Decimal
		case reflect.Bool:
			o.Type = Switch
		case reflect.Map:
			o.Type = Map
		case reflect.Struct:
			o.Type, o.Struct, o.Children = Section, f.Type.Name(), optionsOf(f.Type, known)
		case reflect.Slice:
			o.Type = Texts
			if f.Type.Elem().Kind() == reflect.Struct {
				o.Type, o.Children = Entries, optionsOf(f.Type.Elem(), known)
			}
		default:
			panic(fmt.Sprintf("config: %s.%s: options cannot be %s. This is a bug in difyup.", t.Name(), f.Name, f.Type))
		}
		all = append(all, o)
	}
	return all
}

func limit(f reflect.StructField, tag string) *float64 {
	text, ok := f.Tag.Lookup(tag)
	if !ok {
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("config: %s: %v. This is a bug in difyup.", f.Name, err))
	}
	return &n
}
