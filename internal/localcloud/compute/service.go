package compute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Observer is told what changes. Keys are relative self links.
type Observer interface {
	// Changed is called after a resource was created, changed or deleted.
	Changed(collection, key string)
	// Deleting is called before a resource is gone, and returns when what stands behind it is gone.
	Deleting(ctx context.Context, collection, key string) error
}

// Fleet answers for the instances of groups.
type Fleet interface {
	Managed(groupKey string) []map[string]any // managedInstances of listManagedInstances
	Errors(groupKey string) []map[string]any  // items of listErrors: what went wrong with instances, gone ones too, the newest first
	Health(groupKey string) []map[string]any  // healthStatus of getHealth
	Status(groupKey string) map[string]any    // status, currentActions and targetSize of a group
	Recreate(ctx context.Context, groupKey string, names []string) error
	Serial(instanceKey string) string
	GuestAttributes(instanceKey string) map[string]map[string]string // by namespace and key
}

// Addresses gives the loopback addresses that stand for Google's external ones.
type Addresses interface {
	Allocate(kind string) (string, error) // kind "lb"
	Release(address string)
}

// Options are the service's dependencies.
type Options struct {
	Addresses Addresses
	Log       *slog.Logger
}

// Service is Compute Engine.
type Service struct {
	server    *front.Server
	store     *store.Store
	addresses Addresses
	log       *slog.Logger
	observer  Observer
	fleet     Fleet
	table     []collection

	mu      sync.Mutex
	pending map[string]string   // key → "creating" or "deleting"
	keys    map[string][]string // certificate key → certificate and private key, PEM
}

// Register serves Compute Engine on the server.
func Register(s *front.Server, st *store.Store, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	svc := &Service{server: s, store: st, addresses: o.Addresses, log: o.Log, table: collections(), pending: map[string]string{}, keys: map[string][]string{}}
	for i := range svc.table {
		c := &svc.table[i]
		id := "compute." + c.method + "."
		s.Handle(id+"insert", svc.insert(c))
		s.Handle(id+"get", svc.get(c))
		s.Handle(id+"list", svc.list(c))
		s.Handle(id+"delete", svc.delete(c))
		if c.patch {
			s.Handle(id+"patch", svc.patch(c, false))
		}
		if c.put {
			s.Handle(id+"update", svc.patch(c, true))
		}
		if c.aggregated != "" {
			s.Handle("compute."+c.aggregated+".aggregatedList", svc.aggregatedList(c))
		}
	}
	svc.verbs()
	svc.groups()
	svc.places()
	return svc
}

// Observe sets who is told of changes. It must be set before the server answers.
func (s *Service) Observe(o Observer) { s.observer = o }

// SetFleet sets who answers for instances. It must be set before the server answers.
func (s *Service) SetFleet(f Fleet) { s.fleet = f }

// Get gives the body at a key of any collection: with List, what the data plane reads.
func (s *Service) Get(key string) (map[string]any, bool) {
	return s.store.Collection(kindOf(key)).Get(key)
}

// List gives the bodies of a collection, of all projects, ordered by key.
func (s *Service) List(collection string) []map[string]any {
	return s.store.Collection(collection).List("")
}

// KeyPair gives a self-managed certificate's chain and private key, PEM. The key never leaves this process.
func (s *Service) KeyPair(certificate string) (chain, key string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pair, ok := s.keys[certificate]
	if !ok {
		return "", "", false
	}
	return pair[0], pair[1], true
}

// kindOf gives the collection a key is in: its last part but one. A group's instance group stands for its manager.
func kindOf(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) < 2 {
		return ""
	}
	return parts[len(parts)-2]
}

const base = "https://www.googleapis.com/compute/v1/"

func link(key string) string { return base + key }

// relative gives the key of a link in any of its forms: full, from "projects/", or from "global/", "regions/" or
// "zones/", which is then in the request's project.
func relative(project, s string) string {
	if i := strings.Index(s, "projects/"); i >= 0 {
		return s[i:]
	}
	for _, scope := range []string{"global/", "regions/", "zones/"} {
		if strings.HasPrefix(s, scope) {
			return "projects/" + project + "/" + s
		}
	}
	return s
}

// key gives the resource's key from the path's parameters.
func (c *collection) key(r *front.Request) string {
	name := r.Path[c.param]
	if name == "" {
		name = r.Query.Get(c.param) // autoscalers are patched at their collection
	}
	return c.parent(r) + name
}

// parent gives the beginning of the keys of a collection, with a slash at its end.
func (c *collection) parent(r *front.Request) string {
	p := "projects/" + r.Path["project"] + "/"
	if region := r.Path["region"]; region != "" {
		return p + "regions/" + region + "/" + c.name + "/"
	}
	return p + "global/" + c.name + "/"
}

var nameShape = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (s *Service) insert(c *collection) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		if op, ok := s.server.Ops().Replayed(r); ok {
			return op, nil
		}
		body := r.Body
		name, _ := body["name"].(string)
		if !nameShape.MatchString(name) {
			return nil, front.Invalid("Invalid value for field 'resource.name': '%s'. Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'", name)
		}
		key := c.parent(r) + name
		coll := s.store.Collection(c.name)
		if _, taken := coll.Get(key); taken {
			return nil, front.AlreadyExists("The resource '%s' already exists", key)
		}
		if err := s.checkRefs(c, r.Path["project"], body); err != nil {
			return nil, err
		}
		stamp(c, r, key, body, s.server.Ops().ID())
		if c.fill != nil {
			if err := c.fill(s, r, key, body, nil); err != nil {
				return nil, err
			}
		}
		if c.fingerprint {
			body["fingerprint"] = store.Fingerprint(body, time.Now().UnixNano())
		}
		if !s.begin(key, "creating") {
			return nil, notReady(key)
		}
		if !coll.Create(key, body) {
			s.end(key)
			return nil, front.AlreadyExists("The resource '%s' already exists", key)
		}
		return s.server.Ops().Compute(r, "insert", key, body["id"].(string), c.create, func(context.Context) error {
			if c.created != nil {
				c.created(s, key)
			}
			s.changed(c.name, key)
			return nil
		}, func(error) {
			// The resource becomes usable when the operation ends; what refers to it before is told to wait.
			s.end(key)
		}), nil
	}
}

// stamp writes what the server gives every resource.
func stamp(c *collection, r *front.Request, key string, body map[string]any, id string) {
	body["kind"] = c.kind
	body["id"] = id
	body["creationTimestamp"] = front.Now()
	body["selfLink"] = link(key)
	if region := r.Path["region"]; region != "" {
		body["region"] = link("projects/" + r.Path["project"] + "/regions/" + region)
	}
}

func notReady(key string) error {
	return &front.Error{Code: 400, Reason: "resourceNotReady", Message: fmt.Sprintf("The resource '%s' is not ready", key)}
}

func (s *Service) begin(key, what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[key] != "" {
		return false
	}
	s.pending[key] = what
	return true
}

func (s *Service) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, key)
}

func (s *Service) state(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[key]
}

func (s *Service) changed(collection, key string) {
	if s.observer != nil {
		s.observer.Changed(collection, key)
	}
}

// checkRefs writes the body's references as full links and refuses those to what does not exist or is not ready.
func (s *Service) checkRefs(c *collection, project string, body map[string]any) error {
	for _, ref := range c.refs {
		err := eachRef(body, ref.path, func(path, value string, set func(string)) error {
			if value == "" {
				return nil
			}
			key := relative(project, value)
			if !slices.Contains(ref.to, kindOf(key)) || ref.full && !strings.HasPrefix(value, "https://") {
				return front.Invalid("Invalid value for field 'resource.%s': '%s'. The URL is malformed.", path, value)
			}
			target := referred(key)
			if _, ok := s.store.Collection(kindOf(target)).Get(target); !ok {
				return &front.Error{Code: 404, Reason: "notFound", Message: fmt.Sprintf("The resource '%s' was not found", key)}
			}
			if s.state(target) != "" {
				return notReady(key)
			}
			set(link(key))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// referred gives the key of the resource that a reference means: an instance group is its manager's.
func referred(key string) string {
	if kindOf(key) == "instanceGroups" {
		return strings.Replace(key, "/instanceGroups/", "/instanceGroupManagers/", 1)
	}
	return key
}

// eachRef visits the strings at a path, "backends[].group", with a function that replaces them.
func eachRef(body map[string]any, path string, visit func(path, value string, set func(string)) error) error {
	part, rest, more := strings.Cut(path, ".")
	name, isList := strings.CutSuffix(part, "[]")
	v := body[name]
	if !isList {
		if !more {
			text, _ := v.(string)
			return visit(path, text, func(n string) { body[name] = n })
		}
		sub, _ := v.(map[string]any)
		if sub == nil {
			return nil
		}
		return eachRef(sub, rest, visit)
	}
	list, _ := v.([]any)
	for i, e := range list {
		at := name + "[" + strconv.Itoa(i) + "]"
		var err error
		if sub, ok := e.(map[string]any); ok && more {
			err = eachRef(sub, rest, func(p, value string, set func(string)) error { return visit(at+"."+p, value, set) })
		} else if text, ok := e.(string); ok && !more {
			err = visit(at, text, func(n string) { list[i] = n })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// users gives what refers to a key, sorted.
func (s *Service) users(key string) []string {
	var found []string
	for i := range s.table {
		c := &s.table[i]
		for _, user := range s.store.Collection(c.name).Keys("") {
			body, ok := s.store.Collection(c.name).Get(user)
			if !ok {
				continue
			}
			for _, ref := range c.refs {
				_ = eachRef(body, ref.path, func(_, value string, _ func(string)) error {
					if value != "" && referred(relative("", value)) == key {
						found = append(found, user)
					}
					return nil
				})
			}
		}
	}
	if address, ok := s.Get(key); ok && kindOf(key) == "addresses" {
		for _, rule := range s.rulesAt(address) {
			found = append(found, relative("", fmt.Sprint(rule["selfLink"])))
		}
	}
	if kindOf(key) == "instanceTemplates" && s.fleet != nil {
		for _, group := range s.store.Collection("instanceGroupManagers").Keys("") {
			for _, m := range s.fleet.Managed(group) {
				if version, _ := m["version"].(map[string]any); version != nil && relative("", fmt.Sprint(version["instanceTemplate"])) == key {
					found = append(found, group)
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (s *Service) get(c *collection) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		key := c.key(r)
		body, ok := s.store.Collection(c.name).Get(key)
		if !ok {
			return nil, front.ResourceNotFound(key)
		}
		return s.shown(c, key, body), nil
	}
}

// shown adds what is known only now.
func (s *Service) shown(c *collection, key string, body map[string]any) map[string]any {
	if c.show != nil {
		c.show(s, key, body)
	}
	return body
}

func (s *Service) list(c *collection) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		parent := c.parent(r)
		var items []map[string]any
		for _, key := range s.store.Collection(c.name).Keys(parent) {
			if body, ok := s.store.Collection(c.name).Get(key); ok {
				items = append(items, s.shown(c, key, body))
			}
		}
		return page(r, c.kind+"List", strings.TrimSuffix(parent, "/"), items)
	}
}

// page filters, orders and cuts a list as its query says.
func page(r *front.Request, kind, id string, items []map[string]any) (any, error) {
	match, err := parseFilter(r.Query.Get("filter"))
	if err != nil {
		return nil, err
	}
	items = slices.DeleteFunc(items, func(b map[string]any) bool { return !match(b) })
	switch order := r.Query.Get("orderBy"); order {
	case "", "name":
	case "creationTimestamp desc":
		slices.SortStableFunc(items, func(a, b map[string]any) int {
			return strings.Compare(fmt.Sprint(b["creationTimestamp"]), fmt.Sprint(a["creationTimestamp"]))
		})
	default:
		return nil, front.Invalid("Invalid value for field 'orderBy': '%s'. Only 'name' and 'creationTimestamp desc' are supported.", order)
	}
	answer := map[string]any{"kind": kind, "id": id, "selfLink": link(id)}
	most, from := 500, 0
	if v := r.Query.Get("maxResults"); v != "" {
		if most, err = strconv.Atoi(v); err != nil || most < 0 || most > 500 {
			return nil, front.Invalid("Invalid value for field 'maxResults': '%s'. Must be less than or equal to 500", v)
		}
		most = max(most, 1)
	}
	if v := r.Query.Get("pageToken"); v != "" {
		if from, err = strconv.Atoi(v); err != nil || from < 0 || from > len(items) {
			return nil, front.Invalid("Invalid value for field 'pageToken': '%s'.", v)
		}
	}
	end := min(from+most, len(items))
	if end < len(items) {
		answer["nextPageToken"] = strconv.Itoa(end)
	}
	if from < end {
		answer["items"] = items[from:end]
	}
	return answer, nil
}

func (s *Service) aggregatedList(c *collection) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		match, err := parseFilter(r.Query.Get("filter"))
		if err != nil {
			return nil, err
		}
		scopes := map[string]any{}
		project := "projects/" + r.Path["project"] + "/"
		for _, key := range s.store.Collection(c.name).Keys(project) {
			body, ok := s.store.Collection(c.name).Get(key)
			if !ok || !match(body) {
				continue
			}
			scope := strings.TrimSuffix(strings.TrimPrefix(key[:strings.Index(key, "/"+c.name+"/")+1], project), "/")
			group, _ := scopes[scope].(map[string]any)
			if group == nil {
				group = map[string]any{c.name: []any{}}
				scopes[scope] = group
			}
			group[c.name] = append(group[c.name].([]any), s.shown(c, key, body))
		}
		if _, ok := scopes["global"]; !ok {
			scopes["global"] = map[string]any{"warning": map[string]any{
				"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for scope 'global' on this page.",
				"data": []any{map[string]any{"key": "scope", "value": "global"}},
			}}
		}
		id := project + "aggregated/" + c.name
		return map[string]any{"kind": c.kind + "AggregatedList", "id": id, "selfLink": link(id), "items": scopes}, nil
	}
}

// patch merges the request's body into the resource; with replace, as PUT does, what the client does not send falls
// back to its default.
func (s *Service) patch(c *collection, replace bool) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		if op, ok := s.server.Ops().Replayed(r); ok {
			return op, nil
		}
		key := c.key(r)
		if r.Path[c.param] == "" && r.Query.Get(c.param) == "" {
			name, _ := r.Body["name"].(string)
			key = c.parent(r) + name
		}
		opType := "patch"
		switch {
		case replace:
			opType = "update"
		case c.name == "networks":
			opType = "updateNetwork"
		}
		return s.change(c, r, key, opType, c.update, func(old map[string]any) (map[string]any, error) {
			if c.requireFingerprint {
				if err := checkFingerprint(r.Body["fingerprint"], old["fingerprint"]); err != nil {
					return nil, err
				}
			} else if sent, ok := r.Body["fingerprint"].(string); ok && c.fingerprint {
				if err := checkFingerprint(sent, old["fingerprint"]); err != nil {
					return nil, err
				}
			}
			next := store.Clone(old)
			if replace {
				next = store.Clone(r.Body)
				for _, k := range []string{"kind", "id", "creationTimestamp", "selfLink", "region", "name", "fingerprint", "description"} {
					if _, sent := next[k]; !sent || k != "description" {
						if v, ok := old[k]; ok {
							next[k] = v
						}
					}
				}
			} else {
				merge(next, r.Body)
			}
			return next, s.checkFixed(c, r.Path["project"], old, next)
		})
	}
}

// change replaces a resource's body by what next makes of it, and starts the operation.
func (s *Service) change(c *collection, r *front.Request, key, opType string, latency time.Duration, next func(old map[string]any) (map[string]any, error)) (any, error) {
	coll := s.store.Collection(c.name)
	old, ok := coll.Get(key)
	if !ok {
		return nil, front.ResourceNotFound(key)
	}
	if s.state(key) != "" {
		return nil, notReady(key)
	}
	body, err := next(old)
	if err != nil {
		return nil, err
	}
	if err := s.checkRefs(c, r.Path["project"], body); err != nil {
		return nil, err
	}
	if c.fill != nil {
		if err := c.fill(s, r, key, body, old); err != nil {
			return nil, err
		}
	}
	if c.fingerprint {
		body["fingerprint"] = store.Fingerprint(body, time.Now().UnixNano())
	}
	// The fingerprint was compared with a copy; of two writers at once, the second must be told.
	err = coll.Update(key, func(now map[string]any) error {
		if now["fingerprint"] != old["fingerprint"] {
			return stale()
		}
		clear(now)
		maps.Copy(now, body)
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, front.ResourceNotFound(key)
	}
	if err != nil {
		return nil, err
	}
	return s.server.Ops().Compute(r, opType, key, fmt.Sprint(old["id"]), latency, func(context.Context) error {
		s.changed(c.name, key)
		return nil
	}, nil), nil
}

func stale() error {
	return front.Precondition("Invalid fingerprint.")
}

func checkFingerprint(sent, have any) error {
	text, _ := sent.(string)
	if text == "" {
		return front.Invalid("Required field 'resource.fingerprint' not specified")
	}
	if text != have {
		return stale()
	}
	return nil
}

// merge applies a JSON merge patch: objects merge, null clears, everything else replaces.
func merge(into, patch map[string]any) {
	for k, v := range patch {
		if v == nil {
			delete(into, k)
			continue
		}
		sub, isMap := v.(map[string]any)
		have, hasMap := into[k].(map[string]any)
		if isMap && hasMap {
			merge(have, sub)
			continue
		}
		into[k] = v
	}
}

// checkFixed refuses to change what is fixed when a resource is made.
func (s *Service) checkFixed(c *collection, project string, old, next map[string]any) error {
	for _, field := range append([]string{"name"}, c.fixed...) {
		a, b := old[field], next[field]
		if text, ok := b.(string); ok && strings.HasPrefix(relative(project, text), "projects/") {
			b = link(relative(project, text))
		}
		if fmt.Sprint(a) != fmt.Sprint(b) {
			return front.Invalid("Invalid value for field 'resource.%s': '%v'. The value cannot be changed.", field, next[field])
		}
	}
	return nil
}

func (s *Service) delete(c *collection) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		if op, ok := s.server.Ops().Replayed(r); ok {
			return op, nil
		}
		key := c.key(r)
		body, ok := s.store.Collection(c.name).Get(key)
		if !ok {
			return nil, front.ResourceNotFound(key)
		}
		inUse := func() error {
			if users := s.users(key); len(users) > 0 {
				return front.InUse(c.noun, key, users[0])
			}
			return nil
		}
		// A network says so in the operation, everything else at once.
		if c.name != "networks" {
			if err := inUse(); err != nil {
				return nil, err
			}
		}
		if !s.begin(key, "deleting") {
			return nil, notReady(key)
		}
		return s.server.Ops().Compute(r, "delete", key, fmt.Sprint(body["id"]), c.remove, func(ctx context.Context) error {
			if err := inUse(); err != nil {
				return err
			}
			if peerings, _ := body["peerings"].([]any); c.name == "networks" && len(peerings) > 0 {
				return front.InUse(c.noun, key, "projects/servicenetworking/global/networks/servicenetworking")
			}
			if s.observer != nil {
				return s.observer.Deleting(ctx, c.name, key)
			}
			return nil
		}, func(err error) {
			defer s.end(key)
			if err != nil {
				return
			}
			if c.gone != nil {
				c.gone(s, key, body)
			}
			s.store.Collection(c.name).Delete(key)
			s.changed(c.name, key)
		}), nil
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
