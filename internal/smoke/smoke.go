package smoke

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// Options say which Dify is proven, and as whom.
type Options struct {
	URL       string      // https://dify.example.com
	TLS       *tls.Config // nil = the system's authorities
	Version   string      // the release that must answer; "" = any
	Instances []string    // those that must answer; nil = as many as do
	// Left gives those of the instances that the group has given up since, as when it shrinks. They need not answer any more. nil = none is.
	Left func(ctx context.Context, instances []string) ([]string, error)
	// Serving gives those of the instances that are known to serve, though they answered nothing here: a load balancer may prefer others for
	// one client. They are told, and no failure. nil = none is known to.
	Serving func(ctx context.Context, instances []string) ([]string, error)

	Email, Password string
	// Setup lets the account be made the first one, its owner, when Dify has none.
	Setup bool
	// InitPassword gives Dify's INIT_PASSWORD. It is called when the first account is made, and only then.
	InitPassword func(context.Context) (string, error)

	Patience time.Duration // with the indexing of a document, and half of it with an instance that gets no requests; 0 = a minute
	Begin    func(Row)     // is told each row before it is done
	Done     func(Result)  // and after
}

// Row is one thing that is proven.
type Row struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Proves string `json:"proves"`

	needs   []string      // rows without which this one means nothing
	timeout time.Duration // 0 = a minute
	means   string        // what a failure means that says nothing more precise
	remedy  string
	do      func(context.Context, *session) (detail string, err error)
}

// Status is how a row ended.
type Status string

// Rows end well, badly, or not: because Dify has not what they need, or because a row before them failed.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
	NotRun  Status = "not run"
)

// Result is how a row ended, with what was seen.
type Result struct {
	Row
	Status       Status       `json:"status"`
	Detail       string       `json:"detail,omitempty"`
	Warning      string       `json:"warning,omitempty"` // what was not proven, though nothing failed
	Milliseconds float64      `json:"milliseconds"`
	Fault        *fault.Fault `json:"fault,omitempty"`
}

// Report is what was found.
type Report struct {
	URL       string   `json:"url"`
	OK        bool     `json:"ok"`
	Version   string   `json:"version,omitempty"` // which Dify says it is
	StandIn   bool     `json:"standin"`           // difyup's, in place of Dify
	Instances []string `json:"instances"`         // which answered; none when answers do not say where they come from
	Unmet     []string `json:"unmet,omitempty"`   // which are known to serve, and did not answer here
	Seconds   float64  `json:"seconds"`
	Rows      []Result `json:"rows"`
	// Inside is what cannot be seen from outside. It is for the agent on each instance to prove.
	Inside []Row `json:"inside"`
}

// Failure gives the first row that failed, nil for none.
func (r *Report) Failure() *Result {
	if i := slices.IndexFunc(r.Rows, func(row Result) bool { return row.Status == Failed }); i >= 0 {
		return &r.Rows[i]
	}
	return nil
}

// skip is why a row cannot be proven here. It is no failure.
type skip string

func (s skip) Error() string { return string(s) }

// session is one run.
type session struct {
	opts   Options
	client *client
	nonce  string // in the name of all that is made
	word   string // which occurs in our document and nowhere else

	instances []string // which all must be met
	unmet     []string // which need not: they serve, and get no requests from here
	version   string
	standin   bool
	told      []told // by the pages of all instances

	undo  []undo
	loose map[string]bool // files that were uploaded and are in no data set

	file, dataset string // IDs of what was made
	plugins       []plugin
}

// undo takes back what a row made.
type undo struct {
	what string
	do   func(context.Context) error
}

// tidying bounds the clean-up, which goes on when the run was interrupted.
const tidying = 30 * time.Second

// Run proves a Dify row by row, and removes what it made, also when it is interrupted; then the error is the context's,
// and the report says how far it came. A Dify that does not work is no error but a report that is not OK.
func Run(ctx context.Context, o Options) (*Report, error) {
	s, err := begin(o)
	if err != nil {
		return nil, err
	}
	defer s.client.close()
	began := time.Now()
	report := &Report{URL: s.client.base, OK: true, Instances: []string{}, Inside: inside()}
	ended := map[string]Status{}
	run := func(ctx context.Context, row Row) {
		if s.opts.Begin != nil {
			s.opts.Begin(row)
		}
		r := s.run(ctx, row, ended)
		ended[row.ID] = r.Status
		report.OK = report.OK && r.Status != Failed
		report.Rows = append(report.Rows, r)
		if s.opts.Done != nil {
			s.opts.Done(r)
		}
	}
	for _, row := range rows() {
		if ctx.Err() != nil {
			break
		}
		run(ctx, row)
	}
	interrupted := ctx.Err()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidying)
	defer cancel()
	run(late, cleanUp())
	report.Version, report.StandIn, report.Seconds = s.version, s.standin, time.Since(began).Seconds()
	if s.instances != nil {
		report.Instances = s.instances
	}
	report.Unmet = s.unmet
	report.OK = report.OK && interrupted == nil
	return report, interrupted
}

func begin(o Options) (*session, error) {
	c, err := newClient(o.URL, o.TLS)
	if err != nil {
		return nil, err
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	return &session{opts: o, client: c, nonce: strings.ToLower(rand.Text()[:8]), word: letters(12), loose: map[string]bool{}}, nil
}

// letters gives a word of so many letters, which nobody else uses.
func letters(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	for i := range b {
		b[i] = 'a' + b[i]%26
	}
	return string(b)
}

func (s *session) run(ctx context.Context, row Row, ended map[string]Status) Result {
	r := Result{Row: row}
	for _, need := range row.needs {
		if st := ended[need]; st != Passed {
			r.Status, r.Detail = NotRun, "needs "+title(need)
			return r
		}
	}
	limit := row.timeout
	if limit == 0 {
		limit = time.Minute
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began, unmet := time.Now(), len(s.unmet)
	detail, err := row.do(limited, s)
	r.Milliseconds = float64(time.Since(began).Microseconds()) / 1000
	if now := s.unmet[unmet:]; len(now) > 0 {
		r.Warning = "not met: " + strings.Join(now, ", ") + ", which serves by its own word and the load balancer's; none of these requests came there"
	}
	var skipped skip
	switch {
	case err == nil:
		r.Status, r.Detail = Passed, detail
	case errors.As(err, &skipped):
		r.Status, r.Detail = Skipped, string(skipped)
	case ctx.Err() != nil: // whatever it was, it was not given its time
		r.Status, r.Detail = NotRun, "interrupted"
	default:
		r.Status, r.Fault = Failed, row.fault(limited, err, limit)
		r.Detail = r.Fault.Summary
	}
	return r
}

// fault says what a failure means, and what to do: what the row found out, or else what it knows in general.
func (r Row) fault(ctx context.Context, err error, limit time.Duration) *fault.Fault {
	var f *fault.Fault
	if errors.As(err, &f) {
		if f.Remedy == "" {
			f.Remedy = r.remedy
		}
		return f
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no end after %s: %w", limit, err)
	}
	return &fault.Fault{Summary: r.means, Detail: sentence(err.Error()), Remedy: r.remedy}
}

// title gives the title of a row.
func title(id string) string {
	for _, r := range rows() {
		if r.ID == id {
			return r.Title
		}
	}
	return id
}

// sentence makes a text of somebody else's fit to be shown: one line without control characters, not too long, with a
// full stop.
func sentence(text string) string {
	text = plain(text)
	const most = 400
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	if text != "" && !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "…") {
		text += "."
	}
	return text
}

func plain(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }), " ")
}

// later notes what the clean-up will have to do. It is noted before the thing is made where its name is known.
func (s *session) later(what string, do func(context.Context) error) {
	s.undo = append(s.undo, undo{what, do})
}

// remove gives an undo that deletes what has an address. What is not there is deleted.
func (s *session) remove(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := s.client.ask(ctx, http.MethodDelete, path, nil)
		if err != nil || r.status == http.StatusNotFound {
			return err
		}
		return r.want(http.StatusNoContent, http.StatusOK)
	}
}

// cleanUp is the row that is always last, and always run.
func cleanUp() Row {
	return Row{
		ID: "clean-up", Title: "Clean up", Proves: "nothing of this is left in Dify", timeout: tidying,
		means:  "Something that was made for this proof is left in Dify",
		remedy: "Delete what is called `difyup smoke …` in Dify's console: Knowledge, Studio, and the endpoints of plugins.",
		do: func(ctx context.Context, s *session) (string, error) {
			if len(s.undo) == 0 {
				return "there was nothing to remove", nil
			}
			stays := ""
			if n := len(s.loose); n > 0 { // a data set's deletion takes its files along
				stays = fmt.Sprintf("; what stays is %d uploaded file(s) of %d bytes, which Dify has no way to delete", n, len(s.document()))
			}
			var errs []error
			var removed []string
			for _, u := range slices.Backward(s.undo) {
				switch err := u.do(ctx); {
				case errors.Is(err, errNotMade):
				case err != nil:
					errs = append(errs, fmt.Errorf("%s: %w", u.what, err))
				default:
					removed = append(removed, u.what)
				}
			}
			s.undo = nil
			if len(removed) == 0 {
				return "there was nothing to remove" + stays, errors.Join(errs...)
			}
			return "removed " + strings.Join(removed, ", ") + stays, errors.Join(errs...)
		},
	}
}
