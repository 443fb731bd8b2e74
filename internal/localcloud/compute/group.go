package compute

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// fillGroup checks a regional managed instance group as Google does.
func fillGroup(s *Service, r *front.Request, key string, body, old map[string]any) error {
	if old == nil {
		if body["baseInstanceName"] == nil {
			body["baseInstanceName"] = body["name"]
		}
		if n := fmt.Sprint(body["baseInstanceName"]); len(n) > 58 || !nameShape.MatchString(n) {
			return bad("baseInstanceName", n, "Must be at most 58 characters of the form of a name.")
		}
		if body["targetSize"] == nil {
			return required("targetSize")
		}
	}
	if err := within(body, "targetSize", 0, 2000); err != nil {
		return err
	}
	versions, _ := body["versions"].([]any)
	if len(versions) == 0 {
		if body["instanceTemplate"] == nil {
			return required("instanceTemplate")
		}
		versions = []any{map[string]any{"instanceTemplate": body["instanceTemplate"]}}
		body["versions"] = versions
	}
	open := 0
	for i, v := range versions {
		version, _ := v.(map[string]any)
		if version["instanceTemplate"] == nil {
			return required(fmt.Sprintf("versions[%d].instanceTemplate", i))
		}
		if version["targetSize"] == nil {
			open++
			body["instanceTemplate"] = version["instanceTemplate"]
		}
	}
	if open != 1 {
		return front.Invalid("Invalid value for field 'resource.versions': ''. Exactly one version must leave targetSize unset.")
	}
	region := r.Path["region"]
	distribution := sub(body, "distributionPolicy")
	fallback(distribution, "targetShape", "EVEN")
	if empty(distribution["zones"]) {
		var zones []any
		for _, z := range zonesOf(region)[:3] {
			zones = append(zones, map[string]any{"zone": link("projects/" + r.Path["project"] + "/zones/" + z)})
		}
		distribution["zones"] = zones
	}
	zones, _ := distribution["zones"].([]any)
	for i, v := range zones {
		m, _ := v.(map[string]any)
		zone := relative(r.Path["project"], fmt.Sprint(m["zone"]))
		if !strings.HasPrefix(zone[strings.LastIndexByte(zone, '/')+1:], region+"-") {
			return bad(fmt.Sprintf("distributionPolicy.zones[%d].zone", i), m["zone"], "The zone is not in the group's region.")
		}
		m["zone"] = link(zone)
	}
	if old != nil && fmt.Sprint(zoneNames(old)) != fmt.Sprint(zoneNames(body)) {
		return bad("distributionPolicy.zones", "", "The zones of a group cannot be changed.")
	}
	if err := fillUpdatePolicy(body, len(zones)); err != nil {
		return err
	}
	healing, _ := body["autoHealingPolicies"].([]any)
	if len(healing) > 1 {
		return bad("autoHealingPolicies", len(healing), "At most one policy is allowed.")
	}
	for _, h := range healing {
		if m, ok := h.(map[string]any); ok {
			if err := within(m, "initialDelaySec", 0, 3600); err != nil {
				return err
			}
		}
	}
	body["instanceGroup"] = link(strings.Replace(key, "/instanceGroupManagers/", "/instanceGroups/", 1))
	lifecycle := sub(body, "instanceLifecyclePolicy")
	fallback(lifecycle, "defaultActionOnFailure", "REPAIR")
	fallback(lifecycle, "forceUpdateOnRepair", "NO")
	standby := sub(body, "standbyPolicy")
	fallback(standby, "mode", "MANUAL")
	fallback(body, "listManagedInstancesResults", "PAGELESS")
	return nil
}

func zoneNames(group map[string]any) []string {
	distribution, _ := group["distributionPolicy"].(map[string]any)
	list, _ := distribution["zones"].([]any)
	var names []string
	for _, v := range list {
		m, _ := v.(map[string]any)
		z := fmt.Sprint(m["zone"])
		names = append(names, z[strings.LastIndexByte(z, '/')+1:])
	}
	return names
}

// fillUpdatePolicy applies the rules for regional groups: surge and unavailability are zero or at least the number of
// zones, not both zero, and a share only for ten instances or more.
func fillUpdatePolicy(body map[string]any, zones int) error {
	p := sub(body, "updatePolicy")
	fallback(p, "type", "OPPORTUNISTIC")
	fallback(p, "minimalAction", "REPLACE")
	fallback(p, "mostDisruptiveAllowedAction", "REPLACE")
	fallback(p, "replacementMethod", "SUBSTITUTE")
	fallback(p, "instanceRedistributionType", "PROACTIVE")
	amount := map[string]float64{}
	for _, field := range []string{"maxSurge", "maxUnavailable"} {
		m, _ := p[field].(map[string]any)
		if m == nil || m["fixed"] == nil && m["percent"] == nil {
			m = map[string]any{"fixed": float64(zones)}
			p[field] = m
		}
		if percent, ok := number(m["percent"]); ok && m["fixed"] == nil {
			if size, _ := number(body["targetSize"]); size < 10 && percent > 0 {
				return bad("updatePolicy."+field, m["percent"], "A percentage is allowed only if the group has 10 instances or more.")
			}
			amount[field] = percent
			continue
		}
		fixed, _ := number(m["fixed"])
		if fixed != 0 && fixed < float64(zones) {
			return &front.Error{Code: 400, Reason: "invalid", Message: fmt.Sprintf("Invalid value for field 'resource.updatePolicy.%s': '{  \"fixed\": %g}'. Fixed updatePolicy.%s for regional managed instance group has to be either 0 or at least equal to the number of zones.", field, fixed, field)}
		}
		m["calculated"] = fixed
		amount[field] = fixed
	}
	if amount["maxSurge"] == 0 && amount["maxUnavailable"] == 0 {
		return bad("updatePolicy.maxUnavailable", 0, "maxSurge and maxUnavailable must not both be 0.")
	}
	if p["replacementMethod"] == "RECREATE" && (amount["maxSurge"] != 0 || amount["maxUnavailable"] == 0) {
		return bad("updatePolicy.replacementMethod", "RECREATE", "It needs maxSurge 0 and maxUnavailable above 0.")
	}
	return nil
}

func showGroup(s *Service, key string, body map[string]any) {
	status := map[string]any{"isStable": true, "versionTarget": map[string]any{"isReached": true}, "stateful": map[string]any{"hasStatefulConfig": false}, "allInstancesConfig": map[string]any{"effective": true}}
	body["status"] = status
	body["currentActions"] = map[string]any{"none": body["targetSize"]}
	if s.fleet != nil {
		now := s.fleet.Status(key)
		if more, ok := now["status"].(map[string]any); ok {
			maps.Copy(status, more)
			delete(now, "status")
		}
		maps.Copy(body, now)
	}
	for _, k := range s.store.Collection("autoscalers").Keys("") {
		if a, ok := s.store.Collection("autoscalers").Get(k); ok && a["target"] == body["selfLink"] {
			status["autoscaler"] = a["selfLink"]
		}
	}
}

// groups registers the verbs of groups.
func (s *Service) groups() {
	c := s.row("instanceGroupManagers")
	id := "compute.regionInstanceGroupManagers."
	s.server.Handle(id+"resize", func(_ context.Context, r *front.Request) (any, error) {
		size, ok := number(r.Query.Get("size"))
		if !ok || size < 0 || size > 2000 {
			return nil, front.Invalid("Invalid value for field 'size': '%s'. Must be between 0 and 2000", r.Query.Get("size"))
		}
		return s.change(c, r, c.key(r), "compute.instanceGroupManagers.resize", 2*second, func(old map[string]any) (map[string]any, error) {
			next := store.Clone(old)
			next["targetSize"] = size
			return next, nil
		})
	})
	s.server.Handle(id+"setInstanceTemplate", func(_ context.Context, r *front.Request) (any, error) {
		return s.change(c, r, c.key(r), "compute.instanceGroupManagers.setInstanceTemplate", 5*second, func(old map[string]any) (map[string]any, error) {
			next := store.Clone(old)
			next["versions"] = []any{map[string]any{"instanceTemplate": r.Body["instanceTemplate"]}}
			return next, nil
		})
	})
	recreate := func(_ context.Context, r *front.Request) (any, error) {
		key := c.key(r)
		body, ok := s.Get(key)
		if !ok {
			return nil, front.ResourceNotFound(key)
		}
		list, _ := r.Body["instances"].([]any)
		if len(list) == 0 || len(list) > 1000 {
			return nil, required("instances")
		}
		var names []string
		for _, v := range list {
			name := fmt.Sprint(v)
			names = append(names, name[strings.LastIndexByte(name, '/')+1:])
		}
		return s.server.Ops().Compute(r, "recreateInstances", key, fmt.Sprint(body["id"]), 5*second, func(ctx context.Context) error {
			if s.fleet == nil {
				return nil
			}
			return s.fleet.Recreate(ctx, key, names)
		}, nil), nil
	}
	s.server.Handle(id+"recreateInstances", recreate)
	s.server.Handle(id+"listManagedInstances", func(_ context.Context, r *front.Request) (any, error) {
		key := c.key(r)
		if _, ok := s.Get(key); !ok {
			return nil, front.ResourceNotFound(key)
		}
		answer := map[string]any{}
		if m := s.managed(key); len(m) > 0 {
			answer["managedInstances"] = m
		}
		return answer, nil
	})
	s.server.Handle(id+"listErrors", func(_ context.Context, r *front.Request) (any, error) {
		key := c.key(r)
		if _, ok := s.Get(key); !ok {
			return nil, front.ResourceNotFound(key)
		}
		answer := map[string]any{}
		if s.fleet != nil {
			if errs := s.fleet.Errors(key); len(errs) > 0 {
				answer["items"] = errs
			}
		}
		return answer, nil
	})

	// A regional instance group is the other face of its manager.
	face := func(key string, body map[string]any) map[string]any {
		shown := s.shown(c, key, store.Clone(body))
		return map[string]any{
			"kind": "compute#instanceGroup", "id": body["id"], "name": body["name"], "creationTimestamp": body["creationTimestamp"], "region": body["region"],
			"selfLink": body["instanceGroup"], "namedPorts": body["namedPorts"], "fingerprint": body["fingerprint"],
			"description": "This instance group is controlled by Regional Instance Group Manager '" + fmt.Sprint(body["name"]) + "'.",
			"size":        len(s.managed(key)), "network": s.networkOf(shown),
		}
	}
	groupKey := func(r *front.Request) string {
		return c.parent(r) + r.Path["instanceGroup"]
	}
	s.server.Handle("compute.regionInstanceGroups.get", func(_ context.Context, r *front.Request) (any, error) {
		body, ok := s.Get(groupKey(r))
		if !ok {
			return nil, front.ResourceNotFound(strings.Replace(groupKey(r), "/instanceGroupManagers/", "/instanceGroups/", 1))
		}
		return face(groupKey(r), body), nil
	})
	s.server.Handle("compute.regionInstanceGroups.list", func(_ context.Context, r *front.Request) (any, error) {
		var items []map[string]any
		for _, key := range s.store.Collection(c.name).Keys(c.parent(r)) {
			if body, ok := s.Get(key); ok {
				items = append(items, face(key, body))
			}
		}
		return page(r, "compute#regionInstanceGroupList", strings.Replace(strings.TrimSuffix(c.parent(r), "/"), "instanceGroupManagers", "instanceGroups", 1), items)
	})
	s.server.Handle("compute.regionInstanceGroups.listInstances", func(_ context.Context, r *front.Request) (any, error) {
		body, ok := s.Get(groupKey(r))
		if !ok {
			return nil, front.ResourceNotFound(groupKey(r))
		}
		var items []map[string]any
		for _, m := range s.managed(groupKey(r)) {
			items = append(items, map[string]any{"instance": m["instance"], "status": m["instanceStatus"], "namedPorts": body["namedPorts"]})
		}
		return page(r, "compute#regionInstanceGroupsListInstances", strings.TrimPrefix(fmt.Sprint(body["instanceGroup"]), base)+"/listInstances", items)
	})
	s.server.Handle("compute.regionInstanceGroups.setNamedPorts", func(_ context.Context, r *front.Request) (any, error) {
		return s.change(c, r, groupKey(r), "setNamedPorts", 3*second, func(old map[string]any) (map[string]any, error) {
			next := store.Clone(old)
			next["namedPorts"] = r.Body["namedPorts"]
			return next, nil
		})
	})
}

func (s *Service) managed(key string) []map[string]any {
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Managed(key)
}

// networkOf gives the network of a group's template.
func (s *Service) networkOf(group map[string]any) any {
	template, _ := s.Get(relative("", fmt.Sprint(group["instanceTemplate"])))
	p, _ := template["properties"].(map[string]any)
	nics, _ := p["networkInterfaces"].([]any)
	if len(nics) == 0 {
		return nil
	}
	nic, _ := nics[0].(map[string]any)
	return nic["network"]
}

// zonesOf gives a region's zones.
func zonesOf(region string) []string {
	letters := regions()[region]
	var zones []string
	for _, l := range letters {
		zones = append(zones, region+"-"+string(l))
	}
	return zones
}
