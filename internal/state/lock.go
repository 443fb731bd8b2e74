package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
)

// A lock is a lease: its holder renews it again and again, and who finds it expired may take it.
const (
	lease = 45 * time.Second
	every = 10 * time.Second
)

// Holder is who holds the lock; what another run is shown.
type Holder struct {
	Owner   string    `json:"owner"` // the user's name
	Host    string    `json:"host"`
	Boot    string    `json:"boot"` // tells one boot of the host from another; "" where it is not known
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires"`
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
}

// Lock takes the stack's lock, creating the state's bucket when needed, and renews it until Release. The context it
// returns ends with ErrLockLost when the lock is lost. A lock whose holder is dead, a process of this host that is
// gone or a lease that ran out, is taken over; breakIt takes it from a living one too.
func (s *Store) Lock(ctx context.Context, command string, breakIt bool) (context.Context, *Lock, error) {
	me := Holder{Owner: userName(), Host: hostName(), Boot: bootID(), PID: os.Getpid(), Command: command, Since: time.Now().UTC().Truncate(time.Second)}
	for try := 0; ; try++ {
		me.Expires = time.Now().Add(lease).UTC()
		generation, err := s.put(ctx, lockObject, me, "")
		if gcp.Is(err, 404) {
			if err := s.ensureBucket(ctx); err != nil {
				return nil, nil, err
			}
			generation, err = s.put(ctx, lockObject, me, "")
		}
		if gcp.Is(err, 412) {
			var other Holder
			held, readErr := s.get(ctx, lockObject, &other)
			switch {
			case readErr != nil:
				return nil, nil, fmt.Errorf("read the lock: %w", readErr)
			case held == "" && try < 5:
				continue // released in between
			case !breakIt && other.alive(time.Now()):
				return nil, nil, other.fault()
			}
			generation, err = s.put(ctx, lockObject, me, held)
			if gcp.Is(err, 412) && try < 5 {
				continue // somebody else took it over first
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("take the lock: %w", err)
		}
		held, cancel := context.WithCancelCause(ctx)
		l := &Lock{store: s, holder: me, cancel: cancel, done: make(chan struct{}), generation: generation}
		go l.renew(held)
		return held, l, nil
	}
}

// Holder gives who holds the lock, nil for nobody who is alive. One request.
func (s *Store) Holder(ctx context.Context) (*Holder, error) {
	var h Holder
	generation, err := s.get(ctx, lockObject, &h)
	if err != nil {
		return nil, fmt.Errorf("read the lock: %w", err)
	}
	if generation == "" || !h.alive(time.Now()) {
		return nil, nil
	}
	return &h, nil
}

// Fault is what another run is told while the holder is at work.
func (h Holder) Fault() error { return h.fault() }

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
	next := l.holder
	next.Expires = time.Now().Add(lease).UTC()
	soon, cancel := context.WithTimeout(ctx, every) // a network that hangs must not hide that the lease ran out
	defer cancel()
	generation, err := l.store.put(soon, lockObject, next, l.generation)
	if err == nil {
		l.generation, l.holder = generation, next
	}
	if gcp.Is(err, 412, 404) || time.Now().After(l.holder.Expires) {
		l.cancel(ErrLockLost)
	}
}

// Release gives the lock up. It is given a context of its own, because the run's may have ended.
func (l *Lock) Release(ctx context.Context) error {
	l.cancel(context.Canceled)
	<-l.done
	err := l.store.client.Do(ctx, gcp.Call{
		API: kind.StorageAPI, Method: http.MethodDelete, Path: "b/" + l.store.bucket + "/o/" + lockObject,
		Query: url.Values{"ifGenerationMatch": {l.generation}},
	})
	if err != nil && !gcp.Is(err, 404, 412) { // gone with its bucket, or somebody else's by now
		return fmt.Errorf("release the lock: %w", err)
	}
	return nil
}

// Forget ends the renewal of a lock that was deleted together with the state.
func (l *Lock) Forget() {
	l.cancel(context.Canceled)
	<-l.done
}

// alive says whether the holder may still be at work.
func (h Holder) alive(now time.Time) bool {
	if now.After(h.Expires) {
		return false
	}
	if h.Host == hostName() && h.Boot != "" && h.Boot == bootID() {
		return processExists(h.PID)
	}
	return true
}

func (h Holder) fault() error {
	return &fault.Fault{
		Summary: "Another run holds the lock",
		Detail: fmt.Sprintf("%s on %s (process %d) has been at `%s` since %s. Its lease is renewed while it lives and ends at %s otherwise.",
			h.Owner, h.Host, h.PID, h.Command, h.Since.Local().Format("2006-01-02 15:04:05 MST"), h.Expires.Local().Format("15:04:05")),
		Remedy: "Wait until it is done, then run this again. If you are sure that it is not at work any more:\n    difyup apply --break-lock",
	}
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

func hostName() string {
	if h, err := os.Hostname(); err == nil {
		return h
	}
	return "unknown"
}

// bootID tells one boot of a Linux host from another, so that a process number is not taken for another's.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// processExists is asked on Linux only, where bootID is known.
func processExists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// Me names the user and host of this process, for the history.
func Me() string { return userName() + "@" + hostName() }
