package services

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Options say how projects begin and end.
type Options struct {
	// Enabled are services that every project has enabled from the start, besides those that cannot be disabled.
	Enabled []string
	// KeepProducers makes deleted Cloud SQL instances hold on to their connection, as Google does for days; the peering
	// can then only be removed from the consumer's side.
	KeepProducers bool
}

// Service serves projects.
type Service struct {
	server      *front.Server
	opts        Options
	policies    *iam.Policies
	enabled     *store.Collection // "projects/NUMBER/services/NAME" → the service as it is answered
	networks    *store.Collection
	ranges      *store.Collection
	connections *store.Collection // by network, "projects/p/global/networks/n"
	sql         *store.Collection
	redis       *store.Collection
	began       time.Time

	mu       sync.Mutex
	projects map[string]string // ID by number, of those that requests named
	peering  sync.Mutex        // one change of peerings at a time
}

// Register serves projects, services, connections and billing on s, and makes s refuse calls to APIs that a project has
// not enabled.
func Register(s *front.Server, st *store.Store, policies *iam.Policies, opts Options) *Service {
	v := &Service{
		server: s, opts: opts, policies: policies, enabled: st.Collection("services"), networks: st.Collection("networks"), ranges: st.Collection("addresses"),
		connections: st.Collection("connections"), sql: st.Collection("sql.instances"), redis: st.Collection("redis.instances"),
		began: time.Now(), projects: map[string]string{},
	}
	s.Before(v.gate)
	for id, h := range map[string]front.Handler{
		"cloudresourcemanager.projects.get":                   v.getProject,
		"cloudresourcemanager.projects.getIamPolicy":          v.getPolicy,
		"cloudresourcemanager.projects.setIamPolicy":          v.setPolicy,
		"cloudresourcemanager.projects.testIamPermissions":    v.testPermissions,
		"cloudresourcemanager.v3.projects.get":                v.getProjectV3,
		"cloudresourcemanager.v3.projects.getIamPolicy":       v.getPolicy,
		"cloudresourcemanager.v3.projects.setIamPolicy":       v.setPolicy,
		"cloudresourcemanager.v3.projects.testIamPermissions": v.testPermissions,
		"cloudbilling.projects.getBillingInfo":                v.billing,

		"serviceusage.services.get":         v.getService,
		"serviceusage.services.list":        v.listServices,
		"serviceusage.services.batchGet":    v.batchGet,
		"serviceusage.services.enable":      v.enable,
		"serviceusage.services.batchEnable": v.batchEnable,
		"serviceusage.services.disable":     v.disable,

		"servicenetworking.services.connections.create":           v.createConnection,
		"servicenetworking.services.connections.list":             v.listConnections,
		"servicenetworking.services.connections.patch":            v.patchConnection,
		"servicenetworking.services.connections.deleteConnection": v.deleteConnection,
	} {
		s.Handle(id, h)
	}
	return v
}

var (
	projectID = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	number    = regexp.MustCompile(`^[0-9]+$`)
)

// meet remembers a project's number, so that it can be named by it.
func (v *Service) meet(project string) {
	if projectID.MatchString(project) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.projects[v.server.ProjectNumber(project)] = project
	}
}

// id gives the ID of a project that is named by ID or number; "" for a number nobody has met and for what is neither.
func (v *Service) id(project string) string {
	if number.MatchString(project) {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.projects[project]
	}
	if !projectID.MatchString(project) {
		return ""
	}
	return project
}

func denied() error { return front.Forbidden("The caller does not have permission") }

func (v *Service) project(r *front.Request) (id, num string, err error) {
	if id = v.id(r.Project()); id == "" {
		return "", "", denied()
	}
	return id, v.server.ProjectNumber(id), nil
}

func (v *Service) getProject(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"projectNumber": num, "projectId": id, "lifecycleState": "ACTIVE", "name": id, "createTime": body.Time(v.began)}, nil
}

func (v *Service) getProjectV3(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	p := map[string]any{"name": "projects/" + num, "projectId": id, "state": "ACTIVE", "displayName": id, "createTime": body.Time(v.began), "updateTime": body.Time(v.began)}
	p["etag"] = `W/"` + store.Fingerprint(p, 0) + `"`
	return p, nil
}

// policy gives the name under which a project's policy is kept. A project nobody granted anything on yet has its owner.
func (v *Service) policy(r *front.Request) (string, error) {
	id, _, err := v.project(r)
	if err != nil {
		return "", err
	}
	name := "projects/" + id
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.policies.Has(name) {
		v.policies.Init(name, []any{map[string]any{"role": "roles/owner", "members": []any{"user:owner@example.com"}}})
	}
	return name, nil
}

func (v *Service) getPolicy(_ context.Context, r *front.Request) (any, error) {
	name, err := v.policy(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Get(name, iam.RequestedVersion(r)), nil
}

func (v *Service) setPolicy(_ context.Context, r *front.Request) (any, error) {
	name, err := v.policy(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Set(name, body.Map(r.Body, "policy"), body.String(r.Body, "updateMask"))
}

func (v *Service) testPermissions(_ context.Context, r *front.Request) (any, error) {
	name, err := v.policy(r)
	if err != nil {
		return nil, err
	}
	return v.policies.Test(r, body.Strings(r.Body, "permissions"), name)
}

func (v *Service) billing(_ context.Context, r *front.Request) (any, error) {
	id, _, err := v.project(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"name": "projects/" + id + "/billingInfo", "projectId": id, "billingAccountName": "billingAccounts/000000-000000-000000", "billingEnabled": true,
	}, nil
}

// Known gives the services a project may enable, sorted.
func Known() []string { return slices.Sorted(maps.Keys(titles())) }

// titles are the services a project may enable.
func titles() map[string]string {
	return map[string]string{
		"artifactregistry.googleapis.com":     "Artifact Registry API",
		"certificatemanager.googleapis.com":   "Certificate Manager API",
		"cloudapis.googleapis.com":            "Google Cloud APIs",
		"cloudbilling.googleapis.com":         "Cloud Billing API",
		"cloudkms.googleapis.com":             "Cloud Key Management Service (KMS) API",
		"cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
		"cloudtrace.googleapis.com":           "Cloud Trace API",
		"compute.googleapis.com":              "Compute Engine API",
		"container.googleapis.com":            "Kubernetes Engine API",
		"dns.googleapis.com":                  "Cloud DNS API",
		"file.googleapis.com":                 "Cloud Filestore API",
		"iam.googleapis.com":                  "Identity and Access Management (IAM) API",
		"iamcredentials.googleapis.com":       "IAM Service Account Credentials API",
		"iap.googleapis.com":                  "Cloud Identity-Aware Proxy API",
		"logging.googleapis.com":              "Cloud Logging API",
		"monitoring.googleapis.com":           "Cloud Monitoring API",
		"networkmanagement.googleapis.com":    "Network Management API",
		"oslogin.googleapis.com":              "Cloud OS Login API",
		"pubsub.googleapis.com":               "Cloud Pub/Sub API",
		"redis.googleapis.com":                "Google Cloud Memorystore for Redis API",
		"run.googleapis.com":                  "Cloud Run Admin API",
		"secretmanager.googleapis.com":        "Secret Manager API",
		"servicemanagement.googleapis.com":    "Service Management API",
		"servicenetworking.googleapis.com":    "Service Networking API",
		"serviceusage.googleapis.com":         "Service Usage API",
		"sql-component.googleapis.com":        "Cloud SQL",
		"sqladmin.googleapis.com":             "Cloud SQL Admin API",
		"sts.googleapis.com":                  "Security Token Service API",
		"storage-api.googleapis.com":          "Google Cloud Storage JSON API",
		"storage-component.googleapis.com":    "Cloud Storage",
		"storage.googleapis.com":              "Cloud Storage API",
		"vpcaccess.googleapis.com":            "Serverless VPC Access API",
	}
}

// always are the services that the local cloud never refuses: without them nothing could be enabled, and some of them
// a new project of Google's has.
func always() []string {
	return []string{
		"cloudapis.googleapis.com", "cloudbilling.googleapis.com", "cloudresourcemanager.googleapis.com", "iam.googleapis.com", "servicemanagement.googleapis.com",
		"serviceusage.googleapis.com", "storage-api.googleapis.com", "storage-component.googleapis.com", "storage.googleapis.com",
	}
}

func (v *Service) isEnabled(project, service string) bool {
	if slices.Contains(always(), service) {
		return true
	}
	if s, ok := v.enabled.Get(v.serviceKey(project, service)); ok {
		return s["state"] == "ENABLED"
	}
	return slices.Contains(v.opts.Enabled, service)
}

func (v *Service) serviceKey(project, service string) string {
	return "projects/" + v.server.ProjectNumber(project) + "/services/" + service
}

// gate refuses calls to APIs that the project has not enabled.
func (v *Service) gate(_ context.Context, r *front.Request) error {
	api, _, _ := strings.Cut(r.Method.API, "-")
	project := r.Project()
	if api == "servicenetworking" {
		for _, network := range []string{r.Query.Get("network"), body.String(r.Body, "network"), body.String(r.Body, "consumerNetwork")} {
			if parts := strings.Split(network, "/"); len(parts) == 5 {
				project = parts[1]
			}
		}
	}
	if api == "sts" { // it is asked about no project: the service account's counts
		_, domain, _ := strings.Cut(r.Caller, "@")
		project = strings.TrimSuffix(domain, ".iam.gserviceaccount.com")
	}
	v.meet(project)
	service := api + ".googleapis.com"
	if _, known := titles()[service]; project == "" || project == "-" || !known || v.isEnabled(project, service) {
		return nil
	}
	return v.disabledError(project, service)
}

func (v *Service) disabledError(project, service string) error {
	num, title := v.server.ProjectNumber(project), titles()[service]
	link := "https://console.developers.google.com/apis/api/" + service + "/overview?project=" + num
	message := title + " has not been used in project " + num + " before or it is disabled. Enable it by visiting " + link +
		" then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our systems and retry."
	return &front.Error{Code: 403, Reason: "accessNotConfigured", Message: message, Details: []any{
		map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com", "metadata": map[string]any{
			"consumer": "projects/" + num, "service": service, "serviceTitle": title, "containerInfo": num, "activationUrl": link,
		}},
		map[string]any{"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "locale": "en-US", "message": message},
		map[string]any{"@type": "type.googleapis.com/google.rpc.Help", "links": []any{map[string]any{"description": "Google developers console API activation", "url": link}}},
	}}
}

func (v *Service) service(project, name string) map[string]any {
	num := v.server.ProjectNumber(project)
	state := "DISABLED"
	if v.isEnabled(project, name) {
		state = "ENABLED"
	}
	return map[string]any{
		"name": "projects/" + num + "/services/" + name, "parent": "projects/" + num, "state": state,
		"config": map[string]any{"name": name, "title": titles()[name], "quota": map[string]any{}, "authentication": map[string]any{}, "usage": map[string]any{"requirements": []any{"serviceusage.googleapis.com/tos/cloud"}}},
	}
}

func (v *Service) check(names ...string) error {
	var unknown []string
	for _, name := range names {
		if titles()[name] == "" {
			unknown = append(unknown, name)
		}
	}
	if unknown == nil {
		return nil
	}
	list := strings.Join(unknown, ",")
	return &front.Error{Code: 403, Reason: "forbidden", Message: "Not found or permission denied for service(s): " + list + ".", Details: []any{
		map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED", "domain": "serviceusage.googleapis.com", "metadata": map[string]any{"services": list}},
	}}
}

func (v *Service) getService(_ context.Context, r *front.Request) (any, error) {
	if err := v.check(r.Path["service"]); err != nil {
		return nil, err
	}
	id, _, err := v.project(r)
	if err != nil {
		return nil, err
	}
	return v.service(id, r.Path["service"]), nil
}

func (v *Service) listServices(_ context.Context, r *front.Request) (any, error) {
	id, _, err := v.project(r)
	if err != nil {
		return nil, err
	}
	filter := r.Query.Get("filter")
	if !slices.Contains([]string{"", "state:ENABLED", "state:DISABLED"}, filter) {
		return nil, front.Invalid("Invalid filter: %q. Only state:ENABLED and state:DISABLED are supported.", filter)
	}
	var all []map[string]any
	for _, name := range Known() {
		s := v.service(id, name)
		if filter == "" || filter == "state:"+s["state"].(string) {
			all = append(all, s)
		}
	}
	size, ok := body.Int(map[string]any{"n": r.Query.Get("pageSize")}, "n")
	if !ok {
		size = 50
	}
	if size > 200 {
		return nil, front.Invalid("The page size must be at most 200.")
	}
	page, next, ok := body.Page(all, int(size), 50, r.Query.Get("pageToken"))
	if size > 50 {
		page, next, ok = body.Page(all, int(size), 200, r.Query.Get("pageToken"))
	}
	if !ok {
		return nil, front.Invalid("Invalid page token.")
	}
	answer := map[string]any{}
	if len(page) > 0 {
		answer["services"] = page
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

func (v *Service) batchGet(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	names := r.Query["names"]
	if len(names) == 0 || len(names) > 30 {
		return nil, front.Invalid("Between 1 and 30 names must be given.")
	}
	var list []any
	for _, name := range names {
		parts := strings.Split(name, "/")
		if len(parts) != 4 || parts[0] != "projects" || v.server.ProjectNumber(parts[1]) != num || parts[2] != "services" {
			return nil, front.Invalid("Invalid service name: %q.", name)
		}
		if err := v.check(parts[3]); err != nil {
			return nil, err
		}
		list = append(list, v.service(id, parts[3]))
	}
	return map[string]any{"services": list}, nil
}

// Google takes this long to enable a service.
const enableLatency = 15 * time.Second

// operation switches services and answers with the operation, which is done at once when nothing changes.
func (v *Service) operation(r *front.Request, num, id, state string, names []string, response func() map[string]any) (any, error) {
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return v.isEnabled(id, name) == (state == "ENABLED") })
	if len(missing) == 0 {
		return map[string]any{"name": "operations/noop.DONE_OPERATION", "done": true, "response": response()}, nil
	}
	resources := make([]any, len(missing))
	for i, name := range missing {
		resources[i] = "services/" + name
	}
	metadata := map[string]any{"@type": "type.googleapis.com/google.api.serviceusage.v1.OperationMetadata", "resourceNames": resources}
	return v.server.Ops().LongRunning(r, "operations/acat.p2-"+num+"-", metadata, enableLatency, func(context.Context) error {
		for _, name := range missing {
			v.enabled.Put(v.serviceKey(id, name), map[string]any{"state": state})
		}
		return nil
	}, nil, response), nil
}

func (v *Service) enable(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	name := r.Path["service"]
	if err := v.check(name); err != nil {
		return nil, err
	}
	return v.operation(r, num, id, "ENABLED", []string{name}, func() map[string]any {
		return map[string]any{"@type": "type.googleapis.com/google.api.serviceusage.v1.EnableServiceResponse", "service": v.service(id, name)}
	})
}

func (v *Service) batchEnable(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	names := body.Strings(r.Body, "serviceIds")
	if len(names) < 2 || len(names) > 20 {
		return nil, front.Invalid("A batch must name between 2 and 20 services; %d were given.", len(names))
	}
	if err := v.check(names...); err != nil {
		return nil, err
	}
	return v.operation(r, num, id, "ENABLED", names, func() map[string]any {
		list := make([]any, len(names))
		for i, name := range names {
			list[i] = v.service(id, name)
		}
		return map[string]any{"@type": "type.googleapis.com/google.api.serviceusage.v1.BatchEnableServicesResponse", "services": list}
	})
}

func (v *Service) disable(_ context.Context, r *front.Request) (any, error) {
	id, num, err := v.project(r)
	if err != nil {
		return nil, err
	}
	name := r.Path["service"]
	if err := v.check(name); err != nil {
		return nil, err
	}
	if slices.Contains(always(), name) {
		return nil, front.FailedPrecondition("The service %s cannot be disabled in the local cloud.", name)
	}
	return v.operation(r, num, id, "DISABLED", []string{name}, func() map[string]any {
		return map[string]any{"@type": "type.googleapis.com/google.api.serviceusage.v1.DisableServiceResponse", "service": v.service(id, name)}
	})
}
