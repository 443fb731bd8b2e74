package view

import (
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/smoke"
)

// Smoke shows the rows of a smoke test as they end, and on a terminal also the one that is going on.
type Smoke struct {
	w      io.Writer
	colour Palette
	width  func() int // of the terminal; nil for none
}

// NewSmoke shows what is going to be proven. Width is nil where the output is no terminal.
func NewSmoke(w io.Writer, c Palette, url, what string, width func() int) *Smoke {
	printf(w, "%s %s\n\n", c.bold(url), c.dim(what))
	return &Smoke{w: w, colour: c, width: width}
}

// Begin shows that a row is going on.
func (s *Smoke) Begin(r smoke.Row) {
	if s.width != nil {
		printf(s.w, "  %s %s %s", s.colour.cyan("…"), padded(r.Title), s.colour.dim(s.cut(r.Proves, 36)))
	}
}

// Done shows how it ended.
func (s *Smoke) Done(r smoke.Result) {
	if s.width != nil {
		printf(s.w, "%s", styled("\x1b[1K\r"))
	}
	c := s.colour
	took := sprintf("%7s", duration(time.Duration(r.Milliseconds*float64(time.Millisecond))))
	switch r.Status {
	case smoke.Passed:
		detail := styled("")
		// The detail is by the way; where there is no room for it, it is left out.
		if width := s.columns(); r.Detail != "" && (width == 0 || 40+utf8.RuneCountInString(r.Proves)+utf8.RuneCountInString(r.Detail) < width) {
			detail = c.dim(" · " + r.Detail)
		}
		printf(s.w, "  %s %s %s  %s%s\n", c.green("✓"), padded(r.Title), c.dim(took), s.cut(r.Proves, 36), detail)
		if r.Warning != "" {
			printf(s.w, "      %s\n", c.yellow("! "+r.Warning))
		}
	case smoke.Failed:
		printf(s.w, "  %s %s %s  %s\n", c.red("✗"), padded(r.Title), c.dim(took), c.red(r.Fault.Summary))
		for _, text := range []string{r.Fault.Detail, r.Fault.Remedy} {
			if text == "" {
				continue
			}
			for _, line := range lines(text) {
				printf(s.w, "      %s\n", line)
			}
		}
	case smoke.Skipped:
		printf(s.w, "  %s %s %s  %s\n", c.yellow("–"), padded(r.Title), "       ", c.yellow("left out: "+r.Detail))
	case smoke.NotRun:
		printf(s.w, "  %s %s %s  %s\n", c.dim("·"), c.dim(padded(r.Title)), "       ", c.dim("not run: "+r.Detail))
	}
}

// End says what that means.
func (s *Smoke) End(r *smoke.Report, interrupted bool) {
	c := s.colour
	count := map[smoke.Status]int{}
	for _, row := range r.Rows {
		count[row.Status]++
	}
	what := "Dify"
	if r.StandIn {
		what = "the stand-in for Dify"
	}
	if r.Version != "" {
		what += " " + r.Version
	}
	if n := len(r.Instances); n == 1 {
		what += " on one instance"
	} else if n > 1 {
		what += " on " + strconv.Itoa(n) + " instances"
	}
	if n := len(r.Unmet); n > 0 {
		what += ", " + strconv.Itoa(n) + " not met"
	}
	printf(s.w, "\n")
	switch failure := r.Failure(); {
	case failure != nil:
		printf(s.w, "%s %d of %d failed. Begin with %s.\n", c.red("Not proven:"), count[smoke.Failed], len(r.Rows), c.bold(failure.Title))
	case interrupted:
		printf(s.w, "%s What was made for the proof has been removed again.\n", c.yellow("Interrupted."))
	default:
		printf(s.w, "%s %s, %d of %d rows in %.1f s.\n", c.green("Proven:"), what, count[smoke.Passed], len(r.Rows), r.Seconds)
	}
	if r.StandIn {
		printf(s.w, "%s\n", c.dim("What was proven is all that Dify stands on, not Dify itself."))
	}
	if r.Failure() == nil && !interrupted {
		for i, row := range r.Inside {
			if i == 0 {
				printf(s.w, "%s\n", c.dim("Not proven, since it cannot be seen from outside:"))
			}
			printf(s.w, "  %s\n", c.dim("· "+row.Proves))
		}
	}
}

func padded(title string) string {
	const column = 24
	return title + strings.Repeat(" ", max(0, column-utf8.RuneCountInString(title)))
}

func (s *Smoke) columns() int {
	if s.width == nil {
		return 0
	}
	return s.width()
}

// cut cuts a text to what is left of the terminal's width.
func (s *Smoke) cut(text string, before int) string {
	width := s.columns()
	if r := []rune(text); width > before+8 && len(r) > width-before-1 {
		return string(r[:width-before-2]) + "…"
	}
	return text
}
