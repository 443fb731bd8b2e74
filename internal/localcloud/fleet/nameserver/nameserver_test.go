package nameserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/fleet/nameserver"
)

func TestAnswersOverBothTransports(t *testing.T) {
	many := make([]string, 60)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.0.%d", i)
	}
	lookup := func(name, qtype string) ([]string, int, nameserver.Answer) {
		switch {
		case !strings.HasSuffix(name, ".demo.internal."):
			return nil, 0, nameserver.Foreign
		case name == "db.demo.internal." && qtype == "A":
			return []string{"127.64.2.1"}, 30, nameserver.Found
		case name == "many.demo.internal." && qtype == "A":
			return many, 30, nameserver.Found
		case name == "alias.demo.internal." && qtype == "CNAME":
			return []string{"db.demo.internal."}, 30, nameserver.Found
		case name == "db.demo.internal.", name == "alias.demo.internal.", name == "many.demo.internal.":
			return nil, 0, nameserver.Found
		}
		return nil, 0, nameserver.Missing
	}
	s, err := nameserver.Serve(netip.MustParseAddr("127.0.0.1"), nameserver.Options{Lookup: lookup, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, asked, _ string) (net.Conn, error) {
			var d net.Dialer
			if asked == "tcp" { // the resolver itself goes on with TCP after a truncated answer
				return d.DialContext(ctx, "tcp", s.Addr().String())
			}
			return d.DialContext(ctx, network, s.Addr().String())
		}}
		for _, tc := range []struct {
			name     string
			want     []string
			notFound bool
			fails    bool
		}{
			{name: "db.demo.internal.", want: []string{"127.64.2.1"}},
			{name: "DB.demo.internal.", want: []string{"127.64.2.1"}},
			{name: "alias.demo.internal.", want: []string{"127.64.2.1"}},
			{name: "metadata.google.internal.", want: []string{"169.254.169.254"}},
			{name: "many.demo.internal.", want: many},
			{name: "none.demo.internal.", fails: true, notFound: true},
			{name: "example.com.", fails: true},
		} {
			got, err := r.LookupHost(t.Context(), tc.name)
			if d := cmp.Diff(len(tc.want), len(got)); d != "" || len(got) == 1 && got[0] != tc.want[0] {
				t.Errorf("%s %s = %v", network, tc.name, got)
			}
			var de *net.DNSError
			if (err != nil) != tc.fails || tc.notFound && (!errors.As(err, &de) || !de.IsNotFound) {
				t.Errorf("%s %s: %v", network, tc.name, err)
			}
		}
	}
}

// TestAsksOutside asks for names that only another server knows, by way of one that does not answer.
func TestAsksOutside(t *testing.T) {
	many := make([]string, 60)
	for i := range many {
		many[i] = fmt.Sprintf("192.0.2.%d", i)
	}
	serve := func(lookup nameserver.Lookup, outside ...netip.AddrPort) *nameserver.Server {
		s, err := nameserver.Serve(netip.MustParseAddr("127.0.0.1"), nameserver.Options{Lookup: lookup, Outside: outside, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	world := serve(func(name, qtype string) ([]string, int, nameserver.Answer) {
		switch {
		case name == "www.example.com." && qtype == "A":
			return []string{"192.0.2.1"}, 30, nameserver.Found
		case name == "many.example.com." && qtype == "A":
			return many, 30, nameserver.Found
		case name == "www.example.com.", name == "many.example.com.":
			return nil, 0, nameserver.Found
		}
		return nil, 0, nameserver.Missing
	})
	l, err := net.Listen("tcp", "127.0.0.1:0") // for UDP nobody is there
	if err != nil {
		t.Fatal(err)
	}
	dead := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	inside := func(name, _ string) ([]string, int, nameserver.Answer) {
		if strings.HasSuffix(name, ".internal.") {
			return nil, 0, nameserver.Missing
		}
		return nil, 0, nameserver.Foreign
	}
	for _, tc := range []struct {
		server *nameserver.Server
		name   string
		want   int
		says   string
	}{
		{serve(inside, dead, world.Addr()), "www.example.com.", 1, ""},
		{serve(inside, dead, world.Addr()), "many.example.com.", 60, ""},
		{serve(inside, dead, world.Addr()), "none.example.com.", 0, "no such host"},
		{serve(inside, dead, world.Addr()), "db.demo.internal.", 0, "no such host"},
		{serve(inside, dead), "www.example.com.", 0, "server misbehaving"},
		{serve(inside), "www.example.com.", 0, "server misbehaving"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, asked, _ string) (net.Conn, error) {
				if asked == "udp" {
					asked = network
				}
				return (&net.Dialer{}).DialContext(ctx, asked, tc.server.Addr().String())
			}}
			got, err := r.LookupHost(t.Context(), tc.name)
			if len(got) != tc.want || (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s over %s: %v %v; want %d addresses, %q", tc.name, network, got, err, tc.want, tc.says)
			}
		}
	}
	got := nameserver.Servers("# x\nsearch a.example\nnameserver 127.64.0.2\nnameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\noptions edns0\n", netip.MustParsePrefix("127.64.0.0/16"))
	if d := cmp.Diff("[10.0.0.1:53 [fe80::1%eth0]:53]", fmt.Sprint(got)); d != "" {
		t.Error(d)
	}
}
