//go:build !linux

package app

import "syscall"

// keepAlive leaves a listening socket as it is: only Linux hands the options on
// to what is accepted.
func keepAlive(_, _ string, _ syscall.RawConn) error { return nil }
