package ops

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// isEmpty says whether no object is in a bucket, nor an older version of one.
func (s *Stack) isEmpty(ctx context.Context, bucket *resource.Resource) (bool, error) {
	var list struct{ Items []struct{ Name string } }
	call := gcp.Call{API: bucket.Kind.API, Method: http.MethodGet, Path: bucket.Link() + "/o", Query: url.Values{"versions": {"true"}, "maxResults": {"1"}}, For: bucket.ID(), Out: &list}
	if err := s.client.Do(ctx, call); err != nil {
		return false, fmt.Errorf("see whether %s is empty: %w", bucket.ID(), err)
	}
	return len(list.Items) == 0, nil
}

// compare makes the plan. The name of the template follows from the versions of the secrets, which the cloud shows: so the
// cloud is read first, with all that the file and the state name, and the graph is made of both. What that reading did not
// ask for, such as a template that does not exist yet, is read then.
func (s *Stack) compare(ctx context.Context, owner resource.Owner, st *state.State) (*plan.Plan, error) {
	gone, err := plan.Resources(slices.DeleteFunc(slices.Clone(st.Owned), func(r resource.Ref) bool { return s.graph.Get(r.ID) != nil }), kind.ByName)
	if err != nil {
		return nil, err
	}
	cloud := &once{Client: s.client}
	live, err := cloud.ReadAll(ctx, append(s.graph.Resources(), gone...))
	if err != nil {
		return nil, fmt.Errorf("read the cloud: %w", err)
	}
	running := func() (dify.Settings, error) { return s.running(ctx, live) }
	if err := fixed(s.opts.Spec, s.graph, owner, live, running); err != nil {
		return nil, err
	}
	// While a run has not ended well, what it did not come to is missing without having been lost.
	versions, notes, err := topology.ReadVersions(s.opts.Spec, live, st.Intent == nil, func(id resource.ID) (int, error) {
		n, _, err := s.client.SecretState(ctx, s.graph.Get(id), "latest")
		return n, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.chosen(ctx, topology.NewlyChosen(s.opts.Spec, live, versions)); err != nil {
		return nil, err
	}
	certificates := stays(s.graph, owner, live, gone, time.Now())
	var urls []string
	for _, r := range certificates {
		urls = append(urls, r.URL())
	}
	g, err := topology.Build(s.opts.Spec, s.opts.Agent, topology.Given{Pins: digests(s.pins), Versions: versions, Certificates: urls})
	if err != nil {
		return nil, err
	}
	p, err := plan.Make(ctx, owner, g, cloud, st.Owned, kind.ByName)
	if err != nil {
		return nil, err
	}
	p.Notes = append(topology.Notes(s.opts.Spec), notes...)
	serveOn(p, certificates)
	for _, step := range p.Steps {
		if step.Res.Kind == kind.Routers.Kind && slices.ContainsFunc(step.Changes, func(f diff.Field) bool { return strings.HasSuffix(string(f.Path), ".enableDynamicPortAllocation") }) {
			p.Notes = append(p.Notes, "The NAT gets more ports for each instance; connections to the internet that are open then may break off once.")
		}
	}
	if err := unnamed(s.opts.Spec, p, func(r *resource.Resource) (bool, error) { return s.isEmpty(ctx, r) }); err != nil {
		return nil, err
	}
	return p, nil
}

// chosen refuses versions of secrets that instances could not read: they would wait for them, and replace none that serves.
// Whoever may not ask for a version leaves it to the instances.
func (s *Stack) chosen(ctx context.Context, all []topology.Chosen) error {
	var faults fault.List
	for _, c := range all {
		number, state, err := s.client.SecretState(ctx, c.Secret, strconv.Itoa(c.Version))
		switch {
		case gcp.Is(err, http.StatusForbidden):
			continue
		case err != nil:
			return fmt.Errorf("ask for the secret %s: %w", c.SecretVersion, err)
		case state == "ENABLED":
			continue
		}
		by := "The annotation " + kind.SecretUsed
		at := s.opts.Spec.At("")
		if c.Option != "" {
			by, at = "`"+c.Option+"`", s.opts.Spec.At(c.Option)
		}
		f := &fault.Fault{At: at}
		if number == 0 {
			f.Summary = "A version of a secret does not exist"
			f.Detail = fmt.Sprintf("%s asks for version %d of the secret %s, which is not in the project %s.", by, c.Version, c.Name, s.opts.Spec.Project)
			f.Remedy = fmt.Sprintf("Name a version that there is, or add it (for a new secret, with `create` in place of `versions add`):\n"+
				"    gcloud secrets versions add %s --project %s --data-file=FILE", c.Name, s.opts.Spec.Project)
		} else {
			f.Summary = "A version of a secret cannot be read"
			f.Detail = fmt.Sprintf("%s asks for version %d of the secret %s, which is %s.", by, c.Version, c.Name, strings.ToLower(state))
			f.Remedy = "Name another version."
			if state == "DISABLED" {
				f.Remedy = fmt.Sprintf("Name another version, or enable it:\n    gcloud secrets versions enable %d --secret %s --project %s", c.Version, c.Name, s.opts.Spec.Project)
			}
		}
		faults = append(faults, f)
	}
	return faults.Err()
}

// once reads each resource once. It is used by one plan, and by one call at a time.
type once struct {
	*gcp.Client
	asked map[resource.ID]bool
	live  map[resource.ID]map[string]any
}

func (o *once) ReadAll(ctx context.Context, rs []*resource.Resource) (map[resource.ID]map[string]any, error) {
	if o.asked == nil {
		o.asked, o.live = map[resource.ID]bool{}, map[resource.ID]map[string]any{}
	}
	missing := slices.DeleteFunc(slices.Clone(rs), func(r *resource.Resource) bool { return o.asked[r.ID()] })
	more, err := o.Client.ReadAll(ctx, missing)
	if err != nil {
		return nil, err
	}
	maps.Copy(o.live, more)
	for _, r := range missing {
		o.asked[r.ID()] = true
	}
	out := map[resource.ID]map[string]any{}
	for _, r := range rs {
		if body := o.live[r.ID()]; body != nil {
			out[r.ID()] = body
		}
	}
	return out, nil
}
