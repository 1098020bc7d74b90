package proxy

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

func TestGuardPenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(&Options{})
		addr := func(s string) string { return prefixOf(&net.TCPAddr{IP: net.ParseIP(s)}) }
		if addr("127.0.0.1") != "" || addr("::1") != "" || addr("2001:db8::1") != addr("2001:db8::ffff:1") || addr("::ffff:192.0.2.1") != "192.0.2.1" {
			t.Error("networks of one party")
		}
		a := addr("192.0.2.1")
		for i, want := range []time.Duration{0, 0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, maxPenalty, maxPenalty} {
			if got := g.penalty(a, "anna"); got != want {
				t.Errorf("after %d failures %s, want %s", i, got, want)
			}
			g.failed(a, "anna")
		}
		if g.penalty(a, "bernd") != 0 || g.penalty(addr("192.0.2.2"), "anna") != 0 {
			t.Error("others wait, too")
		}
		time.Sleep(2 * scoreHalf) // nine failures count as two
		if got := g.penalty(a, "anna"); got != 0 {
			t.Errorf("later %s", got)
		}
		for i := range 20 {
			g.failed(a, fmt.Sprint(i))
		}
		if g.penalty(a, "new") == 0 {
			t.Error("an address guesses names without a penalty")
		}
		g.right(a, "new")
		if g.penalty(a, "new") == 0 {
			t.Error("one right password pardons the address")
		}
		for i := range 2 * maxGuarded {
			g.failed(a, fmt.Sprint(i))
		}
		if len(g.scores) > maxGuarded+1 {
			t.Errorf("%d records", len(g.scores))
		}
	})
}

// TestShield: a guesser cannot make the directory lock a user out, and the user
// goes on.
func TestShield(t *testing.T) {
	for name, user := range map[string]string{"directory": "anna", "store": "passer"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(o *Options) { o.MaxFailures = 2 }, func(w *world) {
				w.login(user)
				asked := func() int { return len(w.con.asked) }
				for range 2 {
					c := w.client()
					for range 2 {
						c.sendLine("a LOGIN %s wrong", user)
						c.expect("a NO [AUTHENTICATIONFAILED] Authentication failed")
					}
				}
				if name == "store" && asked() != 3 {
					t.Errorf("the store was asked %d times", asked())
				}
				if w.dir.nobody != 2 {
					t.Errorf("%d dummy verifications", w.dir.nobody)
				}
				w.login(user) // the right one
				time.Sleep(shieldTime)
				c := w.client()
				c.sendLine("a LOGIN %s wrong", user)
				c.expect("a NO")
				if w.dir.nobody != 2 {
					t.Error("not checked again after an hour")
				}
			})
		})
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		proto *protocol
		many  string
	}{
		{&imap, "* BYE [UNAVAILABLE] Too many connections"}, {&pop3, "-ERR [SYS/TEMP] Too many connections"},
		{&managesieve, "BYE (TRYLATER) \"Too many connections"},
	} {
		t.Run(string(tt.proto.name), func(t *testing.T) {
			inWorldOf(t, tt.proto, func(o *Options) { o.MaxConnections = 1 }, func(w *world) {
				first := newPeer(w.l.dial())
				first.t = t
				first.line()
				c := newPeer(w.l.dial())
				c.t = t
				c.expect(tt.many)
				c.end()
			})
		})
	}
	inWorld(t, func(o *Options) { o.MaxPerUser = 1 }, func(w *world) {
		w.login("anna")
		c := w.client()
		c.sendLine("a LOGIN anna secret")
		w.backend().end()
		c.expect("a NO [LIMIT]")
		c.sendLine("b LOGIN bernd secret")
		w.backend()
		c.expect("b OK")
	})
	g := newGuard(&Options{MaxPerAddress: 2})
	for i, want := range []bool{true, true, false} {
		if g.enter("a") != want {
			t.Errorf("connection %d of an address: let in is %v", i+1, !want)
		}
	}
	if !g.enter("b") || !g.enter("") {
		t.Error("connections of other addresses")
	}
	if g.leave("a"); !g.enter("a") {
		t.Error("a place that was left is not free")
	}
}

func TestServices(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		e := w.dir.entries["anna"]
		e.Services = []backend.Protocol{backend.IMAP}
		w.dir.entries["anna"] = e
		c := w.popClient()
		c.sendLine("AUTH PLAIN %s", plain("", "anna", "secret"))
		c.expect("-ERR [AUTH] Authentication failed")
		if w.dir.nobody != 1 || len(w.con.asked) > 0 {
			t.Error("told apart by time, or by the store")
		}
		e.Services = []backend.Protocol{backend.POP3}
		w.dir.entries["anna"] = e
		w.popLogin("anna")
	})
}

func TestDirectoryNamesHostAndPorts(t *testing.T) {
	st := &backend.Store{Name: "any", Type: backend.StoreDovecot, Ports: map[backend.Protocol]int{backend.IMAP: 1143, backend.POP3: 1110}}
	p := &Proxy{o: Options{Stores: stores{"any": st}}}
	entry := backend.Entry{User: "anna", Store: "any", Host: "192.0.2.9", Ports: map[backend.Protocol]int{backend.IMAP: 2143}}
	r, err := p.route(entry, nil)
	if err != nil || r.Host != "192.0.2.9" || r.Store != st {
		t.Fatalf("route %+v, %v", r, err)
	}
	got := storeFor(r)
	if got.Port(backend.IMAP) != 2143 || got.Port(backend.POP3) != 1110 || st.Port(backend.IMAP) != 1143 {
		t.Errorf("ports %v, the store's %v", got.Ports, st.Ports)
	}
	r.Epoch, r.Store = 3, &backend.Store{Name: "new"}
	if got := storeFor(r); got.Port(backend.IMAP) != 143 {
		t.Errorf("a placement's store has ports %v", got.Ports)
	}
}
