package iam

import (
	"context"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Service serves the service accounts of iam v1. Their bodies are in the collection "serviceAccounts", by name:
// "projects/p/serviceAccounts/EMAIL".
type Service struct {
	accounts *store.Collection
	deleted  *store.Collection // by unique ID, for undelete
	policies *Policies
	made     atomic.Int64
}

// Register serves the service accounts on s.
func Register(s *front.Server, st *store.Store, policies *Policies) *Service {
	v := &Service{accounts: policies.accounts, deleted: st.Collection("serviceAccounts.deleted"), policies: policies}
	for name, h := range map[string]front.Handler{
		"create": v.create, "get": v.get, "list": v.list, "patch": v.patch, "update": v.update, "delete": v.delete, "undelete": v.undelete,
		"enable": v.switchTo(false), "disable": v.switchTo(true),
		"getIamPolicy": v.getPolicy, "setIamPolicy": v.setPolicy, "testIamPermissions": v.test,
	} {
		s.Handle("iam.projects.serviceAccounts."+name, h)
	}
	s.Before(policies.guard)
	return v
}

var accountID = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])$`)

func unknown() error {
	return &front.Error{Code: 404, Reason: "notFound", Message: "Unknown service account"}
}

// find gives an account by email or unique ID; "-" stands for whichever project has it.
func (v *Service) find(r *front.Request) (key string, account map[string]any, err error) {
	project, id := r.Path["project"], r.Path["serviceAccount"]
	prefix := "projects/" + project + "/serviceAccounts/"
	if project == "-" {
		prefix = "projects/"
	}
	for _, a := range v.accounts.List(prefix) {
		if a["email"] == id || a["uniqueId"] == id {
			return body.String(a, "name"), a, nil
		}
	}
	if project == "-" || v.wasDeleted(project, id) {
		permission := permissionFor(r.Method.ID)
		e := front.Forbidden("Permission '%s' denied on resource (or it may not exist).", permission)
		e.Details = []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com", "metadata": map[string]any{"permission": permission},
		}}
		return "", nil, e
	}
	return "", nil, unknown()
}

// wasDeleted says whether an account is one that can be undeleted.
func (v *Service) wasDeleted(project, id string) bool {
	return slices.ContainsFunc(v.deleted.List(""), func(a map[string]any) bool {
		return a["projectId"] == project && (a["email"] == id || a["uniqueId"] == id)
	})
}

func checkTexts(a map[string]any) error {
	if len(body.String(a, "displayName")) > 100 {
		return front.Invalid("The service account's display name must be 100 bytes or less.")
	}
	if len(body.String(a, "description")) > 256 {
		return front.Invalid("The service account's description must be 256 bytes or less.")
	}
	return nil
}

func (v *Service) create(_ context.Context, r *front.Request) (any, error) {
	id, project := body.String(r.Body, "accountId"), r.Path["project"]
	if len(id) < 6 || len(id) > 30 {
		return nil, front.Invalid("The account ID %q does not have a length between 6 and 30.", id)
	}
	if !accountID.MatchString(id) {
		return nil, front.Invalid("The account ID %q must begin with a lower case letter, end with a letter or a digit, and contain only lower case letters, digits and dashes.", id)
	}
	given := body.Map(r.Body, "serviceAccount")
	if err := checkTexts(given); err != nil {
		return nil, err
	}
	email := id + "@" + project + ".iam.gserviceaccount.com"
	h := fnv.New64a()
	fmt.Fprint(h, email, time.Now().UnixNano(), v.made.Add(1))
	uid := fmt.Sprintf("1%020d", h.Sum64())
	name := "projects/" + project + "/serviceAccounts/" + email
	account := map[string]any{"name": name, "projectId": project, "uniqueId": uid, "email": email, "oauth2ClientId": uid}
	body.Copy(account, given, "displayName")
	body.Copy(account, given, "description")
	account["etag"] = store.Fingerprint(account, 1)
	if !v.accounts.Create(name, account) {
		return nil, front.AlreadyExists("Service account %s already exists within project projects/%s.", id, project)
	}
	return account, nil
}

func (v *Service) get(_ context.Context, r *front.Request) (any, error) {
	_, account, err := v.find(r)
	return account, err
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	size, _ := body.Int(map[string]any{"n": r.Query.Get("pageSize")}, "n")
	page, next, ok := body.Page(v.accounts.List("projects/"+r.Path["project"]+"/serviceAccounts/"), int(size), 100, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid page token")
	}
	answer := map[string]any{}
	if len(page) > 0 {
		answer["accounts"] = page
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

func (v *Service) change(r *front.Request, change func(a map[string]any) error) (any, error) {
	key, _, err := v.find(r)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	err = v.accounts.Update(key, func(a map[string]any) error {
		if err := change(a); err != nil {
			return err
		}
		etag := body.String(a, "etag")
		delete(a, "etag")
		a["etag"] = store.Fingerprint(a, int64(len(etag))+v.made.Add(1))
		out = store.Clone(a)
		return nil
	})
	if err == store.ErrNotFound {
		return nil, unknown()
	}
	return out, err
}

func (v *Service) patch(_ context.Context, r *front.Request) (any, error) {
	given := body.Map(r.Body, "serviceAccount")
	mask := body.Mask(body.String(r.Body, "updateMask"))
	if len(mask) == 0 {
		return nil, front.Invalid("The update mask must not be empty.")
	}
	for _, field := range mask {
		if !slices.Contains([]string{"displayName", "description"}, field) {
			return nil, front.Invalid("The field %q cannot be changed.", field)
		}
	}
	if err := checkTexts(given); err != nil {
		return nil, err
	}
	return v.change(r, func(a map[string]any) error {
		for _, field := range mask {
			body.Copy(a, given, field)
		}
		return nil
	})
}

func (v *Service) update(_ context.Context, r *front.Request) (any, error) {
	if err := checkTexts(r.Body); err != nil {
		return nil, err
	}
	return v.change(r, func(a map[string]any) error {
		if etag := body.String(r.Body, "etag"); etag != "" && etag != a["etag"] {
			return front.Conflict("There were concurrent changes to the service account.")
		}
		body.Copy(a, r.Body, "displayName")
		return nil
	})
}

func (v *Service) switchTo(disabled bool) front.Handler {
	return func(_ context.Context, r *front.Request) (any, error) {
		_, err := v.change(r, func(a map[string]any) error {
			delete(a, "disabled")
			if disabled {
				a["disabled"] = true
			}
			return nil
		})
		return map[string]any{}, err
	}
}

func (v *Service) delete(_ context.Context, r *front.Request) (any, error) {
	key, account, err := v.find(r)
	if err != nil {
		return nil, err
	}
	if !v.accounts.Delete(key) {
		return nil, unknown()
	}
	uid := body.String(account, "uniqueId")
	v.deleted.Put(uid, account)
	v.policies.Delete(key)
	v.policies.forget(body.String(account, "email"), uid)
	return map[string]any{}, nil
}

func (v *Service) undelete(_ context.Context, r *front.Request) (any, error) {
	account, ok := v.deleted.Get(r.Path["serviceAccount"])
	if !ok {
		return nil, unknown()
	}
	if !v.accounts.Create(body.String(account, "name"), account) {
		return nil, front.AlreadyExists("Service account %s already exists.", body.String(account, "email"))
	}
	v.deleted.Delete(r.Path["serviceAccount"])
	v.policies.restore(body.String(account, "email"), body.String(account, "uniqueId"))
	return map[string]any{"restoredAccount": account}, nil
}

func (v *Service) getPolicy(_ context.Context, r *front.Request) (any, error) {
	key, _, err := v.find(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Get(key, RequestedVersion(r)), nil
}

func (v *Service) setPolicy(_ context.Context, r *front.Request) (any, error) {
	key, _, err := v.find(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Set(key, body.Map(r.Body, "policy"), body.String(r.Body, "updateMask"))
}

func (v *Service) test(_ context.Context, r *front.Request) (any, error) {
	key, account, err := v.find(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Test(r, body.Strings(r.Body, "permissions"), key, "projects/"+body.String(account, "projectId"))
}

// Test answers testIamPermissions.
func (p *Policies) Test(r *front.Request, permissions []string, resources ...string) (any, error) {
	if err := CheckPermissions(permissions); err != nil {
		return nil, err
	}
	answer := map[string]any{}
	if granted := p.Granted(r.Caller, permissions, resources...); len(granted) > 0 {
		answer["permissions"] = granted
	}
	return answer, nil
}

// RequestedVersion is the policy version that a request for a policy understands, from its query or body.
func RequestedVersion(r *front.Request) int64 {
	for _, name := range []string{"options.requestedPolicyVersion", "optionsRequestedPolicyVersion"} {
		if n, ok := body.Int(map[string]any{"n": r.Query.Get(name)}, "n"); ok {
			return n
		}
	}
	n, _ := body.Int(r.Body, "options.requestedPolicyVersion")
	return n
}
