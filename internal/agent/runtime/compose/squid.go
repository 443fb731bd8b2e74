package compose

import (
	"fmt"
	"net"
	"strings"

	"github.com/difyup/difyup/internal/dify"
)

// forbidden gives the ranges that nobody reaches through the proxy: this machine, the metadata server, private networks, and
// all that is no address of somebody on the internet. IPv4 addresses written as IPv6 ones are IPv4 ones to squid; the ranges
// that translate the one into the other are here.
func forbidden() []string {
	return []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/128", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8",
	}
}

// squid gives the configuration of the SSRF proxy. It lets the instance's containers out to the internet, to the ports that
// the web has, and to nothing that is near but what the user names, each "HOST:PORT". Names are resolved before the addresses are looked at.
func squid(named []string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by difyup's agent.")
	line("http_port %d", dify.SSRFProxy.Port())
	line("acl containers src %s %s", dify.Subnets()[dify.Outward], dify.Subnets()[dify.Inward])
	for _, r := range forbidden() {
		line("acl near dst %s", r)
	}
	// -n: of an address, no name is asked for, which would keep the request waiting.
	line("acl private dstdomain -n .internal .metadata.goog .local .localhost")
	line("acl itself url_regex -i ^cache_object:")
	line("acl web port 80 443 1025-65535")
	line("acl tls port 443")
	line("acl CONNECT method CONNECT")
	line("http_access deny manager")
	line("http_access deny itself")
	line("http_access deny to_localhost")
	line("acl metadata dst 169.254.0.0/16")
	line("http_access deny metadata") // whatever a name says
	for i, at := range named {
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			continue // an address without a port leads nowhere
		}
		// As it is written, an address too: a name of somebody's may lead there and elsewhere.
		line("acl named%d dstdomain -n %s", i, host)
		line("acl named%d-port port %s", i, port)
		line("http_access allow containers named%d named%d-port", i, i)
	}
	line("http_access deny private")
	line("http_access deny near")
	line("http_access deny !web")
	line("http_access deny CONNECT !tls")
	line("http_access allow containers")
	line("http_access deny all")
	// It keeps nothing, tells nothing, and asks nobody else.
	line("cache deny all")
	line("cache_mem 8 MB")
	line("access_log none")
	line("forwarded_for delete")
	// Dify knows a refusal by squid in Server or Via. Every answer would have the latter: a server's own 401 and 403 as well.
	line("reply_header_access Via deny all")
	line("visible_hostname %s", dify.SSRFProxy)
	line("httpd_suppress_version_string on")
	line("never_direct deny all")
	line("icp_port 0")
	line("htcp_port 0")
	line("pinger_enable off")
	// Of Docker's limit of files, a billion, squid would make a table.
	line("max_filedescriptors 8192")
	line("shutdown_lifetime 1 second")
	return b.String()
}
