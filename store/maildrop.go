package store

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Maildrop is the INBOX as POP3 shows it (RFC 1939), at one moment.
type Maildrop struct {
	Mailbox  uint64
	Messages []MaildropMessage // in POP3 order: message n is Messages[n-1]
	Size     int64             // octets of all messages

	uidValidity uint32
	format      backend.UIDLFormat
}

// MaildropMessage is one message; its octets are opened with
// Account.OpenMaildrop.
type MaildropMessage struct {
	UID   imap.UID
	order uint32 // a large maildrop is many of these: no gaps
	Size  int64
	body  engine.BodyID
	uidl  string // as stored
}

// Maildrop lists the INBOX. Messages that had a place in the maildrop of
// another store come first, in that order; the others follow by UID.
func (a *Account) Maildrop(ctx context.Context) (*Maildrop, error) {
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return readMaildrop(v, a.user)
}

func readMaildrop(v engine.View, u User) (*Maildrop, error) {
	id, err := findMailbox(v, u.ID, backend.Inbox)
	if err != nil {
		return nil, err
	}
	mb, err := readMailbox(v, u.ID, id)
	if err != nil {
		return nil, err
	}
	drop := &Maildrop{Mailbox: id, Messages: make([]MaildropMessage, 0, mb.Messages),
		uidValidity: mb.UIDValidity, format: u.UIDLFormat}
	lower := mailboxKey(prefixMessage, u.ID, id)
	it := v.Iter(lower, prefixEnd(lower))
	for ok := it.First(); ok; ok = it.Next() {
		r, err := decodeMessage(it.Value())
		if err != nil {
			return nil, closeWith(it, err)
		}
		drop.Messages = append(drop.Messages, MaildropMessage{UID: keyUID(it.Key()), Size: r.Size, order: r.POP3Order,
			body: r.Body, uidl: r.UIDL})
		drop.Size += r.Size
	}
	if err := closeWith(it, nil); err != nil {
		return nil, err
	}
	slices.SortStableFunc(drop.Messages, func(x, y MaildropMessage) int {
		return cmp.Compare(x.order-1, y.order-1) // 0, no order, becomes the highest
	})
	return drop, nil
}

// UIDL is the unique id of a message of the maildrop (RFC 1939 section 7): the
// octets that were stored, else what the user's format makes. Octets that
// cannot stand in a line of POP3 count as none.
func (d *Maildrop) UIDL(m *MaildropMessage) string {
	if m.uidl == "" || !printable(m.uidl) {
		return d.format.UIDL(d.uidValidity, m.UID)
	}
	return m.uidl
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// OpenMaildrop opens the original octets of a message of a maildrop.
// KindNotFound when it was expunged in the meantime.
func (a *Account) OpenMaildrop(ctx context.Context, m *MaildropMessage) (engine.BodyReader, error) {
	return a.OpenMessage(ctx, Message{UID: m.UID, Body: m.body})
}

// Remove expunges messages whether they have \Deleted or not; those that are
// gone already are no error. It is durable when it returns.
func (a *Account) Remove(ctx context.Context, mailbox uint64, uids []imap.UID) error {
	if len(uids) == 0 {
		return nil
	}
	_, _, err := a.expunge(ctx, mailbox, uidSetOf(uids), true)
	return err
}

// maildropLocks are the users with a POP3 session (RFC 1939 section 4: the
// session locks the maildrop).
type maildropLocks struct {
	mu   sync.Mutex
	held map[uint64]struct{}
}

// LockMaildrop gives the one POP3 session that a user may have on this node.
// unlock may be called more than once. ok is false while another has it.
func (a *Account) LockMaildrop() (unlock func(), ok bool) {
	l, user := &a.store.drops, a.user.ID
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.held[user]; taken {
		return nil, false
	}
	if l.held == nil {
		l.held = make(map[uint64]struct{})
	}
	l.held[user] = struct{}{}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, user)
	}), true
}
