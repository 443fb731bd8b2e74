package agent

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/difyup/difyup/internal/dify"
)

// through has requests answered by a handler, without a network, so that a synthetic clock can pass.
type through struct{ http.Handler }

func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	t.ServeHTTP(w, r)
	return w.Result(), nil
}

// with gives an agent that sees a cloud.
func with(h http.Handler) *agent {
	return &agent{
		name: "vm-1", endpoint: "http://cloud/", log: slog.New(slog.DiscardHandler), google: &google{host: "metadata", client: &http.Client{Transport: through{h}}},
		settings: dify.Settings{Stores: dify.Stores{Bucket: "files"}},
	}
}

// TestBucketRights takes one right to the bucket after the other. What is told names it; what the instance tried with is gone when it
// has all of them, also from a bucket that keeps older versions.
func TestBucketRights(t *testing.T) {
	for _, versioning := range []bool{false, true} {
		c := &cloud{objects: map[string]string{"upload_files/a": "kept", "difyup-probe/vm-10": "another's"}}
		if versioning {
			c.older = map[string]string{}
		}
		a := with(c)
		for _, tc := range []struct{ lacks, want string }{
			{"storage.buckets.get", "see it (storage.buckets.get)"},
			{"storage.objects.list", "list objects (storage.objects.list)"},
			{"storage.objects.create", "write objects (storage.objects.create)"},
			{"storage.objects.delete", "overwrite objects (storage.objects.delete)"},
			{"storage.objects.delete", "delete objects (storage.objects.delete)"}, // the object that was left
			{"storage.objects.create", "write objects (storage.objects.create)"},
			{"storage.objects.get", "read objects (storage.objects.get)"},
		} {
			c.lacks = tc.lacks
			err := a.tryBucket(t.Context())
			want := "does not let the instance's service account " + tc.want + "; `difyup apply` gives it the rights"
			if err == nil || words(err) != want || !strings.Contains(err.Error(), "403 Forbidden") {
				t.Errorf("without %s it says %q, want %q (%v)", tc.lacks, words(err), want, err)
			}
		}
		c.lacks = ""
		if err := a.tryBucket(t.Context()); err != nil {
			t.Error(err)
		}
		if left := slices.Sorted(maps.Keys(c.objects)); !slices.Equal(left, []string{"difyup-probe/vm-10", "upload_files/a"}) || len(c.older) != 0 {
			t.Errorf("with versioning %t, %q and the older %v are left", versioning, left, c.older)
		}
		// The check that is made each minute changes nothing, and names the same.
		c.lacks = "storage.buckets.get"
		if err := a.bucket().reach(t.Context()); !strings.Contains(words(err), "see it (storage.buckets.get)") {
			t.Errorf("the check says %q", words(err))
		}
	}
}

// TestBucketLeft has the n-th change of the probe fail, before it is made, with its answer lost, or with a proxy's page in place of it.
// The next try leaves nothing of any.
func TestBucketLeft(t *testing.T) {
	for n := 1; n <= 4; n++ {
		for _, how := range []string{"not made", "made", "a page"} {
			c := &cloud{objects: map[string]string{"difyup-probe/vm-10": "another's"}, older: map[string]string{"difyup-probe/vm-10#1": "another's"}}
			changes := 0
			a := with(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					changes++
				}
				if r.Method == http.MethodGet || changes != n {
					c.ServeHTTP(w, r)
					return
				}
				switch how {
				case "made":
					c.ServeHTTP(httptest.NewRecorder(), r)
				case "a page":
					w.Header().Set("Content-Type", "text/html; charset=utf-8")
					io.WriteString(w, "<html>Please log in</html>")
					return
				}
				http.Error(w, "Service Unavailable", http.StatusServiceUnavailable)
			}))
			if err := a.tryBucket(t.Context()); err == nil {
				t.Errorf("change %d failed (%s), and nothing is said", n, how)
			}
			if err := a.tryBucket(t.Context()); err != nil {
				t.Error(err)
			}
			if len(c.objects) != 1 || len(c.older) != 1 {
				t.Errorf("after change %d failed (%s), there are %q and the older %q", n, how, c.objects, c.older)
			}
		}
	}
}

// TestBucketBusy has Cloud Storage refuse changes of one object that come too fast, for longer and longer.
func TestBucketBusy(t *testing.T) {
	for busy, want := range map[int]string{1: "", bucketTries - 1: "", bucketTries: "answers with an error (Too Many Requests)"} {
		synctest.Test(t, func(t *testing.T) {
			c := &cloud{objects: map[string]string{}, busy: busy}
			began := time.Now()
			err := with(c).tryBucket(t.Context())
			if words(err) != want || len(c.objects) != 0 {
				t.Errorf("after %d refusals: %v, %v", busy, err, c.objects)
			}
			if took := time.Since(began); took < bucketAgain || took > bucketTries*bucketAgain {
				t.Errorf("after %d refusals it took %s", busy, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := with(&cloud{objects: map[string]string{}, busy: 1}).tryBucket(ctx); err == nil || time.Since(began) > time.Second {
			t.Errorf("it waits longer than it is let: %v, %s", err, time.Since(began))
		}
	})
}

// TestBucketGone has a bucket that is not there, and one that gives back something else.
func TestBucketGone(t *testing.T) {
	a := with(&cloud{})
	a.settings.Stores.Bucket = "nowhere"
	if err := a.tryBucket(t.Context()); words(err) != "is not there" {
		t.Errorf("it says %q: %v", words(err), err)
	}
	c := &cloud{objects: map[string]string{}}
	a = with(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/o/") {
			w.Write([]byte("1")) // what was there before
			return
		}
		c.ServeHTTP(w, r)
	}))
	if err := a.tryBucket(t.Context()); words(err) != "does not give back what was written to it" || len(c.objects) != 0 {
		t.Errorf("it says %q: %v", words(err), err)
	}
}
