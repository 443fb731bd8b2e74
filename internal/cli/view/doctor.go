package view

import (
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/doctor"
	"github.com/difyup/difyup/internal/ops"
)

// Doctor shows what was found of a stack, at a time. Flags are what makes a command be about the stack.
func Doctor(w io.Writer, c Palette, where, flags string, s *ops.Status, r *doctor.Result, now time.Time) {
	grave := 0
	for _, f := range r.Findings {
		if f.Grave {
			grave++
		}
	}
	said := c.green("nothing is found")
	switch {
	case grave > 0:
		said = c.red(counted(grave, "trouble", "troubles"))
		if n := len(r.Findings) - grave; n > 0 {
			said += c.yellow(", " + string(counted(n, "note", "notes")))
		}
	case len(r.Findings) == 0 && len(r.Blind) > 0:
		said = c.yellow("nothing is found of what could be looked for")
	case len(r.Findings) > 0:
		said = c.yellow(counted(len(r.Findings), "note", "notes"))
	}
	printf(w, "%s %s %s%s  %s\n", c.bold(s.Stack), c.dim("in"), s.Project, c.dim(" ("+where+")"), said)
	for _, f := range r.Findings {
		sign := c.yellow("!")
		if f.Grave {
			sign = c.red("✗")
		}
		times := ""
		if f.Times > len(f.Seen) {
			times = string(sprintf(", %d times", f.Times))
		}
		if !f.Last.IsZero() {
			times += ", last " + max(0, now.Sub(f.Last)).Round(time.Second).String() + " ago"
		}
		printf(w, "\n  %s %s %s\n", sign, c.bold(f.Title), c.dim("("+f.Code+times+")"))
		for _, seen := range f.Seen {
			text, _ := excerpt(seen, 0)
			printf(w, "      %s\n", c.dim(text))
		}
		printf(w, "      %s\n      %s\n", f.Cause, f.Remedy)
		if f.Command != "" {
			printf(w, "          %s\n", f.Command+flags)
		}
	}
	printf(w, "\n%s\n", c.dim(sprintf("%d known troubles were looked for.", r.Looked)))
	if r.Cut {
		printf(w, "%s\n", c.yellow("There are more lines of logs with signs than were read: of older ones nothing is said."))
	}
	for _, source := range slices.Sorted(maps.Keys(r.Unread)) {
		printf(w, "%s\n", c.yellow(sprintf("What shows in the %s could not be looked for: %s", string(source), r.Unread[source])))
	}
	if len(r.Blind) > 0 {
		printf(w, "%s\n", c.yellow("Not looked for: "+strings.Join(r.Blind, ", ")))
	}
}

// counted gives a number with its noun.
func counted(n int, one, many string) styled {
	if n == 1 {
		return sprintf("%d %s", n, one)
	}
	return sprintf("%d %s", n, many)
}
