//go:build linux

package lifecycle

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud"
)

// TestQueueScales has tasks wait that nobody takes: monitoring shows how many within a minute, and the group grows as the description
// says; when they are gone, both follow. No instance but one writes the stack's series.
func TestQueueScales(t *testing.T) {
	s := newStack(t)
	edited, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	edited = bytes.Replace(edited, []byte("machine_type: "), []byte("cpu_target: 1\n  autoscale:\n    queue_length: 5\n  machine_type: "), 1)
	if err := os.WriteFile(s.file, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("apply", "--yes")
	info := s.info()
	auth, at := "", ""
	for name, value := range secretsOf(fatal{t}, info, "demo-project") {
		if strings.HasSuffix(name, "/demo-redis-auth") {
			auth = value
		}
	}
	for _, server := range info.Servers {
		if server.Kind == "Redis" {
			at = server.Address
		}
	}
	queue := redis.NewClient(&redis.Options{Addr: at, Password: auth, DB: dify.BrokerDatabase})
	defer queue.Close()

	length := func() string { return queueLength(fatal{t}, info) }
	until := func(what string, most time.Duration, is func() bool) {
		t.Helper()
		began := time.Now()
		for ; !is(); time.Sleep(100 * time.Millisecond) {
			if time.Since(began) > most {
				t.Fatalf("%s: not after %s; the queue's length is %q, and there are %d instances", what, most, length(), len(s.info().Instances))
			}
		}
		t.Logf("%s after %s", what, time.Since(began).Round(100*time.Millisecond))
	}
	until("the queue is known to be empty", 2*time.Minute, func() bool { return length() == "0" }) // a scheduler must run first
	for range 14 {
		if err := queue.LPush(t.Context(), "mail", "a task that no stand-in takes").Err(); err != nil {
			t.Fatal(err)
		}
	}
	until("14 tasks are seen", time.Minute, func() bool { return length() == "14" })
	until("three instances are there", 2*time.Minute, func() bool { return len(s.info().Instances) == 3 })
	s.run("plan", "--exit-code")
	if err := queue.Del(t.Context(), "mail").Err(); err != nil {
		t.Fatal(err)
	}
	until("an empty queue is seen", time.Minute, func() bool { return length() == "0" })
	until("two instances are left", 5*time.Minute, func() bool { return len(s.info().Instances) == 2 })
}

// fatal ends a test at an error.
type fatal struct{ t *testing.T }

func (f fatal) Check(err error) {
	if f.t.Helper(); err != nil {
		f.t.Fatal(err)
	}
}

// queueLength gives what monitoring shows of the stack's queue, "" for nothing.
func queueLength(c checker, i *localcloud.Info) string {
	var list struct {
		TimeSeries []struct {
			Points []struct{ Value struct{ Int64Value string } }
		}
	}
	q := url.Values{
		"filter":             {`metric.type = "` + dify.QueueLength + `" AND resource.labels.node_id = "demo"`},
		"interval.startTime": {time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}, "interval.endTime": {time.Now().Add(time.Second).UTC().Format(time.RFC3339)},
	}
	read(c, i, "v3/projects/demo-project/timeSeries?"+q.Encode(), &list)
	switch len(list.TimeSeries) {
	case 0:
		return ""
	case 1:
		return list.TimeSeries[0].Points[0].Value.Int64Value
	}
	c.Check(fmt.Errorf("there are %d series", len(list.TimeSeries)))
	return ""
}

// queued waits until monitoring shows the length of the stack's queue, whatever it is.
func queued(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: queued")
	}
	i := info(ts)
	for end := time.Now().Add(2 * time.Minute); queueLength(ts, i) == ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("monitoring shows no length of the queue")
		}
	}
}
