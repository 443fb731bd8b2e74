package storage

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
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
	md5            []byte
	file           string
	created        time.Time
	updated        time.Time
	deleted        time.Time      // zero while it is live
	fields         map[string]any // contentType, metadata, cacheControl, … as given
}

// settable are the fields a client may set.
var settable = []string{"contentType", "metadata", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "storageClass", "customTime", "temporaryHold", "eventBasedHold"}

func (o *object) shown(bucket string) map[string]any {
	var crc [4]byte
	binary.BigEndian.PutUint32(crc[:], o.crc)
	link := "https://www.googleapis.com/storage/v1/b/" + bucket + "/o/" + strings.ReplaceAll(o.name, "/", "%2F")
	b := map[string]any{
		"kind": "storage#object", "id": fmt.Sprintf("%s/%s/%d", bucket, o.name, o.generation), "name": o.name, "bucket": bucket, "selfLink": link,
		"mediaLink":  fmt.Sprintf("https://storage.googleapis.com/download/storage/v1/b/%s/o/%s?generation=%d&alt=media", bucket, strings.ReplaceAll(o.name, "/", "%2F"), o.generation),
		"generation": strconv.FormatInt(o.generation, 10), "metageneration": strconv.FormatInt(o.metageneration, 10), "size": strconv.FormatInt(o.size, 10),
		"crc32c": base64.StdEncoding.EncodeToString(crc[:]), "md5Hash": base64.StdEncoding.EncodeToString(o.md5), "etag": o.etag(),
		"timeCreated": body.Millis(o.created), "updated": body.Millis(o.updated), "timeStorageClassUpdated": body.Millis(o.created), "storageClass": "STANDARD",
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

// find gives the generation a request asks for. The service is locked.
func (v *Service) find(r *front.Request, bucket, name string) (*object, error) {
	if g := r.Query.Get("generation"); g != "" {
		for _, o := range v.objects[bucket][name] {
			if strconv.FormatInt(o.generation, 10) == g {
				return o, nil
			}
		}
	} else if o := v.live(bucket, name); o != nil {
		return o, nil
	}
	return nil, front.NotFound("No such object: %s/%s", bucket, name)
}

// conditions checks the preconditions of a request against an object, nil for none.
func conditions(r *front.Request, o *object) error {
	generation, meta := "0", "0"
	if o != nil {
		generation, meta = strconv.FormatInt(o.generation, 10), strconv.FormatInt(o.metageneration, 10)
	}
	if want := r.Query.Get("ifGenerationMatch"); want != "" && want != generation {
		return front.Precondition("At least one of the pre-conditions you specified did not hold.")
	}
	if not := r.Query.Get("ifGenerationNotMatch"); not != "" && not == generation {
		if r.HTTP.Method == http.MethodGet {
			return &front.Error{Code: http.StatusNotModified, Reason: "notModified", Message: "Not Modified"}
		}
		return front.Precondition("At least one of the pre-conditions you specified did not hold.")
	}
	return metaConditions(r, meta)
}

func (v *Service) getObject(r *front.Request, bucket string, _ map[string]any) (any, error) {
	v.mu.Lock()
	o, err := v.find(r, bucket, r.Path["object"])
	if err == nil {
		err = conditions(r, o)
	}
	if err != nil {
		v.mu.Unlock()
		return nil, err
	}
	shown := o.shown(bucket)
	var f *os.File
	if r.Query.Get("alt") == "media" {
		f, err = os.Open(o.file) // while the lock keeps the file there
	}
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return shown, nil
	}
	return &download{file: f, shown: shown, updated: o.updated}, nil
}

// download answers with an object's contents.
type download struct {
	file    *os.File
	shown   map[string]any
	updated time.Time
}

func (d *download) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer d.file.Close()
	h := w.Header()
	h.Set("X-Goog-Generation", body.String(d.shown, "generation"))
	h.Set("X-Goog-Metageneration", body.String(d.shown, "metageneration"))
	h.Set("X-Goog-Hash", "crc32c="+body.String(d.shown, "crc32c")+",md5="+body.String(d.shown, "md5Hash"))
	h.Set("X-Goog-Stored-Content-Length", body.String(d.shown, "size"))
	h.Set("Etag", strconv.Quote(body.String(d.shown, "etag")))
	contentType := body.String(d.shown, "contentType")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	h.Set("Content-Type", contentType)
	for field, header := range map[string]string{"cacheControl": "Cache-Control", "contentDisposition": "Content-Disposition", "contentLanguage": "Content-Language"} {
		if s := body.String(d.shown, field); s != "" {
			h.Set(header, s)
		}
	}
	http.ServeContent(w, req, "", d.updated, d.file)
}

// Open gives the contents of a live object as the service account email may read it.
func (v *Service) Open(_ context.Context, bucket, name, email string) (io.ReadCloser, error) {
	b, ok := v.buckets.Get(bucket)
	if !ok {
		return nil, noBucket()
	}
	if err := v.permit(email, "objects.get", bucket, b, "object"); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.live(bucket, name)
	if o == nil {
		return nil, front.NotFound("No such object: %s/%s", bucket, name)
	}
	return os.Open(o.file)
}

// listObjects lists live objects, or all generations, in the order of their names, with folders folded at a delimiter.
func (v *Service) listObjects(r *front.Request, bucket string, _ map[string]any) (any, error) {
	prefix, delimiter, versions := r.Query.Get("prefix"), r.Query.Get("delimiter"), r.Query.Get("versions") == "true"
	start, end := r.Query.Get("startOffset"), r.Query.Get("endOffset")
	if r.Query.Get("softDeleted") == "true" {
		return nil, &front.Error{Code: 501, Reason: "notImplemented", Message: "The local cloud keeps no soft-deleted objects."}
	}
	type entry struct {
		folder string
		item   map[string]any
	}
	var all []entry
	v.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(v.objects[bucket])) {
		if !strings.HasPrefix(name, prefix) || start != "" && name < start || end != "" && name >= end {
			continue
		}
		if delimiter != "" {
			if i := strings.Index(name[len(prefix):], delimiter); i >= 0 && (versions || v.live(bucket, name) != nil) {
				folder := name[:len(prefix)+i+len(delimiter)]
				if n := len(all); n == 0 || all[n-1].folder != folder {
					all = append(all, entry{folder: folder})
				}
				continue
			}
		}
		for _, o := range v.objects[bucket][name] {
			if versions || o.deleted.IsZero() {
				all = append(all, entry{item: o.shown(bucket)})
			}
		}
	}
	v.mu.Unlock()
	size, _ := body.Int(map[string]any{"n": r.Query.Get("maxResults")}, "n")
	page, next, ok := body.Page(all, int(size), 1000, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid page token.")
	}
	var items []any
	var folders []any
	for _, e := range page {
		if e.folder != "" {
			folders = append(folders, e.folder)
		} else {
			items = append(items, e.item)
		}
	}
	answer := map[string]any{"kind": "storage#objects"}
	if items != nil {
		answer["items"] = items
	}
	if folders != nil {
		answer["prefixes"] = folders
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
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
	o, err := v.find(r, bucket, r.Path["object"])
	if err == nil {
		err = conditions(r, o)
	}
	if err != nil {
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
	return o.shown(bucket), nil
}

func (v *Service) deleteObject(r *front.Request, bucket string, b map[string]any) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := r.Path["object"]
	o, err := v.find(r, bucket, name)
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

// save writes contents to a file and gives an object that is not in any bucket yet.
func (v *Service) save(name string, contents io.Reader) (*object, error) {
	path := filepath.Join(v.dir, strconv.FormatInt(v.number(), 10))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	sum, crc := md5.New(), crc32.New(crc32.MakeTable(crc32.Castagnoli)) // as Cloud Storage shows them, not for security
	size, err := io.Copy(io.MultiWriter(f, sum, crc), contents)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &object{name: name, size: size, crc: crc.Sum32(), md5: sum.Sum(nil), file: path}, nil
}

// put makes o the live generation of its name, if the request's preconditions hold. The generation before it stays as
// an older version where the bucket has versioning.
func (v *Service) put(r *front.Request, bucket string, o *object, fields map[string]any) (any, error) {
	o.fields = pick(fields)
	var refused error
	b, ok := v.buckets.Get(bucket)
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.live(bucket, o.name)
	if !ok {
		refused = noBucket()
	} else {
		refused = conditions(r, before)
	}
	if refused == nil {
		refused = verify(o, fields)
	}
	if refused != nil {
		if err := os.Remove(o.file); err != nil {
			return nil, errors.Join(refused, err)
		}
		return nil, refused
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
	return o.shown(bucket), nil
}

// verify refuses contents that differ from the checksums the client gave.
func verify(o *object, fields map[string]any) error {
	var crc [4]byte
	binary.BigEndian.PutUint32(crc[:], o.crc)
	for field, have := range map[string][]byte{"crc32c": crc[:], "md5Hash": o.md5} {
		if want := body.String(fields, field); want != "" && want != base64.StdEncoding.EncodeToString(have) {
			return front.Invalid("Provided %s %q doesn't match calculated %s.", field, want, field)
		}
	}
	return nil
}

// copyObject copies within the local cloud. A rewrite answers with its progress, which is complete.
func (v *Service) copyObject(rewrite bool) front.Handler {
	return func(ctx context.Context, r *front.Request) (any, error) {
		from, to, name := r.Path["sourceBucket"], r.Path["destinationBucket"], r.Path["destinationObject"]
		target, ok := v.buckets.Get(to)
		if !ok {
			return nil, noBucket()
		}
		if err := v.permit(r.Caller, "objects.create", to, target, "object"); err != nil {
			return nil, err
		}
		v.mu.Lock()
		source := v.live(from, r.Path["sourceObject"])
		v.mu.Unlock()
		contents, err := v.Open(ctx, from, r.Path["sourceObject"], r.Caller)
		if err != nil {
			return nil, err
		}
		defer contents.Close()
		o, err := v.save(name, contents)
		if err != nil {
			return nil, err
		}
		fields := r.Body
		if len(pick(fields)) == 0 && source != nil {
			fields = source.fields
		}
		shown, err := v.put(r, to, o, fields)
		if err != nil || !rewrite {
			return shown, err
		}
		size := strconv.FormatInt(o.size, 10)
		return map[string]any{"kind": "storage#rewriteResponse", "totalBytesRewritten": size, "objectSize": size, "done": true, "resource": shown}, nil
	}
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
				out[bucket+"/"+name] = append(out[bucket+"/"+name], o.shown(bucket))
			}
		}
	}
	return out
}
