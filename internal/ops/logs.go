package ops

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/report"
)

// LogQuery says which lines of a stack's instances are wanted.
type LogQuery struct {
	Instance   string // by name, whether or not it is there any more; "" = all
	Containers []string
	Since      time.Time
	Texts      []string // any of which a line has, in whatever case; nil = all lines
	Tail       int      // the last ones, at most
}

// LogLine is a line that an instance's container, or its agent, wrote.
type LogLine struct {
	At        time.Time `json:"timestamp"`
	Instance  string    `json:"instance"`
	Container string    `json:"container"`
	Severity  string    `json:"severity,omitempty"`
	Text      string    `json:"text"`

	id       string
	received time.Time
}

// filter is a query in Cloud Logging's language.
func (q LogQuery) filter(project, stack string) string {
	all := []string{
		"logName=" + strconv.Quote("projects/"+project+"/logs/"+report.LogID), "labels.stack=" + strconv.Quote(stack), "timestamp>=" + strconv.Quote(q.Since.UTC().Format(time.RFC3339Nano)),
	}
	if q.Instance != "" {
		all = append(all, "labels.instance="+strconv.Quote(q.Instance))
	}
	if len(q.Containers) > 0 {
		all = append(all, "labels.container=("+anyOf(q.Containers)+")")
	}
	if len(q.Texts) > 0 {
		all = append(all, "textPayload:("+anyOf(q.Texts)+")")
	}
	return strings.Join(all, " AND ")
}

// anyOf gives the alternatives of a comparison.
func anyOf(texts []string) string {
	var all []string
	for _, t := range texts {
		all = append(all, strconv.Quote(t))
	}
	return strings.Join(all, " OR ")
}

// Cloud Logging answers 60 lists a minute for a whole project. Who follows asks for 30 at most, so that two may.
const (
	logPage = 1000
	logGap  = 2 * time.Second
)

// logsAt lists one page of lines.
func (s *Stack) logsAt(ctx context.Context, filter, order, token string, size int) (lines []LogLine, next string, err error) {
	var answer struct {
		Entries []struct {
			Timestamp, ReceiveTimestamp time.Time
			InsertID, Severity          string
			Labels                      struct{ Instance, Container string }
			TextPayload                 string
		}
		NextPageToken string
	}
	body := map[string]any{"resourceNames": []string{"projects/" + s.client.Project()}, "filter": filter, "orderBy": order, "pageSize": size}
	if token != "" {
		body["pageToken"] = token
	}
	if err := s.client.Do(ctx, gcp.Call{API: kind.LoggingAPI, Method: http.MethodPost, Path: "entries:list", Body: body, Out: &answer}); err != nil {
		return nil, "", fmt.Errorf("read the logs: %w", err)
	}
	for _, e := range answer.Entries {
		lines = append(lines, LogLine{e.Timestamp, e.Labels.Instance, e.Labels.Container, e.Severity, e.TextPayload, e.InsertID, e.ReceiveTimestamp})
	}
	return lines, answer.NextPageToken, nil
}

// Logs gives the last lines that a query is about, the oldest first.
func (s *Stack) Logs(ctx context.Context, q LogQuery) ([]LogLine, error) {
	filter, token := q.filter(s.opts.Identity.Project, s.opts.Identity.Stack), ""
	var all []LogLine
	for len(all) < q.Tail {
		if token != "" {
			if err := gcp.Sleep(ctx, logGap); err != nil {
				return nil, err
			}
		}
		lines, next, err := s.logsAt(ctx, filter, "timestamp desc", token, min(logPage, q.Tail-len(all)))
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
		if token = next; token == "" {
			break
		}
	}
	slices.Reverse(all)
	return all, nil
}

// lateness is how much later than others that it received before Cloud Logging may show a line.
const lateness = 10 * time.Second

// FollowLogs shows the last lines that a query is about, and those that come, until ctx ends. Lines that come late, as from an instance
// that could not send for some time, are shown when they come.
func (s *Stack) FollowLogs(ctx context.Context, q LogQuery, show func([]LogLine) error) error {
	lines, err := s.Logs(ctx, q)
	if err != nil {
		return err
	}
	if err := show(lines); err != nil {
		return err
	}
	type key struct {
		at time.Time
		id string
	}
	seen := map[key]time.Time{} // when it was received
	newest := time.Now().Add(-lateness)
	if len(lines) > 0 {
		newest = lines[0].received
	}
	note := func(l LogLine) (fresh bool) {
		k := key{l.At, l.id}
		_, old := seen[k]
		seen[k] = l.received
		if l.received.After(newest) {
			newest = l.received
		}
		return !old
	}
	for _, l := range lines {
		note(l)
	}
	// What the first lines are not among is older than them, or came since.
	first, since := newest, newest
	cut := func(l LogLine) bool {
		return len(lines) == q.Tail && len(lines) > 0 && l.At.Before(lines[0].At) && !l.received.After(first)
	}
	if len(lines) == 0 && q.Tail > 0 {
		since = q.Since
	}
	for {
		filter, token := q.filter(s.opts.Identity.Project, s.opts.Identity.Stack)+" AND receiveTimestamp>="+strconv.Quote(since.Add(-lateness).UTC().Format(time.RFC3339Nano)), ""
		for {
			if err := gcp.Sleep(ctx, logGap); err != nil {
				return err
			}
			page, next, err := s.logsAt(ctx, filter, "timestamp asc", token, logPage)
			if err != nil {
				return err
			}
			if err := show(slices.DeleteFunc(page, func(l LogLine) bool { return !note(l) || cut(l) })); err != nil {
				return err
			}
			if token = next; token == "" {
				break
			}
		}
		since = newest
		for k, received := range seen {
			if received.Before(since.Add(-lateness)) {
				delete(seen, k)
			}
		}
	}
}
