package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ListenEarly listens at an address, which the machine need not have yet: that of a network of containers comes with the first of
// them.
func ListenEarly(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }), err)
	}}
	return config.Listen(ctx, "tcp4", at.String())
}

// ipPktOptions is IP_PKTOPTIONS of <linux/in.h>.
const ipPktOptions = 9

// Device gives the name of the network device by which a connection was made to us. The addresses of a machine can be reached by
// any of its devices, from senders with any address: which one it was they do not tell.
func Device(c net.Conn) (string, error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return "", err
	}
	var (
		index int
		fails error
	)
	if err := raw.Control(func(fd uintptr) { index, fails = arrival(int(fd)) }); err != nil || fails != nil {
		return "", errors.Join(err, fails)
	}
	device, err := net.InterfaceByIndex(index)
	if err != nil {
		return "", fmt.Errorf("the device %d of a connection: %w", index, err)
	}
	return device.Name, nil
}

// arrival gives the index of the device by which the client's part of the handshake came, which the kernel keeps.
func arrival(fd int) (int, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1); err != nil {
		return 0, fmt.Errorf("setsockopt IP_PKTINFO: %w", err)
	}
	var buf [256]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, ipPktOptions, uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("getsockopt IP_PKTOPTIONS: %w", errno)
	}
	messages, err := unix.ParseSocketControlMessage(buf[:size])
	if err != nil {
		return 0, fmt.Errorf("getsockopt IP_PKTOPTIONS: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			return int(int32(binary.NativeEndian.Uint32(m.Data))), nil
		}
	}
	return 0, errors.New("the kernel does not say by which device a connection came")
}
