package backend

import (
	"context"
	"iter"

	"github.com/emersion/go-imap/v2"
)

// Rereader is a MailboxImport that can prove what it filed: it reads bodies
// again from where they lie.
type Rereader interface {
	// Reread gives, in UID order, the messages for which pick says so. An error
	// that concerns one message, such as a body that cannot be read, ends it.
	Reread(ctx context.Context, pick func(imap.UID) bool) iter.Seq2[RereadMessage, error]
}

// RereadKeeper is a Rereader that remembers, over its process, up to where it
// was asked. What is filed later below that UID brings it back.
type RereadKeeper interface {
	Rereader
	// RereadUpTo is the last UID given to SetReread with this percentage or a
	// higher one; 0: none.
	RereadUpTo(percent int) imap.UID
	// SetReread says that of the messages up to this UID, percent were read again.
	SetReread(upTo imap.UID, percent int) error
}

// GroupRereader is an Import whose mailboxes are Rereaders far away.
type GroupRereader interface {
	// RereadAhead reads messages of many small mailboxes at once, so that the next
	// Reread of each, with the same pick, need not wait. It may leave any out.
	RereadAhead(ctx context.Context, picks map[MailboxName]func(imap.UID) bool) error
}

// RereadMessage is one message's body as it was read again.
type RereadMessage struct {
	UID    imap.UID
	Size   int64
	Digest [32]byte // SHA-256 of the octets read now
	SHA1   [20]byte // of the same octets: what Cyrus can tell of its messages
	// Filed is the digest that was made when the octets came in.
	Filed     [32]byte
	FiledSize int64
}
