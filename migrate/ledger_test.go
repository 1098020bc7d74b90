package migrate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// TestLedgerFollowsDeltas makes random changes and wants the sum of a listing
// of the outcome, also when a delta is told twice.
func TestLedgerFollowsDeltas(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	flags := [][]imap.Flag{nil, {imap.FlagSeen}, {imap.FlagSeen, imap.FlagFlagged}, {"Arbeit"}}
	truth := map[imap.UID][]imap.Flag{}
	next := imap.UID(1)
	for range 500 {
		truth[next] = flags[rnd.IntN(len(flags))]
		next += imap.UID(1 + rnd.IntN(3))
	}
	listed := func() *listing {
		l := newListing(&flagMapper{})
		for uid, f := range truth {
			_ = l.add(&remote.Meta{UID: uid, Flags: f, HasFlags: true})
		}
		l.finish()
		return l
	}
	g := newLedger(listed())
	for round := range 60 {
		ch := &changes{fresh: newListing(&flagMapper{})}
		for uid := range truth {
			switch rnd.IntN(40) {
			case 0:
				delete(truth, uid)
				ch.vanished.AddNum(uid)
			case 1:
				truth[uid] = flags[rnd.IntN(len(flags))]
				ch.flags = append(ch.flags, backend.ImportFlags{UID: uid, Flags: truth[uid]})
			}
		}
		ch.vanished.AddRange(next+1000, next+2000) // never were
		for range rnd.IntN(8) {
			truth[next] = flags[rnd.IntN(len(flags))]
			_ = ch.fresh.add(&remote.Meta{UID: next, Flags: truth[next], HasFlags: true})
			next++
		}
		ch.fresh.finish()
		g.apply(ch)
		g.apply(ch)
		skip := map[imap.UID]string{}
		for uid := range truth {
			if len(skip) < round%3 {
				skip[uid] = "unreadable"
			}
		}
		l := listed()
		sum, count := g.without(skip)
		if want, n := l.sum(skip); sum != want || count != n || g.broken {
			t.Fatalf("round %d: %d messages with another sum than a listing of %d, broken %v", round, count, n, g.broken)
		}
	}
	if g.set(next+5, nil, false); !g.broken {
		t.Error("a change of a message that was never listed went unnoticed")
	}
}

// wiretap counts what goes over the connections it makes.
type wiretap struct {
	commands, octets, turns atomic.Int64
	asked                   atomic.Bool
}

type tapped struct {
	net.Conn
	tap *wiretap
}

func (c tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tap.octets.Add(int64(n))
	if c.tap.asked.Swap(false) {
		c.tap.turns.Add(1)
	}
	return n, err
}

func (c tapped) Write(p []byte) (int, error) {
	c.tap.commands.Add(int64(strings.Count(string(p), "\r\n")))
	c.tap.asked.Store(true)
	return c.Conn.Write(p)
}

func (w *wiretap) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return tapped{c, w}, nil
}

func (w *wiretap) reset() { w.commands.Store(0); w.octets.Store(0); w.turns.Store(0) }

// tapped dials through a wiretap.
func (s *source) tapped(w *wiretap) func(context.Context) (*remote.Client, error) {
	return func(ctx context.Context) (*remote.Client, error) {
		conn, err := remote.DialIMAP(ctx, remote.Target{Store: s.store, User: s.user, Dial: w.dial})
		if err != nil {
			return nil, err
		}
		return remote.NewClient(conn), nil
	}
}

// TestHoldCostsChangesOnly: a big mailbox that changes in the hold costs a few
// commands and what changed, on stores with modseqs.
func TestHoldCostsChangesOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("fills big mailboxes")
	}
	const messages = 20_000
	seen := map[string]bool{}
	realSources(t, func(t *testing.T, s *source) {
		if seen[string(s.store.Type)] {
			t.Skip("once for each kind of store")
		}
		seen[string(s.store.Type)] = true
		ctx, tap := context.Background(), &wiretap{}
		c := s.conn(t)
		for i := range messages >> 5 {
			c.Append("INBOX", []string{"", `\Seen`, `\Flagged Work`}[i%3], time.Unix(int64(1e9+i), 0), fmt.Appendf(nil, "Subject: %d\r\n\r\nx\r\n", i))
		}
		c.Cmd("SELECT INBOX")
		for range 5 {
			c.Cmd("UID COPY 1:* INBOX")
			c.Cmd("NOOP")
		}
		fs := newFakeStore()
		a := newAccount(s.user, s.tapped(tap), fs)
		defer a.close()
		run := func(what string) {
			t.Helper()
			p, err := a.sync(ctx)
			if err == nil {
				err = p.err()
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		run("copy")
		change := func(n int) {
			c.Cmd(`UID STORE %d:%d +FLAGS.SILENT (\Answered)`, n, n+4)
			c.Cmd(`UID STORE %d,%d +FLAGS.SILENT (\Deleted)`, n+100, n+102)
			c.Cmd("UID EXPUNGE %d,%d", n+100, n+102)
			c.Append("INBOX", `\Seen`, time.Time{}, []byte("Subject: late\r\n\r\nmail\r\n"))
		}
		change(1000)
		run("follow")
		tap.reset()
		if err := a.sumAhead(ctx); err != nil {
			t.Fatal(err)
		}
		if n := tap.octets.Load(); n < messages*20 {
			t.Errorf("the listing before the hold had %d octets", n)
		}
		change(3000)
		tap.reset()
		run("last delta")
		if err := a.compare(ctx, false); err != nil {
			t.Fatal(err)
		}
		commands, octets := tap.commands.Load(), tap.octets.Load()
		t.Logf("%d commands, %d octets in the hold", commands, octets)
		if commands > 16 || octets > 8<<10 {
			t.Errorf("a changed mailbox of %d messages cost %d commands and %d octets in the hold", messages, commands, octets)
		}
		s.equalSum(t, a)
		// What the deltas add up to is what a listing says.
		b := a.boxes["INBOX"]
		was := b.sum
		b.summed, b.listed = false, false
		if err := a.sumSource(ctx, b); err != nil || b.sum != was {
			t.Errorf("a listing gives another sum than the deltas: %v", err)
		}
	})
}

// equalSum wants both sides' digests to agree in every mailbox.
func (s *source) equalSum(t testing.TB, a *account) {
	t.Helper()
	for _, b := range a.boxes {
		if d, err := a.imp.Digest(context.Background(), b.name); err != nil || !b.hollow && d.Messages != b.sum {
			t.Errorf("%s: digests differ, %v", b.shown, err)
		}
	}
}
