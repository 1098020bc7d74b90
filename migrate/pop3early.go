package migrate

import (
	"context"

	"mailferry/backend/remote"
)

// earlyDrop is what POP3 of an old store that is far away lists, asked for while
// mail is copied: a session takes six round trips. It is a guess, which counts
// only if it names the messages of the copied INBOX, all of them and no others.
type earlyDrop struct {
	end  context.CancelFunc
	done chan struct{} // the session is over
	told chan struct{}
	// Valid when told is closed:
	list *remote.Maildrop
	err  error // of the dial

	taken bool
}

// askEarly begins to read the maildrop of a store that is far away, when a
// connection is free for it at once. endEarly ends it.
func (a *account) askEarly(ctx context.Context) {
	d := a.pop3
	if d == nil || d.dialEarly == nil || d.read || d.mode == POP3Never || a.ordered || a.early != nil || a.client == nil || a.client.RTT() < a.lines.far {
		return
	}
	dial, release, ok := d.dialEarly()
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &earlyDrop{end: cancel, done: make(chan struct{}), told: make(chan struct{})}
	a.early = e
	go func() {
		defer close(e.done)
		defer release()
		c, err := dial(ctx)
		if err == nil {
			defer c.Close(ctx)
			if list, err := c.Maildrop(ctx); err == nil {
				e.list = list
			}
		}
		e.err = err
		close(e.told)
	}()
}

// takeEarly waits for the list, if it was asked for, and gives it once; err is
// that of the dial.
func (a *account) takeEarly(ctx context.Context) (*remote.Maildrop, error) {
	e := a.early
	if e == nil || e.taken {
		return nil, nil
	}
	e.taken = true
	select {
	case <-e.told:
		return e.list, e.err
	case <-ctx.Done():
		return nil, nil // whoever asks next finds the context ended
	}
}

// endEarly gives up what was asked for early, and waits for its end.
func (a *account) endEarly() {
	if a.early != nil {
		a.early.end()
		<-a.early.done
		a.early = nil
	}
}

// byEarly gives the target its identities by a list that was read early. ok is
// false when the list has to be read anew.
func (a *account) byEarly(ctx context.Context, b *box, list *remote.Maildrop) (ok bool, err error) {
	if list == nil || list.NoUIDL {
		return false, nil
	}
	m, err := newMatcher(ctx, a, b, nil, list)
	if err != nil || list.Len() != len(m.uids) || list.Len() > 0 && !(m.closedForm() && m.byUID) {
		return false, err
	}
	return true, m.file()
}

// earlyPOP3 is dialPOP3 with a place that is free at once, if there is one.
func (d *driver) earlyPOP3() (dial func(context.Context) (*remote.POP3Client, error), release func(), ok bool) {
	if d.captures() { // a refused password must not be tried a second time
		return nil, nil, false
	}
	t, err := d.account()
	if err != nil {
		return nil, nil, false
	}
	pl := d.e.hosts.further(d.host(), &d.visitor)
	if pl == nil {
		return nil, nil, false
	}
	t.Dial, t.Raw = pl.dial, true
	return func(ctx context.Context) (*remote.POP3Client, error) {
		c, err := remote.DialPOP3(ctx, t)
		if err != nil {
			return nil, err
		}
		return remote.NewPOP3Client(c), nil
	}, pl.leave, true
}
