package storage

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// source is an object whose contents are read for another one.
type source struct {
	object object // as it was when it was opened
	file   *os.File
}

// open opens an object that the caller may read.
func (v *Service) open(r *front.Request, bucket, name, generation string, check func(*object) error) (*source, error) {
	b, ok := v.buckets.Get(bucket)
	if !ok {
		return nil, noBucket()
	}
	if err := v.permit(r, "objects.get", bucket, b, name); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	o, err := v.find(bucket, name, generation)
	if err == nil {
		err = check(o)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(o.file) // while the lock keeps the file there
	if err != nil {
		return nil, err
	}
	return &source{object: *o, file: f}, nil
}

// target checks that the caller may write an object.
func (v *Service) target(r *front.Request, bucket, name string) error {
	b, ok := v.buckets.Get(bucket)
	if !ok {
		return noBucket()
	}
	if err := checkName(name); err != nil {
		return err
	}
	return v.permit(r, "objects.create", bucket, b, name)
}

// copyObject copies in one go.
func (v *Service) copyObject(_ context.Context, r *front.Request) (any, error) {
	s, err := v.openSource(r)
	if err != nil {
		return nil, err
	}
	defer s.file.Close()
	return v.copy(r, s)
}

// rewriteObject copies in as many calls as the client wants. Only the last one writes: those before it count.
func (v *Service) rewriteObject(_ context.Context, r *front.Request) (any, error) {
	most := int64(maxObject)
	if given := r.Query.Get("maxBytesRewrittenPerCall"); given != "" {
		n, err := strconv.ParseInt(given, 10, 64)
		if err != nil || n <= 0 || n%(1<<20) != 0 {
			return nil, front.Invalid("maxBytesRewrittenPerCall must be a positive multiple of 1 MiB (1048576).")
		}
		most = n
	}
	s, err := v.openSource(r)
	if err != nil {
		return nil, err
	}
	defer s.file.Close()
	size, done := s.object.size, int64(0)
	what := fmt.Sprintf("%s/%s/%d %s/%s ", r.Path["sourceBucket"], s.object.name, s.object.generation, r.Path["destinationBucket"], r.Path["destinationObject"])
	if token := r.Query.Get("rewriteToken"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		count, ok := strings.CutPrefix(string(raw), what)
		n, notNumber := strconv.ParseInt(count, 10, 64)
		if err != nil || !ok || notNumber != nil || n < 0 || n > size {
			return nil, front.Invalid("Invalid rewrite token: it belongs to another rewrite.")
		}
		done = n
	}
	done = min(done+most, size)
	answer := map[string]any{"kind": "storage#rewriteResponse", "totalBytesRewritten": strconv.FormatInt(done, 10), "objectSize": strconv.FormatInt(size, 10), "done": done == size}
	if done < size {
		answer["rewriteToken"] = base64.RawURLEncoding.EncodeToString([]byte(what + strconv.FormatInt(done, 10)))
		return answer, nil
	}
	answer["resource"], err = v.copy(r, s)
	return answer, err
}

// openSource opens what a request copies, once it is clear that the copy may be written.
func (v *Service) openSource(r *front.Request) (*source, error) {
	if err := v.target(r, r.Path["destinationBucket"], r.Path["destinationObject"]); err != nil {
		return nil, err
	}
	if err := checkFields(r.Body); err != nil {
		return nil, err
	}
	return v.open(r, r.Path["sourceBucket"], r.Path["sourceObject"], r.Query.Get("sourceGeneration"), func(o *object) error { return met(r, o, "ifSource") })
}

// copy writes the copy. A body replaces the fields of the source.
func (v *Service) copy(r *front.Request, s *source) (map[string]any, error) {
	o, err := v.save(r.Path["destinationObject"], s.file)
	if err != nil {
		return nil, err
	}
	fields := r.Body
	if len(pick(fields)) == 0 {
		fields = s.object.fields
	}
	if o.components = s.object.components; o.components > 0 {
		o.md5 = nil
	}
	return v.put(r, r.Path["destinationBucket"], o, fields, checksums{})
}

// maxComponents is how many objects one call composes.
const maxComponents = 32

// composeObject puts objects of a bucket one behind the other.
func (v *Service) composeObject(_ context.Context, r *front.Request) (any, error) {
	bucket, name := r.Path["destinationBucket"], r.Path["destinationObject"]
	if err := v.target(r, bucket, name); err != nil {
		return nil, err
	}
	fields := store.Clone(body.Map(r.Body, "destination"))
	parts := body.Maps(r.Body, "sourceObjects")
	switch {
	case len(parts) == 0:
		return nil, front.Invalid("You must provide at least one source component.")
	case len(parts) > maxComponents:
		return nil, front.Invalid("The number of source components provided (%d) exceeds the maximum (%d)", len(parts), maxComponents)
	case body.Bool(r.Body, "deleteSourceObjects"):
		return nil, front.Invalid("The local cloud does not honour deleteSourceObjects.")
	}
	if err := checkFields(fields); err != nil {
		return nil, err
	}
	sums, err := checksumsOf(fields, nil)
	if err != nil {
		return nil, err
	}
	spool, err := v.newSpool()
	if err != nil {
		return nil, err
	}
	components := int64(0)
	for _, part := range parts {
		n, err := v.appendObject(r, spool, bucket, part)
		if err != nil {
			return nil, errors.Join(err, spool.drop())
		}
		components += n
	}
	o, err := spool.object(name)
	if err != nil {
		return nil, err
	}
	o.md5, o.components = nil, components
	return v.put(r, bucket, o, fields, sums)
}

// appendObject writes a part of a composition and gives of how many parts it was composed itself.
func (v *Service) appendObject(r *front.Request, to *spool, bucket string, part map[string]any) (int64, error) {
	s, err := v.open(r, bucket, body.String(part, "name"), body.String(part, "generation"), func(o *object) error {
		if want := body.String(part, "objectPreconditions.ifGenerationMatch"); want != "" && want != strconv.FormatInt(o.generation, 10) {
			return failedPrecondition()
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	defer s.file.Close()
	_, err = io.Copy(to, s.file)
	return max(s.object.components, 1), err
}
