package report

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Where the document stands among an instance's guest attributes.
const (
	Namespace = "difyup"
	Key       = "status"
)

// LogID is the log of Cloud Logging that instances write. Its entries have the labels stack, instance, version and container, which is a
// service's name, or AgentLog for the agent's own.
const (
	LogID    = "difyup"
	AgentLog = "agent"
)

// Longest is the most bytes of a document. Google allows 256 KiB for a value.
const Longest = 8 << 10

// Every is how often an agent publishes a document in which nothing changed, and Stale the age from which one says
// nothing of the present.
const (
	Every = time.Minute
	Stale = 3 * Every
)

// Phase is how far an instance has come.
type Phase string

// The phases, in their order. An instance goes back when it loses what it had.
const (
	Secrets  Phase = "secrets"  // reads its secrets
	Stores   Phase = "stores"   // waits for the names and the stores
	Migrates Phase = "migrates" // has the databases migrated, or waits for another instance that does
	Starts   Phase = "starts"   // has started the runtime and waits for it
	Serves   Phase = "serves"   // takes traffic
	Drains   Phase = "drains"   // takes no new traffic and finishes what it has
)

// Document is how an instance is. Any program of the instance may write it: it is shown to people, and nothing is decided by
// it but which of the releases that were asked for the databases have. It holds no secret, and no text of a library's: reasons are the agent's own words.
type Document struct {
	Boot    string    `json:"boot"` // the kernel's ID of this boot
	At      time.Time `json:"at"`
	Dify    string    `json:"dify"` // the version it runs
	Phase   Phase     `json:"phase"`
	Since   time.Time `json:"since"`             // of the phase
	Served  time.Time `json:"served,omitzero"`   // when it first took traffic since the agent's start; an earlier agent does not say
	Waiting string    `json:"waiting,omitempty"` // for what: "the vector database: refuses the password"
	Schema  *Schema   `json:"schema,omitempty"`  // of the databases, once it is known
	// Scheduler is the instance on which the stack's scheduler runs, as far as this one knows; "" = on none.
	Scheduler string  `json:"scheduler,omitempty"`
	Checks    []Check `json:"checks,omitempty"` // of what the instance depends on, when it was last tried
	// Containers are those of the runtime, when it was last asked, and Plugins those that are installed. A document of an earlier agent has neither.
	Containers *Containers `json:"containers,omitempty"`
	Plugins    *Plugins    `json:"plugins,omitempty"`
	// Warnings say what is not as it should be and keeps no traffic away: "the plugin x/y:1.0 runs on no instance, and is installed".
	Warnings []string `json:"warnings,omitempty"`
}

// Schema is what the databases were migrated to.
type Schema struct {
	Version string `json:"version"` // of Dify
	Head    string `json:"head"`    // the revision
}

// Check is one thing that an instance depends on.
type Check struct {
	Name string `json:"name"`           // "the vector database"
	Well bool   `json:"well"`           //
	Says string `json:"says,omitempty"` // why not: "refuses the password"
	Took int    `json:"took_ms"`        // milliseconds
}

// Containers are how the runtime's containers were at a time.
type Containers struct {
	At  time.Time   `json:"at"`
	All []Container `json:"all"` // by name
}

// Container is how a container is.
type Container struct {
	Name     string `json:"name"`               // the service's
	Well     bool   `json:"well"`               // it runs, and answers if it can be asked
	Restarts int    `json:"restarts,omitempty"` // since it was made
	MiB      int    `json:"mib,omitempty"`      // of memory; 0 = not known
}

// Plugins is how many of the installed plugins ran on the instance at a time. Which do not are among the warnings.
type Plugins struct {
	At        time.Time `json:"at"`
	Installed int       `json:"installed"`
	Here      int       `json:"here"`
}

// String says how the instance is.
func (d Document) String() string {
	said := map[Phase]string{
		Secrets: "reads its secrets", Stores: "waits for its stores", Migrates: "brings the databases up to Dify " + d.Dify, Starts: "starts Dify " + d.Dify, Serves: "serves Dify " + d.Dify, Drains: "takes no new requests and ends",
	}[d.Phase]
	if said == "" {
		said = "is in the phase " + string(d.Phase)
	}
	if d.Phase == Serves && d.Schema != nil {
		said += " on the schema " + d.Schema.Head
	}
	if d.Waiting != "" {
		said += ": " + d.Waiting
	}
	return said
}

// Ill gives the checks that failed, as "the vector database refuses the login".
func (d Document) Ill() []string {
	var ill []string
	for _, c := range d.Checks {
		if !c.Well {
			ill = append(ill, c.Name+" "+c.Says)
		}
	}
	return ill
}

// Encode gives the document's text, at most Longest bytes: of one that would be longer, without its checks, containers and warnings.
func (d Document) Encode() []byte {
	raw, err := json.Marshal(d)
	if err == nil && len(raw) <= Longest {
		return raw
	}
	d.Checks, d.Containers, d.Warnings, d.Waiting = nil, nil, nil, cut(d.Waiting, 200)
	raw, _ = json.Marshal(d) // of strings and times
	return raw
}

// Parse reads a document. Its texts are cut and cleaned of what a terminal would obey: whoever wrote it may mean no good.
func Parse(raw string) (Document, error) {
	var d Document
	if len(raw) > Longest {
		return d, fmt.Errorf("the instance's report is longer than %d bytes", Longest)
	}
	if err := json.Unmarshal([]byte(raw), &d); err != nil {
		return d, fmt.Errorf("the instance's report cannot be read: %w", err)
	}
	d.Boot, d.Dify, d.Phase, d.Waiting = clean(d.Boot), clean(d.Dify), Phase(clean(string(d.Phase))), clean(d.Waiting)
	d.Scheduler = clean(d.Scheduler)
	if d.Schema != nil {
		d.Schema.Version, d.Schema.Head = clean(d.Schema.Version), clean(d.Schema.Head)
	}
	for i := range d.Warnings {
		d.Warnings[i] = clean(d.Warnings[i])
	}
	for i := range d.Checks {
		d.Checks[i].Name, d.Checks[i].Says = clean(d.Checks[i].Name), clean(d.Checks[i].Says)
	}
	if d.Containers != nil {
		for i := range d.Containers.All {
			d.Containers.All[i].Name = clean(d.Containers.All[i].Name)
		}
	}
	return d, nil
}

func clean(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s), 300)
}

func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
