package gcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// Driver reads and writes the resources of a kind. REST is the default; a driver for a kind that differs by steps
// embeds it and overrides what differs. There are no hooks.
type Driver interface {
	Read(ctx context.Context, r *resource.Resource) (map[string]any, error) // nil when absent
	Create(ctx context.Context, r *resource.Resource, body map[string]any) error
	Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error
	Delete(ctx context.Context, r *resource.Resource) error
}

// Picker is a Driver that can find its resource in a list of its collection. All that embed REST can.
type Picker interface {
	Pick(r *resource.Resource, items []map[string]any) map[string]any // nil when absent
}

// REST is the driver for kinds that are nothing but their row in the table.
type REST struct{ *Client }

var (
	_ Driver = (*REST)(nil)
	_ Picker = (*REST)(nil)
)

// Path is the resource's own path, relative to the API's base.
func (d *REST) Path(r *resource.Resource) string { return r.Link() }

// Read gives the live body.
func (d *REST) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	var body map[string]any
	call := Call{API: r.Kind.API, Method: http.MethodGet, Path: r.Link(), Out: &body, For: r.ID()}
	err := d.Do(ctx, call)
	return Absent(body, d.unhide(ctx, call, err))
}

// Absent turns Google's ways of saying that something is not there, the API being disabled among them, into nil.
func Absent(body map[string]any, err error) (map[string]any, error) {
	var e *Error
	if !isFault(err) && errors.As(err, &e) && (e.Code == 404 || e.Disabled()) {
		return nil, nil
	}
	return body, err
}

// errStopped says that what lies in a Cloud SQL instance cannot be seen, because that does not run.
var errStopped = errors.New("the instance does not run")

// unhide gives the error of a call to what may lie in a Cloud SQL instance as it is meant. Whether an instance is not there
// or may not be seen, Cloud SQL answers the same 403 to a question about its users and databases; and whether it is stopped or
// not even made, the same 400. Then the instance itself is asked for: if it is not there, or nothing can be in it yet, the error
// becomes a 404.
func (c *Client) unhide(ctx context.Context, call Call, err error) error {
	var e *Error
	parent, inside := instanceOf(call)
	if !inside || !errors.As(err, &e) {
		return err
	}
	stopped := e.Code == http.StatusBadRequest && strings.Contains(e.Message, "instance is not running")
	if !stopped && (e.Code != http.StatusForbidden || e.Reason != "notAuthorized") {
		return err
	}
	var instance struct{ State string }
	ask := c.Do(ctx, Call{API: call.API, Method: http.MethodGet, Path: parent, Out: &instance, For: call.For})
	switch {
	case ask != nil && !Is(ask, http.StatusForbidden):
		return ask
	case stopped && instance.State == "PENDING_CREATE":
		return &Error{Code: http.StatusNotFound, Message: parent + " is being created, and nothing is in it"}
	case stopped:
		f := &fault.Fault{
			Summary: "A Cloud SQL instance does not run",
			Detail:  fmt.Sprintf("The users and databases of %s can neither be read nor changed while it is stopped or suspended.", parent),
			Remedy:  "Apply, which starts it:\n    difyup apply",
			Cause:   fmt.Errorf("%w: %w", errStopped, err),
		}
		if c.Google() {
			f.Remedy = "Start it, if it is not suspended for its project's billing, then run the command again:\n" +
				"    gcloud sql instances patch " + path.Base(parent) + " --activation-policy=ALWAYS --project=" + c.opts.Project
		}
		return f
	}
	return &fault.Fault{
		Summary: "Cloud SQL does not let you see what is in an instance",
		Detail:  fmt.Sprintf("Your account may not read or change the users and databases of %s.", parent),
		Remedy: "Have an owner of the project give you the role, then run the command again:\n" +
			"    gcloud projects add-iam-policy-binding " + c.opts.Project + " --member=user:YOUR_EMAIL --role=roles/cloudsql.admin",
		Cause: err,
	}
}

// instanceOf gives the path of the Cloud SQL instance in which what a call is about lies.
func instanceOf(call Call) (path string, inside bool) {
	if call.API.Operation != resource.SQL {
		return "", false
	}
	parts := strings.Split(call.Path, "/") // projects/P/instances/I/users
	if len(parts) < 5 || parts[2] != "instances" {
		return "", false
	}
	return strings.Join(parts[:4], "/"), true
}

// Pick finds the item whose name ends like the resource's.
func (d *REST) Pick(r *resource.Resource, items []map[string]any) map[string]any {
	i := slices.IndexFunc(items, func(item map[string]any) bool {
		name, _ := item["name"].(string)
		return name[strings.LastIndexByte(name, '/')+1:] == r.Leaf()
	})
	if i < 0 {
		return nil
	}
	return items[i]
}

// Create inserts the resource and waits until it is there. One that exists already is adopted, if it bears the
// stack's mark: an interrupted run made it, or a reply was lost.
func (d *REST) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	return d.Insert(ctx, r, body, r.CollectionPath())
}

// Insert is Create with a path of the caller's.
func (d *REST) Insert(ctx context.Context, r *resource.Resource, body map[string]any, path string) error {
	query := url.Values{}
	if r.Kind.CreateParam != "" {
		query.Set(r.Kind.CreateParam, r.Leaf())
	}
	if r.Kind.API.Name == "storage" {
		query.Set("project", d.Project())
	}
	_, err := d.Mutate(ctx, Call{
		API: r.Kind.API, Method: http.MethodPost, Path: path, Query: query, Body: body, For: r.ID(),
		Clear: func(ctx context.Context) error { return d.clear(ctx, r, body) },
	})
	if Exists(r.Kind.API, err) || errors.Is(err, errThere) {
		return d.Adopt(ctx, r, body)
	}
	return err
}

var errThere = errors.New("it is there after all")

// clear looks at what a creation left whose operation failed, before the creation is sent again. What is FAILED is of no
// use and, made by this very call, holds nothing: it is deleted. What is there otherwise is adopted.
func (d *REST) clear(ctx context.Context, r *resource.Resource, body map[string]any) error {
	driver := d.Driver(r.Kind)
	live, err := driver.Read(ctx, r)
	switch {
	case err != nil || live == nil:
		return err
	case d.Ours(ctx, r, body, live) != nil || !broken(r.Kind, live):
		return errThere
	}
	d.Notify(event.Retried, r.ID(), "what the failed creation left is deleted first")
	return driver.Delete(ctx, r)
}

// broken says whether a resource was not built and never will be.
func broken(k *resource.Kind, live map[string]any) bool {
	for p := range k.Ready {
		if v, _ := resource.Lookup(live, p); v == "FAILED" {
			return true
		}
	}
	return false
}

// Exists says whether a creation was refused because the resource is there. Cloud SQL has other conflicts beside that, and repeats
// of what is inside what PostgreSQL says.
func Exists(api *resource.API, err error) bool {
	var e *Error
	switch {
	case !errors.As(err, &e):
		return false
	case api.Operation == resource.SQL:
		return e.Reason == "instanceAlreadyExists" || (e.Code == http.StatusBadRequest || e.Operation) && like(e.Message, "failed to create*already exists")
	}
	return e.Code == http.StatusConflict && e.Reason != "operationInProgress" || e.Reason == "RESOURCE_ALREADY_EXISTS"
}

// Adopt takes over a resource that exists already: it waits until it can be seen and is ready, makes sure that it is
// this stack's, and brings it to the wanted body.
func (d *REST) Adopt(ctx context.Context, r *resource.Resource, body map[string]any) error {
	driver := d.Driver(r.Kind)
	var live map[string]any
	for try := 0; ; try++ {
		var err error
		if live, err = driver.Read(ctx, r); err != nil {
			return err
		}
		if live != nil {
			break
		}
		if try > 40 {
			return fmt.Errorf("adopt %s: Google says that it exists, but does not show it", r.ID())
		}
		if err := Sleep(ctx, Backoff(try, 20*time.Millisecond, 3*time.Second)); err != nil {
			return err
		}
	}
	if err := d.Ours(ctx, r, body, live); err != nil {
		return err
	}
	if r.Kind.HoldsData() && len(r.Kind.Ready) > 0 {
		var err error
		if live, err = d.Await(ctx, r); err != nil {
			return err
		}
	}
	fields := diff.Fields(r.Kind, live, body)
	if stuck := diff.Immutable(r.Kind, fields); len(stuck) > 0 {
		return &fault.Fault{
			Summary: "A resource from an interrupted run cannot be updated",
			Detail:  fmt.Sprintf("%s exists from an interrupted run and differs in %s, which cannot be changed after creation.", r.ID(), stuck[0].Path),
			Remedy:  "Delete the stack and create it again:\n    difyup destroy",
		}
	}
	if len(fields) == 0 {
		return nil
	}
	changed := make([]resource.Path, len(fields))
	for i, f := range fields {
		changed[i] = f.Path
	}
	return driver.Update(ctx, r, body, live, changed)
}

// Ours refuses a live resource that does not bear the mark of the wanted body, or that is another project's.
func (d *REST) Ours(ctx context.Context, r *resource.Resource, body, live map[string]any) error {
	if r.Kind.Mark.At == "" {
		return nil
	}
	owner := resource.Owner{Stack: r.Kind.MarkOf(body), Project: d.Project()}
	if r.Kind.Mark.Number != "" {
		var err error
		if owner.Number, err = d.ProjectNumber(ctx); err != nil {
			return err
		}
	}
	if !owner.Marked(r.Kind, live) {
		return owner.Taken(r, live)
	}
	return nil
}

// Update changes the resource in place, in the way its kind takes changes.
func (d *REST) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	return d.UpdateAt(ctx, r, r.Link(), body, live, changed)
}

// UpdateAt is Update with a path of the caller's.
func (d *REST) UpdateAt(ctx context.Context, r *resource.Resource, path string, body, live map[string]any, changed []resource.Path) error {
	tops := Tops(changed)
	switch r.Kind.Update {
	case resource.PatchEach:
		for _, top := range tops {
			if err := d.patchMask(ctx, r, path, []string{top}, body, live); err != nil {
				return err
			}
		}
		return nil
	case resource.PatchMask:
		return d.patchMask(ctx, r, path, tops, body, live)
	case resource.Patch:
	default:
		return fmt.Errorf("update %s: its kind cannot be updated. This is a bug in difyup", r.ID())
	}
	query := url.Values{}
	if r.Kind.PatchParam != "" {
		query.Set(r.Kind.PatchParam, r.Leaf())
		path = r.CollectionPath()
	}
	for try := 0; ; try++ {
		patch := Part(body, live, tops)
		if f := string(r.Kind.Fingerprint); f != "" {
			if live[f] == nil {
				return fmt.Errorf("update %s: it was read without its %s, and is not written blindly", r.ID(), f)
			}
			patch[f] = live[f]
		}
		_, err := d.Mutate(ctx, Call{API: r.Kind.API, Method: http.MethodPatch, Path: path, Query: query, Body: patch, For: r.ID()})
		if !Is(err, 412) || try == 5 {
			return err
		}
		// Somebody changed it since it was read: read again, and say again what is wanted.
		d.Notify(event.Retried, r.ID(), "it was changed meanwhile")
		if live, err = d.Driver(r.Kind).Read(ctx, r); err != nil {
			return err
		}
		if live == nil {
			return disappeared(r)
		}
	}
}

// disappeared is the fault for a resource that somebody deleted while a run was at work.
func disappeared(r *resource.Resource) error {
	return &fault.Fault{
		Summary: "A resource disappeared",
		Detail:  fmt.Sprintf("%s was there when the plan was made. Somebody deleted it since.", r.ID()),
		Remedy:  "Apply again to create it:\n    difyup apply",
	}
}

func (d *REST) patchMask(ctx context.Context, r *resource.Resource, path string, fields []string, body, live map[string]any) error {
	query := url.Values{"updateMask": {strings.Join(fields, ",")}}
	_, err := d.Mutate(ctx, Call{API: r.Kind.API, Method: http.MethodPatch, Path: path, Query: query, Body: Part(body, nil, fields), For: r.ID()})
	return err
}

// Tops gives the distinct first parts of paths, sorted.
func Tops(paths []resource.Path) []string {
	set := map[string]bool{}
	for _, p := range paths {
		set[string(diff.Field{Path: p}.Top())] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Part gives the named top-level fields of body, for a merging PATCH. Labels that live has and body has not become
// null, which removes them.
func Part(body, live map[string]any, tops []string) map[string]any {
	patch := map[string]any{}
	for _, top := range tops {
		v := resource.Clone(body[top])
		if want, ok := v.(map[string]any); ok {
			have, _ := live[top].(map[string]any)
			dropLabels(top, want, have)
		}
		patch[top] = v
	}
	return patch
}

func dropLabels(key string, want, have map[string]any) {
	if key == "labels" || key == "userLabels" {
		for k := range have {
			if _, keep := want[k]; !keep && !strings.HasPrefix(k, "goog-") {
				want[k] = nil
			}
		}
		return
	}
	for k, v := range want {
		if sub, ok := v.(map[string]any); ok {
			below, _ := have[k].(map[string]any)
			dropLabels(k, sub, below)
		}
	}
}

// Delete removes the resource and waits until it is gone. What is not there is gone.
func (d *REST) Delete(ctx context.Context, r *resource.Resource) error {
	return d.DeleteAt(ctx, r, r.Link(), nil)
}

// DeleteAt is Delete with a path and query of the caller's.
func (d *REST) DeleteAt(ctx context.Context, r *resource.Resource, path string, query url.Values) error {
	call := Call{API: r.Kind.API, Method: http.MethodDelete, Path: path, Query: query, For: r.ID()}
	_, err := d.Mutate(ctx, call)
	if err = d.unhide(ctx, call, err); Is(err, http.StatusNotFound) {
		return nil
	}
	return err
}
