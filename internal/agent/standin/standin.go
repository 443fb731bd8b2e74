package standin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Role is one of Dify's containers. Each takes its own settings and shares nothing with the others but the stores.
type Role string

// The roles. API and Worker are of one image, and get the same settings.
const (
	API    Role = "api"
	Worker Role = "worker"
	Daemon Role = "plugin_daemon"
	Web    Role = "web"
)

// Roles gives all roles.
func Roles() []Role { return []Role{API, Worker, Daemon, Web} }

// Options say what the stand-in gets from outside.
type Options struct {
	Env      func(string) string // the process's environment
	Roles    []Role              // nil = all of them
	Resolver *net.Resolver
	Log      *slog.Logger
}

const (
	apiPort = 5001
	webPort = 3000
)

// grace is how long requests and tasks in hand may take when the stand-in is told to end.
const grace = 3 * time.Second

// part is a role that runs.
type part struct {
	port    int // 0 = it serves nobody
	handler http.Handler
	run     func(context.Context) // until the context ends; nil for none
	close   func()
}

func (r Role) open(ctx context.Context, o Options) (part, error) {
	env := settings(o.Env)
	switch r {
	case API:
		b, err := newBackend(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		return part{port: apiPort, handler: newAPI(b).handler(), close: b.close}, nil
	case Worker:
		b, err := newBackend(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		w := &worker{b, o.Log}
		return part{run: func(ctx context.Context) { w.run(ctx, grace) }, close: b.close}, nil
	case Daemon:
		d, err := newDaemon(ctx, env, o)
		if err != nil {
			return part{}, err
		}
		return part{port: daemonPort, handler: d.handler(), close: d.close}, nil
	case Web:
		return part{port: webPort, handler: (&web{env}).handler(), close: func() {}}, nil
	}
	return part{}, fmt.Errorf("the stand-in plays no %q", r)
}

// Run plays the roles, on the ports of Dify's containers at STANDIN_ADDRESS, until ctx ends. Requests and tasks in hand are
// finished then.
func Run(ctx context.Context, o Options) (err error) {
	ctx, end := context.WithCancel(ctx)
	roles := o.Roles
	if roles == nil {
		roles = Roles()
	}
	var (
		running sync.WaitGroup
		parts   []part
		servers []*http.Server
		served  = make(chan error, len(roles))
	)
	defer func() {
		end() // no new tasks while the servers finish
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		for _, s := range servers {
			if s.Shutdown(late) != nil {
				err = errors.Join(err, s.Close())
			}
		}
		running.Wait()
		for _, p := range parts {
			p.close()
		}
	}()
	for _, role := range roles {
		p, err := role.open(ctx, o)
		if err != nil {
			return err
		}
		parts = append(parts, p)
		if p.run != nil {
			running.Go(func() { p.run(ctx) })
		}
		if p.handler == nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(o.Env("STANDIN_ADDRESS"), strconv.Itoa(p.port)))
		if err != nil {
			return fmt.Errorf("stand in for %s: %w", role, err)
		}
		server := &http.Server{Handler: p.handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
		servers = append(servers, server)
		go func() { served <- server.Serve(l) }()
	}
	o.Log.Info("the stand-in serves", "address", o.Env("STANDIN_ADDRESS"), "roles", roles)
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return err
	}
}
