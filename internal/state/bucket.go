package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// seen says which version of an object was read, and how long ago it was written when it was, by the server's clock.
type seen struct {
	generation string // "" when it is absent
	age        time.Duration
	timed      bool // the age is known
}

// known says whether the bucket was found in our project.
func (s *Store) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ours
}

// find looks for the bucket among those of the project. Names of buckets are global: one of this name that is not there
// is somebody else's, who could write what we would believe. What the list shows is also the project's number, so that
// nobody else need ask. One request, once the bucket is found.
func (s *Store) find(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ours {
		return true, nil
	}
	items, err := s.client.List(ctx, kind.Buckets.Kind, "b", url.Values{
		"project": {s.client.Project()}, "prefix": {s.bucket}, "fields": {"items(name,projectNumber,labels),nextPageToken"},
	})
	if gcp.Is(err, 400, 403) {
		if _, projectErr := s.client.ProjectNumber(ctx); projectErr != nil {
			err = projectErr // says it better
		}
	}
	if err != nil {
		return false, fmt.Errorf("look for the state's bucket: %w", err)
	}
	for _, item := range items {
		if item["name"] == s.bucket {
			return true, s.found(item)
		}
	}
	return false, nil
}

// found takes note of the bucket as a list of the project's buckets, or its creation, showed it. The store is locked.
func (s *Store) found(bucket map[string]any) error {
	if kind.Buckets.MarkOf(bucket) != s.stack {
		return &fault.Fault{
			Summary: "The state's bucket does not bear the stack's mark",
			Detail:  fmt.Sprintf("gs://%s is in the project, but its labels do not say that it is the stack %s's.", s.bucket, s.stack),
			Remedy: fmt.Sprintf("If it is, label it again. If not, choose another name for the stack.\n    gcloud storage buckets update gs://%s --update-labels=%s=difyup,%s=%s",
				s.bucket, resource.ManagedBy, resource.StackLabel, s.stack),
		}
	}
	if number, ok := bucket["projectNumber"].(string); ok {
		s.client.LearnProjectNumber(number)
	}
	s.ours = true
	return nil
}

func (s *Store) squatted() error {
	return &fault.Fault{
		Summary: "The state's bucket is in another project",
		Detail: fmt.Sprintf("gs://%s exists, but not in the project %s. Names of buckets are global, and whoever made this one decides what is in it, so that difyup neither reads nor writes there.",
			s.bucket, s.client.Project()),
		Remedy: "Choose another name for the stack (stack: in the file), or have the bucket's owner delete it.",
	}
}

// ensure makes the bucket if it is not there: private, versioned, marked.
func (s *Store) ensure(ctx context.Context) error {
	if there, err := s.find(ctx); there || err != nil {
		return err
	}
	if s.region == "" {
		return &fault.Fault{
			Summary: "There is no state",
			Detail:  fmt.Sprintf("The project %s has no bucket %s, and without a description nothing else says what belongs to the stack %s.", s.client.Project(), s.bucket, s.stack),
			Remedy:  "Fix the file, then run this again.",
		}
	}
	var made map[string]any
	err := s.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodPost, Path: "b", Query: url.Values{"project": {s.client.Project()}}, Out: &made,
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
	if gcp.Is(err, 409) {
		// Another run was faster, or the answer to our own request was lost, or it is somebody else's.
		there, err := s.find(ctx)
		if err == nil && !there {
			err = s.squatted()
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("create the state's bucket %s: %w", s.bucket, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found(made)
}

// Remove deletes the state, the lock and their bucket: the end of a stack.
func (s *Store) Remove(ctx context.Context) error {
	if there, err := s.find(ctx); !there || err != nil {
		return err
	}
	if err := driver.Empty(ctx, s.client, kind.Buckets.Kind, s.bucket); err != nil {
		return fmt.Errorf("empty the state's bucket: %w", err)
	}
	err := s.client.Do(ctx, gcp.Call{API: kind.StorageAPI, Method: http.MethodDelete, Path: "b/" + s.bucket})
	if err != nil && !gcp.Is(err, 404) {
		return fmt.Errorf("delete the state's bucket: %w", err)
	}
	s.forget()
	return nil
}

// forget has the next request look for the bucket again.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ours = false
}

// get reads an object of the bucket. At the first contact the bucket is looked for at the same time, and what was read
// is believed only if it is ours.
func (s *Store) get(ctx context.Context, name string) ([]byte, seen, error) {
	if s.known() {
		raw, at, err := s.fetch(ctx, name, "")
		return raw, at, missing(err)
	}
	var (
		raw      []byte
		at       seen
		fetchErr error
		there    bool
	)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { raw, at, fetchErr = s.fetch(gctx, name, ""); return nil })
	g.Go(func() (err error) { there, err = s.find(gctx); return err })
	if err := g.Wait(); err != nil {
		return nil, seen{}, err
	}
	if !there && missing(fetchErr) == nil && fetchErr != nil {
		return nil, seen{}, nil
	}
	if !there {
		// Before anybody is accused: another run may have made it just now.
		again, err := s.find(ctx)
		if err != nil {
			return nil, seen{}, err
		}
		if !again && (fetchErr == nil || gcp.Is(fetchErr, 401, 403)) {
			return nil, seen{}, s.squatted()
		}
	}
	return raw, at, missing(fetchErr)
}

// missing turns the ways of saying that an object, or its bucket, is not there into nil.
func missing(err error) error {
	_, err = gcp.Absent(nil, err)
	return err
}

// fetch reads an object, or one version of it.
func (s *Store) fetch(ctx context.Context, name, generation string) ([]byte, seen, error) {
	query := url.Values{"alt": {"media"}}
	if generation != "" {
		query.Set("generation", generation)
	}
	var raw []byte
	var header http.Header
	err := s.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodGet, Path: "b/" + s.bucket + "/o/" + name, Query: query, Out: &raw, Header: &header,
	})
	if err != nil {
		return nil, seen{}, err
	}
	at := seen{generation: header.Get("X-Goog-Generation")}
	at.age, at.timed = between(header.Get("Last-Modified"), header.Get("Date"), http.TimeFormat)
	return raw, at, nil
}

// between gives the time from one moment to another, both as the server says them.
func between(from, to, layout string) (time.Duration, bool) {
	written, err1 := time.Parse(layout, from)
	now, err2 := time.Parse(http.TimeFormat, to)
	if errors.Join(err1, err2) != nil {
		return 0, false
	}
	return now.Sub(written), true
}

// timed makes sure that the age of an object is known, as far as the server tells.
func (s *Store) timed(ctx context.Context, name string, at seen) (seen, error) {
	if at.timed || at.generation == "" {
		return at, nil
	}
	var object struct{ Generation, Updated string }
	var header http.Header
	err := s.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodGet, Path: "b/" + s.bucket + "/o/" + name, Query: url.Values{"fields": {"generation,updated"}}, Out: &object, Header: &header,
	})
	if err != nil {
		return at, missing(err)
	}
	if object.Generation == at.generation { // else it was renewed meanwhile: its age is next to nothing
		at.age, at.timed = between(object.Updated, header.Get("Date"), time.RFC3339)
	}
	return at, nil
}

// put writes an object if it still has that generation ("" = does not exist), and gives the new one.
func (s *Store) put(ctx context.Context, name string, raw []byte, generation string) (string, error) {
	if generation == "" {
		generation = "0"
	}
	api := *kind.StorageAPI
	api.Base = "upload/" + api.Base
	var answer struct{ Generation string }
	err := s.client.Do(ctx, gcp.Call{
		API: &api, Method: http.MethodPost, Path: "b/" + s.bucket + "/o",
		Query: url.Values{"uploadType": {"media"}, "name": {name}, "ifGenerationMatch": {generation}},
		Raw:   raw, Type: "application/json", Out: &answer,
	})
	return answer.Generation, err
}
