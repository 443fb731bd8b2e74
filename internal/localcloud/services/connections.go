package services

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Peering is the name of the peering that private services access makes in a network.
const Peering = "servicenetworking-googleapis-com"

const (
	producer          = "servicenetworking.googleapis.com"
	connectionLatency = 30 * time.Second
	resourcePrefix    = "projects/"
)

// network gives the store's key of a network that is named with the project's number or ID.
func (v *Service) network(name string) (key string, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[0] != "projects" || parts[2] != "global" || parts[3] != "networks" {
		return "", front.Invalid("The network must be given as 'projects/{project}/global/networks/{network}', not '%s'.", name)
	}
	return NetworkKey(v.server, v.networks, name)
}

// NetworkKey finds a network in the collection "networks" by its relative name or a link to it, whether the project is
// written by ID or number. What is not there is an *front.Error, 404.
func NetworkKey(s *front.Server, networks *store.Collection, name string) (string, error) {
	if i := strings.Index(name, resourcePrefix); i > 0 {
		name = name[i:]
	}
	if _, ok := networks.Get(name); ok {
		return name, nil
	}
	if parts := strings.Split(name, "/"); len(parts) == 5 {
		for _, key := range networks.Keys(resourcePrefix) {
			have := strings.Split(key, "/")
			if len(have) == 5 && have[4] == parts[4] && s.ProjectNumber(have[1]) == s.ProjectNumber(parts[1]) {
				return key, nil
			}
		}
	}
	return "", front.ResourceNotFound(name)
}

// Connected says whether a network, by its key in the collection "networks", has private services access.
func Connected(networks *store.Collection, key string) bool {
	n, _ := networks.Get(key)
	return slices.ContainsFunc(body.Maps(n, "peerings"), func(p map[string]any) bool { return p["name"] == Peering })
}

// Used notes that a Cloud SQL instance was made in a network, by its key in the collection "networks".
func Used(st *store.Store, key string) {
	// Without a connection there is nothing to note.
	_ = st.Collection("connections").Update(key, func(c map[string]any) error {
		c["used"] = true
		return nil
	})
}

func (v *Service) parent(r *front.Request) error {
	if s := r.Path["service"]; s != producer {
		return &front.Error{Code: 403, Reason: "forbidden", Message: "Permission denied on service '" + s + "' (or it may not exist)."}
	}
	return nil
}

// shown writes a connection as it is answered: the network with the project's number.
func (v *Service) shown(key string, c map[string]any) map[string]any {
	parts := strings.Split(key, "/")
	parts[1] = v.server.ProjectNumber(parts[1])
	return map[string]any{"network": strings.Join(parts, "/"), "peering": Peering, "reservedPeeringRanges": body.List(c, "reservedPeeringRanges"), "service": "services/" + producer}
}

func (v *Service) listConnections(_ context.Context, r *front.Request) (any, error) {
	if err := v.parent(r); err != nil {
		return nil, err
	}
	if r.Query.Get("network") == "" {
		return nil, front.Invalid("The network must be given.")
	}
	key, err := v.network(r.Query.Get("network"))
	if err != nil {
		return nil, err
	}
	c, ok := v.connections.Get(key)
	if !ok || !Connected(v.networks, key) {
		return map[string]any{}, nil
	}
	return map[string]any{"connections": []any{v.shown(key, c)}}, nil
}

// checkRanges refuses ranges that are not reserved for this in the network.
func (v *Service) checkRanges(key string, names []string) error {
	if len(names) == 0 {
		return front.Invalid("At least one reserved peering range must be given.")
	}
	project := strings.Split(key, "/")[1]
	for _, name := range names {
		a, ok := v.ranges.Get("projects/" + project + "/global/addresses/" + name)
		if !ok {
			return front.Invalid("The allocated IP range '%s' was not found.", name)
		}
		if body.String(a, "purpose") != "VPC_PEERING" {
			return front.Invalid("The allocated IP range '%s' does not have the purpose VPC_PEERING.", name)
		}
		if network := body.String(a, "network"); !strings.HasSuffix(network, "/"+key) && network != key {
			return front.Invalid("The allocated IP range '%s' does not belong to the network '%s'.", name, key)
		}
	}
	return nil
}

// connect writes the connection, and the peering into the network. One peering changes at a time.
func (v *Service) connect(r *front.Request, key string, names []string) map[string]any {
	num := v.server.ProjectNumber(strings.Split(key, "/")[1])
	return v.start(r, num, func() (map[string]any, error) {
		err := v.networks.Update(key, func(n map[string]any) error {
			list := body.List(n, "peerings")
			if !slices.ContainsFunc(body.Maps(n, "peerings"), func(p map[string]any) bool { return p["name"] == Peering }) {
				list = append(list, map[string]any{
					"name": Peering, "network": "https://www.googleapis.com/compute/v1/projects/" + tenant(num) + "/global/networks/servicenetworking",
					"state": "ACTIVE", "stateDetails": "[" + time.Now().Format(front.TimeFormat) + "]: Connected.", "autoCreateRoutes": true, "exchangeSubnetRoutes": true,
					"exportCustomRoutes": false, "importCustomRoutes": false, "exportSubnetRoutesWithPublicIp": false, "importSubnetRoutesWithPublicIp": false, "stackType": "IPV4_ONLY",
				})
			}
			n["peerings"] = list
			return nil
		})
		if err != nil {
			return nil, front.ResourceNotFound(key)
		}
		old, _ := v.connections.Get(key)
		c := map[string]any{"network": key, "reservedPeeringRanges": names, "used": body.Bool(old, "used")}
		v.connections.Put(key, c)
		answer := v.shown(key, c)
		answer["@type"] = "type.googleapis.com/google.cloud.servicenetworking.v1.Connection"
		return answer, nil
	})
}

// tenant is the project of Google's in which a consumer's producers live.
func tenant(num string) string { return "t" + num + "-tp" }

func (v *Service) start(r *front.Request, num string, work func() (map[string]any, error)) map[string]any {
	var response map[string]any
	return v.server.Ops().LongRunning(r, "operations/pssn.p24-"+num+"-", nil, connectionLatency, func(context.Context) (err error) {
		v.peering.Lock()
		defer v.peering.Unlock()
		response, err = work()
		return err
	}, nil, func() map[string]any { return response })
}

func (v *Service) createConnection(_ context.Context, r *front.Request) (any, error) {
	if err := v.parent(r); err != nil {
		return nil, err
	}
	key, err := v.network(body.String(r.Body, "network"))
	if err != nil {
		return nil, err
	}
	names := body.Strings(r.Body, "reservedPeeringRanges")
	if err := v.checkRanges(key, names); err != nil {
		return nil, err
	}
	if c, ok := v.connections.Get(key); ok && !same(body.Strings(c, "reservedPeeringRanges"), names) {
		return nil, front.FailedPrecondition("Cannot modify allocated ranges in CreateConnection. Please use UpdateConnection.")
	}
	return v.connect(r, key, names), nil
}

func same(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func (v *Service) patchConnection(_ context.Context, r *front.Request) (any, error) {
	if err := v.parent(r); err != nil {
		return nil, err
	}
	if c := r.Path["connection"]; c != "-" && c != Peering {
		return nil, front.NotFound("Connection '%s' was not found.", c)
	}
	for _, field := range body.Mask(r.Query.Get("updateMask")) {
		if field != "reservedPeeringRanges" && field != "*" {
			return nil, front.Invalid("The field '%s' of a connection cannot be changed.", field)
		}
	}
	key, err := v.network(body.String(r.Body, "network"))
	if err != nil {
		return nil, err
	}
	names := body.Strings(r.Body, "reservedPeeringRanges")
	if err := v.checkRanges(key, names); err != nil {
		return nil, err
	}
	c, _ := v.connections.Get(key)
	if r.Query.Get("force") != "true" && slices.ContainsFunc(body.Strings(c, "reservedPeeringRanges"), func(old string) bool { return !slices.Contains(names, old) }) {
		return nil, front.FailedPrecondition("An allocated range would be removed from the connection. Set force to do so.")
	}
	return v.connect(r, key, names), nil
}

func (v *Service) deleteConnection(_ context.Context, r *front.Request) (any, error) {
	if err := v.parent(r); err != nil {
		return nil, err
	}
	key, err := v.network(body.String(r.Body, "consumerNetwork"))
	if err != nil {
		return nil, err
	}
	if _, ok := v.connections.Get(key); !ok || r.Path["connection"] != Peering {
		return nil, front.NotFound("Connection '%s' of network '%s' was not found.", r.Path["connection"], key)
	}
	num := v.server.ProjectNumber(strings.Split(key, "/")[1])
	return v.start(r, num, func() (map[string]any, error) {
		if v.held(key) {
			return nil, front.FailedPrecondition("Failed to delete connection; Producer services (e.g. CloudSQL, Cloud Memstore, etc.) are still using this connection.")
		}
		err := v.networks.Update(key, func(n map[string]any) error {
			list := slices.DeleteFunc(body.Maps(n, "peerings"), func(p map[string]any) bool { return p["name"] == Peering })
			if len(list) == 0 {
				delete(n, "peerings")
				return nil
			}
			n["peerings"] = list
			return nil
		})
		if err != nil {
			return nil, front.ResourceNotFound(key)
		}
		v.connections.Delete(key)
		return map[string]any{"@type": "type.googleapis.com/google.protobuf.Empty"}, nil
	}), nil
}

// held says whether producers use a network's connection.
func (v *Service) held(key string) bool {
	uses := func(name string) bool {
		found, err := NetworkKey(v.server, v.networks, name)
		return err == nil && found == key
	}
	for _, i := range v.sql.List("") {
		if uses(body.String(i, "settings.ipConfiguration.privateNetwork")) {
			return true
		}
	}
	for _, i := range v.redis.List("") {
		if body.String(i, "connectMode") == "PRIVATE_SERVICE_ACCESS" && uses(body.String(i, "authorizedNetwork")) {
			return true
		}
	}
	c, _ := v.connections.Get(key)
	return v.opts.KeepProducers && body.Bool(c, "used")
}
