package scheduler

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Beat has a connection or two; more are refused.
const mostConnections = 32

// accept serves connections until ctx ends.
func (s *scheduler) accept(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free := make(chan struct{}, mostConnections)
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close() // nobody serves it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the relay of the scheduler: %w", err)
		case err != nil: // of one connection, or for want of memory or files
			s.pause(ctx, 100*time.Millisecond)
			continue
		}
		if !s.knows(c.RemoteAddr()) {
			s.Log.Warn("somebody who is not beat asked for the scheduler's way to Redis", "address", c.RemoteAddr())
			_ = c.Close()
			continue
		}
		select {
		case free <- struct{}{}:
			all.Go(func() {
				defer func() { <-free }()
				s.serve(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

func (s *scheduler) knows(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	return !s.Peers.IsValid() || err == nil && s.Peers.Contains(at.Addr().Unmap())
}

// serve relays one connection of beat's. Until the lease is held its first bytes are kept, and it waits for an answer: Celery
// does not mind how long that takes, while of being refused it has enough after some time, and ends.
func (s *scheduler) serve(ctx context.Context, beat net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	defer both.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() { _ = beat.Close() }) // which ends its reads and writes

	chunks := make(chan []byte)
	both.Go(func() {
		defer cancel()
		// Two: while one is sent, the other is filled.
		for buffers := [2][]byte{make([]byte, 32<<10), make([]byte, 32<<10)}; ; buffers[0], buffers[1] = buffers[1], buffers[0] {
			n, err := beat.Read(buffers[0])
			if n > 0 {
				select {
				case chunks <- buffers[0][:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	var chunk []byte
	select {
	case chunk = <-chunks:
	case <-ctx.Done():
		return
	}
	t := s.await(ctx)
	if t == nil {
		return
	}
	defer t.serving.Done()
	defer context.AfterFunc(t.life, cancel)()
	c, err := dial(ctx, s.Resolver, s.Redis.Addr, s.Margin)
	if err != nil {
		s.Log.Warn("beat's way to Redis", "error", err)
		return
	}
	defer t.remove(c)
	if err := t.add(ctx, c); err != nil {
		return // whoever keeps the term says why
	}
	far, err := s.encrypt(ctx, fenced{c, s, t})
	if err != nil {
		s.Log.Warn("beat's way to Redis", "error", err)
		return
	}
	both.Go(func() {
		defer cancel()
		_, _ = io.Copy(beat, far) // ends with either of them
	})
	for {
		if _, err := far.Write(chunk); err != nil {
			return
		}
		select {
		case chunk = <-chunks:
		case <-ctx.Done():
			return
		}
	}
}

// fenced is a connection to Redis on which nothing is written after the term: what is encrypted leaves in several pieces.
type fenced struct {
	*net.TCPConn
	s *scheduler
	t *term
}

func (f fenced) Write(p []byte) (int, error) {
	if !f.t.valid() {
		return 0, errLost
	}
	f.s.at("write")
	return f.TCPConn.Write(p)
}

// encrypt gives what to speak through on a connection to Redis. Closing the connection ends it.
func (s *scheduler) encrypt(ctx context.Context, c fenced) (io.ReadWriter, error) {
	if s.TLS == nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Lease)
	defer cancel()
	encrypted := tls.Client(c, s.TLS)
	return encrypted, encrypted.HandshakeContext(ctx)
}

// await waits for a term that is open, and counts itself among those that it serves. It gives nil when ctx ends.
func (s *scheduler) await(ctx context.Context) *term {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	defer func() { s.waiting-- }()
	for s.term == nil {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil
		}
	}
	s.term.serving.Add(1)
	return s.term
}
