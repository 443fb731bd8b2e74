package view

import (
	"errors"
	"io"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// Error shows why a command failed: its faults with places and remedies, or the chain of causes.
func Error(w io.Writer, c Palette, err error) {
	faults := fault.All(err)
	for i, f := range faults {
		if i > 0 {
			printf(w, "\n")
		}
		one(w, c, f)
	}
	// Steps that failed without a fault are told too.
	for _, e := range leaves(err) {
		if len(fault.All(e)) == 0 {
			printf(w, "%s %s\n", c.red("Error:"), e)
		}
	}
	if n := len(faults); n > 1 {
		printf(w, "\n%d problems.\n", n)
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
	printf(w, "%s %s\n", c.red("Error:"), c.bold(f.Summary))
	if at := f.At.String(); at != "" {
		printf(w, "  %s\n", c.cyan(at))
	}
	if f.At.Text != "" && f.At.Line > 0 {
		text, column := excerpt(f.At.Text, f.At.Column)
		margin := sprintf("%d | ", f.At.Line)
		printf(w, "    %s%s\n", c.dim(margin), text)
		if column > 0 {
			printf(w, "    %s%s\n", strings.Repeat(" ", len(margin)+column-1), c.red("^"))
		}
	}
	paragraph(w, f.Detail)
	if cause := f.Cause; cause != nil && !strings.Contains(f.Detail, cause.Error()) && len(fault.All(cause)) == 0 {
		for _, line := range lines("(" + cause.Error() + ")") {
			printf(w, "  %s\n", c.dim(line))
		}
	}
	paragraph(w, f.Remedy)
}

func paragraph(w io.Writer, text string) {
	if text == "" {
		return
	}
	for _, line := range lines(text) {
		if line != "" {
			line = "  " + line
		}
		printf(w, "%s\n", line)
	}
}

// Interrupted says that the user ended the command, and that this was safe.
func Interrupted(w io.Writer, c Palette) {
	printf(w, "%s This is safe: run the same command again to continue.\n", c.yellow("Interrupted."))
}

// Note says something by the way.
func Note(w io.Writer, c Palette, text string) { printf(w, "%s\n", c.dim(text)) }

// Warning says what a command does not refuse over, and its user should know.
func Warning(w io.Writer, c Palette, text string) {
	for i, line := range lines(text) {
		if i == 0 {
			printf(w, "%s %s\n", c.yellow("Warning:"), line)
		} else {
			printf(w, "  %s\n", line)
		}
	}
}

// Next names the command to try next.
func Next(w io.Writer, c Palette, command string) {
	printf(w, "%s %s\n", c.dim("Next:"), command)
}
