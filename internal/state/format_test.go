package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// written gives the state's object, with what differs from run to run made equal.
func written(b *bucket, run string) string {
	return strings.ReplaceAll(string(b.live(stateObject).contents), run, "RUN")
}

// TestUnknownFieldsAreKept checks that what a later difyup wrote survives this one.
func TestUnknownFieldsAreKept(t *testing.T) {
	s, b := open(t)
	ctx := t.Context()
	b.put(stateObject, `{"version": 2, "serial": 6, "stack": "demo", "project": "p", "pins": [{"tag": "api:1", "platform": "linux/amd64", "digest": "sha256:1", "seen": 1}], "enabled": [{"service": "dns.googleapis.com", "at": "2026-11-24T00:00:00Z", "why": "y"}], "names": ["x", 1.0],
		"owned": [{"id": "compute.networks/n", "kind": "compute.networks", "name": "n", "params": {"project": "p"}, "made": "2027-01-01", "a": [1, {"b": null}]},
			{"id": "compute.networks/m", "kind": "compute.networks", "name": "m", "params": {"project": "p"}}],
		"history": [{"at": "2026-11-24T00:00:00Z", "by": "me", "command": "upgrade", "version": "9", "created": 1, "updated": 0, "deleted": 0, "failed": 0, "from": "1.17"}],
		"schema": {"head": "abc", "seen": "yes"}, "intent": {"run": "r", "command": "restore", "at": "2026-11-24T00:00:00Z", "by": "me", "host_id": "h", "version": "9", "point": "12:00"}}`, 0)
	st, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st.Owned = []resource.Ref{{ID: "compute.networks/n", Kind: "compute.networks", Name: "n", Params: map[string]string{"project": "p"}, Needs: []resource.ID{"x"}}}
	if err := s.Write(ctx, st); err != nil {
		t.Fatal(err)
	}
	want := `{
  "version": 2,
  "run": "RUN",
  "serial": 7,
  "stack": "demo",
  "project": "p",
  "owned": [
    {
      "id": "compute.networks/n",
      "kind": "compute.networks",
      "name": "n",
      "params": {
        "project": "p"
      },
      "needs": [
        "x"
      ],
      "a": [
        1,
        {
          "b": null
        }
      ],
      "made": "2027-01-01"
    }
  ],
  "history": [
    {
      "at": "2026-11-24T00:00:00Z",
      "by": "me",
      "command": "upgrade",
      "version": "9",
      "created": 1,
      "updated": 0,
      "deleted": 0,
      "failed": 0,
      "from": "1.17"
    }
  ],
  "intent": {
    "run": "r",
    "command": "restore",
    "at": "2026-11-24T00:00:00Z",
    "by": "me",
    "host_id": "h",
    "version": "9",
    "point": "12:00"
  },
  "schema": {
    "head": "abc",
    "seen": "yes"
  },
  "pins": [
    {
      "tag": "api:1",
      "platform": "linux/amd64",
      "digest": "sha256:1",
      "seen": 1
    }
  ],
  "enabled": [
    {
      "service": "dns.googleapis.com",
      "at": "2026-11-24T00:00:00Z",
      "why": "y"
    }
  ],
  "names": [
    "x",
    1.0
  ]
}`
	if d := cmp.Diff(want, written(b, s.run)); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
	if st.Intent == nil || st.Intent.Command != "restore" {
		t.Errorf("the intent is %v", st.Intent)
	}
	st.Intent = nil
	if err := s.Write(ctx, st); err != nil || strings.Contains(written(b, s.run), "intent") {
		t.Errorf("the intent is not taken back, %v", err)
	}
}

// TestEnabled checks that services count as enabled lately for ten minutes, and are forgotten then.
func TestEnabled(t *testing.T) {
	s, b := open(t)
	b.exists = true
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	st, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st.Enable([]string{"compute", "dns"}, now)
	st.Enable([]string{"dns"}, now.Add(6*time.Minute))
	if err := s.Write(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if st, err = s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration][]string{
		-time.Minute: {"compute", "dns"}, 9 * time.Minute: {"compute", "dns"}, 11 * time.Minute: {"dns"}, 17 * time.Minute: nil,
	} {
		if got := st.Lately(now.Add(after)); !slices.Equal(got, want) {
			t.Errorf("after %s: %q, want %q", after, got, want)
		}
	}
	if st.Enable(nil, now.Add(11*time.Minute)); len(st.Enabled) != 1 {
		t.Errorf("kept: %v", st.Enabled)
	}
	if st.Enable(nil, now.Add(time.Hour)); len(st.Enabled) != 0 {
		t.Errorf("kept for ever: %v", st.Enabled)
	}
	if err := s.Write(t.Context(), st); err != nil || strings.Contains(written(b, s.run), "enabled") {
		t.Errorf("written: %s, %v", written(b, s.run), err)
	}
}

// TestFormats checks which formats are read, which are refused, and what each refusal says.
func TestFormats(t *testing.T) {
	rest := `, "stack": "demo", "project": "p", "owned": [], "history": []}`
	for _, tc := range []struct{ name, state, want string }{
		{"this one", `{"version": 2` + rest, ""},
		{"the first one", `{"version": 1` + rest, ""},
		{"the first one, unfinished", `{"version": 1, "unfinished": true` + rest, ""},
		{"a later one", `{"version": 3` + rest, "The state was written by a newer difyup"},
		{"a feature that is not known", `{"version": 2, "needs": ["split"]` + rest, "The state was written by a newer difyup"},
		{"features in another way", `{"version": 2, "needs": {"split": 1}` + rest, "The state was written by a newer difyup"},
		{"no features", `{"version": 2, "needs": []` + rest, ""},
		{"0", `{"version": 0` + rest, "The state has an unknown format"},
		{"-5", `{"version": -5` + rest, "The state has an unknown format"},
		{"1.5", `{"version": 1.5` + rest, "The state has an unknown format"},
		{"a text", `{"version": "2"` + rest, "The state has an unknown format"},
		{"null", `{"version": null` + rest, "The state has an unknown format"},
		{"another stack's", strings.Replace(`{"version": 2`+rest, "demo", "prod", 1), "The state is another stack's"},
		{"another project's", strings.Replace(`{"version": 2`+rest, `"p"`, `"q"`, 1), "The state is another stack's"},
		{"nobody's", `{"version": 2, "owned": [], "history": []}`, "The state is another stack's"},
		{"an entry that is two", `{"version": 2, "stack": "demo", "project": "p", "owned": [{"id": "a/b", "kind": "a", "name": "c", "params": {"project": "p"}}]}`, "The state contradicts itself"},
		{"an entry in another project", `{"version": 2, "stack": "demo", "project": "p", "owned": [{"id": "a/b", "kind": "a", "name": "b", "params": {"project": "q"}}]}`, "The state contradicts itself"},
		{"an entry with another path", `{"version": 2, "stack": "demo", "project": "p", "owned": [{"id": "a/b", "kind": "a", "name": "b", "params": {"project": "p", "region": "r/../../q"}}]}`, "The state contradicts itself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := open(t)
			b.put(stateObject, `{"version": 2`+rest, 0) // which is not to take the place of one that is well
			b.put(stateObject, tc.state, 0)
			st, err := s.Read(t.Context())
			var f *fault.Fault
			switch {
			case tc.want == "" && err != nil, tc.want != "" && (!errors.As(err, &f) || f.Summary != tc.want || f.Remedy == ""):
				t.Fatalf("got %v, want %q", err, tc.want)
			case tc.want != "":
				return
			}
			if old := strings.Contains(tc.state, `"version": 1`); st.Stale() != old {
				t.Errorf("it must be written: %v", st.Stale())
			}
			if unfinished := strings.Contains(tc.state, "unfinished"); (st.Intent != nil) != unfinished {
				t.Errorf("the intent is %v", st.Intent)
			}
			if err := s.Write(t.Context(), st); err != nil || !strings.Contains(written(b, s.run), `"version": 2`) || strings.Contains(written(b, s.run), "unfinished") {
				t.Errorf("written: %s, %v", written(b, s.run), err)
			}
			if st.Stale() {
				t.Error("what was written must be written again")
			}
		})
	}
}

// TestBrokenState checks that a state which is no state is replaced by the last one that was, and never by nothing.
func TestBrokenState(t *testing.T) {
	good := `{"version": 2, "stack": "demo", "project": "p", "owned": [{"id": "a/b", "kind": "a", "name": "b", "params": {"project": "p"}}], "history": []}`
	for _, broken := range []string{"", "{", good[:40], "null", "[]", "{}", "\x00\x00", strings.Replace(good, "[{", "[[", 1), strings.Replace(good, `"a/b"`, "7", 1)} {
		_, b := open(t)
		b.put(stateObject, strings.Replace(good, `"history"`, `"older": true, "history"`, 1), 2*time.Hour)
		b.put(stateObject, good, time.Hour)
		b.put(stateObject, broken, time.Minute)
		b.put(stateObject+".bak", "{}", 0)
		s, said := visit(t, b)
		st, err := s.Read(t.Context())
		if err != nil || len(st.Owned) != 1 || !st.Stale() || st.extra["older"] != nil {
			t.Fatalf("%q: %v, %v", broken, st, err)
		}
		if len(*said) != 1 || !strings.Contains((*said)[0], "takes its place") {
			t.Errorf("%q: said %q", broken, *said)
		}
		if err := s.Write(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		again, err := s.Read(t.Context())
		if err != nil || again.Stale() || len(again.History) != 1 || !strings.HasPrefix(again.History[0].Command, "repair of the state") {
			t.Errorf("%q, repaired: %+v, %v", broken, again, err)
		}
	}

	t.Run("no version is good", func(t *testing.T) {
		s, b := open(t)
		b.put(stateObject, "{", time.Hour)
		b.put(stateObject, "", 0)
		_, err := s.Read(t.Context())
		var f *fault.Fault
		if !errors.As(err, &f) || !strings.Contains(f.Remedy, "gcloud storage mv gs://p-demo-difyup/state.json") {
			t.Fatalf("got %v", err)
		}
		b.gone[stateObject] = true // as the remedy says
		s, said := visit(t, b)
		if st, err := s.Read(t.Context()); err != nil || !st.Lost() || len(*said) != 1 {
			t.Errorf("got %v, %v, said %q", st, err, *said)
		}
	})

	t.Run("it was deleted", func(t *testing.T) {
		s, b := open(t)
		b.put(stateObject, good, time.Hour)
		b.gone[stateObject] = true
		st, err := s.Read(t.Context())
		if err != nil || len(st.Owned) != 1 || !st.Stale() {
			t.Errorf("got %v, %v", st, err)
		}
		if err := s.Write(t.Context(), st); err != nil {
			t.Error(err)
		}
	})

	t.Run("an older version is another stack's", func(t *testing.T) {
		s, b := open(t)
		b.put(stateObject, strings.Replace(good, "demo", "prod", 1), time.Hour)
		b.put(stateObject, "", 0)
		if _, err := s.Read(t.Context()); err == nil {
			t.Error("it was taken")
		}
	})
}

// TestSquattedBucket checks that nothing is believed of, and nothing put into, a bucket of another project.
func TestSquattedBucket(t *testing.T) {
	state := `{"version": 2, "stack": "demo", "project": "p", "owned": [], "history": []}`
	refused := func(t *testing.T, err error, want string) {
		t.Helper()
		var f *fault.Fault
		if !errors.As(err, &f) || f.Summary != want || f.Remedy == "" {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for _, tc := range []struct {
		name, want string
		squat      func(b *bucket)
	}{
		{"another project's", "The state's bucket is in another project", func(b *bucket) { b.project = "q" }},
		{"another stack's", "The state's bucket does not bear the stack's mark", func(b *bucket) { b.labels = resource.Labels("prod") }},
		{"somebody's in the project", "The state's bucket does not bear the stack's mark", func(b *bucket) { b.labels = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := open(t)
			tc.squat(b)
			b.put(stateObject, state, 0)
			_, err := s.Read(t.Context())
			refused(t, err, tc.want)
			_, _, err = s.Lock(t.Context(), "apply", true)
			refused(t, err, tc.want)
			b.put(lockObject, `{"pid": 1}`, 0)
			_, err = s.Holder(t.Context())
			refused(t, err, tc.want)
			if err := s.Remove(t.Context()); tc.want == "The state's bucket does not bear the stack's mark" {
				refused(t, err, tc.want)
			}
			if len(b.objects[stateObject]) != 1 || len(b.objects[lockObject]) != 1 || !b.exists {
				t.Error("something was done in it")
			}
			if i := slices.IndexFunc(b.asked, func(a string) bool { return strings.HasPrefix(a, "POST /upload") || strings.HasPrefix(a, "DELETE") }); i >= 0 {
				t.Errorf("asked %s", b.asked[i])
			}
		})
	}
}

// TestRequests checks that the first contact costs no request more than the project's number did, and no round.
func TestRequests(t *testing.T) {
	s, b := open(t)
	b.put(stateObject, `{"version": 2, "stack": "demo", "project": "p", "owned": [], "history": []}`, 0)
	if _, err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if number, err := s.client.ProjectNumber(t.Context()); err != nil || number != "1" {
		t.Errorf("the project's number is %q, %v", number, err)
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(b.asked[:2])
	want := []string{"GET /storage/v1/b", "GET /storage/v1/b/p-demo-difyup/o/state.json", "GET /storage/v1/b/p-demo-difyup/o/state.json"}
	if d := cmp.Diff(want, b.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
}

// TestOneOfManyTakesTheLock has several runs want the lock at once, while answers are lost.
func TestOneOfManyTakesTheLock(t *testing.T) {
	_, b := open(t)
	b.lose = 6
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		locks []*Lock
		errs  []error
	)
	for range 6 {
		s, _ := visit(t, b)
		wg.Go(func() {
			_, l, err := s.Lock(t.Context(), "apply", false)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			locks = append(locks, l)
		})
	}
	wg.Wait()
	if len(locks) != 1 {
		t.Fatalf("%d runs have the lock; the others were told %v", len(locks), errs)
	}
	for _, err := range errs {
		var f *fault.Fault
		if !errors.As(err, &f) || f.Summary != "Another run holds the lock" {
			t.Errorf("told %v", err)
		}
	}
	if err := locks[0].Release(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestHostID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "difyup", "host-id")
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() { ids[i] = keptID(path) })
	}
	wg.Wait()
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != 1 || len(ids[0]) != 26 {
		t.Errorf("this host is %q", ids)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if a, b := keptID("/dev/null/x"), keptID("/dev/null/x"); a == b || len(a) != 26 {
		t.Errorf("where nothing can be kept: %q, %q", a, b)
	}
}
