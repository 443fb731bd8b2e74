package schema

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed data/*.json.gz
var data embed.FS

// Method is one method of an API.
type Method struct {
	ID         string `json:"id"`   // "compute.networks.insert"
	HTTPMethod string `json:"http"` // "POST"
	// Path is from the host's root, parameters in braces: "/compute/v1/projects/{project}/global/networks".
	Path string `json:"path"`
	// Named is the parameter that the resource's whole name is in, and the name's shape: "parent" is
	// "projects/{project}/secrets/{secret}". Only methods with a body have it.
	Named    map[string]string `json:"named"`
	Query    map[string]Param  `json:"query"`
	Request  string            `json:"request"` // the type of the body, "" for none
	Response string            `json:"response"`
	Upload   bool              `json:"upload"` // takes media, below /upload
	API      string            `json:"-"`      // "compute"
}

// Param is a query parameter.
type Param struct {
	Type string   `json:"type"`
	Enum []string `json:"enum"`
}

type property struct {
	Ref                  string              `json:"$ref"`
	Type                 string              `json:"type"`
	Format               string              `json:"format"`
	Enum                 []string            `json:"enum"`
	Items                *property           `json:"items"`
	AdditionalProperties *property           `json:"additionalProperties"`
	Properties           map[string]property `json:"properties"`
}

type api struct {
	Methods []*Method           `json:"methods"`
	Types   map[string]property `json:"types"`
}

// Set is the data of every API. It is safe for concurrent use; an API's data is decoded when it is first asked for.
type Set struct {
	apis map[string]func() (*api, error)
}

// Load gives the embedded data.
func Load() (*Set, error) {
	entries, err := data.ReadDir("data")
	if err != nil {
		return nil, fmt.Errorf("read the embedded discovery data: %w", err)
	}
	s := &Set{apis: map[string]func() (*api, error){}}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".json.gz")
		s.apis[name] = sync.OnceValues(func() (*api, error) { return decode(name) })
	}
	return s, nil
}

func decode(name string) (*api, error) {
	packed, err := data.ReadFile("data/" + name + ".json.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("discovery data of %s: %w", name, err)
	}
	var a api
	if err := json.NewDecoder(z).Decode(&a); err != nil {
		return nil, fmt.Errorf("discovery data of %s: %w", name, err)
	}
	for _, m := range a.Methods {
		m.API = name
	}
	return &a, nil
}

// APIs gives the names of the APIs, sorted: "compute", "sqladmin", "sqladmin-v1beta4", …
func (s *Set) APIs() []string { return slices.Sorted(maps.Keys(s.apis)) }

// Methods gives an API's methods, in the order of their IDs.
func (s *Set) Methods(name string) ([]*Method, error) {
	load, ok := s.apis[name]
	if !ok {
		return nil, fmt.Errorf("no discovery data of %q", name)
	}
	a, err := load()
	if err != nil {
		return nil, err
	}
	return a.Methods, nil
}

// Problem is something in a body that its type does not allow.
type Problem struct {
	Path    string // "autoscalingPolicy.mode", "" for the body itself
	Unknown bool   // the field does not exist
	Value   string // the offending value, for a bad enum value or type
	Message string
}

// Check gives what the type does not allow in a body: unknown fields, wrong types, values that an enum has not. It is
// ordered by path.
func (s *Set) Check(apiName, typ string, body map[string]any) ([]Problem, error) {
	load, ok := s.apis[apiName]
	if !ok {
		return nil, fmt.Errorf("no discovery data of %q", apiName)
	}
	a, err := load()
	if err != nil {
		return nil, err
	}
	var problems []Problem
	a.check("", property{Ref: typ}, body, &problems)
	return problems, nil
}

func (a *api) check(at string, p property, v any, out *[]Problem) {
	if v == nil {
		return // null clears a field
	}
	for p.Ref != "" {
		p = a.Types[p.Ref]
	}
	add := func(message string) {
		raw, _ := json.Marshal(v)
		*out = append(*out, Problem{Path: at, Value: string(raw), Message: message})
	}
	switch p.Type {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			add("an object is expected")
			return
		}
		for _, key := range slices.Sorted(maps.Keys(m)) {
			below := key
			if at != "" {
				below = at + "." + key
			}
			if sub, ok := p.Properties[key]; ok {
				a.check(below, sub, m[key], out)
			} else if p.AdditionalProperties != nil {
				a.check(below, *p.AdditionalProperties, m[key], out)
			} else {
				*out = append(*out, Problem{Path: below, Unknown: true, Message: "no such field"})
			}
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			add("a list is expected")
			return
		}
		for i, e := range list {
			a.check(at+"["+strconv.Itoa(i)+"]", *p.Items, e, out)
		}
	case "string":
		switch s := v.(type) {
		case string:
			if len(p.Enum) > 0 && !slices.Contains(p.Enum, s) {
				add("not one of the field's values")
			} else if (p.Format == "int64" || p.Format == "uint64") && !isInteger(s) {
				add("a whole number is expected")
			}
		case float64: // 64-bit integers may come as numbers
			if p.Format != "int64" && p.Format != "uint64" || s != math.Trunc(s) {
				add("a string is expected")
			}
		default:
			add("a string is expected")
		}
	case "integer":
		switch n := v.(type) {
		case float64:
			if n != math.Trunc(n) {
				add("a whole number is expected")
			}
		case string:
			if !isInteger(n) {
				add("a whole number is expected")
			}
		default:
			add("a whole number is expected")
		}
	case "number":
		if _, ok := v.(float64); !ok {
			add("a number is expected")
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			add("true or false is expected")
		}
	}
}

// Has says whether a type has a field.
func (s *Set) Has(apiName, typ, field string) bool {
	load, ok := s.apis[apiName]
	if !ok {
		return false
	}
	a, err := load()
	if err != nil {
		return false
	}
	_, ok = a.Types[typ].Properties[field]
	return ok
}

// EnumNames replaces the numbers of enum values, which clients of Google's newer APIs may send, by their names. A
// value's number is its place in the discovery document, which lists them in the order of the protocol buffer.
func (s *Set) EnumNames(apiName, typ string, body map[string]any) error {
	return s.enums(apiName, typ, body, func(values []string, v any) any {
		if n, ok := v.(float64); ok && n == math.Trunc(n) && n >= 0 && int(n) < len(values) {
			return values[int(n)]
		}
		return v
	})
}

// EnumNumbers is the reverse of EnumNames: what a client asks for with $alt=json;enum-encoding=int.
func (s *Set) EnumNumbers(apiName, typ string, body map[string]any) error {
	return s.enums(apiName, typ, body, func(values []string, v any) any {
		if name, ok := v.(string); ok {
			if i := slices.Index(values, name); i >= 0 {
				return float64(i)
			}
		}
		return v
	})
}

func (s *Set) enums(apiName, typ string, body map[string]any, change func(values []string, v any) any) error {
	load, ok := s.apis[apiName]
	if !ok {
		return fmt.Errorf("no discovery data of %q", apiName)
	}
	a, err := load()
	if err != nil {
		return err
	}
	a.enums(property{Ref: typ}, body, change)
	return nil
}

func (a *api) enums(p property, v any, change func(values []string, v any) any) any {
	for p.Ref != "" {
		p = a.Types[p.Ref]
	}
	switch v := v.(type) {
	case map[string]any:
		for key, below := range v {
			if sub, ok := p.Properties[key]; ok {
				v[key] = a.enums(sub, below, change)
			} else if p.AdditionalProperties != nil {
				v[key] = a.enums(*p.AdditionalProperties, below, change)
			}
		}
		return v
	case []any:
		if p.Items != nil {
			for i, e := range v {
				v[i] = a.enums(*p.Items, e, change)
			}
		}
		return v
	}
	if len(p.Enum) > 0 {
		return change(p.Enum, v)
	}
	return v
}

func isInteger(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		_, err = strconv.ParseUint(s, 10, 64)
	}
	return err == nil
}
