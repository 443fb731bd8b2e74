package gcp

import (
	"net/http"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/resource"
)

// deadlines is how long an answer may take, by what is asked for.
type deadlines struct {
	read   time.Duration
	change time.Duration
	wait   time.Duration // a long poll
	upload time.Duration // beside what its size takes
	rate   int64         // bytes a second that an upload has at least
}

var (
	// Compute answers a long poll after two minutes at the latest. Services that answer a change at once take up to
	// half a minute for one.
	googleDeadlines = deadlines{read: 30 * time.Second, change: time.Minute, wait: 150 * time.Second, upload: time.Minute, rate: 64 << 10}
	// A local cloud answers at once. A long poll is cut off early: whether the cloud is alive is then seen by a read.
	localDeadlines = deadlines{read: 15 * time.Second, change: 15 * time.Second, wait: 15 * time.Second, upload: 15 * time.Second, rate: 1 << 20}
)

// deadline gives how long the answer to a call may take, its body included.
func (c *Client) deadline(call Call) time.Duration {
	d := googleDeadlines
	if c.opts.Endpoint != "" {
		d = localDeadlines
	}
	switch {
	case call.Raw != nil:
		return d.upload + time.Duration(int64(len(call.Raw))/d.rate)*time.Second
	case call.API.Operation == resource.Compute && strings.HasSuffix(call.Path, "/wait"):
		return d.wait
	case call.Method == http.MethodGet:
		return d.read
	}
	return d.change
}
