package ops

import (
	"fmt"
	"slices"
	"time"

	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// stays gives the stack's certificates that the load balancer serves and is to serve on, besides the wanted one: until Google has issued
// that, which takes an hour or more, and for ever while the domain's record leads elsewhere, nobody could connect. Gone is what the state names
// and the file does not.
func stays(g *resource.Graph, owner resource.Owner, live map[resource.ID]map[string]any, gone []*resource.Resource, now time.Time) []*resource.Resource {
	var wanted, proxy *resource.Resource
	for _, r := range g.Resources() {
		switch r.Kind {
		case kind.SSLCertificates.Kind:
			wanted = r
		case kind.TargetHTTPSProxies.Kind:
			proxy = r
		}
	}
	if wanted.Body["type"] != "MANAGED" || everywhere(live[wanted.ID()], now) {
		return nil
	}
	served, _ := live[proxy.ID()]["sslCertificates"].([]any)
	var all []*resource.Resource
	for _, link := range served { // in the order in which Google has them
		i := slices.IndexFunc(gone, func(r *resource.Resource) bool {
			return r.Kind == kind.SSLCertificates.Kind && resource.CanonicalLink(fmt.Sprint(link)) == r.Link()
		})
		if i >= 0 && live[gone[i].ID()] != nil && owner.Owns(gone[i], live[gone[i].ID()], nil, nil) {
			all = append(all, gone[i])
		}
	}
	return all
}

// everywhere says whether Google has issued a certificate, and all that serve it have it: that takes up to half an hour more. Google's are good for
// 90 days; where they are not, that they are issued is all that is known.
func everywhere(live map[string]any, now time.Time) bool {
	if status, _ := resource.Lookup(live, "managed.status"); status != "ACTIVE" {
		return false
	}
	expires, err := time.Parse(time.RFC3339, fmt.Sprint(live["expireTime"]))
	return err != nil || now.Sub(expires.AddDate(0, 0, -90)) > time.Hour
}

// serveOn has certificates stay that the plan would delete.
func serveOn(p *plan.Plan, all []*resource.Resource) {
	for _, r := range all {
		p.Leave(r.ID())
		p.Notes = append(p.Notes, fmt.Sprintf("%s is served until Google has issued the new certificate, for which the domain's A record must lead to the stack; the next apply after that removes it.", r.ID()))
	}
}
