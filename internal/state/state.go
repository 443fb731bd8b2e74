package state

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// version is the format's. A reader refuses a newer one.
const version = 1

// keep is how many runs the history remembers.
const keep = 50

// State is what is kept between runs.
type State struct {
	Version int            `json:"version"`
	Stack   string         `json:"stack"`
	Project string         `json:"project"`
	Owned   []resource.Ref `json:"owned"`
	History []Run          `json:"history"`
	// Unfinished is set while a run is at work, and stays when it did not end well: it may have left operations running.
	Unfinished bool `json:"unfinished,omitempty"`

	generation string // of the object it was read from; "" when there was none
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
}

// Record adds a run to the history.
func (s *State) Record(r Run) {
	s.History = append(s.History, r)
	if n := len(s.History) - keep; n > 0 {
		s.History = s.History[n:]
	}
}

// Store is where a stack's state lies.
type Store struct {
	client *gcp.Client
	stack  string
	region string
	bucket string
}

// Open gives the store of a stack, which lies in the stack's region. It sends no request.
func Open(c *gcp.Client, stack, region string) *Store {
	return &Store{client: c, stack: stack, region: region, bucket: c.Project() + "-" + stack + "-difyup"}
}

// Bucket is the name of the state's bucket.
func (s *Store) Bucket() string { return s.bucket }

const (
	stateObject = "state.json"
	lockObject  = "lock.json"
)

// Read gives the state, empty when there is none yet. One request.
func (s *Store) Read(ctx context.Context) (*State, error) {
	st := &State{Version: version, Stack: s.stack, Project: s.client.Project()}
	generation, err := s.get(ctx, stateObject, st)
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	st.generation = generation
	if st.Version > version {
		return nil, &fault.Fault{
			Summary: "The state was written by a newer difyup",
			Detail:  fmt.Sprintf("gs://%s/%s has the format %d; this difyup knows %d.", s.bucket, stateObject, st.Version, version),
			Remedy:  "Use that difyup, or a newer one.",
		}
	}
	return st, nil
}

// Write saves the state. It fails when somebody else wrote since it was read.
func (s *Store) Write(ctx context.Context, st *State) error {
	generation, err := s.put(ctx, stateObject, st, st.generation)
	if gcp.Is(err, 412) {
		return &fault.Fault{
			Summary: "The state was changed by somebody else",
			Detail:  fmt.Sprintf("gs://%s/%s was written while this run held the lock. The lock must have been broken.", s.bucket, stateObject),
			Remedy:  "See who else is at work, then apply again:\n    difyup apply",
			Cause:   err,
		}
	}
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	st.generation = generation
	return nil
}

// Remove deletes the state, the lock and their bucket: the end of a stack.
func (s *Store) Remove(ctx context.Context) error {
	if err := driver.Empty(ctx, s.client, kind.Buckets.Kind, s.bucket); err != nil {
		return fmt.Errorf("empty the state's bucket: %w", err)
	}
	err := s.client.Do(ctx, gcp.Call{API: kind.StorageAPI, Method: http.MethodDelete, Path: "b/" + s.bucket})
	if err != nil && !gcp.Is(err, 404) {
		return fmt.Errorf("delete the state's bucket: %w", err)
	}
	return nil
}

// ensureBucket makes the bucket if it is not there: private, versioned, marked.
func (s *Store) ensureBucket(ctx context.Context) error {
	err := s.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodPost, Path: "b", Query: url.Values{"project": {s.client.Project()}},
		Body: map[string]any{
			"name": s.bucket, "location": strings.ToUpper(s.region), "labels": resource.Labels(s.stack),
			"versioning": map[string]any{"enabled": true},
			// Every renewal of the lock is a version.
			"lifecycle": map[string]any{"rule": []any{map[string]any{
				"action": map[string]any{"type": "Delete"}, "condition": map[string]any{"numNewerVersions": 50},
			}}},
			"iamConfiguration": map[string]any{
				"uniformBucketLevelAccess": map[string]any{"enabled": true}, "publicAccessPrevention": "enforced",
			},
			"softDeletePolicy": map[string]any{"retentionDurationSeconds": "0"},
		},
	})
	if err != nil && !gcp.Is(err, 409) {
		return fmt.Errorf("create the state's bucket %s: %w", s.bucket, err)
	}
	return nil
}

// get reads a JSON object into out and gives its generation, "" when it is absent.
func (s *Store) get(ctx context.Context, name string, out any) (string, error) {
	var raw []byte
	var header http.Header
	err := s.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodGet, Path: "b/" + s.bucket + "/o/" + name,
		Query: url.Values{"alt": {"media"}}, Out: &raw, Header: &header,
	})
	if gcp.Is(err, 404) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return "", fmt.Errorf("gs://%s/%s is not what difyup wrote: %w", s.bucket, name, err)
	}
	return header.Get("X-Goog-Generation"), nil
}

// put writes v as JSON if the object still has that generation ("" = does not exist), and gives the new one.
func (s *Store) put(ctx context.Context, name string, v any, generation string) (string, error) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", err
	}
	if generation == "" {
		generation = "0"
	}
	api := *kind.StorageAPI
	api.Base = "upload/" + api.Base
	var answer struct{ Generation string }
	err = s.client.Do(ctx, gcp.Call{
		API: &api, Method: http.MethodPost, Path: "b/" + s.bucket + "/o",
		Query: url.Values{"uploadType": {"media"}, "name": {name}, "ifGenerationMatch": {generation}},
		Raw:   raw, Type: "application/json", Out: &answer,
	})
	return answer.Generation, err
}
