package view

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is shown of a text from outside. A command in a remedy may be long; nothing that is longer than this is read.
const (
	longestLine = 4000 // characters
	mostLines   = 200
	longestLook = 160 // characters of a line of a file
)

// styled is text that may go to a terminal as it is: made here, with what came from outside made harmless.
type styled string

// printf is how everything in this package is written: arguments come from outside (files, the cloud, other people) unless they
// are styled, and are made harmless.
func printf(w io.Writer, format string, args ...any) {
	_, _ = io.WriteString(w, string(sprintf(format, args...))) // a closed pipe ends the command elsewhere
}

// sprintf is printf into a text.
func sprintf(format string, args ...any) styled {
	safe := make([]any, len(args))
	for i, a := range args {
		safe[i] = harmless(a)
	}
	return styled(fmt.Sprintf(format, safe...))
}

// harmless gives an argument as it may be shown: numbers and styled text as they are, all else as a clean line.
func harmless(a any) any {
	switch v := a.(type) {
	case nil:
		return ""
	case styled:
		return string(v)
	case string:
		return clean(v)
	case error:
		return clean(v.Error())
	case fmt.Stringer:
		return clean(v.String())
	}
	switch v := reflect.ValueOf(a); v.Kind() {
	case reflect.String:
		return clean(v.String())
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		return a
	}
	return clean(fmt.Sprint(a))
}

// clean gives a text from outside as one line that a terminal shows and does not obey. What cannot be seen, or changes how the rest
// is seen (escapes and other control characters, marks of writing direction, what is no UTF-8), is written as Go would
// write it. What is too long is cut, and says so.
func clean(text string) string {
	if plain(text) {
		return text
	}
	var b strings.Builder
	n := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if n >= longestLine {
			fmt.Fprintf(&b, "… (%d bytes more)", len(text)-i)
			break
		}
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
			n += 4
		case r == '\t':
			b.WriteByte(' ')
			n++
		case visible(r):
			b.WriteRune(r)
			n++
		case r == '\n':
			b.WriteString(`\n`)
			n += 2
		case r == '\r':
			b.WriteString(`\r`)
			n += 2
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
			n += 4
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
			n += 6
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
			n += 10
		}
		i += size
	}
	return b.String()
}

// plain says whether a text is short and of visible ASCII, as nearly all are.
func plain(text string) bool {
	if len(text) > longestLine {
		return false
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// visible says whether a character may be shown as it is: letters, marks, numbers, punctuation, symbols and the space. Formatting
// characters, which nobody sees, are none of these; nor are other spaces, which look like it.
func visible(r rune) bool {
	return r == ' ' || unicode.IsPrint(r) && !invisible(r)
}

// invisible are those letters and marks that Unicode counts among its letters and marks and that leave no trace on a screen.
func invisible(r rune) bool {
	return r == 0x034f || r == 0x115f || r == 0x1160 || r == 0x17b4 || r == 0x17b5 || r == 0x3164 || r == 0xffa0 || // fillers
		0x180b <= r && r <= 0x180f || 0xfe00 <= r && r <= 0xfe0f || 0xe0100 <= r && r <= 0xe01ef // selectors of variants
}

// lines gives a text of several lines, each clean; not too many.
func lines(text string) []styled {
	var out []styled
	for line := range strings.SplitSeq(text, "\n") {
		if len(out) == mostLines {
			return append(out, sprintf("… (%d lines more)", strings.Count(text, "\n")+1-mostLines))
		}
		out = append(out, styled(strings.TrimRight(clean(line), " ")))
	}
	return out
}

// excerpt gives a line of a file, clean, and where in it a column (in characters, from 1; 0 for none) is then. Of a long line it is
// the part around the column.
func excerpt(line string, column int) (text styled, at int) {
	var runes []string // with bytes that are no UTF-8 as they are
	for len(line) > 0 && len(runes) < column+longestLook {
		_, size := utf8.DecodeRuneInString(line)
		runes = append(runes, line[:size])
		line = line[size:]
	}
	from, before, after := 0, "", ""
	if column > longestLook/2 && (column+longestLook/2 < len(runes) || len(runes) > longestLook || line != "") {
		from, before = column-longestLook/2, "…"
	}
	to := len(runes)
	if to-from > longestLook {
		to, after = from+longestLook, "…"
	} else if line != "" {
		after = "…"
	}
	middle := max(from, min(column-1, to))
	left := before + clean(strings.Join(runes[from:middle], ""))
	if column > 0 {
		at = utf8.RuneCountInString(left) + 1
	}
	return styled(left + clean(strings.Join(runes[middle:to], "")) + after), at
}
