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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/test/need"
)

// bucket is the state's bucket at Cloud Storage, as far as the state needs it: objects with generations and older
// versions, preconditions, a clock, and the project it is in.
type bucket struct {
	mu       sync.Mutex
	exists   bool
	project  string // whose it is
	labels   map[string]string
	objects  map[string][]object // versions, the live one last
	gone     map[string]bool     // deleted: all its versions are older ones
	next     int
	ahead    time.Duration // the server's clock, before this machine's
	lose     int           // so many changes are made, and their answers lost
	silent   bool          // contents come without their age
	updated  string        // in place of when an object's metadata say it was written
	silence  bool          // no answer at all
	refuse   int           // so many requests are answered 412, and nothing is done
	stubborn int           // after so many more deletions none is done any more; 0 for never
	unmoved  bool          // all uploads are answered 412, and nothing is done
	unseen   int           // so many uploads are answered as if there were no bucket
	asked    []string
}

type object struct {
	generation int
	contents   []byte
	updated    time.Time
}

func (b *bucket) now() time.Time { return time.Now().Add(b.ahead) }

func (b *bucket) live(name string) *object {
	all := b.objects[name]
	if len(all) == 0 || b.gone[name] {
		return nil
	}
	return &all[len(all)-1]
}

// put makes contents the live version of an object, updated so long ago.
func (b *bucket) put(name, contents string, age time.Duration) {
	b.next++
	b.exists = true
	b.objects[name] = append(b.objects[name], object{b.next, []byte(contents), b.now().Add(-age)})
	delete(b.gone, name)
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, r.Method+" "+r.URL.Path)
	if b.silence {
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client is gone
		<-r.Context().Done()
		return
	}
	w.Header().Set("Date", b.now().UTC().Format(http.TimeFormat))
	if b.refuse > 0 || b.unmoved && r.Method == http.MethodPost {
		b.refuse = max(0, b.refuse-1)
		w.WriteHeader(http.StatusPreconditionFailed)
		fmt.Fprint(w, `{"error":{"code":412,"message":"conditionNotMet","errors":[{"reason":"conditionNotMet"}]}}`)
		return
	}
	if r.Method == http.MethodGet || b.lose == 0 {
		b.serve(w, r)
		return
	}
	// The change is made, and the answer lost with the connection.
	b.lose--
	b.serve(httptest.NewRecorder(), r)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func (b *bucket) serve(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, reason string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"reason":%q}]}}`, code, reason, reason)
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	name := strings.TrimPrefix(r.URL.Path, "/storage/v1/b/p-demo-difyup/o/")
	live := b.live(name)
	self := map[string]any{"name": "p-demo-difyup", "projectNumber": "1", "labels": b.labels}
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/v1/projects/p":
		answer(map[string]any{"projectNumber": "1"})
	case r.Method == http.MethodGet && r.URL.Path == "/storage/v1/b":
		items := []any{}
		if b.exists && b.project == query.Get("project") {
			items = append(items, self, map[string]any{"name": "p-demo-difyup-2", "projectNumber": "1"})
		}
		answer(map[string]any{"items": items})
	case r.Method == http.MethodPost && r.URL.Path == "/storage/v1/b":
		if b.exists {
			fail(409, "conflict")
			return
		}
		var body struct{ Labels map[string]string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		b.exists, b.project, b.labels = true, query.Get("project"), body.Labels
		answer(self)
	case !b.exists:
		fail(404, "notFound")
	case r.Method == http.MethodPost && b.unseen > 0:
		b.unseen--
		fail(404, "notFound")
	case r.Method == http.MethodPost: // upload
		name = query.Get("name")
		generation := 0
		if live := b.live(name); live != nil {
			generation = live.generation
		}
		if fmt.Sprint(generation) != query.Get("ifGenerationMatch") {
			fail(412, "conditionNotMet")
			return
		}
		raw, _ := io.ReadAll(r.Body)
		b.put(name, string(raw), 0)
		answer(map[string]any{"generation": fmt.Sprint(b.next)})
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/o"):
		items := []map[string]any{}
		for name, all := range b.objects {
			for _, o := range all {
				if strings.HasPrefix(name, query.Get("prefix")) {
					item := map[string]any{"name": name, "generation": fmt.Sprint(o.generation), "updated": o.updated.Format(time.RFC3339Nano)}
					if now := b.live(name); now == nil || now.generation != o.generation {
						item["timeDeleted"] = item["updated"]
					}
					items = append(items, item)
				}
			}
		}
		answer(map[string]any{"items": items})
	case r.Method == http.MethodDelete && r.URL.Path == "/storage/v1/b/p-demo-difyup":
		if len(b.objects) > 0 {
			fail(409, "conflict")
			return
		}
		b.exists = false
		w.WriteHeader(http.StatusNoContent)
	case query.Get("generation") != "":
		all := b.objects[name]
		at := slices.IndexFunc(all, func(o object) bool { return fmt.Sprint(o.generation) == query.Get("generation") })
		switch {
		case at < 0:
			fail(404, "notFound")
		case r.Method == http.MethodDelete && b.stubborn == 1:
			fail(403, "forbidden")
		case r.Method == http.MethodDelete:
			b.stubborn = max(0, b.stubborn-1)
			if live != nil && live.generation == all[at].generation {
				b.gone[name] = true
			}
			if b.objects[name] = slices.Delete(all, at, at+1); len(b.objects[name]) == 0 {
				delete(b.objects, name)
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("X-Goog-Generation", fmt.Sprint(all[at].generation))
			_, _ = w.Write(all[at].contents)
		}
	case live == nil:
		fail(404, "notFound")
	case r.Method == http.MethodGet && query.Get("alt") != "media":
		answer(map[string]any{"generation": fmt.Sprint(live.generation), "updated": b.updated})
	case r.Method == http.MethodGet && b.silent:
		w.Header().Set("X-Goog-Generation", fmt.Sprint(live.generation))
		_, _ = w.Write(live.contents)
	case r.Method == http.MethodGet:
		w.Header().Set("X-Goog-Generation", fmt.Sprint(live.generation))
		w.Header().Set("Last-Modified", live.updated.UTC().Format(http.TimeFormat))
		_, _ = w.Write(live.contents)
	case r.Method == http.MethodDelete:
		if want := query.Get("ifGenerationMatch"); want != "" && want != fmt.Sprint(live.generation) {
			fail(412, "conditionNotMet")
			return
		}
		b.gone[name] = true
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(400, "invalid")
	}
}

func open(t *testing.T) (*Store, *bucket) {
	t.Helper()
	b := &bucket{project: "p", labels: resource.Labels("demo"), objects: map[string][]object{}, gone: map[string]bool{}}
	s, _ := visit(t, b)
	return s, b
}

// visit opens the store in a bucket once more, as another run does, and gives what that is told.
func visit(t *testing.T, b *bucket) (*Store, *[]string) {
	t.Helper()
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	var mu sync.Mutex
	var said []string
	c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: server.URL, Drivers: driver.All(), Events: func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Phase == event.Info {
			said = append(said, e.Detail)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return Open(c, "demo", "asia-northeast1"), &said
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
	if d := cmp.Diff(st, got, cmpopts.IgnoreUnexported(State{}, Run{}, Intent{})); d != "" {
		t.Errorf("state (-written +read):\n%s", d)
	}
	if n := len(got.History); n != keep || got.History[n-1].Created != keep+4 {
		t.Errorf("the history has %d runs and ends with %v", n, got.History[n-1])
	}
	// Of two writers, the second is told.
	second, _ := visit(t, b)
	if err := second.Write(ctx, got); err != nil {
		t.Fatal(err)
	}
	var f *fault.Fault
	if err := s.Write(ctx, st); !errors.As(err, &f) || f.Summary != "The state was changed by another run" {
		t.Errorf("a state that changed meanwhile: %v", err)
	}
	// Nobody changed it who is not there: what is refused all the same is tried again, and is nobody's fault.
	b.refuse = 1
	if err := second.Write(ctx, got); err != nil {
		t.Errorf("refused once: %v", err)
	}
	_, at, err := s.get(ctx, stateObject)
	if err != nil {
		t.Fatal(err)
	}
	got.generation, b.unmoved = at.generation, true
	if err := s.Write(ctx, got); !gcp.Is(err, 412) {
		t.Errorf("refused for ever: %v", err)
	}
	b.unmoved = false
	b.put(stateObject, `{"version":99}`, 0)
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

// TestRemovalThatIsCutOff checks that a state whose removal did not come to its end is there, or is not; never an older one.
func TestRemovalThatIsCutOff(t *testing.T) {
	for done := 1; done < 7; done++ {
		s, b := open(t)
		for range 3 {
			b.put(lockObject, `{"run": "r"}`, time.Minute)
			b.put(stateObject, `{"version": 2, "stack": "demo", "project": "p", "owned": [], "history": []}`, time.Minute)
		}
		b.stubborn = done
		if err := s.Remove(t.Context()); err == nil {
			t.Fatal("it was not cut off")
		}
		s, said := visit(t, b)
		if st, err := s.Read(t.Context()); err != nil || st.Stale() || len(*said) > 0 {
			t.Errorf("after %d deletions: %+v, %v, said %q", done-1, st, err, *said)
		}
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
	second, _ := visit(t, b)
	if _, _, err := second.Lock(t.Context(), "destroy", false); !errors.As(err, &f) || f.Summary != "Another run holds the lock" {
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

// TestLockInANewBucket takes the lock in a bucket that is not seen everywhere at once.
func TestLockInANewBucket(t *testing.T) {
	s, b := open(t)
	b.unseen = 7
	_, lock, err := s.Lock(t.Context(), "apply", false)
	if err != nil || b.unseen > 0 {
		t.Fatalf("%v; %d answers are left", err, b.unseen)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLockOfTheDead(t *testing.T) {
	if self().Space == "" {
		need.Missing(t, "this system does not tell where its processes are")
	}
	elsewhere := Process{PID: 1, Boot: "another", Space: self().Space, Started: "1"}
	here := self()
	gone := here
	gone.PID = 1<<22 + 1 // above the largest process number
	reused := here
	reused.Started = "1"
	contained := gone
	contained.Space = "pid:[1] time:[1]"
	old := Process{PID: gone.PID, Boot: here.Boot} // as an earlier difyup wrote it
	for _, tc := range []struct {
		name    string
		process Process
		age     time.Duration
		breakIt bool
		taken   bool
	}{
		{"a living one", elsewhere, 0, false, false},
		{"a living one, by force", elsewhere, 0, true, true},
		{"one whose lease ran out", elsewhere, time.Minute, false, true},
		{"a process of this machine that is gone", gone, 0, false, true},
		{"a process of this machine whose number another one has", reused, 0, false, true},
		{"a process of this machine that lives", here, 0, false, false},
		{"a process of this machine that is stopped", here, time.Minute, false, true},
		{"a process in another container of this machine", contained, 0, false, false},
		{"a process whose namespace is not known", old, 0, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := open(t)
			raw, err := json.Marshal(Holder{Owner: "someone", Host: hostName(), Process: tc.process, Command: "apply", Since: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			b.put(lockObject, string(raw), tc.age)
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
	second, _ := visit(t, b)
	_, other, err := second.Lock(t.Context(), "apply", true)
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
	if b.live(lockObject) == nil {
		t.Error("the loser released the winner's lock")
	}
	if err := other.Release(t.Context()); err != nil || b.live(lockObject) != nil {
		t.Errorf("the lock is left, %v", err)
	}
}

// TestLostReplies checks that a run which is told that somebody was faster, and was that somebody, goes on.
func TestLostReplies(t *testing.T) {
	s, b := open(t)
	ctx := t.Context()
	b.exists = true
	b.lose = 1
	held, lock, err := s.Lock(ctx, "apply", false)
	if err != nil {
		t.Fatalf("the answer to taking the lock was lost: %v", err)
	}
	b.lose = 1
	lock.beat(held)
	lock.beat(held)
	if err := context.Cause(held); err != nil {
		t.Errorf("the answer to a renewal was lost: %v", err)
	}
	// Nor does it know whose the lock is when it may not read it.
	b.refuse = 2
	lock.beat(held)
	lock.beat(held)
	if err := context.Cause(held); err != nil {
		t.Errorf("a renewal and a look at the lock were refused: %v", err)
	}
	st, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		st.Record(Run{Command: "apply"})
		b.lose = 1
		if err := s.Write(ctx, st); err != nil {
			t.Errorf("the answer to writing the state was lost: %v", err)
		}
	}
	if got, err := s.Read(ctx); err != nil || len(got.History) != 2 {
		t.Errorf("the state has %v, %v", got, err)
	}
	b.lose = 1
	if err := lock.Release(ctx); err != nil || b.live(lockObject) != nil {
		t.Errorf("the answer to the release was lost: %v; the lock is there: %v", err, b.live(lockObject) != nil)
	}
	// A bucket whose creation was answered to nobody.
	s, b = open(t)
	b.lose = 1
	_, lock, err = s.Lock(ctx, "apply", false)
	if err != nil {
		t.Fatalf("the answer to making the bucket was lost: %v", err)
	}
	// A renewal whose answer nobody waited for is part of what is released.
	b.put(lockObject, string(b.live(lockObject).contents), 0)
	if err := lock.Release(ctx); err != nil || b.live(lockObject) != nil {
		t.Errorf("released: %v; the lock is there: %v", err, b.live(lockObject) != nil)
	}
}

// TestLeaseByTheServersClock checks that the clocks of the machines do not matter.
func TestLeaseByTheServersClock(t *testing.T) {
	for _, tc := range []struct {
		name  string
		skew  time.Duration // of the holder's clock
		ahead time.Duration // of the server's clock
		age   time.Duration // since the last renewal
		taken bool
	}{
		{"a living holder", 0, 0, 5 * time.Second, false},
		{"whose clock is behind", -2 * time.Minute, 0, 5 * time.Second, false},
		{"whose clock is ahead", 2 * time.Minute, 0, 5 * time.Second, false},
		{"a dead one", 0, 0, time.Minute, true},
		{"whose clock was ahead", 10 * time.Minute, 0, time.Minute, true},
		{"while our own clock is ahead", 0, -10 * time.Minute, 5 * time.Second, false},
		{"a dead one, our own clock being behind", 0, 10 * time.Minute, time.Minute, true},
		{"one that died just now", 0, 0, lease - 15*time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := open(t)
			b.ahead = tc.ahead
			renewed := time.Now().Add(tc.skew - tc.age)
			raw, err := json.Marshal(Holder{Owner: "someone", Host: "elsewhere", Process: Process{PID: 1}, Command: "apply", Since: renewed, Expires: renewed.Add(lease)})
			if err != nil {
				t.Fatal(err)
			}
			b.put(lockObject, string(raw), tc.age)
			h, err := s.Holder(t.Context())
			if err != nil || (h == nil) != tc.taken {
				t.Errorf("the holder is %v, %v", h, err)
			}
			_, lock, err := s.Lock(t.Context(), "apply", false)
			if (err == nil) != tc.taken {
				t.Errorf("taken: %v, want %v: %v", err == nil, tc.taken, err)
			}
			if lock != nil {
				if err := lock.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSuspended has the machine be suspended while a lock is held: what goes by timers does not notice. Before something is changed, the
// lock is renewed, or it is found that somebody else has it by then, or that nobody knows.
func TestSuspended(t *testing.T) {
	for _, tc := range []struct {
		name    string
		slept   time.Duration
		other   bool // another run took the lock meanwhile
		offline bool
		lost    bool
		writes  int // of the lock, since it was taken
	}{
		{"not at all", 0, false, false, false, 0},
		{"for a moment", giveUp - time.Second, false, false, false, 0},
		{"for long", time.Hour, false, false, false, 1},
		{"for long, and another run has begun", time.Hour, true, false, true, 0},
		{"for long, and the network is not back", time.Hour, false, true, true, 0},
		{"and the clock was put back", -time.Hour, false, false, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, b := open(t)
			var slept atomic.Int64
			s.now = func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }
			held, lock, err := s.Lock(t.Context(), "apply", false)
			if err != nil {
				t.Fatal(err)
			}
			generation := b.live(lockObject).generation
			slept.Store(int64(tc.slept))
			if tc.other {
				b.put(lockObject, `{"run":"another"}`, 0)
				generation = b.live(lockObject).generation
			}
			if tc.offline {
				b.mu.Lock()
				b.silence = true
				b.mu.Unlock()
			}
			if err := s.Write(held, &State{Stack: "demo", Project: "p"}); errors.Is(err, ErrLockLost) != tc.lost || err == nil == tc.lost || (held.Err() != nil) != tc.lost {
				t.Errorf("writing: %v; the context: %v", err, held.Err())
			}
			b.mu.Lock()
			b.silence = false
			b.mu.Unlock()
			if got := b.live(lockObject).generation != generation; got != (tc.writes > 0) {
				t.Errorf("the lock was renewed: %t", got)
			}
			if written := b.live(stateObject) != nil; written == tc.lost {
				t.Errorf("the state was written: %t", written)
			}
			if err := lock.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGarbledLock checks that a lock nobody can read is one that runs out.
func TestGarbledLock(t *testing.T) {
	for _, contents := range []string{
		"", "{", "null", `{"pid":"x"}`, "[]", "{}", `{"version":2}`, `{"version":-5}`, `{"version":0,"run":"r","owner":"o"}`, `{"version":"2","run":"r","owner":"o"}`, `{"version":null,"run":"r"}`,
	} {
		for _, tc := range []struct {
			age     time.Duration
			breakIt bool
			taken   bool
		}{{0, false, false}, {0, true, true}, {time.Minute, false, true}} {
			_, b := open(t)
			b.put(lockObject, contents, tc.age)
			s, said := visit(t, b)
			_, lock, err := s.Lock(t.Context(), "apply", tc.breakIt)
			if (err == nil) != tc.taken {
				t.Errorf("%q of %s, by force %v: %v", contents, tc.age, tc.breakIt, err)
			}
			var f *fault.Fault
			if err != nil && (!errors.As(err, &f) || f.Summary != "The lock cannot be read" || !strings.Contains(f.Remedy, "--break-lock")) {
				t.Errorf("%q: %v", contents, err)
			}
			if tc.taken != (len(*said) == 1) {
				t.Errorf("%q of %s: said %q", contents, tc.age, *said)
			}
			if lock != nil {
				if err := lock.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestLockFormats checks that a lock says its format, that one from before locks did is honoured, and that one of a later format, of
// which nobody knows here when it has run out, is taken by force alone.
func TestLockFormats(t *testing.T) {
	s, b := open(t)
	_, lock, err := s.Lock(t.Context(), "apply", false)
	if err != nil {
		t.Fatal(err)
	}
	ours := string(b.live(lockObject).contents)
	if !strings.HasPrefix(ours, "{\n  \"version\": 2,\n  \"run\": \"") {
		t.Errorf("written: %s", ours)
	}
	lock.Forget()
	const held, newer = "Another run holds the lock", "The lock was written by a newer difyup"
	elsewhere := `"run":"r","owner":"someone","host":"h","pid":1,"boot":"b","command":"apply"`
	for _, tc := range []struct {
		contents string
		age      time.Duration
		want     string // of the fault
	}{
		{`{` + elsewhere + `}`, 0, held},
		{`{` + elsewhere + `}`, time.Minute, ""},
		{`{"owner":"someone","pid":1}`, 0, held}, // the first format's
		{`{"version":2,` + elsewhere + `,"more":1}`, 0, held},
		{`{"version":2,` + elsewhere + `}`, time.Minute, ""},
		{`{"version":3,` + elsewhere + `}`, 0, newer},
		{`{"version":3,` + elsewhere + `}`, time.Hour, newer},
		{`{"version":3,"owner":{"name":"someone"}}`, time.Hour, newer},
	} {
		for _, breakIt := range []bool{false, true} {
			s, b := open(t)
			b.put(lockObject, tc.contents, tc.age)
			h, err := s.Holder(t.Context())
			told := map[string]string{held: "someone on ", newer: "the lock was written by a newer difyup, "}[tc.want]
			if err != nil || (h != nil) != (tc.want != "") || h != nil && !strings.HasPrefix(h.Told(), told) {
				t.Errorf("%s of %s: the holder is %v, %v", tc.contents, tc.age, h, err)
			}
			_, lock, err := s.Lock(t.Context(), "apply", breakIt)
			var f *fault.Fault
			if want := tc.want != "" && !breakIt; want != (err != nil) || want && (!errors.As(err, &f) || f.Summary != tc.want || !strings.Contains(f.Remedy, "--break-lock")) {
				t.Errorf("%s of %s, by force %v: %v", tc.contents, tc.age, breakIt, err)
			}
			if lock != nil {
				if err := lock.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestUnknownAge checks that a lock whose age the server does not say with its contents is as old as its metadata say, and
// that one without either counts as held.
func TestUnknownAge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		updated string
		taken   bool
	}{
		{"expired", time.Now().Add(-time.Minute).Format(time.RFC3339Nano), true},
		{"renewed", time.Now().Format(time.RFC3339Nano), false},
		{"unknown", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, b := open(t)
			b.silent, b.updated = true, tc.updated
			b.put(lockObject, `{"owner": "someone"}`, time.Hour)
			s, _ := visit(t, b)
			h, err := s.Holder(t.Context())
			if err != nil || (h == nil) != tc.taken {
				t.Errorf("the holder is %v, %v", h, err)
			}
		})
	}
}

// TestHolderGivesUp checks that a run which cannot renew its lease stops before anybody else may start.
func TestHolderGivesUp(t *testing.T) {
	s, b := open(t)
	held, lock, err := s.Lock(t.Context(), "apply", false)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.silence = true
	b.mu.Unlock()
	lock.renewed = time.Now().Add(-giveUp + 50*time.Millisecond)
	lock.beat(held)
	if !errors.Is(context.Cause(held), ErrLockLost) {
		t.Errorf("the context's cause is %v", context.Cause(held))
	}
	if giveUp+every/2 > lease { // a beat that starts in time ends in time
		t.Errorf("gives up after %s, and others begin after %s", giveUp, lease)
	}
	lock.Forget()
}
