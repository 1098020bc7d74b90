package store

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// Expunge removes the messages of a set (nil: of the mailbox) that have
// \Deleted. It returns their UIDs and the mailbox's HIGHESTMODSEQ after it. A
// large set is worked off in several steps.
func (a *Account) Expunge(ctx context.Context, mailbox uint64, uids imap.UIDSet) (imap.UIDSet, uint64, error) {
	return nil, 0, nil
}
