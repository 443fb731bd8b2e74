package event

import "time"

// Phase is where a step, or the whole run, stands.
type Phase string

// The phases of a step, in the order they can come.
const (
	Started Phase = "started"
	Retried Phase = "retried" // Detail says why, and how long until the next try
	Waiting Phase = "waiting" // Detail says for what
	Done    Phase = "done"
	Failed  Phase = "failed"
	Skipped Phase = "skipped" // Detail names the step whose failure caused it
	Info    Phase = "info"    // not about a step: the lock, the local cloud, the settling of instances
)

// Event is one thing that happened. The zero ID means the run as a whole.
type Event struct {
	At      time.Time     `json:"at"`
	Phase   Phase         `json:"phase"`
	ID      string        `json:"id,omitempty"`     // resource ID
	Action  string        `json:"action,omitempty"` // create, update, delete, …
	Detail  string        `json:"detail,omitempty"` // never a secret
	Error   string        `json:"error,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns,omitempty"` // since Started, for Done and Failed
	Index   int           `json:"index,omitempty"`      // steps finished so far, for Done, Failed and Skipped
	Total   int           `json:"total,omitempty"`
}

// Sink receives events. It may be called from several goroutines at once and must not block for long. A nil Sink is
// allowed: use Send.
type Sink func(Event)

// Send stamps e and hands it to the sink, if there is one.
func (s Sink) Send(e Event) {
	if s == nil {
		return
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	s(e)
}
