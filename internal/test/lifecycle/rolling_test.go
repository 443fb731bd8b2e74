//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud"
)

// TestRolling replaces every instance three times while requests come. Each update must leave none of the instances that
// were there before it, each new instance must be used, and no request may fail.
func TestRolling(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	before := s.info()
	replaced := before.Instances
	at := slices.IndexFunc(before.Listeners, func(l localcloud.Listener) bool { return l.Scheme == "https" })
	url := before.Listeners[at].URL() + "/console/api/setup"

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
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
				mu.Lock()
				if err != nil || resp.StatusCode != 200 {
					failed = append(failed, fmt.Sprint(resp.Status, " ", err, " ", string(body)))
				} else {
					served[resp.Header.Get(dify.InstanceHeader)]++
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
		now := s.info().Instances
		if len(now) != len(replaced) {
			t.Errorf("%d instances, and %d before", len(now), len(replaced))
		}
		for _, i := range now {
			if slices.ContainsFunc(replaced, func(old localcloud.Instance) bool { return old.Name == i.Name }) {
				t.Errorf("%s was not replaced", i.Name)
			}
			used := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return served[i.Name] > 0
			}
			for end := time.Now().Add(2 * time.Minute); !used(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("no request went to %s", i.Name)
				}
			}
		}
		replaced = now
	}
	stop()
	users.Wait()

	if len(failed) > 0 {
		t.Errorf("%d requests failed:\n%s", len(failed), strings.Join(failed[:min(len(failed), 5)], "\n"))
	}
	t.Log(served)
}

// was gives the machine type that a description asks for.
func was(description []byte) string {
	_, rest, _ := bytes.Cut(description, []byte("machine_type: "))
	return string(bytes.Fields(rest)[0])
}
