package proxy

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// A direction of a session in which nothing has come for parkAfter is parked:
// it waits in the kernel, without a goroutine and a buffer, and goes on when
// there is something to read or somebody wakes it. Most sessions of a mail
// server are in IDLE most of the time, and stacks would be what they cost.
const parkAfter = 500 * time.Millisecond

// berth is where one direction of a session is parked. The zero value is empty.
type berth struct {
	mu     sync.Mutex
	parker *parker
	id     uint64 // of this stay
	known  bool   // the socket is in the parker's set
	resume func() // nil: nobody is parked
}

// park leaves resume to be run, in a goroutine of its own, once raw is readable,
// ended, or leave is called. False: it cannot be, the caller goes on itself.
func (b *berth) park(k *parker, raw syscall.RawConn, resume func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := k.enter(b)
	if id == 0 {
		return false
	}
	b.parker, b.id, b.resume = k, id, resume
	if !k.watch(raw, id, b.known) {
		b.resume = nil
		k.leave(id)
		return false
	}
	b.known = true
	return true
}

// leave wakes who is parked, if anybody is.
func (b *berth) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resume != nil {
		b.parker.leave(b.id)
		go b.resume()
		b.resume = nil
	}
}

// readable wakes who is parked since id, if they still are.
func (b *berth) readable(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == id && b.resume != nil {
		go b.resume()
		b.resume = nil
	}
}

// parker knows who is parked. It begins to work with the first one. Safe for
// concurrent use. Its lock comes after a berth's.
type parker struct {
	after time.Duration // parkAfter, but in tests

	mu     sync.Mutex
	last   uint64
	berths map[uint64]*berth
	poll   *poll // nil: not begun
	closed bool
}

// enter gives a stay its number; 0: nobody can be parked.
func (k *parker) enter(b *berth) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return 0
	}
	if k.poll == nil {
		p, err := newPoll(k.ready)
		if err != nil {
			k.closed = true // this system cannot
			return 0
		}
		k.poll, k.berths = p, map[uint64]*berth{}
	}
	k.last++
	k.berths[k.last] = b
	return k.last
}

func (k *parker) leave(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.berths, id)
}

func (k *parker) watch(raw syscall.RawConn, id uint64, known bool) bool {
	k.mu.Lock()
	p := k.poll
	k.mu.Unlock()
	return p != nil && p.watch(raw, id, known)
}

// ready is told of sockets that are readable.
func (k *parker) ready(id uint64) {
	k.mu.Lock()
	b := k.berths[id]
	delete(k.berths, id)
	k.mu.Unlock()
	if b != nil { // else it was woken otherwise
		b.readable(id)
	}
}

// parked is how many directions are parked.
func (k *parker) parked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.berths)
}

// close ends the parker; nobody may be parked any more.
func (k *parker) close() {
	k.mu.Lock()
	k.closed = true
	p := k.poll
	k.poll = nil
	k.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// socketOf is the socket below a connection, TLS and our own wrappers apart;
// nil: there is none, or it cannot be waited for.
func socketOf(c net.Conn) syscall.RawConn {
	for range 8 {
		if s, ok := c.(*net.TCPConn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
	return nil
}
