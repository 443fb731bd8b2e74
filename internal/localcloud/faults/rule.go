package faults

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/spelling"
)

// What can go wrong with a request.
const (
	Status      = "status"       // refused with Code, and with Retry-After when After is set; nothing is done
	ResetBefore = "reset-before" // the connection is reset; nothing is done
	ResetAfter  = "reset-after"  // it is done, and the connection is reset instead of an answer
	Truncate    = "truncate"     // it is done, and the answer breaks off in its middle
	Hang        = "hang"         // it is done, and the answer comes so long after that; never when Least is 0
	Hold        = "hold"         // nothing is done for so long; never when Least is 0
	HTML        = "html"         // a page of some proxy's comes with status 200; nothing is done
	Empty       = "empty"        // it is done, and the answer is 200 without a body
	Double      = "double"       // it is done twice, as a proxy may do with methods that HTTP calls idempotent
	Operation   = "operation"    // an operation begins and ends in an error; nothing is done
	Latency     = "latency"      // it takes so long from Least to Most, and may go wrong besides
)

// statuses are those that Google may answer with though nothing is wrong with the request. 401 is not among them: it always
// tells the truth here.
var statuses = []int{403, 404, 408, 409, 412, 429, 500, 502, 503, 504}

// Fault is one thing that goes wrong, a value.
type Fault struct {
	What    string        `json:"what"`
	Code    int           `json:"code,omitempty"`    // of Status
	After   time.Duration `json:"after,omitempty"`   // of Status: the seconds of Retry-After; 0 leaves it out
	Least   time.Duration `json:"least,omitempty"`   // of Latency, Hang and Hold
	Most    time.Duration `json:"most,omitempty"`    // of Latency; Least when 0
	Reason  string        `json:"reason,omitempty"`  // of Operation: "QUOTA_EXCEEDED"
	Message string        `json:"message,omitempty"` // of Operation
}

// Parse reads a fault as it is typed: "503", "429:2s", "reset-after", "hang:5s", "latency:20ms-200ms",
// "operation:QUOTA_EXCEEDED:Quota 'CPUS' exceeded".
func Parse(text string) (Fault, error) {
	name, rest, more := strings.Cut(text, ":")
	if code, err := strconv.Atoi(name); err == nil {
		f := Fault{What: Status, Code: code}
		if !slices.Contains(statuses, code) {
			return Fault{}, fmt.Errorf("%d is not among the statuses %s", code, strings.Trim(fmt.Sprint(statuses), "[]"))
		}
		if more {
			if f.After, err = time.ParseDuration(rest); err != nil || f.After < time.Second || f.After%time.Second != 0 {
				return Fault{}, fmt.Errorf("%q is no number of whole seconds for Retry-After, as 2s is", rest)
			}
		}
		return f, nil
	}
	f := Fault{What: name}
	switch name {
	case ResetBefore, ResetAfter, Truncate, HTML, Empty, Double:
		if more {
			return Fault{}, fmt.Errorf("%s takes nothing behind it", name)
		}
	case Hang, Hold:
		if !more {
			break
		}
		var err error
		if f.Least, err = time.ParseDuration(rest); err != nil || f.Least <= 0 {
			return Fault{}, fmt.Errorf("%q is no duration, as 5s is", rest)
		}
	case Latency:
		from, to, ranged := strings.Cut(rest, "-")
		var err, err2 error
		f.Least, err = time.ParseDuration(from)
		if ranged {
			f.Most, err2 = time.ParseDuration(to)
		}
		if err != nil || err2 != nil || f.Least < 0 || ranged && f.Most < f.Least {
			return Fault{}, fmt.Errorf("%q is no duration, as 50ms or 20ms-200ms is", rest)
		}
	case Operation:
		if f.Reason, f.Message, _ = strings.Cut(rest, ":"); f.Reason == "" {
			return Fault{}, errors.New("an operation needs the code of its error behind it: operation:QUOTA_EXCEEDED:MESSAGE")
		}
		f.Message = cmp.Or(f.Message, "The operation was made to fail.")
	default:
		known := []string{ResetBefore, ResetAfter, Truncate, Hang, Hold, HTML, Empty, Double, Operation, Latency, "429", "503"}
		return Fault{}, fmt.Errorf("%q is not known; the nearest is %q", name, Nearest(name, known))
	}
	return f, nil
}

// String gives the fault as it is typed.
func (f Fault) String() string {
	switch {
	case f.What == Status && f.After > 0:
		return fmt.Sprintf("%d:%s", f.Code, f.After)
	case f.What == Status:
		return strconv.Itoa(f.Code)
	case f.What == Operation:
		return f.What + ":" + f.Reason + ":" + f.Message
	case f.What == Latency && f.Most > f.Least:
		return fmt.Sprintf("%s:%s-%s", f.What, f.Least, f.Most)
	case f.What == Latency || f.Least > 0:
		return f.What + ":" + f.Least.String()
	}
	return f.What
}

// Request is what a rule sees of a request.
type Request struct {
	Surface    string // what is asked: "api"
	Caller     string // "owner", or a service account's email
	Service    string // "compute"
	Method     string // "compute.networks.insert"
	Key        string // the path, without what is random in it: requests with one key are counted together
	Idempotent bool   // HTTP allows a proxy to send it twice
	Operation  bool   // it starts an operation
}

// API is the surface of Google's APIs.
const API = "api"

// Rule says which requests go wrong. Its zero values match everything, each time.
type Rule struct {
	ID      int    `json:"id"`             // given by the Set
	Name    string `json:"name,omitempty"` // a rule takes the place of one of the same name
	Surface string `json:"surface"`

	Caller  string `json:"caller,omitempty"` // patterns, "*" for any text without a slash
	Service string `json:"service,omitempty"`
	Method  string `json:"method,omitempty"`
	Except  string `json:"except,omitempty"` // methods that are not met

	Faults []Fault       `json:"faults"`         // one of them happens
	Rate   float64       `json:"rate"`           // how many of the requests that match are met, from 0 to 1
	Skip   int64         `json:"skip,omitempty"` // so many that match pass first
	Next   int64         `json:"next,omitempty"` // no more than so many are met
	For    time.Duration `json:"for,omitempty"`  // how long the rule holds
	Seed   uint64        `json:"seed"`
}

// Check refuses a rule that makes no sense. methods are the names that exist.
func (r Rule) Check(methods []string) error {
	if len(r.Faults) == 0 {
		return errors.New("no fault is named")
	}
	for _, f := range r.Faults {
		if again, err := Parse(f.String()); err != nil {
			return err
		} else if again != f {
			return fmt.Errorf("the fault %s is not complete", f)
		}
	}
	switch {
	case !(r.Rate > 0 && r.Rate <= 1):
		return fmt.Errorf("the rate %v is not above 0 and at most 1", r.Rate)
	case r.Skip < 0 || r.Next < 0 || r.For < 0:
		return errors.New("a number of requests or a time is negative")
	case r.Surface != API:
		return fmt.Errorf("there are no faults of %q", r.Surface)
	}
	for _, pattern := range []string{r.Caller, r.Service, r.Method, r.Except} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%q is no pattern", pattern)
		}
	}
	if services := servicesOf(methods); r.Service != "" && !slices.ContainsFunc(services, func(s string) bool { return fits(r.Service, s) }) {
		return fmt.Errorf("no service is called %q; the nearest is %q", r.Service, Nearest(r.Service, services))
	}
	for _, pattern := range []string{r.Method, r.Except} {
		if pattern != "" && !slices.ContainsFunc(methods, func(m string) bool { return fits(pattern, m) }) {
			return fmt.Errorf("no method is called %q; the nearest is %q", pattern, Nearest(pattern, methods))
		}
	}
	return nil
}

func servicesOf(methods []string) []string {
	var out []string
	for _, m := range methods {
		if s, _, _ := strings.Cut(m, "."); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// fits says whether a text is as a pattern has it; "" has any.
func fits(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, text)
	return ok && err == nil
}

// Matches says whether the rule is about a request.
func (r Rule) Matches(q Request) bool {
	return r.Surface == q.Surface && fits(r.Caller, q.Caller) && fits(r.Service, q.Service) && fits(r.Method, q.Method) && (r.Except == "" || !fits(r.Except, q.Method)) && len(r.possible(q)) > 0
}

// possible gives the rule's faults that a request can meet.
func (r Rule) possible(q Request) []Fault {
	var out []Fault
	for _, f := range r.Faults {
		if f.What == Double && !q.Idempotent || f.What == Operation && !q.Operation {
			continue
		}
		out = append(out, f)
	}
	return out
}

// Decide says whether the n-th request with q's method and key meets a fault, and which. It depends on its arguments alone.
// A latency is drawn: the fault that comes back has it as Least.
func (r Rule) Decide(q Request, n int64) (Fault, bool) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d\x00%s\x00%s\x00%s", r.ID, q.Method, q.Key, q.Caller)
	draw := rand.New(rand.NewPCG(r.Seed^h.Sum64(), uint64(n)))
	possible := r.possible(q)
	if draw.Float64() >= r.Rate || len(possible) == 0 {
		return Fault{}, false
	}
	f := possible[draw.IntN(len(possible))]
	if f.Most > f.Least {
		f.Least += time.Duration(draw.Int64N(int64(f.Most - f.Least)))
		f.Most = 0
	}
	return f, true
}

// Nearest gives the known name that a name is the beginning of, or else the one that takes the fewest edits to reach.
func Nearest(name string, known []string) string {
	far := func(k string) int {
		if name != "" && strings.HasPrefix(k, name) {
			return 0
		}
		return spelling.Edits(name, k)
	}
	return slices.MinFunc(known, func(a, b string) int { return cmp.Or(cmp.Compare(far(a), far(b)), cmp.Compare(a, b)) })
}
