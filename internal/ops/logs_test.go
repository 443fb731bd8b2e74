package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/gcp"
)

// TestLogFilter shows a query in Cloud Logging's language.
func TestLogFilter(t *testing.T) {
	q := LogQuery{Instance: "demo-vm-x1", Containers: []string{"api", "worker"}, Since: time.Date(2026, 11, 28, 9, 0, 0, 0, time.FixedZone("JST", 9*3600))}
	want := `logName="projects/p/logs/difyup" AND labels.stack="demo" AND timestamp>="2026-11-28T00:00:00Z" AND labels.instance="demo-vm-x1" AND labels.container=("api" OR "worker")`
	if d := cmp.Diff(want, q.filter("p", "demo")); d != "" {
		t.Errorf("the filter (-want +got):\n%s", d)
	}
}

// logger is Cloud Logging as it lists: a line can be seen some time after it was received.
type logger struct {
	lines []logged
	asked []time.Time
}

type logged struct {
	At, Received, Seen time.Time
	Text               string
}

var receivedSince = regexp.MustCompile(` AND receiveTimestamp>="([^"]*)"`)

func (l *logger) RoundTrip(r *http.Request) (*http.Response, error) {
	var q struct {
		Filter, OrderBy, PageToken string
		PageSize                   int
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return nil, err
	}
	l.asked = append(l.asked, time.Now())
	var since time.Time
	if m := receivedSince.FindStringSubmatch(q.Filter); m != nil {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, m[1]); err != nil {
			return nil, err
		}
	}
	var found []map[string]any
	for _, e := range l.lines {
		if !e.Seen.After(time.Now()) && !e.Received.Before(since) {
			found = append(found, map[string]any{"timestamp": e.At, "receiveTimestamp": e.Received, "insertId": e.Text, "textPayload": e.Text, "labels": map[string]string{"instance": "vm", "container": "api"}})
		}
	}
	slices.SortStableFunc(found, func(a, b map[string]any) int { return a["timestamp"].(time.Time).Compare(b["timestamp"].(time.Time)) })
	if q.OrderBy == "timestamp desc" {
		slices.Reverse(found)
	}
	from := 0
	fmt.Sscan(q.PageToken, &from) // none is the first page
	answer := map[string]any{"entries": found[from:min(len(found), from+q.PageSize)]}
	if from += q.PageSize; from < len(found) {
		answer["nextPageToken"] = fmt.Sprint(from)
	}
	raw, err := json.Marshal(answer)
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(raw))}, err
}

// TestFollow follows for some minutes: every line is shown once, also one that comes late, and Cloud Logging is asked no more often than it allows
// two of us.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
		l := &logger{}
		var want []string
		for i := range 3 {
			l.lines = append(l.lines, logged{at(float64(i) - 100), at(float64(i) - 100), at(0), fmt.Sprint("old-", i)})
		}
		want = append(want, "old-1", "old-2") // two are wished for
		for i := range 2500 {                 // more than a page, at once
			l.lines = append(l.lines, logged{at(10), at(10), at(12), fmt.Sprintf("burst-%04d", i)})
			want = append(want, fmt.Sprintf("burst-%04d", i))
		}
		// One that was written before and could not be sent; and one that is seen later than what was received after it.
		l.lines = append(l.lines, logged{at(-50), at(60), at(61), "late"}, logged{at(70), at(70), at(78), "slow"}, logged{at(75), at(75), at(76), "quick"})
		want = append(want, "late", "quick", "slow")

		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: l}})
		if err != nil {
			t.Fatal(err)
		}
		s := &Stack{opts: Options{Identity: config.Identity{Project: "p", Stack: "demo"}}, client: c}
		ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
		defer stop()
		var got []string
		err = s.FollowLogs(ctx, LogQuery{Since: at(-3600), Tail: 2}, func(lines []LogLine) error {
			for _, line := range lines {
				got = append(got, line.Text)
			}
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("lines (-want +got):\n%.2000s", d)
		}
		for i := range l.asked {
			n := 0
			for _, other := range l.asked[i:] {
				if other.Sub(l.asked[i]) < time.Minute {
					n++
				}
			}
			if n > 31 {
				t.Fatalf("Cloud Logging was asked %d times within a minute", n)
			}
		}
	})
}

// TestTail reads more of the last lines than a page has.
func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logger{}
		for i := range 3000 {
			at := time.Now().Add(time.Duration(i-3000) * time.Second)
			l.lines = append(l.lines, logged{at, at, at, fmt.Sprint(i)})
		}
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: "http://cloud/", HTTP: &http.Client{Transport: l}})
		if err != nil {
			t.Fatal(err)
		}
		s := &Stack{opts: Options{Identity: config.Identity{Project: "p", Stack: "demo"}}, client: c}
		lines, err := s.Logs(t.Context(), LogQuery{Tail: 2500})
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) != 2500 || lines[0].Text != "500" || lines[2499].Text != "2999" {
			t.Errorf("%d lines", len(lines))
		}
	})
}
