package proxy

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"testing"
)

// TestLargeLiterals: they pass through the kernel octet for octet, in both
// directions, and what goes wrong within one ends the session.
func TestLargeLiterals(t *testing.T) {
	body := make([]byte, 5<<20+12345)
	rand.Read(body)
	begin := func(t *testing.T) (c, b *peer, p *Proxy) {
		addr, stores, p := relayTo(t, nil, false)
		c, b = newPeer(benchLogin(t, addr, nil)), newPeer(<-stores)
		c.t, b.t = t, t
		t.Cleanup(func() { c.Close(); b.Close() })
		return c, b, p
	}
	same := func(t *testing.T, r io.Reader) {
		t.Helper()
		got := make([]byte, len(body))
		if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d octets, %v, equal %v", n, err, bytes.Equal(got, body))
		}
	}
	t.Run("whole", func(t *testing.T) {
		c, b, p := begin(t)
		for range 3 {
			c.sendLine("f FETCH 1 BODY[]")
			b.expect("f FETCH")
			go fmt.Fprintf(b.Conn, "* 1 FETCH (BODY[] {%d}\r\n%s FLAGS ())\r\nf OK done\r\n", len(body), body)
			c.expect("* 1 FETCH")
			same(t, c.r)
			c.expect(" FLAGS ())")
			c.expect("f OK")
			go fmt.Fprintf(c.Conn, "a APPEND INBOX {%d+}\r\n%s\r\nn NOOP\r\n", len(body), body)
			b.expect("a APPEND")
			same(t, b.r)
			b.expect("")
			b.expect("n NOOP")
			b.send("a OK done\r\nn OK done\r\n")
			c.expect("a OK")
			c.expect("n OK")
		}
		until(t, "parked", func() bool { return p.parker.parked() == 2 })
	})
	t.Run("with pauses", func(t *testing.T) { // longer than the kernel is left alone
		c, b, p := begin(t)
		c.sendLine("f FETCH 1 BODY[]")
		b.expect("f FETCH")
		fmt.Fprintf(b.Conn, "* 1 FETCH (BODY[] {%d}\r\n", len(body))
		half := len(body) / 2
		go b.Conn.Write(body[:half])
		c.expect("* 1 FETCH")
		got := make([]byte, len(body))
		if _, err := io.ReadFull(c.r, got[:half]); err != nil {
			t.Fatal(err)
		}
		until(t, "parked in the literal", func() bool { return p.parker.parked() == 2 })
		go fmt.Fprintf(b.Conn, "%s)\r\nf OK done\r\n", body[half:])
		if _, err := io.ReadFull(c.r, got[half:]); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%v, equal %v", err, bytes.Equal(got, body))
		}
		c.expect(")")
		c.expect("f OK")
	})
	for name, fault := range map[string]func(c, b *peer, p *Proxy){
		"store dies":  func(c, b *peer, _ *Proxy) { b.Close() },
		"client dies": func(c, b *peer, _ *Proxy) { c.Close() },
		"bye":         func(_, _ *peer, p *Proxy) { p.reg.all("")[0].bye("UNAVAILABLE", "enough") },
	} {
		for _, stuck := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, client stuck %v", name, stuck), func(t *testing.T) {
				c, b, p := begin(t)
				c.sendLine("f FETCH 1 BODY[]")
				b.expect("f FETCH")
				fmt.Fprintf(b.Conn, "* 1 FETCH (BODY[] {%d}\r\n", 1<<30)
				c.expect("* 1 FETCH")
				if stuck {
					go func(b net.Conn) { // more than both sockets hold
						for range 20 {
							b.Write(body)
						}
					}(b.Conn)
				} else {
					b.Conn.Write(body[:1<<20])
				}
				if _, err := io.CopyN(io.Discard, c.r, 1<<20); err != nil {
					t.Fatal(err)
				}
				fault(c, b, p)
				if name == "client dies" && !stuck {
					io.Copy(io.Discard, b.Conn) // the end, as for any store
					b.Close()
				}
				if name == "store dies" && stuck {
					io.Copy(io.Discard, c.r)
				}
				until(t, "the session has ended", func() bool { return len(p.reg.all("")) == 0 })
			})
		}
	}
}
