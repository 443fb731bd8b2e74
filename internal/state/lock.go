package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
)

// A lock is a lease: its holder renews it again and again, and who finds it expired may take it. How long ago it was
// renewed is what the server says, who has one clock for all; it says so in whole seconds. The holder measures by itself
// how long ago it asked for the last renewal, and gives up before anybody else may take the lock. Timers, and the clock that Go measures
// with, stand still while a machine is suspended: so it also goes by the wall clock, before each request that changes something.
const (
	lease  = 45 * time.Second
	giveUp = 40 * time.Second
	every  = 10 * time.Second
)

// seenWithin is how long a bucket that was just made may be unknown to who writes to it.
const seenWithin = 2 * time.Minute

// Holder is who holds the lock; what another run is shown.
type Holder struct {
	Run     string    `json:"run"`   // its ID
	Owner   string    `json:"owner"` // the user's name
	Host    string    `json:"host"`
	HostID  string    `json:"host_id"` // tells hosts of one name apart
	Process           // where it can be looked for
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires"` // by the holder's clock: for people, and for an earlier difyup

	age        time.Duration // since the last renewal, by the server's clock
	unreadable bool
	newer      int // the format of a later difyup, which alone knows what the lock means
}

// lockFile is the lock as the object has it. Its format is the state's; difyup once wrote none.
type lockFile struct {
	Version json.RawMessage `json:"version,omitempty"`
	Holder
}

// holderIn reads a lock.
func holderIn(raw []byte) Holder {
	var f lockFile
	_, err := take(raw, &f)
	version := format
	if f.Version != nil {
		var versionErr error
		version, versionErr = strconv.Atoi(string(f.Version))
		if versionErr == nil && version > format { // whatever else it says, and how
			return Holder{newer: version}
		}
		err = errors.Join(err, versionErr)
	}
	if err != nil || version < 1 || f.Run == "" && f.Owner == "" && f.PID == 0 {
		return Holder{unreadable: true}
	}
	return f.Holder
}

// ErrLockLost is the cause of a context whose lock another run took.
var ErrLockLost = errors.New("the lock was lost: another run took it, or it could not be renewed in time")

// Lock is a lock that is held.
type Lock struct {
	store  *Store
	holder Holder
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu         sync.Mutex
	generation string
	renewed    time.Time // when the last renewal that succeeded was asked for

	wall atomic.Int64 // the same by the wall clock, in nanoseconds since 1970
}

// Lock takes the stack's lock, creating the state's bucket when needed, and renews it until Release. The context it
// returns ends with ErrLockLost when the lock is lost. A lock whose holder is dead, a process of this host that is
// gone or a lease that ran out, is taken over; breakIt takes it from a living one too.
func (s *Store) Lock(ctx context.Context, command string, breakIt bool) (context.Context, *Lock, error) {
	me := Holder{
		Run: s.run, Owner: userName(), Host: hostName(), HostID: hostID(), Process: self(), Command: command, Since: time.Now().UTC().Truncate(time.Second),
	}
	held, cancel := context.WithCancelCause(ctx)
	l := &Lock{store: s, holder: me, cancel: cancel, done: make(chan struct{})}
	if err := l.take(ctx, breakIt); err != nil {
		cancel(err)
		return nil, nil, err
	}
	go l.renew(held)
	return gcp.Before(held, func() error { return l.sure(held) }), l, nil
}

// sure gives an error if the lock may be somebody else's by now. One whose lease may have run out unseen is renewed first.
func (l *Lock) sure(held context.Context) error {
	if l.slept() >= giveUp {
		l.mu.Lock()
		if l.slept() >= giveUp { // nobody has seen to it meanwhile
			l.beatNow(held)
		}
		l.mu.Unlock()
	}
	return context.Cause(held)
}

// slept gives how long ago the last renewal was asked for, by the wall clock.
func (l *Lock) slept() time.Duration { return time.Duration(l.store.now().UnixNano() - l.wall.Load()) }

// take writes the lock for the first time.
func (l *Lock) take(ctx context.Context, breakIt bool) error {
	s := l.store
	if err := s.ensure(ctx); err != nil {
		return err
	}
	began := time.Now()
	for try, taken := 0, 0; ; try++ {
		err := l.write(ctx)
		if err == nil {
			return nil
		}
		switch {
		case gcp.Is(err, 404) && time.Since(began) < seenWithin: // the bucket went with the stack that another run destroyed, or was made a moment ago
			if err := gcp.Sleep(ctx, gcp.Backoff(try, 20*time.Millisecond, 5*time.Second)); err != nil {
				return err
			}
			s.forget()
			if err := s.ensure(ctx); err != nil {
				return err
			}
			l.generation = ""
		case gcp.Is(err, 412) && taken < 5:
			taken++
			other, at, readErr := s.holder(ctx)
			switch {
			case readErr != nil:
				return fmt.Errorf("read the lock: %w", readErr)
			case other == nil: // released in between
			case other.Run == s.run:
				l.generation = at.generation // it was we who wrote, and the answer was lost
				return nil
			case !breakIt && other.alive():
				return other.Fault()
			case other.unreadable:
				s.client.Notify(event.Info, "", fmt.Sprintf("a lock that cannot be read is taken over; it was written %s ago", other.age.Round(time.Second)))
			}
			l.generation = at.generation
		default:
			return fmt.Errorf("take the lock: %w", err)
		}
	}
}

// write writes the lock over the version that is known to be ours to overwrite.
func (l *Lock) write(ctx context.Context) error {
	asked, wall := time.Now(), l.store.now().UnixNano()
	l.holder.Expires = asked.Add(lease).UTC()
	raw, err := json.MarshalIndent(lockFile{json.RawMessage(strconv.Itoa(format)), l.holder}, "", "  ")
	if err != nil {
		return err
	}
	generation, err := l.store.put(ctx, lockObject, raw, l.generation)
	if err != nil {
		// Should it turn out that it was written all the same, then it was now.
		if l.renewed.IsZero() {
			l.at(asked, wall)
		}
		return err
	}
	l.generation = generation
	l.at(asked, wall)
	return nil
}

// holder reads the lock, nil when there is none.
func (s *Store) holder(ctx context.Context) (*Holder, seen, error) {
	raw, at, err := s.get(ctx, lockObject)
	if err != nil || at.generation == "" {
		return nil, at, err
	}
	h := holderIn(raw)
	if at, err = s.timed(ctx, lockObject, at); err != nil {
		return nil, at, err
	}
	h.age = at.age
	return &h, at, nil
}

// Holder gives who holds the lock, nil for nobody who is alive. One request, but for a first contact.
func (s *Store) Holder(ctx context.Context) (*Holder, error) {
	h, _, err := s.holder(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the lock: %w", err)
	}
	if h == nil || !h.alive() {
		return nil, nil
	}
	return h, nil
}

// renew keeps the lease until the context ends.
func (l *Lock) renew(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.beat(ctx)
	}
}

// beat renews the lease once, and ends the lock's context when that cannot be.
func (l *Lock) beat(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beatNow(ctx)
}

// beatNow is beat for who has locked.
func (l *Lock) beatNow(ctx context.Context) {
	// A network that hangs must not hide that the lease runs out.
	soon, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(every), l.renewed.Add(giveUp)))
	defer cancel()
	asked, wall := time.Now(), l.store.now().UnixNano()
	err := l.write(soon)
	lost := gcp.Is(err, 404)
	if gcp.Is(err, 412) {
		// Perhaps an earlier renewal went through, and its answer was lost.
		raw, at, readErr := l.store.fetch(soon, lockObject, "")
		if readErr == nil && writer(raw) == l.holder.Run {
			l.generation = at.generation
			l.at(earlier(asked, l.renewed.Add(every)), min(wall, l.wall.Load()+int64(every)))
			return
		}
		lost = readErr == nil || gcp.Is(readErr, 404) // else it is not known, and the next beat tells
	}
	if lost || err != nil && ctx.Err() == nil && max(time.Since(l.renewed), l.slept()) >= giveUp {
		l.cancel(ErrLockLost)
	}
}

// at notes when a renewal was asked for.
func (l *Lock) at(asked time.Time, wall int64) {
	l.renewed = asked
	l.wall.Store(wall)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Release gives the lock up, and may be called again after an error. It is given a context of its own, because the run's may have ended.
func (l *Lock) Release(ctx context.Context) error {
	l.Forget()
	left := func(err error) error {
		return &fault.Fault{
			Summary: "The lock could not be given back",
			Detail:  fmt.Sprintf("What was done is done, but Cloud Storage did not take the end of the lock. It ends by itself %s after it was renewed last.", lease),
			Remedy:  "Wait a minute, then run the next command as usual.",
			Cause:   err,
		}
	}
	for try := 0; ; try++ {
		err := l.store.client.Do(ctx, gcp.Call{
			API: kind.StorageAPI, Method: http.MethodDelete, Path: "b/" + l.store.bucket + "/o/" + lockObject,
			Query: url.Values{"ifGenerationMatch": {l.generation}},
		})
		if err == nil || gcp.Is(err, 404) { // gone already, or with its bucket
			return nil
		}
		if !gcp.Is(err, 412) {
			return left(err)
		}
		// It is somebody else's by now, or a renewal went through that was not waited for.
		raw, at, readErr := l.store.fetch(ctx, lockObject, "")
		if missing(readErr) != nil {
			return left(readErr)
		}
		if readErr != nil || writer(raw) != l.holder.Run || try == 3 {
			return nil
		}
		l.generation = at.generation
	}
}

// Forget ends the renewal of a lock that is deleted together with the state.
func (l *Lock) Forget() {
	l.cancel(context.Canceled)
	<-l.done
}

// alive says whether the holder may still be at work. How long a later difyup's lock lasts nobody knows here.
func (h *Holder) alive() bool { return h.newer > 0 || h.age <= lease && !h.dead() }

// Told says in a line who is at work.
func (h *Holder) Told() string {
	switch {
	case h.unreadable:
		return fmt.Sprintf("the lock cannot be read; it was written %s ago", h.age.Round(time.Second))
	case h.newer > 0:
		return fmt.Sprintf("the lock was written by a newer difyup, %s ago", h.age.Round(time.Second))
	}
	return fmt.Sprintf("%s on %s has been running `%s` since %s", h.Owner, h.Host, h.Command, h.Since.Local().Format(time.DateTime))
}

// Fault is what another run is told while the holder is at work.
func (h *Holder) Fault() error {
	const remedy = "Wait until it is done, then run this again. Only if you are certain that it is not at work any more:\n    difyup apply --break-lock"
	if h.unreadable {
		return &fault.Fault{
			Summary: "The lock cannot be read",
			Detail:  fmt.Sprintf("It was written %s ago and is not what difyup writes. It counts as held until it is %s old.", h.age.Round(time.Second), lease),
			Remedy:  remedy,
		}
	}
	if h.newer > 0 {
		return &fault.Fault{
			Summary: "The lock was written by a newer difyup",
			Detail:  fmt.Sprintf("It has the format %d, and this difyup knows %d. It was written %s ago.", h.newer, format, h.age.Round(time.Second)),
			Remedy:  "Use that difyup, or a newer one. " + remedy,
		}
	}
	return &fault.Fault{
		Summary: "Another run holds the lock",
		Detail: fmt.Sprintf("%s on %s (process %d) has been at `%s` since %s. It last renewed its lease %s ago; without renewal it ends after %s.",
			h.Owner, h.Host, h.PID, h.Command, h.Since.Local().Format("2006-01-02 15:04:05 MST"), h.age.Round(time.Second), lease),
		Remedy: remedy,
	}
}
