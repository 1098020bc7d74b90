package store

import (
	"context"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// checkName refuses what no client should create. Names that come with a move
// are taken as they are.
func checkName(name backend.MailboxName) error {
	bad := backend.NewError(backend.KindInvalid, "not a mailbox name")
	if len(name) > maxNameLength || !utf8.ValidString(string(name)) {
		return bad
	}
	for _, c := range name.Components() {
		if c == "" {
			return bad
		}
		for _, r := range c {
			if unicode.IsControl(r) {
				return bad
			}
		}
	}
	return nil
}

// Create creates a mailbox and its missing superiors (RFC 9051 6.3.4); a
// NoSelect one becomes selectable. KindExists.
func (a *Account) Create(ctx context.Context, name backend.MailboxName, specialUse []imap.MailboxAttr) (Mailbox, error) {
	if err := checkName(name); err != nil {
		return Mailbox{}, err
	}
	e := a.command(cmdCreate)
	e.int(a.store.now().Unix())
	e.string(string(name))
	encodeStrings(e, specialUse)
	if _, err := a.propose(ctx, e); err != nil {
		return Mailbox{}, err
	}
	return a.Mailbox(ctx, name)
}

// Delete removes a mailbox with its messages. With children it stays as a
// NoSelect node. KindNotFound; KindConflict for a NoSelect one with children;
// KindPermission for INBOX.
func (a *Account) Delete(ctx context.Context, name backend.MailboxName) error {
	e := a.command(cmdDelete)
	e.string(string(name))
	d, err := a.propose(ctx, e)
	if err != nil {
		return err
	}
	if d.bool() {
		if err := a.store.purge(ctx, a.shard, a.user.ID); err != nil {
			// The mailbox is gone; Sweep does the rest.
			a.store.log.Warn("purging a deleted mailbox", "user", a.user.Name, "error", err)
		}
	}
	return nil
}

// Rename gives a mailbox and its children a new name and creates missing
// superiors. Renaming INBOX moves its messages to a new mailbox and leaves its
// children (RFC 9051 6.3.6). KindNotFound, KindExists, KindInvalid.
func (a *Account) Rename(ctx context.Context, from, to backend.MailboxName) error {
	if err := checkName(to); err != nil {
		return err
	}
	if from == backend.Inbox {
		return a.renameInbox(ctx, to)
	}
	e := a.command(cmdRename)
	e.int(a.store.now().Unix())
	e.string(string(from))
	e.string(string(to))
	_, err := a.propose(ctx, e)
	return err
}

func (a *Account) renameInbox(ctx context.Context, to backend.MailboxName) error {
	inbox, err := a.Mailbox(ctx, backend.Inbox)
	if err != nil {
		return err
	}
	if _, err := a.Create(ctx, to, nil); err != nil {
		return err
	}
	_, err = a.Move(ctx, inbox.ID, allUIDs(), to)
	return err
}

// Subscribe adds or removes a subscription; the mailbox need not exist.
func (a *Account) Subscribe(ctx context.Context, name backend.MailboxName, on bool) error {
	if on {
		if err := checkName(name); err != nil {
			return err
		}
	}
	e := a.command(cmdSubscribe)
	e.string(string(name))
	e.bool(on)
	_, err := a.propose(ctx, e)
	return err
}

// ClaimRecent makes the recent messages those of the calling session (the first
// read-write SELECT): the messages with first <= UID < next are recent to it
// and to nobody after it. Read-only sessions look at Message.Recent instead.
func (a *Account) ClaimRecent(ctx context.Context, mailbox uint64) (first, next imap.UID, err error) {
	e := a.command(cmdClaimRecent)
	e.uint(mailbox)
	d, err := a.propose(ctx, e)
	if err != nil {
		return 0, 0, err
	}
	return imap.UID(d.uint32()), imap.UID(d.uint32()), d.end()
}
