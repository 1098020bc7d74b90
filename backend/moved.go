package backend

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// What an owner renames and moves at the old store while it is followed need
// not be read again: the new store has it, in another place.

// RenamingImport is an Import that takes renamed mailboxes along.
type RenamingImport interface {
	Import
	// Rename gives mailboxes other names with all they hold, all at once, so
	// that two may swap theirs. It is durable when it returns. A mailbox that has its new
	// name already is left alone: an interrupted Rename may be repeated.
	// KindNotFound: a mailbox of this name and UIDVALIDITY is not there.
	// KindExists: a new name is that of a mailbox that keeps it.
	Rename(ctx context.Context, moves []ImportRename) error
}

// ImportRename is the new name of one mailbox. Mailboxes below it keep theirs.
type ImportRename struct {
	From, To    MailboxName
	UIDValidity uint32 // of the mailbox, which has messages of its own
}

// CopyingImport is a MailboxImport that files messages with bodies that the
// import has under another UID or in another mailbox.
type CopyingImport interface {
	MailboxImport
	// PutCopies files messages like Put and gives the UIDs that are there
	// afterwards with the digest that was named. A message whose original is
	// not there, or has another size or digest, is left out.
	PutCopies(ctx context.Context, from MailboxName, copies []ImportCopy) (imap.UIDSet, error)
}

// ImportCopy is a message, and where its body is.
type ImportCopy struct {
	ImportMessage          // its Body is nil
	Original      imap.UID // in the mailbox that PutCopies names
	Size          int64
	Digest        [32]byte // SHA-256 of the octets
}
