package compute

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// verbs registers the methods that change one thing of a resource.
func (s *Service) verbs() {
	// set registers a method that replaces fields of a resource by fields of the request.
	set := func(method, collection, opType string, fields ...string) {
		c := s.row(collection)
		s.server.Handle("compute."+method, func(_ context.Context, r *front.Request) (any, error) {
			if op, ok := s.server.Ops().Replayed(r); ok {
				return op, nil
			}
			return s.change(c, r, c.key(r), opType, c.update, func(old map[string]any) (map[string]any, error) {
				next := store.Clone(old)
				for _, f := range fields {
					if v := r.Body[f]; v != nil {
						next[f] = v
					} else {
						delete(next, f)
					}
				}
				return next, nil
			})
		})
	}
	set("targetHttpsProxies.setUrlMap", "targetHttpsProxies", "setUrlMap", "urlMap")
	set("targetHttpsProxies.setSslCertificates", "targetHttpsProxies", "setSslCertificates", "sslCertificates")
	set("targetHttpsProxies.setSslPolicy", "targetHttpsProxies", "setSslPolicy", "sslPolicy")
	set("targetHttpsProxies.setQuicOverride", "targetHttpsProxies", "setQuicOverride", "quicOverride")
	set("targetHttpProxies.setUrlMap", "targetHttpProxies", "setUrlMap", "urlMap")
	set("globalForwardingRules.setTarget", "forwardingRules", "SetTarget", "target")
	set("backendServices.setSecurityPolicy", "backendServices", "setSecurityPolicy", "securityPolicy")
	set("subnetworks.setPrivateIpGoogleAccess", "subnetworks", "setPrivateIpGoogleAccess", "privateIpGoogleAccess")

	for _, name := range []string{"forwardingRules", "addresses"} {
		c := s.row(name)
		s.server.Handle("compute."+c.method+".setLabels", func(_ context.Context, r *front.Request) (any, error) {
			key := c.parent(r) + r.Path["resource"]
			return s.change(c, r, key, "setLabels", 2*time.Second, func(old map[string]any) (map[string]any, error) {
				if sent, _ := r.Body["labelFingerprint"].(string); sent != old["labelFingerprint"] {
					return nil, front.Precondition("Labels fingerprint either invalid or resource labels have changed")
				}
				next := store.Clone(old)
				next["labels"] = r.Body["labels"]
				next["labelFingerprint"] = store.Fingerprint(map[string]any{"labels": r.Body["labels"]}, time.Now().UnixNano())
				return next, nil
			})
		})
	}

	subnets := s.row("subnetworks")
	s.server.Handle("compute.subnetworks.expandIpCidrRange", func(_ context.Context, r *front.Request) (any, error) {
		return s.change(subnets, r, subnets.key(r), "expandIpCidrRange", 10*time.Second, func(old map[string]any) (map[string]any, error) {
			was, _ := netip.ParsePrefix(fmt.Sprint(old["ipCidrRange"]))
			now, err := netip.ParsePrefix(fmt.Sprint(r.Body["ipCidrRange"]))
			if err != nil || now.Bits() > was.Bits() || !now.Masked().Contains(was.Addr()) {
				return nil, bad("ipCidrRange", r.Body["ipCidrRange"], "The range must contain the present one.")
			}
			next := store.Clone(old)
			next["ipCidrRange"] = now.Masked().String()
			return next, nil
		})
	})

	networks := s.row("networks")
	s.server.Handle("compute.networks.removePeering", func(_ context.Context, r *front.Request) (any, error) {
		return s.change(networks, r, networks.key(r), "removePeering", 10*time.Second, func(old map[string]any) (map[string]any, error) {
			name := fmt.Sprint(r.Body["name"])
			next := store.Clone(old)
			peerings, _ := old["peerings"].([]any)
			var kept []any
			for _, p := range peerings {
				if m, ok := p.(map[string]any); ok && m["name"] != name {
					kept = append(kept, m)
				}
			}
			if len(kept) == len(peerings) {
				return nil, front.Invalid("There is no peering '%s' in network '%s'.", name, old["name"])
			}
			if delete(next, "peerings"); kept != nil {
				next["peerings"] = kept
			}
			return next, nil
		})
	})

	backends := s.row("backendServices")
	s.server.Handle("compute.backendServices.getHealth", func(_ context.Context, r *front.Request) (any, error) {
		key := backends.key(r)
		body, ok := s.Get(key)
		if !ok {
			return nil, front.ResourceNotFound(key)
		}
		group := referred(relative(r.Path["project"], fmt.Sprint(r.Body["group"])))
		list, _ := body["backends"].([]any)
		attached := false
		for _, b := range list {
			if m, ok := b.(map[string]any); ok && referred(relative("", fmt.Sprint(m["group"]))) == group {
				attached = true
			}
		}
		if !attached {
			return nil, bad("group", r.Body["group"], "The group is not a backend of the service.")
		}
		answer := map[string]any{"kind": "compute#backendServiceGroupHealth"}
		if s.fleet != nil {
			if health := s.fleet.Health(group); len(health) > 0 {
				answer["healthStatus"] = health
			}
		}
		return answer, nil
	})
	maps := s.row("urlMaps")
	s.server.Handle("compute.urlMaps.validate", func(_ context.Context, r *front.Request) (any, error) {
		body, _ := r.Body["resource"].(map[string]any)
		err := s.checkRefs(maps, r.Path["project"], body)
		if err == nil {
			err = fillURLMap(s, r, maps.key(r), body, nil)
		}
		if err != nil {
			return map[string]any{"result": map[string]any{"loadSucceeded": false, "loadErrors": []string{err.Error()}}}, nil
		}
		return map[string]any{"result": map[string]any{"loadSucceeded": true, "testPassed": true}}, nil
	})
}
