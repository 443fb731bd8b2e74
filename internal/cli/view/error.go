package view

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// Error shows why a command failed: its faults with places and remedies, or the chain of causes.
func Error(w io.Writer, c Palette, err error) {
	faults := fault.All(err)
	for i, f := range faults {
		if i > 0 {
			fmt.Fprintln(w)
		}
		one(w, c, f)
	}
	// Steps that failed without a fault are told too.
	for _, e := range leaves(err) {
		if len(fault.All(e)) == 0 {
			fmt.Fprintf(w, "%s %s\n", c.red("Error:"), e)
		}
	}
	if n := len(faults); n > 1 {
		fmt.Fprintf(w, "\n%d problems.\n", n)
	}
}

// leaves splits joined errors.
func leaves(err error) []error {
	var list fault.List
	if joined, ok := err.(interface{ Unwrap() []error }); ok && !errors.As(err, &list) {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, leaves(e)...)
		}
		return out
	}
	return []error{err}
}

func one(w io.Writer, c Palette, f *fault.Fault) {
	fmt.Fprintf(w, "%s %s\n", c.red("Error:"), c.bold(f.Summary))
	if at := f.At.String(); at != "" {
		fmt.Fprintf(w, "  %s\n", c.cyan(at))
	}
	if f.At.Text != "" && f.At.Line > 0 {
		text := strings.ReplaceAll(f.At.Text, "\t", " ")
		fmt.Fprintf(w, "    %s%s\n", c.dim(fmt.Sprintf("%d | ", f.At.Line)), text)
		if f.At.Column > 0 {
			pad := len(fmt.Sprintf("%d | ", f.At.Line)) + f.At.Column - 1
			fmt.Fprintf(w, "    %s%s\n", strings.Repeat(" ", pad), c.red("^"))
		}
	}
	paragraph(w, "  ", f.Detail)
	if cause := f.Cause; cause != nil && !strings.Contains(f.Detail, cause.Error()) && len(fault.All(cause)) == 0 {
		paragraph(w, "  ", c.dim("("+cause.Error()+")"))
	}
	paragraph(w, "  ", f.Remedy)
}

func paragraph(w io.Writer, indent, text string) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(w, strings.TrimRight(indent+line, " "))
	}
}

// Interrupted says that the user ended the command, and that this was safe.
func Interrupted(w io.Writer, c Palette) {
	fmt.Fprintf(w, "%s What was begun is not lost: the same command goes on from here.\n", c.yellow("Interrupted."))
}

// Note says something by the way.
func Note(w io.Writer, c Palette, text string) { fmt.Fprintln(w, c.dim(text)) }

// Warning says what a command does not refuse over, and its user should know.
func Warning(w io.Writer, c Palette, text string) {
	fmt.Fprintf(w, "%s %s\n", c.yellow("Warning:"), text)
}

// Next names the command to try next.
func Next(w io.Writer, c Palette, command string) {
	fmt.Fprintf(w, "%s %s\n", c.dim("Next:"), command)
}
