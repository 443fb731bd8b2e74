package gcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
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
	err := d.Do(ctx, Call{API: r.Kind.API, Method: http.MethodGet, Path: r.Link(), Out: &body, For: r.ID()})
	return Absent(body, err)
}

// Absent turns Google's ways of saying that something is not there, the API being disabled among them, into nil.
func Absent(body map[string]any, err error) (map[string]any, error) {
	var e *Error
	if errors.As(err, &e) && (e.Code == 404 || e.Disabled() || e.Code == 400 && strings.Contains(e.Message, "instance is not running")) {
		return nil, nil
	}
	return body, err
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
	_, err := d.Mutate(ctx, Call{API: r.Kind.API, Method: http.MethodPost, Path: path, Query: query, Body: body, For: r.ID()})
	if Exists(err) {
		return d.Adopt(ctx, r, body)
	}
	return err
}

// Exists says whether a creation was refused because the resource is there.
func Exists(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Code == 409 && e.Reason != "operationInProgress" || e.Reason == "RESOURCE_ALREADY_EXISTS")
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
	if r.Kind.HoldsData && len(r.Kind.Ready) > 0 {
		var err error
		if live, err = d.Await(ctx, r); err != nil {
			return err
		}
	}
	fields := diff.Fields(r.Kind, live, body)
	if stuck := diff.Immutable(r.Kind, fields); len(stuck) > 0 {
		return &fault.Fault{
			Summary: "A resource under construction cannot become what is wanted",
			Detail:  fmt.Sprintf("%s exists from an interrupted run and differs in %s, which Google fixes at creation.", r.ID(), stuck[0].Path),
			Remedy:  "Destroy the stack and apply it anew:\n    difyup destroy",
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

// inUseFor is how long a deletion waits for what still refers to the resource: instances of an old template drain.
const inUseFor = 10 * time.Minute

// Delete removes the resource and waits until it is gone. What is not there is gone.
func (d *REST) Delete(ctx context.Context, r *resource.Resource) error {
	return d.DeleteAt(ctx, r, r.Link(), nil)
}

// DeleteAt is Delete with a path and query of the caller's.
func (d *REST) DeleteAt(ctx context.Context, r *resource.Resource, path string, query url.Values) error {
	began := time.Now()
	for try := 0; ; try++ {
		_, err := d.Mutate(ctx, Call{API: r.Kind.API, Method: http.MethodDelete, Path: path, Query: query, For: r.ID()})
		var e *Error
		switch {
		case Is(err, 404):
			return nil
		case errors.As(err, &e) && e.InUse() && time.Since(began) < inUseFor:
			wait := Backoff(try, 50*time.Millisecond, 10*time.Second)
			if time.Since(began) > time.Second {
				d.Notify(event.Waiting, r.ID(), e.Message)
			}
			if err := Sleep(ctx, wait); err != nil {
				return err
			}
		default:
			return err
		}
	}
}
