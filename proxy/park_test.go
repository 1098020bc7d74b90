package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// until asks again and again, for as long as a slow machine may take.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// TestParked: a session without a goroutine goes on whatever happens to it.
func TestParked(t *testing.T) {
	ca := mailtest.NewCA(t)
	type ends struct {
		t             *testing.T
		p             *Proxy
		client, store net.Conn
		fromClient    *bufio.Reader // at the store
		fromStore     *bufio.Reader // at the client
	}
	expect := func(e *ends, r *bufio.Reader, want string) {
		e.t.Helper()
		l, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(l, want) {
			e.t.Fatalf("%q, %v; want %q", l, err, want)
		}
	}
	gone := func(e *ends) { // and both sides know
		e.t.Helper()
		for _, c := range []net.Conn{e.client, e.store} {
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				e.t.Errorf("end: %v", err)
			}
		}
		until(e.t, "the session has ended", func() bool { return len(e.p.reg.all("")) == 0 })
	}
	cases := map[string]func(e *ends){
		"client speaks": func(e *ends) {
			io.WriteString(e.client, "b NOOP\r\n")
			expect(e, e.fromClient, "b NOOP")
			io.WriteString(e.store, "b OK done\r\n")
			expect(e, e.fromStore, "b OK")
		},
		"store speaks": func(e *ends) {
			for range 3 {
				io.WriteString(e.store, "* 7 EXISTS\r\n")
				expect(e, e.fromStore, "* 7 EXISTS")
				until(e.t, "parked again", func() bool { return e.p.parker.parked() == 2 })
			}
		},
		"client half a line": func(e *ends) {
			io.WriteString(e.client, "b NO")
			until(e.t, "half a line keeps its reader", func() bool { return e.p.parker.parked() == 1 })
			io.WriteString(e.client, "OP\r\n")
			expect(e, e.fromClient, "b NOOP")
		},
		"client closes": func(e *ends) {
			e.client.Close()
			if _, err := io.Copy(io.Discard, e.store); err != nil { // as a store that may have more to say
				e.t.Error(err)
			}
			e.store.Close()
			until(e.t, "the session has ended", func() bool { return len(e.p.reg.all("")) == 0 })
		},
		"store closes": func(e *ends) {
			e.store.Close()
			e.store = e.client
			expect(e, e.fromStore, "* BYE")
			gone(e)
		},
		"kick": func(e *ends) {
			e.p.Kick("anna")
			expect(e, e.fromStore, "* BYE")
			e.client.Close()
			e.client = e.store
			gone(e)
		},
		"shutdown": func(e *ends) {
			ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Second)
			defer cancel()
			if err := e.p.Shutdown(ctx); err != nil {
				e.t.Error(err)
			}
			expect(e, e.fromStore, "* BYE")
		},
		"cut": func(e *ends) { // nobody waits for anything
			ctx, cancel := context.WithCancel(e.t.Context())
			cancel()
			_ = e.p.Shutdown(ctx)
			gone(e)
		},
	}
	for name, run := range cases {
		for over, cfg := range map[string]*tls.Config{"plain": nil, "TLS": ca.Client()} {
			t.Run(name+"/"+over, func(t *testing.T) {
				addr, stores, p := relayTo(t, ca.ServerConfig(t), cfg != nil)
				e := &ends{t: t, p: p, client: benchLogin(t, addr, cfg), store: <-stores}
				t.Cleanup(func() { e.client.Close(); e.store.Close() })
				e.fromClient, e.fromStore = bufio.NewReader(e.store), bufio.NewReader(e.client)
				until(t, "parked", func() bool { return p.parker.parked() == 2 })
				run(e)
			})
		}
	}
}

// TestParkedIsHeld: a hold wakes who is parked, and a move carries it over.
func TestParkedIsHeld(t *testing.T) {
	l := listenLocal(t)
	ps := newPlacements()
	addr, _, p := onSockets(t, Options{Connector: tcpConnector(l.Addr().String()), Placements: ps, Groups: []Group{{Name: "farm", Stores: []string{"old", "home"}}}}, false)
	accept := func() *peer {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		b := newPeer(c)
		b.t = t
		return b
	}
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.sendLine("a LOGIN anna secret")
	old := accept()
	c.expect("a OK")
	c.sendLine("b IDLE")
	old.expect("b IDLE")
	old.sendLine("+ idling")
	c.expect("+")
	until(t, "parked", func() bool { return p.parker.parked() == 2 })
	ps.hold("anna", "old")
	old.expect("DONE")
	old.sendLine("b OK done")
	<-ps.confirmed
	until(t, "parked in the hold", func() bool { return p.parker.parked() == 2 })
	ps.activate("anna", "home")
	home := accept()
	tag, _, _ := strings.Cut(home.line(), " RESUME ")
	home.sendLine("%s OK [RESUMED] go on", tag)
	old.end()
	home.expect("b IDLE")
	home.sendLine("+ idling")
	until(t, "parked at the new store", func() bool { return p.parker.parked() == 2 })
	home.sendLine("* 3 EXISTS")
	c.expect("* 3 EXISTS")
	c.sendLine("DONE")
	home.expect("DONE")
	home.sendLine("b OK done")
	c.expect("b OK")
}
