package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/config"
)

// texts holds what the comments in spec.go say, by "Struct" and "Struct.Field", each as one line.
type texts map[string]string

func comments() (texts, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "spec.go", config.Source(), parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the comments: %w", err)
	}
	said := texts{}
	for _, d := range f.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			t, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			doc := t.Doc
			if doc == nil {
				doc = gen.Doc
			}
			said[t.Name.Name] = oneLine(doc)
			s, ok := t.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					said[t.Name.Name+"."+name.Name] = oneLine(field.Doc)
				}
			}
		}
	}
	return said, said.complete("", config.Options())
}

func oneLine(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	return strings.Join(strings.Fields(doc.Text()), " ")
}

// complete makes sure that no option is left without a word.
func (said texts) complete(path string, options []config.Option) error {
	for _, o := range options {
		if said.about(o) == "" {
			return fmt.Errorf("%s%s has no comment in spec.go", path, o.Key)
		}
		if err := said.complete(path+o.Key+".", o.Children); err != nil {
			return err
		}
	}
	return nil
}

// about gives what is said about an option. A section is described where its struct is, which by Go's custom begins with
// its name: "Compute is the instances" becomes "The instances".
func (said texts) about(o config.Option) string {
	if o.Type != config.Section {
		return said[o.Struct+"."+o.Field]
	}
	text := strings.TrimPrefix(said[o.Struct], o.Struct+" is ")
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + text[size:]
}
