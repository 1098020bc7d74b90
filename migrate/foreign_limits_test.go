package migrate

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// TestForeignWaitsHoldNothing loses the connection to the source in the middle
// of a copy. The user who dials again, and may have to wait for room there,
// holds no connection to the target meanwhile: else users who have one of the
// last connections to either store could wait for each other for ever.
func TestForeignWaitsHoldNothing(t *testing.T) {
	t.Parallel()
	src, m := startMem(t, 1, 400), startTarget(t, imap.CapUIDPlus, imap.CapLiteralPlus)
	src.store.Name = "from"
	at := net.JoinHostPort(src.store.Address, strconv.Itoa(src.store.Ports[backend.IMAP]))
	to := net.JoinHostPort(m.store.Address, strconv.Itoa(m.store.Ports[backend.IMAP]))
	var open, opened, dials, again atomic.Int64
	e := foreignEngine(t, t.TempDir(), src.store, m.store, func(o *Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			n := int64(0)
			if addr == at {
				if n = dials.Add(1); n > 1 && opened.Load() > 0 {
					again.Add(1)
					if k := open.Load(); k != 0 {
						t.Errorf("dial %d of the source: %d connections to the target are held", n, k)
					}
				}
			}
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			switch {
			case err != nil:
			case addr == to:
				opened.Add(1)
				open.Add(1)
				return &countedConn{Conn: c, open: &open}, nil
			case n == 1:
				return &lostConn{Conn: c, left: 100_000}, nil
			}
			return c, err
		}
	})
	st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"u00"}, To: "to", Attempts: 100}))
	if st.Users[0].State != Ready || again.Load() == 0 || opened.Load() < 2 {
		t.Errorf("%+v; the source was dialled %d times behind the loss, the target %d times", st.Users[0], again.Load(), opened.Load())
	}
	if got := m.bodies(t); len(got) != 400 {
		t.Errorf("%d messages of 400", len(got))
	}
}

// countedConn counts down when it is closed.
type countedConn struct {
	net.Conn
	open *atomic.Int64
	done atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.done.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// lostConn is lost after so many octets were read.
type lostConn struct {
	net.Conn
	left int
}

func (c *lostConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p[:min(len(p), 4<<10)])
	c.left -= n
	return n, err
}
