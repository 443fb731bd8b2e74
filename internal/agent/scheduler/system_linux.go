package scheduler

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime gives CLOCK_BOOTTIME, which nobody sets, and which goes on while the machine is suspended.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1<<63 - 1 // every lease has ended
	}
	return time.Duration(ts.Nano())
}

// option sets one option of a socket that is not connected yet.
func option(level, name, value int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }), err)
	}
}

// dial connects to Redis. The kernel gives the connection up when something is not confirmed within late: it does not send it
// later, even if this program is not running.
func dial(ctx context.Context, r *net.Resolver, address string, late time.Duration) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout: 5 * time.Second, Resolver: r, Control: option(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, int(late.Milliseconds())),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}
