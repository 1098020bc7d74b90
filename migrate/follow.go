package migrate

import (
	"context"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// follow brings b up to date: by QRESYNC or CONDSTORE when the mailbox was
// synchronised before and the store has modseqs, else by merging two listings.
func (a *account) follow(ctx context.Context, c *remote.Client, b *box, res *pass) error {
	if err := a.opened(ctx, b); err != nil {
		return err
	}
	if b.imp != nil && b.modseq > 0 {
		done, err := a.resync(ctx, c, b, res)
		if done || err != nil {
			return err
		}
	}
	return a.merge(ctx, c, b, res)
}

// changes collects what a delta brought.
type changes struct {
	flags    []backend.ImportFlags
	fresh    *listing // UIDs from the old UIDNEXT on
	vanished imap.UIDSet
}

// resync applies a delta by modseq. done is false when only a merge can tell:
// another UIDVALIDITY, a modseq that went down, a count that does not fit.
func (a *account) resync(ctx context.Context, c *remote.Client, b *box, res *pass) (done bool, err error) {
	ch := &changes{fresh: newListing(&a.flags)}
	sel, qresync, listed, err := a.reopen(ctx, c, b, ch)
	if err != nil {
		return false, err
	}
	if sel.UIDValidity != b.validity || sel.HighestModSeq < b.modseq {
		return false, nil
	}
	if a.replaced(b, sel) {
		return false, errReplaced(b.raw)
	}
	switch other, err := a.looksOther(ctx, c, b); {
	case err != nil:
		return false, err
	case other:
		a.suspected(b)
		return false, errReplaced(b.raw)
	}
	if !qresync {
		if _, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: "1:*", ChangedSince: b.modseq}, a.changed(b, ch)); err != nil {
			return false, err
		}
	}
	if !listed {
		if err := a.listFresh(ctx, c, b, sel, ch); err != nil {
			return false, err
		}
	}
	gone := below(ch.vanished, imap.UID(b.next))
	exists := int(sel.Exists) // as of the listing; fetching takes longer
	removed := int(b.total()) + len(ch.fresh.entries) - exists
	if removed < 0 || removed > 0 && (!qresync || tooMany(removed, int(b.total()))) {
		return false, nil
	}
	res.Vanished += removed
	if err := a.apply(ctx, b, ch, gone, sel, res); err != nil {
		return false, err
	}
	found, err := a.filter.search(ctx, c)
	if err != nil {
		return false, err
	}
	a.wanted(b, ch.fresh, found)
	todo, err := a.unfiled(ctx, b, ch.fresh)
	if err != nil {
		return false, err
	}
	if err := a.fetch(ctx, c, b, todo, res); err != nil {
		return false, err
	}
	ch.fresh.dropped = todo.dropped
	d, err := a.imp.Digest(ctx, b.name)
	if err != nil {
		return false, err
	}
	b.skipRefused()
	if int(d.Count)+len(b.skipped)+int(b.filtered) != exists-len(ch.fresh.dropped) {
		return false, nil
	}
	b.count = d.Count
	b.account(ch)
	return true, a.seal(ctx, b, sel, ch.fresh)
}

// account carries the source's own sum on over a delta, so that a hold need not
// list the mailbox. The sum is known when the ledger counts what the store does;
// otherwise a listing tells it.
func (b *box) account(ch *changes) {
	b.listed = false
	if b.ledger == nil {
		return
	}
	b.ledger.apply(ch)
	sum, count := b.ledger.without(b.skipped)
	if b.ledger.broken || count != b.count || len(b.ledger.entries) != int(b.total()) {
		b.ledger = nil
		return
	}
	b.sum, b.summed = sum, true
}

// total counts the source's messages as last seen, those we skip or leave out
// included.
func (b *box) total() uint32 { return b.count + uint32(len(b.skipped)) + b.filtered }

// reopen selects b, with QRESYNC where it is offered. When the status said that
// something came, it lists that in the same round trip: listed tells so.
func (a *account) reopen(ctx context.Context, c *remote.Client, b *box, ch *changes) (sel *remote.Selected, qresync, listed bool, err error) {
	o := remote.SelectOptions{}
	if c.Has("QRESYNC") {
		switch err := c.Enable(ctx, "QRESYNC"); {
		case err == nil:
			o = remote.SelectOptions{QResync: &remote.QResync{UIDValidity: b.validity, ModSeq: b.modseq}, Changed: a.changed(b, ch)}
		case !backend.IsKind(err, backend.KindInvalid):
			return nil, false, false, err
		}
	}
	if b.known && b.status.UIDNext != b.next && c.Queueable(b.raw) {
		l := &remote.MailboxListing{Raw: b.raw, Options: o, Query: ch.query(b), Meta: ch.add(b)}
		if err := c.Listings(ctx, []*remote.MailboxListing{l}); err != nil {
			return nil, false, false, err
		}
		if l.Err == nil {
			ch.vanished = l.Selected.Vanished
			ch.vanished.AddSet(l.Gone)
			ch.fresh.finish()
			return l.Selected, o.QResync != nil, true, nil
		}
		*ch = changes{fresh: newListing(&a.flags)} // one of them was refused: by themselves
	}
	sel, err = c.Examine(ctx, b.raw, o)
	if o.QResync != nil && backend.IsKind(err, backend.KindInvalid) {
		*ch = changes{fresh: newListing(&a.flags)}
		o = remote.SelectOptions{}
		sel, err = c.Examine(ctx, b.raw, o)
	}
	if err == nil {
		ch.vanished = sel.Vanished
	}
	return sel, o.QResync != nil, false, err
}

// changed files the new flags of messages that the target has.
func (a *account) changed(b *box, ch *changes) func(*remote.Meta) error {
	return func(m *remote.Meta) error {
		if m.HasFlags && uint32(m.UID) < b.next && b.skipped[m.UID] == "" {
			ch.flags = append(ch.flags, backend.ImportFlags{UID: m.UID, ModSeq: m.ModSeq, Flags: a.flags.clean(m.Flags)})
		}
		return nil
	}
}

// query lists what came since the last pass. "n:*" also gives the highest
// message when it is below n (RFC 9051 6.4.9).
func (ch *changes) query(b *box) remote.FetchMeta {
	return remote.FetchMeta{UIDs: fmt.Sprintf("%d:*", b.next), Items: remote.FetchAll}
}

func (ch *changes) add(b *box) func(*remote.Meta) error {
	return func(m *remote.Meta) error {
		if uint32(m.UID) < b.next {
			return nil
		}
		return ch.fresh.add(m)
	}
}

func (a *account) listFresh(ctx context.Context, c *remote.Client, b *box, sel *remote.Selected, ch *changes) error {
	if sel.UIDNext == b.next || sel.Exists == 0 {
		return nil
	}
	gone, err := c.FetchMeta(ctx, ch.query(b), ch.add(b))
	ch.fresh.finish()
	ch.vanished.AddSet(gone)
	return err
}

// below cuts a set off at limit; VANISHED may name UIDs that never were.
func below(set imap.UIDSet, limit imap.UID) (out imap.UIDSet) {
	for _, r := range set {
		if r.Start < limit {
			out = append(out, imap.UIDRange{Start: r.Start, Stop: min(r.Stop, limit-1)})
		}
	}
	return out
}

// tooMany is the deletion guard: more than a tenth of a mailbox, and more than
// ten messages, go only after a second, independent listing.
func tooMany(removed, of int) bool { return removed > 10 && removed*10 > of }

// apply sends changed flags and removals of a delta to the target.
func (a *account) apply(ctx context.Context, b *box, ch *changes, gone imap.UIDSet, sel *remote.Selected, res *pass) error {
	for part := range slices.Chunk(ch.flags, 1000) {
		if err := b.imp.SetFlags(ctx, part); err != nil {
			return fmt.Errorf("set flags: %w", err)
		}
	}
	res.Flagged += len(ch.flags)
	if len(gone) > 0 {
		if err := b.imp.Vanish(ctx, gone, sel.HighestModSeq); err != nil {
			return fmt.Errorf("vanish: %w", err)
		}
		for uid := range b.skipped {
			if gone.Contains(uid) {
				delete(b.skipped, uid)
			}
		}
	}
	return nil
}

// merge makes the target equal to a full listing of the source.
func (a *account) merge(ctx context.Context, c *remote.Client, b *box, res *pass) error {
	sel, l, err := a.listBox(ctx, c, b)
	if err != nil {
		return err
	}
	if err := a.openBox(ctx, c, b, sel); err != nil {
		return err
	}
	switch back, err := a.rewound(ctx, b, sel, l); {
	case err != nil:
		return err
	case back:
		a.suspected(b)
		return errReplaced(b.raw)
	}
	b.skipped, b.filtered = nil, 0
	d, err := diff(ctx, l, b.imp)
	if err != nil {
		return err
	}
	if a.stranger(b, d) {
		return errReplaced(b.raw)
	}
	if tooMany(d.removed, d.had) {
		if err := a.confirmRemoval(ctx, b, d); err != nil {
			return err
		}
	}
	ch := &changes{flags: d.flags, fresh: &listing{}}
	res.Vanished += d.removed
	if err := a.applyMerge(ctx, b, ch, d, sel, res); err != nil {
		return err
	}
	found, err := a.filter.search(ctx, c)
	if err != nil {
		return err
	}
	a.wanted(b, d.missing, found)
	if err := a.fetch(ctx, c, b, d.missing, res); err != nil {
		return err
	}
	b.skipRefused()
	if dropped := d.missing.dropped; len(dropped) > 0 { // went while we copied
		l.entries = slices.DeleteFunc(l.entries, func(e entry) bool { return dropped[e.uid] })
	}
	b.summarize(l, sel)
	return a.seal(ctx, b, sel, l)
}

// summarize takes the sum of a full listing over.
func (b *box) summarize(l *listing, sel *remote.Selected) {
	b.sum, b.count = l.sum(b.skipped)
	b.count -= min(b.filtered, b.count)
	b.summed, b.listed, b.ledger = true, true, nil
	if sel.HighestModSeq > 0 {
		b.ledger = newLedger(l)
	}
}

func (a *account) applyMerge(ctx context.Context, b *box, ch *changes, d *difference, sel *remote.Selected, res *pass) error {
	for part := range slices.Chunk(ch.flags, 1000) {
		if err := b.imp.SetFlags(ctx, part); err != nil {
			return fmt.Errorf("set flags: %w", err)
		}
	}
	res.Flagged += len(ch.flags)
	if len(d.gone) == 0 {
		return nil
	}
	if err := b.imp.Vanish(ctx, d.gone, sel.HighestModSeq); err != nil {
		return fmt.Errorf("vanish: %w", err)
	}
	return nil
}

// openBox opens the target's mailbox; another UIDVALIDITY starts it anew.
func (a *account) openBox(ctx context.Context, c *remote.Client, b *box, sel *remote.Selected) error {
	if sel.UIDValidity == 0 {
		return backend.Errorf(backend.KindInvalid, "The old store gives no UIDVALIDITY.", "mailbox %q has no UIDVALIDITY", b.raw)
	}
	if a.replaced(b, sel) {
		return errReplaced(b.raw)
	}
	if b.validity != 0 && b.validity != sel.UIDValidity {
		b.note(Exception{Mailbox: b.shown, What: fmt.Sprintf("UIDVALIDITY changed from %d to %d: copied anew", b.validity, sel.UIDValidity)})
	}
	imp, err := a.imp.Open(ctx, backend.ImportMailbox{Name: b.name, UIDValidity: sel.UIDValidity, SpecialUse: b.special})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if b.validity != sel.UIDValidity {
		b.reread, b.proved = 0, 0
	}
	b.imp, b.validity = imp, sel.UIDValidity
	return nil
}

// difference is a full listing against what the target has.
type difference struct {
	missing *listing // at the source only
	flags   []backend.ImportFlags
	gone    imap.UIDSet // at the target only
	removed int
	had     int
	strange int // at both, with another size and another date
}

// diff merges two ascending streams of UIDs.
func diff(ctx context.Context, l *listing, imp backend.MailboxImport) (*difference, error) {
	d := &difference{missing: &listing{shared: l.shared, mapper: l.mapper, asked: l.asked}}
	i := 0
	for m, err := range imp.Messages(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list the target: %w", err)
		}
		d.had++
		for i < len(l.entries) && l.entries[i].uid < m.UID {
			d.missing.entries = append(d.missing.entries, l.entries[i])
			i++
		}
		if i == len(l.entries) || l.entries[i].uid > m.UID {
			d.gone.AddNum(m.UID)
			d.removed++
			continue
		}
		if e := &l.entries[i]; e.date != noDate && int64(e.size) != m.Size && l.at(e) != m.InternalDate.Unix() {
			d.strange++
		}
		if e := &l.entries[i]; e.modseq > m.ModSeq || !sameFlags(l.flags(e), m.Flags) {
			d.flags = append(d.flags, backend.ImportFlags{UID: m.UID, ModSeq: e.modseq, Flags: l.flags(e)})
		}
		i++
	}
	if rest := l.entries[i:]; len(d.missing.entries) == 0 {
		d.missing.entries = rest[:len(rest):len(rest)] // a first copy: no second list
	} else {
		d.missing.entries = append(d.missing.entries, rest...)
	}
	d.missing.finish()
	return d, nil
}

// sameFlags compares as a digest does.
func sameFlags(x, y []imap.Flag) bool {
	return backend.SumMessage(1, x) == backend.SumMessage(1, y)
}

// confirmRemoval lists the mailbox again over a connection of its own and
// keeps the removal only where both listings agree.
func (a *account) confirmRemoval(ctx context.Context, b *box, d *difference) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{})
	if err != nil {
		return err
	}
	again, err := list(ctx, c, sel, &a.flags, "")
	if err != nil {
		return err
	}
	for i := range again.entries {
		if sel.UIDValidity != b.validity || d.gone.Contains(again.entries[i].uid) {
			return backend.Errorf(backend.KindTemporary, "The old store's listing is not steady.",
				"mailbox %q: %d of %d messages would go, and a second listing disagrees", b.raw, d.removed, d.had)
		}
	}
	return nil
}

// nextOf is the UIDNEXT of the source.
func (b *box) nextOf(sel *remote.Selected, l *listing) uint32 {
	next := max(sel.UIDNext, uint32(l.highest())+1)
	if b.known && b.status.UIDValidity == sel.UIDValidity {
		next = max(next, b.status.UIDNext) // EXAMINE need not tell it
	}
	return next
}

// seal states the source's counters as of the EXAMINE that came before.
func (a *account) seal(ctx context.Context, b *box, sel *remote.Selected, l *listing) error {
	next := b.nextOf(sel, l)
	first := next
	if n := int(sel.Recent); n > 0 && n <= len(l.entries) && len(l.entries) == int(sel.Exists) {
		first = uint32(l.entries[len(l.entries)-n].uid)
	} else if b.firstRecent != 0 {
		first = min(b.firstRecent, next)
	}
	if err := b.imp.Seal(ctx, next, sel.HighestModSeq, first); err != nil {
		return a.sealed(b, err)
	}
	b.next, b.modseq, b.firstRecent, b.sealed = next, sel.HighestModSeq, first, true
	return a.noteObject(b)
}
