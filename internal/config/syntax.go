package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/fault"
	"go.yaml.in/yaml/v3"
)

const byteOrderMark = "\xef\xbb\xbf"

// document gives the top-level mapping of the file, or nil after a fault.
func (r *reader) document(data []byte) *yaml.Node {
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	if !r.encoding(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		r.empty()
		return nil
	case err != nil:
		r.syntax(data)
		return nil
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		r.add(r.position(second.Line, second.Column), "Several documents",
			"The file holds more than one YAML document, separated by a line `---`. One file describes one stack.",
			"Move the second document into a file of its own, and name it with -f.")
	} else if !errors.Is(err, io.EOF) {
		r.syntax(data)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		r.empty()
		return nil
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null":
		r.empty()
		return nil
	case root.Kind != yaml.MappingNode:
		r.add(r.position(root.Line, root.Column), "Not a configuration",
			"The file is "+kindOf(root)+". A stack is described by keys and values, one to a line.",
			"Begin like this:\n"+minimal)
		return nil
	}
	r.anchors(&doc)
	return root
}

const minimal = "    stack: demo\n    project: my-project-123\n    region: asia-northeast1"

func (r *reader) empty() {
	r.add(fault.Position{File: r.file}, "Empty configuration", "The file describes nothing: it is empty, or all of it is comments.",
		"Three lines are enough:\n"+minimal)
}

// encoding refuses what is not text, so that the parser's messages are about YAML only.
func (r *reader) encoding(data []byte) bool {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		r.add(fault.Position{File: r.file}, "Configuration is not UTF-8", "The file is written in UTF-16.", "Save it as UTF-8:\n    iconv -f UTF-16 -t UTF-8 "+r.file)
		return false
	}
	line, column := 1, 1
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		at := r.position(line, column)
		if c == utf8.RuneError && size == 1 {
			r.add(at, "Configuration is not UTF-8", fmt.Sprintf("The byte 0x%02x begins no character in UTF-8. Files from older systems often are in another encoding.", data[i]),
				"Save the file as UTF-8 in your editor.")
			return false
		}
		alone := c == '\r' && !bytes.HasPrefix(data[i:], []byte("\r\n")) // YAML takes it, and two more, for the end of a line
		if unicode.IsControl(c) && c != '\n' && c != '\r' && c != '\t' || alone || strings.ContainsRune("\uFEFF\u2028\u2029", c) {
			r.add(at, "Control character", fmt.Sprintf("The character U+%04X cannot be seen, and YAML does not allow it.", c), "Delete it.")
			return false
		}
		i += size
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
	}
	return true
}

var lineInError = regexp.MustCompile(`line (\d+): `)

// syntax turns what the YAML parser says into what a person can use.
func (r *reader) syntax(data []byte) {
	line, message := complaint(data)
	// Of a tab it says where what the tab is in begins, or that it begins nothing.
	within, nothing := strings.Contains(message, "tab character"), strings.Contains(message, "cannot start any token")
	for i, text := range r.lines {
		if line > 0 && i >= line && !within {
			break // the parser did not come to it
		}
		indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
		if tab := strings.IndexByte(indent, '\t'); tab >= 0 && strings.TrimSpace(text) != "" && (within && i+1 >= line || nothing && i+1 == line) {
			r.add(r.position(i+1, tab+1), "Tab in the indentation", "YAML takes spaces only at the beginning of a line.", "Replace the tab with two spaces.")
			return
		}
		if m := wideKey.FindStringSubmatchIndex(text); m != nil {
			begin := max(m[2], m[4], m[6])
			r.wide(r.position(i+1, 1+len([]rune(text[:begin]))), text[begin:])
			return
		}
	}
	if name, ok := strings.CutPrefix(message, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		line = 1 + max(-1, slices.IndexFunc(r.lines, func(l string) bool { return strings.Contains(l, "*"+name) }))
	}
	// The parser tells where a section begins. The line that does not fit into it is the first without which all is well.
	if strings.HasSuffix(message, "did not find expected key") || strings.HasSuffix(message, "did not find expected '-' indicator") {
		ends := bytes.SplitAfter(data, []byte("\n"))
		line = sort.Search(len(ends), func(n int) bool {
			_, m := complaint(bytes.Join(ends[:n], nil))
			return m == message
		})
	}
	at := fault.Position{File: r.file}
	last := len(r.lines)
	for last > 0 && strings.TrimSpace(r.lines[last-1]) == "" {
		last--
	}
	if line > last { // the end of the file came too early
		line = last
		message = strings.Replace(message, "did not find expected node content", "did not find expected ',' or ']'", 1)
	}
	if line > 0 {
		at = r.position(line, 0)
	}
	detail, remedy := "The line cannot be read as YAML: "+message+".", "Check the line and the one before it."
	for _, k := range []struct{ part, detail, remedy string }{
		{"mapping values are not allowed", "There is a second colon on the line, or the line is indented further than the one before it, which already has a value.",
			"Align the line with its neighbours. A text with a colon and a space in it stands in quotes:\n    key: \"a: b\""},
		{"found unexpected end of stream", "A quote is opened here and never closed.", "Close it at the end of the text."},
		{"could not find expected ':'", "A key stands here without its colon.", "Write a colon and a space after the key:\n    key: value"},
		{"did not find expected ',' or ']'", "A list is opened with [ and never closed, or a comma is missing in it.", "Write it like this:\n    key: [first, second]"},
		{"did not find expected ',' or '}'", "A section is opened with { and never closed, or a comma is missing in it.", "Write one key to a line, indented by two spaces."},
		{"did not find expected key", "The line is indented neither like the one before it nor like a line above.", "Align it with the keys that belong to the same section."},
		{"did not find expected '-' indicator", "The list goes on with something that is no item.", "Begin each item with a hyphen and a space, all at the same indentation."},
		{"did not find expected node content", "A value is missing before a comma or a bracket.", "Write the value, or remove the comma."},
		{"block sequence entries are not allowed", "A hyphen begins an item of a list, where none can be.", "Write the list below its key, or as [first, second]."},
		{"cannot start any token", "The line begins with a character that means something else in YAML, such as @, ` or %.", "Put the text in quotes."},
		{"expected alphabetic or numeric character", "A text begins with * or &, which mean something else in YAML.", "Put it in quotes:\n    key: \"*\""},
		{"unknown escape character", "There is a backslash in a text in double quotes, followed by a character that needs none.", "Use single quotes: they take every character as it is."},
		{"unknown anchor", "An alias, *NAME, stands where no such anchor, &NAME, is. difyup takes neither.", "Write the value itself. A text that begins with * stands in quotes: \"*\"."},
	} {
		if strings.Contains(message, k.part) {
			detail, remedy = k.detail, k.remedy
			break
		}
	}
	r.add(at, "Not valid YAML", detail, remedy)
}

// wideKey finds what a Japanese keyboard, or a copy from a page, puts where YAML takes a colon or a space: before, in or behind a key.
var wideKey = regexp.MustCompile(`^[ \t]*([\x{3000}\x{a0}])|^[ ]*(?:- )?[A-Za-z_]+[ ]*(?:([：])|:([\x{3000}\x{a0}]))`)

// narrow writes full-width digits as others.
var narrow = strings.NewReplacer("０", "0", "１", "1", "２", "2", "３", "3", "４", "4", "５", "5", "６", "6", "７", "7", "８", "8", "９", "9")

// wide says whether a character looks like a colon or a space, and is none to YAML.
func wide(c rune) bool { return strings.ContainsRune("\u3000\u00a0：", c) }

// wide reports such a character, with which text begins.
func (r *reader) wide(at fault.Position, text string) {
	c, _ := utf8.DecodeRuneInString(text)
	name := map[rune]string{'\u3000': "a full-width space", '\u00a0': "a no-break space", '：': "a full-width colon"}[c]
	instead := "a space"
	if c == '：' {
		instead = "a colon and a space"
	}
	r.add(at, "Full-width character", fmt.Sprintf("There is %s here, U+%04X, which YAML takes for a letter.", name, c), "Write "+instead+" of the keyboard's ASCII input in its place.")
}

// complaint gives the line and the words of the parser about data; line 0 means that it names none.
func complaint(data []byte) (line int, message string) {
	// The first line of a file is given as none. With a line before it, there is no first line.
	dec := yaml.NewDecoder(io.MultiReader(strings.NewReader("#\n"), bytes.NewReader(data)))
	var err error
	for err == nil {
		var n yaml.Node
		err = dec.Decode(&n)
	}
	if errors.Is(err, io.EOF) {
		return 0, ""
	}
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	m := lineInError.FindStringSubmatch(message)
	if m == nil {
		return 0, message
	}
	line, err = strconv.Atoi(m[1])
	if err != nil {
		return 0, message
	}
	message = strings.Replace(message, m[0], "", 1)
	// What the scanner finds is counted from one, what the parser finds from zero.
	if !slices.ContainsFunc([]string{"<", "node content", "key", "'-'", "','"}, func(s string) bool {
		return strings.HasPrefix(message, "did not find expected "+s)
	}) {
		line--
	}
	return line, message
}

// anchors refuses what makes a value stand elsewhere than where it is used: a fault could not name its line, and a
// reader would have to look for it. One fault stands for all.
func (r *reader) anchors(n *yaml.Node) bool {
	say := func(what string) bool {
		r.add(r.position(n.Line, n.Column), "Anchor, alias or tag", "The value "+what+". difyup reads values where they stand only.",
			"Write the value itself, also where it is the same twice.")
		return true
	}
	switch {
	case n.Kind == yaml.AliasNode:
		r.aliased = true
		return say("is an alias, *" + n.Value)
	case n.Anchor != "":
		r.aliased = true
		return say("has an anchor, &" + n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		return say("has a tag, " + n.Tag)
	}
	for _, c := range n.Content {
		if r.anchors(c) {
			return true
		}
	}
	return false
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "empty"
	case "!!timestamp":
		return "a date"
	}
	return "a text"
}
