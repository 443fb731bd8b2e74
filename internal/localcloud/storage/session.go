package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/front"
)

const (
	// blockSize is the unit in which Cloud Storage keeps what arrives before the end.
	blockSize = 256 << 10
	// maxAge is how long Cloud Storage waits for the next piece.
	maxAge = 7 * 24 * time.Hour
	// maxOpen bounds the uploads under way, maxSessions those that can still be asked for.
	maxOpen, maxSessions = 256, 1024
)

// session is a resumable upload. A piece is written block by block, each at its place: what has arrived before is
// discarded, so that the same piece may come any number of times, also at once. The lock is held for a block, not for
// a piece, and a client that hangs keeps nobody out.
type session struct {
	id, bucket, name string
	fields           map[string]any
	begun            *front.Request // with the preconditions
	declared         int64          // X-Upload-Content-Length, -1 if it was not said
	started          time.Time

	touched time.Time // the Service's lock guards this
	over    bool      // and this

	mu      sync.Mutex
	spool   *spool         // nil once the upload is over
	object  map[string]any // what the upload came to
	refusal error          // or why it came to nothing
}

// begin starts a resumable upload and answers with where its pieces go.
func (v *Service) begin(r *front.Request, bucket string, fields map[string]any) (any, error) {
	name, err := nameOf(r, fields)
	if err != nil {
		return nil, err
	}
	s := &session{id: rand.Text(), bucket: bucket, name: name, fields: fields, begun: r, declared: -1, started: time.Now(), touched: time.Now()}
	if length := r.HTTP.Header.Get("X-Upload-Content-Length"); length != "" {
		if s.declared, err = strconv.ParseInt(length, 10, 64); err != nil || s.declared < 0 {
			return nil, front.Invalid("Invalid value for X-Upload-Content-Length: %q", length)
		}
		if s.declared > maxObject {
			return nil, tooLarge()
		}
	}
	v.mu.Lock()
	err = conditions(r, v.live(bucket, name))
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if s.spool, err = v.newSpool(); err != nil {
		return nil, err
	}
	if err := v.register(s); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to := url.URL{Path: req.URL.Path, RawQuery: url.Values{"uploadType": {"resumable"}, "upload_id": {s.id}, "name": {name}}.Encode()}
		w.Header().Set("Location", base(req)+to.String())
		w.Header().Set("X-GUploader-UploadID", s.id)
		w.WriteHeader(http.StatusOK)
	}), nil
}

// register keeps a session, and forgets those that are too old or too many, the longest untouched first.
func (v *Service) register(s *session) error {
	v.mu.Lock()
	v.sessions[s.id] = s
	byTouch := slices.SortedFunc(maps.Values(v.sessions), func(a, b *session) int { return b.touched.Compare(a.touched) })
	var gone []*session
	open := 0
	for i, s := range byTouch {
		if !s.over {
			open++
		}
		if i >= maxSessions || !s.over && open > maxOpen || time.Since(s.started) > maxAge {
			delete(v.sessions, s.id)
			gone = append(gone, s)
		}
	}
	v.mu.Unlock()
	var errs []error
	for _, s := range gone {
		s.mu.Lock()
		errs = append(errs, v.end(s, nil, noSession()))
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

func noSession() error {
	return front.NotFound("No such upload: it was never begun, or it was too long ago.")
}

// session finds an upload by its ID.
func (v *Service) session(id string) (*session, error) {
	v.mu.Lock()
	s := v.sessions[id]
	if s != nil {
		s.touched = time.Now()
	}
	v.mu.Unlock()
	if s == nil {
		return nil, noSession()
	}
	if time.Since(s.started) > maxAge {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s, v.end(s, nil, &front.Error{Code: http.StatusGone, Reason: "gone", Message: "The upload has expired."})
	}
	return s, nil
}

// end settles what the upload came to, once. The session is locked.
func (v *Service) end(s *session, object map[string]any, refusal error) error {
	if s.ended() {
		return nil
	}
	s.object, s.refusal = object, refusal
	v.mu.Lock()
	s.over = true
	v.mu.Unlock()
	if s.spool == nil {
		return nil
	}
	spool := s.spool
	s.spool = nil
	return spool.drop()
}

// ended says whether it is settled what the upload came to. The session is locked.
func (s *session) ended() bool { return s.object != nil || s.refusal != nil }

// cancel ends an upload on its client's wish.
func (v *Service) cancel(id string) (any, error) {
	s, err := v.session(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := v.end(s, nil, &front.Error{Code: http.StatusGone, Reason: "gone", Message: "The upload was cancelled."}); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(499) // "Client Closed Request", which Cloud Storage says here
	}), nil
}

// span is a Content-Range: "bytes 0-524287/2000000", "bytes 0-*/*", or a question, "bytes */2000000".
type span struct {
	question           bool
	first, last, total int64 // last and total are -1 while they are unknown
}

// parseSpan reads a Content-Range; without one the piece is the whole object.
func parseSpan(header string) (span, error) {
	s := span{last: -1, total: -1}
	if header == "" {
		return s, nil
	}
	bad := front.Invalid("Failed to parse Content-Range header: %q", header)
	number := func(text string, into *int64) bool {
		n, err := strconv.ParseUint(text, 10, 63)
		*into = int64(n)
		return err == nil
	}
	rest, ok := strings.CutPrefix(header, "bytes ")
	piece, total, cut := strings.Cut(rest, "/")
	if !ok || !cut || total != "*" && !number(total, &s.total) {
		return s, bad
	}
	if piece == "*" {
		s.question = true
		return s, nil
	}
	first, last, cut := strings.Cut(piece, "-")
	if !cut || !number(first, &s.first) || last != "*" && !number(last, &s.last) {
		return s, bad
	}
	if s.last >= 0 && s.last < s.first || s.total >= 0 && s.last >= s.total {
		return s, bad
	}
	return s, nil
}

// check refuses a range that contradicts what has been said or has arrived. The session is locked.
func (p span) check(s *session) error {
	have := s.spool.size
	switch {
	case p.total > maxObject || p.last >= maxObject:
		return tooLarge()
	case p.total >= 0 && s.declared >= 0 && p.total != s.declared:
		return front.Invalid("Invalid request. The upload was declared to have %d byte(s), and the Content-Range header says %d.", s.declared, p.total)
	case p.last >= 0 && s.declared >= 0 && p.last >= s.declared:
		return front.Invalid("Invalid request. The upload was declared to have %d byte(s), and the Content-Range header goes on to byte %d.", s.declared, p.last)
	case p.total >= 0 && p.total < have:
		return front.Invalid("Invalid request. According to the Content-Range header the object has %d byte(s), and %d have been uploaded.", p.total, have)
	case !p.question && p.first > have:
		return front.Invalid("Invalid request. According to the Content-Range header, the upload offset is %d byte(s), which exceeds already uploaded size of %d byte(s).", p.first, have)
	}
	return nil
}

// resume takes a piece or tells how much has arrived.
func (v *Service) resume(r *front.Request, id string) (any, error) {
	s, err := v.session(id)
	if err != nil {
		return nil, err
	}
	p, err := parseSpan(r.HTTP.Header.Get("Content-Range"))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	ended := s.ended()
	if !ended {
		err = p.check(s)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if p.question {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ended() && p.total == s.spool.size {
			return v.finish(r, s)
		}
		return s.answer(r)
	}
	return v.receive(r, s, p)
}

// receive reads a piece to its end, as clients read no answer before they have sent it.
func (v *Service) receive(r *front.Request, s *session, p span) (any, error) {
	bound := int64(maxObject) // where the piece must end at the latest
	switch {
	case p.last >= 0:
		bound = p.last + 1
	case p.total >= 0:
		bound = p.total
	case s.declared >= 0:
		bound = s.declared
	}
	refuse := func(n int64) error {
		return front.Invalid("Invalid request. There were %d byte(s) in the request body. There should have been %d byte(s) (starting at offset %d and ending at offset %d) according to the Content-Range header.", n, bound-p.first, p.first, bound-1)
	}
	if n := r.HTTP.ContentLength; n >= 0 && (p.first+n > bound || p.last >= 0 && p.first+n < bound) {
		return nil, refuse(n)
	}
	at, block, tail := p.first, make([]byte, blockSize), []byte(nil)
	for more := true; more; {
		n, err := fill(r.HTTP.Body, block[:min(blockSize-at%blockSize, bound-at)])
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, front.Invalid("Invalid request. The piece broke off after %d byte(s): %v", at+int64(n)-p.first, err)
		}
		at += int64(n)
		more = err == nil && at < bound
		if at%blockSize != 0 {
			tail = block[:n] // the last of the piece
		} else if err := s.keep(at-int64(n), block[:n]); err != nil {
			return nil, err
		}
	}
	if n, _ := fill(r.HTTP.Body, make([]byte, 1)); n > 0 {
		return nil, refuse(at - p.first + 1)
	}
	if p.last >= 0 && at < bound {
		return nil, refuse(at - p.first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended():
		return s.answer(r)
	case at != p.total && (p.last >= 0 || p.total >= 0): // more is to come
		if at > s.spool.size && s.spool.size <= p.first {
			return nil, front.Invalid("Invalid request. The number of bytes uploaded is required to be equal or greater than %d, except for the final request (it's recommended to be the exact multiple of %d). The received request contained %d bytes, which does not meet this requirement.", blockSize, blockSize, at-p.first)
		}
		return s.answer(r)
	case s.declared >= 0 && at != s.declared:
		return nil, front.Invalid("Invalid request. The upload was declared to have %d byte(s), and it ends after %d.", s.declared, at)
	case at < s.spool.size:
		return nil, front.Invalid("Invalid request. The upload ends after %d byte(s), and %d have been uploaded.", at, s.spool.size)
	}
	if err := s.append(at-int64(len(tail)), tail); err != nil {
		return nil, err
	}
	return v.finish(r, s)
}

// fill reads until p is full. It gives io.EOF when the reader ends before, and nothing else when it breaks off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

// keep writes a block at its place, unless it is there.
func (s *session) keep(at int64, block []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended() {
		return nil
	}
	return s.append(at, block)
}

// append writes what of the bytes at a place has not arrived before. The session is locked.
func (s *session) append(at int64, p []byte) error {
	have := s.spool.size - at // never negative: sizes only grow, and a piece begins at what was there
	if have >= int64(len(p)) {
		return nil
	}
	_, err := s.spool.Write(p[have:])
	return err
}

// finish makes what has arrived an object. The session is locked.
func (v *Service) finish(r *front.Request, s *session) (any, error) {
	sums, err := checksumsOf(s.fields, r.HTTP.Header)
	if err != nil {
		return nil, err
	}
	spool := s.spool
	s.spool = nil
	o, err := spool.object(s.name)
	var shown map[string]any
	if err == nil {
		shown, err = v.put(s.begun, s.bucket, o, s.fields, sums)
	}
	return shown, errors.Join(err, v.end(s, shown, err))
}

// answer tells what the upload came to, or how much has arrived. The session is locked.
func (s *session) answer(r *front.Request) (any, error) {
	if s.ended() {
		return s.object, s.refusal
	}
	have := s.spool.size
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if have > 0 {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", have-1))
		}
		w.Header().Set("Content-Length", "0")
		w.Header().Set("X-GUploader-UploadID", s.id)
		// 308 is "Resume Incomplete" here. Clients whose HTTP library would follow it as a redirect ask for it another way.
		if r.HTTP.Header.Get("X-Guploader-No-308") == "yes" {
			w.Header().Set("X-Http-Status-Code-Override", "308")
			w.WriteHeader(http.StatusOK)
			return
		}
		w.WriteHeader(http.StatusPermanentRedirect)
	}), nil
}
