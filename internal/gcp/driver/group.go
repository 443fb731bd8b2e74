package driver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/resource"
)

// group differs in its named ports: once it is made they are the instance group's, its other face, and a PATCH of the manager that
// has them changes nothing.
type group struct{ gcp.REST }

func (d *group) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	rest := slices.DeleteFunc(slices.Clone(changed), func(p resource.Path) bool { return diff.Field{Path: p}.Top() == "namedPorts" })
	if len(rest) > 0 {
		if err := d.REST.Update(ctx, r, body, live, rest); err != nil {
			return err
		}
	}
	if len(rest) == len(changed) {
		return nil
	}
	_, err := d.Mutate(ctx, gcp.Call{
		API: r.Kind.API, Method: http.MethodPost, Path: strings.Replace(r.Link(), "/instanceGroupManagers/", "/instanceGroups/", 1) + "/setNamedPorts", For: r.ID(),
		Body: map[string]any{"namedPorts": body["namedPorts"]},
	})
	return err
}
