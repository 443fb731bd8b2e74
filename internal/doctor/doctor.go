package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/resource"
)

// Source is where a sign is seen.
type Source string

// The sources.
const (
	Cloud  Source = "cloud"     // the status of the stack's resources
	Plan   Source = "plan"      // what apply would change
	Report Source = "instances" // what instances say of themselves
	Logs   Source = "logs"      // what containers and agents wrote
	Names  Source = "DNS"       // where the domain leads
)

// Case is what is known of a stack at a time. Of a source that could not be read, Unread has the reason.
type Case struct {
	Now       time.Time
	Status    *ops.Status   // with what each instance says; never nil
	Plan      *plan.Plan    // nil if it could not be made
	Lines     []ops.LogLine // those that bear one of Texts, the oldest first
	Domain    string        // of the description; "" = none, or nobody outside is to find it
	Addresses []netip.Addr  // to which the domain leads
	Unread    map[Source]string
}

// Illness is something that is known to go wrong.
type Illness struct {
	Code   string
	Title  string
	Source Source
	Sign   string // in words
	Cause  string // why it comes to be
	Remedy string // what to do, a sentence or more
	// Command is to be run for it, without its flags; "" = none. "difyup logs" gets the container.
	Command string
	// Grave is what keeps users from their work, now or soon. The rest is to be known.
	Grave bool
	// Known are the reports of it that it was made from, as in "#32297" for Dify's own issues.
	Known string

	marks []mark               // for Logs: any of them
	find  func(*Case) []string // for others: what is seen, a line each; nothing where all is well
}

// mark is what a line of a log bears.
type mark struct {
	of    []string // containers; nil = any
	texts []string // all of them; the first is what Cloud Logging is asked for
}

// Finding is an illness of a stack.
type Finding struct {
	Code    string    `json:"code"`
	Title   string    `json:"title"`
	Grave   bool      `json:"grave"`
	Seen    []string  `json:"seen"`              // where and what, a line each, no more than Most
	Times   int       `json:"times"`             // how often it was seen, all in all
	Last    time.Time `json:"last,omitzero"`     // in the logs
	Cause   string    `json:"cause"`             //
	Remedy  string    `json:"remedy"`            //
	Command string    `json:"command,omitempty"` // without the flags that make it be about the stack
}

// Most is how many lines a finding shows.
const Most = 3

// Result is what there is to say of a stack.
type Result struct {
	Findings []Finding         `json:"findings"` // the grave ones first
	Looked   int               `json:"looked"`   // for so many illnesses
	Unread   map[Source]string `json:"unread,omitempty"`
	Blind    []string          `json:"blind,omitempty"` // the codes of illnesses that could not be looked for
}

// Grave says whether anything keeps users from their work.
func (r *Result) Grave() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Grave })
}

// Examine looks for every illness.
func Examine(c *Case) *Result {
	r := &Result{Findings: []Finding{}, Unread: c.Unread}
	for _, i := range Illnesses() {
		if _, unread := c.Unread[i.Source]; unread {
			r.Blind = append(r.Blind, i.Code)
			continue
		}
		r.Looked++
		if f := i.examine(c); f != nil {
			r.Findings = append(r.Findings, *f)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if a.Grave == b.Grave {
			return 0
		}
		if a.Grave {
			return -1
		}
		return 1
	})
	return r
}

func (i *Illness) examine(c *Case) *Finding {
	f := &Finding{Code: i.Code, Title: i.Title, Grave: i.Grave, Cause: i.Cause, Remedy: i.Remedy, Command: i.Command}
	if i.find != nil {
		f.Seen = i.find(c)
		f.Times = len(f.Seen)
		f.Seen = f.Seen[:min(Most, len(f.Seen))]
	}
	for n := len(c.Lines) - 1; n >= 0 && len(i.marks) > 0; n-- { // the newest first
		l := c.Lines[n]
		if !slices.ContainsFunc(i.marks, func(m mark) bool { return m.on(l) }) {
			continue
		}
		f.Times++
		if f.Last.IsZero() {
			f.Last = l.At
		}
		if seen := fmt.Sprintf("%s %s: %s", l.Instance, l.Container, strings.TrimSpace(l.Text)); len(f.Seen) < Most && !slices.Contains(f.Seen, seen) {
			f.Seen = append(f.Seen, seen)
		}
	}
	if f.Times == 0 {
		return nil
	}
	return f
}

func (m mark) on(l ops.LogLine) bool {
	if m.of != nil && !slices.Contains(m.of, l.Container) {
		return false
	}
	return !slices.ContainsFunc(m.texts, func(text string) bool { return !containsFold(l.Text, text) })
}

// containsFold compares as Cloud Logging does: without case.
func containsFold(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(part))
}

// Texts gives what to look for in the logs.
func Texts() []string {
	var all []string
	for _, i := range Illnesses() {
		for _, m := range i.marks {
			all = append(all, m.texts[0])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// each asks for every instance, and names it in what is said of it; "" is nothing.
func each(what func(c *Case, i *ops.Instance) string) func(*Case) []string {
	return func(c *Case) []string {
		var all []string
		for n := range c.Status.Instances {
			if text := what(c, &c.Status.Instances[n]); text != "" {
				all = append(all, c.Status.Instances[n].Name+": "+text)
			}
		}
		return all
	}
}

// fresh gives what an instance says of itself, if that says something of the present.
func (c *Case) fresh(i *ops.Instance) *report.Document {
	if i.Report == nil || c.Now.Sub(i.Report.At) > report.Stale {
		return nil
	}
	return i.Report
}

// saying looks for words of the agent's (see its words) in a check that failed and in what an instance waits for. Only of what has that name, if it
// has one, and not of what has one of others.
func saying(name string, not []string, any ...string) func(*Case) []string {
	return each(func(c *Case, i *ops.Instance) string {
		d := c.fresh(i)
		if d == nil {
			return ""
		}
		fits := func(text string) bool {
			return (name == "" || strings.HasPrefix(text, name)) && !slices.ContainsFunc(not, func(other string) bool { return strings.HasPrefix(text, other) }) &&
				slices.ContainsFunc(any, func(word string) bool { return strings.Contains(text, word) })
		}
		for _, text := range append(d.Ill(), d.Waiting) {
			if fits(text) {
				return text
			}
		}
		return ""
	})
}

// live gives a value of the live bodies of a kind's resources, by ID.
func (c *Case) live(kind string, path resource.Path) map[resource.ID]any {
	all := map[resource.ID]any{}
	for id, body := range c.Plan.Live {
		if v, ok := resource.Lookup(body, path); ok && strings.HasPrefix(string(id), kind+"/") {
			all[id] = v
		}
	}
	return all
}

// below finds resources of a kind that have a number which is less than it should be.
func below(kind string, path resource.Path, least float64, what string) func(*Case) []string {
	return func(c *Case) []string {
		var all []string
		for id, v := range c.live(kind, path) {
			var n float64
			if _, err := fmt.Sscan(fmt.Sprint(v), &n); err == nil && n < least {
				all = append(all, fmt.Sprintf("%s: %s is %v", id, what, v))
			}
		}
		slices.Sort(all)
		return all
	}
}

// changed finds what apply would change at a path of a kind's resources.
func changed(kind string, path resource.Path) func(*Case) []string {
	return func(c *Case) []string {
		var all []string
		for _, s := range c.Plan.Steps {
			for _, f := range s.Changes {
				if strings.HasPrefix(string(s.ID), kind+"/") && f.Path == path {
					all = append(all, fmt.Sprintf("%s: %s is %v, not %v", s.ID, path, f.Old, f.New))
				}
			}
		}
		return all
	}
}

// ago says how long ago something was, roughly.
func ago(d time.Duration) string { return cmp.Or(d.Round(time.Minute), d.Round(time.Second)).String() }
