//go:build !linux

package sockets

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

var errSystem = errors.New("instances run Linux")

// ListenEarly is Linux's.
func ListenEarly(context.Context, netip.AddrPort) (net.Listener, error) { return nil, errSystem }

// Device is Linux's.
func Device(net.Conn) (string, error) { return "", errSystem }
