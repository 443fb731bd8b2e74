package gcp

import (
	"context"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// Checker is a Driver that can ask Google, before anything is changed, whether it would take a body.
type Checker interface {
	// Check gives what Google would refuse of the resource's body. Changed are the paths that an update changes; nil stands for
	// a creation. It sends no request when nothing that it knows of changes.
	Check(ctx context.Context, r *resource.Resource, changed []resource.Path) ([]Refusal, error)
}

// Refusal is a part of a body that Google would refuse.
type Refusal struct {
	Path  resource.Path // "settings.databaseFlags[name=work_mem]"
	Fault *fault.Fault  // without a place
}

// Refused gives what Checker gives for a resource of any kind: what its driver cannot check is not refused. Drivers embed the
// client, hence the other name.
func (c *Client) Refused(ctx context.Context, r *resource.Resource, changed []resource.Path) ([]Refusal, error) {
	if d, ok := c.Driver(r.Kind).(Checker); ok {
		return d.Check(ctx, r, changed)
	}
	return nil, nil
}
