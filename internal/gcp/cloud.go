package gcp

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// parallel bounds the requests of one reading round; HTTP/2 carries them on one connection.
const parallel = 48

// Driver gives the driver of a kind.
func (c *Client) Driver(k *resource.Kind) Driver {
	d, ok := c.drivers[k.Driver]
	if !ok {
		panic(fmt.Sprintf("gcp: no driver %q for %s. This is a bug in difyup.", k.Driver, k.Name))
	}
	return d
}

// Read gives the live body of one resource, nil when absent.
func (c *Client) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	body, err := c.Driver(r.Kind).Read(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.ID(), err)
	}
	return body, nil
}

// ReadAll gives the live bodies of those that exist, in one parallel round: several resources of one collection are
// read with one list, the others one by one. What lies in a Cloud SQL instance that does not run cannot be seen, and is given as it is wanted:
// it is there for all that is known, and nothing can be done to it.
func (c *Client) ReadAll(ctx context.Context, rs []*resource.Resource) (map[resource.ID]map[string]any, error) {
	groups := map[string][]*resource.Resource{}
	for _, r := range rs {
		key := r.Kind.Name + " " + r.CollectionPath()
		groups[key] = append(groups[key], r)
	}
	var (
		mu   sync.Mutex
		live = make(map[resource.ID]map[string]any, len(rs))
	)
	put := func(r *resource.Resource, body map[string]any) {
		if body != nil {
			mu.Lock()
			defer mu.Unlock()
			live[r.ID()] = body
		}
	}
	unseen := func(err error, group ...*resource.Resource) error {
		if !errors.Is(err, errStopped) {
			return err
		}
		for _, r := range group {
			body := map[string]any{}
			maps.Copy(body, r.Body)
			put(r, body)
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		group := groups[key]
		kind := group[0].Kind
		picker, canPick := c.Driver(kind).(Picker)
		if len(group) < 2 || kind.List == "" || kind.Mark.Number != "" || !canPick { // a project's list shows not who else has a global name
			for _, r := range group {
				g.Go(func() error {
					body, err := c.Read(ctx, r)
					put(r, body)
					return unseen(err, r)
				})
			}
			continue
		}
		g.Go(func() error {
			items, err := c.List(ctx, kind, group[0].CollectionPath(), nil)
			if errors.Is(err, errHoles) { // what is out of reach need not be what is asked for
				for _, r := range group {
					body, err := c.Read(ctx, r)
					if put(r, body); err != nil {
						return err
					}
				}
				return nil
			}
			if err != nil {
				return unseen(fmt.Errorf("list %s: %w", kind.Name, err), group...)
			}
			for _, r := range group {
				put(r, picker.Pick(r, items))
			}
			return nil
		})
	}
	return live, g.Wait()
}

// Stepwise is a Driver that makes a resource in several calls, between which it may be interrupted.
type Stepwise interface {
	Whole(live map[string]any) bool // the last of the calls was made
}

// Whole says whether a live resource was made to its end. What was not, apply makes again; everybody else sees it.
func (c *Client) Whole(r *resource.Resource, live map[string]any) bool {
	d, ok := c.Driver(r.Kind).(Stepwise)
	return !ok || d.Whole(live)
}

// errHoles says that a list lacks what Google could not reach.
var errHoles = errors.New("the list is not whole")

// List gives every item of a collection, all pages; none when its parent is absent. A list of which Google says that something may be
// missing in it is an error.
func (c *Client) List(ctx context.Context, k *resource.Kind, path string, query url.Values) ([]map[string]any, error) {
	if query == nil {
		query = url.Values{}
	}
	var items []map[string]any
	for {
		var page map[string]any
		call := Call{API: k.API, Method: http.MethodGet, Path: path, Query: query, Out: &page}
		err := c.Do(ctx, call)
		if page, err = Absent(page, c.unhide(ctx, call, err)); err != nil {
			return nil, err
		}
		if where := outOfReach(page); where != "" {
			return nil, &fault.Fault{
				Summary: "Google cannot list everything",
				Detail:  fmt.Sprintf("In the list of %s that %s.googleapis.com gives, something is missing: %s is out of reach.", path, k.API.Name, where),
				Remedy:  "Wait until Google can reach it again, then run the command again.",
				Cause:   errHoles,
			}
		}
		list, _ := page[k.List].([]any)
		for _, item := range list {
			if m, ok := item.(map[string]any); ok {
				items = append(items, m)
			}
		}
		next, _ := page["nextPageToken"].(string)
		if next == "" {
			return items, nil
		}
		query.Set("pageToken", next)
	}
}

// outOfReach gives what a page of a list says that Google could not reach, in the words of Cloud SQL, of Compute Engine or of others; ""
// for nothing.
func outOfReach(page map[string]any) string {
	said := func(warning any) string {
		w, _ := warning.(map[string]any)
		if code, _ := w["code"].(string); code != "REGION_UNREACHABLE" && code != "UNREACHABLE" {
			return ""
		}
		for _, field := range []string{"region", "message", "code"} {
			if text, _ := w[field].(string); text != "" {
				return harmless(text, 300)
			}
		}
		return ""
	}
	warnings, _ := page["warnings"].([]any)
	for _, w := range append(warnings, page["warning"]) {
		if where := said(w); where != "" {
			return where
		}
	}
	if places, _ := page["unreachable"].([]any); len(places) > 0 {
		return harmless(fmt.Sprint(places[0]), 300)
	}
	return ""
}

// Create makes the resource, or adopts it.
func (c *Client) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	return c.Driver(r.Kind).Create(ctx, r, body)
}

// Update changes the resource in place.
func (c *Client) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	return c.Driver(r.Kind).Update(ctx, r, body, live, changed)
}

// Delete removes the resource.
func (c *Client) Delete(ctx context.Context, r *resource.Resource) error {
	return c.Driver(r.Kind).Delete(ctx, r)
}

// awaitFor is how long a resource may take to become ready: longer than Cloud SQL's slowest creations, and than rolling
// through a large group.
const awaitFor = time.Hour

// Await waits until the resource shows what Kind.Ready asks for, and gives its body.
func (c *Client) Await(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	tell := c.teller(r.ID())
	for began := time.Now(); ; {
		live, err := c.Read(ctx, r)
		if err != nil {
			return nil, err
		}
		if live == nil {
			return nil, disappeared(r)
		}
		waitFor := ""
		for _, p := range slices.Sorted(maps.Keys(r.Kind.Ready)) {
			v, _ := resource.Lookup(live, p)
			if fmt.Sprint(v) == r.Kind.Ready[p] {
				continue
			}
			switch v {
			case "FAILED":
				return nil, c.failed(r)
			case "SUSPENDED":
				return nil, &fault.Fault{
					Summary: "A resource is suspended",
					Detail:  fmt.Sprintf("%s is in the state SUSPENDED: Google has stopped it, mostly because of the project's billing.", r.ID()),
					Remedy:  "See the project's billing and the page of the resource in the Google Cloud console. When it runs again, apply again.",
				}
			}
			waitFor = fmt.Sprintf("%s is %v, waiting for %s", p, v, r.Kind.Ready[p])
			break
		}
		if waitFor == "" {
			return live, nil
		}
		if time.Since(began) > awaitFor {
			return nil, &fault.Fault{
				Summary: "A resource does not become ready",
				Detail:  fmt.Sprintf("%s has been waited for, for %s: %s.", r.ID(), awaitFor, waitFor),
				Remedy:  "Check its state, then apply again to continue waiting:\n    difyup status",
			}
		}
		tell(waitFor)
		if err := Sleep(ctx, untilNextLook(time.Since(began))); err != nil {
			return nil, err
		}
	}
}

// failed says that a resource is FAILED, which Google calls what it could not create, and what an error of its own broke later. A
// state does not say which it was, and the backups of a database go with it. Where it is not Google that is called there is
// neither a console nor gcloud.
func (c *Client) failed(r *resource.Resource) *fault.Fault {
	f := &fault.Fault{
		Summary: "A resource does not run",
		Detail:  fmt.Sprintf("%s is in the state FAILED: it could not be created, or something broke it later. Cloud Logging has the reason.", r.ID()),
	}
	by := "in the Google Cloud console"
	if command := r.DeleteByHand(); command != "" {
		by = "by hand"
	}
	switch {
	case !c.Google():
		f.Detail = fmt.Sprintf("%s is in the state FAILED.", r.ID())
		f.Remedy = "Delete the stack and create it again:\n    difyup destroy"
		return f
	case r.Kind.HoldsData():
		f.Remedy = "If it has run before, do not delete it: its data and its backups would go with it. See its page in the Google Cloud console, and ask Google's support. " +
			"If it has never run, delete it " + by + ", then apply again."
	default:
		f.Remedy = "Delete it " + by + ", then apply again."
	}
	if command := r.DeleteByHand(); command != "" {
		f.Remedy += "\n    " + command
	}
	return f
}

// Output gives a value that a resource's body never shows. The value is a secret.
func (c *Client) Output(ctx context.Context, r *resource.Resource, p resource.Path) (string, error) {
	switch {
	case r.Kind.Name == "secretmanager.secrets" && p == "payload":
		which := "latest"
		if n, ok := r.Body["version"].(float64); ok {
			which = strconv.Itoa(int(n))
		}
		_, payload, err := c.SecretVersion(ctx, r, which)
		return payload, err
	case r.Kind.Name == "redis.instances" && p == "authString":
		var auth struct{ AuthString string }
		err := c.Do(ctx, Call{API: r.Kind.API, Method: http.MethodGet, Path: r.Link() + "/authString", Out: &auth, For: r.ID()})
		return auth.AuthString, err
	}
	return "", fmt.Errorf("%s has no output %s. This is a bug in difyup", r.ID(), p)
}

// SecretVersion gives a version of a secret, "3" or "latest": its number and its payload, which must not be shown.
func (c *Client) SecretVersion(ctx context.Context, r *resource.Resource, which string) (number int, payload string, err error) {
	var version struct {
		Name    string
		Payload struct{ Data string }
	}
	if err := c.Do(ctx, Call{API: r.Kind.API, Method: http.MethodGet, Path: r.Link() + "/versions/" + which + ":access", Out: &version, For: r.ID()}); err != nil {
		return 0, "", err
	}
	raw, err := base64.StdEncoding.DecodeString(version.Payload.Data)
	if err != nil {
		return 0, "", fmt.Errorf("decode the payload of %s: %w", r.ID(), err)
	}
	number, err = numberIn(version.Name)
	return number, string(raw), err
}

// SecretState gives a version's number and state, "ENABLED"; 0 and "" when it is not there.
func (c *Client) SecretState(ctx context.Context, r *resource.Resource, which string) (number int, state string, err error) {
	var version map[string]any
	err = c.Do(ctx, Call{API: r.Kind.API, Method: http.MethodGet, Path: r.Link() + "/versions/" + which, Out: &version, For: r.ID()})
	if version, err = Absent(version, err); err != nil || version == nil {
		return 0, "", err
	}
	name, _ := version["name"].(string)
	state, _ = version["state"].(string)
	number, err = numberIn(name)
	return number, state, err
}

// numberIn reads the number of a version from its name, "projects/1/secrets/s/versions/3".
func numberIn(name string) (int, error) {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '/')+1:])
	if err != nil {
		return 0, fmt.Errorf("the name of a secret's version, %q, has no number", name)
	}
	return n, nil
}
