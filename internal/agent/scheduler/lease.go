package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The keys, in the broker's database. Celery's own begin with _kombu or unacked, or are the names of its queues.
const (
	leaseKey = "difyup:scheduler" // "ID INSTANCE" of the holder; expires
	// openKey is the set of the addresses from which the holder's relay is connected, and nobody. It stays when the lease
	// expires, so that the next holder can have Redis close these connections. Where it is missing, Redis has lost its data.
	openKey = "difyup:scheduler:connections"
	nobody  = "-"
)

// A lease that lasts longer than any of ours is one of a server whose clock went back.
var takeScript = redis.NewScript(`
if redis.call('PTTL', KEYS[1]) > 2 * ARGV[2] then redis.call('DEL', KEYS[1]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('SMEMBERS', KEYS[2]) end
return redis.call('GET', KEYS[1])`)

var renewScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('SADD', KEYS[2], unpack(ARGV, 3))
return 1`)

var releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('SADD', KEYS[2], ARGV[2])
return 1`)

var errLost = errors.New("somebody else has the lease, or Redis has lost it")

// term is one holding of the lease.
type term struct {
	o     *Options
	redis *redis.Client
	id    string

	renewing sync.Mutex // a renewal writes the whole list of connections: one at a time

	mu     sync.Mutex
	until  time.Duration // the boot time at which the last confirmed renewal ends, less the margin
	former []string      // connections of earlier holders that may be open
	links  map[*net.TCPConn]string
	over   bool

	lost    chan struct{}  // is closed when a renewal was refused
	serving sync.WaitGroup // the connections that are forwarded
	life    context.Context
	cease   context.CancelFunc // ends life, and with it who serves
}

// take gives the term that begins now, or by whom the lease is held. Former are the connections of earlier holders; none at
// all means that Redis does not know whether there are any.
func take(ctx context.Context, o *Options, client *redis.Client) (t *term, holder string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Every)
	defer cancel()
	t = &term{
		o: o, redis: client, id: rand.Text() + " " + o.Instance, links: map[*net.TCPConn]string{}, lost: make(chan struct{}),
		until: o.Boot() + o.Lease - o.Margin,
	}
	got, err := takeScript.Run(ctx, client, []string{leaseKey, openKey}, t.id, o.Lease.Milliseconds()).Result()
	if err != nil {
		return nil, "", err
	}
	switch got := got.(type) {
	case string:
		return nil, instanceOf(got), nil
	case []any:
		for _, address := range got {
			t.former = append(t.former, fmt.Sprint(address))
		}
		t.life, t.cease = context.WithCancel(context.WithoutCancel(ctx))
		return t, o.Instance, nil
	}
	return nil, "", fmt.Errorf("redis answers %T to the taking of the lease", got)
}

func instanceOf(lease string) string {
	_, instance, _ := strings.Cut(lease, " ")
	return instance
}

// fence has Redis close what earlier holders left open, so that nothing arrives there any more, not even what one of them
// checked in time and sends late. It says whether all of that is certain.
func (t *term) fence(ctx context.Context) error {
	if len(t.former) == 0 {
		return errors.New("redis does not know of an earlier one")
	}
	if err := t.seen(ctx); err != nil {
		return err
	}
	for _, address := range t.former {
		if address == nobody {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, t.o.Every)
		err := t.redis.ClientKillByFilter(ctx, "ADDR", address).Err()
		cancel()
		if err != nil {
			return fmt.Errorf("close the connection of an earlier one: %w", err)
		}
	}
	return nil
}

// seen says by an error when Redis sees other addresses than connections have, as behind something that ends their encryption.
// Then those of earlier holders are not known there, and closing them does nothing.
func (t *term) seen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Every)
	defer cancel()
	info, err := t.redis.Do(ctx, "CLIENT", "INFO").Text()
	if err != nil {
		return fmt.Errorf("ask by which address redis knows this one: %w", err)
	}
	for field := range strings.FieldsSeq(info) {
		if address, ok := strings.CutPrefix(field, "addr="); ok && t.o.own.has(address) {
			return nil
		}
	}
	return errors.New("redis does not see the addresses that connections have")
}

// addresses are the last that connections had at this end.
type addresses struct {
	mu   sync.Mutex
	last []string
}

func (a *addresses) has(address string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.last, address)
}

// noting connects as another one does, and notes the address.
func (a *addresses) noting(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	const most = 16 // a client has a few connections
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.last = append(a.last, c.LocalAddr().String())
		a.last = a.last[max(0, len(a.last)-most):]
		return c, nil
	}
}

// forget is called when earlier holders no longer believe in their leases.
func (t *term) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.former = nil
}

// valid says whether something may be sent now.
func (t *term) valid() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.over && t.o.Boot() < t.until
}

// left gives how long the lease lasts without another renewal.
func (t *term) left() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.until - t.o.Boot()
}

// idle says whether nothing is forwarded.
func (t *term) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links) == 0
}

// renew lengthens the lease, and has Redis note which connections there are. It gives errLost when that is refused.
func (t *term) renew(ctx context.Context) error {
	t.renewing.Lock()
	defer t.renewing.Unlock()
	t.mu.Lock()
	args := []any{t.id, t.o.Lease.Milliseconds(), nobody}
	for _, address := range slices.Concat(t.former, slices.Sorted(maps.Values(t.links))) {
		args = append(args, address)
	}
	over := t.over
	t.mu.Unlock()
	if over {
		return errLost
	}
	ctx, cancel := context.WithTimeout(ctx, max(min(t.o.Every, t.left()), time.Millisecond))
	defer cancel()
	sent := t.o.Boot()
	t.o.at("renew")
	got, err := renewScript.Run(ctx, t.redis, []string{leaseKey, openKey}, args...).Int()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if got == 0 {
		if !t.over {
			t.over = true
			close(t.lost)
		}
		return errLost
	}
	t.until = max(t.until, sent+t.o.Lease-t.o.Margin)
	return nil
}

// add notes a connection to Redis. What is sent through it may be sent when a renewal was confirmed after it was made: so the
// server at its other end is one that knows the lease, also after a failover.
func (t *term) add(ctx context.Context, c *net.TCPConn) error {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return errLost
	}
	t.links[c] = c.LocalAddr().String()
	t.mu.Unlock()
	return t.renew(ctx)
}

// remove closes a connection. What was sent through it arrives.
func (t *term) remove(c *net.TCPConn) {
	_ = c.Close() // nothing more is wanted of it
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.links, c)
}

// end closes all connections at once, beat's too: one that reads nothing would hold who writes to it. What has not left the machine never does.
func (t *term) end() {
	t.mu.Lock()
	t.over = true
	for c := range t.links {
		_ = c.SetLinger(0) // it may be closed
		_ = c.Close()
	}
	t.mu.Unlock()
	t.cease()
	t.serving.Wait()
}

// release lets the next one take the lease at once. The term has ended.
func (t *term) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.o.Every)
	defer cancel()
	return releaseScript.Run(ctx, t.redis, []string{leaseKey, openKey}, t.id, nobody).Err()
}
