package logs

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/report"
)

// Options say where a book is, and how much it takes. Zero values are the usual ones.
type Options struct {
	Dir  string // made 0700; what is in it is ours
	Most int64  // bytes of entries that wait to be sent; the oldest go first. 0 = 64 MiB
	// What one source may write: Rate in bytes a second over a long time, Burst beyond that. 0 = 512 KiB and 8 MiB.
	Rate, Burst int64
	Linger      time.Duration // from a line until it is sent, so that others go with it. 0 = 500 ms
	Log         *slog.Logger
}

// An entry's text is cut at mostText; Cloud Logging takes 256 KiB. A segment is a file of the spool, removed as a whole.
const (
	mostText    = 32 << 10
	mostSegment = 1 << 20
)

// Book is a spool of log entries on disk. Its methods may be called at the same time.
type Book struct {
	opts   Options
	log    *slog.Logger
	prefix string // of the IDs of lines that come without
	added  chan struct{}

	mu       sync.Mutex
	segments []segment // the oldest first; the last is written to
	file     *os.File  // the last one
	size     int64     // of all that waits, and what was sent of the first segment
	at       int64     // up to where the first segment is sent
	count    int64     // of IDs given
	sources  map[string]*source
	full     int64 // lines lost because the spool was full, not told yet
	refused  int64 // lines that were not taken for what they are, not told yet
	told     time.Time
	unsaved  bool // the cursor could not be kept, which was told
	buffer   bytes.Buffer
}

type segment struct {
	number int
	size   int64
	lines  int64
}

// source is who writes lines.
type source struct {
	last    string // the ID of its last line
	credit  float64
	at      time.Time // when credit was reckoned
	dropped int64     // lines, not told yet
}

// entry is a line as Cloud Logging takes it (LogEntry); what is the same for all of the instance's is added when it is sent.
type entry struct {
	Timestamp   string            `json:"timestamp"`
	InsertID    string            `json:"insertId"`
	Severity    string            `json:"severity,omitempty"`
	Labels      map[string]string `json:"labels"`
	TextPayload string            `json:"textPayload"`
}

// cursor is what is kept besides the entries.
type cursor struct {
	Segment int               `json:"segment"`
	At      int64             `json:"at"`
	Last    map[string]string `json:"last"`
}

const cursorFile = "cursor.json"

// Open opens the book in a directory, with what waits in it. A line that was half written when a process ended is passed over.
func Open(o Options) (*Book, error) {
	if o.Most == 0 {
		o.Most = 64 << 20
	}
	if o.Rate == 0 {
		o.Rate = 512 << 10
	}
	if o.Burst == 0 {
		o.Burst = 8 << 20
	}
	if o.Linger == 0 {
		o.Linger = 500 * time.Millisecond
	}
	b := &Book{opts: o, prefix: rand.Text()[:12] + "-", added: make(chan struct{}, 1), sources: map[string]*source{}, told: time.Now()}
	b.log = slog.New(newHandler(b, o.Log.Handler()))
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool of logs: %w", err)
	}
	var c cursor
	if raw, err := os.ReadFile(filepath.Join(o.Dir, cursorFile)); err == nil {
		// One that cannot be read is as none: entries are sent again, and known again by their IDs.
		if json.Unmarshal(raw, &c) != nil {
			c = cursor{}
		}
	}
	for name, last := range c.Last {
		b.of(name).last = last
	}
	names, err := filepath.Glob(filepath.Join(o.Dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	next := c.Segment + 1
	for _, name := range names {
		number, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), ".jsonl"))
		switch {
		case err != nil:
			continue
		case number < c.Segment:
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("open the spool of logs: %w", err)
			}
			continue
		}
		s, err := b.recall(name, number)
		if err != nil {
			return nil, fmt.Errorf("open the spool of logs: %w", err)
		}
		if number == c.Segment {
			b.at = min(c.At, s.size)
		}
		b.segments, b.size, next = append(b.segments, s), b.size+s.size, number+1
	}
	if len(b.segments) > 0 && b.segments[0].number != c.Segment {
		b.at = 0
	}
	if err := b.begin(next); err != nil {
		return nil, fmt.Errorf("open the spool of logs: %w", err)
	}
	b.wake()
	return b, nil
}

// recall reads a segment that an earlier process wrote: how long it is up to its last whole line, and whose lines are in it.
func (b *Book) recall(name string, number int) (segment, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return segment{}, err
	}
	s := segment{number: number, size: int64(bytes.LastIndexByte(raw, '\n') + 1)}
	for line := range bytes.Lines(raw[:s.size]) {
		s.lines++
		var e entry
		if json.Unmarshal(line, &e) == nil {
			b.of(e.Labels["container"]).last, _, _ = strings.Cut(e.InsertID, "+")
		}
	}
	return s, nil
}

func (b *Book) path(number int) string {
	return filepath.Join(b.opts.Dir, fmt.Sprintf("%012d.jsonl", number))
}

// begin begins a segment.
func (b *Book) begin(number int) error {
	f, err := os.OpenFile(b.path(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if b.file != nil {
		_ = b.file.Close() // what was written is in it
	}
	b.file, b.segments = f, append(b.segments, segment{number: number})
	return nil
}

func (b *Book) of(name string) *source {
	s := b.sources[name]
	if s == nil {
		s = &source{credit: float64(b.opts.Burst), at: time.Now()}
		b.sources[name] = s
	}
	return s
}

func (b *Book) wake() {
	select {
	case b.added <- struct{}{}:
	default:
	}
}

// Last gives the ID of the last line that a source added, in this process or before it; "" when none is known.
func (b *Book) Last(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sources[name]; s != nil {
		return s.last
	}
	return ""
}

// Add takes a line, and never waits for anybody.
func (b *Book) Add(l runtime.Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(l, "")
}

// note adds a line of the agent's own. It is called with the lock held.
func (b *Book) note(at time.Time, severity string, text string) {
	b.add(runtime.Line{Source: report.AgentLog, At: at, Text: text}, severity)
}

// add takes a line, or counts it.
func (b *Book) add(l runtime.Line, severity string) {
	s := b.of(l.Source)
	fits, lost := b.take(s, l, severity)
	if b.full += lost; !fits {
		s.dropped++
	}
}

// take writes the entries of a source's line. It says whether the source may write as much, and how many of the entries are lost.
func (b *Book) take(s *source, l runtime.Line, severity string) (fits bool, lost int64) {
	if l.ID == "" {
		b.count++
		l.ID = b.prefix + strconv.FormatInt(b.count, 36)
	}
	s.last = l.ID
	b.credit(s)
	cost := float64(len(l.Text) + overhead)
	if s.credit < cost {
		return false, 0
	}
	s.credit -= cost
	text := l.Text
	if l.Hide != nil {
		text = l.Hide(text)
	}
	for parts := 0; parts == 0 || text != ""; parts++ {
		part := text
		if len(part) > mostText {
			part = part[:mostText]
			for len(part) > mostText-utf8.UTFMax && !utf8.RuneStart(text[len(part)]) {
				part = part[:len(part)-1]
			}
		}
		text = text[len(part):]
		e := entry{Timestamp: l.At.UTC().Format(time.RFC3339Nano), InsertID: l.ID, Severity: severity, Labels: map[string]string{"container": l.Source}, TextPayload: part}
		if parts > 0 {
			e.InsertID += "+" + strconv.Itoa(parts)
		}
		if !b.write(e) {
			lost++
		}
	}
	b.wake()
	return true, lost
}

// credit reckons what a source may write now.
func (b *Book) credit(s *source) {
	now := time.Now()
	s.credit = min(float64(b.opts.Burst), s.credit+now.Sub(s.at).Seconds()*float64(b.opts.Rate))
	s.at = now
}

// Skip says no as soon as some lines may be taken again.
func (b *Book) Skip(name string, lines int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(name)
	if b.credit(s); s.dropped == 0 || s.credit >= some {
		return false
	}
	s.dropped += int64(lines)
	return true
}

// some is as many bytes as are worth looking at a storm for.
const some = 4 << 10

// overhead is what an entry takes besides its text, about.
const overhead = 120

// write adds an entry to the spool, and says whether it is in it.
func (b *Book) write(e entry) bool {
	b.buffer.Reset()
	enc := json.NewEncoder(&b.buffer)
	enc.SetEscapeHTML(false)
	if enc.Encode(e) != nil { // texts always encode
		return false
	}
	n := int64(b.buffer.Len())
	if b.segments[len(b.segments)-1].size+n > min(mostSegment, b.opts.Most/4) {
		if err := b.begin(b.segments[len(b.segments)-1].number + 1); err != nil {
			return false
		}
	}
	for b.size+n > b.opts.Most && len(b.segments) > 1 {
		b.full += b.segments[0].lines
		b.shift()
	}
	last := &b.segments[len(b.segments)-1]
	if _, err := b.file.Write(b.buffer.Bytes()); err != nil {
		_ = b.file.Truncate(last.size) // half a line would spoil the next
		return false
	}
	last.size, last.lines, b.size = last.size+n, last.lines+1, b.size+n
	return true
}

// shift forgets the oldest segment.
func (b *Book) shift() {
	first := b.segments[0]
	_ = os.Remove(b.path(first.number)) // else the next Open removes it
	b.segments, b.size, b.at = b.segments[1:], b.size-first.size, 0
}

// tellEvery is how often what was left out is told, at most.
const tellEvery = 10 * time.Second

// tell adds a line about what was left out since the last one. What cannot be told now is counted on.
func (b *Book) tell(now bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !now && time.Since(b.told) < tellEvery {
		return
	}
	b.told = time.Now()
	say := func(count *int64, format string, args ...any) {
		n := *count
		text := fmt.Sprintf("%d lines ", n) + fmt.Sprintf(format, args...)
		fits, lost := b.take(b.of(report.AgentLog), runtime.Line{Source: report.AgentLog, At: b.told, Text: text}, "WARNING")
		if fits && lost == 0 {
			*count -= n // to write it may have cost some more
		}
	}
	var names []string
	for name, s := range b.sources {
		if s.dropped > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		say(&b.sources[name].dropped, "of %s were left out: it writes more than %d KiB a second", name, b.opts.Rate>>10)
	}
	if b.full > 0 {
		say(&b.full, "were lost before they were sent: more than %d MiB waited, or the disk took no more", b.opts.Most>>20)
	}
	if b.refused > 0 {
		say(&b.refused, "were refused by Cloud Logging, and are lost")
	}
}

// save writes down how far the entries are sent. It is called with the lock held.
func (b *Book) save() error {
	c := cursor{Segment: b.segments[0].number, At: b.at, Last: map[string]string{}}
	for name, s := range b.sources {
		if s.last != "" {
			c.Last[name] = s.last
		}
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(b.opts.Dir, cursorFile)
	if err := os.WriteFile(path+".next", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".next", path)
}

// Close ends the book. What was not sent waits for the next.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.save(), b.file.Close())
}
