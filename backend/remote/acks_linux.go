package remote

import "syscall"

// eager has the kernel acknowledge what comes next at once. A store that sends an
// answer in pieces, and does not turn Nagle's algorithm off, holds each piece back
// until the one before is acknowledged, which a kernel likes to delay by 40 ms
// behind a write (tcp(7), TCP_QUICKACK).
func eager(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}
