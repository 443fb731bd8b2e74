//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/difyup/difyup/internal/fault"
)

// Use is what an address is for. It is the third byte of the addresses, so that a person who reads 127.64.2.1 knows.
type Use byte

// The uses of addresses.
const (
	LoadBalancer Use = 1
	Database     Use = 2
	Redis        Use = 3
	Instance     Use = 16 // and all above
)

// The blocks a cloud may take, 127.first.0.0/16 to 127.last.0.0/16.
const (
	firstBlock = 64
	lastBlock  = 250
	claimPort  = 17064 // bound on 127.S.0.1 by whoever has the block
)

// Net is a block of loopback addresses, 127.S.0.0/16, that belongs to one local cloud. It is safe for concurrent use.
type Net struct {
	block byte
	claim net.Listener

	mu    sync.Mutex
	taken map[netip.Addr]bool
}

// Claim takes the first block that no other local cloud has.
func Claim() (*Net, error) {
	var last error
	for s := firstBlock; s <= lastBlock; s++ {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.%d.0.1:%d", s, claimPort))
		if err != nil {
			last = err
			continue
		}
		return &Net{block: byte(s), claim: l, taken: map[netip.Addr]bool{}}, nil
	}
	return nil, &fault.Fault{
		Summary: "No loopback addresses are free",
		Detail:  fmt.Sprintf("The local cloud takes one of the blocks 127.%d.0.0/16 to 127.%d.0.0/16, and could take none: %v.", firstBlock, lastBlock, last),
		Remedy:  "End local clouds that are not needed:\n    difyup local down",
		Cause:   last,
	}
}

// API is where Google's APIs listen.
func (n *Net) API() netip.Addr { return netip.AddrFrom4([4]byte{127, n.block, 0, 1}) }

// DNS is where the name server listens.
func (n *Net) DNS() netip.Addr { return netip.AddrFrom4([4]byte{127, n.block, 0, 2}) }

// Block gives the block.
func (n *Net) Block() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, n.block, 0, 0}), 16)
}

// Addr takes the lowest free address for a use.
func (n *Net) Addr(use Use) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := use
	if use == Instance {
		last = 250
	}
	for third := use; third <= last; third++ {
		for fourth := 1; fourth <= 250; fourth++ {
			a := netip.AddrFrom4([4]byte{127, n.block, byte(third), byte(fourth)})
			if !n.taken[a] {
				n.taken[a] = true
				return a, nil
			}
		}
	}
	return netip.Addr{}, errors.New("the local cloud has no address left for this")
}

// unused gives an error if somebody listens where a server is about to: that server would end, and its first client, with
// the server's password, would be the stranger's.
func unused(ctx context.Context, addr netip.Addr, port uint16) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return fmt.Errorf("%w: another program listens there, or at every address of this machine; end it, or have it listen at 127.0.0.1 alone (ss -ltnp 'sport = :%d' shows it)", err, port)
	}
	return l.Close()
}

// Release gives an address back.
func (n *Net) Release(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, a)
}

// Close gives the block back.
func (n *Net) Close() error { return n.claim.Close() }
