package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/imagename"
)

// Options say which engine is used, and how.
type Options struct {
	Dir     string   // of the project's files, which hold secrets; made 0700
	Project string   // the name of the project: containers are PROJECT-SERVICE-1
	Docker  string   // the program; "" = docker
	Environ []string // of the program: PATH, HOME, and DOCKER_HOST where it is not the machine's own engine
	Pull    string   // "missing": what the machine lacks is pulled; "never": it is an error
	// Login gives the user and the password for a registry, no user where there are none; nil = there are none anywhere.
	Login  func(ctx context.Context, registry string) (user, password string, err error)
	Memory string // a directory that is on no disk, where a password may lie while an image is pulled; "" = the system's for temporary files
	// Start bounds how long the services may take from the start of the first until all are healthy. 0 = 15 minutes.
	Start time.Duration
	// Authorities is the directory that services find as dify.AuthorityDir, those that look there; "" = none.
	Authorities string
	Look        time.Duration                                                        // between two looks at containers that run; 0 = 10 s
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // to the containers; nil = net's
	Lines       runtime.Lines                                                        // takes what containers write; nil = nobody does
	// Nft is the command of nftables, which is given a script and -f; nil = nft. It sets up the network in which the engine's bridges are.
	Nft []string
	// Lookup gives the addresses of a store's name; nil = the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Log    *slog.Logger
}

// engine is a runtime of containers.
type engine struct {
	opts    Options
	client  *http.Client
	silence time.Duration // longSilence, or shorter in tests

	mu       sync.Mutex
	services []dify.Service // that run, once they are up; nil = they do not
	broken   *runtime.Failure
	all      []dify.Service     // of the Run that is under way; nil = none is
	stopped  map[dify.Name]bool // by Stop, since it began
	failed   map[string]failed  // by image, since the last time that it was pulled

	guard guard
}

// New gives a runtime whose services are containers of a Docker engine.
func New(o Options) runtime.Runtime {
	if o.Docker == "" {
		o.Docker = "docker"
	}
	if o.Memory == "" {
		o.Memory = os.TempDir()
	}
	if o.Start == 0 {
		o.Start = 15 * time.Minute
	}
	if o.Look == 0 {
		o.Look = 10 * time.Second
	}
	if o.Nft == nil {
		o.Nft = []string{"nft"}
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
		}
	}
	return &engine{opts: o, silence: longSilence, failed: map[string]failed{}, guard: guard{nft: o.Nft, lookup: o.Lookup, file: filepath.Join(o.Dir, GuardFile), log: o.Log}, client: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: o.Dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// How long things may take that are none of the services'.
const (
	short   = time.Minute      // a question to the engine
	pulling = 20 * time.Minute // one image, through one address of a NAT that others use too
)

// docker runs the program and gives what it wrote. What it says when it fails is in the error, without secrets.
func (e *engine) docker(ctx context.Context, most time.Duration, services []dify.Service, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var out bytes.Buffer
	var said runtime.Tail
	cmd := exec.CommandContext(ctx, e.opts.Docker, args...)
	cmd.Env = slices.Concat(e.opts.Environ, []string{"COMPOSE_ANSI=never", "COMPOSE_PROGRESS=plain"}, env)
	cmd.Dir = e.opts.Dir
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &said), &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	what := "docker " + strings.Join(args[:min(len(args), 1)], " ")
	if i := slices.Index(args, "-p"); i >= 0 && i+2 < len(args) {
		what = "docker compose " + args[i+2]
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return out.String(), fmt.Errorf("%s takes longer than %s: %s", what, most, oneLine(runtime.Hide(said.String(), services...)))
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("there is no program %s on this machine", e.opts.Docker)
	}
	return out.String(), fmt.Errorf("%s: %w: %s", what, err, oneLine(runtime.Hide(said.String(), services...)))
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " | ")
}

// compose runs a command of the compose plugin on a file of the project's.
func (e *engine) compose(ctx context.Context, most time.Duration, services []dify.Service, env []string, file string, args ...string) (string, error) {
	return e.docker(ctx, most, services, env, append([]string{"compose", "--project-directory", e.opts.Dir, "-f", filepath.Join(e.opts.Dir, file), "-p", e.opts.Project}, args...)...)
}

const file = "compose.yaml"

// write writes the project of services, or of a job, under a name. Only we may read it.
func (e *engine) write(name string, services []dify.Service, job bool) error {
	files, err := render(e.opts.Project, services, e.opts.Pull, e.opts.Authorities, job)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("make the project's directory: %w", err)
	}
	// squid runs as another user, and its file holds no secret.
	for _, f := range []struct {
		name string
		text []byte
		mode os.FileMode
	}{{name, files.Compose, 0o600}, {"squid.conf", files.Squid, 0o644}} {
		path := filepath.Join(e.opts.Dir, f.name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, f.text) { // a file that is mounted keeps its inode
			if err := os.Chmod(path, f.mode); err != nil {
				return fmt.Errorf("write the project: %w", err)
			}
			continue
		}
		err := os.WriteFile(path+".next", f.text, f.mode)
		if err == nil {
			err = os.Chmod(path+".next", f.mode) // whatever the agent's umask is
		}
		if err == nil {
			err = os.Rename(path+".next", path)
		}
		if err != nil {
			return fmt.Errorf("write the project: %w", err)
		}
	}
	return nil
}

// Prepare sets up the guard, writes the project, has compose check it, and pulls the images that the machine lacks, three at a time.
func (e *engine) Prepare(ctx context.Context, services []dify.Service) error {
	if err := e.guard.set(ctx, services); err != nil {
		return err
	}
	if err := e.write(file, services, false); err != nil {
		return err
	}
	if _, err := e.compose(ctx, short, services, nil, file, "config", "--quiet"); err != nil {
		return err
	}
	// Of an agent that was killed while it pulled.
	left, err := filepath.Glob(filepath.Join(e.opts.Memory, pullDir+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove a password: %w", err)
		}
	}
	jobs, err := e.docker(ctx, short, services, nil, "ps", "--all", "--quiet", "--filter", "name=^/?"+e.jobOf(""))
	if ids := strings.Fields(jobs); err == nil && len(ids) > 0 {
		_, err = e.docker(ctx, short, services, nil, append([]string{"rm", "--force", "--volumes"}, ids...)...)
	}
	if err != nil {
		return fmt.Errorf("remove the jobs that were left: %w", err)
	}
	wanted := map[string]bool{}
	for _, s := range services {
		wanted[s.Image] = true
	}
	images := slices.Sorted(maps.Keys(wanted))
	// One that cannot be had does not interrupt the others, of which some take minutes.
	errs := make([]error, len(images))
	var pulls errgroup.Group
	pulls.SetLimit(3)
	for i, image := range images {
		pulls.Go(func() error {
			errs[i] = e.have(ctx, image)
			return nil
		})
	}
	_ = pulls.Wait() // the errors are gathered
	for _, err := range errs {
		if fetch := (*runtime.Unfetched)(nil); err != nil && !errors.As(err, &fetch) {
			return err
		}
	}
	return errors.Join(errs...)
}

// failed is a pull that failed. It is tried again when it is time: each try counts at the registry, which lets the whole network behind
// a NAT have so many, and goes on counting when the reason is gone.
type failed struct {
	err   error
	wait  time.Duration
	again time.Time
}

const firstPull, lastPull = time.Second, 2 * time.Minute

// have pulls an image if the machine lacks it.
func (e *engine) have(ctx context.Context, image string) error {
	_, missing := e.docker(ctx, short, nil, nil, "image", "inspect", "--format", "{{.Id}}", image)
	switch {
	case missing == nil:
		return nil
	case !strings.Contains(missing.Error(), "No such image"):
		return missing
	case e.opts.Pull == "never":
		return &runtime.Unfetched{Err: fmt.Errorf("the image %s is not on this machine, and nothing is pulled", image)}
	}
	e.mu.Lock()
	f := e.failed[image]
	e.mu.Unlock()
	if time.Now().Before(f.again) {
		return f.err
	}
	e.opts.Log.Info("pulling", "image", image)
	err := e.pull(ctx, image)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.failed, image)
		return nil
	}
	f.err = &runtime.Unfetched{Err: fmt.Errorf("pull %s: %w", image, err)}
	f.wait = min(max(2*f.wait, firstPull), lastPull)
	f.again = time.Now().Add(f.wait)
	e.failed[image] = f
	return f.err
}

// What the directories begin with in which passwords lie while images are pulled.
const pullDir = "difyup-pull-"

// pull has the engine pull an image, with credentials for its registry if there are any. They are given by a file, which is
// gone afterwards: an argument, and an environment, other processes can see.
func (e *engine) pull(ctx context.Context, image string) error {
	registry, _ := imagename.Registry(image)
	user, password := "", ""
	if e.opts.Login != nil {
		var err error
		if user, password, err = e.opts.Login(ctx, registry); err != nil {
			return fmt.Errorf("log in to %s: %w", registry, err)
		}
	}
	if user == "" {
		_, err := e.docker(ctx, pulling, nil, nil, "pull", "--quiet", image)
		return err
	}
	if registry == imagename.Hub {
		registry = "https://index.docker.io/v1/" // as Docker writes it there
	}
	type auth struct {
		Auth []byte `json:"auth"` // in base64
	}
	config, err := json.Marshal(map[string]map[string]auth{"auths": {registry: {[]byte(user + ":" + password)}}})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(e.opts.Memory, pullDir)
	if err != nil {
		return fmt.Errorf("make a place for the password: %w", err)
	}
	if err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err == nil {
		hidden := dify.Service{Environment: map[string]string{"REGISTRY_PASSWORD": password}}
		_, err = e.docker(ctx, pulling, []dify.Service{hidden}, []string{"DOCKER_CONFIG=" + dir}, "pull", "--quiet", image)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// state is what compose says of a container.
type state struct {
	Service  dify.Name
	State    string // "running", "exited", "restarting", "created", "dead", "paused"
	Health   string // "", "starting", "healthy", "unhealthy"
	ExitCode int
}

// states gives the states of the project's containers, by service.
func (e *engine) states(ctx context.Context, services []dify.Service) (map[dify.Name]state, error) {
	out, err := e.compose(ctx, short, services, nil, file, "ps", "--all", "--format", "json")
	if err != nil {
		return nil, err
	}
	all := map[dify.Name]state{}
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var s state
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("docker compose ps: %w", err)
		}
		all[s.Service] = s
	}
}

// starts is the state of a container that may still come to answer.
const starts = "does not answer yet"

// worst gives the failure of the service that fails most plainly, or nil: one that ended before one that does not answer,
// and that before one that has not answered yet.
func (e *engine) worst(ctx context.Context, services []dify.Service) (*runtime.Failure, error) {
	states, err := e.states(ctx, services)
	if err != nil {
		return nil, err
	}
	var worst *runtime.Failure
	rank := 0
	consider := func(n int, f runtime.Failure) {
		if n > rank {
			rank, worst = n, &f
		}
	}
	for _, s := range services {
		got, there := states[s.Name]
		switch {
		case e.ended(s.Name):
		case !there:
			consider(1, runtime.Failure{Service: s.Name, State: "was not started", Ended: true})
		case got.State == "restarting", got.State == "exited", got.State == "dead":
			consider(4, runtime.Failure{Service: s.Name, State: "ended with status " + strconv.Itoa(got.ExitCode), Ended: true})
		case got.State != "running":
			consider(1, runtime.Failure{Service: s.Name, State: "is " + got.State, Ended: true})
		case got.Health == "unhealthy":
			consider(3, runtime.Failure{Service: s.Name, State: "runs, and does not answer"})
		case got.Health == "starting":
			consider(2, runtime.Failure{Service: s.Name, State: starts})
		}
	}
	if worst != nil && worst.State != starts {
		if out, err := e.compose(ctx, short, services, nil, file, "logs", "--no-color", "--no-log-prefix", "--tail", "20", string(worst.Service)); err == nil {
			worst.Lines = runtime.Hide(strings.TrimSpace(out), services...)
		}
	}
	return worst, nil
}

// Run takes over what runs already, as after the agent's own end. A container that ends is started again by the engine; one
// that does not answer any more, by us.
func (e *engine) Run(ctx context.Context, services []dify.Service) error {
	if err := e.write(file, services, false); err != nil {
		return err
	}
	e.begin(services)
	defer e.begin(nil)
	if err := e.guard.set(ctx, services); err != nil {
		return err
	}
	defer e.guard.keep(ctx, services, e.opts.Look)()
	if err := e.wake(ctx, services); err != nil {
		return err
	}
	defer e.follow(ctx, services)()
	_, err := e.compose(ctx, e.opts.Start+short, services, nil, file, "up", "--detach", "--wait", "--wait-timeout", strconv.Itoa(int(e.opts.Start.Seconds())), "--remove-orphans", "--no-build")
	if ctx.Err() != nil {
		e.begin(services) // what was stopped may have been started since
		return e.stop(ctx, services)
	}
	if err != nil {
		if failure, lookErr := e.worst(ctx, services); lookErr == nil && failure != nil {
			if !failure.Ended { // the next Run would find it as it is
				e.restart(ctx, services, failure.Service)
			}
			return failure
		}
		return err
	}
	e.set(services, nil)
	tick := time.NewTicker(e.opts.Look)
	defer tick.Stop()
	for bad, hung := 0, 0; ; {
		select {
		case <-ctx.Done():
			return e.stop(ctx, services)
		case <-tick.C:
		}
		failure, err := e.worst(ctx, services)
		switch {
		case ctx.Err() != nil:
			continue
		case err != nil:
			e.opts.Log.Warn("the engine does not say how the containers are", "error", err)
			continue
		case failure == nil:
			bad, hung = 0, 0
			e.set(services, nil)
			continue
		case failure.State == starts: // again, or it would not be here
			e.set(services, nil)
			continue
		}
		e.set(services, failure)
		e.opts.Log.Warn("a container does not do its work", "error", failure)
		if bad++; !failure.Ended { // it hangs: the engine sees that, and does nothing about it
			hung++
			e.restart(ctx, services, failure.Service)
		}
		if bad >= mostBad || hung >= mostHung {
			return failure
		}
	}
}

// wake stops services that were asked to take nothing more by an agent that died before it told them to end: they would run, and do nothing
// for ever.
func (e *engine) wake(ctx context.Context, services []dify.Service) error {
	for _, s := range services {
		if _, err := os.Stat(e.deaf(s.Name)); err != nil {
			continue
		}
		_, err := e.compose(ctx, 2*short, services, nil, file, "stop", "--timeout", "10", string(s.Name))
		if err == nil {
			err = gone(os.Remove(e.deaf(s.Name)))
		}
		if err != nil {
			return fmt.Errorf("start %s again, which takes nothing: %w", s.Name, err)
		}
	}
	return nil
}

// gone is the error of a removal, of which it is none that there was nothing.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// How often in a row something is found wrong, and a container that hangs is started again, until Run gives up.
const mostBad, mostHung = 6, 3

// restart starts a container again that runs and does not answer. One that is stopped, as by SIGSTOP, has to be killed.
func (e *engine) restart(ctx context.Context, services []dify.Service, n dify.Name) {
	if _, err := e.compose(ctx, 2*short, services, nil, file, "restart", "--no-deps", "--timeout", "5", string(n)); err != nil && ctx.Err() == nil {
		e.opts.Log.Warn("a container cannot be started again", "service", n, "error", err)
	}
}

// stop ends the containers, those first that need others. They are kept, and started again by the next Run.
func (e *engine) stop(ctx context.Context, services []dify.Service) error {
	most, left := short, false
	for _, s := range services {
		most += s.Grace
		left = left || !e.ended(s.Name)
	}
	if !left {
		return nil
	}
	_, err := e.compose(context.WithoutCancel(ctx), most, services, nil, file, "stop")
	return err
}

// killed is the exit status of a program that got SIGKILL.
const killed = 128 + 9

func (e *engine) Stop(ctx context.Context, names []dify.Name) error {
	e.mu.Lock()
	services := e.all
	var told, asked []dify.Service // those that the signal to end is enough for, and those that are asked to take nothing more before
	for _, s := range services {
		if !slices.Contains(names, s.Name) || e.stopped[s.Name] {
			continue
		}
		e.stopped[s.Name] = true
		if s.Quiet == nil {
			told = append(told, s)
		} else {
			asked = append(asked, s)
		}
	}
	e.mu.Unlock()
	var all sync.WaitGroup
	errs := make([]error, 1+len(asked))
	all.Go(func() { errs[0] = e.signal(ctx, services, told) })
	for i, s := range asked {
		all.Go(func() {
			e.quiet(ctx, services, s)
			if errs[1+i] = e.signal(ctx, services, []dify.Service{s}); errs[1+i] == nil {
				errs[1+i] = gone(os.Remove(e.deaf(s.Name)))
			}
		})
	}
	all.Wait()
	var flat []error
	for _, err := range errs {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			flat = append(flat, many.Unwrap()...)
		} else if err != nil {
			flat = append(flat, err)
		}
	}
	return errors.Join(flat...)
}

// ending is how long before its time is over a service is told to end that was asked to take nothing more, and has something in hand still.
const ending = 8 * time.Second

// quiet asks a service to take nothing more, and waits until it has nothing in hand, or until it is time to tell it to end.
func (e *engine) quiet(ctx context.Context, services []dify.Service, s dify.Service) {
	most := s.Grace
	if end, ok := ctx.Deadline(); ok {
		most = time.Until(end)
	}
	most -= ending
	if most <= 0 {
		return
	}
	// Should the agent die meanwhile, the next Run is to know that this one takes nothing any more.
	if err := os.WriteFile(e.deaf(s.Name), nil, 0o600); err != nil {
		e.opts.Log.Warn("a service is not asked to take nothing more, and is told to end now", "service", s.Name, "error", err)
		return
	}
	words := slices.Concat([]string{"exec", "--no-TTY", string(s.Name)}, s.Quiet, []string{strconv.FormatFloat(most.Seconds(), 'f', 0, 64)})
	if _, err := e.compose(ctx, most+ending/2, services, nil, file, words...); err != nil && ctx.Err() == nil {
		e.opts.Log.Warn("a service was asked to take nothing more, and is told to end now", "service", s.Name, "error", err)
	}
}

// deaf gives the file that is there while a service has been asked to take nothing more, and has not ended.
func (e *engine) deaf(n dify.Name) string { return filepath.Join(e.opts.Dir, "quiet-"+string(n)) }

// signal tells services to end, and waits until they have.
func (e *engine) signal(ctx context.Context, services, these []dify.Service) error {
	if len(these) == 0 {
		return nil
	}
	var words []string
	for _, s := range these {
		words = append(words, string(s.Name))
	}
	// The engine counts in seconds; and it kills, whatever becomes of us. It does so a second early, so that it can tell us in time.
	grace := 0
	if end, ok := ctx.Deadline(); ok {
		grace = max(0, int(time.Until(end).Seconds())-1)
	}
	late := context.WithoutCancel(ctx)
	_, err := e.compose(ctx, time.Duration(grace)*time.Second+short, services, nil, file, append([]string{"stop", "--timeout", strconv.Itoa(grace)}, words...)...)
	if ctx.Err() != nil {
		_, err = e.compose(late, short, services, nil, file, append([]string{"kill"}, words...)...)
	}
	states, lookErr := e.states(late, services)
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	var errs []error
	for _, s := range services {
		got, there := states[s.Name]
		switch {
		case !there || !slices.Contains(words, string(s.Name)):
		case got.State == "running" || got.State == "restarting":
			errs = append(errs, &runtime.Failure{Service: s.Name, State: "cannot be stopped"}, err)
		case got.ExitCode == killed:
			errs = append(errs, &runtime.Failure{Service: s.Name, State: runtime.Killed, Ended: true})
		}
	}
	return errors.Join(errs...)
}

// begin notes which services a Run has begun to run; none of them was stopped yet.
func (e *engine) begin(services []dify.Service) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all, e.stopped = services, map[dify.Name]bool{}
	e.services, e.broken = nil, nil
}

// ended says whether Stop ended a service.
func (e *engine) ended(n dify.Name) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stopped[n]
}

func (e *engine) set(services []dify.Service, broken *runtime.Failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.services, e.broken = services, broken
}

func (e *engine) Address(n dify.Name) string {
	if !served(n) {
		return ""
	}
	return net.JoinHostPort(outwardAt(n, false).String(), strconv.Itoa(n.Port()))
}

// Relay: containers cannot take another address than theirs.
func (e *engine) Relay() (netip.Addr, netip.Prefix) {
	return netip.MustParseAddr(machineAt), netip.PrefixFrom(outwardAt(dify.WorkerBeat, false), 32)
}

// Identity: the machine's address in the network that the service shares with nobody.
func (e *engine) Identity(n dify.Name) (netip.AddrPort, runtime.Asker) {
	network := n.Ask()
	if network == "" {
		return netip.AddrPort{}, runtime.Asker{}
	}
	return identityAt(network), runtime.Asker{Device: bridge(network)}
}

func (e *engine) Health(ctx context.Context) error {
	e.mu.Lock()
	services, broken := e.services, e.broken
	e.mu.Unlock()
	if services == nil {
		return errors.New("the containers are not up yet")
	}
	if broken != nil {
		return broken
	}
	for _, s := range services {
		if address := e.Address(s.Name); address != "" && s.Health != nil && !e.ended(s.Name) {
			if err := runtime.Ask(ctx, e.client, address, *s.Health); err != nil {
				return &runtime.Failure{Service: s.Name, State: "does not answer: " + err.Error()}
			}
		}
	}
	return nil
}

func (e *engine) jobOf(n dify.Name) string { return e.opts.Project + "-job-" + string(n) }

// States asks the engine itself.
func (e *engine) States(ctx context.Context) (map[dify.Name]runtime.State, error) {
	engine, err := newAPI(e.opts.Environ)
	if err != nil {
		return nil, err
	}
	defer engine.client.CloseIdleConnections()
	containers, err := engine.containers(ctx, e.opts.Project, true)
	if err != nil {
		return nil, err
	}
	all := map[dify.Name]runtime.State{}
	for id, name := range containers {
		if all[name], err = engine.state(ctx, id); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Job is a container of its own name, so that one that an agent left behind when it died is found and removed.
func (e *engine) Job(ctx context.Context, j runtime.Job) (result runtime.Result, err error) {
	s := j.Service
	s.Environment = maps.Clone(s.Environment)
	maps.Copy(s.Environment, j.Environment)
	if j.Command != nil {
		s.Command = j.Command
	}
	services := []dify.Service{s}
	name := "job-" + string(s.Name)
	container := e.jobOf(s.Name)
	if err := e.guard.set(ctx, services); err != nil {
		return result, err
	}
	if err := e.write(name+".yaml", services, true); err != nil {
		return result, err
	}
	remove := func() error {
		_, err := e.docker(context.WithoutCancel(ctx), short, services, nil, "rm", "--force", "--volumes", container)
		if err != nil && strings.Contains(err.Error(), "No such container") {
			return nil
		}
		return err
	}
	if err := remove(); err != nil {
		return result, err
	}
	defer func() {
		if left := remove(); left != nil { // else err is what it was: whoever ended ctx knows that nothing is left
			err = errors.Join(err, left)
		}
	}()
	// The services' own containers are no orphans.
	env := []string{"COMPOSE_IGNORE_ORPHANS=true"}
	if _, err := e.compose(ctx, 2*short, services, env, name+".yaml", "run", "--detach", "--no-deps", "--name", container, string(s.Name)); err != nil {
		return result, fmt.Errorf("run a job of %s: %w", s.Name, err)
	}
	const forever = 365 * 24 * time.Hour // a migration takes as long as it takes; ctx bounds it
	out, err := e.docker(ctx, forever, services, nil, "wait", container)
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	if err != nil {
		return result, fmt.Errorf("run a job of %s: %w", s.Name, err)
	}
	if result.Status, err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
		return result, fmt.Errorf("run a job of %s: docker wait says %q", s.Name, strings.TrimSpace(out))
	}
	result.Lines, err = e.lines(ctx, container, s)
	return result, err
}

// lines gives the last lines of what a container wrote, both to its output and its errors.
func (e *engine) lines(ctx context.Context, container string, s dify.Service) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	var said runtime.Tail
	cmd := exec.CommandContext(ctx, e.opts.Docker, "logs", "--tail", "20", container)
	cmd.Env, cmd.Stdout, cmd.Stderr = e.opts.Environ, &said, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker logs: %w", err)
	}
	return runtime.Hide(said.String(), s), nil
}
