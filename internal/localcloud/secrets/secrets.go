package secrets

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/store"
)

const maxPayload = 64 << 10

// Service serves secretmanager v1. Secrets are kept by the project's number, "projects/NUMBER/secrets/S", the name that
// answers have.
type Service struct {
	server   *front.Server
	policies *iam.Policies
	secrets  *store.Collection

	mu       sync.Mutex
	versions map[string][]*version // by secret; the first is version 1
	rev      int64
}

type version struct {
	shown   map[string]any // as it is answered
	payload []byte         // nil once destroyed
}

// Register serves secrets on s.
func Register(s *front.Server, st *store.Store, policies *iam.Policies) *Service {
	v := &Service{server: s, policies: policies, secrets: st.Collection("secrets"), versions: map[string][]*version{}}
	const id = "secretmanager.projects.secrets."
	for name, h := range map[string]front.Handler{
		"create": v.create, "list": v.list,
		"get":                v.on("secrets.get", v.get),
		"patch":              v.on("secrets.update", v.patch),
		"delete":             v.on("secrets.delete", v.delete),
		"addVersion":         v.on("versions.add", v.addVersion),
		"getIamPolicy":       v.on("secrets.getIamPolicy", v.getPolicy),
		"setIamPolicy":       v.on("secrets.setIamPolicy", v.setPolicy),
		"testIamPermissions": v.test,
		"versions.list":      v.on("versions.list", v.listVersions),
		"versions.get":       v.onVersion("versions.get", v.getVersion),
		"versions.access":    v.onVersion("versions.access", v.access),
		"versions.enable":    v.onVersion("versions.enable", v.toState("ENABLED")),
		"versions.disable":   v.onVersion("versions.disable", v.toState("DISABLED")),
		"versions.destroy":   v.onVersion("versions.destroy", v.toState("DESTROYED")),
	} {
		s.Handle(id+name, h)
	}
	return v
}

func (v *Service) parent(r *front.Request) string {
	return "projects/" + v.server.ProjectNumber(r.Path["project"])
}

// permit refuses a caller without the permission. Google does not tell such a caller whether the resource exists.
func (v *Service) permit(r *front.Request, permission, resource string, scopes ...string) error {
	permission = "secretmanager." + permission
	if v.policies.Allowed(r.Caller, permission, scopes...) {
		return nil
	}
	return &front.Error{
		Code: 403, Reason: "forbidden", Message: fmt.Sprintf("Permission '%s' denied for resource '%s' (or it may not exist).", permission, resource),
		Details: []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com",
			"metadata": map[string]any{"permission": permission, "resource": resource},
		}},
	}
}

// on wraps what is done with an existing secret: the caller is checked first, then the secret is looked up.
func (v *Service) on(permission string, do func(r *front.Request, key string, secret map[string]any) (any, error)) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		key := v.parent(r) + "/secrets/" + r.Path["secret"]
		if err := v.permit(r, permission, "projects/"+r.Path["project"]+"/secrets/"+r.Path["secret"], key, v.parent(r)); err != nil {
			return nil, err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		secret, ok := v.secrets.Get(key)
		if !ok {
			return nil, front.NotFound("Secret [%s] not found.", key)
		}
		return do(r, key, secret)
	}
}

func (v *Service) onVersion(permission string, do func(r *front.Request, ver *version) (any, error)) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		key := v.parent(r) + "/secrets/" + r.Path["secret"]
		named := "projects/" + r.Path["project"] + "/secrets/" + r.Path["secret"] + "/versions/" + r.Path["version"]
		if err := v.permit(r, permission, named, key, v.parent(r)); err != nil {
			return nil, err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		secret, ok := v.secrets.Get(key)
		if !ok {
			return nil, front.NotFound("Secret [%s] not found.", key)
		}
		all, id := v.versions[key], r.Path["version"]
		if alias := body.String(body.Map(secret, "versionAliases"), id); alias != "" {
			id = alias
		}
		if id == "latest" {
			if len(all) == 0 {
				return nil, front.NotFound("Secret [%s] not found or has no versions.", key)
			}
			return do(r, all[len(all)-1])
		}
		n, err := strconv.Atoi(id)
		if err != nil || n < 1 || n > len(all) {
			return nil, front.NotFound("Secret Version [%s/versions/%s] not found.", key, r.Path["version"])
		}
		return do(r, all[n-1])
	}
}

func (v *Service) etag(m map[string]any) string {
	v.rev++
	raw, _ := base64.StdEncoding.DecodeString(store.Fingerprint(m, v.rev)) // it is valid base64
	return fmt.Sprintf("%q", fmt.Sprintf("%x", raw[:7]))
}

var secretID = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// isLabel says whether s may be a label's value, and with key, its key. A regular expression with so many letters takes
// milliseconds to compile, in every start of the program.
func isLabel(s string, key bool) bool {
	first, _ := utf8.DecodeRuneInString(s)
	if key && !unicode.In(first, unicode.Ll, unicode.Lo) || utf8.RuneCountInString(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && !unicode.In(r, unicode.Ll, unicode.Lo, unicode.N)
	})
}

func (v *Service) check(s map[string]any) error {
	labels := body.Map(s, "labels")
	if len(labels) > 64 {
		return front.Invalid("A secret can have at most 64 labels.")
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !isLabel(k, true) || !isLabel(body.String(labels, k), false) {
			return front.Invalid("The label '%s' is not valid: keys and values are lower case letters, digits, dashes and underscores, at most 63 characters, and keys begin with a letter.", k)
		}
	}
	size := 0
	for k, a := range body.Map(s, "annotations") {
		size += len(k) + len(fmt.Sprint(a))
	}
	if size > 16<<10 {
		return front.Invalid("A secret's annotations can have at most 16 KiB.")
	}
	if ttl := body.String(s, "ttl"); ttl != "" {
		d, err := time.ParseDuration(ttl)
		if err != nil || d <= 0 {
			return front.Invalid("Invalid ttl '%s'.", ttl)
		}
		s["expireTime"] = body.Time(time.Now().Add(d))
		delete(s, "ttl")
	}
	return nil
}

func (v *Service) create(_ context.Context, r *front.Request) (any, error) {
	id := r.Query.Get("secretId")
	key := v.parent(r) + "/secrets/" + id
	if err := v.permit(r, "secrets.create", "projects/"+r.Path["project"], v.parent(r)); err != nil {
		return nil, err
	}
	if !secretID.MatchString(id) || len(id) > 255 {
		return nil, front.Invalid("The provided Secret ID [%s] does not match the expected format [[a-zA-Z_0-9]+]", id)
	}
	replication := body.Map(r.Body, "replication")
	_, automatic := replication["automatic"]
	managed := len(body.List(replication, "userManaged.replicas")) > 0
	if automatic == managed {
		return nil, front.Invalid("The replication policy must be either automatic or userManaged with replicas.")
	}
	secret := store.Clone(r.Body)
	if err := v.check(secret); err != nil {
		return nil, err
	}
	for _, field := range []string{"etag", "name", "createTime"} {
		delete(secret, field)
	}
	secret["name"], secret["createTime"] = key, body.Time(time.Now())
	v.mu.Lock()
	defer v.mu.Unlock()
	secret["etag"] = v.etag(secret)
	if !v.secrets.Create(key, secret) {
		return nil, front.AlreadyExists("Secret [%s] already exists.", key)
	}
	return secret, nil
}

func (v *Service) get(_ *front.Request, _ string, secret map[string]any) (any, error) {
	return secret, nil
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	if err := v.permit(r, "secrets.list", "projects/"+r.Path["project"], v.parent(r)); err != nil {
		return nil, err
	}
	match, err := filter(r.Query.Get("filter"))
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(v.secrets.List(v.parent(r)+"/secrets/"), func(s map[string]any) bool { return !match(s) })
	slices.SortStableFunc(all, func(a, b map[string]any) int {
		return cmp.Or(cmp.Compare(body.String(b, "createTime"), body.String(a, "createTime")), cmp.Compare(body.String(a, "name"), body.String(b, "name")))
	})
	return page(r, "secrets", all)
}

func page(r *front.Request, field string, all []map[string]any) (any, error) {
	size, _ := body.Int(map[string]any{"n": r.Query.Get("pageSize")}, "n")
	items, next, ok := body.Page(all, int(size), 25000, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid page token.")
	}
	answer := map[string]any{"totalSize": len(all)}
	if len(items) > 0 {
		answer[field] = items
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

// filter understands terms joined by AND: labels.KEY=VALUE, labels.KEY:VALUE with * for any, name:PART.
func filter(expr string) (func(map[string]any) bool, error) {
	var terms []func(map[string]any) bool
	for term := range strings.SplitSeq(expr, " AND ") {
		if term = strings.TrimSpace(term); term == "" {
			continue
		}
		i := strings.IndexAny(term, "=:")
		if i < 0 {
			return nil, front.Invalid("Invalid filter: %q", expr)
		}
		field, value := strings.TrimSpace(term[:i]), strings.Trim(strings.TrimSpace(term[i+1:]), `"`)
		key, isLabel := strings.CutPrefix(field, "labels.")
		switch {
		case isLabel && value == "*":
			terms = append(terms, func(s map[string]any) bool { _, ok := body.Map(s, "labels")[key]; return ok })
		case isLabel:
			terms = append(terms, func(s map[string]any) bool { l, ok := body.Map(s, "labels")[key]; return ok && l == value })
		case field == "name":
			exact := term[i] == '='
			terms = append(terms, func(s map[string]any) bool {
				name := body.String(s, "name")
				return !exact && strings.Contains(name[strings.LastIndexByte(name, '/')+1:], value) || name == value
			})
		default:
			return nil, front.Invalid("Invalid filter: %q", expr)
		}
	}
	return func(s map[string]any) bool {
		return !slices.ContainsFunc(terms, func(term func(map[string]any) bool) bool { return !term(s) })
	}, nil
}

func (v *Service) patch(r *front.Request, key string, secret map[string]any) (any, error) {
	mask := body.Mask(r.Query.Get("updateMask"))
	if len(mask) == 0 {
		return nil, front.Invalid("The update mask must not be empty.")
	}
	if etag := body.String(r.Body, "etag"); etag != "" && etag != secret["etag"] {
		return nil, front.Conflict("The etag provided in the request does not match the secret's current etag.")
	}
	given := store.Clone(r.Body)
	if given == nil {
		given = map[string]any{}
	}
	if err := v.check(given); err != nil {
		return nil, err
	}
	changeable := []string{"labels", "annotations", "expireTime", "ttl", "rotation", "topics", "versionAliases", "versionDestroyTtl"}
	for _, path := range mask {
		top, _, _ := strings.Cut(path, ".")
		if !slices.Contains(changeable, top) {
			return nil, front.Invalid("The field '%s' of a secret cannot be changed.", path)
		}
		if top == "ttl" {
			path = "expireTime"
		}
		body.Copy(secret, given, path)
	}
	delete(secret, "etag")
	secret["etag"] = v.etag(secret)
	v.secrets.Put(key, secret)
	return secret, nil
}

func (v *Service) delete(r *front.Request, key string, secret map[string]any) (any, error) {
	if etag := r.Query.Get("etag"); etag != "" && etag != secret["etag"] {
		return nil, front.Conflict("The etag provided in the request does not match the secret's current etag.")
	}
	for _, ver := range v.versions[key] {
		clear(ver.payload)
	}
	delete(v.versions, key)
	v.secrets.Delete(key)
	v.policies.Delete(key)
	return map[string]any{}, nil
}

func (v *Service) addVersion(r *front.Request, key string, secret map[string]any) (any, error) {
	if !body.Has(r.Body, "payload.data") {
		return nil, front.Invalid("The payload must not be empty.")
	}
	// What is wrong with a payload is told without showing it.
	payload, err := decode(body.String(r.Body, "payload.data"))
	if err != nil {
		return nil, front.Invalid("Invalid value at 'payload.data' (TYPE_BYTES), Base64 decoding failed")
	}
	if len(payload) == 0 || len(payload) > maxPayload {
		return nil, front.Invalid("Secret Payload must have between 1 and %d bytes.", maxPayload)
	}
	sum := checksum(payload)
	given, checked := body.Int(r.Body, "payload.dataCrc32c")
	if checked && strconv.FormatInt(given, 10) != sum {
		return nil, front.Invalid("The provided checksum does not match the payload: the data was corrupted on its way.")
	}
	n := len(v.versions[key]) + 1
	shown := map[string]any{
		"name": fmt.Sprintf("%s/versions/%d", key, n), "createTime": body.Time(time.Now()), "state": "ENABLED",
		"replicationStatus": status(secret),
	}
	if checked {
		shown["clientSpecifiedPayloadChecksum"] = true
	}
	shown["etag"] = v.etag(shown)
	v.versions[key] = append(v.versions[key], &version{shown: shown, payload: payload})
	return maps.Clone(shown), nil
}

// decode takes both base64 alphabets, padded or not, as Google's JSON does.
func decode(s string) ([]byte, error) {
	s = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(s), "=")
	return base64.RawStdEncoding.DecodeString(s)
}

func checksum(payload []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))), 10)
}

func status(secret map[string]any) map[string]any {
	replicas := body.Maps(secret, "replication.userManaged.replicas")
	if len(replicas) == 0 {
		return map[string]any{"automatic": map[string]any{}}
	}
	list := make([]any, len(replicas))
	for i, r := range replicas {
		list[i] = map[string]any{"location": r["location"]}
	}
	return map[string]any{"userManaged": map[string]any{"replicas": list}}
}

func (v *Service) listVersions(r *front.Request, key string, _ map[string]any) (any, error) {
	var all []map[string]any
	state, filtered := strings.CutPrefix(strings.ReplaceAll(r.Query.Get("filter"), "=", ":"), "state:")
	if r.Query.Get("filter") != "" && !filtered {
		return nil, front.Invalid("Invalid filter: %q", r.Query.Get("filter"))
	}
	for _, ver := range slices.Backward(v.versions[key]) {
		if !filtered || ver.shown["state"] == state {
			all = append(all, maps.Clone(ver.shown))
		}
	}
	return page(r, "versions", all)
}

func (v *Service) getVersion(_ *front.Request, ver *version) (any, error) {
	return maps.Clone(ver.shown), nil
}

func (v *Service) access(_ *front.Request, ver *version) (any, error) {
	if ver.shown["state"] != "ENABLED" {
		return nil, front.FailedPrecondition("Secret Version [%s] is in %s state.", ver.shown["name"], ver.shown["state"])
	}
	return map[string]any{"name": ver.shown["name"], "payload": map[string]any{
		"data": base64.StdEncoding.EncodeToString(ver.payload), "dataCrc32c": checksum(ver.payload),
	}}, nil
}

func (v *Service) toState(state string) func(r *front.Request, ver *version) (any, error) {
	return func(r *front.Request, ver *version) (any, error) {
		if etag := body.String(r.Body, "etag"); etag != "" && etag != ver.shown["etag"] {
			return nil, front.Conflict("The etag provided in the request does not match the version's current etag.")
		}
		if ver.shown["state"] == "DESTROYED" {
			if state == "DESTROYED" {
				return maps.Clone(ver.shown), nil
			}
			return nil, front.FailedPrecondition("Secret Version [%s] is in DESTROYED state.", ver.shown["name"])
		}
		if ver.shown["state"] != state {
			ver.shown["state"] = state
			if state == "DESTROYED" {
				clear(ver.payload)
				ver.payload = nil
				ver.shown["destroyTime"] = body.Time(time.Now())
			}
			ver.shown["etag"] = v.etag(ver.shown)
		}
		return maps.Clone(ver.shown), nil
	}
}

func (v *Service) getPolicy(r *front.Request, key string, _ map[string]any) (any, error) {
	return v.policies.Get(key, iam.RequestedVersion(r)), nil
}

func (v *Service) setPolicy(r *front.Request, key string, _ map[string]any) (any, error) {
	return v.policies.Set(key, body.Map(r.Body, "policy"), body.String(r.Body, "updateMask"))
}

func (v *Service) test(_ context.Context, r *front.Request) (any, error) {
	return v.policies.Test(r, body.Strings(r.Body, "permissions"), v.parent(r)+"/secrets/"+r.Path["secret"], v.parent(r))
}

// Dump gives every version of every secret as it is shown, by secret, with a hash in place of its payload.
func (v *Service) Dump() map[string][]map[string]any {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string][]map[string]any{}
	for key, all := range v.versions {
		for _, ver := range all {
			shown := maps.Clone(ver.shown)
			if ver.payload != nil {
				shown["payloadSha256"] = fmt.Sprintf("%x", sha256.Sum256(ver.payload))
			}
			out[key] = append(out[key], shown)
		}
	}
	return out
}
