package doctor

import (
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
	Cut       bool          // there are older ones, which were not read
	Local     bool          // it is in a local cloud
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
	Local  string // the same in a local cloud, which has neither a console nor support; "" = Remedy
	// Command is to be run for it, without its flags; "" = none. "difyup logs" gets the container.
	Command string
	// Grave is what keeps users from their work, now or soon, unless all that is seen is mild. The rest is to be known.
	Grave bool
	// Known are the reports of it that it was made from, as in "#32297" for Dify's own issues.
	Known string

	needs []Source            // besides Source
	marks []mark              // for Logs: any of them
	find  func(*Case) []sight // for others; nothing where all is well
}

// sight is what is seen of an illness. It is mild if it may pass by itself, or has passed.
type sight struct {
	text string
	mild bool
}

// seen are texts that are told as they are.
func seen(texts ...string) (all []sight) {
	for _, t := range texts {
		all = append(all, sight{text: t})
	}
	return all
}

// How long is waited for what passes by itself: a store that is made takes up to 20 minutes, and as long may an instance take that waits
// for it. What was written in logs longer ago than recently may have passed.
const (
	patience = 25 * time.Minute
	recently = 30 * time.Minute
)

// mark is what a line of a log bears.
type mark struct {
	of    []string // containers; nil = any
	texts []string // all of them; the first is what Cloud Logging is asked for
}

// ofStore is the text of a mark that stands for the name of one of the stack's stores: what is of another server is its user's trouble.
const ofStore = "(a store of the stack)"

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
	Findings []Finding         `json:"findings"`      // the grave ones first
	Looked   int               `json:"looked"`        // for so many illnesses
	Cut      bool              `json:"cut,omitempty"` // older lines of logs were not read
	Unread   map[Source]string `json:"unread,omitempty"`
	Blind    []string          `json:"blind,omitempty"` // the codes of illnesses that could not be looked for
}

// Grave says whether anything keeps users from their work.
func (r *Result) Grave() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Grave })
}

// Examine looks for every illness.
func Examine(c *Case) *Result {
	r := &Result{Findings: []Finding{}, Unread: c.Unread, Cut: c.Cut}
	for _, i := range Illnesses() {
		if slices.ContainsFunc(append(i.needs, i.Source), func(s Source) bool { _, unread := c.Unread[s]; return unread }) {
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

func (i *Illness) remedy(local bool) string {
	if local && i.Local != "" {
		return i.Local
	}
	return i.Remedy
}

func (i *Illness) examine(c *Case) *Finding {
	f := &Finding{Code: i.Code, Title: i.Title, Cause: i.Cause, Remedy: i.remedy(c.Local), Command: i.Command}
	show := func(text string) {
		if len(f.Seen) < Most && !slices.Contains(f.Seen, text) {
			f.Seen = append(f.Seen, text)
		}
	}
	if i.find != nil {
		for _, s := range i.find(c) {
			f.Times++
			f.Grave = f.Grave || i.Grave && !s.mild
			show(s.text)
		}
	}
	for n := len(c.Lines) - 1; n >= 0 && i.find == nil; n-- { // the newest first
		l := c.Lines[n]
		if !slices.ContainsFunc(i.marks, func(m mark) bool { return m.on(c.Status.Stack, l) }) {
			continue
		}
		if f.Times++; f.Last.IsZero() {
			f.Last, f.Grave = l.At, i.Grave && c.Now.Sub(l.At) <= recently
		}
		show(fmt.Sprintf("%s %s: %s", l.Instance, l.Container, strings.TrimSpace(l.Text)))
	}
	if f.Times == 0 {
		return nil
	}
	return f
}

func (m mark) on(stack string, l ops.LogLine) bool {
	if m.of != nil && !slices.Contains(m.of, l.Container) {
		return false
	}
	return !slices.ContainsFunc(m.texts, func(text string) bool {
		if text == ofStore {
			text = "." + stack + ".internal"
		}
		return !containsFold(l.Text, text)
	})
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
func each(what func(c *Case, i *ops.Instance) (text string, mild bool)) func(*Case) []sight {
	return func(c *Case) (all []sight) {
		for n := range c.Status.Instances {
			if text, mild := what(c, &c.Status.Instances[n]); text != "" {
				all = append(all, sight{c.Status.Instances[n].Name + ": " + text, mild})
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

// saying looks for words of the agent's (see its words) in a check that failed and in what an instance waits for: of what has one of the names,
// or of anything. What an instance waits for may come yet, for some time, and while somebody is at work; if the load balancer finds it healthy,
// it has come, and the report is older.
func saying(names []string, any ...string) func(*Case) []sight {
	return each(func(c *Case, i *ops.Instance) (string, bool) {
		d := c.fresh(i)
		if d == nil {
			return "", false
		}
		fits := func(text string) bool {
			return (names == nil || slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(text, name) })) &&
				slices.ContainsFunc(any, func(word string) bool { return strings.Contains(text, word) })
		}
		for _, text := range d.Ill() {
			if fits(text) {
				return text, false
			}
		}
		if fits(d.Waiting) && i.Health != "HEALTHY" {
			return d.Waiting, c.early(d)
		}
		return "", false
	})
}

// early says whether what an instance waits for may still come.
func (c *Case) early(d *report.Document) bool {
	return c.Status.Lock != nil || c.Now.Sub(d.Since) < patience
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

// below finds resources of a kind that have a number which is less than it should be. One that is not set is 0.
func below(kind string, path resource.Path, least float64) func(*Case) []sight {
	return func(c *Case) []sight {
		var all []string
		for id, body := range c.Plan.Live {
			if !strings.HasPrefix(string(id), kind+"/") {
				continue
			}
			v, ok := resource.Lookup(body, path)
			if !ok {
				v = 0
			}
			var n float64
			if _, err := fmt.Sscan(fmt.Sprint(v), &n); err == nil && n < least {
				all = append(all, fmt.Sprintf("%s: %s is %v", id, path, v))
			}
		}
		slices.Sort(all)
		return seen(all...)
	}
}

// changed finds what apply would change at a path of a kind's resources.
func changed(kind string, path resource.Path) func(*Case) []sight {
	return func(c *Case) (all []sight) {
		for _, s := range c.Plan.Steps {
			for _, f := range s.Changes {
				if strings.HasPrefix(string(s.ID), kind+"/") && f.Path == path {
					all = append(all, seen(fmt.Sprintf("%s: %s is %v, not %v", s.ID, path, f.Old, f.New))...)
				}
			}
		}
		return all
	}
}

// ago says how long ago something was, roughly.
func ago(d time.Duration) string {
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
