package migrate

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
)

const (
	// hotMost bounds the users of a batch whose copies are kept hot.
	hotMost = 32
	// hotPoll is how often everything is looked at, whatever the store reports:
	// a store without NOTIFY reports on INBOX only.
	hotPoll = time.Minute
)

// stayHot follows the source as it reports changes, until ctx ends or an error:
// new mail is in the copy at once, and the last delta is small. poll bounds the
// time that a change stays unseen of which the store does not report.
func (a *account) stayHot(ctx context.Context, poll time.Duration) error {
	for {
		p, err := a.sync(ctx)
		if err == nil {
			err = p.err()
		}
		if err != nil {
			return err
		}
		if err := a.await(ctx, poll); err != nil {
			return err
		}
	}
}

// await returns when the source reports a change, has changed since the last
// pass, or poll has passed.
func (a *account) await(ctx context.Context, poll time.Duration) error {
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	seen, err := c.Notify(ctx)
	switch {
	case err == nil:
		if !a.stale(seen) {
			_, err = c.Idle(ctx, poll)
		}
		if err == nil {
			err = c.NotifyNone(ctx)
		}
	case backend.IsKind(err, backend.KindInvalid):
		err = a.awaitInbox(ctx, c, poll)
	}
	if err != nil {
		a.drop()
	}
	return err
}

// awaitInbox hears of one mailbox.
func (a *account) awaitInbox(ctx context.Context, c *remote.Client, poll time.Duration) error {
	b := a.boxes[backend.Inbox]
	if b == nil || !c.Has("IDLE") {
		t := time.NewTimer(poll)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{})
	if err != nil {
		return err
	}
	if sel.UIDValidity != b.validity || sel.Exists != b.total() || sel.HighestModSeq != b.modseq {
		return nil
	}
	_, err = c.Idle(ctx, poll)
	return err
}

// stale reports whether a mailbox's status is not that of the last pass.
func (a *account) stale(seen map[string]*remote.Status) bool {
	for _, b := range a.boxes {
		s := seen[b.raw]
		if b.hollow || s == nil {
			continue
		}
		if s.Messages != b.total() || s.UIDNext != 0 && s.UIDNext != b.next || s.HighestModSeq != 0 && s.HighestModSeq != b.modseq {
			return true
		}
	}
	return false
}

// followers keep the copies of users hot who wait for their flip.
type followers struct {
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup

	mu  sync.Mutex
	run map[string]*follower // guarded by mu
}

type follower struct {
	stop context.CancelFunc
	done chan struct{}
}

func newFollowers(ctx context.Context) *followers {
	f := &followers{run: make(map[string]*follower)}
	f.ctx, f.end = context.WithCancel(ctx)
	return f
}

// keep follows d's user, who was copied, until cool or close; within what the
// source may get of connections, and only while nobody else waits for one. The
// driver is the follower's from here on.
func (f *followers) keep(d *driver) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.run[d.user] != nil || len(f.run) >= hotMost || d.route.from == nil || f.ctx.Err() != nil {
		return
	}
	if !d.roomForHot() {
		return
	}
	ctx, stop := context.WithCancel(f.ctx)
	w := &follower{stop: stop, done: make(chan struct{})}
	f.run[d.user] = w
	f.wg.Go(func() {
		defer close(w.done)
		defer d.acct.close()
		d.log.Info("the copy is kept hot")
		for wait := d.e.timing.BackOff; ctx.Err() == nil; wait = min(2*wait, 64*d.e.timing.BackOff) {
			if d.roomForHot() {
				if err := d.stayHot(ctx); ctx.Err() == nil {
					d.log.Info("a hot copy has to wait", "error", err)
				}
			}
			await(ctx, nil, time.Now().Add(wait))
		}
	})
}

// errGivesWay ends a hot copy for which there is no room any more.
var errGivesWay = errors.New("others wait for its connection")

// stayHot follows the user until ctx ends, an error, or somebody waits for the
// connection.
func (d *driver) stayHot(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	d.host().keepsHot(&d.visitor, func() { end(errGivesWay) })
	defer d.host().keepsHot(&d.visitor, nil)
	err := d.acct.stayHot(ctx, hotPoll)
	d.acct.drop()
	if context.Cause(ctx) == errGivesWay {
		return errGivesWay
	}
	return err
}

// roomForHot reports whether a connection more would be in nobody's way.
func (d *driver) roomForHot() bool {
	room := d.e.hosts.further(d.host(), &d.visitor)
	if room == nil {
		return false
	}
	room.leave() // a pass takes it
	return true
}

// cool ends following a user and waits for it, before anybody else touches the
// copy.
func (f *followers) cool(user string) {
	f.mu.Lock()
	w := f.run[user]
	delete(f.run, user)
	f.mu.Unlock()
	if w != nil {
		w.stop()
		<-w.done
	}
}

// close ends all of them.
func (f *followers) close() {
	f.end()
	f.wg.Wait()
}
