package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/agent/plugins"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
)

// The least time between two reports, and what it is when three were made within a minute. Google drops writes of guest
// attributes beyond ten a minute, for all that an instance's programs write together; these are five at most, and one more when
// the instance serves for the first time: who looks when it takes traffic is not to be told what it waited for.
const (
	gapAtFirst = time.Second
	gap        = 20 * time.Second
)

// reporter publishes how the instance is: when something changed, and at least every report.Every.
type reporter struct {
	publish func(context.Context, []byte) error
	log     *slog.Logger

	mu      sync.Mutex
	doc     report.Document
	took    map[report.Phase]time.Duration // those that are over, the first time that they were
	changed chan struct{}                  // holds one when something is to be published
	serves  chan struct{}                  // closed when the instance serves for the first time
	first   sync.Once
}

func newReporter(version string, log *slog.Logger, publish func(context.Context, []byte) error) *reporter {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // "" where there is none
	return &reporter{
		publish: publish, log: log, changed: make(chan struct{}, 1), serves: make(chan struct{}), took: map[report.Phase]time.Duration{},
		doc: report.Document{Boot: strings.TrimSpace(string(boot)), Dify: version, Phase: report.Secrets, Since: time.Now().UTC()},
	}
}

// phase notes how far the instance has come, and for what it waits there, if it does.
func (r *reporter) phase(p report.Phase, waiting string) {
	r.change(func(d *report.Document) bool {
		if d.Phase == p && d.Waiting == waiting {
			return false
		}
		if d.Phase != p {
			if _, again := r.took[d.Phase]; !again {
				r.took[d.Phase] = time.Since(d.Since)
			}
			d.Phase, d.Since = p, time.Now().UTC()
			if p == report.Serves {
				r.first.Do(func() {
					d.Served = d.Since
					close(r.serves)
				})
			}
		}
		d.Waiting = waiting
		return true
	})
}

// phases gives how long each phase took that is over, the first time.
func (r *reporter) phases() map[report.Phase]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.took)
}

// schedules says whether the stack's scheduler runs on an instance.
func (r *reporter) schedules(instance string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doc.Scheduler == instance
}

// schema notes what the databases were migrated to.
func (r *reporter) schema(s report.Schema) {
	r.change(func(d *report.Document) bool {
		if d.Schema != nil && *d.Schema == s {
			return false
		}
		d.Schema = &s
		return true
	})
}

// scheduler notes on which instance the scheduler runs.
func (r *reporter) scheduler(instance string) {
	r.change(func(d *report.Document) bool {
		changed := d.Scheduler != instance
		d.Scheduler = instance
		return changed
	})
}

// warnings notes what is not as it should be and is no reason to take no traffic.
func (r *reporter) warnings(now []string) {
	r.change(func(d *report.Document) bool {
		if slices.Equal(d.Warnings, now) {
			return false
		}
		if d.Warnings = now; len(now) > 0 {
			r.log.Warn("something is not as it should be", "what", strings.Join(now, "; "))
		} else {
			r.log.Info("everything is as it should be again")
		}
		return true
	})
}

// checks notes how what the instance depends on is. How long a check took is no change.
func (r *reporter) checks(now []report.Check) {
	r.change(func(d *report.Document) bool {
		same := slices.EqualFunc(d.Checks, now, func(a, b report.Check) bool { return a.Name == b.Name && a.Well == b.Well && a.Says == b.Says })
		d.Checks = now
		return !same
	})
}

// containers notes how the runtime's containers are. How much memory they take is no change.
func (r *reporter) containers(states map[dify.Name]runtime.State) {
	now := &report.Containers{At: time.Now().UTC()}
	for _, n := range slices.Sorted(maps.Keys(states)) {
		now.All = append(now.All, report.Container{Name: string(n), Well: states[n].Well, Restarts: states[n].Restarts, MiB: int(states[n].Memory >> 20)})
	}
	r.change(func(d *report.Document) bool {
		same := d.Containers != nil && slices.EqualFunc(d.Containers.All, now.All, func(a, b report.Container) bool {
			return a.Name == b.Name && a.Well == b.Well && a.Restarts == b.Restarts
		})
		d.Containers = now
		return !same
	})
}

// plugins notes how many plugins are installed, and run here.
func (r *reporter) plugins(s plugins.State) {
	now := &report.Plugins{At: time.Now().UTC(), Installed: len(s.Here) + len(s.Elsewhere) + len(s.Nowhere), Here: len(s.Here)}
	r.change(func(d *report.Document) bool {
		same := d.Plugins != nil && d.Plugins.Installed == now.Installed && d.Plugins.Here == now.Here
		d.Plugins = now
		return !same
	})
}

func (r *reporter) change(f func(*report.Document) bool) {
	r.mu.Lock()
	changed := f(&r.doc)
	r.mu.Unlock()
	if changed {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
}

// run publishes until ctx ends. What cannot be published is told in the log once, and tried again with the next.
func (r *reporter) run(ctx context.Context) {
	said, serves := "", r.serves
	var last [3]time.Time // when it published, the newest first
	for {
		last = [3]time.Time{time.Now(), last[0], last[1]}
		pause := gapAtFirst
		if time.Since(last[2]) < time.Minute {
			pause = gap
		}
		r.mu.Lock()
		select {
		case <-r.changed: // is in what is published now
		default:
		}
		if r.doc.Phase == report.Serves {
			serves = nil // is told
		}
		r.doc.At = time.Now().UTC()
		raw := r.doc.Encode()
		r.mu.Unlock()
		err := r.publish(ctx, raw)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			r.log.Warn("the instance's state cannot be published as a guest attribute", "error", said)
		}
		rest := time.NewTimer(pause)
		select {
		case <-rest.C:
		case <-serves:
			rest.Stop()
			serves = nil // once, whatever it does by now
			continue
		case <-ctx.Done():
			rest.Stop()
			return
		}
		again := time.NewTimer(report.Every - pause)
		select {
		case <-r.changed:
			again.Stop()
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unready is a failure of something that is waited for.
type unready struct {
	what string // "the vector database"
	says string // in words
	text string // the error's own text, without secrets, for the log
}

func (u *unready) Error() string { return u.what + ": " + u.text }

// words says in our own words why something does not work, for everybody to see: an error's own text may hold addresses,
// names and what a server chose to say.
func words(err error) string {
	var (
		postgres *pgconn.PgError
		dns      *net.DNSError
		status   *statusError
		network  net.Error
		service  *runtime.Failure
		of       *unready
		lack     *stores.Lack
		token    *identity.StatusError

		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &of):
		return of.what + " " + of.says
	case errors.As(err, &lack):
		return lack.Says
	case errors.As(err, &authority), errors.As(err, &invalid):
		return "has a certificate that none of its own authorities signed"
	case errors.Is(err, errNoAuthority):
		return "are not there yet"
	case errors.As(err, &service):
		return "cannot run the service " + string(service.Service)
	case errors.As(err, &postgres):
		switch postgres.Code {
		case "28P01", "28000":
			return "refuses the login"
		case "3D000":
			return "has no such database"
		case "42501":
			return "does not give the rights that are needed"
		case "53300":
			return "has no connection left"
		case "57P03", "57P01", "57P02":
			return "is starting or stopping"
		}
		return "answers with an error (" + postgres.Code + ")"
	case errors.Is(err, errPage):
		return "is not reached: something in between answers with a page"
	case errors.As(err, &status):
		if status.Unusable != "" {
			return status.Unusable
		}
		switch status.Code {
		case http.StatusUnauthorized, http.StatusForbidden:
			return "may not be read"
		case http.StatusNotFound:
			return "is not there"
		}
		return "answers with an error (" + http.StatusText(status.Code) + ")"
	case errors.As(err, &token) && token.Reason == "SERVICE_DISABLED":
		return "is not enabled in the project; `difyup apply` enables it"
	case errors.As(err, &token):
		return "answers with an error (" + cmp.Or(token.Reason, http.StatusText(token.Code)) + ")"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "has a name that is not known yet"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refuses connections"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "does not answer in time"
	case strings.Contains(err.Error(), "WRONGPASS"), strings.Contains(err.Error(), "NOAUTH"):
		return "refuses the login"
	}
	return "cannot be used; the log of the instance says why"
}

// How often everything that the instance depends on is tried while it serves.
const checkEvery = time.Minute

// check tries every store at once, the bucket too, and says how each is.
func (a *agent) check(ctx context.Context, secrets map[string]string) []report.Check {
	all := append(a.stores(secrets), a.bucket(), a.sts())
	out := make([]report.Check, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			began := time.Now()
			err := s.reach(ctx)
			out[i] = report.Check{Name: s.name, Well: err == nil, Says: words(err), Took: int(time.Since(began).Milliseconds())}
			if err != nil && ctx.Err() == nil {
				a.log.Warn("what the instance depends on does not work", "what", s.name, "error", hide(err, secrets))
			}
		})
	}
	wg.Wait()
	return out
}

// keepChecking tries everything now and then, until ctx ends.
func (a *agent) keepChecking(ctx context.Context, secrets map[string]string) {
	for {
		now := a.check(ctx, secrets)
		if ctx.Err() != nil {
			return
		}
		a.report.checks(now)
		a.vitals.stores(!slices.ContainsFunc(now, func(c report.Check) bool { return !c.Well }))
		if sleep(ctx, checkEvery) != nil {
			return
		}
	}
}
