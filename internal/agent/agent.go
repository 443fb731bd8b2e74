package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/report"
)

// Port is where the front door listens.
const Port = 1080

// Options say where the agent runs.
type Options struct {
	MetadataHost string // HOST or HOST:PORT; "" = Google's
	DNS          string // IP:PORT of the name server; "" = the system's
	// Runtimes make the runtimes that there are, by the names that settings call them. Each is called once at most.
	Runtimes map[string]func(Instance) runtime.Runtime
	Log      *slog.Logger
}

// Instance is what a runtime is told of the machine.
type Instance struct {
	Name     string
	Address  netip.Addr // on the stack's network
	Endpoint string     // root of all of Google's APIs; "" = Google's own
	Settings dify.Settings
	Log      *slog.Logger
}

// agent is a running agent.
type agent struct {
	opts     Options
	log      *slog.Logger
	google   *google
	resolver *net.Resolver
	door     *frontdoor.Door
	report   *reporter
	runtime  runtime.Runtime
	release  dify.Release

	name     string
	zone     string // projects/NUMBER/zones/ZONE
	address  netip.Addr
	endpoint string // of all APIs; "" on Google
	settings dify.Settings
}

// Run serves until ctx ends, then lets requests finish and returns nil.
func Run(ctx context.Context, o Options) error {
	if o.MetadataHost == "" {
		o.MetadataHost = "metadata.google.internal"
	}
	a := &agent{opts: o, log: o.Log, resolver: Resolver(o.DNS)}
	// No proxy: the metadata server must never be asked through one.
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second, Resolver: a.resolver}).DialContext, MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	a.google = &google{host: o.MetadataHost, client: &http.Client{Transport: transport, Timeout: 20 * time.Second}}

	if err := a.try(ctx, "", "the metadata server", a.learn); err != nil {
		return ignoreEnd(ctx, err)
	}
	a.log = a.log.With("instance", a.name)
	a.report = newReporter(a.settings.DifyVersion, a.log, func(ctx context.Context, raw []byte) error {
		return a.google.publish(ctx, report.Namespace, report.Key, raw)
	})
	a.log.Info("the metadata are read", "stack", a.settings.Stack, "zone", path.Base(a.zone), "address", a.address, "runtime", a.settings.Runtime)
	open := o.Runtimes[a.settings.Runtime]
	if open == nil {
		return &fault.Fault{
			Summary: "Unknown runtime",
			Detail: fmt.Sprintf("The metadata ask for the runtime %q; this agent has %s.", a.settings.Runtime,
				strings.Join(slices.Sorted(maps.Keys(o.Runtimes)), ", ")),
			Remedy: "Apply with the difyup that this agent belongs to.",
		}
	}
	var err error
	if a.release, err = dify.Lookup(a.settings.DifyVersion); err != nil {
		return err
	}
	a.runtime = open(Instance{Name: a.name, Address: a.address, Endpoint: a.endpoint, Settings: a.settings, Log: a.log})
	door, err := frontdoor.Open(netip.AddrPortFrom(a.address, Port), frontdoor.Options{Instance: a.name, Log: a.log, Backend: a.runtime.Address})
	if err != nil {
		return err
	}
	a.door = door
	// The runtime outlives the wish to end, until the last request is answered.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { a.serve(ctx, life) })
	serving.Go(func() { a.report.run(life) })
	select {
	case <-ctx.Done():
		a.log.Info("ending: no new requests are wanted")
		a.report.phase(report.Drains, "")
	case <-door.Done():
		// Without a door the instance is of no use; whoever started the agent starts it again.
		a.log.Error("ending: the front door broke")
	}
	err = door.Close()
	end()
	serving.Wait()
	return err
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Resolver gives a resolver that asks the name server at IP:PORT; the system's for "".
func Resolver(server string) *net.Resolver {
	if server == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
}

// learn asks the metadata server who and where the instance is, and what it is to run.
func (a *agent) learn(ctx context.Context) error {
	var ip, config string
	for _, q := range []struct {
		path string
		into *string
	}{{"instance/name", &a.name}, {"instance/zone", &a.zone}, {"instance/network-interfaces/0/ip", &ip}, {"instance/attributes/difyup-config", &config}} {
		v, err := a.google.metadata(ctx, q.path)
		if err != nil {
			return err
		}
		*q.into = v
	}
	var err error
	if a.endpoint, err = a.google.optional(ctx, "project/attributes/difyup-api-endpoint"); err != nil {
		return err
	}
	if a.address, err = netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("the instance's address: %w", err)
	}
	if err := json.Unmarshal([]byte(config), &a.settings); err != nil {
		return fmt.Errorf("read difyup-config: %w", err)
	}
	return nil
}

// wait has the front door, and who asks for the instance's state, know that it is not ready, and why.
func (a *agent) wait(p report.Phase, why string) {
	a.door.Wait(why)
	a.report.phase(p, why)
}

// What is missing is asked for often at first, since most of it comes within seconds, and then less and less often.
const (
	firstWait   = 200 * time.Millisecond
	eager       = 20 * time.Second
	longestWait = 5 * time.Second
)

// try does something until it works or ctx ends, and says what it waits for.
func (a *agent) try(ctx context.Context, p report.Phase, what string, do func(context.Context) error) error {
	wait, said, began := firstWait, "", time.Now()
	for {
		err := do(ctx)
		if err == nil {
			if said != "" {
				a.log.Info("no longer waiting", "for", what)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			a.log.Info("waiting", "for", what, "because", said)
		}
		if a.door != nil {
			a.wait(p, words(err))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		if time.Since(began) > eager {
			wait = min(wait*3/2, longestWait)
		}
	}
}

// How often the secrets are looked at while the runtime runs.
const secretsEvery = 15 * time.Second

// serve gets everything ready and runs the runtime until life ends. Getting ready ends with ctx.
func (a *agent) serve(ctx, life context.Context) {
	wait := time.Second
	for life.Err() == nil {
		// The secrets are fetched anew each time: what does not let us in today may be of yesterday.
		var (
			secrets  map[string]string
			services []dify.Service
			prepared bool
			tried    int
		)
		read := func(ctx context.Context) error {
			now, err := a.fetch(ctx)
			if err != nil {
				return err
			}
			with, err := dify.Project(a.release, a.settings, now)
			if err != nil {
				return err
			}
			secrets, services = now, with
			return nil
		}
		if a.try(ctx, report.Secrets, "the secrets", read) != nil {
			return
		}
		if a.try(ctx, report.Stores, "the stores", func(ctx context.Context) error {
			// A store that refuses a password may have got another one meanwhile.
			if tried++; tried%5 == 0 {
				if err := read(ctx); err != nil {
					return err
				}
			}
			// While the stores come to be, images are fetched.
			if !prepared {
				if err := a.runtime.Prepare(ctx, services); err != nil {
					return &unready{"the runtime", words(err), hide(err, secrets).Error()}
				}
				prepared = true
			}
			return a.reach(ctx, secrets)
		}) != nil {
			return
		}
		if a.migrate(ctx, services, secrets) != nil {
			if ctx.Err() != nil {
				return
			}
			continue
		}
		a.log.Info("the stores answer; starting", "runtime", a.settings.Runtime, "dify", a.settings.DifyVersion)
		a.wait(report.Starts, "the runtime has not answered yet")
		began := time.Now()
		err := a.run(life, services, secrets)
		if errors.Is(err, errSecretsChanged) {
			a.log.Info("secrets were changed; starting again with them")
			continue
		}
		if time.Since(began) > 5*time.Minute {
			wait = time.Second
		}
		if life.Err() != nil {
			return
		}
		a.wait(report.Starts, "the runtime ended and is started again")
		a.log.Error("the runtime ended; starting it again", "error", hide(err, secrets), "in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-life.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, time.Minute)
	}
}

var errSecretsChanged = errors.New("the secrets were changed")

// fetch gets the secrets, by purpose.
func (a *agent) fetch(ctx context.Context) (map[string]string, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		errs   []error
		values = map[string]string{}
	)
	for purpose, name := range a.settings.Secrets {
		wg.Go(func() {
			value, err := a.google.secret(ctx, a.endpoint, a.settings.Project, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, &unready{"the secret " + name, words(err), strings.TrimPrefix(err.Error(), "secret "+name+": ")})
				return
			}
			values[purpose] = value
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return nil, slices.MinFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	}
	return values, nil
}

// reach logs in to every store, and gives the first error.
func (a *agent) reach(ctx context.Context, secrets map[string]string) error {
	for _, s := range a.stores(secrets) {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return s.reach(ctx)
		}()
		if err != nil {
			return &unready{s.name, words(err), hide(err, secrets).Error()}
		}
	}
	return nil
}

// hide keeps secrets out of an error of a library's.
func hide(err error, secrets map[string]string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// store is what must answer before the runtime starts.
type store struct {
	name  string
	reach func(context.Context) error
}

func (a *agent) stores(secrets map[string]string) []store {
	s := a.settings.Stores
	postgres := func(d dify.Database, database, password string) func(context.Context) error {
		return func(ctx context.Context) error {
			config, err := stores.PostgresConfig(a.resolver, d.Host, d.Port, d.User, password, database)
			if err != nil {
				return err
			}
			return stores.ReachPostgres(ctx, config)
		}
	}
	return []store{
		{"the database", postgres(s.Database, s.Database.Name, secrets[dify.DBPassword])},
		{"the plugins' database", postgres(s.Database, s.Database.PluginName, secrets[dify.DBPassword])},
		{"the vector database", postgres(s.Vector, s.Vector.Name, secrets[dify.VectorPassword])},
		{"Redis", func(ctx context.Context) error {
			return stores.ReachRedis(ctx, stores.RedisOptions(a.resolver, s.Redis.Host, s.Redis.Port, secrets[dify.RedisAuth]))
		}},
	}
}

// run has the runtime run services, and tells the front door when they answer. It returns when they have ended: with
// errSecretsChanged when one of the secrets has another value than they were started with.
func (a *agent) run(life context.Context, services []dify.Service, secrets map[string]string) error {
	ctx, cancel := context.WithCancelCause(life)
	var watches sync.WaitGroup
	watches.Go(func() { a.watch(ctx) })
	watches.Go(func() { a.keepChecking(ctx, secrets) })
	watches.Go(func() { a.watchSecrets(ctx, secrets, cancel) })
	watches.Go(func() { a.schedule(ctx, secrets) })
	err := a.runtime.Run(ctx, services)
	if errors.Is(context.Cause(ctx), errSecretsChanged) {
		err = errSecretsChanged
	}
	cancel(nil)
	watches.Wait()
	return err
}

// watchSecrets ends the runtime when a secret changes.
func (a *agent) watchSecrets(ctx context.Context, secrets map[string]string, end context.CancelCauseFunc) {
	tick := time.NewTicker(secretsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// What cannot be read now is as it was.
		if now, err := a.fetch(ctx); err == nil && !maps.Equal(now, secrets) {
			a.wait(report.Starts, "the runtime is started again with changed secrets")
			end(errSecretsChanged)
			return
		}
	}
}

// watch asks the runtime how its services are, and tells the front door.
func (a *agent) watch(ctx context.Context) {
	// The stand-in answers after some milliseconds, Dify after a minute.
	const first, starting, serving = 20 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second
	pause, fails := first, 0
	ready := false
	for ctx.Err() == nil {
		err := a.runtime.Health(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			fails = 0
			if !ready {
				ready, pause = true, serving
				a.log.Info("ready for traffic")
				a.door.Ready()
				a.report.phase(report.Serves, "")
			}
		default:
			var failure *runtime.Failure
			ended := errors.As(err, &failure) && failure.Ended
			switch fails++; {
			case !ready:
				pause = min(pause*11/10, starting)
			case fails >= 3 || ended:
				ready, pause = false, first
				a.log.Warn("the runtime does not answer", "error", err)
				a.wait(report.Starts, "the runtime "+words(err))
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
