package state

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// keep is how many runs the history remembers.
const keep = 50

// State is what is kept between runs.
type State struct {
	Stack   string
	Project string
	Owned   []resource.Ref
	History []Run
	Intent  *Intent // of a run that is at work, or that did not end well and may have left operations running

	Pins    []Pin
	Schema  *Schema   // what the databases were migrated to, as far as is known
	Enabled []Enabled // services that the last runs set out to enable

	version  int    // of the format it was read in; 0 when there was none
	run      string // that wrote it last
	serial   int64
	needs    []string
	extra    fields
	refs     map[resource.ID]fields
	repaired bool // it is not what the object holds

	generation string // of the object it was read from; "" when there was none
}

// Intent is what a run set out to do. It is written before the first step, and taken back when the run ended well.
type Intent struct {
	Run     string    `json:"run"`
	Command string    `json:"command"`
	Args    []string  `json:"args,omitempty"` // as given on the command line; never a secret
	At      time.Time `json:"at"`
	By      string    `json:"by"` // user@host
	Host    string    `json:"host_id"`
	Version string    `json:"version"` // of difyup

	extra fields
}

// Pin is the image that a tag stood for when it was asked for, so that all instances run the same bytes from then on.
type Pin struct {
	Tag      string `json:"tag"`      // "langgenius/dify-api:1.17.1"
	Platform string `json:"platform"` // "linux/amd64"
	Digest   string `json:"digest"`   // "sha256:…"

	extra fields
}

// Schema is what the databases were migrated to, as instances of that version said when they served.
type Schema struct {
	Version string    `json:"version,omitempty"` // of Dify
	Head    string    `json:"head,omitempty"`    // the revision
	At      time.Time `json:"at,omitzero"`       // when it was recorded

	extra fields
}

// fresh is how long after it was enabled a service may answer as if it were not.
const fresh = 10 * time.Minute

// Enabled is a service that a run set out to enable.
type Enabled struct {
	Service string    `json:"service"` // "compute.googleapis.com"
	At      time.Time `json:"at"`      // by the server's clock

	extra fields
}

// Enable notes services that are about to be enabled, and forgets those that were long ago.
func (st *State) Enable(services []string, now time.Time) {
	now = now.UTC().Truncate(time.Second)
	st.Enabled = slices.DeleteFunc(slices.Clone(st.Enabled), func(e Enabled) bool { return !e.lately(now) || slices.Contains(services, e.Service) })
	for _, s := range services {
		st.Enabled = append(st.Enabled, Enabled{Service: s, At: now})
	}
}

// Lately gives the services that a run set out to enable a short time ago.
func (st *State) Lately(now time.Time) []string {
	var names []string
	for _, e := range st.Enabled {
		if e.lately(now) {
			names = append(names, e.Service)
		}
	}
	return names
}

func (e Enabled) lately(now time.Time) bool {
	return now.Sub(e.At).Abs() < fresh // clocks differ, but not by so much
}

// Run is one entry of the history.
type Run struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"` // user@host
	Command string    `json:"command"`
	Version string    `json:"version"` // of difyup
	Created int       `json:"created"`
	Updated int       `json:"updated"`
	Deleted int       `json:"deleted"`
	Failed  int       `json:"failed"`

	extra fields
}

// Record adds a run to the history.
func (st *State) Record(r Run) {
	st.History = append(st.History, r)
	if n := len(st.History) - keep; n > 0 {
		st.History = st.History[n:]
	}
}

// Lost says whether nothing is known of the stack: it was never made, or its state was lost.
func (st *State) Lost() bool { return len(st.Owned) == 0 && len(st.History) == 0 }

// Stale says whether the object must be written although nothing changed: it has an older format, or was broken.
func (st *State) Stale() bool { return st.repaired || st.version != 0 && st.version != format }

// Store is where a stack's state lies.
type Store struct {
	client *gcp.Client
	stack  string
	region string
	bucket string
	run    string           // this run's ID
	now    func() time.Time // the wall clock

	mu   sync.Mutex
	ours bool // the bucket was seen in our project, with the stack's mark
}

// Open gives the store of a stack, which lies in the stack's region; without a region it is not made. It sends no
// request.
func Open(c *gcp.Client, stack, region string) *Store {
	return &Store{client: c, stack: stack, region: region, bucket: c.Project() + "-" + stack + "-difyup", run: rand.Text(), now: time.Now}
}

// Bucket is the name of the state's bucket.
func (s *Store) Bucket() string { return s.bucket }

const (
	stateObject = "state.json"
	lockObject  = "lock.json"
)

func (s *Store) url(object string) string { return "gs://" + s.bucket + "/" + object }

// Intend says in the state what this run is going to do.
func (s *Store) Intend(st *State, command string, args []string, version string) {
	st.Intent = &Intent{Run: s.run, Command: command, Args: args, At: time.Now().UTC().Truncate(time.Second), By: Me(), Host: hostID(), Version: version}
}

// Read gives the state, empty when there is none yet. Two requests at once, the first time; they also tell the client
// the project's number. A state that is broken or missing is replaced by the last good version that the bucket keeps,
// which is an event; it is written when the state is written next.
func (s *Store) Read(ctx context.Context) (*State, error) {
	raw, at, err := s.get(ctx, stateObject)
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	broken := errors.New("it was deleted")
	if at.generation != "" {
		st, err := s.decode(raw)
		if err == nil {
			st.generation = at.generation
			return st, nil
		}
		if !errors.Is(err, errBroken) {
			return nil, err
		}
		broken = err
	}
	empty := &State{Stack: s.stack, Project: s.client.Project()}
	if !s.known() {
		return empty, nil
	}
	st, from, err := s.lastGood(ctx, at.generation)
	if err != nil {
		return nil, err
	}
	switch {
	case st == nil && at.generation != "":
		return nil, &fault.Fault{
			Summary: "The state cannot be read",
			Detail:  fmt.Sprintf("%s: %v. The bucket keeps no older version that is one.", s.url(stateObject), broken),
			Remedy:  "Move it out of the way, then run this again; what exists is found by its marks:\n    gcloud storage mv " + s.url(stateObject) + " " + s.url("state.broken"),
			Cause:   broken,
		}
	case st == nil && from == "":
		return empty, nil // there never was one
	case st == nil:
		s.client.Notify(event.Info, "", "the state is lost, and no version of it can be read; what exists is found by its marks")
		return empty, nil
	}
	st.generation, st.repaired = at.generation, true
	st.Record(Run{At: time.Now().UTC().Truncate(time.Second), By: Me(), Command: "repair of the state, from its version of " + from})
	s.client.Notify(event.Info, "", fmt.Sprintf("the state could not be read (%v); its version of %s takes its place", broken, from))
	return st, nil
}

// lastGood gives the newest readable version of the state apart from the live one, and when that was written. Without
// one, the time is "" if there are no versions at all.
func (s *Store) lastGood(ctx context.Context, live string) (*State, string, error) {
	items, err := s.client.List(ctx, kind.Buckets.Kind, "b/"+s.bucket+"/o", url.Values{
		"versions": {"true"}, "prefix": {stateObject}, "fields": {"items(name,generation,updated),nextPageToken"},
	})
	if err != nil {
		return nil, "", fmt.Errorf("look for older versions of the state: %w", err)
	}
	generation := func(item map[string]any) int64 {
		n, _ := strconv.ParseInt(fmt.Sprint(item["generation"]), 10, 64)
		return n
	}
	slices.SortFunc(items, func(a, b map[string]any) int { return int(min(max(generation(b)-generation(a), -1), 1)) })
	seen := ""
	for _, item := range items {
		if item["name"] != stateObject || fmt.Sprint(item["generation"]) == live {
			continue
		}
		seen = fmt.Sprint(item["updated"])
		raw, _, err := s.fetch(ctx, stateObject, fmt.Sprint(item["generation"]))
		if gcp.Is(err, 404) {
			continue // the bucket keeps so many only
		}
		if err != nil {
			return nil, "", fmt.Errorf("read an older version of the state: %w", err)
		}
		st, err := s.decode(raw)
		if err == nil {
			return st, seen, nil
		}
		if !errors.Is(err, errBroken) {
			return nil, "", err
		}
	}
	return nil, seen, nil
}

// Write saves the state. It fails when somebody else wrote since it was read, and says so only then.
func (s *Store) Write(ctx context.Context, st *State) error {
	next := *st
	next.run, next.serial = s.run, st.serial+1
	raw, err := next.encode()
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	for try := 0; ; try++ {
		generation, err := s.put(ctx, stateObject, raw, next.generation)
		if err == nil {
			next.generation = generation
			break
		}
		if !gcp.Is(err, 412) {
			return fmt.Errorf("write the state: %w", err)
		}
		// Perhaps it was we who wrote, and the answer was lost.
		have, at, readErr := s.fetch(ctx, stateObject, "")
		if missing(readErr) != nil {
			return fmt.Errorf("write the state: %w", readErr)
		}
		moved := at.generation != next.generation
		next.generation = at.generation
		if readErr == nil && bytes.Equal(raw, have) {
			break
		}
		if moved && writer(have) != s.run {
			return &fault.Fault{
				Summary: "The state was changed by another run",
				Detail:  fmt.Sprintf("%s was written by another run while this one held the lock. The lock must have been broken.", s.url(stateObject)),
				Remedy:  "Find out who else is running difyup on this stack, then apply again:\n    difyup apply",
				Cause:   err,
			}
		}
		if try == 3 {
			return fmt.Errorf("write the state: %w", err)
		}
		if err := gcp.Sleep(ctx, gcp.Backoff(try, 20*time.Millisecond, time.Second)); err != nil {
			return err
		}
	}
	next.version, next.repaired = format, false
	*st = next
	return nil
}

// writer gives the ID of the run that wrote an object, or "".
func writer(raw []byte) string {
	var w struct{ Run string }
	if json.Unmarshal(raw, &w) != nil {
		return ""
	}
	return w.Run
}
