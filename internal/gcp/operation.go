package gcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// Mutate sends a request that may start an operation, and waits for that in the API's dialect. It gives the answer
// itself where the API answers at once. An operation that ends in an error which one of the rules knows to pass is
// started again.
func (c *Client) Mutate(ctx context.Context, call Call) (map[string]any, error) {
	for p := (patience{}); ; {
		answer, err := c.mutate(ctx, call)
		var e *Error
		if err == nil || !errors.As(err, &e) || !e.Operation {
			return answer, err
		}
		if err := c.again(ctx, call, err, &p); err != nil {
			return nil, err
		}
		if call.Clear != nil {
			if err := call.Clear(ctx); err != nil {
				return nil, err
			}
		}
	}
}

func (c *Client) mutate(ctx context.Context, call Call) (map[string]any, error) {
	var answer map[string]any
	call.Out = &answer
	if err := c.Do(ctx, call); err != nil {
		return nil, err
	}
	switch call.API.Operation {
	case resource.Compute:
		if answer["kind"] == "compute#operation" {
			return answer, c.waitCompute(ctx, call, answer)
		}
	case resource.SQL:
		if answer["kind"] == "sql#operation" {
			return answer, c.waitSQL(ctx, call, answer)
		}
	case resource.LongRunning:
		if name, ok := answer["name"].(string); ok && isOperation(name) {
			return c.waitLongRunning(ctx, call, answer)
		}
	}
	return answer, nil
}

// waitCompute long-polls: Google answers after at most two minutes, and may answer sooner, done or not. A long poll that
// fails is followed by a look at the operation, which tells whether anybody is there.
func (c *Client) waitCompute(ctx context.Context, call Call, op map[string]any) error {
	link, _ := op["selfLink"].(string)
	path := resource.CanonicalLink(link)
	tell := c.teller(call.For)
	for try := 0; op["status"] != "DONE"; try++ {
		tell(fmt.Sprint("operation ", op["operationType"], " is ", op["status"]))
		began := time.Now()
		var next map[string]any
		wait := Call{API: call.API, Method: http.MethodPost, Path: path + "/wait", Out: &next, For: call.For, Once: true}
		err := c.Do(ctx, wait)
		if err != nil && ctx.Err() == nil && c.judge(ctx, wait, err) != nil {
			next = nil
			err = c.Do(ctx, Call{API: call.API, Method: http.MethodGet, Path: path, Out: &next, For: call.For})
		}
		if err != nil {
			return err
		}
		op = next
		// Best effort may mean at once: then do not spin.
		if op["status"] != "DONE" && time.Since(began) < 100*time.Millisecond {
			if err := Sleep(ctx, Backoff(try, 10*time.Millisecond, 3*time.Second)); err != nil {
				return err
			}
		}
	}
	return operationError(op)
}

// waitSQL polls; Cloud SQL has no long poll.
func (c *Client) waitSQL(ctx context.Context, call Call, op map[string]any) error {
	tell := c.teller(call.For)
	name, _ := op["name"].(string)
	for began := time.Now(); op["status"] != "DONE"; {
		tell(fmt.Sprint("operation ", op["operationType"], " is ", op["status"]))
		if err := Sleep(ctx, untilNextLook(time.Since(began))); err != nil {
			return err
		}
		op = nil
		if err := c.Do(ctx, Call{API: call.API, Method: http.MethodGet, Path: "projects/" + c.opts.Project + "/operations/" + name, Out: &op, For: call.For}); err != nil {
			return err
		}
	}
	return operationError(op)
}

func (c *Client) waitLongRunning(ctx context.Context, call Call, op map[string]any) (map[string]any, error) {
	tell := c.teller(call.For)
	name, _ := op["name"].(string)
	for began := time.Now(); op["done"] != true; {
		tell("the operation is not done")
		if err := Sleep(ctx, untilNextLook(time.Since(began))); err != nil {
			return nil, err
		}
		op = nil
		if err := c.Do(ctx, Call{API: call.API, Method: http.MethodGet, Path: name, Out: &op, For: call.For}); err != nil {
			return nil, err
		}
	}
	if failed, ok := op["error"].(map[string]any); ok {
		code, _ := failed["code"].(float64)
		e := &Error{Message: fmt.Sprint(failed["message"]), Reason: rpcCode(code), Operation: true}
		e.Status = e.Reason
		return nil, e.clean()
	}
	answer, _ := op["response"].(map[string]any)
	return answer, nil
}

// Settle waits until no operation runs on these resources any more: a run that was interrupted leaves its operations to
// go on. How they end is not its business. Service Networking's operations cannot be listed by what they work on.
func (c *Client) Settle(ctx context.Context, rs []*resource.Resource) error {
	targets := map[string]resource.ID{} // by what operations call them
	lists := map[string]Call{}          // by path and query
	for _, r := range rs {
		call := Call{API: r.Kind.API, Method: http.MethodGet, Query: url.Values{}}
		switch r.Kind.API.Operation {
		case resource.Compute:
			scope, _ := path.Split(r.CollectionPath()) // "projects/p/global/", "projects/p/regions/r/"
			call.Path = scope + "operations"
			call.Query.Set("filter", `status != "DONE"`)
			targets[r.Link()] = r.ID()
		case resource.SQL:
			instance, _, _ := strings.Cut(r.Name, "/")
			call.Path = "projects/" + c.opts.Project + "/operations"
			call.Query.Set("instance", instance)
			call.Query.Set("maxResults", "20") // newest first, and one runs at a time
			if instance == r.Name {
				targets[instance] = r.ID()
			}
		case resource.LongRunning:
			if r.Kind.Name != kind.RedisInstances.Name {
				continue
			}
			location, _ := path.Split(r.CollectionPath())
			call.Path = location + "operations"
			targets[r.Link()] = r.ID()
		default:
			continue
		}
		lists[call.Path+"?"+call.Query.Encode()] = call
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, key := range slices.Sorted(maps.Keys(lists)) {
		g.Go(func() error { return c.settle(ctx, lists[key], targets) })
	}
	return g.Wait()
}

// settle waits for those operations of a list that work on one of the targets.
func (c *Client) settle(ctx context.Context, list Call, targets map[string]resource.ID) error {
	for {
		var page map[string]any
		list.Out = &page
		page, err := Absent(page, c.Do(ctx, list))
		if err != nil {
			return fmt.Errorf("list the operations in progress: %w", err)
		}
		items, _ := page["items"].([]any)
		if list.API.Operation == resource.LongRunning {
			items, _ = page["operations"].([]any)
		}
		for _, item := range items {
			op, _ := item.(map[string]any)
			call := Call{API: list.API}
			var err error
			switch list.API.Operation {
			case resource.Compute:
				link, _ := op["targetLink"].(string)
				if call.For = targets[resource.CanonicalLink(link)]; call.For != "" {
					err = c.waitCompute(ctx, call, op)
				}
			case resource.SQL:
				target, _ := op["targetId"].(string)
				if call.For = targets[target]; call.For != "" {
					err = c.waitSQL(ctx, call, op)
				}
			case resource.LongRunning:
				target, _ := resource.Lookup(op, "metadata.target")
				if call.For = targets[fmt.Sprint(target)]; call.For != "" {
					_, err = c.waitLongRunning(ctx, call, op)
				}
			}
			var failed *Error
			if err != nil && !errors.As(err, &failed) {
				return err
			}
		}
		next, _ := page["nextPageToken"].(string)
		if next == "" || list.API.Operation == resource.SQL {
			return nil
		}
		list.Query.Set("pageToken", next)
	}
}

// untilNextLook gives how long to let pass before something that has been going on for so long is looked at again: a
// tenth of that, so that no more than this is lost at its end, with a few milliseconds and ten seconds as limits.
func untilNextLook(elapsed time.Duration) time.Duration {
	return min(max(elapsed/10, 15*time.Millisecond), 10*time.Second)
}

// rpcCode gives the name of a google.rpc.Code.
func rpcCode(n float64) string {
	names := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if i := int(n); i >= 0 && i < len(names) {
		return names[i]
	}
	return fmt.Sprint("code ", n)
}

// operationError gives the error of a finished Compute or Cloud SQL operation.
func operationError(op map[string]any) error {
	failed, _ := op["error"].(map[string]any)
	list, _ := failed["errors"].([]any)
	var errs []error
	for _, item := range list {
		m, _ := item.(map[string]any)
		e := &Error{Message: fmt.Sprint(m["message"]), Reason: fmt.Sprint(m["code"]), Operation: true}
		if code, ok := op["httpErrorStatusCode"].(float64); ok {
			e.Code = int(code)
		}
		errs = append(errs, e.clean())
	}
	return errors.Join(errs...)
}

// teller gives a function that tells at most every five seconds what is waited for, and not in the first second.
func (c *Client) teller(id resource.ID) func(string) {
	next := time.Now().Add(time.Second)
	return func(what string) {
		if time.Now().Before(next) {
			return
		}
		next = time.Now().Add(5 * time.Second)
		c.Notify(event.Waiting, id, what)
	}
}

var operationPath = regexp.MustCompile(`(^|/)operations/[^/]+(/wait)?$`)

// isOperation says whether a path, or a name, is an operation's. Projects and buckets may be called "x-operations".
func isOperation(path string) bool { return operationPath.MatchString(path) }
