//go:build !linux

package scheduler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

var errSystem = errors.New("instances run Linux")

func bootTime() time.Duration { return 1<<63 - 1 } // every lease has ended

func listen(context.Context, netip.AddrPort) (net.Listener, error) { return nil, errSystem }

func dial(context.Context, *net.Resolver, string, time.Duration) (*net.TCPConn, error) {
	return nil, errSystem
}
