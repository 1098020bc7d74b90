package proxy

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// TestKickWaitsForTheCommand: a kick ends a session between two commands, never
// within one.
func TestKickWaitsForTheCommand(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, b := w.login("anna")
		other, ob := w.login("bernd")
		c.sendLine("1 NOOP")
		b.expect("1 NOOP")
		if n := w.p.Kick("ANNA"); n != 1 {
			t.Fatalf("%d sessions kicked", n)
		}
		synctest.Wait()
		c.silent()
		if i := w.p.Sessions(Match{User: "anna"}); len(i) != 1 || !i[0].Leaving || !i[0].Busy {
			t.Errorf("%+v", i)
		}
		if n := w.p.Kick("anna"); n != 0 {
			t.Errorf("kicked again: %d", n)
		}
		b.sendLine("1 OK done")
		c.expect("1 OK done")
		c.expect("* BYE [UNAVAILABLE] Disconnected by the administrator")
		c.end()
		w.ask(other, ob, "2 NOOP", "2 OK done")
	})
}

// TestKickDoesNotWaitForever: a command that never ends does not keep a session.
func TestKickDoesNotWaitForever(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, b := w.login("anna")
		c.sendLine("1 FETCH 1:* FULL")
		b.expect("1 FETCH")
		begin := time.Now()
		w.p.Kick("anna")
		c.expect("* BYE [UNAVAILABLE]")
		c.end()
		if took := time.Since(begin); took < partLimit || took > partLimit+2*closeLimit {
			t.Errorf("took %v", took)
		}
	})
}

func TestMatch(t *testing.T) {
	i := SessionInfo{ID: "abc", User: "anna@example.org", Protocol: backend.IMAP, Store: "old", Client: "192.0.2.7:1000"}
	for _, tt := range []struct {
		m    Match
		want bool
	}{
		{Match{}, true}, {Match{User: "ANNA@example.org"}, true}, {Match{User: "anna"}, false},
		{Match{Session: "abc"}, true}, {Match{Session: "ab"}, false}, {Match{Store: "old"}, true}, {Match{Store: "new"}, false},
		{Match{Protocol: "IMAP"}, true}, {Match{Protocol: "pop3"}, false},
		{Match{Client: netip.MustParsePrefix("192.0.2.0/24")}, true}, {Match{Client: netip.MustParsePrefix("192.0.2.8/32")}, false},
		{Match{User: "anna@example.org", Store: "new"}, false},
	} {
		if tt.m.fits(&i) != tt.want {
			t.Errorf("%+v: want %v", tt.m, tt.want)
		}
	}
	i.Client = "[::ffff:192.0.2.7]:1000"
	if m := (Match{Client: netip.MustParsePrefix("192.0.2.7/32")}); !m.fits(&i) {
		t.Error("an IPv4 address in IPv6")
	}
	i.Client = "pipe"
	if m := (Match{Client: netip.MustParsePrefix("0.0.0.0/0")}); m.fits(&i) {
		t.Error("no address at all")
	}
}

// TestDrainOfAStore: its sessions end at the rate that was asked for, those of
// other stores stay, logins and deliveries are put off until the drain ends.
func TestDrainOfAStore(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		w := m.world
		w.dir.entries["cyr"] = backend.Entry{User: "cyr", Store: "old2", CheckPassword: true}
		var clients []*peer
		for range 10 {
			c, _ := w.login("anna")
			clients = append(clients, c)
		}
		other, ob := w.login("cyr")
		begin := time.Now()
		if err := w.p.Drain("old", 2); err != nil {
			t.Fatal(err)
		}
		gone := make(chan time.Duration)
		for _, c := range clients {
			go func() {
				c.expect("* BYE [UNAVAILABLE] Server is closed for maintenance")
				gone <- time.Since(begin)
			}()
		}
		var last time.Duration
		for i := range clients {
			last = <-gone
			if want := time.Duration(i) * 500 * time.Millisecond; last < want {
				t.Errorf("session %d left after %v, before %v", i, last, want)
			}
		}
		if last > 6*time.Second {
			t.Errorf("the last one left after %v", last)
		}
		w.ask(other, ob, "2 NOOP", "2 OK done")
		c := w.client()
		c.sendLine("a LOGIN bernd secret")
		c.expect("a NO [UNAVAILABLE]")
		if got := m.deliver(testMail, "anna", "cyr"); got["anna"] != 451 {
			t.Errorf("%v", got)
		}
		time.Sleep(3 * time.Second)
		if d := w.p.Drains(); len(d) != 1 || d[0].Store != "old" || d[0].Asked != 10 || d[0].Left != 0 || d[0].Rate != 2 {
			t.Errorf("%+v", d)
		}
		if !w.p.StopDrain("old") || w.p.StopDrain("old") {
			t.Error("StopDrain")
		}
		c.sendLine("b LOGIN bernd secret")
		w.backend()
		c.expect("b OK")
	})
}

// TestDrainMistakes are refused.
func TestDrainMistakes(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if err := w.p.Drain("nowhere", 1); !backend.IsKind(err, backend.KindNotFound) {
			t.Error(err)
		}
		for _, rate := range []float64{0, -1, maxRate + 1} {
			if err := w.p.Drain("old", rate); !backend.IsKind(err, backend.KindInvalid) {
				t.Errorf("%g: %v", rate, err)
			}
		}
		if d := w.p.Drains(); len(d) != 0 {
			t.Errorf("%+v", d)
		}
	})
}

// TestDrainOfTheNode: sessions that rest leave first, a running command is
// answered before, and new connections are sent away in the words of their
// protocol.
func TestDrainOfTheNode(t *testing.T) {
	for _, tt := range []struct {
		proto *protocol
		bye   string
	}{
		{&imap, "* BYE [UNAVAILABLE] Server is closed"}, {&pop3, "-ERR [SYS/TEMP] Server is closed"},
		{&managesieve, "BYE (TRYLATER) \"Server is closed"},
	} {
		inWorldOf(t, tt.proto, nil, func(w *world) {
			if err := w.p.Drain("", 100); err != nil {
				t.Fatal(err)
			}
			c := newPeer(w.l.dial())
			c.t = t
			c.expect(tt.bye)
			c.end()
			w.p.StopDrain("")
			c = newPeer(w.l.dial())
			c.t = t
			if l := c.line(); strings.Contains(l, "closed") {
				t.Errorf("after the drain: %q", l)
			}
		})
	}
	inWorld(t, nil, func(w *world) {
		c, b := w.login("anna")
		rests, _ := w.login("bernd")
		c.sendLine("1 NOOP")
		b.expect("1 NOOP")
		w.p.Drain("", 1)
		rests.expect("* BYE")
		c.silent()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		b.sendLine("1 OK done")
		c.expect("1 OK done")
		c.expect("* BYE")
	})
}

// tcpPipe looks as if it came from another machine.
type tcpPipe struct{ net.Conn }

func (tcpPipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 25} }

// foreignClient connects a mail server to w's LMTP.
func (w *world) foreignClient() *peer {
	l := newPipeListener()
	go w.p.ServeLMTP(l)
	here, there := line.Pipe()
	l.conns <- tcpPipe{there}
	c := newPeer(here)
	c.t = w.t
	c.expect("220 ")
	return c
}

// TestLMTPLeaves: mail servers are told 421 between commands, and what they have
// sent is answered before: at a kick, at a drain, at a shutdown.
func TestLMTPLeaves(t *testing.T) {
	const bye = "421 4.3.2 "
	for name, leave := range map[string]func(w *world){
		"kick":     func(w *world) { w.p.End(Match{Protocol: "lmtp"}) },
		"address":  func(w *world) { w.p.End(Match{Client: netip.MustParsePrefix("192.0.2.0/24")}) },
		"drain":    func(w *world) { w.p.Drain("", 10) },
		"shutdown": func(w *world) { go w.p.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			inMailWorld(t, nil, func(m *mailWorld) {
				w := m.world
				fresh, busy := w.foreignClient(), w.foreignClient()
				m.old.wait = make(chan struct{})
				for _, l := range []string{"LHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<anna@example.org>", "DATA"} {
					busy.sendLine("%s", l)
					for strings.Contains(busy.line(), "-") && l == "LHLO x" {
					}
				}
				busy.send(testMail + ".\r\n")
				synctest.Wait()
				begin := time.Now()
				leave(w)
				fresh.expect(bye)
				fresh.end()
				busy.silent()
				close(m.old.wait)
				for l := busy.line(); !strings.HasPrefix(l, bye); l = busy.line() {
					if !strings.HasPrefix(l, "250 ") {
						t.Errorf("%q", l)
					}
				}
				busy.end()
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("took %v", took)
				}
				if got := m.old.got(); len(got) != 1 {
					t.Errorf("%d messages arrived", len(got))
				}
			})
		})
	}
}

// TestSessionsListMailServers: who they are, without a user.
func TestSessionsListMailServers(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.world.foreignClient()
		m.world.login("anna")
		synctest.Wait()
		all := m.p.Sessions(Match{})
		if len(all) != 2 {
			t.Fatalf("%+v", all)
		}
		one := m.p.Sessions(Match{Protocol: "lmtp"})
		if len(one) != 1 || one[0].Client != "192.0.2.9:25" || one[0].User != "" || one[0].Busy {
			t.Errorf("%+v", one)
		}
	})
}
