package balancer

import (
	"crypto/tls"
	"net/netip"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/probe"
	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// A table is everything requests are forwarded by, at one moment. It does not change.
type table struct {
	rules    map[string]*rule    // by key
	services map[string]*service // by key
}

// rule is a forwarding rule with its proxy.
type rule struct {
	key, name string
	addr      netip.Addr
	port      int
	tls       *tls.Config // nil for HTTP
	keepAlive time.Duration
	urls      *wire.URLMap // nil when the proxy's map is not there
	project   string
}

// service is a backend service with its instances, healthy or not.
type service struct {
	wire.BackendService
	key       string
	timeout   time.Duration
	probed    bool // it has a health check
	endpoints []endpoint
}

// endpoint is an instance as a backend: what one health check and one port make of it.
type endpoint struct {
	Endpoint
	port   int
	weight float64 // the capacity scaler of its group; 0 gets no requests
	check  probe.Check
}

// build reads the table from the resources.
func (b *Balancer) build() *table {
	t := &table{rules: map[string]*rule{}, services: map[string]*service{}}
	for _, fr := range wire.List[wire.ForwardingRule](b.opts.Resources, "forwardingRules") {
		key := wire.Key(fr.SelfLink)
		addr, err := netip.ParseAddr(fr.Address)
		proxyKind := wire.Kind(wire.Key(fr.Target))
		if err != nil || fr.Port() == 0 || proxyKind != "targetHttpProxies" && proxyKind != "targetHttpsProxies" {
			continue
		}
		r := &rule{key: key, name: fr.Name, addr: addr, port: fr.Port(), keepAlive: 610 * time.Second, project: wire.Part(key, "projects")}
		proxy, ok := wire.Get[wire.TargetProxy](b.opts.Resources, fr.Target)
		if ok && proxy.KeepAlive > 0 {
			r.keepAlive = time.Duration(proxy.KeepAlive) * time.Second
		}
		if m, ok := wire.Get[wire.URLMap](b.opts.Resources, proxy.URLMap); ok {
			r.urls = &m
		}
		if proxyKind == "targetHttpsProxies" {
			r.tls = b.tlsConfig(proxy)
		}
		t.rules[key] = r
	}
	for _, bs := range wire.List[wire.BackendService](b.opts.Resources, "backendServices") {
		s := &service{BackendService: bs, key: wire.Key(bs.SelfLink), timeout: time.Duration(bs.Timeout) * time.Second}
		if bs.Timeout == 0 {
			s.timeout = 30 * time.Second
		}
		var hc wire.HealthCheck
		if len(bs.HealthChecks) > 0 {
			hc, s.probed = wire.Get[wire.HealthCheck](b.opts.Resources, bs.HealthChecks[0])
		}
		for _, backend := range bs.Backends {
			// A backend names the group; its ports and instances belong to the manager of the same name.
			manager := strings.Replace(wire.Key(backend.Group), "/instanceGroups/", "/instanceGroupManagers/", 1)
			g, ok := wire.Get[wire.GroupManager](b.opts.Resources, manager)
			if !ok {
				continue
			}
			named := func(name string) int {
				if name == "" {
					name = bs.PortName
				}
				for _, p := range g.NamedPorts {
					if p.Name == name {
						return p.Port
					}
				}
				return 80
			}
			e := endpoint{port: named(""), weight: 1, check: probe.From(hc, b.opts.TimeScale, named)}
			if backend.Capacity != nil {
				e.weight = *backend.Capacity
			}
			for _, member := range b.opts.Endpoints(manager) {
				e.Endpoint = member
				s.endpoints = append(s.endpoints, e)
			}
		}
		sort.Slice(s.endpoints, func(i, j int) bool { return s.endpoints[i].Instance < s.endpoints[j].Instance })
		t.services[s.key] = s
	}
	return t
}

// A route is what a URL map decides: a redirect or a backend service.
type route struct {
	service  string // link
	redirect *wire.Redirect
}

// choose follows a URL map: the host rule with the best match, then in its matcher the longest path that matches.
func choose(m *wire.URLMap, host, urlPath string) (route, bool) {
	fallback := route{m.DefaultService, m.DefaultRedirect}
	matcher := matcherFor(m, host)
	if matcher == nil {
		return fallback, fallback.service != "" || fallback.redirect != nil
	}
	best, found := -1, route{matcher.DefaultService, matcher.DefaultRedirect}
	for _, rule := range matcher.PathRules {
		for _, p := range rule.Paths {
			if n, ok := matchPath(p, urlPath); ok && n > best {
				best, found = n, route{rule.Service, rule.Redirect}
			}
		}
	}
	return found, found.service != "" || found.redirect != nil
}

func matcherFor(m *wire.URLMap, host string) *wire.PathMatcher {
	host = strings.ToLower(host)
	best, name := -1, ""
	for _, rule := range m.HostRules {
		for _, h := range rule.Hosts {
			h = strings.ToLower(h)
			// An exact host is better than any pattern, a longer pattern better than a shorter one.
			score := -1
			switch {
			case h == host:
				score = 1 << 20
			case h == "*", strings.HasPrefix(h, "*") && strings.HasSuffix(host, h[1:]):
				score = len(h)
			}
			if score > best {
				best, name = score, rule.PathMatcher
			}
		}
	}
	i := slices.IndexFunc(m.PathMatchers, func(p wire.PathMatcher) bool { return p.Name == name })
	if best < 0 || i < 0 {
		return nil
	}
	return &m.PathMatchers[i]
}

// matchPath tells how well a path rule ("/a", "/a/*") fits: its length, exact ones being better than patterns.
func matchPath(pattern, p string) (int, bool) {
	if prefix, ok := strings.CutSuffix(pattern, "/*"); ok {
		return 2 * len(prefix), p == prefix || strings.HasPrefix(p, prefix+"/")
	}
	return 2*len(pattern) + 1, p == pattern
}

// location gives where a redirect leads, and its status. httpsPort is where the same address serves HTTPS: on this
// machine that may not be 443.
func location(r *wire.Redirect, scheme, host, urlPath, query string, httpsPort int) (string, int) {
	name, port := splitHost(host)
	if r.HTTPS && scheme == "http" {
		scheme, port = "https", ""
		if httpsPort != 443 && httpsPort != 0 {
			port = itoa(httpsPort)
		}
	}
	if r.Host != "" {
		name = r.Host
	}
	switch {
	case r.Path != "":
		urlPath = r.Path
	case r.Prefix != "":
		urlPath = path.Join(r.Prefix, urlPath)
	}
	target := scheme + "://" + name
	if port != "" {
		target += ":" + port
	}
	target += urlPath
	if query != "" && !r.Strip {
		target += "?" + query
	}
	code := 301
	switch r.Code {
	case "FOUND":
		code = 302
	case "SEE_OTHER":
		code = 303
	case "TEMPORARY_REDIRECT":
		code = 307
	case "PERMANENT_REDIRECT":
		code = 308
	}
	return target, code
}
