package frontdoor

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/difyup/difyup/internal/dify"
)

// routed gives the path of a request by which it is routed, or "" for one that is refused. What is forwarded is the path as
// it came, and the services decode it, merge slashes and follow dots each in their own way: so nothing may pass for which
// one of these ways leads elsewhere than ours. No page and no API of Dify's has such a path.
func routed(u *url.URL) string {
	p := u.Path
	if !strings.HasPrefix(p, "/") { // "*", or the authority of a CONNECT
		return ""
	}
	if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return ""
	}
	for part := range strings.SplitSeq(p, "/") {
		// "..;x" is ".." to servers that know path parameters.
		if name, _, _ := strings.Cut(part, ";"); name == "." || name == ".." {
			return ""
		}
	}
	return path.Clean(p) // without dots: slashes are merged
}

// shown gives as much of a routed path as may be read by others: below some routes the path itself is what lets one in.
func shown(at string) string {
	r := dify.RouteFor(at)
	switch {
	case at == "":
		return "(refused)"
	case r.Open && at != r.Prefix:
		return r.Prefix + "/…"
	}
	return at
}

// dropped are headers by which a request could say of itself what the load balancer says, in ways that Dify or its
// frameworks listen to.
var dropped = []string{
	"Forwarded", "X-Real-Ip", "Cf-Connecting-Ip", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip",
	"X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Original-Url", "X-Rewrite-Url",
}

// client gives the address that the load balancer saw: of the X-Forwarded-For it sends, the last entry but one, before its
// own. What stands before that, the client wrote. Source: cloud.google.com/load-balancing/docs/https#x-forwarded-for_header.
// A request that did not come through a load balancer has the address of its connection.
func client(r *http.Request) string {
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if len(chain) >= 2 {
		if a, err := netip.ParseAddr(strings.TrimSpace(chain[len(chain)-2])); err == nil {
			return a.Unmap().String()
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
