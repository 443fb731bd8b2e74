package view

import (
	"cmp"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/localcloud/faults"
)

// Faults shows rules, one to a line.
func Faults(w io.Writer, all []faults.State) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printf(t, "ID\tREQUESTS\tFAULTS\tRATE\tLIMITS\tSEED\tHITS\n")
	for _, s := range all {
		var what, limits []string
		for _, f := range s.Faults {
			what = append(what, f.String())
		}
		if s.Skip > 0 {
			limits = append(limits, "skip "+strconv.FormatInt(int64(s.Skip), 10))
		}
		if s.Next > 0 {
			limits = append(limits, "next "+strconv.FormatInt(int64(s.Next), 10))
		}
		if s.For > 0 {
			limits = append(limits, "for "+s.For.String())
		}
		if s.Over {
			limits = append(limits, "over")
		}
		requests := cmp.Or(s.Method, s.Service, "all")
		if s.Except != "" {
			requests += " but " + s.Except
		}
		if s.Caller != "" {
			requests += " of " + s.Caller
		}
		id := strconv.FormatInt(int64(s.ID), 10)
		if s.Name != "" {
			id += " (" + s.Name + ")"
		}
		printf(t, "%s\t%s\t%s\t%v\t%s\t%d\t%d of %d\n", id, requests, strings.Join(what, " "), s.Rate, cmp.Or(strings.Join(limits, ", "), "-"), s.Seed, s.Hits, s.Matched)
	}
	_ = t.Flush() // to the same writer, whose errors are told where the command ends
}

// Sentence makes a sentence of an error's text.
func Sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:] + "."
}
