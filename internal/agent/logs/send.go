package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// What is sent at once, at most. Cloud Logging takes 10 MB.
const (
	mostEntries = 1000
	mostBytes   = 512 << 10
)

// How long is waited after a refusal, at first and at most.
const (
	firstAgain   = time.Second
	longestAgain = 20 * time.Second
)

// Batch is entries to be sent, as JSON with commas between them.
type Batch struct {
	Entries []byte
	N       int

	segment int
	end     int64
}

// Refused is the error of a send that has no use to be repeated: so many of the entries were not taken, for what they are.
type Refused struct {
	Entries int
	Err     error
}

func (e *Refused) Error() string { return e.Err.Error() }
func (e *Refused) Unwrap() error { return e.Err }

// Run sends what is added until ctx ends, one batch after the other; whole ones follow each other at once, or what a few services may write
// would come faster than it goes. What is refused is sent again, whatever the reason, until
// it is taken, or is the oldest of too much; only a *Refused is passed over.
func (b *Book) Run(ctx context.Context, send func(context.Context, Batch) error) {
	wait, said := time.Duration(0), ""
	for {
		// Also what is left out may be told when nothing is added any more.
		timer := time.NewTimer(tellEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-b.added:
		case <-timer.C:
		}
		timer.Stop()
		linger := b.opts.Linger
		for more := true; more; {
			if !pause(ctx, max(wait, linger)) {
				return
			}
			linger = 0
			b.tell(false)
			var err error
			more, err = b.once(ctx, send)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				if said != "" {
					b.log.Info("logs are sent again")
				}
				wait, said = 0, ""
			default:
				more = true
				if wait = min(2*wait, longestAgain); wait == 0 {
					wait = firstAgain
				}
				if err.Error() != said {
					said = err.Error()
					b.log.Warn("logs wait to be sent", "because", said)
				}
			}
		}
	}
}

// Flush sends what is there until nothing is left, ctx ends, or something is refused.
func (b *Book) Flush(ctx context.Context, send func(context.Context, Batch) error) error {
	b.tell(true)
	for {
		more, err := b.once(ctx, send)
		if err != nil || !more {
			return err
		}
	}
}

// once sends one batch, and says whether there is more.
func (b *Book) once(ctx context.Context, send func(context.Context, Batch) error) (more bool, err error) {
	batch, more, err := b.next()
	if err != nil || batch.segment == 0 {
		return more, err
	}
	if batch.N > 0 {
		err = send(ctx, batch)
	}
	var refused *Refused
	if errors.As(err, &refused) {
		b.opts.Log.Warn("log entries were refused, and are lost", "entries", refused.Entries, "because", refused.Error()) // not as a line: it may be refused too
		b.mu.Lock()
		b.refused += int64(refused.Entries)
		b.mu.Unlock()
		err = nil
	}
	if err != nil {
		return true, err
	}
	if err := b.done(batch); err != nil {
		b.log.Warn("how far logs are sent cannot be noted: the next agent sends some again", "error", err)
		more = true
	}
	return more, nil
}

// next reads the oldest entries that wait, of one segment.
func (b *Book) next() (Batch, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.segments) > 1 && b.at >= b.segments[0].size {
		b.shift()
	}
	first := b.segments[0]
	if b.at >= first.size {
		return Batch{}, false, nil
	}
	batch := Batch{segment: first.number}
	f, err := os.Open(b.path(first.number))
	if err != nil {
		return batch, true, err
	}
	defer f.Close()
	raw := make([]byte, min(first.size-b.at, mostBytes))
	if _, err := io.ReadFull(io.NewSectionReader(f, b.at, first.size-b.at), raw); err != nil {
		return batch, true, err
	}
	end := 0
	for batch.N < mostEntries {
		n := bytes.IndexByte(raw[end:], '\n')
		if n < 0 {
			break
		}
		raw[end+n] = ','
		end += n + 1
		batch.N++
	}
	batch.Entries, batch.end = bytes.TrimSuffix(raw[:end], []byte(",")), b.at+int64(end)
	if batch.N == 0 { // what has no end is no entry, and nobody wrote it
		batch.end = first.size
	}
	return batch, batch.end < first.size || len(b.segments) > 1, nil
}

// done notes that a batch was taken. Its error is that the next process will not know, and is given once until that works again.
func (b *Book) done(batch Batch) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.segments[0].number != batch.segment { // meanwhile it was the oldest of too much
		return nil
	}
	b.at = batch.end
	for len(b.segments) > 1 && b.at >= b.segments[0].size {
		b.shift()
	}
	err, before := b.save(), b.unsaved
	if b.unsaved = err != nil; before {
		return nil
	}
	return err
}

// pause waits, and is false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
