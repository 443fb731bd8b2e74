package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/difyup/difyup/internal/config"
)

// schema gives the JSON schema. It says what editors can check; what depends on several options, difyup checks alone.
func (said texts) schema() ([]byte, error) {
	root, err := said.object(config.Options())
	if err != nil {
		return nil, err
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$comment"] = "Generated from internal/config/spec.go by: go run ./internal/config/generate"
	root["title"] = "difyup.yaml"
	root["description"] = "One stack: one deployment of Dify on Google Cloud."
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encode the schema: %w", err)
	}
	return b.Bytes(), nil
}

func (said texts) object(options []config.Option) (map[string]any, error) {
	properties := map[string]any{}
	var required []string
	for _, o := range options {
		p, err := said.property(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
		properties[o.Key] = p
		if o.Required {
			required = append(required, o.Key)
		}
	}
	object := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		object["required"] = required
	}
	return object, nil
}

func (said texts) property(o config.Option) (map[string]any, error) {
	var p map[string]any
	switch o.Type {
	case config.Section:
		object, err := said.object(o.Children)
		if err != nil {
			return nil, err
		}
		p = object
		p["type"] = []string{"object", "null"} // with all its keys commented out
	case config.Entries:
		object, err := said.object(o.Children)
		if err != nil {
			return nil, err
		}
		p = map[string]any{"type": "array", "items": object}
	case config.Texts:
		p = map[string]any{"type": "array", "items": text(o)}
	case config.Map:
		p = map[string]any{"type": []string{"object", "null"}, "additionalProperties": text(o)}
		if o.Keys != nil {
			p["propertyNames"] = map[string]any{"pattern": o.Keys.Pattern}
		}
	case config.Switch:
		p = map[string]any{"type": "boolean"}
	case config.Number:
		p = map[string]any{"type": "integer"}
	case config.Decimal:
		p = map[string]any{"type": "number"}
	default:
		p = text(o)
	}
	if o.Min != nil {
		p["minimum"] = *o.Min
	}
	if o.Max != nil {
		p["maximum"] = *o.Max
	}
	if len(o.Enum) > 0 {
		values, err := enum(o)
		if err != nil {
			return nil, err
		}
		p["enum"] = values
	}
	about := said.about(o)
	if o.Derived != "" {
		about += " Default: " + o.Derived + "."
	}
	if o.Change != "" {
		about += " A change: " + o.Change + "."
	}
	p["description"] = about
	if o.Default != "" {
		value, err := scalar(o, o.Default)
		if err != nil {
			return nil, err
		}
		p["default"] = value
	}
	return p, nil
}

// text describes a text, or each text of a list or map.
func text(o config.Option) map[string]any {
	p := map[string]any{"type": "string"}
	if o.Numbers {
		p["type"] = []string{"string", "number"}
	}
	if o.Shape == nil {
		return p
	}
	p["pattern"] = o.Shape.Pattern
	if o.Type == config.Text && o.Default == "" && o.Derived == "" && !o.Required {
		p["pattern"] = "^$|" + o.Shape.Pattern
	}
	p["examples"] = []string{o.Shape.Example}
	return p
}

// enum gives the values as the YAML parser of an editor sees them: what may look like a number, as both.
func enum(o config.Option) ([]any, error) {
	var values []any
	for _, e := range o.Enum {
		if o.Type == config.Text {
			values = append(values, e)
		}
		if o.Type == config.Number || o.Numbers {
			var v any
			if err := yaml.Unmarshal([]byte(e), &v); err != nil {
				return nil, err
			}
			values = append(values, v)
		}
	}
	return values, nil
}

func scalar(o config.Option, written string) (any, error) {
	if o.Type == config.Text {
		return written, nil
	}
	var v any
	err := yaml.Unmarshal([]byte(written), &v)
	return v, err
}
