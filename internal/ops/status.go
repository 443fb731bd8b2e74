package ops

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
)

// Status is how a stack is.
type Status struct {
	Stack     string     `json:"stack"`
	Project   string     `json:"project"`
	Region    string     `json:"region"`
	Address   string     `json:"address"` // of the load balancer; "" before it has one
	Resources int        `json:"resources"`
	Missing   []string   `json:"missing,omitempty"` // wanted resources that do not exist
	Lost      []string   `json:"lost,omitempty"`    // of these, those that held data and were made to their end once
	Stores    []Store    `json:"stores"`
	Instances []Instance `json:"instances"`
	Target    int        `json:"target"` // instances the group wants to have, or its autoscaler will have it want at least
	Healthy   int        `json:"healthy"`
	Stable    bool       `json:"stable"` // the group is not changing anything

	Warnings    []string      `json:"warnings,omitempty"` // of instances that were asked: what is not as it should be, though they serve
	Certificate string        `json:"certificate"`        // ACTIVE, PROVISIONING, …; SELF_MANAGED
	Last        *state.Run    `json:"last,omitempty"`
	Intent      *state.Intent `json:"intent,omitempty"` // of a run that is at work, or did not end well
	Lock        *state.Holder `json:"lock,omitempty"`   // who is at work
}

// Store is a database, the cache or the bucket.
type Store struct {
	Name    string `json:"name"`
	What    string `json:"what"`  // "PostgreSQL 16"
	State   string `json:"state"` // Google's word
	Address string `json:"address,omitempty"`
}

// Instance is a machine of the group.
type Instance struct {
	Name   string `json:"name"`
	Zone   string `json:"zone"`
	Status string `json:"status"` // RUNNING, …
	Action string `json:"action"` // what the group does with it: NONE, CREATING, …
	Health string `json:"health"` // as the load balancer sees it: HEALTHY, UNHEALTHY, "" if not asked
	Error  string `json:"error,omitempty"`

	// Of Deep only. Report is what the instance says of itself; nil with the reason in Silent.
	Report *report.Document `json:"report,omitempty"`
	Silent string           `json:"silent,omitempty"`
	Serial string           `json:"serial,omitempty"` // the last line of its serial port, where there is no report to be had
}

// Ready says whether everything is there and serves.
func (s *Status) Ready() bool {
	return len(s.Missing) == 0 && s.Stable && s.Target > 0 && s.Healthy >= s.Target &&
		!slices.ContainsFunc(s.Stores, func(st Store) bool { return st.State != "RUNNABLE" && st.State != "READY" && st.State != "AVAILABLE" })
}

// Broken gives the stores that Google calls failed, as "demo-main is FAILED".
func (s *Status) Broken() []string {
	var broken []string
	for _, st := range s.Stores {
		if st.State == "FAILED" || st.State == "SUSPENDED" {
			broken = append(broken, st.Name+" is "+st.State)
		}
	}
	return broken
}

// Status reads how the stack is. It gives a fault when nothing of it is there.
func (s *Stack) Status(ctx context.Context) (*Status, error) {
	spec := s.opts.Spec
	out := &Status{Stack: spec.Stack, Project: spec.Project, Region: spec.Region, Stores: []Store{}, Instances: []Instance{}}
	var st *state.State
	first, firstCtx := errgroup.WithContext(ctx)
	first.Go(func() (err error) { st, err = s.read(firstCtx); return err })
	first.Go(func() (err error) { out.Lock, err = s.store.Holder(firstCtx); return err })
	if err := first.Wait(); err != nil {
		return nil, err
	}
	all, err := plan.Resources(s.owned(st), kind.ByName)
	if err != nil {
		return nil, err
	}
	live, err := s.client.ReadAll(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Kind == kind.Services.Kind {
			continue // is the project's, and was there before
		}
		body, there := live[r.ID()]
		if !there || !s.client.Whole(r, body) {
			out.Missing = append(out.Missing, string(r.ID()))
			continue
		}
		out.Resources++
		if r.Kind == kind.SSLCertificates.Kind && s.graph.Get(r.ID()) == nil {
			continue // the one before, which is served until Google has issued the wanted one
		}
		out.describe(r, body)
	}
	if len(st.Owned) == 0 && out.Resources == 0 {
		return nil, s.absent()
	}
	for _, id := range lost(spec, st, all, s.client.Disabled(), func(r *resource.Resource) bool { return !slices.Contains(out.Missing, string(r.ID())) }) {
		out.Lost = append(out.Lost, string(id))
	}
	out.Intent = st.Intent
	if n := len(st.History); n > 0 {
		out.Last = &st.History[n-1]
	}
	if err := s.instances(ctx, out); err != nil {
		return nil, err
	}
	return out, nil
}

// History is what the state knows of runs.
type History struct {
	Runs   []state.Run   `json:"runs"`             // the oldest first
	Intent *state.Intent `json:"intent,omitempty"` // of a run that is at work, or did not end well
	Schema *state.Schema `json:"schema,omitempty"` // of the databases, as far as is known
}

// History reads which runs there were.
func (s *Stack) History(ctx context.Context) (*History, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	return &History{st.History, st.Intent, st.Schema}, nil
}

// describe takes from a live body what a status shows.
func (s *Status) describe(r *resource.Resource, body map[string]any) {
	text := func(p resource.Path) string {
		v, ok := resource.Lookup(body, p)
		if !ok {
			return ""
		}
		return fmt.Sprint(v)
	}
	switch r.Kind {
	case kind.SQLInstances.Kind:
		s.Stores = append(s.Stores, Store{
			Name: r.Name, What: "PostgreSQL " + strings.TrimPrefix(text("databaseVersion"), "POSTGRES_"), State: text("state"), Address: text("ipAddresses[type=PRIVATE].ipAddress"),
		})
	case kind.RedisInstances.Kind:
		version := strings.ReplaceAll(strings.TrimPrefix(text("redisVersion"), "REDIS_"), "_", ".")
		s.Stores = append(s.Stores, Store{Name: r.Name, What: "Redis " + version, State: text("state"), Address: text("host")})
	case kind.Buckets.Kind:
		s.Stores = append(s.Stores, Store{Name: r.Name, What: "bucket in " + strings.ToLower(text("location")), State: "AVAILABLE"})
	case kind.GlobalAddresses.Kind:
		if text("addressType") == "EXTERNAL" {
			s.Address = text("address")
		}
	case kind.SSLCertificates.Kind:
		if s.Certificate = text("managed.status"); s.Certificate == "" {
			s.Certificate = text("type")
		}
	case kind.RegionInstanceGroupManagers.Kind:
		var size int
		fmt.Sscan(text("targetSize"), &size)
		s.Target = max(s.Target, size)
		s.Stable = text("status.isStable") == "true" && text("status.versionTarget.isReached") == "true"
	case kind.RegionAutoscalers.Kind:
		if text("autoscalingPolicy.mode") == "OFF" {
			return
		}
		// A minimum that was raised moments ago is not the group's size yet: until it is, the group is stable with too few.
		var least int
		fmt.Sscan(text("autoscalingPolicy.minNumReplicas"), &least)
		s.Target = max(s.Target, least)
	}
}

// Instances gives the machines of the group.
func (s *Stack) Instances(ctx context.Context) ([]Instance, error) {
	var status Status
	err := s.instances(ctx, &status)
	return status.Instances, err
}

// instances asks for the machines, and how the load balancer sees them.
func (s *Stack) instances(ctx context.Context, out *Status) error {
	var group, service *resource.Resource
	for _, r := range s.graph.Resources() {
		switch r.Kind {
		case kind.RegionInstanceGroupManagers.Kind:
			group = r
		case kind.BackendServices.Kind:
			service = r
		}
	}
	var managed struct {
		ManagedInstances []struct {
			Instance, InstanceStatus, CurrentAction string
			LastAttempt                             struct {
				Errors struct {
					Errors []struct{ Message string }
				}
			}
		}
	}
	var health struct {
		HealthStatus []struct{ Instance, HealthState string }
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.client.Do(gctx, gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: group.Link() + "/listManagedInstances", Out: &managed})
		return ignoreAbsent(err)
	})
	g.Go(func() error {
		link := "https://www.googleapis.com/compute/v1/" + strings.Replace(group.Link(), "/instanceGroupManagers/", "/instanceGroups/", 1)
		err := s.client.Do(gctx, gcp.Call{API: kind.ComputeAPI, Method: http.MethodPost, Path: service.Link() + "/getHealth", Body: map[string]any{"group": link}, Out: &health})
		return ignoreAbsent(err)
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("ask for the instances: %w", err)
	}
	for _, m := range managed.ManagedInstances {
		i := Instance{Name: last(m.Instance), Status: m.InstanceStatus, Action: m.CurrentAction}
		if parts := strings.Split(resource.CanonicalLink(m.Instance), "/"); len(parts) == 6 {
			i.Zone = parts[3]
		}
		for _, e := range m.LastAttempt.Errors.Errors {
			i.Error = e.Message
		}
		for _, h := range health.HealthStatus {
			if resource.CanonicalLink(h.Instance) == resource.CanonicalLink(m.Instance) {
				i.Health = h.HealthState
			}
		}
		if i.Health == "HEALTHY" {
			out.Healthy++
		}
		out.Instances = append(out.Instances, i)
	}
	slices.SortFunc(out.Instances, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// Deep asks every instance what it says of itself, all at once. It is what the instance's programs say, and proves nothing.
func (s *Stack) Deep(ctx context.Context, out *Status) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range out.Instances {
		instance := &out.Instances[i]
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s.ask(ctx, instance)
		})
	}
	wg.Wait()
	out.Warnings = out.warnings(time.Now())
}

// Warn asks every instance too, and keeps its warnings alone.
func (s *Stack) Warn(ctx context.Context, out *Status) {
	asked := Status{Instances: slices.Clone(out.Instances)}
	s.Deep(ctx, &asked)
	out.Warnings = asked.Warnings
}

// warnings gives what instances warn of, at a time, each with the instances that do, unless all do.
func (s *Status) warnings(now time.Time) []string {
	by := map[string][]string{}
	for _, i := range s.Instances {
		if i.Report == nil || now.Sub(i.Report.At) > report.Stale {
			continue
		}
		for _, text := range i.Report.Warnings {
			by[text] = append(by[text], i.Name)
		}
	}
	var all []string
	for _, text := range slices.Sorted(maps.Keys(by)) {
		if len(by[text]) < len(s.Instances) {
			text += " (" + strings.Join(by[text], ", ") + ")"
		}
		all = append(all, text)
	}
	return all
}

func (s *Stack) ask(ctx context.Context, i *Instance) {
	at := "projects/" + s.opts.Identity.Project + "/zones/" + i.Zone + "/instances/" + i.Name
	var answer struct {
		QueryValue struct {
			Items []struct{ Value string }
		}
	}
	err := s.client.Do(ctx, gcp.Call{
		API: kind.ComputeAPI, Method: http.MethodGet, Path: at + "/getGuestAttributes", Query: url.Values{"queryPath": {report.Namespace + "/" + report.Key}}, Out: &answer,
	})
	switch {
	case gcp.Is(err, http.StatusNotFound):
		i.Silent = notYet
	case err != nil:
		i.Silent = "its report cannot be read" // an organization may forbid guest attributes
	case len(answer.QueryValue.Items) == 0:
		i.Silent = notYet
	default:
		d, err := report.Parse(answer.QueryValue.Items[0].Value)
		if err == nil {
			i.Report = &d
			return
		}
		i.Silent = err.Error()
	}
	var port struct{ Contents string }
	// The last of what the port gave; a start below 0 counts from the end.
	if err := s.client.Do(ctx, gcp.Call{API: kind.ComputeAPI, Method: http.MethodGet, Path: at + "/serialPort", Query: url.Values{"start": {"-2000"}}, Out: &port}); err != nil {
		return
	}
	lines := strings.FieldsFunc(port.Contents, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) > 0 {
		i.Serial = lines[len(lines)-1]
	}
}

// notYet is why an instance is silent that may be well.
const notYet = "has not reported yet"

// Unread says whether there is a report that cannot be read.
func (i *Instance) Unread() bool { return i.Silent != "" && i.Silent != notYet }

// Says gives what an instance says of itself, in a sentence, at a time.
func (i *Instance) Says(now time.Time) string {
	switch d := i.Report; {
	case d == nil:
		return i.Silent
	case now.Sub(d.At) > report.Stale:
		return fmt.Sprintf("has not reported for %s; then: %s", now.Sub(d.At).Round(time.Second), d)
	default:
		return d.String()
	}
}

// Well says whether an instance says of itself, lately, that it serves, and nobody says otherwise.
func (i *Instance) Well(now time.Time) bool {
	return i.Report != nil && i.Report.Phase == report.Serves && now.Sub(i.Report.At) <= report.Stale && i.Health != "UNHEALTHY" && len(i.Ill()) == 0
}

// Ill gives what an instance says that does not work: what it depends on, and its containers.
func (i *Instance) Ill() []string {
	if i.Report == nil {
		return nil
	}
	ill := i.Report.Ill()
	for _, c := range i.down() {
		text := "the container " + c.Name + " does not run, or does not answer"
		if c.Restarts > 0 {
			text += fmt.Sprintf("; it was started again %d times", c.Restarts)
		}
		ill = append(ill, text)
	}
	return ill
}

// down gives the containers that are not well. How they were before the phase began says nothing: they are looked at more seldom, and
// an instance that serves would seem ill for what it has left behind.
func (i *Instance) down() (all []report.Container) {
	d := i.Report
	if d.Containers == nil || d.Containers.At.Before(d.Since) {
		return nil
	}
	for _, c := range d.Containers.All {
		if !c.Well {
			all = append(all, c)
		}
	}
	return all
}

// Remedy gives, for an instance that is not well, what to do about it: a sentence, and the command for it without its flags; "" for none.
func (i *Instance) Remedy(now time.Time) (do, command string) {
	agentLog := "difyup logs " + i.Name + " -c " + report.AgentLog
	d := i.Report
	switch {
	case i.Well(now) || i.Status != "RUNNING" && d == nil: // it is being made, or ends
		return "", ""
	case d == nil && i.Silent == "":
		return "", "" // it was not asked
	case d == nil:
		return "Its agent may say why", agentLog
	case now.Sub(d.At) > report.Stale:
		return "Its agent does not run, or cannot reach Google; what it wrote last", agentLog + " --since 24h"
	}
	for _, c := range d.Checks {
		if !c.Well {
			return "See how the store is, and whether its settings or rights were changed; apply puts them right", "difyup plan"
		}
	}
	for _, c := range i.down() {
		// Whoever wrote the report may want a command of theirs given.
		if d.Phase != report.Drains && slices.Contains(dify.Names(), dify.Name(c.Name)) {
			return "Read what the container wrote", "difyup logs " + i.Name + " -c " + c.Name
		}
	}
	switch d.Phase {
	case report.Secrets, report.Stores:
		return "See what was changed of the secrets, rights and stores; apply puts it right", "difyup plan"
	case report.Serves:
		return "The load balancer does not reach it; see what was changed of the network", "difyup plan"
	case report.Drains:
		return "", ""
	}
	return "If it goes on for long, its agent says why", agentLog
}

// Scheduler gives the instances that say that the stack's scheduler runs on them, at a time; asked says whether any was able to
// say so. There may be two for some seconds, as reports are older than what they tell.
func (s *Status) Scheduler(now time.Time) (on []string, asked bool) {
	for _, i := range s.Instances {
		if i.Report == nil || now.Sub(i.Report.At) > report.Stale {
			continue
		}
		asked = asked || i.Report.Phase == report.Serves
		if i.Report.Scheduler == i.Name {
			on = append(on, i.Name)
		}
	}
	return on, asked || len(on) > 0
}

func ignoreAbsent(err error) error {
	if gcp.Is(err, 404) {
		return nil
	}
	_, err = gcp.Absent(nil, err)
	return err
}

func last(link string) string { return link[strings.LastIndexByte(link, '/')+1:] }

// Settle waits until the instances serve: the group is stable and the load balancer finds as many healthy instances as
// the group wants. What it waits for are events.
func (s *Stack) Settle(ctx context.Context, timeout time.Duration) (*Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNotSettled)
	defer cancel()
	said, pause := "", 25*time.Millisecond
	var status *Status
	for {
		next, err := s.Status(ctx)
		if err == nil {
			status = next
			if status.Ready() {
				return status, nil
			}
			if now := status.waitsFor(); now != said {
				said = now
				s.opts.Events.Send(event.Event{Phase: event.Info, Detail: now})
			}
		} else if ctx.Err() == nil {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(pause*5/4, 5*time.Second)
		case <-ctx.Done():
			timer.Stop()
			if context.Cause(ctx) != errNotSettled {
				return status, context.Cause(ctx)
			}
			if status != nil {
				ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				s.Deep(ask, status)
			}
			return status, status.unsettled(timeout, s.client.Google())
		}
	}
}

var errNotSettled = fmt.Errorf("the instances did not become healthy in time")

func (s *Status) waitsFor() string {
	if len(s.Missing) > 0 {
		return "waiting for " + s.Missing[0]
	}
	return fmt.Sprintf("waiting for instances: %d of %d healthy", s.Healthy, s.Target)
}

func (s *Status) unsettled(after time.Duration, google bool) *fault.Fault {
	f := &fault.Fault{
		Summary: "Instances are not healthy",
		Detail:  fmt.Sprintf("All resources exist, but the instances are not healthy after %s.", after),
		Remedy:  "See what is known to cause it, and apply again when the problem is fixed:\n    difyup doctor",
		Cause:   errNotSettled,
	}
	if s == nil {
		return f
	}
	f.Detail = fmt.Sprintf("All resources exist, but only %[2]d of %[3]d instances are healthy after %[1]s.", after, s.Healthy, s.Target)
	for _, i := range s.Instances {
		f.Detail += fmt.Sprintf("\n    %s: %s, %s", i.Name, i.Status, cmp.Or(i.Health, "not asked yet"))
		if i.Error != "" {
			f.Detail += ": " + i.Error
		}
		if says := i.Says(time.Now()); says != "" {
			f.Detail += "; " + says
		}
	}
	if len(s.Instances) > 0 && google {
		f.Remedy = fmt.Sprintf("See what is known to cause it, read the boot log of an instance, and apply again when the problem is fixed:\n    difyup doctor\n    gcloud compute instances get-serial-port-output %s --zone %s --project %s", s.Instances[0].Name, s.Instances[0].Zone, s.Project)
	}
	return f
}
