package migrate

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"mailferry/internal/mailtest"
)

// cutDialer cuts a connection after so many octets that were written to it: the
// store may have read none, some or all of the last command. cuts is how many
// more there are.
type cutDialer struct {
	cuts atomic.Int64
	span int64 // a cut comes within so many octets

	mu  sync.Mutex
	rnd *rand.Rand // guarded by mu
}

func (d *cutDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil || d.cuts.Load() <= 0 {
		return conn, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &cutConn{Conn: conn, d: d, left: 300 + d.rnd.Int64N(d.span)}, nil
}

type cutConn struct {
	net.Conn
	d    *cutDialer
	left int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.left < int64(len(p)) && c.d.cuts.Add(-1) >= 0 {
		n, _ := c.Conn.Write(p[:c.left])
		c.Conn.Close()
		return n, net.ErrClosed
	}
	c.left -= int64(len(p))
	return c.Conn.Write(p)
}

// TestForeignCuts cuts connections of a copy at any octet: nothing is lost or
// doubled.
func TestForeignCuts(t *testing.T) {
	t.Parallel()
	trials, cuts := 2, int64(8)
	if mailtest.Soaking() {
		trials, cuts = 30, 12
	}
	j := mailtest.NewJudge(t)
	from := dovecotPeer(t, "from", mailtest.DovecotOptions{})
	to := dovecotPeer(t, "to", mailtest.DovecotOptions{})
	manifest := j.Load(t, from.judge, "anna", "-messages", "150", "-big", "0")
	for trial := range trials {
		to.wipe(t, "anna")
		d := &cutDialer{span: 300_000, rnd: rand.New(rand.NewPCG(uint64(trial), 7))}
		d.cuts.Store(cuts)
		e := foreignEngine(t, t.TempDir(), from.store, to.store, func(o *Options) { o.Dial = d.dial })
		st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"anna"}, To: "to", Attempts: 100}))
		e.Close()
		if st.Users[0].State != Ready {
			t.Errorf("trial %d: %+v", trial, st.Users)
		}
		if c := judged(t, j.Verify(t, manifest, to.judge, "anna")); !c.exact() {
			t.Errorf("trial %d: %+v", trial, c)
		}
		t.Logf("trial %d: %d of %d cuts hit", trial, cuts-max(0, d.cuts.Load()), cuts)
	}
}

// wipe empties a user's account for the next trial.
func (p *peer) wipe(t testing.TB, user string) {
	t.Helper()
	for _, name := range p.mailboxes(t, user) {
		c := mailtest.DialIMAP(t, p.judge.Addr)
		c.Login(user, p.judge.Password)
		if name == "INBOX" {
			c.Cmd("SELECT INBOX")
			c.Cmd(`STORE 1:* +FLAGS.SILENT (\Deleted)`)
			c.Cmd("EXPUNGE")
		} else {
			c.Cmd("DELETE %s", mailtest.Quote(name))
		}
		c.Close()
	}
}

func (p *peer) mailboxes(t testing.TB, user string) (names []string) {
	src := &source{store: p.store, user: user}
	c, err := src.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := c.Survey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range a.Mailboxes {
		if st := e.Status; e.Selectable() && (e.Raw != "INBOX" || st != nil && st.Messages > 0) {
			names = append(names, e.Raw)
		}
	}
	return names
}
