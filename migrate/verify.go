package migrate

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

func hexSum(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

func compareExceptions(x, y Exception) int {
	return cmp.Or(strings.Compare(x.Mailbox, y.Mailbox), cmp.Compare(x.UID, y.UID), strings.Compare(x.What, y.What))
}

// names are the mailboxes in order.
func (a *account) names() []backend.MailboxName {
	return slices.Sorted(maps.Keys(a.boxes))
}

// errDiffers: the two sides are not equal. Nothing may be flipped.
func errDiffers(box, format string, args ...any) error {
	return backend.Errorf(backend.KindConflict, "The copy differs from the old store.",
		"mailbox %q: %s", box, fmt.Sprintf(format, args...))
}

// compare proves, while nobody writes, that the target equals the source: the
// source's mailboxes and counters are asked for once more and must be those of
// the last pass; UIDs and flags of each mailbox that changed since they were
// last listed are listed again; the target gives its own digest. Skipped
// messages are a difference unless allowSkipped.
func (a *account) compare(ctx context.Context, allowSkipped bool) error {
	pl, err := a.survey(ctx)
	if err != nil {
		return err
	}
	if err := a.sameTree(ctx, pl); err != nil {
		return err
	}
	for _, p := range pl.boxes {
		b := a.boxes[p.name]
		if b.hollow {
			b.compared = true
			continue
		}
		if err := b.sameStatus(p); err != nil {
			return err
		}
		if len(b.skipped) > 0 && !allowSkipped {
			return errDiffers(b.shown, "%d messages could not be copied", len(b.skipped))
		}
		if err := a.sumSource(ctx, b); err != nil {
			return err
		}
		if err := a.compareBox(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// sameTree wants the same mailboxes on both sides.
func (a *account) sameTree(ctx context.Context, pl *plan) error {
	for _, p := range pl.boxes {
		if b := a.boxes[p.name]; b == nil || b.hollow != p.hollow {
			return errDiffers(p.shown, "not copied")
		}
	}
	have, err := a.imp.Mailboxes(ctx)
	if err != nil {
		return err
	}
	at := make(map[backend.MailboxName]bool, len(have))
	for _, m := range have {
		at[m.Name] = true
		if a.boxes[m.Name] == nil {
			return errDiffers(string(m.Name), "only at the new store")
		}
	}
	for name, b := range a.boxes {
		if !at[name] {
			return errDiffers(b.shown, "only at the old store")
		}
	}
	if len(pl.boxes) != len(a.boxes) {
		return errDiffers("", "%d mailboxes at the old store, %d copied", len(pl.boxes), len(a.boxes))
	}
	if !slices.Equal(pl.subscriptions, a.subs) {
		return errDiffers("", "subscriptions changed")
	}
	return nil
}

// sameStatus wants the source's counters to be those of the last pass.
func (b *box) sameStatus(p planned) error {
	s := p.status
	switch {
	case !p.known:
		return nil // the listing will tell
	case s.UIDValidity != b.validity:
		return errDiffers(b.shown, "UIDVALIDITY %d became %d", b.validity, s.UIDValidity)
	case s.Messages != b.total():
		return errDiffers(b.shown, "%d messages became %d", b.total(), s.Messages)
	case s.UIDNext != 0 && s.UIDNext != b.next:
		return errDiffers(b.shown, "UIDNEXT %d became %d", b.next, s.UIDNext)
	case s.HighestModSeq != b.modseq && s.HighestModSeq != 0:
		return errDiffers(b.shown, "HIGHESTMODSEQ %d became %d", b.modseq, s.HighestModSeq)
	}
	return nil
}

// sumAhead lists, before the hold, what compare would have to list in it, and
// every mailbox whose sum was carried on by deltas: what the hold proves stands
// on a full listing that is no older than the hold's slot. A mailbox that
// changes meanwhile costs the hold its delta, or a listing without modseqs.
func (a *account) sumAhead(ctx context.Context) error {
	for _, name := range a.names() {
		b := a.boxes[name]
		if b.hollow || b.summed && b.listed {
			continue
		}
		if err := a.relist(ctx, b); err != nil && !backend.IsKind(err, backend.KindConflict) {
			if brokenBy(err) {
				a.drop()
			}
			return err
		}
	}
	return nil
}

// sumSource lists UIDs and flags of a mailbox whose sum is not known; it has to
// be as the last pass left it.
func (a *account) sumSource(ctx context.Context, b *box) error {
	if b.summed {
		return nil
	}
	if err := a.relist(ctx, b); err != nil {
		return err
	}
	if !b.summed {
		return errDiffers(b.shown, "changed between status and listing")
	}
	return nil
}

// relist makes the ledger anew of a full listing, and the sum when the mailbox
// is as the last pass left it.
func (a *account) relist(ctx context.Context, b *box) error {
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{})
	if err != nil {
		return err
	}
	same := sel.HighestModSeq == b.modseq
	if sel.UIDValidity != b.validity || !same && b.modseq == 0 {
		return errDiffers(b.shown, "changed between status and listing")
	}
	l, err := list(ctx, c, sel, &a.flags, "")
	if err != nil {
		return err
	}
	sum, count := l.sum(b.skipped)
	if count != b.count {
		if b.modseq == 0 {
			return errDiffers(b.shown, "%d messages listed, %d copied", count, b.count)
		}
		same = false
	}
	same = same && l.modseq() <= sel.HighestModSeq // else it changed while it was listed
	if same && b.summed && sum != b.sum {          // the store's deltas left something out
		a.log.Warn("a listing contradicts the changes that the old store told", "mailbox", b.shown)
		b.modseq = 0 // the next pass compares message by message
	}
	b.listed, b.summed, b.ledger = true, same, nil
	if same {
		b.sum = sum
	}
	if b.modseq > 0 {
		b.ledger = newLedger(l)
	}
	return nil
}

func (a *account) compareBox(ctx context.Context, b *box) error {
	d, err := a.imp.Digest(ctx, b.name)
	if err != nil {
		return fmt.Errorf("digest of %q: %w", b.shown, err)
	}
	switch {
	case d.UIDValidity != b.validity:
		return errDiffers(b.shown, "UIDVALIDITY %d here, %d there", b.validity, d.UIDValidity)
	case d.Count != b.count:
		return errDiffers(b.shown, "%d messages here, %d there", b.count, d.Count)
	case d.UIDNext != b.next:
		return errDiffers(b.shown, "UIDNEXT %d here, %d there", b.next, d.UIDNext)
	case d.HighestModSeq < b.modseq:
		return errDiffers(b.shown, "HIGHESTMODSEQ %d here, %d there", b.modseq, d.HighestModSeq)
	case d.Messages != b.sum:
		return errDiffers(b.shown, "UIDs or flags differ: digest %s here, %s there", hexSum(b.sum), hexSum(d.Messages))
	}
	b.compared = true
	return nil
}
