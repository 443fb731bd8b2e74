package ops

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
)

// places asks Google for the region and the zones that difyup does not know: they may be new, or misspelt. For those that it
// knows there is no request.
func (s *Stack) places(ctx context.Context) (fault.List, error) {
	unlisted := s.opts.Spec.Unlisted()
	if len(unlisted) == 0 {
		return nil, nil
	}
	name := s.opts.Spec.Region
	var region struct{ Zones []string }
	err := s.client.Do(ctx, gcp.Call{API: kind.ComputeAPI, Method: http.MethodGet, Path: "projects/" + s.opts.Spec.Project + "/regions/" + name, Out: &region})
	switch {
	case gcp.Is(err, 400, 404):
		f := &fault.Fault{
			Summary: "Unknown region", Detail: fmt.Sprintf("Google has no region `%s`.", name), Remedy: "Choose another region.", At: s.opts.Spec.At("region"),
		}
		if s.client.Google() {
			f.Remedy = "Choose one of these:\n    gcloud compute regions list --project " + s.opts.Spec.Project
		}
		return fault.List{f}, nil
	case gcp.Is(err, 403):
		return nil, nil // the API is not enabled yet: it is asked once that is done
	case err != nil:
		return nil, fmt.Errorf("ask for the region: %w", err)
	}
	zones := make([]string, len(region.Zones))
	for i, link := range region.Zones {
		zones[i] = last(link)
	}
	slices.Sort(zones)
	var faults fault.List
	for _, place := range unlisted {
		if !place.Zone || slices.Contains(zones, place.Name) {
			continue
		}
		faults = append(faults, &fault.Fault{
			Summary: "Unknown zone",
			Detail:  fmt.Sprintf("Google has no zone `%s`. The region has %s.", place.Name, strings.Join(zones, ", ")),
			Remedy:  fmt.Sprintf("Name zones of the region:\n    compute:\n      zones: [%s]", strings.Join(zones[:min(3, len(zones))], ", ")),
			At:      s.opts.Spec.At(place.Path),
		})
	}
	if len(faults) == 0 {
		s.opts.Events.Send(event.Event{Phase: event.Info, Detail: "difyup does not know all places of the region " + name + ", but Google has them"})
	}
	return faults, nil
}
