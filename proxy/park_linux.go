package proxy

import (
	"errors"
	"sync"
	"syscall"
)

// poll is an epoll(7) set with the goroutine that waits for it.
type poll struct {
	fd      int
	end     [2]int // a pipe: its reading end is in the set
	waiting sync.WaitGroup
}

// newPoll begins to wait; ready gets the numbers of sockets that are readable.
func newPoll(ready func(id uint64)) (*poll, error) {
	p := &poll{}
	var err error
	if p.fd, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if err := syscall.Pipe2(p.end[:], syscall.O_CLOEXEC); err != nil {
		syscall.Close(p.fd)
		return nil, err
	}
	e := event(syscall.EPOLLIN, 0)
	if err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, p.end[0], &e); err != nil {
		p.release()
		return nil, err
	}
	p.waiting.Go(func() { p.run(ready) })
	return p, nil
}

// event carries a socket's number in the 64 bits that the kernel hands back.
func event(events uint32, id uint64) syscall.EpollEvent {
	return syscall.EpollEvent{Events: events, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
}

func (p *poll) run(ready func(id uint64)) {
	var events [128]syscall.EpollEvent
	for {
		n, err := syscall.EpollWait(p.fd, events[:], -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return // the set is closed
		}
		for _, e := range events[:max(n, 0)] {
			id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			if id == 0 {
				return
			}
			ready(id)
		}
	}
}

// watch waits for a socket once. Octets that are there already count.
func (p *poll) watch(raw syscall.RawConn, id uint64, known bool) bool {
	op := syscall.EPOLL_CTL_ADD
	if known {
		op = syscall.EPOLL_CTL_MOD
	}
	ok := false
	err := raw.Control(func(fd uintptr) {
		e := event(syscall.EPOLLIN|syscall.EPOLLRDHUP|syscall.EPOLLONESHOT, id)
		ok = syscall.EpollCtl(p.fd, op, int(fd), &e) == nil
	})
	return err == nil && ok
}

func (p *poll) close() {
	syscall.Write(p.end[1], []byte{0})
	p.waiting.Wait()
	p.release()
}

func (p *poll) release() {
	for _, fd := range []int{p.fd, p.end[0], p.end[1]} {
		syscall.Close(fd)
	}
}
