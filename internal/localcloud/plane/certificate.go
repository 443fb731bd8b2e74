//go:build linux

package plane

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/difyup/difyup/internal/localcloud/authority"
)

// The files of a server's certificate, in its directory.
const (
	certificateFile = "server.crt"
	keyFile         = "server.key"
)

// certify writes a server's certificate and its key into its directory, as the servers' user's.
func certify(a *authority.Set, dir, name string, addr netip.Addr) error {
	certificate, key, err := a.Issue(name, addr)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{certificateFile: certificate, keyFile: key} {
		// The directory is the servers' user's: what it may have put there is not followed.
		next := filepath.Join(dir, file+".next")
		if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		if err := errors.Join(err, ownFile(f), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(next, filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return nil
}
