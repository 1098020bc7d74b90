package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// POP3Mode says whether the POP3 identities of a user are carried over.
type POP3Mode string

// POP3Auto: where the directory allows POP3 and the old store takes the login.
// POP3Always: a store that cannot be asked fails the move.
const (
	POP3Auto   POP3Mode = "auto" // and empty
	POP3Always POP3Mode = "always"
	POP3Never  POP3Mode = "never"
)

// Valid reports whether the mode is one of the three, or empty.
func (m POP3Mode) Valid() bool {
	return m == "" || m == POP3Auto || m == POP3Always || m == POP3Never
}

// POP3Certificate tells what became of the unique ids and the order that POP3
// clients know messages by.
type POP3Certificate struct {
	// Left says why they were not carried over; empty: they were.
	Left string `json:"left,omitempty"`
	// Form is the pattern that makes all ids of UIDs; empty: they are kept
	// one by one.
	Form     backend.UIDLFormat `json:"form,omitempty"`
	Messages int                `json:"messages"` // that the old store listed
	// How they were found: by a pattern, by order and size, by their header, by
	// all their octets.
	ByForm   int `json:"by_form"`
	BySize   int `json:"by_size,omitempty"`
	ByHeader int `json:"by_header,omitempty"`
	ByBody   int `json:"by_body,omitempty"`
	// Elsewhere were found in another mailbox than INBOX, which our POP3 does
	// not show; Unmatched nowhere.
	Elsewhere int `json:"elsewhere,omitempty"`
	Unmatched int `json:"unmatched,omitempty"`
	// Hidden are messages of the INBOX that the old POP3 did not show: clients
	// will fetch them.
	Hidden int `json:"hidden,omitempty"`
	// Compared: in the hold our POP3 listed the ids that the old one had, in
	// its order. Flipped says the same of the time behind the flip: "equal",
	// or the first difference.
	Compared bool   `json:"compared"`
	Flipped  string `json:"flipped,omitempty"`
	// Differ counts the ids of the old store that a foreign new one does not
	// show, or not in their place; IMAP cannot set them.
	Differ int `json:"differ,omitempty"`
}

// maildrop is what the engine knows of a user's POP3 identities.
type maildrop struct {
	dial  func(context.Context) (*remote.POP3Client, error)
	mode  POP3Mode
	force bool // flip although ids have no message
	// named: the configuration names a port for POP3, so somebody is to answer
	named bool
	// dialNew is dial for a foreign new store; foreignLeft: what is left is an
	// exception.
	dialNew     func(context.Context) (*remote.POP3Client, error)
	foreignLeft bool
	// dialEarly is dial with a connection that is free at once; nil or not ok: none.
	dialEarly func() (dial func(context.Context) (*remote.POP3Client, error), release func(), ok bool)

	cert POP3Certificate
	read bool // cert and what follows belong to the INBOX with these counters:
	at   inboxState
	// byUID: the old store lists by UID, so that with a form nothing has to
	// be asked again.
	byUID bool
	// ids are what the old store listed, in its order; nil with a form and byUID.
	ids   *remote.Maildrop
	found []imap.UID // of ids: in the INBOX; 0: not there
	order []uint32   // of ids: as it was given to the target
	// open are the ids without a message, as of the last reading.
	open map[string]bool
}

// inboxState tells two states of the INBOX apart.
type inboxState struct {
	validity, next, count uint32
}

// maildropTries is how often a maildrop that is in use is asked for, and
// maildropWait how long is waited in between.
const (
	maildropTries = 20
	maildropWait  = 100 * time.Millisecond
)

// identities reads what the old store shows by POP3 and gives it to the target,
// unless that is known already. Ids for which there is no message yet stay
// open: a later pass may bring it.
func (a *account) identities(ctx context.Context) error {
	d := a.pop3
	b := a.boxes[backend.Inbox]
	if d == nil || d.dial == nil || d.mode == POP3Never || b == nil || b.imp == nil && !a.ordered {
		return nil
	}
	at := inboxState{b.validity, b.next, b.count}
	if d.read && (d.at == at && len(d.open) == 0 || d.cert.Form != "" && d.byUID && d.at.validity == at.validity) {
		d.at = at
		return nil
	}
	if a.ordered {
		return a.foreignIDs(ctx, at)
	}
	if _, ok := b.imp.(backend.POP3Import); !ok {
		d.leave("the new store keeps no POP3 identities", at)
		return nil
	}
	list, err := a.takeEarly(ctx)
	if why := d.unavailable(err); why != "" {
		d.leave(why, at)
		return nil
	}
	if ok, err := a.byEarly(ctx, b, list); ok || err != nil {
		d.at = at
		return err
	}
	c, err := d.connect(ctx)
	if why := d.unavailable(err); why != "" {
		d.leave(why, at)
		return nil
	}
	if err != nil {
		return fmt.Errorf("POP3 of %s: %w", a.user, err)
	}
	defer c.Close(ctx)
	if list, err = c.Maildrop(ctx); err != nil {
		return fmt.Errorf("POP3 of %s: %w", a.user, err)
	}
	m, err := newMatcher(ctx, a, b, c, list)
	if err != nil {
		return err
	}
	if err := m.run(); err != nil {
		return fmt.Errorf("POP3 of %s: %w", a.user, err)
	}
	if err := m.file(); err != nil {
		return fmt.Errorf("POP3 of %s: %w", a.user, err)
	}
	d.at = at
	return nil
}

// leave notes why there is nothing to carry over.
func (d *maildrop) leave(why string, at inboxState) {
	*d = maildrop{dial: d.dial, dialNew: d.dialNew, dialEarly: d.dialEarly, mode: d.mode, force: d.force, named: d.named, read: true, at: at, byUID: true}
	d.cert.Left = why
	d.cert.Form = backend.UIDLCyrus // so that nothing is asked again
}

// connect dials; a maildrop that is locked by a session which just ends is
// asked for again.
func (d *maildrop) connect(ctx context.Context) (*remote.POP3Client, error) {
	for try := 1; ; try++ {
		c, err := d.dial(ctx)
		if err == nil || !backend.IsKind(err, backend.KindConflict) {
			return c, err
		}
		if try == maildropTries { // the user reads mail: later
			return nil, backend.Errorf(backend.KindTemporary, "The maildrop is in use.", "%w", err)
		}
		t := time.NewTimer(maildropWait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// unavailable says why a user is no POP3 user, if the error of a dial means
// that.
func (d *maildrop) unavailable(err error) string {
	if err == nil || d.mode == POP3Always {
		return ""
	}
	var op *net.OpError
	switch {
	case !d.named && errors.As(err, &op) && op.Op == "dial":
		return "the old store does not serve POP3"
	case backend.IsKind(err, backend.KindAuthentication), backend.IsKind(err, backend.KindPermission):
		return "the old store refuses this user's POP3 login"
	}
	return ""
}

// settled wants every id to have its message, before anybody is put on hold.
// again: ids are open that were not before; another pass may bring their mail.
func (a *account) settled(before map[string]bool) (again bool, err error) {
	d := a.pop3
	if d == nil || len(d.open) == 0 || d.force {
		return false, nil
	}
	for id := range d.open {
		if before[id] {
			return false, a.pop3Open()
		}
	}
	return true, nil
}

// pop3Open is the refusal of a flip for which POP3 clients would pay.
func (a *account) pop3Open() error {
	d := a.pop3
	return invalid("Messages that POP3 shows at the old store were not found.",
		"POP3 of %s: %d of %d unique ids have no message in INBOX, %d of them in other mailboxes: clients would fetch mail again; migrate with --force-pop3 to accept that",
		a.user, d.cert.Unmatched+d.cert.Elsewhere, d.cert.Messages, d.cert.Elsewhere)
}

// comparePOP3 wants our POP3 to list what the old one did, octet by octet.
func (a *account) comparePOP3(ctx context.Context) error {
	d := a.pop3
	if d == nil || !d.read || d.cert.Left != "" {
		return nil
	}
	if d.cert.Unmatched+d.cert.Elsewhere > 0 && !d.force {
		return a.pop3Open()
	}
	ours, ok := a.imp.(backend.MaildropReader)
	if !ok {
		return nil
	}
	if err := d.equal(ctx, ours, a.boxes[backend.Inbox], true); err != nil {
		return err
	}
	d.cert.Compared = true
	return nil
}

// flippedPOP3 looks once more, behind the flip, at what our POP3 shows. What
// came or went since is no difference.
func (a *account) flippedPOP3(ctx context.Context) {
	d := a.pop3
	if d == nil || !d.cert.Compared {
		return
	}
	ours, ok := a.imp.(backend.MaildropReader)
	if !ok {
		return
	}
	d.cert.Flipped = "equal"
	if err := d.equal(ctx, ours, a.boxes[backend.Inbox], false); err != nil {
		d.cert.Flipped = err.Error()
		a.log.Error("POP3 differs behind the flip", "error", err)
	}
}

// equal compares our list with the old store's. exact: message by message;
// otherwise messages may be missing or follow.
func (d *maildrop) equal(ctx context.Context, ours backend.MaildropReader, b *box, exact bool) error {
	var want expectation = &byForm{d.cert.Form, b.validity}
	if d.ids != nil {
		want = &byList{d: d}
	}
	n, listed := 0, uint32(0)
	for e, err := range ours.Maildrop(ctx) {
		if err != nil {
			return fmt.Errorf("maildrop: %w", err)
		}
		listed++
		if uint32(e.UID) >= b.next {
			continue // came since
		}
		uid, id, ok := want.next(e.UID)
		for !exact && ok && uid != e.UID {
			uid, id, ok = want.next(e.UID)
		}
		if !ok {
			continue // the old POP3 did not show it: it stands behind all others
		}
		n++
		if uid != e.UID || id != e.UIDL {
			return errDiffers(b.shown, "POP3 message %d: the old store lists %q (UID %d), the new one %q (UID %d)", n, id, uid, e.UIDL, e.UID)
		}
	}
	if uid, id, more := want.next(0); exact && more {
		return errDiffers(b.shown, "POP3 lists %d messages; %q (UID %d) is missing", listed, id, uid)
	}
	if exact && listed != b.count {
		return errDiffers(b.shown, "POP3 lists %d messages of %d", listed, b.count)
	}
	return nil
}

// expectation walks through the old store's list, as far as our POP3 shows it;
// asked is what ours has at this place.
type expectation interface {
	next(asked imap.UID) (uid imap.UID, id string, ok bool)
}

// byForm expects all messages by UID; in which order they come was seen when
// the list was read.
type byForm struct {
	form     backend.UIDLFormat
	validity uint32
}

func (f *byForm) next(asked imap.UID) (imap.UID, string, bool) {
	return asked, f.form.UIDL(f.validity, asked), asked != 0
}

// byList expects what was listed one by one.
type byList struct {
	d *maildrop
	i int
}

func (l *byList) next(imap.UID) (imap.UID, string, bool) {
	for l.i < l.d.ids.Len() {
		l.i++
		if uid := l.d.found[l.i-1]; uid != 0 {
			return uid, l.d.ids.UIDL(l.i - 1), true
		}
	}
	return 0, "", false
}

// certifyPOP3 adds what became of the POP3 identities.
func (a *account) certifyPOP3(c *Certificate) {
	d := a.pop3
	if d == nil || !d.read {
		return
	}
	cert := d.cert
	if cert.Left != "" {
		cert.Form = ""
	}
	c.POP3 = &cert
	note := func(n int, what string) {
		if n > 0 {
			c.Exception = append(c.Exception, Exception{Mailbox: "INBOX", What: fmt.Sprintf(what, n)})
		}
	}
	note(cert.Unmatched, "POP3: %d unique ids of the old store have no message here")
	note(cert.Elsewhere, "POP3: %d messages that the old store showed are in other mailboxes, which POP3 does not show here")
	note(cert.Differ, "POP3: %d unique ids of the old store are others at the new one, and IMAP cannot set them: POP3 clients fetch those messages again")
	if cert.Left != "" && d.foreignLeft {
		c.Exception = append(c.Exception, Exception{Mailbox: "INBOX", What: "POP3: " + cert.Left})
	}
	note(cert.Hidden, "POP3: %d messages that the old store did not show are shown here")
}
