package compute

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// regions gives Compute Engine's regions with the letters of their zones, to be compared with its page "Regions and zones", which was not
// at hand when they were written down.
func regions() map[string]string {
	m := map[string]string{"us-central1": "abcf", "us-east1": "bcd", "europe-west1": "bcd"}
	for area, numbers := range map[string]string{
		"africa-south": "1", "asia-east": "1 2", "asia-northeast": "1 2 3", "asia-south": "1 2", "asia-southeast": "1 2", "australia-southeast": "1 2",
		"europe-central": "2", "europe-north": "1 2", "europe-southwest": "1", "europe-west": "2 3 4 6 8 9 10 12", "me-central": "1 2", "me-west": "1",
		"northamerica-northeast": "1 2", "northamerica-south": "1", "southamerica-east": "1", "southamerica-west": "1", "us-east": "4 5", "us-south": "1",
		"us-west": "1 2 3 4",
	} {
		for n := range strings.FieldsSeq(numbers) {
			m[area+n] = "abc"
		}
	}
	return m
}

// known refuses what is about a region or a zone that there is not. Those that are only asked for are not found.
func known(_ context.Context, r *front.Request) error {
	if r.Method.API != "compute" {
		return nil
	}
	region, zone := r.Path["region"], r.Path["zone"]
	if _, there := regions()[region]; region != "" && !there && r.Method.ID != "compute.regions.get" {
		return front.Invalid("Invalid value for field 'region': '%s'. Unknown region.", region)
	}
	if zone != "" && !zoneThere(zone) && r.Method.ID != "compute.zones.get" {
		return front.Invalid("Invalid value for field 'zone': '%s'. Unknown zone.", zone)
	}
	return nil
}

func zoneThere(zone string) bool {
	i := strings.LastIndexByte(zone, '-')
	return i > 0 && len(zone) == i+2 && strings.Contains(regions()[zone[:i]], zone[i+1:])
}

// places registers what is only read: the project, operations, regions, zones, machine types, images, and the fleet's instances.
func (s *Service) places() {
	handle := func(id string, h front.Handler) { s.server.Handle("compute."+id, h) }
	s.server.Before(known)

	for _, scope := range []string{"global", "region", "zone"} {
		handle(scope+"Operations.list", func(_ context.Context, r *front.Request) (any, error) {
			collection, ops := s.server.Ops().ComputeList(r)
			return page(r, "compute#operationList", collection, ops)
		})
	}

	handle("projects.get", func(_ context.Context, r *front.Request) (any, error) {
		p := r.Path["project"]
		return map[string]any{
			"kind": "compute#project", "id": s.server.ProjectNumber(p), "name": p, "selfLink": link("projects/" + p), "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
			"defaultServiceAccount": s.server.ProjectNumber(p) + "-compute@developer.gserviceaccount.com", "defaultNetworkTier": "PREMIUM",
			"quotas": s.quotas(p, map[string]string{"NETWORKS": "networks", "FIREWALLS": "firewalls", "HEALTH_CHECKS": "healthChecks", "BACKEND_SERVICES": "backendServices", "URL_MAPS": "urlMaps", "FORWARDING_RULES": "forwardingRules", "STATIC_ADDRESSES": "addresses", "INSTANCE_TEMPLATES": "instanceTemplates", "SSL_CERTIFICATES": "sslCertificates"}),
		}, nil
	})

	region := func(project, name string) map[string]any {
		var zones []any
		for _, z := range zonesOf(name) {
			zones = append(zones, link("projects/"+project+"/zones/"+z))
		}
		return map[string]any{
			"kind": "compute#region", "name": name, "description": name, "status": "UP", "zones": zones, "selfLink": link("projects/" + project + "/regions/" + name),
			"quotas": s.quotas(project, map[string]string{"CPUS": "", "INSTANCES": "instances", "INSTANCE_GROUP_MANAGERS": "instanceGroupManagers", "SUBNETWORKS": "subnetworks"}),
		}
	}
	handle("regions.get", func(_ context.Context, r *front.Request) (any, error) {
		if regions()[r.Path["region"]] == "" {
			return nil, front.ResourceNotFound("projects/" + r.Path["project"] + "/regions/" + r.Path["region"])
		}
		return region(r.Path["project"], r.Path["region"]), nil
	})
	handle("regions.list", func(_ context.Context, r *front.Request) (any, error) {
		var items []map[string]any
		for _, name := range slices.Sorted(maps.Keys(regions())) {
			items = append(items, region(r.Path["project"], name))
		}
		return page(r, "compute#regionList", "projects/"+r.Path["project"]+"/regions", items)
	})
	zone := func(project, name string) map[string]any {
		return map[string]any{
			"kind": "compute#zone", "name": name, "description": name, "status": "UP",
			"region": link("projects/" + project + "/regions/" + name[:strings.LastIndexByte(name, '-')]), "selfLink": link("projects/" + project + "/zones/" + name),
		}
	}
	handle("zones.get", func(_ context.Context, r *front.Request) (any, error) {
		if !zoneThere(r.Path["zone"]) {
			return nil, front.ResourceNotFound("projects/" + r.Path["project"] + "/zones/" + r.Path["zone"])
		}
		return zone(r.Path["project"], r.Path["zone"]), nil
	})
	handle("zones.list", func(_ context.Context, r *front.Request) (any, error) {
		var items []map[string]any
		for _, name := range slices.Sorted(maps.Keys(regions())) {
			for _, z := range zonesOf(name) {
				items = append(items, zone(r.Path["project"], z))
			}
		}
		return page(r, "compute#zoneList", "projects/"+r.Path["project"]+"/zones", items)
	})

	machine := regexp.MustCompile(`^[a-z][0-9][a-z]?-[a-z]+-([0-9]+)$|^e2-(micro|small|medium)$|^[a-z][0-9][a-z]?-custom-([0-9]+)-([0-9]+)$`)
	machineType := func(r *front.Request, name string) (map[string]any, bool) {
		m := machine.FindStringSubmatch(name)
		if m == nil {
			return nil, false
		}
		cpus, memory := 2, 4096
		if m[1] != "" {
			cpus, _ = strconv.Atoi(m[1])
			memory = cpus * 4096
		} else if m[3] != "" {
			cpus, _ = strconv.Atoi(m[3])
			memory, _ = strconv.Atoi(m[4])
		}
		key := "projects/" + r.Path["project"] + "/zones/" + r.Path["zone"] + "/machineTypes/" + name
		return map[string]any{"kind": "compute#machineType", "name": name, "guestCpus": cpus, "memoryMb": memory, "zone": r.Path["zone"], "selfLink": link(key)}, true
	}
	handle("machineTypes.get", func(_ context.Context, r *front.Request) (any, error) {
		body, ok := machineType(r, r.Path["machineType"])
		if !ok {
			return nil, front.ResourceNotFound("projects/" + r.Path["project"] + "/zones/" + r.Path["zone"] + "/machineTypes/" + r.Path["machineType"])
		}
		return body, nil
	})
	handle("machineTypes.list", func(_ context.Context, r *front.Request) (any, error) {
		var items []map[string]any
		for _, name := range []string{"e2-medium", "e2-standard-2", "e2-standard-4", "e2-standard-8", "n2-standard-4", "n2-standard-8"} {
			body, _ := machineType(r, name)
			items = append(items, body)
		}
		return page(r, "compute#machineTypeList", "projects/"+r.Path["project"]+"/zones/"+r.Path["zone"]+"/machineTypes", items)
	})

	image := func(family string) map[string]any {
		name := strings.TrimSuffix(family, "-lts") + "-jammy-v20260901"
		return map[string]any{
			"kind": "compute#image", "id": "1", "name": name, "family": family, "status": "READY", "diskSizeGb": "10", "architecture": "X86_64",
			"selfLink": link("projects/ubuntu-os-cloud/global/images/" + name),
		}
	}
	handle("images.getFromFamily", func(_ context.Context, r *front.Request) (any, error) {
		if r.Path["project"] != "ubuntu-os-cloud" || r.Path["family"] != "ubuntu-2204-lts" {
			return nil, front.ResourceNotFound("projects/" + r.Path["project"] + "/global/images/family/" + r.Path["family"])
		}
		return image(r.Path["family"]), nil
	})
	handle("images.get", func(_ context.Context, r *front.Request) (any, error) {
		if body := image("ubuntu-2204-lts"); r.Path["project"] == "ubuntu-os-cloud" && r.Path["image"] == body["name"] {
			return body, nil
		}
		return nil, front.ResourceNotFound("projects/" + r.Path["project"] + "/global/images/" + r.Path["image"])
	})

	instanceKey := func(r *front.Request) string {
		return "projects/" + r.Path["project"] + "/zones/" + r.Path["zone"] + "/instances/" + r.Path["instance"]
	}
	handle("instances.get", func(_ context.Context, r *front.Request) (any, error) {
		body, ok := s.Get(instanceKey(r))
		if !ok {
			return nil, front.ResourceNotFound(instanceKey(r))
		}
		return body, nil
	})
	handle("instances.list", func(_ context.Context, r *front.Request) (any, error) {
		prefix := strings.TrimSuffix(instanceKey(r), r.Path["instance"])
		return page(r, "compute#instanceList", strings.TrimSuffix(prefix, "/"), s.store.Collection("instances").List(prefix))
	})
	handle("instances.aggregatedList", s.aggregatedList(&collection{name: "instances", kind: "compute#instance"}))
	handle("instances.getSerialPortOutput", func(_ context.Context, r *front.Request) (any, error) {
		key := instanceKey(r)
		if _, ok := s.Get(key); !ok {
			return nil, front.ResourceNotFound(key)
		}
		text := ""
		if s.fleet != nil {
			text = s.fleet.Serial(key)
		}
		start, _ := strconv.Atoi(r.Query.Get("start"))
		if start < 0 {
			start = max(0, len(text)+start)
		}
		start = min(start, len(text))
		return map[string]any{
			"kind": "compute#serialPortOutput", "selfLink": link(key + "/serialPort"), "contents": text[start:],
			"start": strconv.Itoa(start), "next": strconv.Itoa(len(text)),
		}, nil
	})
	handle("instances.getGuestAttributes", func(_ context.Context, r *front.Request) (any, error) {
		key := instanceKey(r)
		if _, ok := s.Get(key); !ok {
			return nil, front.ResourceNotFound(key)
		}
		query := r.Query.Get("queryPath")
		if query == "" {
			query = r.Query.Get("variableKey")
		}
		ns, name, _ := strings.Cut(query, "/")
		var all map[string]map[string]string
		if s.fleet != nil {
			all = s.fleet.GuestAttributes(key)
		}
		items := []any{}
		for _, n := range slices.Sorted(maps.Keys(all)) {
			for _, k := range sortedKeys(all[n]) {
				if (ns == "" || n == ns) && (name == "" || k == name) {
					items = append(items, map[string]any{"namespace": n, "key": k, "value": all[n][k]})
				}
			}
		}
		if len(items) == 0 { // also where the instance's metadata do not allow guest attributes
			return nil, &front.Error{Code: 404, Reason: "notFound", Message: "The resource '" + query + "' of type 'Guest Attribute' was not found."}
		}
		body := map[string]any{"kind": "compute#guestAttributes", "selfLink": link(key + "/getGuestAttributes"), "queryPath": query, "queryValue": map[string]any{"items": items}}
		if v := r.Query.Get("variableKey"); v != "" {
			body["variableKey"], body["variableValue"] = v, items[0].(map[string]any)["value"]
		}
		return body, nil
	})
	handle("addresses.list", func(_ context.Context, r *front.Request) (any, error) {
		return page(r, "compute#addressList", "projects/"+r.Path["project"]+"/regions/"+r.Path["region"]+"/addresses", nil)
	})
	handle("securityPolicies.list", func(_ context.Context, r *front.Request) (any, error) {
		return page(r, "compute#securityPolicyList", "projects/"+r.Path["project"]+"/global/securityPolicies", nil)
	})
}

// quotas gives generous limits with real usage. The local cloud enforces none.
func (s *Service) quotas(project string, metrics map[string]string) []any {
	var list []any
	for _, metric := range sortedKeys(metrics) {
		usage := 0
		if c := metrics[metric]; c != "" {
			usage = len(s.store.Collection(c).Keys(fmt.Sprintf("projects/%s/", project)))
		}
		list = append(list, map[string]any{"metric": metric, "limit": 1000, "usage": usage})
	}
	return list
}
