package storage

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// maxObject bounds an upload: this is a laptop's disk.
const maxObject = 4 << 30

// session is a resumable upload under way.
type session struct {
	bucket, name string
	fields       map[string]any
	request      *front.Request // the first one, with its preconditions
	file         string
	received     int64
}

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
		return v.resume(r, id)
	}
	if err := v.permit(r.Caller, "objects.create", bucket, b, "object"); err != nil {
		return nil, err
	}
	req := r.HTTP
	kind, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		kind = "application/octet-stream"
	}
	fields := map[string]any{"contentType": kind}
	contents := io.Reader(req.Body)
	switch r.Query.Get("uploadType") {
	case "multipart":
		parts := multipart.NewReader(req.Body, params["boundary"])
		first, err := parts.NextPart()
		if err != nil {
			return nil, front.Invalid("Malformed multipart body: %v", err)
		}
		if fields, err = decodeFields(first); err != nil {
			return nil, err
		}
		second, err := parts.NextPart()
		if err != nil {
			return nil, front.Invalid("Malformed multipart body: %v", err)
		}
		if body.String(fields, "contentType") == "" {
			fields["contentType"] = second.Header.Get("Content-Type")
		}
		contents = second
	case "resumable":
		if fields, err = decodeFields(req.Body); err != nil {
			return nil, err
		}
		if t := req.Header.Get("X-Upload-Content-Type"); t != "" && body.String(fields, "contentType") == "" {
			fields["contentType"] = t
		}
		return v.begin(r, bucket, fields)
	}
	name, err := nameOf(r, fields)
	if err != nil {
		return nil, err
	}
	o, err := v.save(name, io.LimitReader(contents, maxObject))
	if err != nil {
		return nil, err
	}
	return v.put(r, bucket, o, fields)
}

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
	return fields, nil
}

func nameOf(r *front.Request, fields map[string]any) (string, error) {
	name := r.Query.Get("name")
	if name == "" {
		name = body.String(fields, "name")
	}
	if name == "" || len(name) > 1024 || strings.ContainsAny(name, "\r\n") || name == "." || name == ".." {
		return "", front.Invalid("Invalid object name: %q", name)
	}
	return name, nil
}

// begin starts a resumable upload and answers with where its pieces go.
func (v *Service) begin(r *front.Request, bucket string, fields map[string]any) (any, error) {
	name, err := nameOf(r, fields)
	if err != nil {
		return nil, err
	}
	id := rand.Text()
	path := filepath.Join(v.dir, "upload-"+id)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.sessions[id] = &session{bucket: bucket, name: name, fields: fields, request: r, file: path}
	v.mu.Unlock()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to := url.URL{Scheme: "http", Host: req.Host, Path: req.URL.Path, RawQuery: url.Values{"uploadType": {"resumable"}, "upload_id": {id}, "name": {name}}.Encode()}
		w.Header().Set("Location", to.String())
		w.Header().Set("X-GUploader-UploadID", id)
		w.WriteHeader(http.StatusOK)
	}), nil
}

// resume takes a piece, "Content-Range: bytes 0-524287/2000000", or tells how much has arrived, "bytes */2000000".
func (v *Service) resume(r *front.Request, id string) (any, error) {
	v.mu.Lock()
	s := v.sessions[id]
	v.mu.Unlock()
	if s == nil {
		return nil, front.NotFound("No such upload: it is complete, was cancelled, or never began.")
	}
	first, total, err := parseRange(r.HTTP.Header.Get("Content-Range"), s.received)
	if err != nil {
		return nil, err
	}
	if first >= 0 {
		if first != s.received {
			return nil, &front.Error{Code: http.StatusServiceUnavailable, Reason: "backendError", Message: fmt.Sprintf("The piece begins at %d, but %d bytes have arrived.", first, s.received)}
		}
		f, err := os.OpenFile(s.file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		n, err := io.Copy(f, io.LimitReader(r.HTTP.Body, maxObject-s.received))
		s.received += n
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	if total < 0 || s.received < total {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if s.received > 0 {
				w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", s.received-1))
			}
			// 308 is "Resume Incomplete" here. Clients whose HTTP library would follow it as a redirect ask for it another way.
			if r.HTTP.Header.Get("X-Guploader-No-308") == "yes" {
				w.Header().Set("X-Http-Status-Code-Override", "308")
				w.WriteHeader(http.StatusOK)
				return
			}
			w.WriteHeader(http.StatusPermanentRedirect)
		}), nil
	}
	v.mu.Lock()
	delete(v.sessions, id)
	v.mu.Unlock()
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	o, err := v.save(s.name, f)
	if err := errors.Join(err, f.Close(), os.Remove(s.file)); err != nil {
		return nil, err
	}
	return v.put(s.request, s.bucket, o, s.fields)
}

// parseRange reads a Content-Range. First is -1 for a question, total is -1 while it is unknown; without the header the
// piece is all the rest.
func parseRange(header string, received int64) (first, total int64, err error) {
	if header == "" {
		return received, received, nil
	}
	span, size, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	if !ok {
		return 0, 0, front.Invalid("Invalid Content-Range: %q", header)
	}
	total = -1
	if size != "*" {
		if total, err = strconv.ParseInt(size, 10, 64); err != nil {
			return 0, 0, front.Invalid("Invalid Content-Range: %q", header)
		}
	}
	if span == "*" {
		return -1, total, nil
	}
	from, _, _ := strings.Cut(span, "-")
	if first, err = strconv.ParseInt(from, 10, 64); err != nil {
		return 0, 0, front.Invalid("Invalid Content-Range: %q", header)
	}
	return first, total, nil
}
