package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// release gives what a plan makes of Dify's release. The error is a fault when the databases are known to have the schema of a
// later release than the wanted one.
func (s *Stack) release(ctx context.Context, p *plan.Plan, st *state.State) (*dify.Change, error) {
	if !s.holdsSchema(p) {
		return nil, nil
	}
	running, err := s.running(ctx, p.Live)
	if err != nil {
		return nil, err
	}
	recorded := ""
	if st.Schema != nil {
		recorded = st.Schema.Version
	}
	change, newer, err := judge(s.opts.Spec.Dify.Version, running.DifyVersion, recorded, func() ([]state.Schema, error) { return s.schemas(ctx) })
	if newer != "" {
		return nil, s.tooOld(newer)
	}
	return change, err
}

// judge says what becomes of a release: want is the wanted one, running what new instances get now, recorded what the databases
// were migrated to as far as the state knows, "" where there is none. Ask asks the instances for the latter. Newer is the
// release of the databases if it is newer than the wanted one.
func judge(want, running, recorded string, ask func() ([]state.Schema, error)) (c *dify.Change, newer string, err error) {
	from := running
	if from == "" { // without instances, the schema is what is left of a release
		from = recorded
	}
	switch {
	case from == "" || from == want:
		return nil, "", nil
	case dify.Older(want, recorded):
		return nil, recorded, nil
	}
	if c = dify.Between(from, want); c.Migrates {
		return c, "", nil
	}
	heard, err := ask()
	if err != nil {
		return nil, "", err
	}
	for _, h := range heard {
		// What was never asked for is not believed: any program of an instance can say it. And a release that was asked for and
		// never served has migrated nothing.
		if dify.Older(want, h.Version) && !dify.Older(running, h.Version) {
			return nil, h.Version, nil
		}
	}
	if len(heard) == 0 {
		c.Notes = append([]dify.Note{{Text: fmt.Sprintf(
			"Whether Dify %s has migrated the databases is not known: no instance says so. If it has, instances of %s will refuse to start.", running, want)}}, c.Notes...)
	}
	return c, "", nil
}

// holdsSchema says whether the database is there in which Dify's schema is.
func (s *Stack) holdsSchema(p *plan.Plan) bool {
	return p.Live[topology.MainDatabase(s.opts.Spec)] != nil
}

// running gives the settings that new instances of the live group get, zero when there is none.
func (s *Stack) running(ctx context.Context, live map[resource.ID]map[string]any) (dify.Settings, error) {
	group := s.only(kind.RegionInstanceGroupManagers.Kind)
	link, _ := resource.Lookup(live[group.ID()], "versions[0].instanceTemplate")
	text, _ := link.(string)
	if text == "" {
		return dify.Settings{}, nil
	}
	template := &resource.Resource{Kind: kind.InstanceTemplates.Kind, Name: last(text), Params: group.Params}
	body := live[template.ID()]
	if body == nil { // the state has forgotten it
		live, err := s.client.ReadAll(ctx, []*resource.Resource{template})
		if err != nil {
			return dify.Settings{}, err
		}
		body = live[template.ID()]
	}
	raw, _ := resource.Lookup(body, "properties.metadata.items[key="+topology.SettingsKey+"].value")
	config, _ := raw.(string)
	var settings dify.Settings
	if err := json.Unmarshal([]byte(config), &settings); err != nil {
		return dify.Settings{}, nil // somebody else's template: its instances are not ours
	}
	return settings, nil
}

// only gives the wanted resource of a kind that a stack has one of.
func (s *Stack) only(k *resource.Kind) *resource.Resource {
	for _, r := range s.graph.Resources() {
		if r.Kind == k {
			return r
		}
	}
	return nil
}

// tooOld refuses a release whose schema is behind that of the databases.
func (s *Stack) tooOld(have string) *fault.Fault {
	want := s.opts.Spec.Dify.Version
	return &fault.Fault{
		Summary: "The databases are newer than this release",
		Detail: fmt.Sprintf("The databases were migrated to Dify %s, and `dify.version` is %s: an older release would damage what it does not know, and instances refuse to start it.",
			have, want),
		Remedy: fmt.Sprintf("Set `dify.version` to %s or later. The only way back is a backup of the databases and the bucket from before that migration, in another stack.", have),
		At:     s.opts.Spec.At("dify.version"),
	}
}

// migrates refuses a migration that nobody agreed to.
func (s *Stack) migrates(c *dify.Change) *fault.Fault {
	return &fault.Fault{
		Summary: "The change migrates the databases",
		Detail: fmt.Sprintf("From Dify %s to %s the schema of the databases changes, while instances of %s still serve: what they do until they are replaced may fail. There is no way back but a backup.",
			c.From, c.To, c.From),
		Remedy: "Make a backup of the databases, then agree to the migration:\n    difyup apply --migrate",
		At:     s.opts.Spec.At("dify.version"),
	}
}

// schemas asks the instances what the databases were migrated to. Who does not answer says nothing.
func (s *Stack) schemas(ctx context.Context) ([]state.Schema, error) {
	var status Status
	if err := s.instances(ctx, &status); err != nil {
		return nil, err
	}
	s.Deep(ctx, &status)
	var heard []state.Schema
	for _, i := range status.Instances {
		if i.Report != nil && i.Report.Schema != nil && plainHead.MatchString(i.Report.Schema.Head) {
			heard = append(heard, state.Schema{Version: i.Report.Schema.Version, Head: i.Report.Schema.Head})
		}
	}
	return heard, ctx.Err()
}

// plainHead is what the revision of a schema looks like; several are joined by commas.
var plainHead = regexp.MustCompile(`^[0-9a-zA-Z_,]{1,200}$`)

// listen is how long an instance that serves may take until it has said so: it does twice in that time, whatever happens.
const listen = 2 * report.Every

// Remember copies into the state what the instances say the databases were migrated to, after a run that ended well. After a
// migration it waits a while until one of them has said so; otherwise, what is not said yet is recorded by the next run.
func (s *Stack) Remember(ctx context.Context, migrated bool) error {
	want := s.opts.Spec.Dify.Version
	st, err := s.read(ctx)
	if err != nil || st.Schema != nil && st.Schema.Version == want {
		return err
	}
	var schema *state.Schema
	for end := time.Now().Add(listen); ; {
		heard, err := s.schemas(ctx)
		if err != nil {
			return err
		}
		for _, h := range heard {
			// What was not asked for is not believed: any program of an instance can say it.
			if h.Version == want {
				schema = &h
			}
		}
		if schema != nil || !migrated || time.Now().After(end) {
			break
		}
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	if schema == nil {
		return nil
	}
	held, lock, err := s.store.Lock(ctx, "apply", false)
	if errors.As(err, new(*fault.Fault)) {
		return nil // another run is at work already, and records it
	}
	if err != nil {
		return err
	}
	if st, err = s.read(held); err == nil && len(st.Owned) > 0 {
		schema.At = time.Now().UTC().Truncate(time.Second)
		st.Schema = schema
		err = s.store.Write(held, st)
	}
	return errors.Join(err, atLast(ctx, lock.Release))
}
