package driver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// services enables APIs. What is enabled stays so: others in the project may use it.
type services struct{ gcp.REST }

func (d *services) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	wanted := stringsAt(r.Body, "services")
	if len(wanted) == 0 {
		return nil, nil // known from the state only: nothing to take back
	}
	items, err := d.List(ctx, r.Kind, r.CollectionPath(), url.Values{"filter": {"state:ENABLED"}, "pageSize": {"200"}})
	if err != nil {
		return nil, err
	}
	enabled := []any{}
	for _, item := range items {
		name, _ := item["name"].(string)
		if short := name[strings.LastIndexByte(name, '/')+1:]; slices.Contains(wanted, short) {
			enabled = append(enabled, short)
		}
	}
	return map[string]any{"services": enabled}, nil
}

func (d *services) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	return d.Update(ctx, r, body, nil, nil)
}

func (d *services) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, _ []resource.Path) error {
	have := stringsAt(live, "services")
	var missing []string
	for _, s := range stringsAt(body, "services") {
		if !slices.Contains(have, s) {
			missing = append(missing, s)
		}
	}
	for batch := range slices.Chunk(missing, 20) { // Google's limit
		call := gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath() + ":batchEnable", Body: map[string]any{"serviceIds": batch}, For: r.ID()}
		if len(batch) == 1 { // a batch of one is refused
			call.Path, call.Body = r.CollectionPath()+"/"+batch[0]+":enable", map[string]any{}
		}
		if _, err := d.Mutate(ctx, call); err != nil {
			return err
		}
		for _, s := range batch {
			d.Enabled(s)
		}
	}
	return nil
}

func (d *services) Delete(context.Context, *resource.Resource) error { return nil }

// connection is the peering of private services access. The collection's resources have no names of their own; ours
// bears the network's. Google writes the network with the project's number.
type connection struct{ gcp.REST }

const peering = "servicenetworking-googleapis-com"

func (d *connection) network(ctx context.Context, r *resource.Resource) (string, error) {
	number, err := d.ProjectNumber(ctx)
	if err != nil {
		return "", err
	}
	return "projects/" + number + "/global/networks/" + r.Leaf(), nil
}

func (d *connection) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	network, err := d.network(ctx, r)
	if err != nil {
		return nil, err
	}
	items, err := d.List(ctx, r.Kind, r.CollectionPath(), url.Values{"network": {network}})
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		if name, _ := item["peering"].(string); name == peering {
			item["network"] = "projects/" + d.Project() + "/global/networks/" + r.Leaf()
			return item, nil
		}
	}
	return nil, nil
}

func (d *connection) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	network, err := d.network(ctx, r)
	if err != nil {
		return err
	}
	want := map[string]any{"network": network, "reservedPeeringRanges": body["reservedPeeringRanges"]}
	_, err = d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath(), Body: want, For: r.ID()})
	if err != nil && strings.Contains(err.Error(), "Cannot modify allocated ranges") {
		return d.Update(ctx, r, body, nil, nil) // left from an earlier network of the same name
	}
	return err
}

func (d *connection) Update(ctx context.Context, r *resource.Resource, body, _ map[string]any, _ []resource.Path) error {
	network, err := d.network(ctx, r)
	if err != nil {
		return err
	}
	_, err = d.Mutate(ctx, gcp.Call{
		API: r.Kind.API, Method: http.MethodPatch, Path: r.CollectionPath() + "/-", For: r.ID(),
		Query: url.Values{"force": {"true"}, "updateMask": {"reservedPeeringRanges"}},
		Body:  map[string]any{"network": network, "reservedPeeringRanges": body["reservedPeeringRanges"]},
	})
	return err
}

// Delete takes the connection down. Cloud SQL keeps its side for days after the last instance is gone, and Google
// refuses for as long; then the peering is removed from our side, which frees the network.
func (d *connection) Delete(ctx context.Context, r *resource.Resource) error {
	network, err := d.network(ctx, r)
	if err != nil {
		return err
	}
	_, err = d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath() + "/" + peering, Body: map[string]any{"consumerNetwork": network}, For: r.ID()})
	var e *gcp.Error
	switch {
	case err == nil, gcp.Is(err, 404):
		return nil
	case !errors.As(err, &e) || !strings.Contains(e.Message, "still using this connection"):
		return err // other failed preconditions too: the peering is cut for this reason only
	}
	d.Notify(event.Retried, r.ID(), "Google still holds producers; the peering is removed instead")
	_, err = d.Mutate(ctx, gcp.Call{
		API: kind.ComputeAPI, Method: http.MethodPost, Path: "projects/" + d.Project() + "/global/networks/" + r.Leaf() + "/removePeering",
		Body: map[string]any{"name": peering}, For: r.ID(),
	})
	if gcp.Is(err, 404) || errors.As(err, &e) && strings.Contains(e.Message, "There is no peering") {
		return nil // it was removed already, perhaps by a request of ours whose answer was lost
	}
	return err
}

// lister can list a kind, and find one thing in a list.
type lister interface {
	List(ctx context.Context, k *resource.Kind, path string, query url.Values) ([]map[string]any, error)
	gcp.Picker
}

// lacks gives nil if the project's list lacks what Google refused to show. Otherwise it gives that refusal, or why the list could not be
// had, unless it was refused as well.
func lacks(ctx context.Context, d lister, r *resource.Resource, query url.Values, refusal error) error {
	switch items, err := d.List(ctx, r.Kind, r.CollectionPath(), query); {
	case err != nil && !gcp.Is(err, http.StatusForbidden):
		return err
	case err != nil || d.Pick(r, items) != nil:
		return refusal
	}
	return nil
}

// serviceAccount differs in that its name is an email made of the account's ID and the project, and in that IAM may answer
// 403 for one that was deleted.
type serviceAccount struct{ gcp.REST }

func (d *serviceAccount) email(r *resource.Resource) string {
	return r.Leaf() + "@" + d.Project() + ".iam.gserviceaccount.com"
}

func (d *serviceAccount) path(r *resource.Resource) string {
	return r.CollectionPath() + "/" + d.email(r)
}

func (d *serviceAccount) Pick(r *resource.Resource, items []map[string]any) map[string]any {
	i := slices.IndexFunc(items, func(item map[string]any) bool { return item["email"] == d.email(r) })
	if i < 0 {
		return nil
	}
	return items[i]
}

func (d *serviceAccount) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	var live map[string]any
	err := d.Do(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodGet, Path: d.path(r), Out: &live, For: r.ID()})
	return gcp.Absent(live, d.unhide(ctx, r, err))
}

// unhide gives 404 for what IAM refused to show or to delete "(or it may not exist)" if it does not exist: the project's accounts
// can be listed, and it is not among them.
func (d *serviceAccount) unhide(ctx context.Context, r *resource.Resource, err error) error {
	var e *gcp.Error
	if !gcp.Is(err, http.StatusForbidden) || !errors.As(err, &e) || e.Reason != "IAM_PERMISSION_DENIED" {
		return err
	}
	if err := lacks(ctx, d, r, nil, err); err != nil {
		return err
	}
	return &gcp.Error{Code: http.StatusNotFound, Message: d.email(r) + " is not among the project's service accounts"}
}

func (d *serviceAccount) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	_, err := d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath(), Body: map[string]any{"accountId": r.Leaf(), "serviceAccount": body}, For: r.ID()})
	d.MadeAccount()
	if gcp.Exists(r.Kind.API, err) {
		return d.Adopt(ctx, r, body)
	}
	return err
}

func (d *serviceAccount) Update(ctx context.Context, r *resource.Resource, body, _ map[string]any, changed []resource.Path) error {
	tops := gcp.Tops(changed)
	_, err := d.Mutate(ctx, gcp.Call{
		API: r.Kind.API, Method: http.MethodPatch, Path: d.path(r), For: r.ID(),
		Body: map[string]any{"serviceAccount": gcp.Part(body, nil, tops), "updateMask": strings.Join(tops, ",")},
	})
	return err
}

func (d *serviceAccount) Delete(ctx context.Context, r *resource.Resource) error {
	d.DeletesAccount()
	_, err := gcp.Absent(nil, d.unhide(ctx, r, d.DeleteAt(ctx, r, d.path(r), nil)))
	return err
}

// policy is what one member, the stack's service account, may do with a project, a bucket or a secret. Everybody
// else's bindings, and all conditions, are kept.
type policy struct{ gcp.REST }

// get gives the whole policy.
func (d *policy) get(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	call := gcp.Call{API: r.Kind.API, Method: http.MethodGet, For: r.ID()}
	switch r.Kind.API.Name {
	case "storage":
		call.Path, call.Query = r.CollectionPath()+"/iam", url.Values{"optionsRequestedPolicyVersion": {"3"}}
	case "secretmanager":
		call.Path, call.Query = r.CollectionPath()+":getIamPolicy", url.Values{"options.requestedPolicyVersion": {"3"}}
	default:
		call.Method, call.Path = http.MethodPost, r.CollectionPath()+":getIamPolicy"
		call.Body = map[string]any{"options": map[string]any{"requestedPolicyVersion": 3}}
	}
	var live map[string]any
	call.Out = &live
	return live, d.Do(ctx, call)
}

func (d *policy) set(ctx context.Context, r *resource.Resource, p map[string]any) error {
	call := gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath() + ":setIamPolicy", Body: map[string]any{"policy": p}, For: r.ID()}
	if r.Kind.API.Name == "storage" {
		call.Method, call.Path, call.Body = http.MethodPut, r.CollectionPath()+"/iam", p
	}
	return d.Do(ctx, call)
}

func (d *policy) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	live, err := d.get(ctx, r)
	if live, err = gcp.Absent(live, err); err != nil || live == nil {
		return nil, err
	}
	member := r.Params["member"]
	ours := []any{}
	for _, b := range bindings(live) {
		if b["condition"] == nil && slices.Contains(stringsAt(b, "members"), member) {
			ours = append(ours, map[string]any{"role": b["role"], "members": []any{member}})
		}
	}
	if len(ours) == 0 {
		return nil, nil
	}
	return map[string]any{"bindings": ours}, nil
}

func (d *policy) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	var roles []string
	for _, b := range bindings(body) {
		role, _ := b["role"].(string)
		roles = append(roles, role)
	}
	return d.write(ctx, r, roles)
}

func (d *policy) Update(ctx context.Context, r *resource.Resource, body, _ map[string]any, _ []resource.Path) error {
	return d.Create(ctx, r, body)
}

func (d *policy) Delete(ctx context.Context, r *resource.Resource) error { return d.write(ctx, r, nil) }

// seenWithin is how long what was just made may be unknown to those who are asked for its policy or given something for it: a new
// bucket is not seen everywhere.
const seenWithin = 2 * time.Minute

// write makes the member have exactly these roles, reading and writing again when somebody else wrote meanwhile. What was
// not read is never written: without the etag of the policy that was read, everybody else's bindings would be lost.
func (d *policy) write(ctx context.Context, r *resource.Resource, roles []string) error {
	began := time.Now()
	for try := 0; ; try++ {
		live, err := d.get(ctx, r)
		switch {
		case len(roles) == 0:
			if live, err = gcp.Absent(live, err); err == nil && live == nil {
				return nil
			}
		case gcp.Is(err, http.StatusNotFound) && time.Since(began) < seenWithin:
			wait := gcp.Backoff(try, 100*time.Millisecond, 5*time.Second)
			d.Notify(event.Retried, r.ID(), fmt.Sprintf("the policy cannot be read yet; again in %s", wait.Round(10*time.Millisecond)))
			if err := gcp.Sleep(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read the IAM policy: %w", err)
		}
		if etag, _ := live["etag"].(string); etag == "" {
			return fmt.Errorf("the IAM policy of %s was read without an etag, and is not written blindly", r.CollectionPath())
		}
		kept, changed := rebind(bindings(live), r.Params["member"], roles)
		if !changed { // a write whose answer was lost
			return nil
		}
		live["bindings"], live["version"] = kept, 3
		err = d.set(ctx, r, live)
		if !gcp.Is(err, 409, 412) || try == 20 {
			return err
		}
		d.Notify(event.Retried, r.ID(), "the policy was changed meanwhile")
		if err := gcp.Sleep(ctx, gcp.Backoff(try, 50*time.Millisecond, 5*time.Second)); err != nil {
			return err
		}
	}
}

// rebind gives bindings in which a member has exactly these roles, and whether they differ from those given. Bindings with
// a condition stay as they are.
func rebind(have []map[string]any, member string, roles []string) (kept []any, changed bool) {
	granted := map[string]bool{}
	for _, b := range have {
		role, _ := b["role"].(string)
		if b["condition"] != nil {
			kept = append(kept, b)
			continue
		}
		members := stringsAt(b, "members")
		has, wants := slices.Contains(members, member), slices.Contains(roles, role) && !granted[role]
		granted[role] = granted[role] || wants
		if has != wants {
			changed = true
			members = slices.DeleteFunc(members, func(m string) bool { return m == member })
			if wants {
				members = append(members, member)
			}
			b["members"] = members
		}
		if len(members) > 0 {
			kept = append(kept, b)
		}
	}
	for _, role := range roles {
		if !granted[role] {
			kept, changed = append(kept, map[string]any{"role": role, "members": []string{member}}), true
		}
	}
	return kept, changed
}

func bindings(p map[string]any) []map[string]any {
	list, _ := p["bindings"].([]any)
	var out []map[string]any
	for _, b := range list {
		if m, ok := b.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// stringsAt gives a field's strings; one that is no list has none.
func stringsAt(m map[string]any, key string) []string {
	switch list := m[key].(type) {
	case []string:
		return slices.Clone(list)
	case []any:
		out := make([]string, 0, len(list))
		for _, v := range list {
			out = append(out, fmt.Sprint(v))
		}
		return out
	}
	return nil
}
