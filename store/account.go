package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Account is one user's mailboxes. It is safe for concurrent use and holds no
// resources. Its writes fail with KindUnavailable when the user is closed (a
// move, a deletion) after it was opened.
type Account struct {
	store *Store
	shard engine.Shard
	user  User
}

// User is the record as of Store.Account.
func (a *Account) User() User { return a.user }

// Mailbox is a mailbox at one moment.
type Mailbox struct {
	ID            uint64 // never reused, survives a rename
	Name          backend.MailboxName
	UIDValidity   uint32
	UIDNext       imap.UID
	HighestModSeq uint64
	Messages      uint32
	Unseen        uint32
	Deleted       uint32
	Recent        uint32 // that no read-write SELECT has claimed
	Size          int64
	SpecialUse    []imap.MailboxAttr
	Subscribed    bool
	NoSelect      bool
	HasChildren   bool
	Flags         []imap.Flag // keywords seen in this mailbox, oldest first
}

// Mailboxes lists all mailboxes by name, INBOX first. Flags is not filled in.
func (a *Account) Mailboxes(ctx context.Context) ([]Mailbox, error) { return nil, nil }

// Subscriptions lists subscribed names, which need not exist.
func (a *Account) Subscriptions(ctx context.Context) ([]backend.MailboxName, error) { return nil, nil }

// Mailbox finds a mailbox by name. KindNotFound.
func (a *Account) Mailbox(ctx context.Context, name backend.MailboxName) (Mailbox, error) {
	return Mailbox{}, nil
}

// Create creates a mailbox and its missing superiors (RFC 9051 6.3.4); a
// NoSelect one becomes selectable. KindExists.
func (a *Account) Create(ctx context.Context, name backend.MailboxName, specialUse []imap.MailboxAttr) (Mailbox, error) {
	return Mailbox{}, nil
}

// Delete removes a mailbox with its messages. With children it stays as a
// NoSelect node. KindNotFound; KindConflict for a NoSelect one with children;
// KindPermission for INBOX.
func (a *Account) Delete(ctx context.Context, name backend.MailboxName) error { return nil }

// Rename gives a mailbox and its children a new name and creates missing
// superiors. Renaming INBOX moves its messages to a new mailbox and leaves its
// children (RFC 9051 6.3.6). KindNotFound, KindExists, KindInvalid.
func (a *Account) Rename(ctx context.Context, from, to backend.MailboxName) error { return nil }

// Subscribe adds or removes a subscription; the mailbox need not exist.
func (a *Account) Subscribe(ctx context.Context, name backend.MailboxName, on bool) error { return nil }

// ClaimRecent makes the recent messages those of the calling session (the first
// read-write SELECT): the messages with first <= UID < next are recent to it
// and to nobody after it. Read-only sessions look at Message.Recent instead.
func (a *Account) ClaimRecent(ctx context.Context, mailbox uint64) (first, next imap.UID, err error) {
	return 0, 0, nil
}

// Watch wakes after each change of the mailbox. Read the state after creating
// the watcher and after each wake-up.
func (a *Account) Watch(mailbox uint64) *engine.Watcher { return nil }

// WatchList wakes when mailboxes or subscriptions come, go or change names.
func (a *Account) WatchList() *engine.Watcher { return nil }
