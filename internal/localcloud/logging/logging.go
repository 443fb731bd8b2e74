package logging

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// Service serves logging v2.
type Service struct {
	server *front.Server
	most   int // bytes of a project's entries

	mu   sync.Mutex
	logs map[string]*project // by number
}

// project is the entries of a project.
type project struct {
	entries []entry // in the order of place
	there   map[place]bool
	size    int
}

// place is where an entry stands among the others. Entries with one place are one entry.
type place struct {
	At      int64 // nanoseconds
	ID, Log string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.At, q.At), strings.Compare(p.ID, q.ID), strings.Compare(p.Log, q.Log))
}

// entry is a log entry as it is answered.
type entry struct {
	place
	body map[string]any
	size int
}

// Register serves Cloud Logging on s.
func Register(s *front.Server) *Service {
	v := &Service{server: s, most: 64 << 20, logs: map[string]*project{}}
	s.Handle("logging.entries.write", v.write)
	s.Handle("logging.entries.list", v.list)
	return v
}

var logNames = regexp.MustCompile(`^projects/([^/]+)/logs/([a-zA-Z0-9_.%-]+)$`)

// write takes entries. A bad one is refused, and with it all, unless partialSuccess is wished for.
func (v *Service) write(_ context.Context, r *front.Request) (any, error) {
	now := time.Now()
	number := v.server.ProjectNumber(r.Project())
	var entries []entry
	refused := map[string]any{}
	var first *front.Error
	for i, e := range body.Maps(r.Body, "entries") {
		made, err := v.entry(r, number, e, now.Add(time.Duration(i)))
		if err != nil {
			refused[strconv.Itoa(i)] = map[string]any{"code": 3, "message": err.Message}
			first = cmp.Or(first, err)
			continue
		}
		entries = append(entries, made)
	}
	partial := body.Bool(r.Body, "partialSuccess")
	if first != nil && !partial {
		return nil, first
	}
	if !body.Bool(r.Body, "dryRun") {
		v.keep(number, entries)
	}
	if first != nil {
		refusal := *first
		if len(entries) > 0 {
			refusal.Details = []any{map[string]any{"@type": "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors", "logEntryErrors": refused}}
		}
		return nil, &refusal
	}
	return map[string]any{}, nil
}

// mostEntry bounds an entry.
const mostEntry = 256 << 10

// entry completes an entry with what the request has for all, and what the server adds.
func (v *Service) entry(r *front.Request, number string, e map[string]any, now time.Time) (entry, *front.Error) {
	out := map[string]any{}
	for key, value := range e {
		out[key] = value
	}
	for _, key := range []string{"logName", "resource"} {
		if _, ok := out[key]; !ok {
			out[key] = r.Body[key]
		}
	}
	name := logNames.FindStringSubmatch(body.String(out, "logName"))
	switch {
	case name == nil || len(name[2]) > 511:
		return entry{}, front.Invalid("Log name is not valid: %q", body.String(out, "logName"))
	case v.server.ProjectNumber(name[1]) != number:
		return entry{}, front.Unserved("The local cloud takes entries of one project in a request.")
	case body.String(out, "resource.type") == "":
		return entry{}, front.Invalid("The resource of a log entry has no type.")
	}
	if _, err := url.PathUnescape(name[2]); err != nil {
		return entry{}, front.Invalid("Log name is not valid: %q", body.String(out, "logName"))
	}
	payloads := 0
	for _, key := range []string{"textPayload", "jsonPayload", "protoPayload"} {
		if _, ok := out[key]; ok {
			payloads++
		}
	}
	if payloads > 1 {
		return entry{}, front.Invalid("A log entry has one payload at most.")
	}
	labels := map[string]any{}
	for _, from := range []map[string]any{body.Map(r.Body, "labels"), body.Map(e, "labels")} {
		for key, value := range from {
			labels[key] = value
		}
	}
	if out["labels"] = labels; len(labels) == 0 {
		delete(out, "labels")
	}
	at := now
	if text := body.String(out, "timestamp"); text != "" {
		var err error
		if at, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return entry{}, front.Invalid("Invalid value at 'entries.timestamp' (TYPE_TIMESTAMP), %q", text)
		}
		if at.After(now.Add(24 * time.Hour)) {
			return entry{}, front.Invalid("Log entry with timestamp %s is more than 24 hours in the future.", text)
		}
	}
	if body.String(out, "insertId") == "" {
		out["insertId"] = strings.ToLower(rand.Text()[:16])
	}
	out["timestamp"], out["receiveTimestamp"] = at.UTC().Format(time.RFC3339Nano), now.UTC().Format(time.RFC3339Nano)
	if s, ok := out["severity"]; !ok || s == "DEFAULT" {
		delete(out, "severity") // Google's answers leave out what is the default
	}
	raw, err := json.Marshal(out)
	switch {
	case err != nil:
		return entry{}, front.Invalid("The log entry cannot be written: %v", err)
	case len(raw) > mostEntry:
		return entry{}, front.Invalid("Log entry with size %d exceeds maximum size of %d", len(raw), mostEntry)
	}
	return entry{place{at.UnixNano(), body.String(out, "insertId"), body.String(out, "logName")}, out, len(raw)}, nil
}

// keep adds entries, but those that are there already. The oldest go when there are too many.
func (v *Service) keep(number string, entries []entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.logs[number]
	if p == nil {
		p = &project{there: map[place]bool{}}
		v.logs[number] = p
	}
	for _, e := range entries {
		if p.there[e.place] {
			continue
		}
		i, _ := slices.BinarySearchFunc(p.entries, e.place, func(e entry, at place) int { return e.compare(at) })
		p.entries = slices.Insert(p.entries, i, e)
		p.there[e.place], p.size = true, p.size+e.size
	}
	gone := 0
	for ; p.size > v.most; gone++ {
		p.size -= p.entries[gone].size
		delete(p.there, p.entries[gone].place)
	}
	p.entries = slices.Delete(p.entries, 0, gone)
}

// list gives entries, a page at a time. A page begins behind the place where the last one ended, whatever came meanwhile.
func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	number := ""
	for _, name := range body.Strings(r.Body, "resourceNames") {
		id, ok := strings.CutPrefix(name, "projects/")
		if !ok || id == "" || strings.Contains(id, "/") {
			return nil, front.Unserved("The local cloud lists the entries of projects, not of %q.", name)
		}
		if n := v.server.ProjectNumber(id); number == "" || number == n {
			number = n
			continue
		}
		return nil, front.Unserved("The local cloud lists the entries of one project at a time.")
	}
	if number == "" {
		return nil, front.Invalid("At least one resource name is needed.")
	}
	if len(body.Strings(r.Body, "projectIds")) > 0 {
		return nil, front.Unserved("The local cloud does not serve the deprecated projectIds: use resourceNames.")
	}
	match, err := parse(body.String(r.Body, "filter"))
	if err != nil {
		return nil, err
	}
	order := cmp.Or(body.String(r.Body, "orderBy"), "timestamp asc")
	if order != "timestamp asc" && order != "timestamp desc" {
		return nil, front.Invalid("Invalid orderBy: %q. It is \"timestamp asc\" or \"timestamp desc\".", order)
	}
	size, _ := body.Int(r.Body, "pageSize")
	if size < 0 {
		return nil, front.Invalid("page_size must not be negative.")
	}
	if size = min(size, 1000); size == 0 {
		size = 50
	}
	var after *place
	if token := body.String(r.Body, "pageToken"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || json.Unmarshal(raw, &after) != nil || after == nil {
			return nil, front.Invalid("page_token is not valid.")
		}
	}

	v.mu.Lock()
	defer v.mu.Unlock()
	found, next := []any{}, ""
	answer := func() any {
		out := map[string]any{"entries": found}
		if len(found) == 0 {
			delete(out, "entries")
		}
		if next != "" {
			out["nextPageToken"] = next
		}
		return out
	}
	p := v.logs[number]
	if p == nil {
		return answer(), nil
	}
	var last place
	for i := range p.entries {
		if order == "timestamp desc" {
			i = len(p.entries) - 1 - i
		}
		e := p.entries[i]
		if after != nil {
			if c := e.compare(*after); c == 0 || (c < 0) == (order == "timestamp asc") {
				continue
			}
		}
		if !match(e.body) {
			continue
		}
		if int64(len(found)) == size {
			raw, err := json.Marshal(last)
			if err != nil {
				return nil, err
			}
			next = base64.RawURLEncoding.EncodeToString(raw)
			break
		}
		found, last = append(found, e.body), e.place
	}
	return answer(), nil
}
