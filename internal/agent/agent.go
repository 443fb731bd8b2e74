package agent

import (
	"cmp"
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
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/agent/migrate"
	"github.com/difyup/difyup/internal/agent/plugins"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/scheduler"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/imagename"
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
	// Dir is where the agent keeps what must outlive it; "" = nothing must.
	Dir string
	// Authorities is the directory in which services find the certificates of the authorities of stores; see runtimes.
	Authorities string
	// Spool is where logs are kept until Cloud Logging has taken them; "" = none are sent.
	Spool string
	// Cut ends at once, when it is closed, what Run still waits for after its context has ended. nil = never.
	Cut <-chan struct{}
	Log *slog.Logger
}

// Instance is what a runtime is told of the machine.
type Instance struct {
	Name     string
	Address  netip.Addr // on the stack's network
	Endpoint string     // root of all of Google's APIs; "" = Google's own
	Settings dify.Settings
	// Login gives the user and the password for a registry, HOST or HOST:PORT; no user where there are none. It may be called
	// while the runtime prepares.
	Login func(ctx context.Context, registry string) (user, password string, err error)
	Lines runtime.Lines // takes what services write; nil = nobody does
	Log   *slog.Logger
}

// agent is a running agent.
type agent struct {
	opts     Options
	log      *slog.Logger
	google   *google
	resolver *net.Resolver
	door     *frontdoor.Door
	report   *reporter
	vitals   *vitals
	runtime  runtime.Runtime
	release  dify.Release

	name     string
	id       string
	zone     string // projects/NUMBER/zones/ZONE
	address  netip.Addr
	endpoint string  // of all APIs; "" on Google
	scale    float64 // of Google's times: 1 on Google
	settings dify.Settings
	self     identity.Instance              // whom Google knows the instance, and its containers, as
	tokens   map[dify.Name]*identity.Source // what services get for the instance's own token; set before anything asks

	// Only serve uses these.
	provided map[string]bool   // the stores that hold and allow all that Dify needs
	broken   time.Time         // when it last counted that the runtime cannot prepare
	logins   map[string]string // USER:PASSWORD for registries, by host; what Prepare calls may read it

	authorities authorities
}

// Run serves until ctx ends, then lets requests and tasks finish, within dify.EndTime, and returns nil.
func Run(ctx context.Context, o Options) (err error) {
	if o.MetadataHost == "" {
		o.MetadataHost = "metadata.google.internal"
	}
	a := &agent{opts: o, log: o.Log, resolver: Resolver(o.DNS), provided: map[string]bool{}}
	learned := make(chan struct{})
	book, end := a.ship(learned)
	defer func() { end(err) }()
	var lines runtime.Lines
	if book != nil {
		a.log, lines = book.Log(), book
	}
	// No proxy: the metadata server must never be asked through one.
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second, Resolver: a.resolver}).DialContext, MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	a.google = &google{host: o.MetadataHost, client: &http.Client{Transport: transport, Timeout: 20 * time.Second}}

	if err := a.try(ctx, "", "the metadata server", a.learn); err != nil {
		return ignoreEnd(ctx, err)
	}
	close(learned)
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
	if a.release, err = dify.Choose(a.settings.DifyVersion, a.settings.Images); err != nil {
		return err
	}
	up := time.Duration(0)
	if a.endpoint == "" { // on Google, the machine is the instance's alone
		up = scheduler.BootTime()
	}
	a.vitals = newVitals(o.Dir, up, a.log)
	a.runtime = open(Instance{Name: a.name, Address: a.address, Endpoint: a.endpoint, Settings: a.settings, Login: a.login, Lines: lines, Log: a.log})
	door, err := frontdoor.Open(netip.AddrPortFrom(a.address, Port), frontdoor.Options{
		Instance: a.name, Log: a.log, Backend: a.runtime.Address, Most: a.settings.Most, Upload: a.settings.LargestUpload(), Notice: a.scaled(dify.NoticeTime, 0),
		Alive: func() (bool, string) { return a.vitals.facts().alive(a.scaled(BootPatience, shortestBoot)) },
	})
	if err != nil {
		return err
	}
	a.door = door
	// The runtime outlives the wish to end, until the last request is answered.
	life, cease := context.WithCancel(context.WithoutCancel(ctx))
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
	err = a.drain()
	cease()
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
	if a.id, err = a.google.optional(ctx, "instance/id"); err != nil {
		return err
	}
	email, err := a.google.metadata(ctx, "instance/service-accounts/default/email")
	if err != nil {
		return err
	}
	universe, err := a.google.optional(ctx, "universe/universe-domain")
	if err != nil {
		return err
	}
	if a.endpoint, err = a.google.optional(ctx, "project/attributes/difyup-api-endpoint"); err != nil {
		return err
	}
	scale, err := a.google.optional(ctx, "project/attributes/difyup-time-scale")
	if err != nil {
		return err
	}
	if a.scale, err = strconv.ParseFloat(scale, 64); err != nil {
		a.scale = 1
	}
	if a.address, err = netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("the instance's address: %w", err)
	}
	if err := json.Unmarshal([]byte(config), &a.settings); err != nil {
		return fmt.Errorf("read difyup-config: %w", err)
	}
	a.self = identity.Instance{Project: a.settings.Project, Account: email, Universe: cmp.Or(universe, "googleapis.com")}
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

// serve gets everything ready and runs the runtime until life ends. Getting ready ends with ctx.
func (a *agent) serve(ctx, life context.Context) {
	// A version of a secret has one value for ever: it is fetched once. Another value means another version, which is another
	// template, and other instances.
	var (
		secrets  map[string]string
		services []dify.Service
	)
	if a.try(ctx, report.Secrets, "the secrets", func(ctx context.Context) (err error) {
		if secrets, err = a.fetch(ctx); err != nil {
			return err
		}
		a.logins = map[string]string{}
		for registry, version := range a.settings.RegistryCredentials {
			a.logins[registry] = secrets[version.String()]
		}
		return nil
	}) != nil {
		return
	}
	if a.try(ctx, report.Stores, "the services' settings", func(ctx context.Context) error {
		settings, err := a.located(ctx)
		if err != nil {
			return err
		}
		services, err = dify.Project(a.release, settings, secrets)
		return err
	}) != nil {
		return
	}
	a.tokens = a.narrowed(life, services)
	var identities sync.WaitGroup
	defer identities.Wait()
	for _, s := range services {
		if s.Identity != nil {
			identities.Go(func() { a.identify(life, s.Name) })
		}
	}
	wait := time.Second
	for life.Err() == nil {
		prepared := false
		if a.try(ctx, report.Stores, "the stores", func(ctx context.Context) error {
			// While the stores come to be, images are fetched.
			if !prepared {
				if err := a.prepare(ctx, services, secrets, a.answer); err != nil {
					return err
				}
				prepared = true
			}
			err := a.answer(ctx, secrets)
			a.vitals.stores(err == nil)
			return err
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
		err := a.run(ctx, life, services, secrets)
		if time.Since(began) > 5*time.Minute {
			wait = time.Second
		}
		if life.Err() != nil || ctx.Err() != nil { // it was ended, or nothing is started again any more
			return
		}
		a.vitals.restarted()
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

// That the runtime cannot prepare counts as a restart of it, so often at most; and after such a time without, as another trouble.
const (
	countEvery = time.Minute
	brokenAnew = 5 * time.Minute
)

// prepare has the runtime prepare. That it cannot, as when its engine is broken, counts as that it ended does: meanwhile nobody else tries
// whether the stores answer, without which nothing would be known of the cause. A registry that gives no image is as a store that is away.
func (a *agent) prepare(ctx context.Context, services []dify.Service, secrets map[string]string, answer func(context.Context, map[string]string) error) error {
	err := a.runtime.Prepare(ctx, services)
	if err == nil || ctx.Err() != nil {
		return err
	}
	var fetch *runtime.Unfetched
	switch {
	case errors.As(err, &fetch):
		a.vitals.stores(false)
	case time.Since(a.broken) >= countEvery:
		if time.Since(a.broken) >= brokenAnew {
			a.vitals.answered() // its trouble begins now: what was waited for before was no fault of its
		}
		a.broken = time.Now()
		well := answer(ctx, secrets) == nil
		if a.vitals.stores(well); well {
			a.vitals.restarted()
		}
	}
	var of *unready
	if errors.As(err, &of) {
		return of
	}
	return &unready{"the runtime", words(err), hide(err, secrets).Error()}
}

// answer gives the first error of what Dify needs outside of this machine.
func (a *agent) answer(ctx context.Context, secrets map[string]string) error {
	err := a.trust(ctx)
	if err == nil {
		err = a.reach(ctx, secrets)
	}
	if err == nil {
		err = a.provide(ctx, secrets)
	}
	return err
}

// located gives the settings with the stack's address, where there is no domain that users and links come by.
func (a *agent) located(ctx context.Context) (dify.Settings, error) {
	s := a.settings
	if s.Edge == "" {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stores.Patience)
	defer cancel()
	found, err := a.resolver.LookupNetIP(ctx, "ip4", s.Edge)
	if err != nil {
		return s, &unready{"the stack's address", words(err), err.Error()}
	}
	s.Address = found[0].Unmap()
	return s, nil
}

// login gives the credentials for a registry. To those of Google's the instance logs in as itself.
func (a *agent) login(ctx context.Context, registry string) (user, password string, err error) {
	if imagename.OfGoogle(registry) {
		token, err := a.google.bearer(ctx)
		return "oauth2accesstoken", token, err
	}
	value := a.logins[registry]
	if value == "" {
		return "", "", nil
	}
	user, password, ok := strings.Cut(strings.TrimSpace(value), ":") // files end with a newline
	if !ok || user == "" || password == "" {
		const says = "has no text of the form USER:PASSWORD"
		return "", "", &unready{"the secret " + a.settings.RegistryCredentials[registry].String(), says, says}
	}
	return user, password, nil
}

// fetch gets the secrets, by purpose, and those of the user's by NAME@VERSION: the versions that the settings name, whichever
// there are besides.
func (a *agent) fetch(ctx context.Context) (map[string]string, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		errs   []error
		values = map[string]string{}
	)
	wanted := map[string]dify.SecretVersion{}
	maps.Copy(wanted, a.settings.Secrets)
	for _, of := range a.settings.SecretEnvironment {
		for _, version := range of {
			wanted[version.String()] = version
		}
	}
	for _, version := range a.settings.RegistryCredentials {
		wanted[version.String()] = version
	}
	for key, version := range wanted {
		wg.Go(func() {
			value, err := a.google.secret(ctx, a.endpoint, a.settings.Project, version)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, &unready{"the secret " + version.String(), words(err), strings.TrimPrefix(err.Error(), "secret "+version.String()+": ")})
			case !utf8.ValidString(value) || strings.Contains(value, "\x00"):
				const says = "is not a text, and cannot be a variable's value"
				errs = append(errs, &unready{"the secret " + version.String(), says, says})
			default:
				values[key] = value
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return nil, slices.MinFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	}
	return values, nil
}

// reach logs in to every store, has a token narrowed for the containers, and gives the first error.
func (a *agent) reach(ctx context.Context, secrets map[string]string) error {
	for _, s := range append(a.stores(secrets), a.sts()) {
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

// How long one store may take to be provided for. Another instance may be making the same extension.
const providePatience = 30 * time.Second

// provide has every store, and the bucket, hold what Dify needs and allow what Dify does, and gives the first error. What
// was well once is not tried again: a right that was lost while Dify ran must not keep it from being started again.
func (a *agent) provide(ctx context.Context, secrets map[string]string) error {
	for _, s := range append(a.stores(secrets), a.bucket()) {
		if s.provide == nil || a.provided[s.name] {
			continue
		}
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, providePatience)
			defer cancel()
			return s.provide(ctx)
		}()
		if err != nil {
			return &unready{s.name, words(err), hide(err, secrets).Error()}
		}
		a.provided[s.name] = true
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
		if len(s) > 3 { // what is shorter is in every text
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// store is what must answer before the runtime starts.
type store struct {
	name  string
	reach func(context.Context) error
	// provide makes in it what Dify needs, and tries what Dify must be allowed there. nil = there is nothing.
	provide func(context.Context) error
}

func (a *agent) stores(secrets map[string]string) []store {
	s := a.settings.Stores
	postgres := func(name string, d dify.Database, database, password string, needs stores.Needs) store {
		with := func(do func(context.Context, *pgx.ConnConfig) error) func(context.Context) error {
			return func(ctx context.Context) error {
				config, err := stores.PostgresConfig(a.resolver, d.Host, d.Port, d.User, password, database)
				if err != nil {
					return err
				}
				config.TLSConfig = a.tls(d.TLS, dify.DatabaseAuthorities)
				return do(ctx, config)
			}
		}
		return store{name, with(stores.ReachPostgres), with(func(ctx context.Context, c *pgx.ConnConfig) error { return stores.Provide(ctx, c, needs) })}
	}
	return []store{
		postgres("the database", s.Database, s.Database.Name, secrets[dify.DBPassword], stores.Needs{Extension: dify.MainExtension, Schema: migrate.RecordSchema}),
		postgres("the plugins' database", s.Database, s.Database.PluginName, secrets[dify.DBPassword], stores.Needs{}),
		postgres("the vector database", s.Vector, s.Vector.Name, secrets[dify.VectorPassword], stores.Needs{Extension: dify.VectorExtension}),
		{name: "Redis", reach: func(ctx context.Context) error {
			return stores.ReachRedis(ctx, a.redisOptions(secrets))
		}},
	}
}

// database is for the agent's own connections to a database of the main server.
func (a *agent) database(name string, secrets map[string]string) (*pgx.ConnConfig, error) {
	d := a.settings.Stores.Database
	config, err := stores.PostgresConfig(a.resolver, d.Host, d.Port, d.User, secrets[dify.DBPassword], name)
	if err == nil {
		config.TLSConfig = a.tls(d.TLS, dify.DatabaseAuthorities)
	}
	return config, err
}

// redisOptions are for the agent's own clients of Redis.
func (a *agent) redisOptions(secrets map[string]string) *redis.Options {
	r := a.settings.Stores.Redis
	o := stores.RedisOptions(a.resolver, r.Host, r.Port, secrets[dify.RedisAuth])
	if c := a.tls(r.TLS, dify.RedisAuthorities); c != nil {
		stores.EncryptRedis(o, c)
	}
	return o
}

// bucket is that of Dify's files. It has no name that comes to be, so reach leaves it to provide.
func (a *agent) bucket() store {
	return store{"the bucket", func(ctx context.Context) error {
		_, err := a.seeBucket(ctx)
		return err
	}, a.tryBucket}
}

// run has the runtime run services until life ends, and tells the front door when they answer, as long as ctx lasts. It
// returns when they have ended: with errSilent when they did not answer for long.
func (a *agent) run(ctx, life context.Context, services []dify.Service, secrets map[string]string) error {
	life, end := context.WithCancelCause(life)
	watching, stop := context.WithCancel(life)
	defer context.AfterFunc(ctx, stop)()
	var watches sync.WaitGroup
	seen := &pluginsSeen{look: func(ctx context.Context) (plugins.State, error) { return a.lookAtPlugins(ctx, secrets) }}
	watches.Go(func() { a.watch(watching, end, seen) })
	watches.Go(func() { a.keepLooking(watching, seen) })
	watches.Go(func() { a.keepChecking(watching, secrets) })
	watches.Go(func() { a.keepTrusting(watching) })
	watches.Go(func() { a.schedule(watching, secrets) })
	watches.Go(func() { a.measure(watching, secrets) })
	err := a.runtime.Run(life, services)
	if cause := context.Cause(life); errors.Is(cause, errSilent) {
		err = cause
	}
	end(nil)
	stop()
	watches.Wait()
	return err
}

// silence is how long the runtime may not answer until all of it is started again. What a single service lacks, the runtime
// sees and mends much sooner.
const silence = 15 * time.Minute

var errSilent = errors.New("the runtime did not answer")

// watch asks the runtime how its services are, and tells the front door; before that, it waits for plugins. It ends the runtime
// when services do not answer for long.
func (a *agent) watch(ctx context.Context, end context.CancelCauseFunc, seen *pluginsSeen) {
	// The stand-in answers after some milliseconds, Dify after a minute.
	const first, starting, serving = 20 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second
	pause, fails := first, 0
	ready, answered := false, time.Now()
	waits, said := a.waitForPlugins(), "" // for what
	for ctx.Err() == nil {
		err := a.runtime.Health(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			fails, answered = 0, time.Now()
			a.vitals.answered()
			if pause = serving; ready {
				break
			}
			why := seen.why(ctx, a, &waits)
			if ctx.Err() != nil {
				return
			}
			if why != "" {
				if pause = starting; why != said {
					said = why
					a.log.Info("the runtime answers, and the instance " + why)
				}
				a.wait(report.Starts, why)
				break
			}
			ready = true
			a.log.Info("ready for traffic")
			a.vitals.served()
			a.door.Ready()
			a.report.phase(report.Serves, "")
		default:
			var failure *runtime.Failure
			ended := errors.As(err, &failure) && failure.Ended
			switch fails++; {
			case !ready:
				pause = min(pause*11/10, starting)
			case fails >= 3 || ended:
				ready, pause, waits = false, first, a.waitForPlugins()
				a.log.Warn("the runtime does not answer", "error", err)
				a.wait(report.Starts, "the runtime "+words(err))
			default:
				pause = starting // to know soon
			}
			if time.Since(answered) > silence {
				end(errSilent)
				return
			}
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}
