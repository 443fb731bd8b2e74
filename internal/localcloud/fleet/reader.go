package fleet

import (
	"maps"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// reader reads resources from the compute service's collections.
type reader struct{ store *store.Store }

var _ wire.Reader = reader{}

// collection is the name of the collection that holds a kind.
func collection(kind string) string { return kind }

// Get gives the body at a key.
func (r reader) Get(key string) (map[string]any, bool) {
	return r.store.Collection(collection(wire.Kind(key))).Get(key)
}

// List gives the bodies of a kind.
func (r reader) List(kind string) []map[string]any {
	return r.store.Collection(collection(kind)).List("projects/")
}

// change sets fields of a body, if it is still there.
func (r reader) change(key string, fields map[string]any) {
	// A resource that was deleted meanwhile has nothing to be changed.
	_ = r.store.Collection(collection(wire.Kind(key))).Update(key, func(body map[string]any) error {
		maps.Copy(body, fields)
		return nil
	})
}

// keyPair reads a certificate's chain and key from its body.
func (r reader) keyPair(key string) (string, string, bool) {
	c, ok := wire.Get[struct {
		Certificate string `json:"certificate"`
		PrivateKey  string `json:"privateKey"`
	}](r, key)
	return c.Certificate, c.PrivateKey, ok && c.PrivateKey != ""
}
