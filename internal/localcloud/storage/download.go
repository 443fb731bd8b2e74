package storage

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// getObject gives an object's fields, or its contents: as the JSON API does with alt=media, or as the XML API does.
func (v *Service) getObject(r *front.Request, bucket string, _ map[string]any) (any, error) {
	if r.XML {
		for header, param := range map[string]string{"X-Goog-If-Generation-Match": "ifGenerationMatch", "X-Goog-If-Metageneration-Match": "ifMetagenerationMatch"} {
			if value := r.HTTP.Header.Get(header); value != "" {
				if _, err := strconv.ParseInt(value, 10, 64); err != nil {
					return nil, front.Invalid("Invalid argument: %s: %s", header, value)
				}
				r.Query.Set(param, value)
			}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	o, err := v.find(bucket, r.Path["object"], r.Query.Get("generation"))
	if err == nil {
		err = conditions(r, o)
	}
	if err != nil {
		return nil, err
	}
	if !r.XML && r.Query.Get("alt") != "media" {
		return o.shown(base(r.HTTP), bucket), nil
	}
	part, partial := rangeOf(r.HTTP.Header.Get("Range"), o.size)
	undo := o.undone(r.HTTP.Header)
	if partial && part.length == 0 && !undo {
		return nil, &front.Error{
			Code: http.StatusRequestedRangeNotSatisfiable, Reason: "requestedRangeNotSatisfiable", Message: "Request range not satisfiable",
			Header: http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", o.size)}},
		}
	}
	f, err := os.Open(o.file) // while the lock keeps the file there
	if err != nil {
		return nil, err
	}
	d := &download{file: f, header: o.header(r.XML), undo: undo, updated: o.updated}
	if !partial {
		d.ignoreRange = true
	}
	return d, nil
}

// byteRange is a part of an object.
type byteRange struct{ first, length int64 }

// rangeOf reads a header "Range: bytes=0-99", "bytes=100-" or "bytes=-100". It gives false for none and for one that
// Cloud Storage passes over, as of several parts; a length of 0 means that nothing of the object lies there.
func rangeOf(header string, size int64) (byteRange, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	if !ok || !strings.HasPrefix(header, "bytes=") {
		return byteRange{}, false
	}
	if first == "" {
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return byteRange{}, false
		}
		n = min(n, uint64(size))
		return byteRange{size - int64(n), int64(n)}, true
	}
	from, err := strconv.ParseUint(first, 10, 63)
	to := uint64(size) - 1
	if err == nil && last != "" {
		to, err = strconv.ParseUint(last, 10, 63)
	}
	if err != nil || last != "" && to < from {
		return byteRange{}, false
	}
	if from >= uint64(size) {
		return byteRange{}, true
	}
	return byteRange{int64(from), int64(min(to, uint64(size)-1)-from) + 1}, true
}

// undone says whether an object that is kept compressed is given decompressed: to whoever does not say that it takes
// gzip, unless the object says no-transform.
func (o *object) undone(h http.Header) bool {
	if body.String(o.fields, "contentEncoding") != "gzip" || has(body.String(o.fields, "cacheControl"), "no-transform") {
		return false
	}
	return !has(strings.Join(h.Values("Accept-Encoding"), ","), "gzip")
}

// has says whether a comma-separated header has a value, whatever its parameters, except q=0.
func has(header, value string) bool {
	return slices.ContainsFunc(strings.Split(header, ","), func(s string) bool {
		name, params, _ := strings.Cut(s, ";")
		return strings.EqualFold(strings.TrimSpace(name), value) && strings.ReplaceAll(params, " ", "") != "q=0"
	})
}

// header gives what goes before an object's contents.
func (o *object) header(xml bool) http.Header {
	h := http.Header{}
	field := func(name, otherwise string) string {
		if s := body.String(o.fields, name); s != "" {
			return s
		}
		return otherwise
	}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Content-Type", field("contentType", "application/octet-stream"))
	set("Content-Encoding", field("contentEncoding", ""))
	set("Content-Disposition", field("contentDisposition", ""))
	set("Content-Language", field("contentLanguage", ""))
	set("Cache-Control", field("cacheControl", "private, max-age=0"))
	set("X-Goog-Generation", strconv.FormatInt(o.generation, 10))
	set("X-Goog-Metageneration", strconv.FormatInt(o.metageneration, 10))
	set("X-Goog-Stored-Content-Encoding", field("contentEncoding", "identity"))
	set("X-Goog-Stored-Content-Length", strconv.FormatInt(o.size, 10))
	set("X-Goog-Storage-Class", field("storageClass", "STANDARD"))
	set("Vary", "Accept-Encoding")
	hashes := []string{"crc32c=" + o.crc32c()}
	if o.md5 != nil {
		hashes = append(hashes, "md5="+o.md5Hash())
	}
	if !xml {
		set("Etag", strconv.Quote(o.etag()))
		set("X-Goog-Hash", strings.Join(hashes, ","))
		return h
	}
	set("Etag", strconv.Quote(o.etag()))
	if o.md5 != nil {
		set("Etag", strconv.Quote(hex.EncodeToString(o.md5)))
	}
	h["X-Goog-Hash"] = hashes
	if o.components > 0 {
		set("X-Goog-Component-Count", strconv.FormatInt(o.components, 10))
	}
	for name, value := range body.Map(o.fields, "metadata") {
		if s, ok := value.(string); ok && !strings.ContainsAny(name+s, "\r\n") {
			h[textproto.CanonicalMIMEHeaderKey("X-Goog-Meta-"+name)] = []string{s}
		}
	}
	return h
}

// download answers with an object's contents.
type download struct {
	file        *os.File
	header      http.Header
	undo        bool // the compression
	ignoreRange bool
	updated     time.Time
}

func (d *download) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer d.file.Close()
	for name, values := range d.header {
		w.Header()[name] = values
	}
	if d.undo && d.decompress(w, req) {
		return
	}
	if d.ignoreRange {
		req = req.Clone(req.Context())
		req.Header.Del("Range")
		w.Header().Set("Content-Length", d.header.Get("X-Goog-Stored-Content-Length"))
	}
	http.ServeContent(w, req, "", d.updated, d.file)
}

// decompress answers with contents that are kept compressed. It gives false when they are not, whatever they are said
// to be. A range is passed over, since there is no telling where it lies.
func (d *download) decompress(w http.ResponseWriter, req *http.Request) bool {
	z, err := gzip.NewReader(d.file)
	if err != nil {
		_, _ = d.file.Seek(0, io.SeekStart) // a file that cannot be read says so to ServeContent
		return false
	}
	h := w.Header()
	h.Del("Content-Encoding")
	h.Set("Warning", "214 UploadServer gunzipped")
	h.Set("X-Guploader-Response-Body-Transformations", "gunzipped")
	h.Set("Last-Modified", d.updated.UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodHead {
		return true
	}
	if _, err := io.Copy(w, z); err != nil {
		panic(http.ErrAbortHandler) // so that the client does not take what it has for the whole
	}
	return true
}
