package gcp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/resource"
)

// Mutate sends a request that may start an operation, and waits for that in the API's dialect. It gives the answer
// itself where the API answers at once.
func (c *Client) Mutate(ctx context.Context, call Call) (map[string]any, error) {
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
		if name, ok := answer["name"].(string); ok && strings.Contains(name, "operations/") {
			return c.waitLongRunning(ctx, call, answer)
		}
	}
	return answer, nil
}

// waitCompute long-polls: Google answers after at most two minutes, and may answer sooner, done or not.
func (c *Client) waitCompute(ctx context.Context, call Call, op map[string]any) error {
	link, _ := op["selfLink"].(string)
	path := resource.CanonicalLink(link)
	tell := c.teller(call.For)
	for misses, try := 0, 0; op["status"] != "DONE"; try++ {
		tell(fmt.Sprint("operation ", op["operationType"], " is ", op["status"]))
		began := time.Now()
		var next map[string]any
		err := c.Do(ctx, Call{API: call.API, Method: http.MethodPost, Path: path + "/wait", Out: &next, For: call.For})
		switch {
		case Is(err, 404) && misses < 5: // not visible everywhere yet
			misses++
		case err != nil:
			return err
		default:
			op = next
		}
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
		e := &Error{Message: fmt.Sprint(failed["message"]), Status: fmt.Sprint(failed["code"])}
		if failed["code"] == 9.0 {
			e.Reason = "FAILED_PRECONDITION"
		}
		return nil, e
	}
	answer, _ := op["response"].(map[string]any)
	return answer, nil
}

// untilNextLook gives how long to let pass before something that has been going on for so long is looked at again: a
// tenth of that, so that no more than this is lost at its end, with a few milliseconds and ten seconds as limits.
func untilNextLook(elapsed time.Duration) time.Duration {
	return min(max(elapsed/10, 15*time.Millisecond), 10*time.Second)
}

// operationError gives the error of a finished Compute or Cloud SQL operation.
func operationError(op map[string]any) error {
	failed, _ := op["error"].(map[string]any)
	list, _ := failed["errors"].([]any)
	var errs []error
	for _, item := range list {
		m, _ := item.(map[string]any)
		e := &Error{Message: fmt.Sprint(m["message"]), Reason: fmt.Sprint(m["code"])}
		if code, ok := op["httpErrorStatusCode"].(float64); ok {
			e.Code = int(code)
		}
		errs = append(errs, e)
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
