package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// readOnly is a net.Conn around a reader.
type readOnly struct {
	net.Conn
	r io.Reader
}

func (c *readOnly) Read(p []byte) (int, error)      { return c.r.Read(p) }
func (c *readOnly) SetReadDeadline(time.Time) error { return nil }

// streams are a store's answers as they are in life.
var streams = map[string]string{
	"bodies 50 KiB": fmt.Sprintf("* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {%d}\r\n%s)\r\n", 50<<10, strings.Repeat("0123456789abcdef", 50<<10/16)),
	"bodies 4 KiB":  fmt.Sprintf("* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {%d}\r\n%s)\r\n", 4<<10, strings.Repeat("0123456789abcde\n", 4<<10/16)),
	"flags":         "* 1234 FETCH (UID 123456 FLAGS (\\Seen \\Answered $Forwarded) MODSEQ (123456789))\r\n",
}

// BenchmarkTracker is the tracker alone.
func BenchmarkTracker(b *testing.B) {
	for name, s := range streams {
		b.Run(name, func(b *testing.B) {
			chunk := []byte(strings.Repeat(s, 1+bigBuffer/len(s)))
			tr := testTracker()
			var out output
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				out.reset()
				if tr.fromBackend(chunk, &out) != len(chunk) {
					b.Fatal("held back")
				}
			}
		})
	}
}

// BenchmarkRelay is a whole session on loopback sockets, against two plain
// copies between the same sockets.
func BenchmarkRelay(b *testing.B) {
	for name, s := range streams {
		chunk := []byte(strings.Repeat(s, 1+(256<<10)/len(s)))
		b.Run(name+"/tracked", func(b *testing.B) {
			addr, store, _ := relayTo(b, nil, false)
			c := benchLogin(b, addr, nil)
			pump(b, chunk, <-store, c)
		})
		b.Run(name+"/copied", func(b *testing.B) {
			front, back := listenLocal(b), listenLocal(b)
			store := make(chan net.Conn, 1)
			go func() {
				c, _ := front.Accept()
				s, _ := net.Dial("tcp", back.Addr().String())
				go onlyCopy(s, c)
				onlyCopy(c, s)
			}()
			go func() { c, _ := back.Accept(); store <- c }()
			c, err := net.Dial("tcp", front.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			pump(b, chunk, <-store, c)
		})
	}
}

// onlyCopy is a relay in user space with the proxy's size of buffer, the way a
// relay behind TLS has to be: without splice(2).
func onlyCopy(dst, src net.Conn) {
	defer dst.Close()
	io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, bigBuffer))
}

func pump(b *testing.B, chunk []byte, from, to net.Conn) {
	b.SetBytes(int64(len(chunk)))
	done := make(chan struct{})
	n := 0
	go func() {
		defer close(done)
		io.Copy(io.Discard, to)
	}()
	for b.Loop() {
		if _, err := from.Write(chunk); err != nil {
			b.Fatal(err)
		}
		n++
	}
	from.Close()
	<-done
	to.Close()
}

func listenLocal(b testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return l
}

// tcpConnector dials a listener of ours as the store.
type tcpConnector string

func (a tcpConnector) Connect(context.Context, ConnectRequest) (BackendConn, error) {
	c, err := net.Dial("tcp", string(a))
	return BackendConn{Conn: c, Caps: testCaps}, err
}

func relayTo(b testing.TB, cfg *tls.Config, implicit bool) (addr string, store <-chan net.Conn, p *Proxy) {
	l := listenLocal(b)
	conns := make(chan net.Conn, 20_000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	addr, _, p = onSockets(b, Options{Connector: tcpConnector(l.Addr().String()), MaxConnections: 50_000, TLS: cfg}, implicit)
	return addr, conns, p
}

func benchLogin(b testing.TB, addr string, over *tls.Config) net.Conn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	if over != nil {
		c = tls.Client(c, over)
	}
	fmt.Fprint(c, "a LOGIN anna secret\r\n")
	var buf [2048]byte
	got := ""
	for !strings.Contains(got, "a OK") {
		n, err := c.Read(buf[:])
		if err != nil {
			b.Fatal(err)
		}
		got += string(buf[:n])
	}
	return c
}

// BenchmarkLogin is a login on loopback with the route in memory.
func BenchmarkLogin(b *testing.B) {
	addr, store, _ := relayTo(b, nil, false)
	for b.Loop() {
		c := benchLogin(b, addr, nil)
		(<-store).Close()
		c.Close()
	}
}

// TestMemoryPerIdleSession bounds what a quiet session costs, the test's own
// ends of the sockets included.
func TestMemoryPerIdleSession(t *testing.T) {
	ca := mailtest.NewCA(t)
	for name, over := range map[string]*tls.Config{"plain": nil, "tls": ca.Client()} {
		t.Run(name, func(t *testing.T) {
			const n = 300
			addr, store, p := relayTo(t, ca.ServerConfig(t), over != nil)
			inUse := func() uint64 {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapInuse + m.StackInuse
			}
			before := inUse()
			var conns []net.Conn
			for range n {
				conns = append(conns, benchLogin(t, addr, over), <-store)
			}
			until(t, "all are parked", func() bool { return p.parker.parked() == 2*n })
			per := (inUse() - before) / n
			t.Logf("%d octets per idle session", per)
			limit := uint64(10 << 10)
			if over != nil {
				limit = 24 << 10 // the client's TLS included
			}
			if per > limit {
				t.Errorf("%d octets per idle session, want %d at most", per, limit)
			}
			for _, c := range conns {
				c.Close()
			}
		})
	}
}
