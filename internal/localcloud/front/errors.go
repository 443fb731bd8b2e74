package front

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
)

// Error is a refusal as Google would write it.
type Error struct {
	Code    int    // HTTP status
	Reason  string // "notFound": errors[].reason in the older envelope
	Status  string // "NOT_FOUND"; "" = the usual one for Code
	Message string
	Details []any       // ErrorInfo and the like
	Header  http.Header // of the answer, besides its own
	XML     string      // what Cloud Storage's XML API calls it, "NoSuchKey"; "" = the usual for Code
}

// Error gives the sentence.
func (e *Error) Error() string { return e.Message }

func (e *Error) status() string {
	if e.Status != "" {
		return e.Status
	}
	switch e.Code {
	case 400:
		return "INVALID_ARGUMENT"
	case 401:
		return "UNAUTHENTICATED"
	case 403:
		return "PERMISSION_DENIED"
	case 404:
		return "NOT_FOUND"
	case 409:
		return "ALREADY_EXISTS"
	case 412:
		return "FAILED_PRECONDITION"
	case 429:
		return "RESOURCE_EXHAUSTED"
	case 503:
		return "UNAVAILABLE"
	}
	return "INTERNAL"
}

// DiskFull says whether an error is that the disk is full.
func DiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// own gives the error for what went wrong in the local cloud itself. Where it is known not to be Google's way of failing it is
// marked as such, with a code that no client takes for a passing trouble.
func (s *Server) own(err error, code int, reason string) *Error {
	var e *Error
	switch {
	case DiskFull(err):
		where := "."
		if s.opts.Dir != "" {
			where = ": " + s.opts.Dir
		}
		return &Error{Code: http.StatusBadRequest, Reason: LocalDiskFull, Status: "FAILED_PRECONDITION", Message: "The disk of the local cloud is full" + where}
	case errors.As(err, &e):
		return e
	}
	return &Error{Code: code, Reason: reason, Message: err.Error()}
}

// OAuth is the status of an error whose reason is one of OAuth's, which the Security Token Service writes in OAuth's form.
const OAuth = "OAUTH"

// LocalDiskFull is the reason of a failure that Google does not have.
const LocalDiskFull = "localDiskFull"

// NotFound is 404 with reason notFound.
func NotFound(format string, args ...any) *Error {
	return &Error{Code: http.StatusNotFound, Reason: "notFound", Message: fmt.Sprintf(format, args...)}
}

// ResourceNotFound is Compute's 404 for a key.
func ResourceNotFound(key string) *Error { return NotFound("The resource '%s' was not found", key) }

// AlreadyExists is 409 with reason alreadyExists.
func AlreadyExists(format string, args ...any) *Error {
	return &Error{Code: http.StatusConflict, Reason: "alreadyExists", Message: fmt.Sprintf(format, args...)}
}

// Invalid is 400 with reason invalid.
func Invalid(format string, args ...any) *Error {
	return &Error{Code: http.StatusBadRequest, Reason: "invalid", Message: fmt.Sprintf(format, args...)}
}

// Conflict is 409 with reason conflict and status ABORTED: somebody else wrote meanwhile.
func Conflict(format string, args ...any) *Error {
	return &Error{Code: http.StatusConflict, Reason: "conflict", Status: "ABORTED", Message: fmt.Sprintf(format, args...)}
}

// Precondition is 412 with reason conditionNotMet.
func Precondition(format string, args ...any) *Error {
	return &Error{Code: http.StatusPreconditionFailed, Reason: "conditionNotMet", Message: fmt.Sprintf(format, args...)}
}

// FailedPrecondition is 400 with status FAILED_PRECONDITION.
func FailedPrecondition(format string, args ...any) *Error {
	return &Error{Code: http.StatusBadRequest, Reason: "failedPrecondition", Status: "FAILED_PRECONDITION", Message: fmt.Sprintf(format, args...)}
}

// Forbidden is 403 with reason forbidden.
func Forbidden(format string, args ...any) *Error {
	return &Error{Code: http.StatusForbidden, Reason: "forbidden", Message: fmt.Sprintf(format, args...)}
}

// InUse is Compute's refusal to delete what another resource refers to. Kind is the resource's type, "health_check".
func InUse(kind, key, by string) *Error {
	return &Error{
		Code: http.StatusBadRequest, Reason: "resourceInUseByAnotherResource",
		Message: fmt.Sprintf("The %s resource '%s' is already being used by '%s'", kind, key, by),
	}
}

// envelope writes e in the style of the API: the older one lists errors with reasons, the newer one has a status and
// details; some have both.
func (e *Error) envelope(api string) map[string]any {
	body := map[string]any{"code": e.Code, "message": e.Message}
	older := map[string]any{"message": e.Message, "domain": "global", "reason": e.Reason}
	switch {
	case e.Reason == "":
		older["reason"] = "badRequest"
	case e.Code == http.StatusUnauthorized:
		older["message"] = map[string]string{"required": "Login Required.", "authError": "Invalid Credentials"}[e.Reason]
		older["location"], older["locationType"] = "Authorization", "header"
	}
	if api == "sts" && e.Status == OAuth {
		return map[string]any{"error": e.Reason, "error_description": e.Message}
	}
	switch api, _, _ = strings.Cut(api, "-"); api {
	case "compute", "sqladmin", "storage":
		body["errors"] = []any{older}
	case "dns", "iam":
		body["errors"], body["status"] = []any{older}, e.status()
	default:
		body["status"] = e.status()
	}
	if len(e.Details) > 0 {
		body["details"] = e.Details
		body["status"] = e.status()
	}
	return map[string]any{"error": body}
}

// Unserved refuses what Google does and the local cloud does not. It is a 4xx: what is said to be unimplemented with 501
// is asked again without end by some clients, as any 5xx is.
func Unserved(format string, args ...any) *Error {
	return &Error{Code: http.StatusBadRequest, Reason: "notImplemented", Status: "UNIMPLEMENTED", Message: fmt.Sprintf(format, args...)}
}

// Taken is 409 with reason conflict: Cloud Storage says so of buckets that exist and of those that are not empty.
func Taken(message string) *Error {
	return &Error{Code: http.StatusConflict, Reason: "conflict", Message: message}
}
