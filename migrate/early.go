package migrate

import (
	"context"
	"fmt"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend/remote"
)

const (
	// So much is asked for early: about what a line takes in while a listing
	// ends.
	earlyOctets   = 8 << 20
	earlyMessages = 2000
)

// listBox opens a mailbox of the source and lists it, in one round trip where
// that can be. What does not fit is asked for anew, step by step.
func (a *account) listBox(ctx context.Context, c *remote.Client, b *box) (*remote.Selected, *listing, error) {
	if c.Queueable(b.raw) && b.known && b.status.Messages > 0 {
		l := newListing(&a.flags)
		// No garbage of growing lists; a count is a claim, so within reason.
		l.entries = make([]entry, 0, min(b.status.Messages, 1<<20)+64)
		q := &remote.MailboxListing{Raw: b.raw, Query: remote.FetchMeta{UIDs: "1:*", Items: remote.FetchAll}, Meta: l.add}
		if a.mayAskEarly(c, b) {
			q.Meta = (&early{c: c, l: l, of: q, rule: &a.lines, ids: a.asksIDs()}).add
		}
		if err := c.Listings(ctx, []*remote.MailboxListing{q}); err != nil {
			return nil, nil, fmt.Errorf("list %q: %w", b.raw, err)
		}
		if l.finish(); q.Err == nil && len(q.Gone) == 0 && len(l.entries) == int(q.Selected.Exists) {
			return q.Selected, l, nil
		}
	}
	sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{})
	if err != nil {
		return nil, nil, err
	}
	l, err := list(ctx, c, sel, &a.flags, remote.FetchAll)
	return sel, l, err
}

// mayAskEarly: the store is far away, and all that is listed is going to be
// copied in any order.
func (a *account) mayAskEarly(c *remote.Client, b *box) bool {
	return c.RTT() >= a.lines.far && !a.ordered && a.filter == nil && b.imp == nil && a.imported[b.name].Messages == 0
}

// early asks for the newest messages while the listing of their mailbox is still
// coming: the highest UIDs are known from the start, and what they weigh is
// guessed from those that are listed.
type early struct {
	c      *remote.Client
	l      *listing
	of     *remote.MailboxListing
	rule   *lineRule
	ids    bool // with those of their contents
	octets int64
	done   bool
}

func (e *early) add(m *remote.Meta) error {
	if err := e.l.add(m); err != nil || e.done {
		return err
	}
	n := len(e.l.entries)
	if n == 0 {
		return nil
	}
	e.octets += e.l.entries[n-1].cost()
	if n < e.rule.sample {
		return nil
	}
	e.done = true
	sel := e.of.Selected
	if int64(sel.Exists) < int64(n+e.rule.rest) || sel.UIDNext == 0 {
		return nil
	}
	return e.ask(imap.UID(sel.UIDNext), max(1, e.octets/int64(n)))
}

// ask sends sets of the UIDs below next, the highest first.
func (e *early) ask(next imap.UID, each int64) error {
	listed := e.l.entries[len(e.l.entries)-1].uid
	per := imap.UID(min(max(1, setOctets/each), setMessages))
	left := imap.UID(min(max(1, earlyOctets/each), earlyMessages))
	to := imap.UID(0) // "*": also what came since
	for left > 0 && next > listed+per {
		from := next - per
		if err := e.c.AskAhead(imap.UIDSet{{Start: from, Stop: to}}, each*int64(per), e.ids); err != nil {
			return err
		}
		next, to, e.l.asked = from, from-1, from
		left -= min(left, per)
	}
	return nil
}

// notAsked are the entries whose bodies nobody asked for yet. It says so once.
func (l *listing) notAsked(todo []entry) []entry {
	n := len(todo)
	for l.asked != 0 && n > 0 && todo[n-1].uid >= l.asked {
		n--
	}
	l.asked = 0
	return todo[:n]
}
