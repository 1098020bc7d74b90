package remote

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// wrapped hides a connection as the owner of a limit does.
type wrapped struct{ inner net.Conn }

func (w wrapped) NetConn() net.Conn { return w.inner }

// TestAcknowledgesAtOnce: behind a question that followed an answer the kernel
// would wait for the next question before it acknowledges, and a store with
// Nagle's algorithm for that. The option says whether it does, and through
// whatever lies around the socket.
func TestAcknowledgesAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the client
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	limited := struct {
		wrapped
		net.Conn
	}{wrapped{conn}, conn}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	atOnce := func() (on int) {
		_ = raw.Control(func(fd uintptr) { on, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK) })
		return on
	}
	talk := func(c net.Conn) {
		for range 5 {
			if _, err := c.Write([]byte("question\r\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if talk(conn); atOnce() != 0 {
		t.Log("this kernel does not delay acknowledgements here")
	}
	if talk(newLink(limited, time.Second)); atOnce() != 1 {
		t.Error("the kernel delays acknowledgements")
	}
	if newLink(tls.Client(limited, &tls.Config{}), time.Second).raw == nil {
		t.Error("no socket is found below TLS")
	}
}
