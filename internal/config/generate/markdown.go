package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/config"
)

const intro = `# difyup.yaml

<!-- Generated from internal/config/spec.go by: go run ./internal/config/generate -->

One file describes one stack. Three options have no default, so that three lines are a complete stack:

` + "```yaml" + `
stack: demo
project: my-project-123
region: asia-northeast1
` + "```" + `

[examples/difyup.yaml](../examples/difyup.yaml) is a small stack to try difyup with,
[examples/production.yaml](../examples/production.yaml) one for daily work.

The file is read strictly. An option that does not exist, a value of the wrong type, a key that stands twice, two options
that contradict each other: difyup reports them all at once, each with its line and a remedy, before it does anything.
Anchors, aliases and tags are refused: a value is where one reads it.

For completion and checks while you type, give your editor the JSON schema, with this as the first line of the file:

` + "```yaml" + `
# yaml-language-server: $schema=docs/difyup.schema.json
` + "```" + `

## What a change leads to

Each option says what an apply does when its value has changed. ` + "`difyup plan`" + ` shows it beforehand, step by step.

| | |
| --- | --- |
| **in place** | The setting is changed. Nothing stops. |
| **rolling** | Instances are replaced, a few at a time, within ` + "`compute.max_surge`" + ` and ` + "`compute.max_unavailable`" + `. |
| **restart** | The database or the cache restarts: seconds to minutes without it. |
| **fixed** | It is set when the stack is created. Another value is refused, with what can be done: another Redis or bucket takes the place of one that you delete by hand, a database takes another stack. |

`

func (said texts) markdown() []byte {
	var b bytes.Buffer
	b.WriteString(intro)
	options := config.Options()
	b.WriteString("## Contents\n\n- [The stack](#the-stack)\n")
	for _, o := range options {
		if o.Type == config.Section {
			fmt.Fprintf(&b, "- [`%s`](#%s)\n", o.Key, o.Key)
		}
	}
	b.WriteString("- [All options with their defaults](#all-options-with-their-defaults)\n\n## The stack\n\nThe options at the top level.\n\n")
	said.section(&b, "", options, "##")
	b.WriteString("## All options with their defaults\n\nOptions behind a `#` have a default that depends on others.\n\n```yaml\n")
	said.defaults(&b, options, "")
	b.WriteString("```\n")
	return b.Bytes()
}

// section writes the options that are no sections, and then the sections.
func (said texts) section(b *bytes.Buffer, path string, options []config.Option, heading string) {
	for _, o := range options {
		if o.Type == config.Section {
			continue
		}
		facts := []string{takes(o)}
		switch {
		case o.Required:
			facts = append(facts, "**required**")
		case o.Derived != "":
			facts = append(facts, "default: "+o.Derived)
		case o.Default != "":
			facts = append(facts, "default: `"+o.Default+"`")
		default:
			facts = append(facts, "default: none")
		}
		if o.Change != "" {
			facts = append(facts, o.Change)
		}
		fmt.Fprintf(b, "**`%s`**: %s\\\n%s\n\n", o.Key, strings.Join(facts, " · "), said.about(o))
	}
	for _, o := range options {
		switch {
		case o.Type == config.Section && o.Key == "vector": // the same options once more
			fmt.Fprintf(b, "%s %s\n\n%s They are described [there](#database).\n\n", heading, o.Key, said.about(o))
		case o.Type == config.Section:
			fmt.Fprintf(b, "%s %s\n\n%s\n\n", heading, path+o.Key, said.about(o))
			said.section(b, path+o.Key+".", o.Children, heading+"#")
		case o.Type == config.Entries:
			fmt.Fprintf(b, "%s %s, each\n\n%s\n\n", heading, path+o.Key, said.entry(o))
			said.section(b, path+o.Key+".", o.Children, heading+"#")
		}
	}
}

// entry gives what is said about one entry of a list.
func (said texts) entry(o config.Option) string {
	text := said[o.Children[0].Struct]
	_, text, _ = strings.Cut(text, " ")
	return "It " + text
}

// takes says what values an option takes.
func takes(o config.Option) string {
	if len(o.Enum) > 0 {
		words := make([]string, len(o.Enum))
		for i, e := range o.Enum {
			words[i] = "`" + e + "`"
		}
		return strings.Join(words, ", ")
	}
	switch o.Type {
	case config.Switch:
		return "`true` or `false`"
	case config.Number, config.Decimal:
		what := string(o.Type)
		if o.Min != nil && o.Max != nil {
			format := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
			what += ", " + format(*o.Min) + " to " + format(*o.Max)
		}
		return what
	case config.Texts:
		if o.Shape != nil {
			return "list, each " + o.Shape.Says
		}
	case config.Map:
		if o.Shape != nil {
			return "map, each " + o.Shape.Says
		}
	case config.Text:
		if o.Shape != nil {
			return o.Shape.Says
		}
	}
	return string(o.Type)
}

// defaults writes the options as YAML.
func (said texts) defaults(b *bytes.Buffer, options []config.Option, indent string) {
	for _, o := range options {
		switch {
		case o.Type == config.Section:
			if indent == "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(b, "%s%s:\n", indent, o.Key)
			said.defaults(b, o.Children, indent+"  ")
		case o.Required:
			fmt.Fprintf(b, "%s%s: %s # required\n", indent, o.Key, o.Shape.Example)
		case o.Derived != "":
			fmt.Fprintf(b, "%s# %s: %s\n", indent, o.Key, o.Derived)
		case o.Type == config.Map:
			fmt.Fprintf(b, "%s%s: {}\n", indent, o.Key)
		default:
			value := o.Default
			if value == "" || o.Type == config.Text && slices.Contains([]string{"yes", "no"}, value) {
				value = strconv.Quote(value)
			}
			fmt.Fprintf(b, "%s%s: %s\n", indent, o.Key, value)
		}
	}
}
