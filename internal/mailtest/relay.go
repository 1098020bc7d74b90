package mailtest

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Direction is a way through a Relay.
type Direction int

const (
	ToServer Direction = iota
	ToClient
)

// Relay passes TCP connections on to a target and breaks them on demand. Its
// methods may be called at any time, from any goroutine.
type Relay struct {
	Addr string // host:port, where it listens

	l      net.Listener
	ctx    context.Context
	wg     sync.WaitGroup
	octets [2]atomic.Int64
	count  atomic.Int64

	mu      sync.Mutex
	target  string
	refuse  bool
	delay   [2]time.Duration
	cut     [2]int64         // octets that still pass; -1: no limit
	flowing [2]chan struct{} // closed: octets pass
	marks   [2][]mark
	conns   map[net.Conn]bool
	open    int           // connections that were accepted and have not ended on both sides
	idle    chan struct{} // closed: none is open
}

// NewRelay listens on a free port and passes connections on to the target.
func NewRelay(t testing.TB, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{Addr: l.Addr().String(), l: l, ctx: ctx, target: target, cut: [2]int64{-1, -1}, conns: map[net.Conn]bool{},
		idle: make(chan struct{})}
	close(r.idle)
	r.Resume()
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		cancel()
		l.Close()
		r.CutAll()
		r.wg.Wait()
	})
	return r
}

// SetTarget sends new connections elsewhere.
func (r *Relay) SetTarget(addr string) { r.with(func() { r.target = addr }) }

// Refuse makes new connections end at once, or lets them through again.
func (r *Relay) Refuse(yes bool) { r.with(func() { r.refuse = yes }) }

// Delay holds every piece of data back for that long.
func (r *Relay) Delay(d Direction, by time.Duration) { r.with(func() { r.delay[d] = by }) }

// CutAfter lets n further octets pass in a direction, counted over all
// connections, and then cuts the connection that carries the next one. This
// happens once; a negative n withdraws it.
func (r *Relay) CutAfter(d Direction, n int64) { r.with(func() { r.cut[d] = n }) }

// mark is an octet to wait for.
type mark struct {
	at     int64 // of octets
	passed chan struct{}
}

// Passed is closed when n further octets have passed in a direction, counted
// over all connections.
func (r *Relay) Passed(d Direction, n int64) <-chan struct{} {
	passed := make(chan struct{})
	r.with(func() { r.marks[d] = append(r.marks[d], mark{r.octets[d].Load() + n, passed}) })
	return passed
}

// CutAll resets all connections.
func (r *Relay) CutAll() {
	r.with(func() {
		for c := range r.conns {
			reset(c)
		}
	})
}

// Stop holds all data in one direction; connections stay open.
func (r *Relay) Stop(d Direction) {
	r.with(func() {
		select {
		case <-r.flowing[d]:
			r.flowing[d] = make(chan struct{})
		default:
		}
	})
}

// Resume lets data pass again in both directions.
func (r *Relay) Resume() {
	r.with(func() {
		for d, c := range r.flowing {
			if c == nil {
				r.flowing[d] = make(chan struct{})
				c = r.flowing[d]
			}
			select {
			case <-c:
			default:
				close(c)
			}
		}
	})
}

// Octets is how many octets have passed in a direction.
func (r *Relay) Octets(d Direction) int64 { return r.octets[d].Load() }

// Connections is how many connections were accepted.
func (r *Relay) Connections() int64 { return r.count.Load() }

// AwaitIdle waits until no connection is left, on either side: a server whose
// client was killed may still be at work on what it had been sent.
func (r *Relay) AwaitIdle(t testing.TB) {
	t.Helper()
	var idle chan struct{}
	r.with(func() { idle = r.idle })
	select {
	case <-idle:
	case <-time.After(5 * time.Minute): // a busy machine may take its time to accept one
		t.Error("connections through the relay do not end")
	}
}

func (r *Relay) with(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *Relay) accept() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		r.count.Add(1)
		r.with(func() {
			if r.open++; r.open == 1 {
				r.idle = make(chan struct{})
			}
		})
		r.wg.Go(func() {
			r.serve(c)
			r.with(func() {
				if r.open--; r.open == 0 {
					close(r.idle)
				}
			})
		})
	}
}

func (r *Relay) serve(client net.Conn) {
	var target string
	var refuse bool
	r.with(func() { target, refuse = r.target, r.refuse })
	if refuse {
		reset(client)
		return
	}
	server, err := (&net.Dialer{}).DialContext(r.ctx, "tcp", target)
	if err != nil {
		reset(client)
		return
	}
	r.with(func() { r.conns[client], r.conns[server] = true, true })
	if r.ctx.Err() != nil {
		r.CutAll()
	}
	var both sync.WaitGroup
	both.Go(func() { r.pass(ToServer, server, client) })
	both.Go(func() { r.pass(ToClient, client, server) })
	both.Wait()
	r.with(func() {
		delete(r.conns, client)
		delete(r.conns, server)
	})
	client.Close()
	server.Close()
}

// pass copies one direction to its end.
func (r *Relay) pass(d Direction, dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && !r.forward(d, dst, src, buf[:n]) {
			reset(dst)
			reset(src)
			return
		}
		if err != nil {
			if c, ok := dst.(*net.TCPConn); ok {
				c.CloseWrite()
			}
			return
		}
	}
}

// forward passes one piece on; false cuts the connection.
func (r *Relay) forward(d Direction, dst, src net.Conn, b []byte) bool {
	var delay time.Duration
	var flowing chan struct{}
	r.with(func() { delay, flowing = r.delay[d], r.flowing[d] })
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return false
		}
	}
	select {
	case <-flowing:
	case <-r.ctx.Done():
		return false
	}
	cut := false
	r.with(func() {
		if left := r.cut[d]; left >= 0 {
			if cut = left < int64(len(b)); cut {
				b, r.cut[d] = b[:left], -1
			} else {
				r.cut[d] -= int64(len(b))
			}
		}
	})
	passed := r.octets[d].Add(int64(len(b))) // before the receiver can know
	n, err := dst.Write(b)
	r.with(func() {
		r.marks[d] = slices.DeleteFunc(r.marks[d], func(m mark) bool {
			if m.at >= passed {
				return false
			}
			close(m.passed)
			return true
		})
	})
	r.octets[d].Add(int64(n - len(b)))
	return err == nil && !cut
}

// reset closes a connection; what was written before still arrives.
func reset(c net.Conn) { c.Close() }
