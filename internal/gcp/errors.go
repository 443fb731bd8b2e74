package gcp

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error is Google's refusal, of either style.
type Error struct {
	Code    int           // HTTP status, or 0 for an operation that failed
	Reason  string        // "notFound", "SERVICE_DISABLED", "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
	Status  string        // "NOT_FOUND"
	Message string        // Google's sentence
	After   time.Duration // Retry-After
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

// Disabled says whether the API is not enabled in the project.
func (e *Error) Disabled() bool {
	return e.Code == 403 && (e.Reason == "SERVICE_DISABLED" || e.Reason == "accessNotConfigured")
}

// InUse says whether something else still refers to what was to be deleted.
func (e *Error) InUse() bool {
	return e.Reason == "resourceInUseByAnotherResource" || e.Reason == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
}

// Is says whether err is Google's refusal with one of these HTTP codes.
func Is(err error, codes ...int) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

func parseError(resp *http.Response, raw []byte) *Error {
	e := &Error{Code: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
	var envelope struct {
		Error struct {
			Message string
			Status  string
			Errors  []struct{ Reason, Message string }
			Details []struct{ Reason string }
		}
	}
	if json.Unmarshal(raw, &envelope) == nil && envelope.Error.Message != "" {
		e.Message, e.Status = envelope.Error.Message, envelope.Error.Status
		for _, d := range envelope.Error.Details {
			if d.Reason != "" && e.Reason == "" {
				e.Reason = d.Reason
			}
		}
		if e.Reason == "" && len(envelope.Error.Errors) > 0 {
			e.Reason = envelope.Error.Errors[0].Reason
		}
		if e.Reason == "" {
			e.Reason = e.Status
		}
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.After = time.Duration(s) * time.Second
	}
	return e
}
