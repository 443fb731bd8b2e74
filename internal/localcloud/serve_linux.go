package localcloud

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/compute"
	"github.com/difyup/difyup/internal/localcloud/dns"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/localcloud/fleet"
	"github.com/difyup/difyup/internal/localcloud/fleet/group"
	"github.com/difyup/difyup/internal/localcloud/fleet/nameserver"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/logging"
	"github.com/difyup/difyup/internal/localcloud/monitoring"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/localcloud/redis"
	"github.com/difyup/difyup/internal/localcloud/secrets"
	"github.com/difyup/difyup/internal/localcloud/services"
	"github.com/difyup/difyup/internal/localcloud/sql"
	"github.com/difyup/difyup/internal/localcloud/storage"
	"github.com/difyup/difyup/internal/localcloud/store"
	"github.com/difyup/difyup/internal/localcloud/sts"
)

// endGrace is how long the parts get to end politely.
const endGrace = 15 * time.Second

// cloud is the parts of a running local cloud.
type cloud struct {
	opts       Options
	info       Info // what does not change
	net        *plane.Net
	supervisor *plane.Supervisor
	store      *store.Store
	front      *front.Server
	faults     *faults.Set
	storage    *storage.Service
	secrets    *secrets.Service
	sql        *plane.SQL
	cache      *plane.Cache
	fleet      *fleet.Fleet
	stop       context.CancelFunc
	kept       atomic.Bool // not transient any more
}

// Serve is a local cloud. It returns when ctx ends or a client asks it to end, and has then removed its directory.
func Serve(ctx context.Context, o Options) (err error) {
	var lock *os.File
	for lock == nil {
		if err := makeDir(o.Dir); err != nil {
			return err
		}
		var other *Info
		lock, other, err = awaitLock(ctx, o.Dir, true, func(what string) { o.Log.Info("waiting", "for", what) })
		switch {
		case other != nil:
			return fmt.Errorf("%s: %w", o.Dir, errLocked)
		case errors.Is(err, os.ErrNotExist): // one that ended took its directory along
		case err != nil:
			return fmt.Errorf("%s: %w", o.Dir, err)
		}
	}
	defer lock.Close()
	if err := signLock(lock); err != nil {
		return err
	}
	// What a killed local cloud left is of no use: what its servers and instances were is known to nobody.
	if err := emptyDir(o.Dir, logFile); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c := &cloud{opts: o, store: store.New(), stop: stop}
	err = c.run(ctx)
	if err != nil {
		// The log stays for whoever asks why.
		return errors.Join(err, os.Remove(filepath.Join(o.Dir, lockFile)), removeIfThere(filepath.Join(o.Dir, infoFile)), removeIfThere(filepath.Join(o.Dir, tokenFile)))
	}
	return removeDir(o.Dir)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (c *cloud) run(ctx context.Context) (err error) {
	log := c.opts.Log
	bin, err := plane.FindPostgres()
	if err != nil {
		return err
	}
	redisServer, err := plane.FindRedis()
	if err != nil {
		return err
	}
	if err := plane.Reachable(c.opts.Dir); err != nil {
		return err
	}
	objects := filepath.Join(c.opts.Dir, "objects")
	pass := os.FileMode(0o700)
	if os.Geteuid() == 0 { // the servers' and instances' users must get through to what is theirs
		pass = 0o711
	}
	for dir, mode := range map[string]os.FileMode{"sql": pass, "redis": pass, "instances": pass, "objects": 0o700} {
		path := filepath.Join(c.opts.Dir, dir)
		if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil { // whatever the umask is
			return err
		}
	}

	if c.net, err = plane.Claim(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.net.Close()) }()
	users, err := plane.ClaimUsers(c.net)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, users.Close()) }()
	c.supervisor = plane.NewSupervisor(log)
	defer func() { err = errors.Join(err, c.supervisor.Close(context.WithoutCancel(ctx), endGrace)) }()
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(c.net.API(), 0).String())
	if err != nil {
		return err
	}
	defer listener.Close()
	url := "http://" + listener.Addr().String() + "/"
	token := "local." + rand.Text() + rand.Text()
	if err := os.WriteFile(filepath.Join(c.opts.Dir, tokenFile), []byte(token), 0o600); err != nil {
		return err
	}

	c.faults = faults.NewSet(log)
	if c.opts.Delay > 0 {
		c.faults.Add(delay(c.opts.Delay))
	}
	c.front, err = front.New(front.Options{TimeScale: c.opts.TimeScale, Token: token, Dir: c.opts.Dir, Faults: c.faults, Log: log})
	if err != nil {
		return err
	}
	defer c.front.Close()
	c.sql = plane.NewSQL(c.net, c.supervisor, bin, filepath.Join(c.opts.Dir, "sql"))
	c.cache = plane.NewCache(c.net, c.supervisor, redisServer, filepath.Join(c.opts.Dir, "redis"))

	if c.opts.CertificateNames != "" {
		c.sql.SetNames(c.opts.CertificateNames)
		c.cache.SetNames(c.opts.CertificateNames)
	}

	policies := iam.NewPolicies(c.front, c.store)
	projects := services.Options{}
	if !c.opts.Fresh {
		projects.Enabled = services.Known()
	}
	services.Register(c.front, c.store, policies, projects)
	iam.Register(c.front, c.store, policies)
	sts.Register(c.front, policies)
	c.secrets = secrets.Register(c.front, c.store, policies)
	sql.Register(c.front, c.store, c.sql)
	redis.Register(c.front, c.store, c.cache)
	c.storage = storage.Register(c.front, c.store, policies, objects)
	logging.Register(c.front)
	metrics := monitoring.Register(c.front)
	names := dns.Register(c.front, c.store)
	machines := compute.Register(c.front, c.store, compute.Options{Addresses: balancerAddresses{c.net}, Log: log})
	c.fleet, err = fleet.New(fleet.Options{
		Store: c.store, Addresses: instanceAddresses{c.net}, Users: users, Start: c.startInstance, Objects: c.open(),
		Issue: c.front.Tokens().Issue, Number: c.front.ProjectNumber, Metric: metrics.Newest, Lookup: c.lookup(names.Lookup), Zones: names.Zones, KeyPair: machines.KeyPair,
		DNS: c.net.DNS(), Outside: outside(c.net.Block()), Endpoint: url, Dir: filepath.Join(c.opts.Dir, "instances"), TimeScale: c.opts.TimeScale, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
		defer cancel()
		err = errors.Join(err, c.fleet.Close(end))
	}()
	machines.Observe(c.fleet)
	machines.SetFleet(c.fleet)

	endSecure, err := serveSecurely(c.net.API(), c.opts.Dir, c.front.Hosts(), c.front, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, endSecure()) }()

	c.info = Info{
		PID: os.Getpid(), URL: url, Token: token, Dir: c.opts.Dir, StartedAt: time.Now().UTC().Truncate(time.Second), Version: c.opts.Version,
		Addresses: c.net.Block().String(), Users: users.String(), DNS: c.fleet.DNS().String(), TimeScale: c.opts.TimeScale, Transient: c.opts.Transient,
	}
	c.control()
	server := &http.Server{
		Handler: ownHosts([]string{listener.Addr().String()}, ownPages(c.front)), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := c.publish(); err != nil {
		return errors.Join(err, server.Close())
	}
	log.Info("the local cloud is up", "url", url, "addresses", c.info.Addresses, "postgres", bin, "redis", redisServer)
	if c.opts.Ready != nil {
		c.opts.Ready(c.info)
	}
	select {
	case <-ctx.Done():
	case err := <-served:
		return err
	}
	log.Info("the local cloud is ending")
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		return server.Close() // requests that still wait, as operations' waits do, are cut off
	}
	return nil
}

// lookup has the APIs be found by their names at Google, also while they are not served by them: what would be asked here
// must not be asked there.
func (c *cloud) lookup(zones func(name, qtype string) ([]string, int, bool)) func(name, qtype string) ([]string, int, bool) {
	hosts := c.front.Hosts()
	return func(name, qtype string) ([]string, int, bool) {
		if data, ttl, ok := zones(name, qtype); ok || !slices.Contains(hosts, strings.TrimSuffix(name, ".")) {
			return data, ttl, ok
		}
		if qtype != "A" {
			return nil, 0, true
		}
		return []string{c.net.API().String()}, 300, true
	}
}

// outside gives the machine's name servers, of which this local cloud's own is not one.
func outside(own netip.Prefix) []netip.AddrPort {
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil { // then the machine has none
		return nil
	}
	return nameserver.Servers(string(conf), own)
}

// publish writes where the cloud is, for other processes.
func (c *cloud) publish() error {
	raw, err := json.MarshalIndent(map[string]any{"pid": c.info.PID, "url": c.info.URL, "dir": c.info.Dir, "startedAt": c.info.StartedAt, "users": c.info.Users}, "", "  ")
	if err != nil {
		return err
	}
	next := filepath.Join(c.opts.Dir, infoFile+".next")
	if err := os.WriteFile(next, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(c.opts.Dir, infoFile))
}

// ownHosts refuses requests for a host that is not served. A name that leads here today and led to somebody's page before
// would make that page one of ours, for a browser.
func ownHosts(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.ContainsFunc(hosts, func(host string) bool { return strings.EqualFold(host, r.Host) }) {
			http.Error(w, "the local cloud does not serve this host", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownPages refuses what a web page of somebody else's makes the user's browser send.
func ownPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
			http.Error(w, "the local cloud answers no requests of other sites' pages", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type balancerAddresses struct{ net *plane.Net }

func (a balancerAddresses) Allocate(string) (string, error) {
	addr, err := a.net.Addr(plane.LoadBalancer)
	if err != nil {
		return "", err
	}
	return addr.String(), nil
}

func (a balancerAddresses) Release(address string) {
	if addr, err := netip.ParseAddr(address); err == nil {
		a.net.Release(addr)
	}
}

type instanceAddresses struct{ net *plane.Net }

func (a instanceAddresses) Addr() (netip.Addr, error) { return a.net.Addr(plane.Instance) }
func (a instanceAddresses) Release(addr netip.Addr)   { a.net.Release(addr) }

func (c *cloud) startInstance(ctx context.Context, p group.Program) (group.Process, error) {
	process, err := c.supervisor.Start(ctx, plane.Spec{Name: p.Name, Path: p.Path, Env: p.Env, Dir: p.Dir, Log: p.Log, UID: p.UID})
	if err != nil {
		return nil, err
	}
	return process, nil
}

func (c *cloud) open() func(ctx context.Context, bucket, object, email string) (io.ReadCloser, error) {
	return c.storage.Open
}

func (c *cloud) keep(w http.ResponseWriter, _ *http.Request) {
	c.kept.Store(true)
	w.WriteHeader(http.StatusNoContent)
}

func (c *cloud) shutdown(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusAccepted)
	c.stop()
}

func (c *cloud) status(w http.ResponseWriter, _ *http.Request) {
	info := c.info
	info.Transient = info.Transient && !c.kept.Load()
	info.Listeners, info.Servers, info.Instances, info.Buckets = []Listener{}, []Server{}, []Instance{}, []Bucket{}
	for _, l := range c.fleet.Listeners() {
		info.Listeners = append(info.Listeners, Listener{Name: last(l.Rule), Project: project(l.Rule), Scheme: l.Scheme, Address: l.Address, Port: l.Port, Taken: l.Taken})
	}
	instances := c.store.Collection("sql.instances")
	for _, k := range instances.Keys("") {
		b, _ := instances.Get(k)
		s := Server{Kind: "PostgreSQL", Name: last(k), Project: project(k), State: body.String(b, "state")}
		for _, a := range body.Maps(b, "ipAddresses") {
			s.Address = body.String(a, "ipAddress") + ":5432"
		}
		info.Servers = append(info.Servers, s)
	}
	instances = c.store.Collection("redis.instances")
	for _, k := range instances.Keys("") {
		b, _ := instances.Get(k)
		s := Server{Kind: "Redis", Name: last(k), Project: project(k), State: body.String(b, "state")}
		if host := body.String(b, "host"); host != "" {
			s.Address = host + ":" + body.String(b, "port")
		}
		info.Servers = append(info.Servers, s)
	}
	instances = c.store.Collection("instances")
	for _, k := range instances.Keys("") {
		b, _ := instances.Get(k)
		i := Instance{Name: last(k), Project: project(k), Zone: last(body.String(b, "zone")), Status: body.String(b, "status")}
		for _, n := range body.Maps(b, "networkInterfaces") {
			i.Address = body.String(n, "networkIP")
		}
		info.Instances = append(info.Instances, i)
	}
	for _, name := range c.store.Collection("buckets").Keys("") {
		n, size := c.storage.Usage(name)
		info.Buckets = append(info.Buckets, Bucket{Name: name, Objects: n, Bytes: size})
	}
	info.Resources = map[string]int{}
	for _, name := range c.store.Names() {
		info.Resources[name] = c.store.Collection(name).Len()
	}
	info.Requests, info.Methods = c.front.Requests()
	info.Waited = c.supervisor.Waited().Seconds()
	c.answer(w, info)
}

func last(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// project gives the project of a key, "projects/p/…".
func project(key string) string {
	parts := strings.SplitN(key, "/", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[1]
}
