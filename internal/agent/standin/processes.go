package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// ProcessOptions say how the stand-in's processes are started.
type ProcessOptions struct {
	Program     string     // which is the stand-in when its first argument is "standin"; the second is the service
	Address     netip.Addr // of all services
	Instance    string
	Version     string   // the release that it says it is
	Environ     []string // of which PATH and HOME are inherited
	Environment map[string]string
	Output      io.Writer // what the processes say
	Log         *slog.Logger
}

// processes is a runtime of processes: each service is one of the stand-in's, which has that service's environment and,
// besides, what ProcessOptions name.
type processes struct {
	opts   ProcessOptions
	client *http.Client

	mu      sync.Mutex
	running map[dify.Name]*dify.Service // nil = it ended, and is started again
}

// NewProcesses gives a runtime whose services are processes of the stand-in. They die with this one.
func NewProcesses(o ProcessOptions) runtime.Runtime {
	return &processes{
		opts: o, running: map[dify.Name]*dify.Service{},
		client: &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Prepare has nothing to do.
func (p *processes) Prepare(context.Context, []dify.Service) error { return nil }

func (p *processes) Address(n dify.Name) string {
	if n.Port() == 0 {
		return ""
	}
	return netip.AddrPortFrom(p.opts.Address, uint16(n.Port())).String()
}

// Relay: on the loopback, whose is a connection cannot be seen from its address.
func (p *processes) Relay() (netip.Addr, netip.Prefix) { return p.opts.Address, netip.Prefix{} }

// env gives the environment of a process of a service's.
func (p *processes) env(s dify.Service, more map[string]string) []string {
	all := maps.Clone(s.Environment)
	maps.Copy(all, p.opts.Environment)
	maps.Copy(all, more)
	all["STANDIN_ADDRESS"], all["STANDIN_INSTANCE"], all["STANDIN_VERSION"] = p.opts.Address.String(), p.opts.Instance, p.opts.Version
	var vars []string
	for _, v := range p.opts.Environ {
		if name, _, _ := strings.Cut(v, "="); name == "PATH" || name == "HOME" {
			vars = append(vars, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		vars = append(vars, name+"="+all[name])
	}
	return vars
}

// Run starts what ends again, as a container is. It gives no error: what cannot be kept running is seen by Health.
func (p *processes) Run(ctx context.Context, services []dify.Service) error {
	var all sync.WaitGroup
	ended := map[dify.Name]chan struct{}{}
	p.mu.Lock()
	for _, s := range services {
		ended[s.Name], p.running[s.Name] = make(chan struct{}), nil
	}
	p.mu.Unlock()
	for _, s := range services {
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		all.Go(func() {
			defer close(ended[s.Name])
			p.keep(life, s)
		})
		all.Go(func() {
			defer end()
			<-ctx.Done()
			for _, other := range services { // who needs it ends first
				if slices.Contains(other.Needs, s.Name) {
					<-ended[other.Name]
				}
			}
		})
	}
	all.Wait()
	return nil
}

// keep runs a service's process again and again until life ends.
func (p *processes) keep(life context.Context, s dify.Service) {
	wait := time.Second
	for life.Err() == nil {
		var said runtime.Tail
		began := time.Now()
		p.set(s.Name, &s)
		err := runChild(life, p.opts.Program, []string{"standin", string(s.Name)}, p.env(s, nil), io.MultiWriter(p.opts.Output, &said))
		p.set(s.Name, nil)
		if life.Err() != nil {
			return
		}
		if time.Since(began) > 5*time.Minute {
			wait = time.Second
		}
		failure := &runtime.Failure{Service: s.Name, State: "ended", Lines: runtime.Hide(said.String(), s)}
		if err != nil {
			failure.State = "ended with " + err.Error()
		}
		p.opts.Log.Error("a service ended; starting it again", "error", failure, "in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-life.Done():
			timer.Stop()
		}
		wait = min(2*wait, time.Minute)
	}
}

func (p *processes) set(n dify.Name, s *dify.Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[n] = s
}

func (p *processes) Health(ctx context.Context) error {
	p.mu.Lock()
	now := maps.Clone(p.running)
	p.mu.Unlock()
	if len(now) == 0 {
		return errors.New("nothing runs yet")
	}
	for _, n := range dify.Names() {
		s, known := now[n]
		if !known {
			continue
		}
		if s == nil {
			return &runtime.Failure{Service: n, State: "does not run", Ended: true}
		}
		if s.Health == nil {
			continue
		}
		if err := runtime.Ask(ctx, p.client, p.Address(n), *s.Health); err != nil {
			return &runtime.Failure{Service: n, State: "does not answer: " + err.Error()}
		}
	}
	return nil
}

func (p *processes) Job(ctx context.Context, j runtime.Job) (runtime.Result, error) {
	var said runtime.Tail
	command := j.Command
	if command == nil {
		command = j.Service.Command
	}
	err := runChild(ctx, p.opts.Program, append([]string{"standin", string(j.Service.Name)}, command...), p.env(j.Service, j.Environment), &said)
	result := runtime.Result{Lines: runtime.Hide(said.String(), j.Service)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case errors.As(err, &exit):
		if result.Status = exit.ExitCode(); result.Status < 0 { // a signal
			result.Status = 128 + signalOf(exit)
		}
		return result, nil
	case err != nil:
		return result, fmt.Errorf("run a job of %s: %w", j.Service.Name, err)
	}
	return result, nil
}
