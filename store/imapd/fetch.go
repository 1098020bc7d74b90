package imapd

import (
	"context"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/message"
)

// fetch is one running FETCH.
type fetch struct {
	s       *session
	c       *call
	items   []fetchItem
	uid     bool // UID is asked for, or implied
	modseq  bool
	flags   bool // FLAGS is asked for
	markSet bool // \Seen is to be set
}

func runFetch(ctx context.Context, s *session, c *call) error {
	a, err := s.parseFetch(c)
	if err != nil {
		return err
	}
	uids, err := s.messages(c, a.set, a.saved)
	if err != nil {
		return err
	}
	f := &fetch{s: s, c: c, items: a.items, uid: c.uid, modseq: a.changedSince > 0}
	for _, it := range a.items {
		switch {
		case it.name == "UID":
			f.uid = true
		case it.name == "MODSEQ":
			f.modseq = true
		case it.name == "FLAGS":
			f.flags = true
		case it.section != nil && !it.section.peek:
			f.markSet = !s.view.readOnly
		}
	}
	if f.modseq {
		s.useCondstore()
	}
	if len(uids) == 0 && !a.vanished {
		return nil
	}
	if s.view.dead {
		return s.expungeIssued(c, uids)
	}
	if a.vanished {
		if err := f.writeVanished(ctx, a); err != nil || len(uids) == 0 {
			return err
		}
	}
	met, err := f.each(ctx, uids, a.changedSince)
	if err == nil && !c.uid && met < s.view.count(uids) {
		return errExpungeIssued
	}
	return err
}

// writeVanished: RFC 7162 section 3.2.6.
func (f *fetch) writeVanished(ctx context.Context, a fetchArguments) error {
	snap, err := f.s.account.Snapshot(ctx, f.s.view.mailbox)
	if err != nil {
		return err
	}
	gone, err := snap.VanishedSince(a.changedSince, a.set.Resolve(uint32(snap.Mailbox().UIDNext)-1).UIDSet())
	snap.Close()
	if err == nil && len(gone) > 0 {
		f.s.enc.Text("* VANISHED (EARLIER) ").NumSet(line.FromUIDSet(gone)).CRLF()
	}
	return err
}

// each answers for every message of the set that is still there, and counts
// them.
func (f *fetch) each(ctx context.Context, uids imap.UIDSet, changedSince uint64) (met int, err error) {
	v := f.s.view
	err = f.s.eachMessage(ctx, uids, needStructure(f.items), func(m found) error {
		seq := v.seq(m.UID)
		if seq == 0 {
			return nil
		}
		if met++; m.ModSeq <= changedSince {
			return nil
		}
		err := f.message(ctx, seq, m)
		if backend.IsKind(err, backend.KindNotFound) {
			met-- // expunged in the meantime
			return nil
		}
		if err == nil && f.s.conn.Writer.Err() != nil {
			f.s.done = true
			return errAnswered
		}
		return err
	})
	return met, err
}

// message writes one FETCH response. Octets that cannot be read are found out
// before the response begins, as far as possible; what fails later ends the
// connection, as no other message can be told in the middle of a literal.
func (f *fetch) message(ctx context.Context, seq uint32, found found) error {
	s, m := f.s, found.Message
	marked := false
	if f.markSet && !hasFlag(m.Flags, imap.FlagSeen) {
		marked = f.mark(ctx, &m)
	}
	b := &bodies{ctx: ctx, s: s, blob: found.structure, m: m}
	defer b.close()
	if err := b.prepare(f.items); err != nil {
		return err
	}
	s.enc.Text("* ").Number(uint64(seq)).Text(" FETCH (")
	first := true
	item := func(name string) line.Encoder {
		if !first {
			s.enc.SP()
		}
		first = false
		return s.enc.Text(name)
	}
	if f.uid {
		item("UID ").Number(uint64(m.UID))
	}
	if slices.ContainsFunc(f.items, fetchItem.givesBody) {
		s.server.met.bodies.Inc()
	}
	for _, it := range f.items {
		switch {
		case it.section != nil:
			item(it.section.label).SP()
			b.writeSection(it.section)
		case it.name == "UID", it.name == "MODSEQ":
		case it.name == "FLAGS":
			item("")
			s.writeFlagItem(m)
		case it.name == "INTERNALDATE":
			item("INTERNALDATE ").DateTime(m.InternalDate)
		case it.name == "RFC822.SIZE":
			item("RFC822.SIZE ").Number(uint64(m.Size))
		default:
			item(it.name).SP()
			b.writeStructure(it.name)
		}
	}
	if marked && !f.flags {
		item("")
		s.writeFlagItem(m)
	}
	if f.modseq || marked && s.condstore {
		item("MODSEQ (").Number(m.ModSeq).Text(")")
	}
	s.enc.Text(")").CRLF()
	return nil
}

// mark sets \Seen (RFC 3501 section 6.4.5: BODY[...] does it). A failure is no
// reason to keep the message from the client.
func (f *fetch) mark(ctx context.Context, m *store.Message) bool {
	changed, _, err := f.s.account.StoreFlags(ctx, f.s.view.mailbox, imap.UIDSetNum(m.UID), store.FlagsAdd, []imap.Flag{imap.FlagSeen}, 0)
	if err != nil {
		f.s.log.Warn("cannot set \\Seen", "err", err)
		return false
	}
	for _, n := range changed {
		m.Flags, m.ModSeq = n.Flags, n.ModSeq
		f.s.view.told[n.UID] = n.ModSeq
		f.s.view.wake()
	}
	return len(changed) > 0
}

// givesBody reports whether the item is part of a message's text, not only of
// its header.
func (it fetchItem) givesBody() bool {
	if it.section == nil {
		return false
	}
	switch it.section.Specifier {
	case message.SectionHeader, message.SectionFields, message.SectionFieldsNot, message.SectionMIME:
		return false
	}
	return true
}
