package store

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// ErrNotFound is returned by Update for a key that is not there.
var ErrNotFound = errors.New("not found")

// Store holds the collections of one local cloud.
type Store struct {
	mu          sync.Mutex
	collections map[string]*Collection
}

// New gives an empty store.
func New() *Store { return &Store{collections: map[string]*Collection{}} }

// Collection gives the collection of that name, made when first asked for: "networks", "sql.instances".
func (s *Store) Collection(name string) *Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.collections[name]
	if c == nil {
		c = &Collection{name: name, bodies: map[string]map[string]any{}}
		s.collections[name] = c
	}
	return c
}

// Names gives the names of the collections that hold something, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	all := slices.Sorted(maps.Keys(s.collections))
	s.mu.Unlock()
	return slices.DeleteFunc(all, func(name string) bool { return s.Collection(name).Len() == 0 })
}

// Collection holds bodies by key, a relative link such as "projects/p/global/networks/n". It is safe for concurrent
// use.
type Collection struct {
	name string

	mu     sync.RWMutex
	bodies map[string]map[string]any
	rev    int64 // counts writes
}

// Name is the collection's name.
func (c *Collection) Name() string { return c.name }

// Get gives a copy of the body at key.
func (c *Collection) Get(key string) (map[string]any, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	body, ok := c.bodies[key]
	return Clone(body), ok
}

// Put stores a copy of body at key, whether something was there or not.
func (c *Collection) Put(key string, body map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rev++
	c.bodies[key] = Clone(body)
}

// Create stores a copy of body at key, unless something is there.
func (c *Collection) Create(key string, body map[string]any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.bodies[key]; taken {
		return false
	}
	c.rev++
	c.bodies[key] = Clone(body)
	return true
}

// Delete removes what is at key, and says whether something was.
func (c *Collection) Delete(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.bodies[key]
	if ok {
		c.rev++
		delete(c.bodies, key)
	}
	return ok
}

// List gives copies of the bodies whose keys begin with prefix, ordered by key.
func (c *Collection) List(prefix string) []map[string]any {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []map[string]any
	for _, key := range slices.Sorted(maps.Keys(c.bodies)) {
		if strings.HasPrefix(key, prefix) {
			out = append(out, Clone(c.bodies[key]))
		}
	}
	return out
}

// Keys gives the keys that begin with prefix, sorted.
func (c *Collection) Keys(prefix string) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []string
	for key := range c.bodies {
		if strings.HasPrefix(key, prefix) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// Len is the number of bodies.
func (c *Collection) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.bodies)
}

// Update lets change alter a copy of the body at key, which is stored when change returns nil. Nobody else reads or
// writes the collection meanwhile: change must not either. It returns ErrNotFound, or what change returns.
func (c *Collection) Update(key string, change func(body map[string]any) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, ok := c.bodies[key]
	if !ok {
		return ErrNotFound
	}
	next := Clone(body)
	if err := change(next); err != nil {
		return err
	}
	c.rev++
	c.bodies[key] = next
	return nil
}

// Clone copies a decoded JSON object deeply.
func Clone(m map[string]any) map[string]any {
	if m == nil {
		return nil
	}
	return cloneValue(m).(map[string]any)
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = cloneValue(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = cloneValue(e)
		}
		return l
	case []map[string]any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = cloneValue(e)
		}
		return l
	case []string:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = e
		}
		return l
	case map[string]string:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = e
		}
		return m
	case int:
		return float64(v)
	case int64:
		return float64(v)
	}
	return v
}

// Fingerprint gives eight bytes of base64, as Google writes them, that change with the body and with rev.
func Fingerprint(body map[string]any, rev int64) string {
	raw, _ := json.Marshal(body) // decoded JSON always encodes
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(raw, uint64(rev)))
	return base64.StdEncoding.EncodeToString(sum[:8])
}
