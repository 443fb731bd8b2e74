package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// insertObject takes an upload: the contents alone, contents behind a part with the fields, or the beginning or a piece
// of a resumable one.
func (v *Service) insertObject(_ context.Context, r *front.Request) (any, error) {
	bucket := r.Path["bucket"]
	b, ok := v.buckets.Get(bucket)
	if !ok {
		return nil, noBucket()
	}
	if !r.Upload {
		return nil, front.Invalid("Objects are uploaded below /upload.")
	}
	if id := r.Query.Get("upload_id"); id != "" {
		if r.HTTP.Method == http.MethodDelete {
			return v.cancel(id)
		}
		return v.resume(r, id)
	}
	if r.HTTP.Method != http.MethodPost {
		return nil, front.Invalid("An upload begins with POST; only its pieces, with their upload_id, are sent otherwise.")
	}
	// What it will be called stands in the query or the fields, which are read only for whom may write something at all.
	may := func(fields map[string]any) error {
		return v.permit(r, "objects.create", bucket, b, cmp.Or(r.Query.Get("name"), body.String(fields, "name")))
	}
	if r.Boundary == nil {
		if err := may(nil); err != nil {
			return nil, err
		}
	}
	switch kind := r.Query.Get("uploadType"); kind {
	case "", "media":
		fields := map[string]any{"contentType": cmp.Or(r.HTTP.Header.Get("Content-Type"), "application/octet-stream")}
		if err := may(fields); err != nil {
			return nil, err
		}
		return v.insertWhole(r, bucket, fields, r.HTTP.Body)
	case "multipart":
		fields, contents, err := readParts(r.HTTP)
		if err == nil {
			err = may(fields)
		}
		if err != nil {
			return nil, err
		}
		return v.insertWhole(r, bucket, fields, contents)
	case "resumable":
		fields, err := decodeFields(r.HTTP.Body)
		if err == nil {
			err = may(fields)
		}
		if err != nil {
			return nil, err
		}
		if t := r.HTTP.Header.Get("X-Upload-Content-Type"); t != "" && body.String(fields, "contentType") == "" {
			fields["contentType"] = t
		}
		withEncoding(r, fields)
		return v.begin(r, bucket, fields)
	default:
		return nil, front.Invalid("Invalid upload type: %q", kind)
	}
}

// withEncoding has the query's contentEncoding count, which goes before the field.
func withEncoding(r *front.Request, fields map[string]any) {
	if e := r.Query.Get("contentEncoding"); e != "" {
		fields["contentEncoding"] = e
	}
}

// insertWhole takes an upload that comes in one request.
func (v *Service) insertWhole(r *front.Request, bucket string, fields map[string]any, contents io.Reader) (any, error) {
	withEncoding(r, fields)
	name, err := nameOf(r, fields)
	if err != nil {
		return nil, err
	}
	sums, err := checksumsOf(fields, r.HTTP.Header)
	if err != nil {
		return nil, err
	}
	o, err := v.save(name, contents)
	if err != nil {
		return nil, err
	}
	return v.put(r, bucket, o, fields, sums)
}

// readParts reads an upload of two parts, the fields and the contents.
func readParts(req *http.Request) (map[string]any, io.Reader, error) {
	malformed := func(err error) error { return front.Invalid("Malformed multipart body: %v", err) }
	_, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		return nil, nil, malformed(err)
	}
	parts := multipart.NewReader(req.Body, params["boundary"])
	first, err := parts.NextRawPart()
	if err != nil {
		return nil, nil, malformed(err)
	}
	fields, err := decodeFields(first)
	if err != nil {
		return nil, nil, err
	}
	second, err := parts.NextRawPart()
	if err != nil {
		return nil, nil, malformed(err)
	}
	if t := second.Header.Get("Content-Type"); body.String(fields, "contentType") == "" && t != "" {
		fields["contentType"] = t
	}
	return fields, &lastPart{part: second, parts: parts}, nil
}

// lastPart is a part behind which nothing may come but the end.
type lastPart struct {
	part  *multipart.Part
	parts *multipart.Reader
}

func (l *lastPart) Read(p []byte) (int, error) {
	n, err := l.part.Read(p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, front.Invalid("Malformed multipart body: it ends before its last boundary.")
	case errors.Is(err, io.EOF):
		if _, err := l.parts.NextRawPart(); !errors.Is(err, io.EOF) {
			return n, front.Invalid("Malformed multipart body: it must contain exactly two parts.")
		}
	}
	return n, err
}

// given are an object's fields that a client may send and that are not its to set; Google passes them over.
var given = []string{"kind", "id", "selfLink", "mediaLink", "name", "bucket", "generation", "metageneration", "size", "md5Hash", "crc32c", "etag", "owner", "timeCreated", "timeFinalized", "updated", "timeDeleted", "timeStorageClassUpdated", "componentCount"}

// decodeFields reads an object's fields, and refuses those that the local cloud could only forget.
func decodeFields(from io.Reader) (map[string]any, error) {
	raw, err := io.ReadAll(io.LimitReader(from, 1<<20))
	if err != nil {
		return nil, front.Invalid("The object's fields could not be read: %v", err)
	}
	fields := map[string]any{}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return fields, nil
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, front.Invalid("Parse Error: %v", err)
	}
	return fields, checkFields(fields)
}

func nameOf(r *front.Request, fields map[string]any) (string, error) {
	name := r.Query.Get("name")
	if name == "" {
		name = body.String(fields, "name")
	}
	return name, checkName(name)
}

func checkName(name string) error {
	if name == "" || len(name) > 1024 || strings.ContainsAny(name, "\r\n") || name == "." || name == ".." {
		return front.Invalid("Invalid object name: %q", name)
	}
	return nil
}
