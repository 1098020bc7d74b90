//go:build !linux

package proxy

import (
	"errors"
	"syscall"
)

// poll is for Linux: elsewhere a session keeps its goroutines.
type poll struct{}

func newPoll(func(id uint64)) (*poll, error) { return nil, errors.ErrUnsupported }

func (p *poll) watch(syscall.RawConn, uint64, bool) bool { return false }

func (p *poll) close() {}
