package storage

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Service serves storage v1. Buckets are in the collection "buckets", by name, which is unique among all projects.
type Service struct {
	server   *front.Server
	policies *iam.Policies
	buckets  *store.Collection
	dir      string

	mu       sync.Mutex
	objects  map[string]map[string][]*object // by bucket and name, the oldest generation first
	sessions map[string]*session             // resumable uploads by ID
	last     int64                           // generation or file number given out
}

// Register serves Cloud Storage on s. Contents are kept in files below dir, which must exist.
func Register(s *front.Server, st *store.Store, policies *iam.Policies, dir string) *Service {
	v := &Service{server: s, policies: policies, buckets: st.Collection("buckets"), dir: dir, objects: map[string]map[string][]*object{}, sessions: map[string]*session{}}
	for id, h := range map[string]front.Handler{
		"buckets.insert": v.insertBucket, "buckets.list": v.listBuckets,
		"buckets.get":                 v.onBucket("buckets.get", v.getBucket),
		"buckets.patch":               v.onBucket("buckets.update", v.patchBucket),
		"buckets.update":              v.onBucket("buckets.update", v.patchBucket),
		"buckets.delete":              v.onBucket("buckets.delete", v.deleteBucket),
		"buckets.getIamPolicy":        v.onBucket("buckets.getIamPolicy", v.getPolicy),
		"buckets.setIamPolicy":        v.onBucket("buckets.setIamPolicy", v.setPolicy),
		"buckets.testIamPermissions":  v.testPermissions,
		"buckets.getStorageLayout":    v.onBucket("objects.list", v.layout),
		"projects.serviceAccount.get": v.serviceAccount,
		"objects.insert":              v.insertObject,
		"objects.get":                 v.onBucket("objects.get", v.getObject),
		"objects.list":                v.onBucket("objects.list", v.listObjects),
		"objects.patch":               v.onBucket("objects.update", v.patchObject),
		"objects.update":              v.onBucket("objects.update", v.patchObject),
		"objects.delete":              v.onBucket("objects.delete", v.deleteObject),
		"objects.copy":                v.copyObject,
		"objects.rewrite":             v.rewriteObject,
		"objects.compose":             v.composeObject,
	} {
		s.Handle("storage."+id, honouring(id, h))
	}
	return v
}

func (v *Service) serviceAccount(_ context.Context, r *front.Request) (any, error) {
	if r.Boundary != nil {
		return nil, front.Forbidden("%s does not have serviceAccounts.get access to the Google Cloud project.", r.Caller)
	}
	return map[string]any{
		"kind": "storage#serviceAccount", "email_address": "service-" + v.server.ProjectNumber(r.Path["projectId"]) + "@gs-project-accounts.iam.gserviceaccount.com",
	}, nil
}

func noBucket() error {
	e := front.NotFound("The specified bucket does not exist.")
	e.XML = "NoSuchBucket"
	return e
}

// permit refuses a caller without the permission on the bucket, or with a token that is not worth it. Object is whose contents or
// fields it is about, "" for none.
func (v *Service) permit(r *front.Request, permission, bucket string, b map[string]any, object string) error {
	use := front.Use{Permission: "storage." + permission, Bucket: bucket, Object: object}
	if r.Method.ID == "storage.objects.list" { // others take a prefix too, and pass it over
		use.Prefix = r.Query.Get("prefix")
	}
	return v.allow(r.Caller, r.Boundary, use, b)
}

func (v *Service) allow(caller string, bound front.Boundary, use front.Use, b map[string]any) error {
	permission, what := use.Permission, "bucket"
	if strings.HasPrefix(permission, "storage.objects.") {
		what = "object"
	}
	if (bound == nil || bound.Permits(use)) && v.policies.Allowed(caller, permission, "buckets/"+use.Bucket, "projects/"+body.String(b, "projectNumber")) {
		return nil
	}
	return front.Forbidden("%s does not have %s access to the Google Cloud Storage %s. Permission '%s' denied on resource (or it may not exist).", caller, permission, what, permission)
}

// onBucket wraps what is done with an existing bucket on which the caller has a permission.
func (v *Service) onBucket(permission string, do func(r *front.Request, name string, b map[string]any) (any, error)) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		name := r.Path["bucket"]
		b, ok := v.buckets.Get(name)
		if !ok {
			return nil, noBucket()
		}
		if err := v.permit(r, permission, name, b, r.Path["object"]); err != nil {
			return nil, err
		}
		return do(r, name, b)
	}
}

var (
	bucketNames = regexp.MustCompile(`^[a-z0-9][-a-z0-9._]+[a-z0-9]$`)
	classes     = []string{"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"}
)

func checkBucketName(name string) error {
	bad := !bucketNames.MatchString(name) || len(name) > 222 || !strings.Contains(name, ".") && len(name) > 63 || net.ParseIP(name) != nil ||
		strings.HasPrefix(name, "goog") || strings.Contains(name, "google") || strings.Contains(name, "..")
	if bad {
		return front.Invalid("Invalid bucket name: '%s'", name)
	}
	return nil
}

func (v *Service) insertBucket(_ context.Context, r *front.Request) (any, error) {
	b := store.Clone(r.Body)
	name, project := body.String(b, "name"), r.Query.Get("project")
	if err := checkBucketName(name); err != nil {
		return nil, err
	}
	if project == "" {
		return nil, front.Invalid("Required parameter: project")
	}
	number := v.server.ProjectNumber(project)
	if !v.inProject(r, "storage.buckets.create", number) {
		return nil, front.Forbidden("%s does not have storage.buckets.create access to the Google Cloud project.", r.Caller)
	}
	now := body.Millis(time.Now())
	for _, field := range []string{"id", "selfLink", "projectNumber", "metageneration", "etag", "timeCreated", "updated", "generation", "acl", "defaultObjectAcl", "owner"} { // ours to say, or Google's of old
		delete(b, field)
	}
	location := strings.ToUpper(body.String(b, "location"))
	if location == "" {
		location = "US"
	}
	b["kind"], b["id"], b["location"], b["projectNumber"] = "storage#bucket", name, location, number
	b["timeCreated"], b["updated"], b["metageneration"] = now, now, "1"
	b["generation"] = strconv.FormatInt(v.number(), 10)
	b["locationType"] = "region"
	if !strings.Contains(location, "-") {
		b["locationType"] = "multi-region"
	}
	if err := v.fillBucket(b); err != nil {
		return nil, err
	}
	if !v.buckets.Create(name, b) {
		have, _ := v.buckets.Get(name)
		if body.String(have, "projectNumber") == number {
			return nil, front.Taken("Your previous request to create the named bucket succeeded and you already own it.")
		}
		return nil, front.Taken("The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.")
	}
	v.policies.Init("buckets/"+name, []any{
		map[string]any{"role": "roles/storage.legacyBucketOwner", "members": []any{"projectEditor:" + project, "projectOwner:" + project}},
		map[string]any{"role": "roles/storage.legacyBucketReader", "members": []any{"projectViewer:" + project}},
	})
	return linked(r, b), nil
}

// fillBucket puts Cloud Storage's defaults into a body and refuses what it refuses.
func (v *Service) fillBucket(b map[string]any) error {
	for path, value := range map[string]any{
		"storageClass": "STANDARD", "rpo": "DEFAULT", "iamConfiguration.publicAccessPrevention": "inherited",
		"iamConfiguration.uniformBucketLevelAccess.enabled": false, "softDeletePolicy.retentionDurationSeconds": "604800",
	} {
		body.Default(b, path, value)
	}
	if b["locationType"] == "region" {
		delete(b, "rpo") // multi-regions only
	}
	uniform := body.Map(b, "iamConfiguration.uniformBucketLevelAccess")
	if on := body.Bool(uniform, "enabled"); on {
		body.Default(uniform, "lockedTime", body.Millis(time.Now().AddDate(0, 0, 90)))
	} else {
		delete(uniform, "lockedTime")
	}
	body.Set(b, "iamConfiguration.bucketPolicyOnly", store.Clone(uniform))
	if seconds, ok := body.Int(b, "softDeletePolicy.retentionDurationSeconds"); !ok || seconds != 0 && (seconds < 7*86400 || seconds > 90*86400) {
		return front.Invalid("Soft delete policy retention duration must be 0 or between 7 and 90 days.")
	}
	body.Set(b, "softDeletePolicy.retentionDurationSeconds", body.String(b, "softDeletePolicy.retentionDurationSeconds"))
	body.Default(b, "softDeletePolicy.effectiveTime", body.Millis(time.Now()))
	if !slices.Contains(classes, body.String(b, "storageClass")) {
		return front.Invalid("Invalid storage class: %s", body.String(b, "storageClass"))
	}
	for _, rule := range body.Maps(b, "lifecycle.rule") {
		action := body.String(rule, "action.type")
		switch {
		case !slices.Contains([]string{"Delete", "SetStorageClass", "AbortIncompleteMultipartUpload"}, action):
			return front.Invalid("Invalid lifecycle action: '%s'", action)
		case len(body.Map(rule, "condition")) == 0:
			return front.Invalid("A lifecycle rule must have at least one condition.")
		case action == "SetStorageClass" && !slices.Contains(classes, body.String(rule, "action.storageClass")):
			return front.Invalid("Invalid storage class in a lifecycle rule: '%s'", body.String(rule, "action.storageClass"))
		}
		if age, ok := body.Int(rule, "condition.age"); ok && age < 0 {
			return front.Invalid("A lifecycle condition's age cannot be negative.")
		}
	}
	if len(body.Maps(b, "lifecycle.rule")) == 0 {
		delete(b, "lifecycle") // as Cloud Storage shows it
	}
	if len(body.List(b, "cors")) == 0 {
		delete(b, "cors")
	}
	if len(body.Map(b, "labels")) == 0 {
		delete(b, "labels")
	}
	delete(b, "etag")
	b["etag"] = store.Fingerprint(map[string]any{"m": b["metageneration"], "n": b["name"]}, 0)
	return nil
}

func (v *Service) getBucket(r *front.Request, name string, b map[string]any) (any, error) {
	if err := metaConditions(r, body.String(b, "metageneration")); err != nil {
		return nil, err
	}
	if g := r.Query.Get("generation"); g != "" && g != body.String(b, "generation") {
		return nil, noBucket()
	}
	return linked(r, b), nil
}

// linked gives a bucket with its link.
func linked(r *front.Request, b map[string]any) map[string]any {
	b["selfLink"] = base(r.HTTP) + "/storage/v1/b/" + body.String(b, "name")
	return b
}

func (v *Service) layout(_ *front.Request, name string, b map[string]any) (any, error) {
	return map[string]any{"kind": "storage#storageLayout", "bucket": name, "location": b["location"], "locationType": b["locationType"], "hierarchicalNamespace": map[string]any{"enabled": false}}, nil
}

// inProject says whether a caller has a permission on a project, which no boundary gives.
func (v *Service) inProject(r *front.Request, permission, number string) bool {
	return r.Boundary == nil && v.policies.Allowed(r.Caller, permission, "projects/"+number)
}

func (v *Service) listBuckets(_ context.Context, r *front.Request) (any, error) {
	number := v.server.ProjectNumber(r.Query.Get("project"))
	if !v.inProject(r, "storage.buckets.list", number) {
		return nil, front.Forbidden("%s does not have storage.buckets.list access to the Google Cloud project.", r.Caller)
	}
	all := slices.DeleteFunc(v.buckets.List(r.Query.Get("prefix")), func(b map[string]any) bool { return body.String(b, "projectNumber") != number })
	size, _ := body.Int(map[string]any{"n": r.Query.Get("maxResults")}, "n")
	for _, b := range all {
		linked(r, b)
	}
	items, next, ok := body.Page(all, int(size), 1000, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid page token.")
	}
	answer := map[string]any{"kind": "storage#buckets"}
	if len(items) > 0 {
		answer["items"] = items
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

// metaConditions checks ifMetagenerationMatch and ifMetagenerationNotMatch against a bucket's.
func metaConditions(r *front.Request, metageneration string) error {
	if want := r.Query.Get("ifMetagenerationMatch"); want != "" && want != metageneration {
		return failedPrecondition()
	}
	if not := r.Query.Get("ifMetagenerationNotMatch"); not != "" && not == metageneration {
		if r.HTTP.Method == http.MethodGet {
			return &front.Error{Code: http.StatusNotModified, Reason: "notModified", Message: "Not Modified"}
		}
		return failedPrecondition()
	}
	return nil
}

// patchBucket merges a body into the bucket's; PUT replaces what a client may set.
func (v *Service) patchBucket(r *front.Request, name string, _ map[string]any) (any, error) {
	v.mu.Lock() // of two writers at once, the second is told
	defer v.mu.Unlock()
	old, ok := v.buckets.Get(name)
	if !ok {
		return nil, noBucket()
	}
	if err := metaConditions(r, body.String(old, "metageneration")); err != nil {
		return nil, err
	}
	given := store.Clone(r.Body)
	next := store.Clone(old)
	if r.HTTP.Method == "PUT" {
		for _, field := range []string{"labels", "versioning", "lifecycle", "cors", "website", "logging", "softDeletePolicy", "iamConfiguration", "retentionPolicy", "storageClass"} {
			delete(next, field)
		}
	}
	for _, field := range []string{"name", "location", "projectNumber"} {
		if body.Has(given, field) && !strings.EqualFold(body.String(given, field), body.String(old, field)) {
			return nil, front.Invalid("The %s of a bucket cannot be changed.", field)
		}
		delete(given, field)
	}
	if body.Has(given, "softDeletePolicy.retentionDurationSeconds") && body.String(given, "softDeletePolicy.retentionDurationSeconds") != body.String(old, "softDeletePolicy.retentionDurationSeconds") {
		body.Unset(next, "softDeletePolicy.effectiveTime")
	}
	body.Merge(next, given)
	meta, _ := body.Int(old, "metageneration")
	next["metageneration"], next["updated"] = strconv.FormatInt(meta+1, 10), body.Millis(time.Now())
	if err := v.fillBucket(next); err != nil {
		return nil, err
	}
	v.buckets.Put(name, next)
	return linked(r, next), nil
}

func (v *Service) deleteBucket(r *front.Request, name string, _ map[string]any) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, ok := v.buckets.Get(name)
	if !ok {
		return nil, noBucket()
	}
	if err := metaConditions(r, body.String(b, "metageneration")); err != nil {
		return nil, err
	}
	if len(v.objects[name]) > 0 {
		return nil, front.Taken("The bucket you tried to delete is not empty.")
	}
	delete(v.objects, name)
	v.buckets.Delete(name)
	v.policies.Delete("buckets/" + name)
	return nil, nil
}

func (v *Service) getPolicy(r *front.Request, name string, _ map[string]any) (any, error) {
	version, _ := body.Int(map[string]any{"n": r.Query.Get("optionsRequestedPolicyVersion")}, "n")
	return v.shownPolicy(name, v.policies.Get("buckets/"+name, version)), nil
}

func (v *Service) shownPolicy(name string, p map[string]any) map[string]any {
	p["kind"], p["resourceId"] = "storage#policy", "projects/_/buckets/"+name
	return p
}

func (v *Service) setPolicy(r *front.Request, name string, _ map[string]any) (any, error) {
	given := store.Clone(r.Body)
	delete(given, "kind")
	delete(given, "resourceId")
	p, err := v.policies.Set("buckets/"+name, given, "")
	if err != nil {
		return nil, err
	}
	return v.shownPolicy(name, p), nil
}

func (v *Service) testPermissions(_ context.Context, r *front.Request) (any, error) {
	b, ok := v.buckets.Get(r.Path["bucket"])
	if !ok {
		return nil, noBucket()
	}
	answer := map[string]any{"kind": "storage#testIamPermissionsResponse"}
	granted := v.policies.Granted(r.Caller, r.Query["permissions"], "buckets/"+r.Path["bucket"], "projects/"+body.String(b, "projectNumber"))
	if r.Boundary != nil {
		granted = slices.DeleteFunc(granted, func(permission string) bool {
			return !r.Boundary.Permits(front.Use{Permission: permission, Bucket: r.Path["bucket"]})
		})
	}
	if len(granted) > 0 {
		answer["permissions"] = granted
	}
	return answer, nil
}

// number gives a number that was not given before; it grows with time, in microseconds.
func (v *Service) number() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.numberLocked()
}

func (v *Service) numberLocked() int64 {
	v.last = max(v.last+1, time.Now().UnixMicro())
	return v.last
}
