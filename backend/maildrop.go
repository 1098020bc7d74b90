package backend

import (
	"context"
	"io"
	"iter"

	"github.com/emersion/go-imap/v2"
)

// MaildropReader is an Import that tells what POP3 will show of the user's
// INBOX, or shows of it already when the import is closed.
type MaildropReader interface {
	// Maildrop lists the INBOX in the order of POP3's message numbers.
	Maildrop(ctx context.Context) iter.Seq2[MaildropEntry, error]
}

// MaildropEntry is a message as POP3 lists it (RFC 1939 sections 5 and 7).
type MaildropEntry struct {
	UID  imap.UID
	UIDL string
	Size int64 // octets
}

// BodyOpener is a MailboxImport whose bodies can be read again.
type BodyOpener interface {
	// OpenBody opens the octets of a message that is filed. KindNotFound.
	OpenBody(ctx context.Context, uid imap.UID) (io.ReadCloser, error)
}
