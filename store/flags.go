package store

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// FlagOp is what StoreFlags does with its flags.
type FlagOp uint8

// The operations of STORE.
const (
	FlagsReplace FlagOp = iota
	FlagsAdd
	FlagsRemove
)

// StoreFlags changes flags of the messages of a set; UIDs without a message are
// left out. changed are those whose flags are different now. With
// unchangedSince != 0, messages with a higher modseq stay as they are and are
// returned in failed (RFC 7162 3.1.3; a client's UNCHANGEDSINCE 0 fails for
// every message and must not come here). A large set is worked off in several
// steps: after an error some of it may be done.
func (a *Account) StoreFlags(ctx context.Context, mailbox uint64, uids imap.UIDSet, op FlagOp, flags []imap.Flag,
	unchangedSince uint64) (changed []Message, failed imap.UIDSet, err error) {
	return nil, nil, nil
}
