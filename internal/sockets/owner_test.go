package sockets

import (
	"io"
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

// TestListeners finds who listens at an address in the kernel's tables, and who at all.
func TestListeners(t *testing.T) {
	at := netip.MustParseAddrPort("127.64.16.1:8080")
	row := func(local, state, uid string) string {
		return "   1: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000  " + uid + "        0 7 1 00000000cc3dc3b2 20 4 30 10 -1\n"
	}
	const here, all = "0110407F:1F90", "00000000:1F90"
	for _, tc := range []struct {
		name, rows       string
		here, everywhere int // -1 = nobody
	}{
		{"nobody", row("0110407F:1F91", "0A", "1000") + row("0200407F:1F90", "0A", "1000") + row(here, "01", "1000"), -1, -1},
		{"here", row(here, "0A", "1000"), 1000, -1},
		{"root, by IPv6", row("0000000000000000FFFF0000"+here, "0A", "0"), 0, -1},
		{"everywhere", row(all, "0A", "1001"), -1, 1001},
		{"everywhere, by IPv6 too", row("00000000000000000000000000000000:1F90", "0A", "1001"), -1, 1001},
		{"both", row(all, "0A", "1001") + row(here, "0A", "1000"), 1000, 1001},
	} {
		a, b, err := listeners(strings.NewReader("head\n"+tc.rows), at)
		got := []int{-1, -1}
		for i, uid := range []*int{a, b} {
			if uid != nil {
				got[i] = *uid
			}
		}
		if err != nil || got[0] != tc.here || got[1] != tc.everywhere {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
}

// endless is a table that has no end of connections after those who listen.
type endless struct{ rows int }

func (e *endless) Read(p []byte) (int, error) {
	e.rows++
	return copy(p, "   1: 0110407F:1F90 0100007F:A8CA 06 00000000:00000000 00:00000000 00000000  1000        0 0 1 00000000cc3dc3b2 20 4 30 10 -1\n"), nil
}

// TestListenersComeFirst checks that connections, of which there may be many thousands, are not read through.
func TestListenersComeFirst(t *testing.T) {
	many := &endless{}
	here, _, err := listeners(io.MultiReader(strings.NewReader("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"+
		"   0: 0110407F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 7 1 00000000cc3dc3b2 20 4 30 10 -1\n"), many), netip.MustParseAddrPort("127.64.16.1:8080"))
	if err != nil || here == nil || *here != 1000 || many.rows > 10 {
		t.Errorf("%v, %v, after %d rows of connections", here, err, many.rows)
	}
}
