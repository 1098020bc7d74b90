package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// UIDVALIDITY should tell one mailbox of a name from another. Stores make it of
// the time, or give all mailboxes the same, and owners let mailboxes swap names.

var errAnother = errors.New("another mailbox has this name now")

// errReplaced: the next pass has to see what became of the one that had the name.
func errReplaced(box string) error {
	return backend.Errorf(backend.KindTemporary, "The old store has another mailbox of this name now.", "mailbox %q: %w", box, errAnother)
}

// replaced reports whether another mailbox was opened than b, although name and
// UIDVALIDITY are the same: stores make UIDVALIDITYs of the time, and two
// mailboxes that swap their names may share one. The next pass looks at it.
func (a *account) replaced(b *box, sel *remote.Selected) bool {
	object := hashID([]byte(sel.MailboxID))
	if _, ok := a.imp.(backend.RenamingImport); !ok || (object == idHash{}) {
		return false
	}
	if b.validity == sel.UIDValidity && (b.object == idHash{}) {
		b.object = a.objectOf(b.name, b.validity)
	}
	if b.validity == sel.UIDValidity && (b.object != idHash{}) && b.object != object {
		a.suspected(b)
		return true
	}
	b.object = object
	return false
}

func (a *account) suspected(b *box) {
	a.shelf.Lock()
	defer a.shelf.Unlock()
	if a.suspect == nil {
		a.suspect = make(map[backend.MailboxName]bool)
	}
	a.suspect[b.name] = true
}

// sealed tells why a mailbox could not be sealed. A UIDNEXT that went down under one
// UIDVALIDITY is that of another mailbox (RFC 9051, 2.3.1.1): made anew in the same
// second, or listed as one and opened as the other.
func (a *account) sealed(b *box, err error) error {
	if !backend.IsKind(err, backend.KindInvalid) {
		return fmt.Errorf("seal: %w", err)
	}
	if _, ok := a.imp.(backend.RenamingImport); ok {
		a.suspected(b)
		return fmt.Errorf("%w: seal: %w", errReplaced(b.raw), err)
	}
	return backend.Errorf(backend.KindTemporary, "The old store contradicts what it told before.", "seal: %w", err)
}

// stranger reports whether a listing is of another mailbox than the target has
// under its name, where no id tells: sizes and dates of common UIDs differ.
func (a *account) stranger(b *box, d *difference) bool {
	if _, ok := a.imp.(backend.RenamingImport); !ok || d.strange == 0 || d.strange*10 <= d.had-d.removed {
		return false
	}
	a.suspected(b)
	return true
}

// rewound reports that the old store gives UIDs again that it gave before: its
// UIDNEXT is lower than the target has it of the same UIDVALIDITY, although it
// must not go down (RFC 9051 2.3.1.1). What has these UIDs now is another thing.
func (a *account) rewound(ctx context.Context, b *box, sel *remote.Selected, l *listing) (bool, error) {
	if _, ok := a.imp.(backend.RenamingImport); !ok || sel.UIDNext == 0 {
		return false, nil
	}
	d, err := a.imp.Digest(ctx, b.name)
	if err != nil {
		return false, err
	}
	next := b.nextOf(sel, l)
	if d.UIDNext > next {
		a.log.Info("the old store gives UIDs a second time", "mailbox", b.shown, "uidvalidity", sel.UIDValidity, "uidnext", next, "before", d.UIDNext)
	}
	return d.UIDNext > next, nil
}

// likenesses finds the mailboxes that could be taken for each other, were they to
// change places: those that share a UIDVALIDITY, unless an OBJECTID tells them
// apart once they are opened, and those with the same counters, which would not
// be opened. The survey asks for no MAILBOXID: in the STATUS of a LIST Cyrus 3.6
// tells memory that it has given back in its place.
func (a *account) likenesses(have map[backend.MailboxName]heldBox) {
	type counters struct {
		validity, next, count uint32
		modseq                uint64
	}
	of := func(h heldBox) counters { return counters{h.UIDValidity, h.next, h.count, h.modseq} }
	validities, same := make(map[uint32]int), make(map[counters]int)
	for _, h := range have {
		if h.count > 0 {
			validities[h.UIDValidity]++
			same[of(h)]++
		}
	}
	a.shared, a.twins = make(map[uint32]bool), make(map[backend.MailboxName]bool)
	for name, h := range have {
		if h.count == 0 {
			continue
		}
		if h.object == (idHash{}) && validities[h.UIDValidity] > 1 {
			a.shared[h.UIDValidity] = true
		}
		if same[of(h)] > 1 {
			a.twins[name] = true
		}
	}
}

// tellTwins asks for the OBJECTIDs of mailboxes that look alike, in one round trip
// for all: those that are what they were need no further look.
func (a *account) tellTwins(ctx context.Context, pl *plan) error {
	var raws []string
	var twins []*box
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	for _, p := range pl.boxes {
		b := a.boxes[p.name]
		if !a.twins[p.name] || b == nil || !b.unchanged(p) || !c.Queueable(p.raw) {
			continue
		}
		if b.object == (idHash{}) {
			b.object = a.objectOf(b.name, b.validity)
		}
		if b.object != (idHash{}) {
			raws, twins = append(raws, p.raw), append(twins, b)
		}
	}
	opened, err := c.ExamineEach(ctx, raws)
	if err != nil {
		a.drop()
		return fmt.Errorf("mailboxes that look alike: %w", err)
	}
	for i, sel := range opened {
		if b := twins[i]; sel != nil && sel.UIDValidity == b.validity && hashID([]byte(sel.MailboxID)) == b.object {
			delete(a.twins, b.name)
		}
	}
	return nil
}

// looksOther asks for some of the oldest messages of a mailbox that another one
// could have changed places with, before its changes are believed to be its own.
func (a *account) looksOther(ctx context.Context, c *remote.Client, b *box) (bool, error) {
	if _, ok := a.imp.(backend.RenamingImport); !ok || b.object != (idHash{}) || !a.shared[b.validity] {
		return false, nil
	}
	const most = 8
	have := make(map[imap.UID]backend.ImportedMessage, most)
	var set imap.UIDSet
	for m, err := range b.imp.Messages(ctx) {
		if err != nil {
			return false, fmt.Errorf("list the target: %w", err)
		}
		have[m.UID] = m
		if set.AddNum(m.UID); len(have) == most {
			break
		}
	}
	if len(have) == 0 {
		return false, nil
	}
	l := newListing(&a.flags)
	if _, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: set.String(), Items: remote.FetchAll}, l.add); err != nil {
		return false, err
	}
	l.finish()
	exact := c.Profile().ExactSizes
	both, other := 0, 0
	for i := range l.entries {
		e := &l.entries[i]
		m, ok := have[e.uid]
		if !ok {
			continue
		}
		both++
		if l.differs(e, m, exact) {
			other++
		}
	}
	return other*2 > both, nil
}

// differs reports whether what a listing tells of a message for good is not
// what the target has of it.
func (l *listing) differs(e *entry, m backend.ImportedMessage, exact bool) bool {
	return exact && int64(e.size) != m.Size || e.date != noDate && l.at(e) != m.InternalDate.Unix()
}

// anewMost is how often a mailbox is dropped for another of its name while one
// process follows it. A store that shows another each time is not followed for
// ever.
const anewMost = 5

// settleSuspects drops what the target has under names that other mailboxes
// have now.
func (a *account) settleSuspects(ctx context.Context, pl *plan, moves []backend.ImportRename) error {
	for name := range a.suspect {
		if slices.ContainsFunc(moves, func(m backend.ImportRename) bool { return m.To == name }) {
			continue
		}
		if a.anew[name] >= anewMost {
			return backend.Errorf(backend.KindInvalid, "The old store shows another mailbox under one name again and again.",
				"mailbox %q was copied anew %d times", strings.ReplaceAll(string(name), backend.NameSeparator, "/"), anewMost)
		}
		a.log.Info("another mailbox has the name of one that was copied: copied anew", "mailbox", string(name))
		if err := a.forsake(ctx, name); err != nil {
			return err
		}
		if a.anew == nil {
			a.anew = make(map[backend.MailboxName]int)
		}
		a.anew[name]++
	}
	a.suspect = nil
	return nil
}
