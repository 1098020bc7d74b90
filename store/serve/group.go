package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Group is the listeners and the running sessions of one server. The zero value
// is ready. It is safe for concurrent use.
type Group struct {
	mu      sync.Mutex // guards what follows
	closing bool
	conns   map[*Conn]struct{}
	ls      map[net.Listener]struct{}
	wg      sync.WaitGroup // sessions
}

// Accept hands each connection of l to serve, in a goroutine of its own, until
// Shutdown or the listener's end, which are no errors. Temporary errors back off
// from 5 ms to 1 s. After Shutdown it closes l at once.
func (g *Group) Accept(l net.Listener, log *slog.Logger, serve func(net.Conn)) error {
	if !g.track(l) {
		l.Close()
		return nil
	}
	defer g.untrack(l)
	var delay time.Duration
	for {
		c, err := l.Accept()
		if err == nil {
			delay = 0
			go serve(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) || g.isClosing() {
			return nil
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() && !isTemporary(err) {
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		log.Warn("accept failed, trying again", "err", err, "delay", delay)
		time.Sleep(delay)
	}
}

// isTemporary tells a lack of file descriptors or memory from the end.
func isTemporary(err error) bool {
	t, ok := err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

func (g *Group) track(l net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	if g.ls == nil {
		g.ls = map[net.Listener]struct{}{}
	}
	g.ls[l] = struct{}{}
	return true
}

func (g *Group) untrack(l net.Listener) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.ls, l)
}

func (g *Group) isClosing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

// Run runs c's session, which Shutdown stops and waits for. After Shutdown it
// does nothing. Closing c is left to the caller.
func (g *Group) Run(c *Conn, session func()) {
	if !g.join(c) {
		return
	}
	defer g.leave(c)
	session()
}

func (g *Group) join(c *Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	if g.conns == nil {
		g.conns = map[*Conn]struct{}{}
	}
	g.conns[c] = struct{}{}
	g.wg.Add(1)
	return true
}

func (g *Group) leave(c *Conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	g.wg.Done()
}

// Shutdown closes the listeners and stops every session at its next command
// boundary (Conn.Stop). When ctx ends first, the rest is closed and ctx's error
// returned. Either way no session runs any more when it returns.
func (g *Group) Shutdown(ctx context.Context) error {
	g.mu.Lock()
	g.closing = true
	for l := range g.ls {
		l.Close()
	}
	for c := range g.conns {
		c.Stop()
	}
	g.mu.Unlock()
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for c := range g.conns {
		c.Kill()
	}
	g.mu.Unlock()
	<-done
	return ctx.Err()
}
