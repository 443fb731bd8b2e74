package iam

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// noPolicy is the etag Google shows where no policy was ever set.
const noPolicy = "ACAB"

// Policies keeps the IAM policy of every resource that has one, by the resource's name: "projects/p", "buckets/b",
// "projects/p/secrets/s", where p is a project's ID or number. It is safe for concurrent use.
type Policies struct {
	server   *front.Server
	policies *store.Collection
	accounts *store.Collection
	roles    map[string][]string

	mu  sync.Mutex // held over read-modify-write
	rev int64
}

// NewPolicies gives the policies kept in st.
func NewPolicies(s *front.Server, st *store.Store) *Policies {
	return &Policies{server: s, policies: st.Collection("iamPolicies"), accounts: st.Collection("serviceAccounts"), roles: catalog()}
}

// key writes projects by number, since clients use either name.
func (p *Policies) key(resource string) string {
	rest, ok := strings.CutPrefix(resource, "projects/")
	if !ok {
		return resource
	}
	project, rest, deeper := strings.Cut(rest, "/")
	if deeper {
		rest = "/" + rest
	}
	return "projects/" + p.server.ProjectNumber(project) + rest
}

// Get gives a resource's policy as a client that understands version sees it: below version 3, conditions are hidden
// behind altered role names.
func (p *Policies) Get(resource string, version int64) map[string]any {
	policy, ok := p.policies.Get(p.key(resource))
	if !ok {
		return map[string]any{"etag": noPolicy}
	}
	if version >= 3 {
		return policy
	}
	for _, b := range body.Maps(policy, "bindings") {
		if c := body.Map(b, "condition"); c != nil {
			raw, _ := json.Marshal(c) // decoded JSON always encodes
			sum := sha256.Sum256(raw)
			b["role"] = body.String(b, "role") + "_withcond_" + hex.EncodeToString(sum[:10])
			delete(b, "condition")
		}
	}
	policy["version"] = 1
	return policy
}

// Init sets a resource's first policy, which Google makes together with the resource.
func (p *Policies) Init(resource string, bindings []any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(p.key(resource), map[string]any{"bindings": bindings, "version": 1})
}

// Has says whether a resource has a policy.
func (p *Policies) Has(resource string) bool {
	_, ok := p.policies.Get(p.key(resource))
	return ok
}

// Set replaces a resource's policy. A policy with another etag than the present one is refused with 409: somebody else
// wrote meanwhile. Mask names what to replace, "" stands for the bindings. It returns the new policy, or an
// *front.Error.
func (p *Policies) Set(resource string, policy map[string]any, mask string) (map[string]any, error) {
	key := p.key(resource)
	bindings, conditional, err := p.normalise(body.Maps(policy, "bindings"))
	if err != nil {
		return nil, err
	}
	version, _ := body.Int(policy, "version")
	if version != 0 && version != 1 && version != 3 {
		return nil, front.Invalid("Policy version %d is not supported; use 1 or 3.", version)
	}
	if conditional && version != 3 {
		return nil, front.Invalid("A policy with conditional role bindings needs version 3.")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old, exists := p.policies.Get(key)
	if !exists {
		old = map[string]any{"etag": noPolicy}
	}
	if etag := body.String(policy, "etag"); etag != "" && etag != body.String(old, "etag") {
		return nil, front.Conflict("There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff. The request's ETag '%s' did not match the current policy's ETag '%s'.", etag, body.String(old, "etag"))
	}
	next := map[string]any{"version": 1, "bindings": bindings}
	if conditional {
		next["version"] = 3
	}
	fields := body.Mask(mask)
	if len(fields) > 0 && !slices.Contains(fields, "bindings") {
		body.Copy(next, old, "bindings")
	}
	body.Copy(next, old, "auditConfigs")
	if slices.Contains(fields, "auditConfigs") {
		body.Copy(next, policy, "auditConfigs")
	}
	if len(body.List(next, "bindings")) == 0 {
		delete(next, "bindings")
	}
	p.put(key, next)
	stored, _ := p.policies.Get(key)
	return stored, nil
}

func (p *Policies) put(key string, policy map[string]any) {
	p.rev++
	delete(policy, "etag")
	policy["etag"] = store.Fingerprint(policy, p.rev)
	p.policies.Put(key, policy)
}

// Delete forgets the policies of a resource and of everything below it.
func (p *Policies) Delete(resource string) {
	key := p.key(resource)
	p.policies.Delete(key)
	for _, below := range p.policies.Keys(key + "/") {
		p.policies.Delete(below)
	}
}

// Allowed says whether the caller has the permission on one of the resources, which are a resource and those it lies
// in. The owner may do everything.
func (p *Policies) Allowed(caller, permission string, resources ...string) bool {
	return len(p.Granted(caller, []string{permission}, resources...)) > 0
}

// Granted gives those of the permissions that the caller has on one of the resources. Bindings with a condition grant
// nothing: the local cloud does not evaluate them.
func (p *Policies) Granted(caller string, permissions []string, resources ...string) []string {
	if caller == front.Owner {
		return permissions
	}
	var patterns []string
	for _, resource := range resources {
		policy, _ := p.policies.Get(p.key(resource))
		for _, b := range body.Maps(policy, "bindings") {
			if !body.Has(b, "condition") && p.includes(body.Strings(b, "members"), caller) {
				patterns = append(patterns, p.roles[body.String(b, "role")]...)
			}
		}
	}
	var granted []string
	for _, permission := range permissions {
		if slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, permission) }) {
			granted = append(granted, permission)
		}
	}
	return granted
}

func (p *Policies) includes(members []string, caller string) bool {
	for _, m := range members {
		switch kind, name, _ := strings.Cut(m, ":"); kind {
		case "allUsers", "allAuthenticatedUsers":
			return true
		case "serviceAccount":
			if name == caller {
				return true
			}
		case "projectOwner", "projectEditor", "projectViewer":
			policy, _ := p.policies.Get(p.key("projects/" + name))
			role := "roles/" + strings.ToLower(strings.TrimPrefix(kind, "project"))
			for _, b := range body.Maps(policy, "bindings") {
				if body.String(b, "role") == role && !body.Has(b, "condition") && slices.Contains(body.Strings(b, "members"), "serviceAccount:"+caller) {
					return true
				}
			}
		}
	}
	return false
}

// CheckPermissions refuses what testIamPermissions does not take.
func CheckPermissions(permissions []string) error {
	if len(permissions) > 100 {
		return front.Invalid("Too many permissions: at most 100 can be tested at once.")
	}
	for _, perm := range permissions {
		if strings.Contains(perm, "*") || strings.Count(perm, ".") < 2 {
			return front.Invalid("Permission %s is not valid for this resource.", perm)
		}
	}
	return nil
}

var (
	roleShape   = regexp.MustCompile(`^roles/([a-zA-Z]+)(\.[a-zA-Z0-9]+)?$`)
	customRole  = regexp.MustCompile(`^(projects|organizations)/[^/]+/roles/[a-zA-Z0-9_.]{3,64}$`)
	emailShape  = regexp.MustCompile(`^[^@\s]+@[^@\s]+\.[^@\s]+$`)
	accountMail = regexp.MustCompile(`^([^@]+)@([a-z][a-z0-9-]*)\.iam\.gserviceaccount\.com$`)
	agentName   = regexp.MustCompile(`^(service-|p|bqcx-)?[0-9]{6,}(-[a-z0-9]+)*$`)
)

func (p *Policies) normalise(bindings []map[string]any) (out []any, conditional bool, err error) {
	merged := map[string]map[string]any{}
	members := map[string]map[string]bool{}
	for _, b := range bindings {
		role := body.String(b, "role")
		if err := p.checkRole(role); err != nil {
			return nil, false, err
		}
		c := body.Map(b, "condition")
		raw, _ := json.Marshal(c)
		id := role + " " + string(raw)
		if merged[id] == nil {
			merged[id], members[id] = map[string]any{"role": role}, map[string]bool{}
			if c != nil {
				merged[id]["condition"] = c
				conditional = true
			}
		}
		for _, m := range body.Strings(b, "members") {
			m, err := p.checkMember(m)
			if err != nil {
				return nil, false, err
			}
			members[id][m] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(merged)) {
		if len(members[id]) > 0 {
			merged[id]["members"] = slices.Sorted(maps.Keys(members[id]))
			out = append(out, merged[id])
		}
	}
	slices.SortStableFunc(out, func(a, b any) int {
		return cmp.Compare(body.String(a.(map[string]any), "role"), body.String(b.(map[string]any), "role"))
	})
	return out, conditional, nil
}

func (p *Policies) checkRole(role string) error {
	if customRole.MatchString(role) {
		return nil
	}
	parts := roleShape.FindStringSubmatch(role)
	if parts == nil {
		return front.Invalid("Invalid role name: %q.", role)
	}
	if _, known := p.roles[role]; !known && (parts[2] == "" || slices.Contains(listed(), parts[1])) {
		return front.Invalid("Role %s is not supported for this resource.", role)
	}
	return nil
}

// checkMember gives a member as Google writes it, or refuses it.
func (p *Policies) checkMember(m string) (string, error) {
	kind, name, _ := strings.Cut(m, ":")
	switch kind {
	case "allUsers", "allAuthenticatedUsers":
		if name == "" {
			return m, nil
		}
	case "user", "group":
		if emailShape.MatchString(name) {
			return kind + ":" + strings.ToLower(name), nil
		}
	case "domain", "projectOwner", "projectEditor", "projectViewer":
		if name != "" {
			return m, nil
		}
	case "deleted":
		if strings.Contains(name, "?uid=") {
			return m, nil
		}
	case "principal", "principalSet":
		if strings.HasPrefix(name, "//") {
			return m, nil
		}
	case "serviceAccount":
		name = strings.ToLower(name)
		if !emailShape.MatchString(name) {
			break
		}
		if parts := accountMail.FindStringSubmatch(name); parts != nil && !strings.HasPrefix(parts[2], "gcp-sa-") && !agentName.MatchString(parts[1]) {
			if _, ok := p.accounts.Get("projects/" + parts[2] + "/serviceAccounts/" + name); !ok {
				return "", front.Invalid("Service account %s does not exist.", name)
			}
		}
		return kind + ":" + name, nil
	default:
		return "", front.Invalid("The member %s is of an unknown type. Please set a valid type prefix for the member.", m)
	}
	return "", front.Invalid("Invalid member: %s", m)
}

// forget turns a deleted service account's members into what Google leaves of them.
func (p *Policies) forget(email, uid string) {
	p.rename("serviceAccount:"+email, "deleted:serviceAccount:"+email+"?uid="+uid)
}

// restore undoes forget.
func (p *Policies) restore(email, uid string) {
	p.rename("deleted:serviceAccount:"+email+"?uid="+uid, "serviceAccount:"+email)
}

func (p *Policies) rename(from, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range p.policies.Keys("") {
		policy, ok := p.policies.Get(key)
		if !ok {
			continue
		}
		changed := false
		for _, b := range body.Maps(policy, "bindings") {
			members := body.Strings(b, "members")
			if i := slices.Index(members, from); i >= 0 {
				members[i] = to
				slices.Sort(members)
				b["members"], changed = members, true
			}
		}
		if changed {
			p.put(key, policy)
		}
	}
}
