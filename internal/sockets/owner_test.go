package sockets

import (
	"net/netip"
	"strings"
	"testing"
)

// TestSocket reads the kernel's tables, as machines of the usual byte order write them.
func TestSocket(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	row := func(local, remote, state, uid, inode string) string {
		return "   1: " + local + " " + remote + " " + state + " 00000000:00000000 00:00000000 00000000  " + uid + "        0 " + inode + " 1 00000000cc3dc3b2 20 4 30 10 -1\n"
	}
	peer, here := netip.MustParseAddrPort("127.0.0.1:43210"), netip.MustParseAddrPort("127.64.16.1:8080")
	const p, h = "0100007F:A8CA", "0110407F:1F90"
	for _, tc := range []struct {
		name, rows string
		uid        int
		found      bool
	}{
		{"nothing", "", 0, false},
		{"the server's own end", row(h, p, "01", "0", "5"), 0, false},
		{"the peer's end", row(h, p, "01", "0", "5") + row(p, h, "01", "1000", "6"), 1000, true},
		{"root", row(p, h, "01", "0", "6"), 0, true},
		{"a peer that speaks IPv6", row("0000000000000000FFFF0000"+p, "0000000000000000FFFF0000"+h, "01", "1001", "6"), 1001, true},
		{"closed meanwhile", row(p, h, "01", "0", "0"), 0, false},
		{"being closed", row(p, h, "06", "0", "0"), 0, false},
		{"still connecting", row(p, h, "02", "1000", "6"), 0, false},
		{"another port", row("0100007F:A8CB", h, "01", "1000", "6"), 0, false},
		{"another address", row("0200007F:A8CA", h, "01", "1000", "6"), 0, false},
		{"another server", row(p, "0110407F:1F91", "01", "1000", "6"), 0, false},
		{"a line cut off", "   1: " + p + " " + h + " 01", 0, false},
	} {
		uid, found, err := socket(strings.NewReader(head+tc.rows), peer, here)
		if uid != tc.uid || found != tc.found || err != nil {
			t.Errorf("%s: %d, %t, %v; want %d, %t", tc.name, uid, found, err, tc.uid, tc.found)
		}
	}
	if _, _, err := socket(strings.NewReader(head+row(p, h, "01", "?", "6")), peer, here); err == nil {
		t.Error("a user that is no number is taken")
	}
}
