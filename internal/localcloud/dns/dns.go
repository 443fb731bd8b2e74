package dns

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/services"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// Service serves dns v1. Zones are in the collection "dns.managedZones", by "projects/p/managedZones/z"; record sets in
// "dns.resourceRecordSets", by their zone's key and "/rrsets/NAME/TYPE".
type Service struct {
	server  *front.Server
	store   *store.Store
	zones   *store.Collection
	records *store.Collection
	changes *store.Collection

	mu sync.Mutex // one new zone and one change of records at a time
}

// Register serves Cloud DNS on s.
func Register(s *front.Server, st *store.Store) *Service {
	v := &Service{server: s, store: st, zones: st.Collection("dns.managedZones"), records: st.Collection("dns.resourceRecordSets"), changes: st.Collection("dns.changes")}
	for id, h := range map[string]front.Handler{
		"managedZones.create": v.create, "managedZones.get": v.get, "managedZones.list": v.list, "managedZones.patch": v.patch, "managedZones.delete": v.delete,
		"resourceRecordSets.create": v.createRecord, "resourceRecordSets.get": v.getRecord, "resourceRecordSets.list": v.listRecords,
		"resourceRecordSets.patch": v.patchRecord, "resourceRecordSets.delete": v.deleteRecord,
		"changes.create": v.change, "changes.get": v.getChange, "changes.list": v.listChanges,
	} {
		s.Handle("dns."+id, h)
	}
	return v
}

func zoneKey(r *front.Request) string {
	return "projects/" + r.Path["project"] + "/managedZones/" + r.Path["managedZone"]
}

func (v *Service) zone(r *front.Request) (string, map[string]any, error) {
	k := zoneKey(r)
	b, ok := v.zones.Get(k)
	if !ok {
		return "", nil, front.NotFound("The 'parameters.managedZone' resource named '%s' does not exist.", r.Path["managedZone"])
	}
	return k, b, nil
}

var (
	zoneNames = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsNames  = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?\.)+$`)
)

func (v *Service) create(_ context.Context, r *front.Request) (any, error) {
	b := store.Clone(r.Body)
	name, dnsName := body.String(b, "name"), body.String(b, "dnsName")
	switch {
	case !zoneNames.MatchString(name):
		return nil, front.Invalid("Invalid value for 'entity.managedZone.name': '%s'", name)
	case !dnsNames.MatchString(dnsName):
		return nil, front.Invalid("Invalid value for 'entity.managedZone.dnsName': '%s'", dnsName)
	case body.String(b, "visibility") != "private":
		return nil, front.Unserved("The local cloud has private zones only.")
	}
	if err := v.checkNetworks(b); err != nil {
		return nil, err
	}
	k := "projects/" + r.Path["project"] + "/managedZones/" + name
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, other := range v.zones.Keys("projects/") {
		switch b, ok := v.zones.Get(other); {
		case !ok || other == k || body.String(b, "dnsName") != dnsName:
		case strings.HasPrefix(other, "projects/"+r.Path["project"]+"/"):
			return nil, front.Invalid("The zone '%s' has the DNS name '%s' already.", body.String(b, "name"), dnsName)
		default: // all instances ask one name server
			return nil, front.Unserved("The local cloud has one zone of a DNS name in all its projects, and '%s' has '%s' already.", other, dnsName)
		}
	}
	b["kind"], b["id"], b["creationTime"] = "dns#managedZone", v.server.Ops().ID(), body.Millis(time.Now())
	b["nameServers"] = []any{"ns-gcp-private.googledomains.com."}
	body.Default(b, "cloudLoggingConfig.kind", "dns#managedZoneCloudLoggingConfig")
	body.Default(b, "privateVisibilityConfig.kind", "dns#managedZonePrivateVisibilityConfig")
	body.Default(b, "description", "")
	if !v.zones.Create(k, b) {
		return nil, front.AlreadyExists("The resource 'entity.managedZone' named '%s' already exists", name)
	}
	for _, record := range []map[string]any{
		{"name": dnsName, "type": "NS", "ttl": 21600.0, "rrdatas": []any{"ns-gcp-private.googledomains.com."}},
		{"name": dnsName, "type": "SOA", "ttl": 21600.0, "rrdatas": []any{"ns-gcp-private.googledomains.com. cloud-dns-hostmaster.google.com. 1 21600 3600 259200 300"}},
	} {
		v.records.Put(recordKey(k, record), shown(record))
	}
	return b, nil
}

// checkNetworks refuses networks that are not there.
func (v *Service) checkNetworks(b map[string]any) error {
	for _, n := range body.Maps(b, "privateVisibilityConfig.networks") {
		n["kind"] = "dns#managedZonePrivateVisibilityConfigNetwork"
		if _, err := services.NetworkKey(v.server, v.store.Collection("networks"), body.String(n, "networkUrl")); err != nil {
			return front.Invalid("Invalid value for 'entity.managedZone.privateVisibilityConfig.networks': '%s' was not found", body.String(n, "networkUrl"))
		}
	}
	return nil
}

func (v *Service) get(_ context.Context, r *front.Request) (any, error) {
	_, b, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func page(r *front.Request, kind, field string, all []map[string]any) (any, error) {
	size, _ := body.Int(map[string]any{"n": r.Query.Get("maxResults")}, "n")
	items, next, ok := body.Page(all, int(size), 1000, r.Query.Get("pageToken"))
	if !ok {
		return nil, front.Invalid("Invalid value for 'parameters.pageToken'")
	}
	answer := map[string]any{"kind": kind, field: append([]map[string]any{}, items...)}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	all := v.zones.List("projects/" + r.Path["project"] + "/managedZones/")
	if name := r.Query.Get("dnsName"); name != "" {
		all = slices.DeleteFunc(all, func(b map[string]any) bool { return body.String(b, "dnsName") != name })
	}
	return page(r, "dns#managedZonesListResponse", "managedZones", all)
}

func (v *Service) patch(_ context.Context, r *front.Request) (any, error) {
	k, old, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	next := store.Clone(old)
	body.Merge(next, store.Clone(r.Body))
	for _, field := range []string{"name", "dnsName", "visibility", "id"} {
		if body.String(next, field) != body.String(old, field) {
			return nil, front.Invalid("'entity.managedZone.%s' cannot be changed", field)
		}
	}
	if err := v.checkNetworks(next); err != nil {
		return nil, err
	}
	v.zones.Put(k, next)
	return map[string]any{
		"kind": "dns#operation", "id": v.server.Ops().ID(), "status": "done", "type": "update", "startTime": body.Millis(time.Now()), "user": "owner@example.com",
		"zoneContext": map[string]any{"oldValue": old, "newValue": next},
	}, nil
}

func (v *Service) delete(_ context.Context, r *front.Request) (any, error) {
	k, b, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	keys := v.records.Keys(k + "/")
	for _, key := range keys {
		if !strings.HasSuffix(key, "/rrsets/"+body.String(b, "dnsName")+"/NS") && !strings.HasSuffix(key, "/rrsets/"+body.String(b, "dnsName")+"/SOA") {
			return nil, &front.Error{Code: 400, Reason: "containerNotEmpty", Status: "FAILED_PRECONDITION", Message: fmt.Sprintf("The resource named '%s' cannot be deleted because it is not empty", r.Path["managedZone"])}
		}
	}
	for _, key := range keys {
		v.records.Delete(key)
	}
	v.zones.Delete(k)
	return nil, nil
}

func recordKey(zone string, record map[string]any) string {
	return zone + "/rrsets/" + body.String(record, "name") + "/" + body.String(record, "type")
}

func shown(record map[string]any) map[string]any {
	b := store.Clone(record)
	b["kind"] = "dns#resourceRecordSet"
	return b
}

// check refuses a record set that its zone cannot have.
func check(zone, record map[string]any) error {
	name, rtype := body.String(record, "name"), body.String(record, "type")
	data := body.Strings(record, "rrdatas")
	within := name == body.String(zone, "dnsName") || strings.HasSuffix(name, "."+body.String(zone, "dnsName"))
	ttl, ok := body.Int(record, "ttl")
	switch {
	case !dnsNames.MatchString(name) || !within:
		return front.Invalid("Invalid value for 'entity.resourceRecordSet.name': '%s'", name)
	case !slices.Contains([]string{"A", "AAAA", "CNAME", "TXT", "MX", "SRV", "PTR", "NS", "SOA"}, rtype):
		return front.Invalid("Invalid value for 'entity.resourceRecordSet.type': '%s'", rtype)
	case ok && ttl < 0:
		return front.Invalid("Invalid value for 'entity.resourceRecordSet.ttl': '%d'", ttl)
	case len(data) == 0 || rtype == "CNAME" && len(data) > 1:
		return front.Invalid("Invalid value for 'entity.resourceRecordSet.rrdatas': %d entries", len(data))
	}
	for _, d := range data {
		a, err := netip.ParseAddr(d)
		if rtype == "A" && (err != nil || !a.Is4()) || rtype == "AAAA" && (err != nil || !a.Is6()) {
			return front.Invalid("Invalid value for 'entity.resourceRecordSet.rrdatas[0]': '%s'", d)
		}
	}
	return nil
}

func (v *Service) createRecord(_ context.Context, r *front.Request) (any, error) {
	k, zone, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	if err := check(zone, r.Body); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	b := shown(r.Body)
	body.Default(b, "ttl", 300.0)
	if !v.records.Create(recordKey(k, b), b) {
		return nil, recordExists(b)
	}
	return b, nil
}

func recordExists(b map[string]any) error {
	return front.AlreadyExists("The resource 'entity.resourceRecordSet' named '%s (%s)' already exists", body.String(b, "name"), body.String(b, "type"))
}

func (v *Service) record(r *front.Request) (string, map[string]any, map[string]any, error) {
	k, zone, err := v.zone(r)
	if err != nil {
		return "", nil, nil, err
	}
	key := k + "/rrsets/" + r.Path["name"] + "/" + r.Path["type"]
	b, ok := v.records.Get(key)
	if !ok {
		return "", nil, nil, front.NotFound("The 'parameters.name' resource named '%s (%s)' does not exist.", r.Path["name"], r.Path["type"])
	}
	return key, zone, b, nil
}

func (v *Service) getRecord(_ context.Context, r *front.Request) (any, error) {
	_, _, b, err := v.record(r)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (v *Service) listRecords(_ context.Context, r *front.Request) (any, error) {
	k, _, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	all := v.records.List(k + "/rrsets/")
	name, rtype := r.Query.Get("name"), r.Query.Get("type")
	all = slices.DeleteFunc(all, func(b map[string]any) bool {
		return name != "" && body.String(b, "name") != name || rtype != "" && body.String(b, "type") != rtype
	})
	return page(r, "dns#resourceRecordSetsListResponse", "rrsets", all)
}

func (v *Service) patchRecord(_ context.Context, r *front.Request) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, zone, old, err := v.record(r)
	if err != nil {
		return nil, err
	}
	next := store.Clone(old)
	body.Merge(next, store.Clone(r.Body))
	if err := check(zone, next); err != nil {
		return nil, err
	}
	if body.String(next, "name") != body.String(old, "name") || body.String(next, "type") != body.String(old, "type") {
		return nil, front.Invalid("The name and type of a record set cannot be changed")
	}
	v.records.Put(key, next)
	return next, nil
}

func (v *Service) deleteRecord(_ context.Context, r *front.Request) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, zone, b, err := v.record(r)
	if err != nil {
		return nil, err
	}
	if t := body.String(b, "type"); body.String(b, "name") == body.String(zone, "dnsName") && (t == "NS" || t == "SOA") {
		return nil, front.Invalid("The record set '%s (%s)' cannot be deleted", body.String(b, "name"), t)
	}
	v.records.Delete(key)
	return map[string]any{}, nil
}

// change makes several changes of records, all or none.
func (v *Service) change(_ context.Context, r *front.Request) (any, error) {
	k, zone, err := v.zone(r)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	after := map[string]map[string]any{}
	for _, key := range v.records.Keys(k + "/rrsets/") {
		b, _ := v.records.Get(key)
		after[key] = b
	}
	for _, d := range body.Maps(r.Body, "deletions") {
		key := recordKey(k, d)
		have, ok := after[key]
		if !ok {
			return nil, front.NotFound("The resource 'entity.change.deletions[0]' named '%s (%s)' does not exist.", body.String(d, "name"), body.String(d, "type"))
		}
		if fmt.Sprint(body.Strings(have, "rrdatas"), body.String(have, "ttl")) != fmt.Sprint(body.Strings(d, "rrdatas"), body.String(d, "ttl")) {
			return nil, front.Precondition("Precondition not met for 'entity.change.deletions[0]'")
		}
		delete(after, key)
	}
	for _, a := range body.Maps(r.Body, "additions") {
		if err := check(zone, a); err != nil {
			return nil, err
		}
		key := recordKey(k, a)
		if after[key] != nil {
			return nil, recordExists(a)
		}
		after[key] = shown(a)
	}
	for _, key := range v.records.Keys(k + "/rrsets/") {
		if after[key] == nil {
			v.records.Delete(key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(after)) {
		v.records.Put(key, after[key])
	}
	done := store.Clone(r.Body)
	done["kind"], done["status"], done["startTime"], done["id"] = "dns#change", "done", body.Millis(time.Now()), fmt.Sprint(v.changes.Len()+1)
	v.changes.Put(k+"/changes/"+body.String(done, "id"), done)
	return done, nil
}

func (v *Service) getChange(_ context.Context, r *front.Request) (any, error) {
	b, ok := v.changes.Get(zoneKey(r) + "/changes/" + r.Path["changeId"])
	if !ok {
		return nil, front.NotFound("The 'parameters.changeId' resource named '%s' does not exist.", r.Path["changeId"])
	}
	return b, nil
}

func (v *Service) listChanges(_ context.Context, r *front.Request) (any, error) {
	if _, _, err := v.zone(r); err != nil {
		return nil, err
	}
	all := v.changes.List(zoneKey(r) + "/changes/")
	slices.Reverse(all)
	return page(r, "dns#changesListResponse", "changes", all)
}

// seen says whether a zone, which is private, answers anybody.
func seen(zone map[string]any) bool {
	return len(body.Maps(zone, "privateVisibilityConfig.networks")) > 0
}

// Lookup gives the records of a name, lower case with its final dot, and whether the name exists in any zone that a network sees.
func (v *Service) Lookup(name, qtype string) (data []string, ttl int, ok bool) {
	for _, key := range v.records.Keys("projects/") {
		zone, rest, _ := strings.Cut(key, "/rrsets/")
		found, rtype, _ := strings.Cut(rest, "/")
		if found != name {
			continue
		}
		if z, _ := v.zones.Get(zone); !seen(z) {
			continue
		}
		ok = true
		if rtype == qtype {
			b, _ := v.records.Get(key)
			n, _ := body.Int(b, "ttl")
			return body.Strings(b, "rrdatas"), int(n), true
		}
	}
	return nil, 0, ok
}

// Zones gives the DNS names of the zones that a network sees, longest first.
func (v *Service) Zones() []string {
	var out []string
	for _, z := range v.zones.List("projects/") {
		if seen(z) {
			out = append(out, body.String(z, "dnsName"))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
	return out
}
