package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"mailferry/internal/line"
)

// FuzzBeforeLogin feeds a connection before login with anything: it must end,
// within bounds, and whatever reaches the directory is a clean name.
func FuzzBeforeLogin(f *testing.F) {
	for _, s := range []string{
		"a LOGIN anna secret\r\nb NOOP\r\n", "a LOGIN {4}\r\nanna {6+}\r\nsecret\r\n", "a AUTHENTICATE PLAIN\r\nAGFubmEAc2VjcmV0\r\n",
		"a AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\r\n", "a ID (\"name\" {3}\r\nabc)\r\n", "a STARTTLS\r\n\x16\x03\x01", "a CAPABILITY\r\na LOGOUT\r\n",
		"a LOGIN {99999999999999999999}\r\n", "a LOGIN \"a\\\"\" \"\\\\\"\r\n", "\x00\x00\r\n", "a\r\n\r\n", "a LOGIN (((( x\r\n",
	} {
		f.Add([]byte(s))
	}
	dir := newDirectory()
	con := &connector{conns: make(chan *peer, 1), caps: testCaps}
	p, err := New(Options{Directory: dir, Stores: testStores(), Connector: con, FailureDelay: -1})
	if err != nil {
		f.Fatal(err)
	}
	l := newPipeListener()
	served := make(chan error, 1)
	go func() { served <- p.ServeIMAP(l, false) }()
	f.Cleanup(func() {
		p.Shutdown(f.Context())
		<-served
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		dir.lookups = dir.lookups[:0]
		c := l.dial()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			select { // a login may come: its store says goodbye at once
			case b := <-con.conns:
				b.Close()
			case <-t.Context().Done():
			}
		}()
		if _, err := c.Write(in); err == nil {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !isClosed(err) {
			t.Fatal(err)
		}
		c.Close()
		dir.mu.Lock()
		defer dir.mu.Unlock()
		for _, name := range dir.lookups {
			if !line.ValidCredential(name) || name == "" {
				t.Fatalf("looked up %q", name)
			}
		}
	})
}

func isClosed(err error) bool { return err == net.ErrClosed || err == io.ErrClosedPipe }
