package imapd

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
)

// qresyncParam is what a client that was here before knows (RFC 7162 section 3.2.5).
type qresyncParam struct {
	uidValidity uint32
	modseq      uint64
	known       line.NumSet // UIDs; nil: all
	given       bool
}

// runSelect is SELECT and EXAMINE. A failed SELECT leaves nothing selected.
func runSelect(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	var name backend.MailboxName
	nameErr := s.expectMailbox(c, &name)
	var q qresyncParam
	condstore := false
	if c.d.SP() {
		c.d.ExpectList(func() bool { return s.parseSelectParam(c.d, &q, &condstore) })
	}
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if q.given && !s.qresync {
		return bad("QRESYNC is not enabled")
	}
	if s.view != nil {
		s.unselect()
		if s.qresync {
			s.enc.Text("* OK [CLOSED] Previous mailbox closed").CRLF()
		}
	}
	if nameErr != nil {
		return nameErr
	}
	s.condstore = s.condstore || condstore
	return s.selectMailbox(ctx, name, c.name == "EXAMINE", q)
}

func (s *session) parseSelectParam(d *line.Decoder, q *qresyncParam, condstore *bool) bool {
	switch {
	case d.Word("CONDSTORE"):
		*condstore = true
		return true
	case d.Word("QRESYNC"):
		q.given = true
		d.ExpectSP()
		if !d.ExpectSpecial('(') || !d.ExpectNumber(&q.uidValidity) || !d.ExpectSP() || !d.ExpectNumber64(&q.modseq) {
			return false
		}
		var seqs, uids line.NumSet
		if d.SP() && d.NumSet(&q.known) {
			d.SP()
		}
		// The match data only saves traffic; it may be ignored.
		d.ListOf(func() bool { return d.NumSet(&seqs) || d.NumSet(&uids) })
		return d.ExpectSpecial(')')
	}
	return d.Fail("Unknown parameter")
}

func (s *session) selectMailbox(ctx context.Context, name backend.MailboxName, readOnly bool, q qresyncParam) error {
	mb, err := s.account.Mailbox(ctx, name)
	if err != nil {
		return err
	}
	if mb.NoSelect {
		return no("NONEXISTENT", "Mailbox holds no messages")
	}
	v := s.openView(mb, readOnly)
	if err := s.fillView(ctx, v, mb, q); err != nil {
		s.closeView(v)
		return err
	}
	s.view, s.state = v, stateSelected
	if readOnly {
		return okay("READ-ONLY", "Selected")
	}
	return okay("READ-WRITE", "Selected")
}

// fillView reads the mailbox and writes the untagged responses of SELECT.
func (s *session) fillView(ctx context.Context, v *view, mb store.Mailbox, q qresyncParam) error {
	if !v.readOnly && mb.Recent > 0 {
		first, next, err := s.account.ClaimRecent(ctx, mb.ID)
		if err != nil {
			return err
		}
		mb.FirstRecent, mb.UIDNext = first, next
		s.claimRecent(v, first, mb)
	}
	o, err := s.readView(ctx, v, q)
	if err != nil {
		return err
	}
	mb = o.mailbox
	s.writeFlags(v)
	s.enc.Text("* ").Number(uint64(len(v.uids))).Text(" EXISTS").CRLF()
	s.enc.Text("* ").Number(uint64(v.recentCount())).Text(" RECENT").CRLF()
	if o.unseen > 0 {
		s.enc.Text("* OK [UNSEEN ").Number(uint64(o.unseen)).Text("] First unseen message").CRLF()
	}
	s.enc.Text("* OK [UIDVALIDITY ").Number(uint64(mb.UIDValidity)).Text("] UIDs valid").CRLF()
	s.enc.Text("* OK [UIDNEXT ").Number(uint64(mb.UIDNext)).Text("] Predicted next UID").CRLF()
	s.enc.Text("* OK [HIGHESTMODSEQ ").Number(mb.HighestModSeq).Text("] Highest").CRLF()
	s.writeResync(v, o)
	return nil
}

// opening is what SELECT tells of a mailbox beyond its view.
type opening struct {
	mailbox store.Mailbox
	unseen  uint32
	// for QRESYNC
	gone    imap.UIDSet
	changes []store.Change
}

// readView fills the view and reads what is to be told, in one look.
func (s *session) readView(ctx context.Context, v *view, q qresyncParam) (o opening, err error) {
	snap, err := s.account.Snapshot(ctx, v.mailbox)
	if err != nil {
		return o, err
	}
	defer snap.Close()
	mb := snap.Mailbox()
	if v.uids, err = snap.UIDs(); err != nil {
		return o, err
	}
	v.modseq, v.flags = mb.HighestModSeq, mb.Flags
	s.claimRecent(v, mb.FirstRecent, mb)
	o.mailbox, o.unseen = mb, firstUnseen(snap, v)
	if q.given && q.uidValidity == mb.UIDValidity {
		err = o.readResync(snap, q)
	}
	return o, err
}

// firstUnseen finds the first message without \Seen. It gives up in a mailbox
// where that would mean to read very much: the answer is optional.
func firstUnseen(snap *store.Snapshot, v *view) uint32 {
	const most = 20000
	if snap.Mailbox().Unseen == 0 || len(v.uids) == 0 {
		return 0
	}
	n := uint32(0)
	for m, err := range snap.Messages(imap.UIDSet{{Start: 1, Stop: v.uids[len(v.uids)-1]}}) {
		n++
		if err != nil || n > most {
			return 0
		}
		if !hasFlag(m.Flags, imap.FlagSeen) {
			return v.seq(m.UID)
		}
	}
	return 0
}

// readResync reads what has changed since the client was here.
func (o *opening) readResync(snap *store.Snapshot, q qresyncParam) (err error) {
	var known imap.UIDSet
	if q.known != nil {
		known = q.known.Resolve(uint32(snap.Mailbox().UIDNext) - 1).UIDSet()
	}
	if o.gone, err = snap.VanishedSince(q.modseq, known); err != nil {
		return err
	}
	inKnown := line.FromUIDSet(known)
	for c, err := range snap.Changes(q.modseq) {
		if err != nil {
			return err
		}
		if !c.Vanished && (known == nil || inKnown.Contains(uint32(c.UID))) {
			o.changes = append(o.changes, c)
		}
	}
	return nil
}

// writeResync tells it (RFC 7162 section 3.2.5.1): vanished messages first, then
// flags.
func (s *session) writeResync(v *view, o opening) {
	if len(o.gone) > 0 {
		s.enc.Text("* VANISHED (EARLIER) ").NumSet(line.FromUIDSet(o.gone)).CRLF()
	}
	s.view = v // for the responses
	defer func() { s.view = nil }()
	for _, c := range o.changes {
		s.writeFlagsOf(v.seq(c.UID), store.Message{UID: c.UID, ModSeq: c.ModSeq, Flags: c.Flags}, true)
	}
}

// runClose expunges silently, unless the mailbox is read-only (RFC 3501 section 6.4.2).
func runClose(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	v := s.view
	defer s.unselect()
	if v.readOnly || v.dead {
		return nil
	}
	_, _, err := s.account.Expunge(ctx, v.mailbox, nil)
	return err
}

func runUnselect(_ context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.unselect()
	return nil
}
