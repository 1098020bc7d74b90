package store

import (
	"context"
	"iter"
	"time"

	"github.com/emersion/go-imap/v2"

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
	UIDL         string // POP3; empty: the store's own form
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

// Snapshot is one consistent look at a mailbox for the length of a command.
// Close it. Not safe for concurrent use.
type Snapshot struct{}

// Snapshot opens a mailbox by id. KindNotFound when it is gone.
func (a *Account) Snapshot(ctx context.Context, mailbox uint64) (*Snapshot, error) { return nil, nil }

// Mailbox is the mailbox at the moment of the snapshot, Flags filled in.
func (s *Snapshot) Mailbox() Mailbox { return Mailbox{} }

// UIDs lists all UIDs, ascending.
func (s *Snapshot) UIDs() ([]imap.UID, error) { return nil, nil }

// Message reads one message. KindNotFound.
func (s *Snapshot) Message(uid imap.UID) (Message, error) { return Message{}, nil }

// Messages walks the messages of a set in ascending order; '*' must have been
// resolved. UIDs without a message are skipped.
func (s *Snapshot) Messages(set imap.UIDSet) iter.Seq2[Message, error] { return nil }

// Structure is the opaque blob given with Append, nil without one.
func (s *Snapshot) Structure(uid imap.UID) ([]byte, error) { return nil, nil }

// Changes walks everything with a modseq above since, by ascending modseq, each
// message once, without reading the rest of the mailbox.
func (s *Snapshot) Changes(since uint64) iter.Seq2[Change, error] { return nil }

// VanishedSince lists the messages of known that were expunged after modseq
// (RFC 7162 3.2.6); nil means 1:UIDNEXT-1. It is exact where the mailbox
// remembers its expunges since then, else every UID without a message.
func (s *Snapshot) VanishedSince(modseq uint64, known imap.UIDSet) (imap.UIDSet, error) {
	return nil, nil
}

// Close releases the snapshot; it may be called twice.
func (s *Snapshot) Close() {}

// OpenMessage opens the original octets. KindNotFound when the message was
// expunged in the meantime and its body is gone.
func (a *Account) OpenMessage(ctx context.Context, m Message) (engine.BodyReader, error) {
	return nil, nil
}
