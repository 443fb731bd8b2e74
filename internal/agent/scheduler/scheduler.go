package scheduler

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/sockets"
)

// Options say for whom the lease is held, and where the relay is.
type Options struct {
	Instance string
	Redis    *redis.Options // Celery's broker, with its database
	Resolver *net.Resolver
	TLS      *tls.Config    // of the relay's connections to Redis, to which beat's is not encrypted; nil = neither are they
	Listen   netip.AddrPort // where beat finds the relay; may be an address that comes to be later
	Peers    netip.Prefix   // who may connect; anybody if it is not valid
	// Say is told on which instance the scheduler runs, whenever that changes; "" = on none, as far as is known.
	Say func(instance string)
	Log *slog.Logger

	// How long a lease lasts, how often it is renewed, and how long before its end nothing is sent any more. The margin covers
	// what is on its way, and clocks that run at different speeds. 0 = 10 s, 2 s, 2 s.
	Lease, Every, Margin time.Duration
	// Idle is how long the lease is kept without a beat that is connected. 0 = 1 minute.
	Idle time.Duration
	// Boot gives the time since the machine was booted, in which that of its suspension counts. nil = the kernel's.
	Boot func() time.Duration

	// Tests hold the program at places, and let it end without releasing the lease.
	hold    func(place string)
	crashed func() bool
	listen  func() (net.Listener, error)

	own *addresses // of the connections with which the lease is held
}

// at is a place where a test may hold the program.
func (o *Options) at(place string) {
	if o.hold != nil {
		o.hold(place)
	}
}

// scheduler is a relay that is open while a lease is held.
type scheduler struct {
	Options
	redis *redis.Client

	mu      sync.Mutex
	term    *term         // that is open; nil = none
	waiting int           // beats that would send something
	changed chan struct{} // is closed at a change of these
	said    string
}

// Run serves beat until ctx ends. It takes the lease only while a beat waits to send something, so that the scheduler runs
// where a beat does. At the end it gives the lease up, for another instance to take at once.
func Run(ctx context.Context, o Options) error {
	if o.Lease == 0 {
		o.Lease, o.Every, o.Margin = 10*time.Second, 2*time.Second, 2*time.Second
	}
	if o.Idle == 0 {
		o.Idle = time.Minute
	}
	if o.Boot == nil {
		o.Boot = BootTime
	}
	o.own = &addresses{}
	if o.listen == nil {
		o.listen = func() (net.Listener, error) { return sockets.ListenEarly(ctx, o.Listen) }
	}
	l, err := o.listen()
	if err != nil {
		return fmt.Errorf("listen for beat: %w", err)
	}
	options := *o.Redis
	options.ContextTimeoutEnabled, options.DisableIdentity, options.MaxRetries = true, true, -1
	dial := options.Dialer
	if dial == nil {
		dial = redis.NewDialer(&options)
	}
	options.Dialer = o.own.noting(dial)
	s := &scheduler{Options: o, redis: redis.NewClient(&options), changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	var relay sync.WaitGroup
	relay.Go(func() {
		defer cancel()
		err = s.accept(ctx, l)
	})
	s.contend(ctx)
	cancel()
	closed := l.Close()
	relay.Wait()
	return errors.Join(err, closed, s.redis.Close())
}

// contend holds the lease whenever it can be had, until ctx ends.
func (s *scheduler) contend(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		t, holder, err := s.look(ctx)
		text := ""
		switch {
		case ctx.Err() != nil && t == nil:
			return
		case err != nil:
			if text = err.Error(); text != said {
				s.Log.Warn("it is not known where the scheduler runs", "error", text)
			}
			s.say("")
		case t != nil:
			s.keep(ctx, t)
		case holder == s.Instance: // of a program before this one, which can do nothing with it
			s.say("")
		default:
			s.say(holder)
		}
		said = text
		s.pause(ctx, s.Every/2)
	}
}

// look takes the lease if a beat waits, and else only says who has it.
func (s *scheduler) look(ctx context.Context) (t *term, holder string, err error) {
	if s.knocks() {
		return take(ctx, &s.Options, s.redis)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Every)
	defer cancel()
	lease, err := s.redis.Get(ctx, leaseKey).Result()
	if errors.Is(err, redis.Nil) {
		return nil, "", nil
	}
	return nil, instanceOf(lease), err
}

// keep renews the lease while it is of use, and has beat's connections forwarded meanwhile.
func (s *scheduler) keep(ctx context.Context, t *term) {
	s.at("taken")
	opens := s.Boot()
	if err := t.fence(ctx); err != nil {
		// Whoever held the lease before believes in it as long as it lasts, and no longer.
		opens = s.Boot() + s.Lease
		s.Log.Info("the scheduler waits until a lease of before has ended for sure", "because", err)
	}
	var (
		why     string
		release bool
		open    bool
		used    = s.Boot()
	)
	for why == "" {
		if !open && s.Boot() >= opens {
			open = true
			s.at("open")
			t.forget()
			s.publish(t)
			s.say(s.Instance)
			s.Log.Info("the scheduler runs here now")
		}
		pause := min(s.Every, t.left())
		if !open {
			pause = min(pause, opens-s.Boot())
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-t.lost:
		case <-ctx.Done():
		}
		timer.Stop()
		if !t.idle() || s.knocks() {
			used = s.Boot()
		}
		err := t.renew(ctx)
		switch {
		case ctx.Err() != nil:
			why, release = "the agent ends it", true
		case errors.Is(err, errLost):
			why = err.Error()
		case t.left() <= 0:
			why = "the lease cannot be renewed"
			if err != nil {
				why += ": " + err.Error()
			}
		case s.Boot()-used > s.Idle:
			why, release = "beat does not", true
		}
	}
	s.publish(nil)
	t.end()
	if open {
		s.Log.Info("the scheduler does not run here any more", "because", why)
	}
	s.say("")
	if !release || s.crashed != nil && s.crashed() {
		return
	}
	if err := t.release(ctx); err != nil {
		s.Log.Warn("the scheduler's lease cannot be given up; it ends by itself", "error", err)
	}
}

func (s *scheduler) say(instance string) {
	if s.said != instance {
		s.said = instance
		s.Say(instance)
	}
}

func (s *scheduler) knocks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting > 0
}

func (s *scheduler) publish(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term = t
	s.change()
}

// change wakes who waits for one. The lock is held.
func (s *scheduler) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// pause ends with ctx.
func (s *scheduler) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
