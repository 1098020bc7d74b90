package backend

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/emersion/go-imap/v2"
)

// Importer takes whole mailboxes with their old identity: our own store's side
// of a move. The imported user is invisible and closed to clients and delivery
// until Activate. Everything is idempotent: after a crash the caller repeats
// what it is not sure of. Safe for concurrent use.
type Importer interface {
	// Import begins or continues the import of user, whom it creates when
	// absent. KindConflict: the user is active here already (with mail of
	// their own), so nothing may be imported over them.
	Import(ctx context.Context, user string, o ImportOptions) (Import, error)
}

// ImportOptions are the user's world at the old store, kept for ever after.
type ImportOptions struct {
	Namespace Namespace
	// UIDLFormat is the pattern of the POP3 ids of messages for which none is
	// given; empty: as it was.
	UIDLFormat UIDLFormat
}

// Import is one user's running import. Safe for concurrent use.
type Import interface {
	// Open creates or continues a mailbox. When it exists under another
	// UIDVALIDITY it is emptied first and starts anew.
	Open(ctx context.Context, m ImportMailbox) (MailboxImport, error)
	// Mailboxes lists what is imported so far.
	Mailboxes(ctx context.Context) ([]ImportedMailbox, error)
	// Remove drops a mailbox that is gone from the source. KindNotFound is no error.
	Remove(ctx context.Context, name MailboxName) error
	// Subscriptions replaces the user's subscriptions; names need not exist.
	Subscriptions(ctx context.Context, names []MailboxName) error
	// Activate opens the user to clients and delivery under this epoch, after
	// every mailbox was sealed in the present hold. From then on the import is
	// closed (KindConflict) until Reopen.
	Activate(ctx context.Context, epoch uint64) error
	// Reopen takes an Activate back when the flip did not happen. KindConflict
	// when epoch is not that of the Activate.
	Reopen(ctx context.Context, epoch uint64) error
	// Digest sums up a mailbox for the compare in the hold.
	Digest(ctx context.Context, name MailboxName) (MailboxDigest, error)
}

// ImportMailbox describes a mailbox to open.
type ImportMailbox struct {
	Name        MailboxName
	UIDValidity uint32
	SpecialUse  []imap.MailboxAttr
	// NoSelect: a node of the hierarchy that holds no messages; UIDValidity is 0.
	NoSelect bool
	// LeftOut: the source has it, but nobody asked for it. Only Prepare is told,
	// so that it is not taken for one that is gone.
	LeftOut bool
}

// ImportedMailbox is the state of one imported mailbox.
type ImportedMailbox struct {
	ImportMailbox
	Messages      uint32
	UIDNext       uint32 // 0 before the first Seal
	HighestModSeq uint64 // 0 before the first Seal
	FirstRecent   uint32 // of the last Seal
	// Sealed: nothing was changed since the last Seal, and it counts for the
	// next Activate. SealedModSeq is the modseq that it stated.
	Sealed       bool
	SealedModSeq uint64
}

// MailboxImport takes the messages of one mailbox, in any order. Safe for
// concurrent use.
type MailboxImport interface {
	// NewBody begins the body of a message.
	NewBody(ctx context.Context) (BodyWriter, error)
	// Put files messages; durable when it returns. A UID that is there with the
	// same digest only gets the new flags and modseq; with another digest Put
	// fails with KindConflict. Bodies are taken over, whatever the outcome.
	Put(ctx context.Context, msgs []ImportMessage) error
	// SetFlags replaces flags and modseqs of messages that are there; unknown
	// UIDs are left out.
	SetFlags(ctx context.Context, updates []ImportFlags) error
	// Vanish removes messages that were expunged at the source at modseq (0:
	// unknown). They stay known as vanished, for QRESYNC.
	Vanish(ctx context.Context, uids imap.UIDSet, modseq uint64) error
	// Seal states the counters of the source. They only grow: KindInvalid for
	// a uidNext not above the highest UID. It may be called again in a later pass.
	Seal(ctx context.Context, uidNext uint32, highestModSeq uint64, firstRecent uint32) error
	// Messages lists what is there in UID order.
	Messages(ctx context.Context) iter.Seq2[ImportedMessage, error]
}

// POP3Import is a MailboxImport that takes POP3 identities apart from the
// messages: often they are known only when those have been filed.
type POP3Import interface {
	// SetPOP3 replaces the POP3 identity of messages that are there; unknown
	// UIDs are left out. It may be called before and after Seal.
	SetPOP3(ctx context.Context, ids []ImportPOP3) error
}

// ImportPOP3 is what POP3 shows of a message.
type ImportPOP3 struct {
	UID   imap.UID
	UIDL  string // opaque octets; empty: made by the user's UIDLFormat
	Order uint32 // place in the maildrop, from 1; 0: behind all others, by UID
}

// ImportMessage is one message with its old identity.
type ImportMessage struct {
	UID          imap.UID
	ModSeq       uint64 // 0: the source has none
	InternalDate time.Time
	SaveDate     time.Time // zero: unknown
	Flags        []imap.Flag
	UIDL         string // POP3; empty: made by the user's UIDLFormat
	Body         Body
}

// ImportFlags is a changed message.
type ImportFlags struct {
	UID    imap.UID
	ModSeq uint64
	Flags  []imap.Flag
}

// ImportedMessage is what the target has of a message.
type ImportedMessage struct {
	UID          imap.UID
	ModSeq       uint64
	InternalDate time.Time
	Flags        []imap.Flag
	Size         int64
	Digest       [32]byte // SHA-256 of the octets
}

// BodyWriter takes one message's octets; exactly one of Finish and Abort ends it.
type BodyWriter interface {
	io.Writer
	Finish() (Body, error)
	Abort()
}

// Body is a finished body that waits for its Put.
type Body interface {
	Size() int64
	Digest() [32]byte
	Discard()
}

// MailboxDigest sums up a mailbox. Two mailboxes with equal digests agree in
// UIDs, flags (case-folded, sorted) and counters. Messages is the sum modulo
// 2^256 of SHA-256 over (UID, flags), so that it can be kept incrementally and
// does not depend on order; see SumMessage.
type MailboxDigest struct {
	UIDValidity   uint32   `json:"uidvalidity"`
	UIDNext       uint32   `json:"uidnext"`
	HighestModSeq uint64   `json:"highestmodseq"`
	Count         uint32   `json:"count"`
	Messages      [32]byte `json:"-"`
}
