package group

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/metadata"
	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// Instance statuses and actions, in Google's words.
const (
	statusProvisioning = "PROVISIONING"
	statusStaging      = "STAGING"
	statusRunning      = "RUNNING"
	statusStopping     = "STOPPING"
	statusTerminated   = "TERMINATED"

	actionNone       = "NONE"
	actionCreating   = "CREATING"
	actionVerifying  = "VERIFYING"
	actionRecreating = "RECREATING"
	actionRestarting = "RESTARTING"
	actionDeleting   = "DELETING"
)

// How long things take on Google, and how short a scaled cloud may make them.
const (
	provisioningTime = 8 * time.Second
	stagingTime      = 4 * time.Second
	bootTime         = 40 * time.Second // kernel, cloud-init, packages
	// shutdownTime is what the operating system is given. It is no latency but a limit, and what an instance has in hand then
	// takes real time: it is not scaled. A cloud that ends as a whole gives closingTime.
	shutdownTime         = 90 * time.Second
	closingTime          = 10 * time.Second
	shortestInitialDelay = 90 * time.Second
	firstBackoff         = 10 * time.Second
	shortestBackoff      = 250 * time.Millisecond
	longestBackoff       = 5 * time.Minute
)

// Why a life of an instance ended.
var (
	errLeaving   = errors.New("the instance is being deleted")
	errOrdered   = errors.New("the instance is being replaced")
	errUnhealthy = errors.New("the health check says it is unhealthy")
	errExited    = errors.New("the program ended")
)

// order is a wanted new life.
type order struct {
	act               Act // Recreate or Restart
	template, version string
}

// vm is one instance: a name, an address and a directory, through one or more lives, of one machine or several.
type vm struct {
	g                   *group
	project, zone, name string
	key                 string
	wake                chan struct{} // holds at most one: look at leaving and pending

	// Guarded by group.mu.
	id                string
	created           time.Time
	template, version string
	status, action    string
	addr              netip.Addr
	uid               int // of the program, its children and home; 0 before there is one
	metadata          *metadata.Server
	running           bool // it has its address and may answer
	bootedAt          time.Time
	health            probe.Count
	everHealthy       bool // in this life
	leaving           bool
	pending           *order
	another           bool // the next life is another machine's
	pid               int
	vcpus             int
	lastError         map[string]any
}

func (v *vm) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// leave has the instance deleted. The group is locked.
func (v *vm) leave() {
	if !v.leaving {
		v.leaving = true
		v.action = actionDeleting
		v.poke()
	}
}

// order has the instance begin a new life. While its old one ends, a newer order takes the place of an older one; a restart
// does not when it is to be recreated. The group is locked.
func (v *vm) order(o order) {
	if v.leaving {
		return
	}
	if v.pending != nil && v.pending.act == Recreate {
		o.act = Recreate
	}
	v.pending = &o
	v.action = actionRecreating
	if o.act == Restart {
		v.action = actionRestarting
	}
	v.poke()
}

// relabel notes that the instance is of another version, in the life that is ordered if one is. The group is locked.
func (v *vm) relabel(version string) {
	if v.pending != nil {
		v.pending.version = version
		return
	}
	v.version = version
}

// take makes the ordered life the next one, and tells whether one was ordered. The group is locked.
func (v *vm) take() bool {
	o := v.pending
	if o == nil || v.leaving {
		return false
	}
	v.template, v.version, v.pending = o.template, o.version, nil
	v.another = v.another || o.act == Recreate
	return true
}

// target gives the version that the instance is of once it has done what is ordered. The group is locked.
func (v *vm) target() (template, version string) {
	if v.pending != nil {
		return v.pending.template, v.pending.version
	}
	return v.template, v.version
}

func (v *vm) opts() *Options { return &v.g.all.opts }

// dir is what the instance's user may look into and not change, home is its own.
func (v *vm) dir() string  { return filepath.Join(v.opts().Dir, v.project, v.name) }
func (v *vm) home() string { return filepath.Join(v.dir(), "home") }

func (v *vm) scaled(d, floor time.Duration) time.Duration {
	return wire.Scaled(d, v.opts().TimeScale, floor)
}

// run is the instance from its creation until nothing of it is left.
func (v *vm) run(ctx context.Context) {
	defer v.clean()
	backoff := v.scaled(firstBackoff, shortestBackoff)
	for wait := time.Duration(0); ; {
		if !v.pause(ctx, wait) {
			return
		}
		err := v.equip()
		if err == nil {
			err = v.live(ctx)
		}
		v.g.mu.Lock()
		leaving, wasHealthy := v.leaving || ctx.Err() != nil, v.everHealthy
		v.everHealthy, v.health = false, probe.Count{}
		ordered := v.take()
		v.g.mu.Unlock()
		switch {
		case leaving:
			return
		case ordered:
			wait = 0
			continue
		}
		again := v.repair(err)
		if !again {
			v.setStatus(statusTerminated, actionNone)
			wait = -1 // until something is ordered
			continue
		}
		if wasHealthy {
			backoff = v.scaled(firstBackoff, shortestBackoff)
		}
		wait, backoff = backoff, min(2*backoff, v.scaled(longestBackoff, 20*shortestBackoff))
	}
}

// pause waits, forever if d is negative, and is false when the instance is to go. An order ends the wait, and is
// taken.
func (v *vm) pause(ctx context.Context, d time.Duration) bool {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	for {
		v.g.mu.Lock()
		leaving, ordered := v.leaving, v.take()
		v.g.mu.Unlock()
		if leaving || ctx.Err() != nil {
			return false
		}
		if ordered {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-v.wake:
		case <-timer:
			return true
		}
	}
}

// repair tells whether a dead instance is to live again, at which version, and notes why it died.
func (v *vm) repair(err error) bool {
	m, _ := wire.Get[wire.GroupManager](v.opts().Resources, v.g.key)
	spec := SpecOf(m)
	v.note("%v", err)
	v.opts().Log.Info("instance is repaired", "instance", v.name, "reason", err)
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	code := "INSTANCE_FAILED"
	if errors.Is(err, errUnhealthy) {
		code = "UNHEALTHY"
	}
	v.lastError = v.g.report(v.key, actionRecreating, v.template, v.version, code, fmt.Sprintf("Instance '%s' is recreated: %v", v.name, err))
	if m.Lifecycle.OnFailure == "DO_NOTHING" {
		return false
	}
	if m.Lifecycle.ForceUpdateOnRepair == "YES" && len(spec.Versions) == 1 {
		v.template, v.version = spec.Versions[0].Template, spec.Versions[0].Name
	}
	v.action = actionRecreating
	v.another = v.another || errors.Is(err, errUnhealthy)
	return true
}

// equip gives the instance its address, directory and metadata server, once, and what another machine has not got anew.
func (v *vm) equip() error {
	v.g.mu.Lock()
	server, another := v.metadata, v.another
	addr, uid := v.addr, v.uid
	v.g.mu.Unlock()
	if server != nil && another {
		return v.renew(server, uid)
	}
	if server != nil {
		return nil
	}
	if uid == 0 {
		var err error
		if uid, err = v.opts().User(); err != nil {
			return fmt.Errorf("find user for instance %s: %w", v.name, err)
		}
		v.g.mu.Lock()
		v.uid = uid
		v.g.mu.Unlock()
	}
	if err := v.house(uid); err != nil {
		return fmt.Errorf("make directory of instance %s: %w", v.name, err)
	}
	if !addr.IsValid() {
		var err error
		if addr, err = v.opts().Address(); err != nil {
			return fmt.Errorf("find address for instance %s: %w", v.name, err)
		}
		v.g.mu.Lock()
		v.addr = addr
		v.g.mu.Unlock()
	}
	server, err := metadata.Serve(addr, metadata.Options{Describe: v.document, Token: v.opts().Token, UID: uid, Log: v.opts().Log})
	if err != nil {
		return fmt.Errorf("start metadata server of instance %s: %w", v.name, err)
	}
	v.g.mu.Lock()
	v.metadata, v.another = server, false
	v.g.mu.Unlock()
	return nil
}

// renew makes the instance another machine of the same name and address: nothing is on its disk, and nothing published.
func (v *vm) renew(server *metadata.Server, uid int) error {
	if err := errors.Join(os.RemoveAll(v.home()), v.house(uid)); err != nil {
		return fmt.Errorf("make directory of instance %s anew: %w", v.name, err)
	}
	server.Forget()
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	v.another = false
	v.g.seq++
	_, v.id = identity(v.g.key, v.g.seq)
	v.created = time.Now()
	return nil
}

// house makes the instance's directories. Of those above its home its user's group may pass, and nobody else.
func (v *vm) house(uid int) error {
	pass, look := os.FileMode(0o700), os.FileMode(0o700)
	if uid != os.Geteuid() {
		pass, look = 0o711, 0o710
	}
	for _, d := range []struct {
		path     string
		mode     os.FileMode
		uid, gid int // -1 for ours
	}{{filepath.Dir(v.dir()), pass, -1, -1}, {v.dir(), look, -1, uid}, {v.home(), 0o700, uid, uid}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if uid != os.Geteuid() {
			if err := os.Lchown(d.path, d.uid, d.gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

// clean gives back all that equip took, and removes the instance's body.
func (v *vm) clean() {
	v.g.mu.Lock()
	server, addr, uid := v.metadata, v.addr, v.uid
	v.metadata, v.running = nil, false
	v.g.mu.Unlock()
	if server != nil {
		if err := server.Close(); err != nil {
			v.opts().Log.Warn("close metadata server", "instance", v.name, "error", err)
		}
	}
	v.opts().Instances.Delete(v.key)
	v.opts().Members()
	if addr.IsValid() {
		v.opts().Release(addr)
	}
	if err := os.RemoveAll(v.dir()); err != nil {
		v.opts().Log.Warn("remove directory of instance", "instance", v.name, "error", err)
	}
	if uid != 0 {
		v.opts().Vacate(uid)
	}
}

// live is one life: it boots, runs the program and probes it, until it ends for one of the reasons above.
func (v *vm) live(ctx context.Context) (why error) {
	life, end := context.WithCancelCause(ctx)
	var helpers []func()
	together := func(f func()) {
		done := make(chan struct{})
		helpers = append(helpers, func() { <-done })
		go func() { defer close(done); f() }()
	}
	together(func() { // orders end a life
		for {
			v.g.mu.Lock()
			leaving, ordered := v.leaving, v.pending != nil
			v.g.mu.Unlock()
			switch {
			case leaving:
				end(errLeaving)
				return
			case ordered:
				end(errOrdered)
				return
			}
			select {
			case <-life.Done():
				return
			case <-v.wake:
			}
		}
	})
	var proc Process
	defer func() {
		why = context.Cause(life)
		v.die(ctx, proc, why)
		end(nil)
		for _, wait := range helpers {
			wait()
		}
	}()

	v.g.mu.Lock()
	if v.action == actionNone || v.action == actionVerifying {
		v.action = actionRecreating
	}
	v.g.mu.Unlock()
	v.setStatus(statusProvisioning, "")
	if !sleep(life, v.scaled(provisioningTime, 0)) {
		return nil
	}
	v.setStatus(statusStaging, "")
	if !sleep(life, v.scaled(stagingTime, 0)) {
		return nil
	}
	v.g.mu.Lock()
	v.running, v.bootedAt = true, time.Now()
	action := actionNone
	if v.g.healing.ok {
		action = actionVerifying
	}
	v.g.mu.Unlock()
	v.setStatus(statusRunning, action)
	v.opts().Undrain(v.key)
	v.opts().Members()
	v.g.poke()
	together(func() { v.heal(life, end) })

	if !sleep(life, v.scaled(bootTime, 0)) {
		return nil
	}
	var err error
	if proc, err = v.boot(life); err != nil {
		if life.Err() == nil {
			end(fmt.Errorf("%w: %w", errExited, err))
		}
		return nil
	}
	if proc == nil { // a machine without a program runs all the same
		<-life.Done()
		return nil
	}
	v.g.mu.Lock()
	v.pid = proc.PID()
	v.g.mu.Unlock()
	select {
	case <-life.Done():
	case <-proc.Done():
		if err := proc.Err(); err != nil {
			end(fmt.Errorf("%w: %w%s", errExited, err, v.lastWords()))
		} else {
			end(errExited)
		}
	}
	return nil
}

// die ends a life: traffic first, then the process.
func (v *vm) die(ctx context.Context, proc Process, why error) {
	v.g.mu.Lock()
	v.pid = 0
	action := v.action
	if action == actionNone || action == actionVerifying {
		action = actionRecreating
	}
	running := v.running
	v.g.mu.Unlock()
	v.setStatus(statusStopping, action)
	if running && ctx.Err() == nil && !errors.Is(why, errExited) {
		v.opts().Drain(ctx, v.key)
	}
	if proc != nil {
		// The process must be gone even if we are being closed.
		stop, cancel := context.WithCancel(context.WithoutCancel(ctx))
		hurry := make(chan struct{})
		unhurried := context.AfterFunc(ctx, func() {
			defer close(hurry)
			sleep(stop, closingTime)
			cancel()
		})
		if err := proc.Stop(stop, shutdownTime); err != nil {
			v.opts().Log.Debug("instance program ended", "instance", v.name, "error", err)
		}
		cancel()
		if !unhurried() {
			<-hurry
		}
	}
	v.g.mu.Lock()
	v.running = false
	v.g.mu.Unlock()
	v.opts().Members()
}

// heal probes as the group's policy says, and ends the life of an instance that is not well.
func (v *vm) heal(life context.Context, end context.CancelCauseFunc) {
	since := time.Now()
	for life.Err() == nil {
		v.g.mu.Lock()
		h, addr := v.g.healing, v.addr
		v.health = probe.Count{}
		v.g.mu.Unlock()
		if !h.ok {
			select {
			case <-life.Done():
			case <-h.changed:
			}
			continue
		}
		ctx, stop := context.WithCancel(life)
		probe.Run(ctx, h.check, func(ctx context.Context) error { return h.check.Ask(ctx, addr) }, func(n probe.Count, changed bool) {
			v.g.mu.Lock()
			defer v.g.mu.Unlock()
			v.health = n
			select {
			case <-h.changed:
				stop()
				return
			default:
			}
			switch n.Verdict {
			case probe.Healthy:
				v.everHealthy = true
				if v.action == actionVerifying {
					v.action, v.lastError = actionNone, nil
				}
			case probe.Unhealthy, probe.Timeout:
				if v.everHealthy || time.Since(since) >= h.delay {
					end(fmt.Errorf("%w: %s", errUnhealthy, n.Detail))
				}
			}
			if changed {
				v.g.poke()
			}
		})
		stop()
	}
}

// setStatus writes the instance's body with a new status, and a new action unless that is "".
func (v *vm) setStatus(status, action string) {
	v.g.mu.Lock()
	v.status = status
	if action != "" && !v.leaving {
		v.action = action
	}
	body, server := v.body(), v.metadata
	v.g.mu.Unlock()
	v.opts().Instances.Put(v.key, body)
	if server != nil {
		server.Changed() // a new life may be one of another template
	}
	v.note("instance %s is %s", v.name, status)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// serialFile is where the program's output and our own notes go.
func (v *vm) serialFile() string { return filepath.Join(v.dir(), "serial.log") }

// lastWords gives the last line that the program wrote, as the end of a sentence; "" for none.
func (v *vm) lastWords() string {
	text := strings.TrimSpace(v.serial())
	line := text[strings.LastIndexByte(text, '\n')+1:]
	if line == "" || strings.Contains(line, " localcloud: ") { // a note of ours
		return ""
	}
	const most = 400
	return "; it wrote last: " + strings.ToValidUTF8(line[max(0, len(line)-most):], "")
}

// note writes a line to the serial port.
func (v *vm) note(format string, args ...any) {
	f, err := os.OpenFile(v.serialFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // the directory is not there yet: nothing is running that could be watched
	}
	defer f.Close()
	fmt.Fprintf(f, "%s localcloud: %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), fmt.Sprintf(format, args...))
}

func (v *vm) serial() string {
	f, err := os.Open(v.serialFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 1<<20 {
		if _, err := f.Seek(-1<<20, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return ""
	}
	return string(data)
}

// boot does what cloud-init would: it fetches the program named by the metadata and starts it. It tries until life
// ends; a template without a program gives no process.
func (v *vm) boot(life context.Context) (Process, error) {
	v.g.mu.Lock()
	template := v.template
	v.g.mu.Unlock()
	t, ok := wire.Get[wire.InstanceTemplate](v.opts().Resources, template)
	if !ok {
		return nil, fmt.Errorf("boot: no instance template %s", wire.Name(template))
	}
	source := t.Item("difyup-agent")
	if source == "" {
		v.note("the metadata names no program (difyup-agent): nothing to start")
		return nil, nil
	}
	bucket, object, ok := strings.Cut(strings.TrimPrefix(source, "gs://"), "/")
	if !ok || !strings.HasPrefix(source, "gs://") {
		return nil, fmt.Errorf("boot: difyup-agent is %q, not gs://BUCKET/OBJECT", source)
	}
	path := filepath.Join(v.dir(), "difyup-agent")
	email := v.email(t, 0)
	wait := v.scaled(time.Second, 100*time.Millisecond)
	for said := ""; ; wait = min(wait*3/2, v.scaled(10*time.Second, time.Second)) {
		err := v.fetch(life, bucket, object, email, t.Item("difyup-agent-sha256"), path)
		if err == nil {
			break
		}
		if text := err.Error(); text != said {
			said = text
			v.note("cannot fetch %s as %s, trying again: %v", source, email, err)
		}
		if !sleep(life, wait) {
			return nil, context.Cause(life)
		}
	}
	v.note("starting %s", source)
	v.g.mu.Lock()
	host, uid := v.metadata.Addr().String(), v.uid
	v.g.mu.Unlock()
	// Nothing of the owner's environment: an instance is a machine of its own.
	p := Program{
		Name: v.name, Path: path, Dir: v.home(), Log: v.serialFile(), UID: uid,
		Env: []string{"GCE_METADATA_HOST=" + host, "DIFYUP_DNS=" + v.opts().DNS, "DIFYUP_SPOOL=" + filepath.Join(v.home(), "logs"), "HOME=" + v.home(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	for try := 0; ; try++ {
		proc, err := v.opts().Start(life, p)
		// Another process that is being started may still hold the file open for writing, for a moment.
		if errors.Is(err, syscall.ETXTBSY) && try < 50 && sleep(life, 10*time.Millisecond) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("start program of %s: %w", v.name, err)
		}
		return proc, nil
	}
}

// fetch stores an object as an executable file, if its contents have the sum.
func (v *vm) fetch(ctx context.Context, bucket, object, email, sum, path string) error {
	r, err := v.opts().Objects(ctx, bucket, object, email)
	if err != nil {
		return err
	}
	defer r.Close()
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("store %s: %w", object, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%s has the sha256 %s, and difyup-agent-sha256 says %s", object, got, sum)
	}
	v.g.mu.Lock()
	uid := v.uid
	v.g.mu.Unlock()
	mode := os.FileMode(0o700)
	if uid != os.Geteuid() { // to be read and executed by the instance's user, not changed
		mode = 0o750
		if err := os.Lchown(next, -1, uid); err != nil {
			return err
		}
	}
	if err := os.Chmod(next, mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// email is the address of the template's nth service account.
func (v *vm) email(t wire.InstanceTemplate, n int) string {
	if len(t.Properties.ServiceAccounts) <= n {
		return ""
	}
	email := t.Properties.ServiceAccounts[n].Email
	if email == "default" || email == "" {
		email = v.opts().Number(v.project) + "-compute@developer.gserviceaccount.com"
	}
	return email
}

// document is what the metadata server tells.
func (v *vm) document() metadata.Document {
	v.g.mu.Lock()
	id, template, addr := v.id, v.template, v.addr
	v.g.mu.Unlock()
	t, _ := wire.Get[wire.InstanceTemplate](v.opts().Resources, template)
	d := metadata.Document{
		ProjectID: v.project, ProjectNumber: v.opts().Number(v.project), ProjectAttributes: v.opts().Project(v.project),
		ID: id, Name: v.name, Zone: v.zone, MachineType: wire.Name(t.Properties.MachineType), Address: addr, Network: "default",
		Tags: t.Properties.Tags.Items, Attributes: map[string]string{"created-by": wire.Key(v.g.key), "instance-template": template},
	}
	if n := t.Properties.NetworkInterfaces; len(n) > 0 && n[0].Network != "" {
		d.Network = wire.Name(n[0].Network)
	}
	for _, disk := range t.Properties.Disks {
		if disk.Boot {
			d.Image = disk.Initialize.Image
		}
	}
	for _, item := range t.Properties.Metadata.Items {
		d.Attributes[item.Key] = item.Value
	}
	for i, a := range t.Properties.ServiceAccounts {
		d.Accounts = append(d.Accounts, metadata.Account{Email: v.email(t, i), Scopes: a.Scopes})
	}
	return d
}

// body is the instance as instances.get shows it. The group is locked.
func (v *vm) body() map[string]any {
	t, _ := wire.Get[wire.InstanceTemplate](v.opts().Resources, v.template)
	p := t.Properties
	v.vcpus = wire.VCPUs(p.MachineType)
	zone := "projects/" + v.project + "/zones/" + v.zone
	items := []any{}
	for _, i := range p.Metadata.Items {
		items = append(items, map[string]any{"key": i.Key, "value": i.Value})
	}
	items = append(items, map[string]any{"key": "instance-template", "value": v.template}, map[string]any{"key": "created-by", "value": v.g.key})
	body := map[string]any{
		"kind": "compute#instance", "id": v.id, "name": v.name, "zone": wire.Link(zone), "status": v.status,
		"creationTimestamp": v.created.UTC().Format("2006-01-02T15:04:05.000-07:00"),
		"selfLink":          wire.Link(v.key),
		"machineType":       wire.Link(zone + "/machineTypes/" + wire.Name(p.MachineType)),
		"cpuPlatform":       "Local Cloud (" + runtime.GOARCH + ")",
		"metadata":          map[string]any{"kind": "compute#metadata", "items": items},
		"scheduling":        map[string]any{"automaticRestart": true, "onHostMaintenance": "MIGRATE", "preemptible": false, "provisioningModel": "STANDARD"},
		"startRestricted":   false, "deletionProtection": false, "canIpForward": false,
	}
	if p.Description != "" {
		body["description"] = p.Description
	}
	if !v.bootedAt.IsZero() {
		body["lastStartTimestamp"] = v.bootedAt.UTC().Format("2006-01-02T15:04:05.000-07:00")
	}
	if len(p.Labels) > 0 {
		labels := map[string]any{}
		for k, l := range p.Labels {
			labels[k] = l
		}
		body["labels"] = labels
	}
	tags := []any{}
	for _, tag := range p.Tags.Items {
		tags = append(tags, tag)
	}
	body["tags"] = map[string]any{"items": tags}
	nic := map[string]any{"kind": "compute#networkInterface", "name": "nic0", "stackType": "IPV4_ONLY"}
	if v.addr.IsValid() {
		nic["networkIP"] = v.addr.String()
	}
	if len(p.NetworkInterfaces) > 0 {
		for field, link := range map[string]string{"network": p.NetworkInterfaces[0].Network, "subnetwork": p.NetworkInterfaces[0].Subnetwork} {
			if link != "" {
				nic[field] = wire.Link(wire.Key(link))
			}
		}
	}
	body["networkInterfaces"] = []any{nic}
	accounts := []any{}
	for i, a := range p.ServiceAccounts {
		scopes := []any{}
		for _, s := range a.Scopes {
			scopes = append(scopes, s)
		}
		accounts = append(accounts, map[string]any{"email": v.email(t, i), "scopes": scopes})
	}
	body["serviceAccounts"] = accounts
	disks := []any{}
	for i, d := range p.Disks {
		device := d.DeviceName
		if device == "" {
			device = fmt.Sprintf("persistent-disk-%d", i)
		}
		disk := map[string]any{"kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE", "boot": d.Boot, "autoDelete": d.AutoDelete,
			"index": i, "deviceName": device, "source": wire.Link(zone + "/disks/" + v.name)}
		if size := d.Initialize.SizeGB.String(); size != "" {
			disk["diskSizeGb"] = size
		}
		disks = append(disks, disk)
	}
	body["disks"] = disks
	return body
}
