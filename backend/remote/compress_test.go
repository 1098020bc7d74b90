package remote

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// squeezed is the server's side of COMPRESS, by another implementation.
type squeezed struct {
	net.Conn
	r io.Reader
	w *flate.Writer
}

func (s *squeezed) Read(p []byte) (int, error) { return s.r.Read(p) }
func (s *squeezed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil {
		err = s.w.Flush()
	}
	return n, err
}

// squeeze answers COMPRESS; its first compressed octets go with the answer.
func (s *script) squeeze(first string) {
	tag := s.want("COMPRESS DEFLATE")
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s OK deflate\r\n", tag)
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	_, _ = io.WriteString(w, first)
	_ = w.Flush()
	_, _ = s.conn.Write(b.Bytes())
	w.Reset(s.conn)
	// A writer that was reset has no window: the client must not need one.
	conn := &squeezed{Conn: s.conn, r: flate.NewReader(s.r), w: w}
	s.conn, s.r = conn, bufio.NewReader(conn)
}

func TestCompress(t *testing.T) {
	body := strings.Repeat("Subject: compressed\r\n\r\nwords and words\r\n", 5000)
	play := func(s *script) {
		s.squeeze("* OK [ALERT] compressed from here\r\n")
		s.ok(`EXAMINE "INBOX"`, "* 1 EXISTS")
		s.ok("UID FETCH", fmt.Sprintf("* 1 FETCH (UID 1 BODY[] {%d}\r\n%s)", len(body), body))
		s.ok("NOOP")
	}
	check := func(t *testing.T, c *Client) {
		t.Helper()
		ctx := context.Background()
		if !c.CanCompress() {
			t.Fatal("not offered")
		}
		if err := c.Compress(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Compress(ctx); err != nil || c.CanCompress() {
			t.Fatal("twice", err)
		}
		if _, err := c.Examine(ctx, "INBOX", SelectOptions{}); err != nil {
			t.Fatal(err)
		}
		src := &bodies{sets: []imap.UIDSet{{{Start: 1, Stop: 1}}}}
		if err := c.FetchBodies(ctx, src, Window{}); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("1 %d %q", BodyRead, body); len(src.got) != 1 || src.got[0] != want {
			t.Errorf("%d messages came", len(src.got))
		}
		if err := c.Noop(ctx); err != nil || len(c.Alerts()) != 1 {
			t.Error(err, c.Alerts())
		}
	}
	t.Run("plain", func(t *testing.T) { check(t, client(t, "COMPRESS=DEFLATE", play)) })
	t.Run("TLS", func(t *testing.T) {
		cert, pool := certificate(t)
		store := serve(t, func(s *script) {
			s.startTLS(cert)
			s.loggedIn("COMPRESS=DEFLATE")
			play(s)
		})
		store.TLS, store.TLSConfig = backend.TLSImplicit, &tls.Config{RootCAs: pool}
		conn, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(conn)
		defer c.Close()
		check(t, c)
	})
}

func TestCompressIsRefused(t *testing.T) {
	c := client(t, "COMPRESS=DEFLATE", func(s *script) {
		s.send(s.want("COMPRESS") + " NO [COMPRESSIONACTIVE] TLS does it")
		s.ok("NOOP")
	})
	if err := c.Compress(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := c.Noop(context.Background()); err != nil || c.CanCompress() {
		t.Error(err)
	}
}

// The window follows bandwidth times delay.
func TestWindowFollowsTheLine(t *testing.T) {
	p := newPace(40*time.Millisecond, 32<<20)
	if p.window != startWindow {
		t.Fatalf("begins with %d", p.window)
	}
	for range 10 { // 100 MB/s: 4 MB in a round trip
		p.octets = 4 << 20
		p.resize(40 * time.Millisecond)
	}
	if p.window != 8<<20 {
		t.Errorf("%d octets on the way for 4 MiB in a round trip", p.window)
	}
	for range 10 { // 1 MB/s
		p.octets = 40 << 10
		p.resize(40 * time.Millisecond)
	}
	if p.window != leastWindow {
		t.Errorf("%d octets on the way of a slow line", p.window)
	}
	for range 10 {
		p.octets = 1 << 30
		p.resize(40 * time.Millisecond)
	}
	if p.window != 32<<20 {
		t.Errorf("%d octets on the way at most", p.window)
	}
	if p := newPace(0, 4<<20); p.window != 4<<20 {
		t.Errorf("%d octets when nothing is known", p.window)
	}
}
