//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud/authority"
)

const (
	redisPort    = 6379
	redisTLSPort = 6378
)

// FindRedis gives the redis-server program: $DIFYUP_REDIS or the one in the path.
func FindRedis() (string, error) {
	name := os.Getenv("DIFYUP_REDIS")
	if name == "" {
		name = "redis-server"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &fault.Fault{
			Summary: "No Redis",
			Detail:  fmt.Sprintf("The local cloud runs a real Redis, and %s was not found.", name),
			Remedy:  "Install it, from the source tree:\n    make deps",
			Cause:   err,
		}
	}
	return filepath.Abs(path)
}

// Cache runs Redis servers. It is safe for concurrent use.
type Cache struct {
	net        *Net
	supervisor *Supervisor
	path       string
	dir        string

	mu      sync.Mutex
	names   authority.Names // in certificates
	servers map[string]*cache
}

type cache struct {
	mu       sync.Mutex
	name     string
	dir      string
	addr     netip.Addr
	password string
	config   map[string]string
	process  *Process // what answered last; who stops it has its keeper give up

	authorities *authority.Set // nil = connections are not encrypted
}

// port is where the server listens: at Memorystore's port for TLS when it takes nothing else.
func (c *cache) port() uint16 {
	if c.authorities != nil {
		return redisTLSPort
	}
	return redisPort
}

// certificate gives the files of the server's certificate and its key.
func (c *cache) certificate() (certificate, key string) {
	return filepath.Join(c.dir, certificateFile), filepath.Join(c.dir, keyFile)
}

// NewCache gives an engine that keeps its servers' data below dir and runs the program at path.
func NewCache(n *Net, s *Supervisor, path, dir string) *Cache {
	return &Cache{net: n, supervisor: s, path: path, dir: dir, names: authority.NoNames, servers: map[string]*cache{}}
}

// SetNames says which names the certificates of servers bear that are created from now on.
func (e *Cache) SetNames(n authority.Names) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.names = n
}

func (e *Cache) find(name string) (*cache, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.servers[name]
	if c == nil {
		return nil, fmt.Errorf("there is no Redis server %s", name)
	}
	return c, nil
}

// Create starts a server and gives its address; the port is 6379. An empty password means none. Config is Redis's own:
// "maxmemory", "maxmemory-policy", "save".
func (e *Cache) Create(ctx context.Context, name, password string, config map[string]string) (addr netip.Addr, err error) {
	return e.create(ctx, name, password, config, nil)
}

// CreateEncrypted is Create for a server that takes TLS alone, on port 6378, with a certificate authority of its own.
func (e *Cache) CreateEncrypted(ctx context.Context, name, password string, config map[string]string) (addr netip.Addr, err error) {
	e.mu.Lock()
	names := e.names
	e.mu.Unlock()
	a, err := authority.NewSet(names)
	if err != nil {
		return netip.Addr{}, err
	}
	return e.create(ctx, name, password, config, a)
}

func (e *Cache) create(ctx context.Context, name, password string, config map[string]string, a *authority.Set) (addr netip.Addr, err error) {
	c := &cache{name: name, dir: filepath.Join(e.dir, strings.ReplaceAll(name, "/", "_")), password: password, config: maps.Clone(config), authorities: a}
	if c.addr, err = e.net.Addr(Redis); err != nil {
		return netip.Addr{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.mu.Lock()
	if e.servers[name] != nil {
		e.mu.Unlock()
		e.net.Release(c.addr)
		return netip.Addr{}, fmt.Errorf("there is a Redis server %s already", name)
	}
	e.servers[name] = c
	e.mu.Unlock()
	err = unused(ctx, c.addr, c.port())
	if err == nil {
		err = e.start(ctx, c)
	}
	if err != nil {
		return netip.Addr{}, errors.Join(fmt.Errorf("create Redis server %s: %w", name, err), e.remove(context.WithoutCancel(ctx), c))
	}
	return c.addr, nil
}

// start runs the server, waits until it answers, and keeps it running.
func (e *Cache) start(ctx context.Context, c *cache) error {
	defer e.supervisor.wait()()
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if err := own(c.dir); err != nil {
		return err
	}
	// The configuration, with its password, goes through a pipe, not an argument or a file.
	lines := []string{"bind " + c.addr.String(), "dir " + strconv.Quote(c.dir), "daemonize no", "protected-mode no", `save ""`}
	if c.authorities == nil {
		lines = append(lines, "port "+strconv.Itoa(redisPort))
	} else {
		if err := certify(c.authorities, c.dir, c.name, c.addr); err != nil {
			return err
		}
		certificate, key := c.certificate()
		lines = append(lines, "port 0", "tls-port "+strconv.Itoa(redisTLSPort), "tls-auth-clients no",
			"tls-cert-file "+strconv.Quote(certificate), "tls-key-file "+strconv.Quote(key))
	}
	for _, key := range slices.Sorted(maps.Keys(c.config)) {
		lines = append(lines, key+" "+strconv.Quote(c.config[key]))
	}
	if c.password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(c.password))
	}
	log := filepath.Join(c.dir, "redis.log")
	said := size(log)
	p, err := e.supervisor.Start(ctx, Spec{
		Name: "redis " + c.name, Path: e.path, Args: []string{"-"}, Env: environment(c.dir), Dir: c.dir, Log: log,
		Stdin: strings.NewReader(strings.Join(lines, "\n") + "\n"), Unprivileged: true,
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(limited, "tcp4", netip.AddrPortFrom(c.addr, c.port()).String())
		if err == nil {
			if err := errors.Join(conn.Close(), c.do(ctx, func(r *redis.Client) error { return r.Ping(ctx).Err() })); err != nil {
				select {
				case <-p.Done(): // whoever was asked, it was a stranger
					return logged(fmt.Errorf("redis-server ended: %w", errors.Join(p.Err(), errEnded)), log, said)
				default:
					return errors.Join(err, p.Stop(ctx, 0))
				}
			}
			c.process = p
			e.supervisor.keep(p, func(ctx context.Context) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				if p.stopped.Load() {
					return nil
				}
				return e.start(ctx, c)
			})
			return nil
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-p.Done():
			timer.Stop()
			return logged(fmt.Errorf("redis-server ended: %w", errors.Join(p.Err(), errEnded)), log, said)
		case <-limited.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err, p.Stop(ctx, 0))
			}
			return errors.Join(logged(fmt.Errorf("redis-server did not answer within %s: %w", startLimit, err), log, said), p.Stop(ctx, time.Second))
		case <-timer.C:
		}
	}
}

func (c *cache) do(ctx context.Context, f func(*redis.Client) error) (err error) {
	options := &redis.Options{
		Addr: netip.AddrPortFrom(c.addr, c.port()).String(), Password: c.password, MaxRetries: -1, DialerRetries: 1, PoolSize: 1, DisableIdentity: true,
	}
	if c.authorities != nil {
		options.TLSConfig = c.authorities.Client()
	}
	r := redis.NewClient(options)
	defer func() { err = errors.Join(err, r.Close()) }()
	return f(r)
}

// SetPassword changes the password; "" takes it away.
func (e *Cache) SetPassword(ctx context.Context, name, password string) error {
	return e.change(ctx, name, func(c *cache, r *redis.Client) error {
		if err := r.ConfigSet(ctx, "requirepass", password).Err(); err != nil {
			return err
		}
		c.password = password
		return nil
	})
}

// SetConfig changes settings while the server runs. Nothing is changed when one is refused.
func (e *Cache) SetConfig(ctx context.Context, name string, config map[string]string) error {
	return e.change(ctx, name, func(c *cache, r *redis.Client) error {
		args := []any{"CONFIG", "SET"}
		for _, key := range slices.Sorted(maps.Keys(config)) {
			args = append(args, key, config[key])
		}
		if len(config) == 0 {
			return nil
		}
		if err := r.Do(ctx, args...).Err(); err != nil {
			return err
		}
		c.config = maps.Clone(c.config)
		if c.config == nil {
			c.config = map[string]string{}
		}
		maps.Copy(c.config, config)
		return nil
	})
}

func (e *Cache) change(ctx context.Context, name string, f func(*cache, *redis.Client) error) error {
	c, err := e.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.do(ctx, func(r *redis.Client) error { return f(c, r) })
}

// Authorities gives the certificate authorities of a server, the oldest first; none of one that is not encrypted.
func (e *Cache) Authorities(name string) ([]authority.Authority, error) {
	c, err := e.find(name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.authorities == nil {
		return nil, nil
	}
	all, _ := c.authorities.List()
	return all, nil
}

// AddAuthority gives an encrypted server another certificate authority, to rotate to. It replaces one that waits for that already.
func (e *Cache) AddAuthority(name string) error {
	c, err := e.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.authorities == nil {
		return fmt.Errorf("the Redis server %s is not encrypted", name)
	}
	return c.authorities.Add()
}

// RotateAuthority gives an encrypted server a certificate of the next authority. Connections go on.
func (e *Cache) RotateAuthority(ctx context.Context, name string) error {
	return e.change(ctx, name, func(c *cache, r *redis.Client) error {
		if c.authorities == nil {
			return authority.ErrNone
		}
		if err := c.authorities.Rotate(""); err != nil {
			return err
		}
		if err := certify(c.authorities, c.dir, c.name, c.addr); err != nil {
			return err
		}
		certificate, key := c.certificate() // Redis reads them again, though their names stay
		return r.Do(ctx, "CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key).Err()
	})
}

// Delete ends a server and removes its data.
func (e *Cache) Delete(ctx context.Context, name string) error {
	c, err := e.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.remove(ctx, c)
}

func (e *Cache) remove(ctx context.Context, c *cache) error {
	defer e.supervisor.wait()()
	var err error
	if c.process != nil {
		err = c.process.Stop(ctx, 5*time.Second)
	}
	err = errors.Join(err, os.RemoveAll(c.dir))
	e.net.Release(c.addr)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.servers, c.name)
	return err
}
