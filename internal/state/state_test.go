package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/resource"
)

// bucket is one bucket of Cloud Storage, as far as the state needs it: objects with generations, and preconditions.
type bucket struct {
	mu      sync.Mutex
	exists  bool
	objects map[string]object
	next    int
}

type object struct {
	generation int
	contents   []byte
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(code int, reason string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"reason":%q}]}}`, code, reason, reason)
	}
	name := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/p-demo-difyup/o/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/storage/v1/b":
		if b.exists {
			fail(409, "conflict")
			return
		}
		b.exists = true
		fmt.Fprint(w, `{}`)
	case !b.exists:
		fail(404, "notFound")
	case r.Method == http.MethodPost: // upload
		name = r.URL.Query().Get("name")
		if fmt.Sprint(b.objects[name].generation) != r.URL.Query().Get("ifGenerationMatch") {
			fail(412, "conditionNotMet")
			return
		}
		raw, _ := io.ReadAll(r.Body)
		b.next++
		b.objects[name] = object{b.next, raw}
		fmt.Fprintf(w, `{"generation":"%d"}`, b.next)
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/o"):
		items := []map[string]any{}
		for name, o := range b.objects {
			items = append(items, map[string]any{"name": name, "generation": fmt.Sprint(o.generation)})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": items})
	case r.Method == http.MethodDelete && r.URL.Path == "/storage/v1/b/p-demo-difyup":
		if len(b.objects) > 0 {
			fail(409, "conflict")
			return
		}
		b.exists = false
	case b.objects[name].generation == 0:
		fail(404, "notFound")
	case r.Method == http.MethodGet:
		w.Header().Set("X-Goog-Generation", fmt.Sprint(b.objects[name].generation))
		_, _ = w.Write(b.objects[name].contents)
	case r.Method == http.MethodDelete:
		if want := r.URL.Query().Get("ifGenerationMatch"); want != "" && want != fmt.Sprint(b.objects[name].generation) {
			fail(412, "conditionNotMet")
			return
		}
		delete(b.objects, name)
	default:
		fail(400, "invalid")
	}
}

func open(t *testing.T) (*Store, *bucket) {
	t.Helper()
	b := &bucket{objects: map[string]object{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: server.URL, Drivers: driver.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return Open(c, "demo", "asia-northeast1"), b
}

func TestState(t *testing.T) {
	s, b := open(t)
	ctx := t.Context()
	st, err := s.Read(ctx)
	if err != nil || len(st.Owned) > 0 {
		t.Fatalf("a state that is not there: %v, %v", st, err)
	}
	if b.exists {
		t.Error("reading made the bucket")
	}
	b.exists = true
	st.Owned = []resource.Ref{{ID: "compute.networks/demo-net", Kind: "compute.networks", Name: "demo-net", Params: map[string]string{"project": "p"}}}
	for i := range keep + 5 {
		st.Record(Run{Command: "apply", Created: i})
	}
	if err := s.Write(ctx, st); err != nil {
		t.Fatal(err)
	}
	got, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(st, got, cmpopts.IgnoreUnexported(State{})); d != "" {
		t.Errorf("state (-written +read):\n%s", d)
	}
	if n := len(got.History); n != keep || got.History[n-1].Created != keep+4 {
		t.Errorf("the history has %d runs and ends with %v", n, got.History[n-1])
	}
	// Of two writers, the second is told.
	if err := s.Write(ctx, got); err != nil {
		t.Fatal(err)
	}
	var f *fault.Fault
	if err := s.Write(ctx, st); !errors.As(err, &f) || f.Summary != "The state was changed by somebody else" {
		t.Errorf("a state that changed meanwhile: %v", err)
	}
	b.objects[stateObject] = object{99, []byte(`{"version":2}`)}
	if _, err := s.Read(ctx); !errors.As(err, &f) || !strings.Contains(f.Summary, "newer difyup") {
		t.Errorf("a newer format: %v", err)
	}
	if err := s.Remove(ctx); err != nil || b.exists {
		t.Errorf("after Remove the bucket is there: %v, %v", b.exists, err)
	}
	if err := s.Remove(ctx); err != nil {
		t.Errorf("Remove again: %v", err)
	}
}

func TestLock(t *testing.T) {
	s, b := open(t)
	held, lock, err := s.Lock(t.Context(), "apply", false)
	if err != nil {
		t.Fatal(err)
	}
	if !b.exists || held.Err() != nil {
		t.Error("the lock is taken, and there is no bucket or the context has ended")
	}
	if h, err := s.Holder(t.Context()); err != nil || h == nil || h.PID != os.Getpid() || h.Command != "apply" {
		t.Errorf("the holder is %v, %v", h, err)
	}
	var f *fault.Fault
	if _, _, err := s.Lock(t.Context(), "destroy", false); !errors.As(err, &f) || f.Summary != "Another run holds the lock" {
		t.Fatalf("a second lock: %v", err)
	}
	for _, want := range []string{userName(), hostName(), fmt.Sprint(os.Getpid()), "`apply`", "since"} {
		if !strings.Contains(f.Detail, want) {
			t.Errorf("the fault does not say %q:\n%s", want, f.Detail)
		}
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if held.Err() == nil {
		t.Error("the lock's context outlives it")
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Errorf("released twice: %v", err)
	}
	if h, err := s.Holder(t.Context()); err != nil || h != nil {
		t.Errorf("after the release the holder is %v, %v", h, err)
	}
}

func TestLockOfTheDead(t *testing.T) {
	now := time.Now()
	living := Holder{Owner: "someone", Host: "elsewhere", Boot: "other", PID: 1, Command: "apply", Since: now, Expires: now.Add(time.Minute)}
	expired := living
	expired.Expires = now.Add(-time.Second)
	gone := living
	gone.Host, gone.Boot, gone.PID = hostName(), bootID(), 1<<22+1 // above the largest process number
	here := gone
	here.PID = os.Getpid()
	for _, tc := range []struct {
		name    string
		holder  Holder
		breakIt bool
		taken   bool
	}{
		{"a living one", living, false, false},
		{"a living one, by force", living, true, true},
		{"one whose lease ran out", expired, false, true},
		{"a process of this machine that is gone", gone, false, true},
		{"a process of this machine that lives", here, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := open(t)
			raw, err := json.Marshal(tc.holder)
			if err != nil {
				t.Fatal(err)
			}
			b.exists, b.next, b.objects[lockObject] = true, 7, object{7, raw}
			_, lock, err := s.Lock(t.Context(), "apply", tc.breakIt)
			if (err == nil) != tc.taken {
				t.Fatalf("taken: %v, want %v: %v", err == nil, tc.taken, err)
			}
			if lock != nil {
				if err := lock.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestLostLock checks that a run whose lock another one took by force is told so, and leaves the other's lock alone.
func TestLostLock(t *testing.T) {
	s, b := open(t)
	held, lock, err := s.Lock(t.Context(), "apply", false)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := s.Lock(t.Context(), "apply", true)
	if err != nil {
		t.Fatal(err)
	}
	lock.beat(held) // what the timer does every ten seconds
	if !errors.Is(context.Cause(held), ErrLockLost) {
		t.Errorf("the context's cause is %v", context.Cause(held))
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if len(b.objects) != 1 {
		t.Error("the loser released the winner's lock")
	}
	if err := other.Release(t.Context()); err != nil || len(b.objects) != 0 {
		t.Errorf("%d objects are left, %v", len(b.objects), err)
	}
}
