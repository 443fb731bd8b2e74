package storage

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// object is one generation.
type object struct {
	generation     int64
	metageneration int64
	name           string
	size           int64
	crc            uint32
	md5            []byte // nil when it was composed
	components     int64  // how many objects it was composed of
	file           string
	created        time.Time
	updated        time.Time
	deleted        time.Time      // zero while it is live
	fields         map[string]any // contentType, metadata, cacheControl, … as given
}

// settable are the fields a client may set.
var settable = []string{"contentType", "metadata", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "storageClass", "customTime", "temporaryHold", "eventBasedHold"}

// checkFields refuses what an object of the local cloud could only forget: access lists, keys, retention.
func checkFields(fields map[string]any) error {
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if slices.Contains(settable, field) || slices.Contains(given, field) || empty(fields[field]) {
			continue
		}
		return front.Invalid("Invalid field %q: the local cloud's objects do not have it.", field)
	}
	if class := body.String(fields, "storageClass"); class != "" && !slices.Contains(classes, class) {
		return front.Invalid("Invalid storage class: %s", class)
	}
	return nil
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// base gives where the client found the local cloud; links lead there, and not to Google.
func base(req *http.Request) string {
	if req.TLS != nil {
		return "https://" + req.Host
	}
	return "http://" + req.Host
}

// shown gives an object as the JSON API shows it to a client that found the local cloud at base.
func (o *object) shown(base, bucket string) map[string]any {
	path := "/storage/v1/b/" + bucket + "/o/" + strings.ReplaceAll(url.QueryEscape(o.name), "+", "%20")
	b := map[string]any{
		"kind": "storage#object", "id": fmt.Sprintf("%s/%s/%d", bucket, o.name, o.generation), "name": o.name, "bucket": bucket,
		"selfLink": base + path, "mediaLink": fmt.Sprintf("%s/download%s?generation=%d&alt=media", base, path, o.generation),
		"generation": strconv.FormatInt(o.generation, 10), "metageneration": strconv.FormatInt(o.metageneration, 10), "size": strconv.FormatInt(o.size, 10),
		"crc32c": o.crc32c(), "etag": o.etag(),
		"timeCreated": body.Millis(o.created), "updated": body.Millis(o.updated), "timeStorageClassUpdated": body.Millis(o.created), "storageClass": "STANDARD",
	}
	if o.md5 != nil {
		b["md5Hash"] = o.md5Hash()
	}
	if o.components > 0 {
		b["componentCount"] = o.components
	}
	maps.Copy(b, o.fields)
	if !o.deleted.IsZero() {
		b["timeDeleted"] = body.Millis(o.deleted)
	}
	return b
}

func (o *object) etag() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(o.generation))
	binary.BigEndian.PutUint64(raw[8:], uint64(o.metageneration))
	return base64.StdEncoding.EncodeToString(raw[:])
}

// live gives the live generation. The service is locked.
func (v *Service) live(bucket, name string) *object {
	all := v.objects[bucket][name]
	if n := len(all); n > 0 && all[n-1].deleted.IsZero() {
		return all[n-1]
	}
	return nil
}

func noObject(bucket, name string) error {
	e := front.NotFound("No such object: %s/%s", bucket, name)
	e.XML = "NoSuchKey"
	return e
}

// find gives a generation, the live one for "". The service is locked.
func (v *Service) find(bucket, name, generation string) (*object, error) {
	if generation == "" {
		if o := v.live(bucket, name); o != nil {
			return o, nil
		}
		return nil, noObject(bucket, name)
	}
	for _, o := range v.objects[bucket][name] {
		if strconv.FormatInt(o.generation, 10) == generation {
			return o, nil
		}
	}
	return nil, noObject(bucket, name)
}

// conditions checks the preconditions of a request against an object, nil for none.
func conditions(r *front.Request, o *object) error {
	return met(r, o, "if")
}

// met checks the preconditions whose names begin with prefix: "if", and "ifSource" for what is copied.
func met(r *front.Request, o *object, prefix string) error {
	var generation, meta int64
	if o != nil {
		generation, meta = o.generation, o.metageneration
	}
	for _, c := range []struct {
		param string
		have  int64
		match bool
	}{{"GenerationMatch", generation, true}, {"GenerationNotMatch", generation, false}, {"MetagenerationMatch", meta, true}, {"MetagenerationNotMatch", meta, false}} {
		value := r.Query.Get(prefix + c.param)
		if value == "" || (value == strconv.FormatInt(c.have, 10)) == c.match {
			continue
		}
		if !c.match && r.HTTP.Method == http.MethodGet {
			return &front.Error{Code: http.StatusNotModified, Reason: "notModified", Message: "Not Modified"}
		}
		return failedPrecondition()
	}
	return nil
}

func failedPrecondition() error {
	return front.Precondition("At least one of the pre-conditions you specified did not hold.")
}

// Open gives the contents of a live object as the service account email may read it.
func (v *Service) Open(_ context.Context, bucket, name, email string) (io.ReadCloser, error) {
	b, ok := v.buckets.Get(bucket)
	if !ok {
		return nil, noBucket()
	}
	if err := v.allow(email, nil, front.Use{Permission: "storage.objects.get", Bucket: bucket, Object: name}, b); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.live(bucket, name)
	if o == nil {
		return nil, noObject(bucket, name)
	}
	return os.Open(o.file)
}

func pick(given map[string]any) map[string]any {
	out := map[string]any{}
	for _, field := range settable {
		if value, ok := given[field]; ok && value != nil {
			out[field] = value
		}
	}
	return store.Clone(out)
}

func (v *Service) patchObject(r *front.Request, bucket string, _ map[string]any) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, err := v.find(bucket, r.Path["object"], r.Query.Get("generation"))
	if err == nil {
		err = conditions(r, o)
	}
	if err != nil {
		return nil, err
	}
	if err := checkFields(r.Body); err != nil {
		return nil, err
	}
	next := store.Clone(o.fields)
	if r.HTTP.Method == http.MethodPut {
		next = pick(r.Body)
	} else {
		given := map[string]any{}
		for _, field := range settable {
			if value, ok := r.Body[field]; ok {
				given[field] = value
			}
		}
		body.Merge(next, store.Clone(given))
	}
	o.fields, o.updated = next, time.Now()
	o.metageneration++
	return o.shown(base(r.HTTP), bucket), nil
}

func (v *Service) deleteObject(r *front.Request, bucket string, b map[string]any) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := r.Path["object"]
	o, err := v.find(bucket, name, r.Query.Get("generation"))
	if err != nil {
		return nil, err
	}
	if err := conditions(r, o); err != nil {
		return nil, err
	}
	if r.Query.Get("generation") == "" && body.Bool(b, "versioning.enabled") {
		o.deleted = time.Now()
		return nil, nil
	}
	return nil, v.erase(bucket, o)
}

// erase removes a generation for good. The service is locked.
func (v *Service) erase(bucket string, o *object) error {
	left := slices.DeleteFunc(v.objects[bucket][o.name], func(other *object) bool { return other == o })
	if len(left) == 0 {
		delete(v.objects[bucket], o.name)
	} else {
		v.objects[bucket][o.name] = left
	}
	if err := os.Remove(o.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// put makes o the live generation of its name, if the request's preconditions hold and its contents are what the client
// meant. The generation before it stays as an older version where the bucket has versioning.
func (v *Service) put(r *front.Request, bucket string, o *object, fields map[string]any, sums checksums) (map[string]any, error) {
	o.fields = pick(fields)
	v.mu.Lock()
	defer v.mu.Unlock()
	b, ok := v.buckets.Get(bucket)
	before := v.live(bucket, o.name)
	refused := conditions(r, before)
	if !ok {
		refused = noBucket()
	}
	if refused == nil && before != nil { // who may only add replaces nothing
		refused = v.permit(r, "objects.delete", bucket, b, o.name)
	}
	if refused == nil {
		refused = sums.verify(o)
	}
	if refused != nil {
		return nil, errors.Join(refused, os.Remove(o.file))
	}
	o.generation, o.metageneration, o.created = v.numberLocked(), 1, time.Now()
	o.updated = o.created
	if before != nil {
		before.deleted = o.created
		if !body.Bool(b, "versioning.enabled") {
			if err := v.erase(bucket, before); err != nil {
				return nil, err
			}
		}
	}
	if v.objects[bucket] == nil {
		v.objects[bucket] = map[string][]*object{}
	}
	v.objects[bucket][o.name] = append(v.objects[bucket][o.name], o)
	return o.shown(base(r.HTTP), bucket), nil
}

// Usage gives the number of live objects and their bytes in a bucket.
func (v *Service) Usage(bucket string) (objects int, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name := range v.objects[bucket] {
		if o := v.live(bucket, name); o != nil {
			objects++
			bytes += o.size
		}
	}
	return objects, bytes
}

// Dump gives every generation of every object as it is shown, the oldest first, by bucket and name.
func (v *Service) Dump() map[string][]map[string]any {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string][]map[string]any{}
	for bucket, names := range v.objects {
		for name, all := range names {
			for _, o := range all {
				out[bucket+"/"+name] = append(out[bucket+"/"+name], o.shown("", bucket))
			}
		}
	}
	return out
}
