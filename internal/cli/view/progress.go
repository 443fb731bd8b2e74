package view

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/event"
)

// Mode is how progress is shown.
type Mode int

// The modes: one block that is redrawn, for terminals; a line for each event; JSON, one object to a line.
const (
	Lines Mode = iota
	Live
	JSON
)

// Progress shows the events of a run as they come. Its methods may be called from any goroutine.
type Progress struct {
	w      io.Writer
	colour Palette
	mode   Mode
	width  func() int

	mu      sync.Mutex
	closed  bool
	running []*running
	done    int
	total   int
	note    string // what the run as a whole waits for
	drawn   int    // lines on the screen
	stop    chan struct{}
	ended   chan struct{}
}

type running struct {
	id, action, detail string
	since              time.Time
}

// long is how long a step takes that is worth a line of its own on a terminal.
const long = 10 * time.Second

// redraw is how often the block is drawn: often enough for seconds to tick, seldom enough for slow terminals.
const redraw = 100 * time.Millisecond

// NewProgress starts showing. Close ends it.
func NewProgress(w io.Writer, c Palette, mode Mode, width func() int) *Progress {
	p := &Progress{w: w, colour: c, mode: mode, width: width, stop: make(chan struct{}), ended: make(chan struct{})}
	if mode != Live {
		close(p.ended)
		return p
	}
	go func() {
		defer close(p.ended)
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.mu.Lock()
				p.draw()
				p.mu.Unlock()
			}
		}
	}()
	return p
}

// Expect says how many steps there will be.
func (p *Progress) Expect(steps int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = steps
}

// Event shows an event. It is an event.Sink.
func (p *Progress) Event(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.track(e)
	switch p.mode {
	case JSON:
		_ = json.NewEncoder(p.w).Encode(map[string]any{"type": "event", "event": e}) // a closed pipe ends the command elsewhere
	case Lines:
		if line := p.line(e); line != "" {
			printf(p.w, "%s\n", line)
		}
	case Live:
		// What a reader must not miss stays above the block: what went wrong, and what took long.
		switch e.Phase {
		case event.Failed, event.Retried:
			p.above(p.line(e))
		case event.Done:
			if e.Elapsed >= long {
				p.above(p.line(e))
			}
		case event.Info:
			if !strings.HasPrefix(e.Detail, "waiting ") {
				p.above(p.line(e))
			}
		}
	}
}

func (p *Progress) track(e event.Event) {
	i := slices.IndexFunc(p.running, func(r *running) bool { return r.id == e.ID })
	switch e.Phase {
	case event.Started:
		p.running = append(p.running, &running{id: e.ID, action: e.Action, since: e.At})
	case event.Done, event.Failed, event.Skipped:
		p.done++
		if e.Total > 0 {
			p.total = e.Total
		}
		if i >= 0 {
			p.running = slices.Delete(p.running, i, i+1)
		}
	case event.Retried, event.Waiting:
		if i >= 0 {
			p.running[i].detail = e.Detail
		}
	case event.Info:
		p.note = e.Detail
	}
}

// line tells an event in a line, "" for one that need not be told.
func (p *Progress) line(e event.Event) styled {
	c := p.colour
	switch e.Phase {
	case event.Started:
		return sprintf("%s %s %s", c.dim("→"), e.Action, e.ID)
	case event.Done:
		return sprintf("%s %s %s %s", c.green("✓"), past(e.Action), e.ID, c.dim(duration(e.Elapsed)))
	case event.Failed:
		return sprintf("%s %s %s: %s", c.red("✗"), e.Action, e.ID, e.Error)
	case event.Skipped:
		return sprintf("%s %s %s: %s", c.dim("·"), e.Action, e.ID, "not started, "+e.Detail)
	case event.Retried:
		return sprintf("%s %s: %s", c.yellow("↻"), e.ID, e.Detail)
	case event.Waiting:
		return sprintf("%s %s: %s", c.cyan("…"), e.ID, e.Detail)
	case event.Info:
		return sprintf("%s %s", c.cyan("•"), e.Detail)
	}
	return ""
}

func past(action string) string {
	switch action {
	case "create":
		return "created"
	case "update":
		return "changed"
	case "delete":
		return "deleted"
	case "await":
		return "ready"
	}
	return action
}

// Settled says that the instances serve.
func (p *Progress) Settled(healthy, target int) {
	p.Event(event.Event{Phase: event.Info, At: time.Now(), Detail: string(sprintf("%d of %d instances healthy", healthy, target))})
}

// Close takes the block off the screen. What was told stays.
func (p *Progress) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.ended
		return
	}
	p.closed = true
	p.erase()
	p.mu.Unlock()
	close(p.stop)
	<-p.ended
}

func (p *Progress) above(line styled) {
	p.erase()
	printf(p.w, "%s\n", p.fit(line))
	p.draw()
}

func (p *Progress) erase() {
	if p.drawn > 0 {
		printf(p.w, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

// most is how many running steps the block shows.
const most = 8

func (p *Progress) draw() {
	if p.mode != Live || p.closed {
		return
	}
	var lines []styled
	for i, r := range p.running {
		if i == most {
			lines = append(lines, p.colour.dim(sprintf("  and %d more", len(p.running)-most)))
			break
		}
		line := sprintf("  %s %s %s", r.action, r.id, p.colour.dim(sprintf("%.1f s", time.Since(r.since).Seconds())))
		if r.detail != "" {
			line += p.colour.dim("  " + r.detail)
		}
		lines = append(lines, line)
	}
	switch {
	case p.total > 0 && p.done < p.total:
		lines = append(lines, p.colour.bold(sprintf("%s %d of %d", bar(p.done, p.total), p.done, p.total)))
	case p.note != "":
		lines = append(lines, sprintf("%s %s", p.colour.cyan("…"), p.note))
	}
	p.erase()
	for _, l := range lines {
		printf(p.w, "%s\n", p.fit(l))
	}
	p.drawn = len(lines)
}

func bar(done, total int) string {
	const cells = 20
	full := done * cells / total
	return strings.Repeat("█", full) + strings.Repeat("░", cells-full)
}

// fit cuts a line to the terminal's width, so that a line is a line; colours take no room.
func (p *Progress) fit(line styled) styled {
	width := p.width()
	if width <= 0 {
		return line
	}
	var out strings.Builder
	n, escape := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			if n++; n >= width {
				out.WriteString("…\x1b[0m")
				return styled(out.String())
			}
		}
		out.WriteRune(r)
	}
	return styled(out.String())
}
