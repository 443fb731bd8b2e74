package gcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Error is Google's refusal, of either style. Its texts are bounded and harmless to a terminal.
type Error struct {
	Code    int           // HTTP status; of an operation that failed where it has one, else 0
	Reason  string        // "notFound", "SERVICE_DISABLED", "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
	Status  string        // "NOT_FOUND"
	Message string        // Google's sentence
	Project string        // of a service that is not enabled: in which project, by number or ID; "" where that is not said
	After   time.Duration // Retry-After

	Operation bool // it is how an operation ended, not how a request was answered
}

// Error gives Google's sentence and reason.
func (e *Error) Error() string {
	parts := []string{e.Message}
	if e.Code != 0 {
		parts = append(parts, strconv.Itoa(e.Code))
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return parts[0] + " (" + strings.Join(parts[1:], " ") + ")"
}

// Disabled says whether the API is not enabled in the project that was asked.
func (e *Error) Disabled() bool {
	return e.Code == 403 && (e.Reason == "SERVICE_DISABLED" || e.Reason == "accessNotConfigured")
}

// InUse says whether something else still refers to what was to be deleted.
func (e *Error) InUse() bool {
	return e.Reason == "resourceInUseByAnotherResource" || e.Reason == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
}

// Is says whether err is Google's refusal with one of these HTTP codes. A fault that was made of one is not: it says more.
func Is(err error, codes ...int) bool {
	var e *Error
	return !isFault(err) && errors.As(err, &e) && slices.Contains(codes, e.Code)
}

func parseError(resp *http.Response, raw []byte) *Error {
	e := &Error{Code: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
	var envelope struct {
		Error struct {
			Message string
			Status  string
			Errors  []struct{ Reason, Message string }
			Details []struct {
				Reason   string
				Metadata json.RawMessage // of other details it is something else
			}
		}
	}
	if json.Unmarshal(raw, &envelope) == nil && envelope.Error.Message != "" {
		e.Message, e.Status = envelope.Error.Message, envelope.Error.Status
		for _, d := range envelope.Error.Details {
			if d.Reason != "" && e.Reason == "" {
				e.Reason = d.Reason
				var about struct{ Consumer string }
				if json.Unmarshal(d.Metadata, &about) == nil && e.Disabled() {
					e.Project = strings.TrimPrefix(about.Consumer, "projects/")
				}
			}
		}
		if e.Reason == "" && len(envelope.Error.Errors) > 0 {
			e.Reason = envelope.Error.Errors[0].Reason
		}
		if e.Reason == "" {
			e.Reason = e.Status
		}
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.After = time.Duration(s) * time.Second
	}
	return e.clean()
}

// clean makes texts from outside fit to be shown.
func (e *Error) clean() *Error {
	e.Message, e.Reason, e.Status, e.Project = harmless(e.Message, 1000), harmless(e.Reason, 100), harmless(e.Status, 100), harmless(e.Project, 100)
	return e
}

// harmless gives the beginning of a text from outside, without what a terminal would obey. Lines stay lines.
func harmless(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s { // what is no UTF-8 becomes U+FFFD
		if n++; n > most {
			b.WriteString("…")
			break
		}
		switch {
		case r == '\n', unicode.IsPrint(r):
			b.WriteRune(r)
		case unicode.IsSpace(r) && r != '\u0085':
			b.WriteByte(' ')
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// unanswered is a request of which nobody knows whether it was carried out: the connection failed, or no answer came in
// time.
type unanswered struct {
	after time.Duration // the deadline that passed; 0 for a connection that failed
	cause error
}

func (u *unanswered) Error() string {
	if u.after > 0 {
		return fmt.Sprintf("no answer within %s", u.after)
	}
	return harmless(u.cause.Error(), 300)
}

func (u *unanswered) Unwrap() error { return u.cause }

// garbled is an answer of success that is none of Google's. What stands in it is not repeated.
type garbled struct {
	code    int
	content string // as its header has it
	size    int
}

func (g *garbled) Error() string {
	what := "is empty"
	switch {
	case g.code >= 300 && g.code != http.StatusNetworkAuthenticationRequired:
		return fmt.Sprintf("the answer leads elsewhere (HTTP %d)", g.code)
	case g.size > 0 && g.content != "":
		what = fmt.Sprintf("is no JSON (%d bytes of %s)", g.size, harmless(g.content, 60))
	case g.size > 0:
		what = fmt.Sprintf("is no JSON (%d bytes)", g.size)
	}
	return fmt.Sprintf("the answer (HTTP %d) %s", g.code, what)
}

// open says whether it is open, after a failure, if the request was carried out.
func open(err error) bool {
	var (
		lost *unanswered
		bad  *garbled
	)
	return errors.As(err, &lost) || errors.As(err, &bad) || Is(err, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout)
}
