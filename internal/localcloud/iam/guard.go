package iam

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// guard refuses service accounts what their roles in the project do not permit. The packages of storage and secrets ask
// for themselves, since buckets and secrets have policies of their own.
func (p *Policies) guard(_ context.Context, r *front.Request) error {
	service, _, _ := strings.Cut(r.Method.ID, ".")
	if r.Boundary != nil && !slices.Contains([]string{"storage", "sts"}, service) { // nothing else has boundaries
		return front.Forbidden("Permission '%s' denied on resource (or it may not exist): the access token's access boundary does not permit it.", permissionFor(r.Method.ID))
	}
	if service == "sts" { // which asks nothing of whoever has a token
		return nil
	}
	if r.Caller == front.Owner || slices.Contains([]string{"storage", "secretmanager"}, service) {
		return nil
	}
	permission := permissionFor(r.Method.ID)
	if strings.HasSuffix(permission, ".testIamPermissions") { // everybody may ask what they may do
		return nil
	}
	project := r.Project()
	if project != "" && project != "-" && p.Allowed(r.Caller, permission, "projects/"+project) {
		return nil
	}
	e := front.Forbidden("Permission '%s' denied on resource '//cloudresourcemanager.googleapis.com/projects/%s' (or it may not exist).", permission, project)
	if service == "compute" {
		e = front.Forbidden("Required '%s' permission for 'projects/%s'", permission, project)
	}
	return e
}

// permissionFor gives the permission that a method needs: "redis.instances.get" for
// "redis.projects.locations.instances.get". It is Google's name, but for kinds that Google gives regional twins.
func permissionFor(method string) string {
	parts := strings.Split(strings.Replace(method, "logging.entries.write", "logging.entries.create", 1), ".")
	service := parts[0]
	switch service {
	case "sql":
		service = "cloudsql"
	case "cloudresourcemanager":
		service = "resourcemanager"
	}
	if service == "logging" {
		return strings.Replace(strings.Join(parts, "."), ".entries.", ".logEntries.", 1)
	}
	return fmt.Sprintf("%s.%s", service, strings.Join(parts[max(1, len(parts)-2):], "."))
}
