package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Position is a place in a file the user wrote. The zero Position means "no place".
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // 1-based
	Column int    `json:"column,omitempty"` // 1-based, in characters
	Text   string `json:"text,omitempty"`   // the offending line, without its newline
}

// String gives FILE:LINE:COLUMN, or "" for no place.
func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Fault is an error with a remedy.
type Fault struct {
	Summary string   `json:"summary"`          // one line without user data: "Unknown option"
	Detail  string   `json:"detail,omitempty"` // what happened, to what, and why it is a problem
	Remedy  string   `json:"remedy,omitempty"` // what to do; a command stands on a line of its own, indented by four
	At      Position `json:"at,omitzero"`
	Cause   error    `json:"-"`
}

// Error gives the fault in one line, for logs and error chains; views print the parts.
func (f *Fault) Error() string {
	var b strings.Builder
	if at := f.At.String(); at != "" {
		b.WriteString(at + ": ")
	}
	b.WriteString(f.Summary)
	if f.Detail != "" {
		b.WriteString(": " + f.Detail)
	}
	if f.Cause != nil {
		b.WriteString(": " + f.Cause.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Cause }

// List is several faults found at once, in the order of their places.
type List []*Fault

// Error joins the faults, one to a line.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, f := range l {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the faults to errors.Is and errors.As.
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, f := range l {
		errs[i] = f
	}
	return errs
}

// Err gives nil for an empty list, so that a caller can return l.Err().
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// All collects the faults in err's tree, depth first. An error that holds none gives nil.
func All(err error) []*Fault {
	switch e := err.(type) {
	case nil:
		return nil
	case *Fault:
		return []*Fault{e}
	case interface{ Unwrap() []error }:
		var all []*Fault
		for _, sub := range e.Unwrap() {
			all = append(all, All(sub)...)
		}
		return all
	}
	return All(errors.Unwrap(err))
}
