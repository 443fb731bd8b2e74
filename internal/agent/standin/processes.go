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
	"os"
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
	Authorities string        // the directory that services find as dify.AuthorityDir
	Output      io.Writer     // what the processes say, if Lines is nil
	Lines       runtime.Lines // the same, line by line
	Look        time.Duration // between two looks at a process that answered; 0 = 5 s
	Log         *slog.Logger
}

// processes is a runtime of processes: each service is one of the stand-in's, which has that service's environment and,
// besides, what ProcessOptions name.
type processes struct {
	opts   ProcessOptions
	client *http.Client

	mu  sync.Mutex
	all map[dify.Name]*process // of the last Run
}

// process is a service, through one or more processes.
type process struct {
	dify.Service
	end, kill context.CancelFunc // for good: politely, at once
	done      chan struct{}      // closed when it has ended for good

	// Guarded by processes.mu.
	runs     bool // else it ended, and is started again
	answered bool // since it runs
	stopped  bool // by Stop
	killed   bool // its last process was
	restarts int
	pid      int // of the process; 0 = none
}

// NewProcesses gives a runtime whose services are processes of the stand-in. They die with this one.
func NewProcesses(o ProcessOptions) runtime.Runtime {
	if o.Look == 0 {
		o.Look = 5 * time.Second
	}
	return &processes{
		opts: o, all: map[dify.Name]*process{},
		client: &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Prepare has nothing to do: jobs, as all processes, die with this one.
func (p *processes) Prepare(context.Context, []dify.Service) error { return nil }

func (p *processes) Address(n dify.Name) string {
	if n.Port() == 0 {
		return ""
	}
	return netip.AddrPortFrom(p.opts.Address, uint16(n.Port())).String()
}

// Relay: on the loopback, whose is a connection cannot be seen from its address.
func (p *processes) Relay() (netip.Addr, netip.Prefix) { return p.opts.Address, netip.Prefix{} }

// identityPort is the first of the ports at which services ask who they are, one for each.
const identityPort = 16380

// Identity: on the loopback, users are told apart, and services by the ports that they are told. They are one user's, as on the
// machine of a developer, who may do all that they may.
func (p *processes) Identity(n dify.Name) (netip.AddrPort, runtime.Asker) {
	if n.Ask() == "" {
		return netip.AddrPort{}, runtime.Asker{}
	}
	return netip.AddrPortFrom(p.opts.Address, uint16(identityPort+slices.Index(dify.Names(), n))), runtime.Asker{Own: true}
}

// env gives the environment of a process of a service's.
func (p *processes) env(s dify.Service, more map[string]string) []string {
	all := maps.Clone(s.Environment)
	for name, value := range all { // processes have no root of their own to mount it in
		all[name] = strings.ReplaceAll(value, dify.AuthorityDir, p.opts.Authorities)
	}
	maps.Copy(all, p.opts.Environment)
	maps.Copy(all, more)
	if at, _ := p.Identity(s.Name); at.IsValid() {
		maps.Copy(all, runtime.IdentityVariables(at))
	}
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

// Run starts again what ends, as a container is, and what answered and does not any more. What ends too often in a row is its
// error.
func (p *processes) Run(ctx context.Context, services []dify.Service) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	all := map[dify.Name]*process{}
	var running sync.WaitGroup
	for _, s := range services {
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		hard, kill := context.WithCancel(context.WithoutCancel(ctx))
		defer kill()
		pr := &process{Service: s, end: end, kill: kill, done: make(chan struct{})}
		all[s.Name] = pr
		running.Go(func() {
			defer close(pr.done)
			if failure := p.keep(life, hard, pr); failure != nil {
				fail(failure)
			}
		})
	}
	p.mu.Lock()
	p.all = all
	p.mu.Unlock()
	for _, s := range services {
		running.Go(func() {
			defer all[s.Name].end()
			select {
			case <-ctx.Done():
			case <-all[s.Name].done: // it was stopped
			}
			for _, other := range services { // who needs it ends first
				if slices.Contains(other.Needs, s.Name) {
					<-all[other.Name].done
				}
			}
		})
	}
	running.Wait()
	var failure *runtime.Failure
	if errors.As(context.Cause(ctx), &failure) {
		return failure
	}
	return nil
}

// mostEnds is how often a service may end before it has run for some time.
const mostEnds = 6

// keep runs a service's process again and again until life ends. Its failure is that this has no use.
func (p *processes) keep(life, hard context.Context, pr *process) *runtime.Failure {
	wait := time.Second
	for ends := 1; ; ends++ {
		began := time.Now()
		failure := p.once(life, hard, pr)
		if life.Err() != nil {
			return nil
		}
		if time.Since(began) > 5*time.Minute {
			wait, ends = time.Second, 1
		}
		if ends >= mostEnds {
			return failure
		}
		p.opts.Log.Error("a service ended; starting it again", "error", failure, "in", wait)
		p.mu.Lock()
		pr.restarts++
		p.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-life.Done():
			timer.Stop()
			return nil
		}
		wait = min(2*wait, time.Minute)
	}
}

// once runs a service's process until it ends, life does, or it answers no more and is killed. It says how it ended.
func (p *processes) once(life, hard context.Context, pr *process) *runtime.Failure {
	hard, kill := context.WithCancel(hard)
	watching, over := context.WithCancel(life)
	var (
		said  runtime.Tail
		watch sync.WaitGroup
		hung  error
	)
	watch.Go(func() {
		if hung = p.hangs(watching, pr); hung != nil {
			kill()
		}
	})
	note := func(runs bool, err error) {
		var exit *exec.ExitError
		p.mu.Lock()
		defer p.mu.Unlock()
		pr.runs, pr.answered, pr.pid, pr.killed = runs, false, 0, errors.As(err, &exit) && signalOf(exit) == killed
	}
	note(true, nil)
	s, output := pr.Service, p.opts.Output
	lines := &runtime.LineWriter{To: p.opts.Lines, Source: string(s.Name), Hide: runtime.Hider(s)}
	if p.opts.Lines != nil {
		output = lines
	}
	err := runChild(life, hard, s.Grace, p.opts.Program, []string{"standin", string(s.Name)}, p.env(s, nil), io.MultiWriter(output, &said), func(pid int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		pr.pid = pid
	})
	lines.End()
	note(false, err)
	over()
	watch.Wait()
	kill()
	failure := &runtime.Failure{Service: s.Name, State: "ended", Lines: runtime.Hide(said.String(), s)}
	switch {
	case hung != nil:
		failure.State = "did not answer and was killed: " + hung.Error()
	case err != nil:
		failure.State = "ended with " + err.Error()
	}
	return failure
}

// killed is the number of SIGKILL.
const killed = 9

// hangs returns with the reason when a service that answered, or should by now, has not done so three times in a row, and
// with nil when ctx ends.
func (p *processes) hangs(ctx context.Context, pr *process) error {
	if pr.Service.Health == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(p.opts.Look)
	defer tick.Stop()
	fails, began := 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := p.ask(ctx, pr)
		p.mu.Lock()
		answered := pr.answered
		p.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			fails = 0
		case answered || time.Since(began) > pr.Service.Health.Start:
			fails++
		}
		if fails >= 3 {
			return err
		}
	}
}

// ask asks a service that has a health how it is.
func (p *processes) ask(ctx context.Context, pr *process) error {
	err := runtime.Ask(ctx, p.client, p.Address(pr.Name), *pr.Service.Health)
	if err == nil {
		p.mu.Lock()
		pr.answered = true
		p.mu.Unlock()
	}
	return err
}

func (p *processes) Stop(ctx context.Context, names []dify.Name) error {
	var stopping []*process
	p.mu.Lock()
	for _, n := range names {
		if pr := p.all[n]; pr != nil && !pr.stopped {
			pr.stopped = true
			stopping = append(stopping, pr)
		}
	}
	p.mu.Unlock()
	for _, pr := range stopping {
		pr.end()
	}
	var errs []error
	for _, pr := range stopping {
		select {
		case <-pr.done:
		case <-ctx.Done():
			pr.kill()
			<-pr.done
		}
		p.mu.Lock()
		if pr.killed {
			errs = append(errs, &runtime.Failure{Service: pr.Name, State: runtime.Killed, Ended: true})
		}
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (p *processes) Health(ctx context.Context) error {
	p.mu.Lock()
	all := p.all
	p.mu.Unlock()
	if len(all) == 0 {
		return errors.New("nothing runs yet")
	}
	for _, n := range dify.Names() {
		pr := all[n]
		if pr == nil {
			continue
		}
		p.mu.Lock()
		runs, stopped := pr.runs, pr.stopped
		p.mu.Unlock()
		switch {
		case stopped:
		case !runs:
			return &runtime.Failure{Service: n, State: "does not run", Ended: true}
		case pr.Service.Health != nil:
			if err := p.ask(ctx, pr); err != nil {
				return &runtime.Failure{Service: n, State: "does not answer: " + err.Error()}
			}
		}
	}
	return nil
}

func (p *processes) States(context.Context) (map[dify.Name]runtime.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[dify.Name]runtime.State{}
	for n, pr := range p.all {
		if !pr.stopped {
			all[n] = runtime.State{Well: pr.runs && (pr.answered || pr.Service.Health == nil), Restarts: pr.restarts, Memory: resident(pr.pid)}
		}
	}
	return all, nil
}

// resident gives the memory that a process takes; 0 when it is not known.
func resident(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var all, pages int64
	fmt.Sscan(string(raw), &all, &pages)
	return pages * int64(os.Getpagesize())
}

func (p *processes) Job(ctx context.Context, j runtime.Job) (runtime.Result, error) {
	var said runtime.Tail
	command := j.Command
	if command == nil {
		command = j.Service.Command
	}
	err := runChild(ctx, context.WithoutCancel(ctx), j.Service.Grace, p.opts.Program, append([]string{"standin", string(j.Service.Name)}, command...), p.env(j.Service, j.Environment), &said, nil)
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
