package ops

import (
	"context"
	"regexp"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
	"github.com/difyup/difyup/internal/topology"
)

// platform is what Google's instances are.
const platform = "linux/amd64"

var wholeDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// pin has the graph name the images by their digests. Those that the state knows stay, whatever their tags stand for by now;
// registries are asked for the others only, each once in the life of a Stack.
func (s *Stack) pin(ctx context.Context, st *state.State) error {
	if s.opts.Digest == nil {
		return nil
	}
	known := map[string]state.Pin{}
	keep := func(p state.Pin) {
		if known[p.Tag].Tag == "" && p.Platform == platform && wholeDigest.MatchString(p.Digest) {
			known[p.Tag] = p
		}
	}
	for _, p := range slices.Concat(st.Pins, s.pins) {
		keep(p)
	}
	wanted := topology.Images(s.opts.Spec)
	unknown := func(image topology.Image) bool { return known[image.Reference].Tag == "" }
	if st.Lost() && slices.ContainsFunc(wanted, unknown) { // the instances have been told them
		live, err := s.client.ReadAll(ctx, []*resource.Resource{s.only(kind.RegionInstanceGroupManagers.Kind)})
		if err != nil {
			return err
		}
		running, err := s.running(ctx, live)
		if err != nil {
			return err
		}
		for tag, digest := range running.Pins {
			keep(state.Pin{Tag: tag, Platform: platform, Digest: digest})
		}
	}
	pins, errs := make([]state.Pin, len(wanted)), make([]error, len(wanted))
	g, asking := errgroup.WithContext(ctx)
	for i, image := range wanted {
		if pins[i] = known[image.Reference]; unknown(image) {
			g.Go(func() error {
				digest, err := s.opts.Digest(asking, image.Reference, platform)
				pins[i] = state.Pin{Tag: image.Reference, Platform: platform, Digest: digest}
				errs[i] = err
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		for i, err := range errs {
			for _, f := range fault.All(err) {
				f.At = s.opts.Spec.At(wanted[i].Option)
			}
		}
		return err
	}
	graph, err := topology.Build(s.opts.Spec, s.opts.Agent, topology.Given{Pins: digests(pins)})
	if err != nil {
		return err
	}
	s.graph, s.pins = graph, pins
	return nil
}

// digests gives the digests by their tags; nil for none.
func digests(pins []state.Pin) map[string]string {
	if pins == nil {
		return nil
	}
	out := map[string]string{}
	for _, p := range pins {
		out[p.Tag] = p.Digest
	}
	return out
}

func samePins(a, b []state.Pin) bool {
	return slices.EqualFunc(a, b, func(a, b state.Pin) bool { return a.Tag == b.Tag && a.Platform == b.Platform && a.Digest == b.Digest })
}
