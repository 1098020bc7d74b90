package store

import (
	"context"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Append is one message to append.
type Append struct {
	Mailbox      backend.MailboxName
	Flags        []imap.Flag
	InternalDate time.Time // zero: now
	Body         engine.StagedBody
	Structure    []byte // opaque, kept with the message, at most MaxStructure octets; may be nil
}

// Appended is where a message went.
type Appended struct {
	UIDValidity uint32
	UID         imap.UID
	ModSeq      uint64
}

// NewBody begins a body for Append.
func (a *Account) NewBody(ctx context.Context) (engine.BodyWriter, error) { return nil, nil }

// Append files messages, all of one mailbox, all or none (RFC 3502), durable
// when it returns. It takes the bodies over, whatever the outcome. KindNotFound:
// no such mailbox (TRYCREATE).
func (a *Account) Append(ctx context.Context, msgs ...Append) ([]Appended, error) { return nil, nil }
