//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
)

// TestRolling replaces every instance while requests come, and none of them fails.
func TestRolling(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	before := s.info()
	at := slices.IndexFunc(before.Listeners, func(l localcloud.Listener) bool { return l.Scheme == "https" })
	url := before.Listeners[at].URL() + "/standin/check"

	ctx, stop := context.WithCancel(t.Context())
	var (
		users  sync.WaitGroup
		mu     sync.Mutex
		served = map[string]int{} // requests by instance
		failed []string
	)
	for range 4 {
		client := web()
		users.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				resp, err := client.Get(url)
				if err != nil {
					mu.Lock()
					failed = append(failed, err.Error())
					mu.Unlock()
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				var report struct{ Instance string }
				mu.Lock()
				if err != nil || resp.StatusCode != 200 || json.Unmarshal(body, &report) != nil {
					failed = append(failed, fmt.Sprint(resp.Status, " ", err, " ", string(body)))
				} else {
					served[report.Instance]++
				}
				mu.Unlock()
			}
		})
	}
	for _, machine := range []string{"e2-standard-8", "e2-standard-4", "e2-standard-2"} {
		edited, err := os.ReadFile(s.file)
		if err != nil {
			t.Fatal(err)
		}
		edited = bytes.Replace(edited, fmt.Appendf(nil, "machine_type: %s", was(edited)), []byte("machine_type: "+machine), 1)
		if err := os.WriteFile(s.file, edited, 0o644); err != nil {
			t.Fatal(err)
		}
		s.run("apply", "--yes")
		time.Sleep(200 * time.Millisecond)
	}
	stop()
	users.Wait()

	if len(failed) > 0 {
		t.Errorf("%d requests failed:\n%s", len(failed), strings.Join(failed[:min(len(failed), 5)], "\n"))
	}
	if len(served) != 8 {
		t.Errorf("the requests went to %v, want all of 8 instances", served)
	}
	for _, i := range s.info().Instances {
		if slices.ContainsFunc(before.Instances, func(old localcloud.Instance) bool { return old.Name == i.Name }) {
			t.Errorf("%s was not replaced", i.Name)
		}
	}
	t.Log(served)
}

// was gives the machine type that a description asks for.
func was(description []byte) string {
	_, rest, _ := bytes.Cut(description, []byte("machine_type: "))
	return string(bytes.Fields(rest)[0])
}
