package store

import (
	"context"
	"errors"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Account is one user's mailboxes. It is safe for concurrent use and holds no
// resources. It fails with KindUnavailable when the user is closed (a move)
// after it was opened.
type Account struct {
	store *Store
	shard engine.Shard
	user  User
}

// User is the record as of Store.Account.
func (a *Account) User() User { return a.user }

// Mailbox is a mailbox at one moment.
type Mailbox struct {
	ID            uint64 // never reused by this user, survives a rename
	Name          backend.MailboxName
	UIDValidity   uint32
	UIDNext       imap.UID
	HighestModSeq uint64
	Messages      uint32
	Unseen        uint32
	Deleted       uint32
	Recent        uint32 // that no read-write SELECT has claimed
	FirstRecent   imap.UID
	Size          int64
	SpecialUse    []imap.MailboxAttr
	Subscribed    bool
	NoSelect      bool
	HasChildren   bool
	Flags         []imap.Flag // keywords seen in this mailbox, oldest first
}

// view opens a snapshot of the account's shard, provided that clients may see
// the account.
func (a *Account) view(ctx context.Context) (engine.View, error) {
	v, err := a.store.view(ctx, a.shard)
	if err != nil {
		return nil, err
	}
	if err := a.visible(v); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (a *Account) visible(r engine.Reader) error {
	raw, err := r.Get(userKey(prefixAccount, a.user.ID))
	if err != nil {
		if errors.Is(err, engine.ErrNotFound) {
			return errNoAccount
		}
		return engineError(err)
	}
	rec, err := decodeAccount(raw)
	if err != nil {
		return engineError(err)
	}
	if rec.State != accountActive {
		return backend.NewError(backend.KindUnavailable, "mailbox is being moved")
	}
	return nil
}

// command begins a command for this account.
func (a *Account) command(cmd byte) *encoder {
	e := &encoder{b: make([]byte, 0, 256)}
	e.byte(cmd)
	e.uint(a.user.ID)
	return e
}

func (a *Account) propose(ctx context.Context, e *encoder, bodies ...engine.StagedBody) (*decoder, error) {
	return a.store.propose(ctx, a.shard, e.b, bodies...)
}

// Mailboxes lists all mailboxes by name, INBOX first. Flags is not filled in.
func (a *Account) Mailboxes(ctx context.Context) ([]Mailbox, error) {
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	subscribed, err := readSubscriptions(v, a.user.ID)
	if err != nil {
		return nil, err
	}
	isSubscribed := make(map[backend.MailboxName]bool, len(subscribed))
	for _, name := range subscribed {
		isSubscribed[name] = true
	}
	lower := userKey(prefixName, a.user.ID)
	it := v.Iter(lower, prefixEnd(lower))
	var list []Mailbox
	for ok := it.First(); ok; ok = it.Next() {
		d := decoder{b: it.Value()}
		rec, err := readMailbox(v, a.user.ID, d.uint())
		if err != nil {
			return nil, closeWith(it, err)
		}
		list = append(list, rec)
	}
	for i := range list {
		list[i].Subscribed = isSubscribed[list[i].Name]
		// Children sort right after their parent: the separator is the lowest octet.
		list[i].HasChildren = i+1 < len(list) && list[i+1].Name.Below(list[i].Name)
	}
	inboxFirst(list)
	return list, closeWith(it, nil)
}

func inboxFirst(list []Mailbox) {
	for i := range list {
		if list[i].Name == backend.Inbox {
			inbox := list[i]
			copy(list[1:i+1], list[:i])
			list[0] = inbox
			return
		}
	}
}

// readMailbox reads a mailbox's record; Subscribed, HasChildren and Flags are
// the caller's.
func readMailbox(r engine.Reader, user, id uint64) (Mailbox, error) {
	raw, err := r.Get(mailboxKey(prefixMailbox, user, id))
	if errors.Is(err, engine.ErrNotFound) {
		return Mailbox{}, errNoMailbox
	}
	if err != nil {
		return Mailbox{}, engineError(err)
	}
	rec, err := decodeMailbox(raw)
	if err != nil {
		return Mailbox{}, engineError(err)
	}
	return Mailbox{ID: id, Name: rec.Name, UIDValidity: rec.UIDValidity, UIDNext: imap.UID(rec.UIDNext),
		HighestModSeq: rec.HighestModSeq, Messages: rec.Messages, Unseen: rec.Unseen, Deleted: rec.Deleted,
		Recent: rec.Recent, FirstRecent: imap.UID(rec.FirstRecent), Size: rec.Size, SpecialUse: rec.SpecialUse, NoSelect: rec.NoSelect}, nil
}

// describe fills in what is not in the mailbox's record.
func describe(r engine.Reader, user uint64, mb *Mailbox) (keywordTable, error) {
	_, err := r.Get(nameKey(prefixSubscribe, user, mb.Name))
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		return nil, engineError(err)
	}
	mb.Subscribed = err == nil
	lower := nameKey(prefixName, user, mb.Name+backend.NameSeparator)
	it := r.Iter(lower, prefixEnd(lower))
	mb.HasChildren = it.First()
	if err := closeWith(it, nil); err != nil {
		return nil, err
	}
	table, err := readKeywords(r, user, mb.ID)
	for _, k := range table {
		mb.Flags = append(mb.Flags, imap.Flag(k))
	}
	return table, err
}

func readKeywords(r engine.Reader, user, mailbox uint64) (keywordTable, error) {
	raw, err := r.Get(mailboxKey(prefixKeywords, user, mailbox))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, engineError(err)
	}
	table, err := decodeKeywords(raw)
	return table, engineError(err)
}

func readSubscriptions(r engine.Reader, user uint64) ([]backend.MailboxName, error) {
	lower := userKey(prefixSubscribe, user)
	it := r.Iter(lower, prefixEnd(lower))
	var names []backend.MailboxName
	for ok := it.First(); ok; ok = it.Next() {
		names = append(names, keyName(it.Key()))
	}
	return names, closeWith(it, nil)
}

// Subscriptions lists subscribed names, which need not exist.
func (a *Account) Subscriptions(ctx context.Context) ([]backend.MailboxName, error) {
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return readSubscriptions(v, a.user.ID)
}

// Mailbox finds a mailbox by name. KindNotFound.
func (a *Account) Mailbox(ctx context.Context, name backend.MailboxName) (Mailbox, error) {
	v, err := a.view(ctx)
	if err != nil {
		return Mailbox{}, err
	}
	defer v.Close()
	id, err := findMailbox(v, a.user.ID, name)
	if err != nil {
		return Mailbox{}, err
	}
	mb, err := readMailbox(v, a.user.ID, id)
	if err != nil {
		return Mailbox{}, err
	}
	_, err = describe(v, a.user.ID, &mb)
	return mb, err
}

func findMailbox(r engine.Reader, user uint64, name backend.MailboxName) (uint64, error) {
	raw, err := r.Get(nameKey(prefixName, user, name))
	if errors.Is(err, engine.ErrNotFound) {
		return 0, errNoMailbox
	}
	d := decoder{b: raw}
	return d.uint(), engineError(err)
}

// Watch wakes after each change of the mailbox. Read the state after creating
// the watcher and after each wake-up.
func (a *Account) Watch(mailbox uint64) *engine.Watcher {
	return a.shard.Watch(mailboxTopic(a.user.ID, mailbox))
}

// WatchList wakes when mailboxes or subscriptions come, go or change names.
func (a *Account) WatchList() *engine.Watcher { return a.shard.Watch(listTopic(a.user.ID)) }
