package front

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/faults"
)

// mostDoubled bounds the body of a request that is carried out twice.
const mostDoubled = 64 << 20

// disturb answers a request as the faults in force have it. Its caller is known: who may not ask is told so beforehand.
func (s *Server) disturb(w http.ResponseWriter, req *http.Request, r *Request) {
	latency, hit := s.faults.Met(s.seen(r))
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-req.Context().Done():
			return
		case <-timer.C:
		}
	}
	switch hit.What {
	case "":
		s.carryOut(w, req, r)
	case faults.Status:
		if hit.After > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(int(hit.After.Seconds())))
		}
		s.fail(w, r.Method.API, refusal(hit.Code))
	case faults.ResetBefore:
		reset(w)
	case faults.ResetAfter:
		s.record(req, r)
		reset(w)
	case faults.Truncate:
		rec := s.record(req, r)
		if rec.body.Len() < 2 {
			reset(w)
			return
		}
		maps.Copy(w.Header(), rec.header)
		w.Header().Set("Content-Length", fmt.Sprint(rec.body.Len()))
		w.WriteHeader(rec.code)
		_, _ = w.Write(rec.body.Bytes()[:rec.body.Len()/2]) // the client may be gone
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection
	case faults.Hang:
		rec := s.record(req, r)
		if hit.Wait(req.Context()) != nil {
			return
		}
		maps.Copy(w.Header(), rec.header)
		w.WriteHeader(rec.code)
		_, _ = w.Write(rec.body.Bytes()) // the client may be gone
	case faults.Hold:
		if hit.Wait(req.Context()) == nil {
			s.carryOut(w, req, r)
		}
	case faults.HTML:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><html><head><title>Sign in</title></head><body><h1>Welcome to this network</h1></body></html>\n")
	case faults.Empty:
		s.record(req, r)
		w.WriteHeader(http.StatusOK)
	case faults.Double:
		raw, err := io.ReadAll(io.LimitReader(req.Body, mostDoubled))
		if err != nil {
			return
		}
		for _, to := range []http.ResponseWriter{newRecorder(), w} {
			again, once := *r, req.Clone(req.Context())
			once.Body = io.NopCloser(bytes.NewReader(raw))
			again.HTTP = once
			s.carryOut(to, once, &again)
		}
	case faults.Operation:
		s.write(w, http.StatusOK, s.ops.doomed(r, &Error{Code: http.StatusBadRequest, Reason: hit.Reason, Status: hit.Reason, Message: hit.Message}), "")
	}
}

// seen is what rules see of a request. Its key is what it is about, without what is random in names.
func (s *Server) seen(r *Request) faults.Request {
	service, _, _ := strings.Cut(r.Method.ID, ".")
	var key []string
	for _, name := range slices.Sorted(maps.Keys(r.Path)) {
		if name != "operation" {
			key = append(key, r.Path[name])
		}
	}
	for _, name := range []string{"name", "secretId", "instanceId"} {
		if v := r.Query.Get(name); v != "" {
			key = append(key, v)
		}
	}
	if r.Method.Request != "" && !r.Upload {
		var named struct {
			Name      string `json:"name"`
			AccountID string `json:"accountId"`
		}
		raw, err := io.ReadAll(io.LimitReader(r.HTTP.Body, maxBody+1))
		if err == nil && json.Unmarshal(raw, &named) == nil {
			key = append(key, named.Name+named.AccountID)
		}
		r.HTTP.Body = rest{io.MultiReader(bytes.NewReader(raw), failing{err}, r.HTTP.Body), r.HTTP.Body}
	}
	return faults.Request{
		Surface: faults.API, Caller: r.Caller, Service: service, Method: r.Method.ID, Key: strings.Join(key, "/"),
		Idempotent: slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions}, r.HTTP.Method),
		Operation:  r.Method.Response == "Operation" && r.HTTP.Method != http.MethodGet && !strings.Contains(strings.ToLower(r.Method.ID), "operations."),
	}
}

// rest is a body whose beginning was read and put back.
type rest struct {
	io.Reader
	io.Closer
}

// failing gives the error that reading ended with, if any.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

func newRecorder() *recorder { return &recorder{header: http.Header{}, code: http.StatusOK} }

// record carries a request out and keeps the answer.
func (s *Server) record(req *http.Request, r *Request) *recorder {
	rec := newRecorder()
	s.carryOut(rec, req, r)
	return rec
}

// reset ends a connection as a crashed server or an impatient middlebox does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // a part of a batch: the whole of it breaks off
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is closed all the same
	}
	_ = conn.Close() // the client may be gone
}

// refusal is what Google answers with a status when nothing is wrong with the request.
func refusal(code int) *Error {
	switch code {
	case http.StatusTooManyRequests:
		return &Error{Code: code, Reason: "rateLimitExceeded", Message: "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'."}
	case http.StatusPreconditionFailed:
		return Precondition("At least one of the pre-conditions you specified did not hold.")
	case http.StatusForbidden:
		return &Error{Code: code, Reason: "forbidden", Message: "Permission denied."}
	case http.StatusNotFound:
		return NotFound("Not found.")
	case http.StatusConflict:
		return Conflict("The operation was aborted.")
	}
	return &Error{Code: code, Reason: "backendError", Message: http.StatusText(code)}
}
