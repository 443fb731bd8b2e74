package front

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Work is what an operation does. An *Error becomes the operation's error.
type Work func(ctx context.Context) error

// Done is what becomes so with the end of an operation: it is called when the operation's time has passed, and before anybody can
// see that it has ended. It gets the operation's error.
type Done func(err error)

// Ops runs operations. Each takes some time, at least three milliseconds, in which it can be seen to be under way.
type Ops struct {
	server *Server
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	next   atomic.Int64

	mu       sync.Mutex
	all      map[string]*operation // by key: where GET finds it
	requests map[string]string     // key by requestId
}

type operation struct {
	mu   sync.Mutex
	body map[string]any
	done chan struct{}
	seq  int64
}

func (o *operation) snapshot() map[string]any {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make(map[string]any, len(o.body))
	for k, v := range o.body {
		out[k] = v
	}
	return out
}

func (o *operation) set(change func(body map[string]any)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o.body)
}

func newOps(s *Server) *Ops {
	ctx, cancel := context.WithCancel(context.Background())
	o := &Ops{server: s, ctx: ctx, cancel: cancel, all: map[string]*operation{}, requests: map[string]string{}}
	for _, scope := range []string{"global", "region", "zone"} {
		id := "compute." + scope + "Operations."
		s.Handle(id+"get", o.getCompute)
		s.Handle(id+"wait", o.waitCompute)
		s.Handle(id+"delete", o.deleteCompute)
	}
	s.Handle("sql.operations.get", o.getSQL)
	s.Handle("sql.operations.list", o.listSQL)
	for _, id := range []string{"redis.projects.locations.operations.get", "servicenetworking.operations.get", "serviceusage.operations.get"} {
		s.Handle(id, o.getLongRunning)
	}
	s.Handle("redis.projects.locations.operations.list", o.listRedis)
	return o
}

func (o *Ops) close() {
	o.cancel()
	o.wg.Wait()
}

// TimeFormat is how Compute writes times.
const TimeFormat = "2006-01-02T15:04:05.000-07:00"

// Now gives the time as Compute writes it.
func Now() string { return time.Now().Format(TimeFormat) }

// ID gives a new number of nineteen digits, as Compute gives its resources.
func (o *Ops) ID() string {
	return strconv.FormatInt(1_000_000_000_000_000_000+time.Now().UnixNano()/1000*7%8_000_000_000_000_000_000/100_000*100_000+o.next.Add(1)%100_000, 10)
}

// run does the work, then lets the rest of the latency pass, and finishes. Without done nothing becomes so only then.
func (o *Ops) run(op *operation, latency time.Duration, started func(map[string]any), w Work, done Done, finish func(map[string]any, error)) {
	began := time.Now()
	scaled := o.server.Scale(latency)
	o.wg.Go(func() {
		defer close(op.done)
		op.set(started)
		err := w(o.ctx)
		timer := time.NewTimer(scaled - time.Since(began))
		defer timer.Stop()
		select {
		case <-o.ctx.Done():
			err = errors.Join(err, o.ctx.Err())
		case <-timer.C:
		}
		if done != nil {
			done(err)
		}
		op.set(func(body map[string]any) { finish(body, err) })
	})
}

func (o *Ops) add(key string, body map[string]any) *operation {
	op := &operation{body: body, done: make(chan struct{}), seq: o.next.Add(1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[key] = op
	return op
}

func (o *Ops) find(key string) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[key]
}

// Compute starts a Compute operation on targetLink, a relative link, and gives it as PENDING or RUNNING. The same
// requestId gives the same operation again.
func (o *Ops) Compute(r *Request, opType, targetLink, targetID string, latency time.Duration, w Work, done Done) map[string]any {
	if first, ok := o.replay(r); ok {
		return first
	}
	scope := "global"
	for _, name := range []string{"regions", "zones"} {
		if v := r.Path[strings.TrimSuffix(name, "s")]; v != "" {
			scope = name + "/" + v
		}
	}
	n := o.next.Add(1)
	h := fnv.New64a()
	fmt.Fprint(h, targetLink, n, time.Now().UnixNano())
	name := fmt.Sprintf("operation-%d-%013x-%08x-%08x", time.Now().UnixMilli(), h.Sum64()>>12, uint32(h.Sum64()), uint32(n))
	base := "projects/" + r.Path["project"]
	key := base + "/" + scope + "/operations/" + name
	user := "owner@example.com"
	if r.Caller != Owner {
		user = r.Caller
	}
	body := map[string]any{
		"kind": "compute#operation", "id": o.ID(), "name": name, "operationType": opType, "status": "PENDING", "progress": 0,
		"targetLink": computeLink(targetLink), "targetId": targetID, "selfLink": computeLink(key), "insertTime": Now(), "user": user,
	}
	if kind, place, ok := strings.Cut(scope, "/"); ok {
		body[strings.TrimSuffix(kind, "s")] = computeLink(base + "/" + kind + "/" + place)
	}
	if id := r.Query.Get("requestId"); id != "" {
		body["clientOperationId"] = id
		o.mu.Lock()
		o.requests[r.Path["project"]+" "+id] = key
		o.mu.Unlock()
	}
	op := o.add(key, body)
	first := op.snapshot()
	o.run(op, latency, func(b map[string]any) {
		b["status"], b["startTime"] = "RUNNING", Now()
	}, w, done, func(b map[string]any, err error) {
		b["status"], b["progress"], b["endTime"] = "DONE", 100, Now()
		if err == nil {
			return
		}
		e := o.failed(err)
		code := e.Reason
		if code == "resourceInUseByAnotherResource" {
			code = "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
		}
		b["error"] = map[string]any{"errors": []any{map[string]any{"code": code, "message": e.Message}}}
		b["httpErrorStatusCode"], b["httpErrorMessage"] = e.Code, strings.ToUpper(http.StatusText(e.Code))
	})
	return first
}

func (o *Ops) replay(r *Request) (map[string]any, bool) {
	id := r.Query.Get("requestId")
	if id == "" {
		return nil, false
	}
	o.mu.Lock()
	op := o.all[o.requests[r.Path["project"]+" "+id]]
	o.mu.Unlock()
	if op == nil {
		return nil, false
	}
	return op.snapshot(), true
}

// Replayed gives the operation that an earlier request with the same requestId started. Handlers ask before they
// check, so that a repeated insert is not told that the resource exists.
func (o *Ops) Replayed(r *Request) (map[string]any, bool) { return o.replay(r) }

func (o *Ops) failed(err error) *Error {
	return o.server.own(err, http.StatusInternalServerError, "INTERNAL_ERROR")
}

func computeLink(key string) string { return "https://www.googleapis.com/compute/v1/" + key }

// SQL starts a Cloud SQL operation on an instance.
func (o *Ops) SQL(r *Request, opType, instance string, latency time.Duration, w Work, done Done) map[string]any {
	n := o.next.Add(1)
	h := fnv.New64a()
	fmt.Fprint(h, instance, n, time.Now().UnixNano())
	name := fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(h.Sum64()), uint16(n), uint16(h.Sum64()>>32)&0xfff, uint16(h.Sum64()>>44)&0xfff, uint64(n)*1_000_003)
	project := r.Path["project"]
	key := "sql/" + project + "/" + name
	base := "https://sqladmin.googleapis.com/sql/v1beta4/projects/" + project
	op := o.add(key, map[string]any{
		"kind": "sql#operation", "name": name, "operationType": opType, "status": "PENDING", "targetId": instance, "targetProject": project,
		"targetLink": base + "/instances/" + instance, "selfLink": base + "/operations/" + name, "insertTime": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		"user": "owner@example.com",
	})
	first := op.snapshot()
	o.run(op, latency, func(b map[string]any) {
		b["status"], b["startTime"] = "RUNNING", time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	}, w, done, func(b map[string]any, err error) {
		b["status"], b["endTime"] = "DONE", time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
		if err != nil {
			e := o.failed(err)
			b["error"] = map[string]any{"kind": "sql#operationErrors", "errors": []any{map[string]any{"kind": "sql#operationError", "code": e.Reason, "message": e.Message}}}
		}
	})
	return first
}

// LongRunning starts an operation of google.longrunning. Prefix is what its name begins with, "operations/x." or
// "projects/p/locations/l/operations/operation-". What respond gives, once done was called, becomes the response.
func (o *Ops) LongRunning(r *Request, prefix string, metadata map[string]any, latency time.Duration, w Work, done Done, respond func() map[string]any) map[string]any {
	name := fmt.Sprintf("%s%d-%x", prefix, time.Now().UnixMilli(), o.next.Add(1))
	body := map[string]any{"name": name, "done": false}
	if metadata != nil {
		body["metadata"] = metadata
	}
	op := o.add("lro/"+name, body)
	first := op.snapshot()
	delete(first, "done")
	o.run(op, latency, func(map[string]any) {}, w, done, func(b map[string]any, err error) {
		b["done"] = true
		if metadata["createTime"] != nil { // a copy, since answers under way hold the old one
			ended := maps.Clone(metadata)
			ended["endTime"] = time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
			b["metadata"] = ended
		}
		if err == nil {
			b["response"] = respond()
			return
		}
		e := o.failed(err)
		b["error"] = map[string]any{"code": rpcCode(e.status()), "message": e.Message}
	})
	return first
}

// doomed starts an operation for a method without doing what it asks for; it ends in an error, in the words of its API.
func (o *Ops) doomed(r *Request, e *Error) map[string]any {
	var named struct{ Name string }
	if raw, err := io.ReadAll(io.LimitReader(r.HTTP.Body, maxBody)); err == nil {
		_ = json.Unmarshal(raw, &named) // what has no name is about what is there already
	}
	verb := r.Method.ID[strings.LastIndexByte(r.Method.ID, '.')+1:]
	fail := func(context.Context) error { return e }
	switch api, _, _ := strings.Cut(r.Method.API, "-"); api {
	case "compute":
		_, target, _ := strings.Cut(r.HTTP.URL.Path, "/compute/v1/")
		if verb == "insert" {
			target += "/" + named.Name
		} else {
			target = strings.TrimSuffix(target, "/"+verb)
		}
		return o.Compute(r, verb, target, o.ID(), 0, fail, nil)
	case "sqladmin":
		return o.SQL(r, strings.ToUpper(verb), cmp.Or(r.Path["instance"], named.Name), 0, fail, nil)
	}
	prefix := "operations/acat.p2-0-"
	switch {
	case r.Path["location"] != "":
		prefix = "projects/" + r.Path["project"] + "/locations/" + r.Path["location"] + "/operations/operation-"
	case r.Method.API == "servicenetworking":
		prefix = "operations/pssn.p24-0-"
	}
	return o.LongRunning(r, prefix, nil, 0, fail, nil, nil)
}

// rpcCode gives the number of google.rpc.Code.
func rpcCode(status string) int {
	codes := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if i := slices.Index(codes, status); i >= 0 {
		return i
	}
	return 2
}

func (o *Ops) computeKey(r *Request) string {
	scope := "global"
	if v := r.Path["region"]; v != "" {
		scope = "regions/" + v
	} else if v := r.Path["zone"]; v != "" {
		scope = "zones/" + v
	}
	return "projects/" + r.Path["project"] + "/" + scope + "/operations/" + r.Path["operation"]
}

func (o *Ops) getCompute(_ context.Context, r *Request) (any, error) {
	op := o.find(o.computeKey(r))
	if op == nil {
		return nil, ResourceNotFound(o.computeKey(r))
	}
	return op.snapshot(), nil
}

// waitCompute answers when the operation is done, or after two minutes as it is then.
func (o *Ops) waitCompute(ctx context.Context, r *Request) (any, error) {
	op := o.find(o.computeKey(r))
	if op == nil {
		return nil, ResourceNotFound(o.computeKey(r))
	}
	timer := time.NewTimer(2 * time.Minute)
	defer timer.Stop()
	select {
	case <-op.done:
	case <-timer.C:
	case <-ctx.Done():
	case <-o.ctx.Done():
	}
	return op.snapshot(), nil
}

func (o *Ops) deleteCompute(_ context.Context, r *Request) (any, error) {
	key := o.computeKey(r)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all[key] == nil {
		return nil, ResourceNotFound(key)
	}
	delete(o.all, key)
	return nil, nil
}

// list gives the operations below a key, oldest first.
func (o *Ops) list(prefix string) []map[string]any {
	o.mu.Lock()
	var ops []*operation
	for key, op := range o.all {
		if strings.HasPrefix(key, prefix) {
			ops = append(ops, op)
		}
	}
	o.mu.Unlock()
	slices.SortFunc(ops, func(a, b *operation) int { return int(a.seq - b.seq) })
	out := make([]map[string]any, len(ops))
	for i, op := range ops {
		out[i] = op.snapshot()
	}
	return out
}

// ComputeList gives the Compute operations of the request's scope, oldest first, and the collection's relative link.
func (o *Ops) ComputeList(r *Request) (collection string, items []map[string]any) {
	prefix := o.computeKey(r)
	return strings.TrimSuffix(prefix, "/"), o.list(prefix)
}

func (o *Ops) getSQL(_ context.Context, r *Request) (any, error) {
	op := o.find("sql/" + r.Path["project"] + "/" + r.Path["operation"])
	if op == nil {
		return nil, &Error{Code: 404, Reason: "operationDoesNotExist", Message: "The Cloud SQL operation does not exist."}
	}
	return op.snapshot(), nil
}

func (o *Ops) listSQL(_ context.Context, r *Request) (any, error) {
	items := o.list("sql/" + r.Path["project"] + "/")
	if instance := r.Query.Get("instance"); instance != "" {
		items = slices.DeleteFunc(items, func(op map[string]any) bool { return op["targetId"] != instance })
	}
	slices.Reverse(items) // newest first, as Cloud SQL lists them
	answer := map[string]any{"kind": "sql#operationsList"}
	if len(items) > 0 {
		answer["items"] = items
	}
	return answer, nil
}

func (o *Ops) getLongRunning(_ context.Context, r *Request) (any, error) {
	name := "operations/" + r.Path["operation"]
	if l := r.Path["location"]; l != "" {
		name = "projects/" + r.Path["project"] + "/locations/" + l + "/" + name
	}
	op := o.find("lro/" + name)
	if op == nil {
		return nil, &Error{Code: 404, Reason: "notFound", Message: fmt.Sprintf("Operation %q was not found", name)}
	}
	body := op.snapshot()
	if body["done"] == false {
		delete(body, "done")
	}
	return body, nil
}

func (o *Ops) listRedis(_ context.Context, r *Request) (any, error) {
	return map[string]any{"operations": o.list("lro/projects/" + r.Path["project"] + "/locations/" + r.Path["location"] + "/operations/")}, nil
}
