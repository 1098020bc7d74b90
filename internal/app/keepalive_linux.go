package app

import (
	"errors"
	"syscall"
)

// A peer that does not answer for two minutes is asked every 30 s, five times.
const (
	keepAliveIdle     = 120 // s
	keepAliveInterval = 30  // s
	keepAliveCount    = 5
)

// keepAlive sets up a listening socket; what it accepts inherits the options
// (socket(7), tcp(7)).
func keepAlive(_, _ string, c syscall.RawConn) error {
	var errs []error
	err := c.Control(func(fd uintptr) {
		errs = append(errs, syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1))
		errs = append(errs, syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, keepAliveIdle))
		errs = append(errs, syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, keepAliveInterval))
		errs = append(errs, syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepAliveCount))
	})
	return errors.Join(append(errs, err)...)
}
