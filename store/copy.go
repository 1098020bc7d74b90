package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// CopyResult is the content of COPYUID (RFC 4315 3). The n-th UID of Source
// became the n-th of Dest; both are ascending.
type CopyResult struct {
	UIDValidity  uint32
	Source, Dest imap.UIDSet
}

// Copy copies messages with flags, dates and UIDL-less identity to another (or
// the same) mailbox: all or none. KindNotFound: no such target (TRYCREATE).
func (a *Account) Copy(ctx context.Context, mailbox uint64, uids imap.UIDSet, to backend.MailboxName) (CopyResult, error) {
	return CopyResult{}, nil
}

// Move is Copy and the removal of the originals, each message at once in both
// (RFC 6851 3.3); a large set is worked off in several steps.
func (a *Account) Move(ctx context.Context, mailbox uint64, uids imap.UIDSet, to backend.MailboxName) (CopyResult, error) {
	return CopyResult{}, nil
}
