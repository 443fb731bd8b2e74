package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/logs"
	"github.com/difyup/difyup/internal/report"
)

// lastWords is how long an instance that ends tries to send what is left. It is part of what systemd gives beyond dify.EndTime.
const lastWords = 4 * time.Second

// ship opens the spool of logs and has them sent as soon as learned is closed. The spool is nil if there is none: the instance serves all
// the same. Its end is to be called with the error that the agent ends with; what is left then is sent, or waits for the next agent.
func (a *agent) ship(learned <-chan struct{}) (book *logs.Book, end func(error)) {
	if a.opts.Spool == "" {
		return nil, func(error) {}
	}
	book, err := logs.Open(logs.Options{Dir: a.opts.Spool, Log: a.log})
	if err != nil {
		a.log.Error("no logs are sent to Cloud Logging", "error", err)
		return nil, func(error) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		select {
		case <-ctx.Done():
		case <-learned:
			book.Run(ctx, a.sendLogs)
		}
	})
	return book, func(why error) {
		if why != nil {
			book.Log().Error("the agent ends", "error", why)
		}
		stop()
		sending.Wait()
		select {
		case <-learned:
			ctx, cancel := context.WithTimeout(context.Background(), lastWords)
			defer cancel()
			if err := book.Flush(ctx, a.sendLogs); err != nil {
				a.opts.Log.Warn("not all logs could be sent", "error", err)
			}
		default:
		}
		if err := book.Close(); err != nil {
			a.opts.Log.Warn("close the spool of logs", "error", err)
		}
	}
}

// sendLogs has Cloud Logging take a batch.
func (a *agent) sendLogs(ctx context.Context, batch logs.Batch) error {
	common, err := json.Marshal(map[string]any{
		"logName":        "projects/" + a.settings.Project + "/logs/" + report.LogID,
		"resource":       map[string]any{"type": "gce_instance", "labels": map[string]string{"project_id": a.settings.Project, "instance_id": a.id, "zone": path.Base(a.zone)}},
		"labels":         map[string]string{"stack": a.settings.Stack, "instance": a.name, "version": a.settings.DifyVersion},
		"partialSuccess": true,
	})
	if err != nil {
		return err
	}
	var body bytes.Buffer
	body.Grow(len(common) + len(batch.Entries) + 16)
	body.Write(bytes.TrimSuffix(common, []byte("}")))
	body.WriteString(`,"entries":[`)
	body.Write(batch.Entries)
	body.WriteString("]}")
	raw, err := a.google.call(ctx, a.endpoint, request{
		Host: "logging.googleapis.com", Method: http.MethodPost, Path: "/v2/entries:write", What: "Cloud Logging", Type: "application/json", Body: body.Bytes(),
	})
	var status *statusError
	if errors.As(err, &status) && (status.Code == http.StatusBadRequest || status.Code == http.StatusRequestEntityTooLarge) {
		return &logs.Refused{Entries: refusedOf(raw, batch.N), Err: err}
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = fmt.Errorf("ask Cloud Logging: %w", u.Err)
	}
	return err
}

// refusedOf gives how many of n entries an answer refuses; the others were taken.
func refusedOf(answer []byte, n int) int {
	var refusal struct {
		Error struct {
			Details []struct {
				Type   string                     `json:"@type"`
				Errors map[string]json.RawMessage `json:"logEntryErrors"`
			} `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(answer, &refusal) == nil {
		for _, d := range refusal.Error.Details {
			if strings.HasSuffix(d.Type, "WriteLogEntriesPartialErrors") && len(d.Errors) > 0 {
				return len(d.Errors)
			}
		}
	}
	return n
}
