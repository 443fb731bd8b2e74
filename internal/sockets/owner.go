package sockets

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// The kernel's tables of TCP sockets. One of a client that speaks IPv6 is in the second, with a mapped address.
const tcpTable, tcp6Table = "/proc/net/tcp", "/proc/net/tcp6"

// looks is how often a socket is looked for. The kernel gives its tables in pieces, between which a socket may move from
// the piece to come to one that was given.
const looks = 3

// UserOf gives the user of this machine whose socket at peer is connected to here.
func UserOf(peer, here netip.AddrPort) (int, error) {
	for range looks {
		for _, table := range []string{tcpTable, tcp6Table} {
			f, err := os.Open(table)
			if os.IsNotExist(err) && table == tcp6Table {
				continue // a kernel without IPv6
			}
			if err != nil {
				return 0, err
			}
			uid, found, err := socket(f, peer, here)
			f.Close()
			if err != nil || found {
				return uid, err
			}
		}
	}
	return 0, fmt.Errorf("the kernel knows no user of the connection from %s", peer)
}

// socket looks in a table for the open socket of a connection. That of a socket whose process has closed it is said to be
// root's, and counts for nobody's: established, with an inode.
func socket(table io.Reader, peer, here netip.AddrPort) (uid int, found bool, err error) {
	const established, fields = "01", 10
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < fields || f[3] != established || f[9] == "0" || !is(f[1], peer) || !is(f[2], here) {
			continue
		}
		if uid, err = strconv.Atoi(f[7]); err != nil {
			return 0, false, fmt.Errorf("read %s: %w", tcpTable, err)
		}
		return uid, true, nil
	}
	return 0, false, lines.Err()
}

// ListenerOf gives the user of this machine whose socket takes what connects to an address: one that listens there, else one that listens at
// every address. Found is false where nobody does.
func ListenerOf(at netip.AddrPort) (uid int, found bool, err error) {
	for range looks {
		everywhere, wide := 0, false
		for _, table := range []string{tcpTable, tcp6Table} {
			f, err := os.Open(table)
			if os.IsNotExist(err) && table == tcp6Table {
				continue
			}
			if err != nil {
				return 0, false, err
			}
			here, all, err := listeners(f, at)
			f.Close()
			if err != nil {
				return 0, false, err
			}
			if here != nil {
				return *here, true, nil
			}
			if all != nil {
				everywhere, wide = *all, true
			}
		}
		if wide {
			return everywhere, true, nil
		}
	}
	return 0, false, nil
}

// listeners looks in a table for who listens at an address, and who at every address. Those who listen come first in it, before thousands, perhaps,
// of connections.
func listeners(table io.Reader, at netip.AddrPort) (here, everywhere *int, err error) {
	const listening, fields = "0A", 10
	port := fmt.Sprintf(":%04X", at.Port())
	for lines := bufio.NewScanner(table); ; {
		if !lines.Scan() {
			return here, everywhere, lines.Err()
		}
		f := strings.Fields(lines.Text())
		if len(f) >= fields && len(f[3]) == len(listening) && f[3] != listening && f[0] != "sl" {
			return here, everywhere, nil
		}
		if len(f) < fields || f[3] != listening || !strings.HasSuffix(f[1], port) {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("read %s: %w", tcpTable, err)
		case is(f[1], at):
			here = &uid
		case strings.Trim(strings.TrimSuffix(f[1], port), "0") == "":
			everywhere = &uid
		}
	}
}

// is says whether a table's text is an IPv4 address, plain or mapped into IPv6, and a port: "0100007F:0050", in words of
// the machine's byte order.
func is(text string, at netip.AddrPort) bool {
	addr := at.Addr().Unmap()
	if !addr.Is4() {
		return false
	}
	raw := addr.As4()
	port := fmt.Sprintf(":%04X", at.Port())
	four := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(raw[:]))
	mapped := fmt.Sprintf("0000000000000000%08X", binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff}))
	return text == four+port || text == mapped+four+port
}
