package store

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Message is a message's index entry; its octets are opened with
// Account.OpenMessage.
type Message struct {
	UID          imap.UID
	ModSeq       uint64
	Flags        []imap.Flag // system flags first; never \Recent
	InternalDate time.Time   // seconds, with the zone offset it was given
	SaveDate     time.Time   // zero: unknown
	Size         int64
	Digest       [32]byte // SHA-256 of the octets
	Body         engine.BodyID
	UIDL         string // POP3; empty: made by the user's UIDLFormat
	Recent       bool   // not claimed yet, see Account.ClaimRecent
}

// Change is one entry of Snapshot.Changes.
type Change struct {
	UID      imap.UID
	ModSeq   uint64
	Flags    []imap.Flag // nil when Vanished
	Vanished bool
	New      bool // filed after the modseq that was asked for
}

var errNoMessage = backend.NewError(backend.KindNotFound, "no such message")

// Snapshot is one consistent look at a mailbox for the length of a command.
// Close it. Not safe for concurrent use.
type Snapshot struct {
	view       engine.View
	user       uint64
	mailbox    Mailbox
	table      keywordTable
	recent     imap.UID // the first one that is
	remembered uint64
	closed     bool
}

// Snapshot opens a mailbox by id. KindNotFound when it is gone.
func (a *Account) Snapshot(ctx context.Context, mailbox uint64) (*Snapshot, error) {
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newSnapshot(v, a.user.ID, mailbox)
	if err != nil {
		v.Close()
		return nil, err
	}
	return s, nil
}

// newSnapshot takes the view over when it succeeds.
func newSnapshot(v engine.View, user, mailbox uint64) (*Snapshot, error) {
	raw, err := v.Get(mailboxKey(prefixMailbox, user, mailbox))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, errNoMailbox
	}
	if err != nil {
		return nil, engineError(err)
	}
	rec, err := decodeMailbox(raw)
	if err != nil {
		return nil, engineError(err)
	}
	mb, err := readMailbox(v, user, mailbox)
	if err != nil {
		return nil, err
	}
	table, err := describe(v, user, &mb)
	if err != nil {
		return nil, err
	}
	return &Snapshot{view: v, user: user, mailbox: mb, table: table, recent: imap.UID(rec.FirstRecent),
		remembered: rec.Remembered}, nil
}

// Mailbox is the mailbox at the moment of the snapshot, Flags filled in.
func (s *Snapshot) Mailbox() Mailbox { return s.mailbox }

// UIDs lists all UIDs, ascending.
func (s *Snapshot) UIDs() ([]imap.UID, error) {
	lower := mailboxKey(prefixMessage, s.user, s.mailbox.ID)
	it := s.view.Iter(lower, prefixEnd(lower))
	uids := make([]imap.UID, 0, s.mailbox.Messages)
	for ok := it.First(); ok; ok = it.Next() {
		uids = append(uids, keyUID(it.Key()))
	}
	return uids, closeWith(it, nil)
}

// Message reads one message. KindNotFound.
func (s *Snapshot) Message(uid imap.UID) (Message, error) {
	raw, err := s.view.Get(uidKey(prefixMessage, s.user, s.mailbox.ID, uid))
	if errors.Is(err, engine.ErrNotFound) {
		return Message{}, errNoMessage
	}
	if err != nil {
		return Message{}, engineError(err)
	}
	return s.message(uid, raw)
}

func (s *Snapshot) message(uid imap.UID, raw []byte) (Message, error) {
	r, err := decodeMessage(raw)
	if err != nil {
		return Message{}, engineError(err)
	}
	m := showMessage(uid, r, s.table)
	m.Recent = uid >= s.recent
	return m, nil
}

// showMessage is a record as callers see it, Recent apart.
func showMessage(uid imap.UID, r *messageRecord, table keywordTable) Message {
	m := Message{UID: uid, ModSeq: r.ModSeq, Flags: table.flags(r.Flags), InternalDate: r.Date.time(), Size: r.Size,
		Digest: r.Digest, Body: r.Body, UIDL: r.UIDL}
	if r.Saved != 0 {
		m.SaveDate = time.Unix(r.Saved, 0).UTC()
	}
	return m
}

// Messages walks the messages of a set in ascending order; '*' must have been
// resolved. UIDs without a message are skipped.
func (s *Snapshot) Messages(set imap.UIDSet) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		err := s.walk(normalise(set), func(uid imap.UID, raw []byte) (bool, error) {
			m, err := s.message(uid, raw)
			return err == nil && yield(m, nil), err
		})
		if err != nil {
			yield(Message{}, err)
		}
	}
}

// walk calls fn for each message record of a normalised set until it returns
// false or an error.
func (s *Snapshot) walk(set imap.UIDSet, fn func(imap.UID, []byte) (bool, error)) error {
	if len(set) == 0 {
		return nil
	}
	lower, upper := uidBounds(prefixMessage, s.user, s.mailbox.ID, set[0].Start, set[len(set)-1].Stop)
	it := s.view.Iter(lower, upper)
	for _, r := range set {
		ok := it.SeekGE(uidKey(prefixMessage, s.user, s.mailbox.ID, r.Start))
		for ; ok; ok = it.Next() {
			uid := keyUID(it.Key())
			if uid > r.Stop {
				break
			}
			if more, err := fn(uid, it.Value()); err != nil || !more {
				return closeWith(it, err)
			}
		}
		if !ok {
			break
		}
	}
	return closeWith(it, nil)
}

// Structure is the opaque blob given with Append, nil without one.
func (s *Snapshot) Structure(uid imap.UID) ([]byte, error) {
	raw, err := s.view.Get(uidKey(prefixStructure, s.user, s.mailbox.ID, uid))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	return raw, engineError(err)
}

// Changes walks everything with a modseq above since, by ascending modseq, each
// message once, without reading the rest of the mailbox.
func (s *Snapshot) Changes(since uint64) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if since >= s.mailbox.HighestModSeq {
			return
		}
		it := s.view.Iter(modSeqKey(s.user, s.mailbox.ID, since+1, 0), prefixEnd(mailboxKey(prefixModSeq, s.user, s.mailbox.ID)))
		var err error
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			var c Change
			c, err = s.change(it.Key(), it.Value(), since)
			if err == nil && c.UID != 0 && !yield(c, nil) {
				break
			}
		}
		if err = closeWith(it, err); err != nil {
			yield(Change{}, err)
		}
	}
}

// change reads an entry of the modseq index. UID 0: the entry says nothing, as
// an import brought the message back after it vanished.
func (s *Snapshot) change(key, value []byte, since uint64) (Change, error) {
	c := Change{UID: keyUID(key), ModSeq: keyModSeq(key)}
	raw, err := s.view.Get(uidKey(prefixMessage, s.user, s.mailbox.ID, c.UID))
	missing := errors.Is(err, engine.ErrNotFound)
	if err != nil && !missing {
		return c, err
	}
	if len(value) == 1 && value[0] == indexVanished {
		if !missing {
			return Change{}, nil
		}
		c.Vanished = true
		return c, nil
	}
	if missing {
		return c, backend.Errorf(backend.KindBug, "", "modseq index names message %d that is not there", c.UID)
	}
	r, err := decodeMessage(raw)
	if err != nil {
		return c, err
	}
	c.Flags, c.New = s.table.flags(r.Flags), r.Created > since
	return c, nil
}

// VanishedSince lists the messages of known that were expunged after modseq
// (RFC 7162 3.2.6); nil means 1:UIDNEXT-1. It is exact where the mailbox
// remembers its expunges since then, else every UID without a message.
func (s *Snapshot) VanishedSince(modseq uint64, known imap.UIDSet) (imap.UIDSet, error) {
	if known == nil {
		known = allUIDs()
	}
	known = clip(normalise(known), 1, s.mailbox.UIDNext-1)
	if modseq < s.remembered {
		return s.missing(known)
	}
	var gone []imap.UID
	for c, err := range s.Changes(modseq) {
		if err != nil {
			return nil, err
		}
		if c.Vanished {
			gone = append(gone, c.UID)
		}
	}
	var set imap.UIDSet
	for _, r := range normalise(uidSetOf(gone)) {
		set = appendUIDs(set, clip(known, r.Start, r.Stop))
	}
	return set, nil
}

// uidSetOf is a set that is not normalised; imap.UIDSet.AddNum is quadratic on
// scattered numbers.
func uidSetOf(uids []imap.UID) imap.UIDSet {
	set := make(imap.UIDSet, len(uids))
	for i, uid := range uids {
		set[i] = imap.UIDRange{Start: uid, Stop: uid}
	}
	return set
}

// missing is the part of a set that has no message.
func (s *Snapshot) missing(set imap.UIDSet) (imap.UIDSet, error) {
	var out imap.UIDSet
	for _, r := range set {
		next := r.Start
		err := s.walk(imap.UIDSet{r}, func(uid imap.UID, _ []byte) (bool, error) {
			if uid > next {
				out = append(out, imap.UIDRange{Start: next, Stop: uid - 1})
			}
			next = uid + 1
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		if next <= r.Stop && next != 0 {
			out = append(out, imap.UIDRange{Start: next, Stop: r.Stop})
		}
	}
	return out, nil
}

// Close releases the snapshot; it may be called twice.
func (s *Snapshot) Close() {
	if !s.closed {
		s.closed = true
		s.view.Close()
	}
}

// OpenMessage opens the original octets. KindNotFound when the message was
// expunged in the meantime and its body is gone.
func (a *Account) OpenMessage(_ context.Context, m Message) (engine.BodyReader, error) {
	r, err := a.shard.OpenBody(m.Body)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, backend.Errorf(backend.KindNotFound, "no such message", "body %d of message %d: %w", m.Body, m.UID, err)
	}
	return r, engineError(err)
}
