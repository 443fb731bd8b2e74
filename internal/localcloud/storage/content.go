package storage

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// maxObject bounds an upload: this is a laptop's disk.
const maxObject = 4 << 30

func tooLarge() error {
	return &front.Error{Code: http.StatusRequestEntityTooLarge, Reason: "uploadTooLarge", Message: "The local cloud's objects have at most 4 GiB."}
}

// spool is a file that contents are appended to, and what is known of them so far. It is for one user at a time.
type spool struct {
	path string
	file *os.File
	size int64
	md5  hash.Hash // as Cloud Storage shows them, not for security
	crc  hash.Hash32
}

func (v *Service) newSpool() (*spool, error) {
	path := filepath.Join(v.dir, strconv.FormatInt(v.number(), 10))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &spool{path: path, file: f, md5: md5.New(), crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}, nil
}

// Write appends p, or nothing: what a full disk leaves half written is written over by the next call.
func (s *spool) Write(p []byte) (int, error) {
	if s.size+int64(len(p)) > maxObject {
		return 0, tooLarge()
	}
	if _, err := s.file.WriteAt(p, s.size); err != nil {
		return 0, err
	}
	s.size += int64(len(p))
	s.md5.Write(p)
	s.crc.Write(p)
	return len(p), nil
}

// object ends the spool: its contents are those of an object that is not in any bucket yet.
func (s *spool) object(name string) (*object, error) {
	err := s.file.Truncate(s.size)
	if err := errors.Join(err, s.file.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(s.path))
	}
	return &object{name: name, size: s.size, crc: s.crc.Sum32(), md5: s.md5.Sum(nil), file: s.path}, nil
}

// drop ends the spool and removes its contents.
func (s *spool) drop() error { return errors.Join(s.file.Close(), os.Remove(s.path)) }

// save keeps contents as an object that is not in any bucket yet.
func (v *Service) save(name string, contents io.Reader) (*object, error) {
	s, err := v.newSpool()
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(s, contents); err != nil {
		return nil, errors.Join(err, s.drop())
	}
	return s.object(name)
}

// checksums are what a client says of its contents: in an object's fields, or in the header X-Goog-Hash.
type checksums struct{ crc32c, md5 string } // in base64, "" for none

func checksumsOf(fields map[string]any, h http.Header) (checksums, error) {
	c := checksums{crc32c: body.String(fields, "crc32c"), md5: body.String(fields, "md5Hash")}
	for _, line := range h.Values("X-Goog-Hash") {
		for part := range strings.SplitSeq(line, ",") {
			kind, sum, _ := strings.Cut(strings.TrimSpace(part), "=")
			into := map[string]*string{"crc32c": &c.crc32c, "md5": &c.md5}[kind]
			if into == nil || *into != "" && *into != sum {
				return c, front.Invalid("Invalid value for X-Goog-Hash: %q", line)
			}
			*into = sum
		}
	}
	return c, nil
}

// verify refuses contents that are not what the client meant.
func (c checksums) verify(o *object) error {
	for _, sum := range []struct{ field, want, have string }{{"crc32c", c.crc32c, o.crc32c()}, {"md5Hash", c.md5, o.md5Hash()}} {
		if sum.want != "" && sum.want != sum.have {
			return front.Invalid("Provided %s %q doesn't match calculated %s %q.", sum.field, sum.want, sum.field, sum.have)
		}
	}
	return nil
}

func (o *object) crc32c() string {
	var crc [4]byte
	binary.BigEndian.PutUint32(crc[:], o.crc)
	return base64.StdEncoding.EncodeToString(crc[:])
}

// md5Hash gives "" for a composed object, which has none.
func (o *object) md5Hash() string { return base64.StdEncoding.EncodeToString(o.md5) }
