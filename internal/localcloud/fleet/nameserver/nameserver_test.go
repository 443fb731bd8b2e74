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
	s, err := nameserver.Serve(netip.MustParseAddr("127.0.0.1"), lookup, slog.New(slog.DiscardHandler))
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
