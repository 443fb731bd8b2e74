package gcp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
)

// patience is what one call has waited for so far.
type patience struct {
	since map[string]time.Time // when a rule was first met, by its name
	tries map[string]int
}

// again waits, and says so, until a call that failed may be sent once more. It gives the error to end with when the
// failure is none that passes by itself, or did not in time.
func (c *Client) again(ctx context.Context, call Call, failed error, p *patience) error {
	r := c.judge(ctx, call, failed)
	if r == nil || call.Once || ctx.Err() != nil {
		return failed
	}
	if p.since == nil {
		p.since, p.tries = map[string]time.Time{}, map[string]int{}
	}
	if p.tries[r.name] == 0 {
		p.since[r.name] = time.Now()
	}
	lasted := time.Since(p.since[r.name])
	left := r.within - lasted
	if left <= 0 {
		return c.end(r, call, failed)
	}
	wait := Backoff(p.tries[r.name], r.first, r.most)
	if e := (*Error)(nil); errors.As(failed, &e) {
		wait = max(wait, e.After)
	}
	wait = min(wait, left)
	p.tries[r.name]++
	if lasted >= r.quietFor {
		c.Notify(event.Retried, call.For, fmt.Sprintf("%s; again in %s", c.fill(r.say, call, failed), wait.Round(10*time.Millisecond)))
	}
	return Sleep(ctx, wait)
}

// end gives the error of a call whose failure did not pass.
func (c *Client) end(r *rule, call Call, failed error) error {
	if r.never == nil {
		return failed
	}
	return &fault.Fault{
		Summary: r.never.summary, Detail: c.fill(r.never.detail, call, failed), Remedy: c.fill(r.never.remedy, call, failed), Cause: failed,
	}
}

// judge gives the rule by which a call that failed may be sent again, nil for none.
func (c *Client) judge(ctx context.Context, call Call, failed error) *rule {
	if errors.Is(failed, context.Canceled) || isFault(failed) {
		return nil
	}
	var (
		e    *Error
		bad  *garbled
		lost *unanswered
		at   place
	)
	switch {
	case errors.As(failed, &e) && e.Operation:
		at = inOperation
	case e != nil:
		at = inAnswer
	case errors.As(failed, &bad):
		at = inBody
	case errors.As(failed, &lost) && lost.after > 0:
		at = tooLong
	case lost != nil:
		at = onTheWay
	default:
		return nil
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return r.matches(at, call, e, c) && c.meets(ctx, r.only, call, e) })
	if i < 0 {
		return nil
	}
	return &rules[i]
}

func isFault(err error) bool {
	var f *fault.Fault
	return errors.As(err, &f)
}

// matches says whether a rule speaks of a failure, its condition apart. E is nil where nothing was answered.
func (r *rule) matches(at place, call Call, e *Error, c *Client) bool {
	if !slices.Contains(r.in, at) || len(r.service) > 0 && !slices.Contains(r.service, call.API.Name) || r.method != "" && r.method != call.Method {
		return false
	}
	if e == nil {
		return len(r.code) == 0 && len(r.reason) == 0 && len(r.text) == 0
	}
	return (len(r.code) == 0 || slices.Contains(r.code, e.Code)) &&
		(len(r.reason) == 0 || slices.Contains(r.reason, e.Reason)) && !slices.Contains(r.except, e.Reason) &&
		(len(r.text) == 0 || slices.ContainsFunc(r.text, func(t string) bool { return like(e.Message, strings.ReplaceAll(t, "PROJECT_ID", c.opts.Project)) }))
}

// meets says whether a rule's condition holds for a call that failed. For some it asks Service Usage.
func (c *Client) meets(ctx context.Context, only when, call Call, e *Error) bool {
	switch only {
	case fresh:
		return c.fresh(ctx, call.API.Name)
	case enabled:
		return c.enabledThough(ctx, call, e)
	case newAccount:
		return c.madeAccount.Load()
	case operation:
		return isOperation(call.Path)
	case atGoogle, atEndpoint:
		return (c.opts.Endpoint == "") == (only == atGoogle)
	}
	return true
}

// like says whether the parts of a pattern, between its stars, are in s one after another.
func like(s, pattern string) bool {
	for part := range strings.SplitSeq(pattern, "*") {
		_, rest, ok := strings.Cut(s, part)
		if !ok {
			return false
		}
		s = rest
	}
	return true
}

// fill puts what is known of a call that failed into a sentence of a rule.
func (c *Client) fill(text string, call Call, failed error) string {
	number, who, code, reason, cause := "PROJECT_NUMBER", "Google", "", "", failed.Error()
	if n := c.number.Load(); n != nil {
		number = *n
	}
	if c.opts.Endpoint != "" {
		who = "the local cloud"
	}
	var e *Error
	if errors.As(failed, &e) {
		code, reason, cause = fmt.Sprint(e.Code), e.Reason, e.Error()
	}
	return strings.TrimSpace(strings.NewReplacer(
		"PROJECT_ID", c.opts.Project, "PROJECT_NUMBER", number, "SERVICE", call.API.Name, "WHO", who, "CODE", code, "REASON", reason, "CAUSE", cause,
	).Replace(text))
}
