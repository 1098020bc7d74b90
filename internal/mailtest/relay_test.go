package mailtest

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// echo answers on a connection with what it reads.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dialRelay(t *testing.T, r *Relay) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func TestRelayCuts(t *testing.T) {
	r := NewRelay(t, echo(t))
	c := dialRelay(t, r)
	r.CutAfter(ToClient, 5)
	io.WriteString(c, "hello world")
	if b, _ := io.ReadAll(c); string(b) != "hello" {
		t.Errorf("got %q before the cut", b)
	}
	c = dialRelay(t, r)
	io.WriteString(c, "again")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "again" {
		t.Errorf("after the cut: %q, %v", b, err)
	}
	if n := r.Octets(ToClient); n != 10 {
		t.Errorf("%d octets passed", n)
	}
	r.CutAll()
	if _, err := c.Read(b); err == nil {
		t.Error("CutAll leaves a connection")
	}
	r.Refuse(true)
	if _, err := dialRelay(t, r).Read(b); err == nil {
		t.Error("a refused connection gives data")
	}
	if r.Connections() != 3 {
		t.Errorf("%d connections", r.Connections())
	}
}

func TestRelayStopsAndDelays(t *testing.T) {
	r := NewRelay(t, echo(t))
	c := dialRelay(t, r)
	r.Stop(ToClient)
	io.WriteString(c, "held")
	b := make([]byte, 4)
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(b); !isTimeout(err) {
		t.Errorf("data passes a stopped relay: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	r.Resume()
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "held" {
		t.Errorf("after Resume: %q, %v", b, err)
	}
	r.Delay(ToServer, 60*time.Millisecond)
	t0 := time.Now()
	io.WriteString(c, "late")
	if _, err := io.ReadFull(c, b); err != nil || time.Since(t0) < 60*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(t0), err)
	}
}

func TestCorpus(t *testing.T) {
	for name, m := range map[string]*Mail{"generated": Generated(100), "corpus": Corpus(t)} {
		for i := range min(m.Len(), 200) {
			msg := string(m.Message(t, i))
			if strings.Count(msg, "\n") != strings.Count(msg, "\r\n") || !strings.HasSuffix(msg, "\r\n") || strings.Contains(msg, "\x00") {
				t.Errorf("%s: message %d has odd line ends", name, i)
			}
			if msg != string(m.Message(t, i)) {
				t.Errorf("%s: message %d differs", name, i)
			}
		}
	}
}
