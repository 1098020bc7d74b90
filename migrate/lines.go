package migrate

import (
	"context"
	"sync"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// lineRule says when a mailbox of a store that is far away gets one more
// connection: for as long as each brings clearly more than those before.
type lineRule struct {
	far   time.Duration // round trip from which a store is far away
	worth int64         // octets left to fetch: fewer are not worth a login
	look  time.Duration // between two looks
	gain  float64       // by which a further connection has to raise the rate
	most  int           // per mailbox
	slow  float64       // octets per second, below which compressing pays

	// Bodies are asked for while a listing is still coming when sample messages
	// of it have told how large the others are, and rest of them are to come.
	sample, rest int
}

var defaultLines = lineRule{far: remote.FarAway, worth: 16 << 20, look: 400 * time.Millisecond, gain: 1.15, most: 4, slow: 6 << 20, sample: 200, rest: 500}

// lines are the connections that copy one mailbox.
type lines struct {
	a      *account
	ctx    context.Context
	main   *copier
	wg     sync.WaitGroup
	began  time.Time
	first  int64 // octets at began
	looked time.Time
	start  int64   // octets at looked
	rate   float64 // with one connection less
	full   bool    // no more of them
	extra  []*copier

	mu    sync.Mutex
	broke bool // one of them ended early; guarded by mu while they run
}

// newLines watches what cp fetches over c.
func newLines(ctx context.Context, a *account, cp *copier) *lines {
	now, done := time.Now(), a.progress.OctetsDone.Load()
	return &lines{a: a, ctx: ctx, main: cp, began: now, first: done, looked: now, start: done, full: a.single}
}

// look is called as messages come, and judges once a second.
func (l *lines) look(c *remote.Client) {
	if l.full || c.RTT() < l.a.lines.far {
		return
	}
	took := time.Since(l.looked)
	if took < l.a.lines.look {
		return
	}
	done := l.a.progress.OctetsDone.Load()
	rate := float64(done-l.start) / took.Seconds()
	l.looked, l.start = time.Now(), done
	switch {
	case l.main.q.left() < l.a.lines.worth, l.rate > 0 && rate < l.rate*l.a.lines.gain, len(l.extra) >= l.a.lines.most-1:
		l.full = true
		return
	}
	l.rate = rate
	dial, release, ok := l.a.another()
	if !ok {
		l.full = true
		return
	}
	cp := &copier{a: l.a, b: l.main.b, l: l.main.l, q: l.main.q, ctx: l.ctx, got: newMarks(len(l.main.l.entries)), trust: l.main.trust,
		exact: l.main.exact, oldest: true}
	l.extra = append(l.extra, cp)
	l.wg.Go(func() {
		defer release()
		if err := l.run(cp, dial); err != nil {
			l.mu.Lock()
			l.broke = true
			l.mu.Unlock()
			l.a.log.Info("a further connection for a mailbox ended", "mailbox", cp.b.shown, "error", err)
		}
	})
}

// run is one further connection. What it does not bring is asked for again.
func (l *lines) run(cp *copier, dial dialer) error {
	c, err := dial(l.ctx)
	if err != nil {
		return err
	}
	defer c.Logout()
	sel, err := c.Examine(l.ctx, cp.b.raw, remote.SelectOptions{})
	if err != nil {
		return err
	}
	if sel.UIDValidity != cp.b.validity {
		return backend.NewError(backend.KindConflict, "The mailbox has another UIDVALIDITY.")
	}
	return cp.run(c)
}

// join waits for all connections and takes over what they brought.
func (l *lines) join() {
	l.wg.Wait()
	for _, cp := range l.extra {
		for i := range cp.got.bits {
			l.main.got.bits[i] |= cp.got.bits[i]
		}
		l.main.got.n += cp.got.n
		for _, e := range cp.notes {
			l.main.b.note(e)
		}
	}
}

// slow reports whether the line is far and slow enough for compression.
func (l *lines) slow(c *remote.Client) bool {
	took := time.Since(l.began)
	done := l.a.progress.OctetsDone.Load() - l.first
	r := &l.a.lines
	return c.RTT() >= r.far && took > r.look && float64(done)/took.Seconds() < r.slow && c.CanCompress()
}
