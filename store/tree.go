package store

import (
	"context"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// What a new user gets besides INBOX (RFC 6154).
var defaultMailboxes = [...]struct {
	name backend.MailboxName
	use  imap.MailboxAttr
}{
	{"Drafts", imap.MailboxAttrDrafts}, {"Sent", imap.MailboxAttrSent}, {"Junk", imap.MailboxAttrJunk},
	{"Trash", imap.MailboxAttrTrash}, {"Archive", imap.MailboxAttrArchive},
}

func encodeAccountCreate(user uint64, now time.Time) []byte {
	e := encoder{}
	e.byte(cmdAccountCreate)
	e.uint(user)
	e.int(now.Unix())
	return e.b
}

// applyAccountCreate creates an account with its first mailboxes; one that is
// there stays as it is.
func applyAccountCreate(tx engine.Tx, d *decoder) ([]byte, error) {
	user, now := d.uint(), d.int()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	if _, ok := get(tx, userKey(prefixAccount, user)); ok {
		return nil, nil
	}
	m := &mutation{tx: tx, user: user, account: &accountRecord{State: accountActive}, opened: true}
	m.account.Inbox = m.create(backend.Inbox, nil, m.nextUIDValidity(now)).id
	tx.Set(nameKey(prefixSubscribe, user, backend.Inbox), present)
	for _, b := range defaultMailboxes {
		m.create(b.name, []imap.MailboxAttr{b.use}, m.nextUIDValidity(now))
		tx.Set(nameKey(prefixSubscribe, user, b.name), present)
	}
	m.commit()
	return nil, nil
}

// nextUIDValidity is above every one this user ever had, and usually the time,
// as clients of re-created users may remember an older one.
func (m *mutation) nextUIDValidity(now int64) uint32 {
	v := m.account.MaxUIDValidity + 1
	if now > int64(v) && now < 1<<32 {
		v = uint32(now)
	}
	m.noteUIDValidity(v)
	return v
}

func (m *mutation) noteUIDValidity(v uint32) {
	m.account.MaxUIDValidity = max(m.account.MaxUIDValidity, v)
	m.opened = true
}

// create adds a mailbox under a free name; UIDVALIDITY 0 makes it a NoSelect node.
func (m *mutation) create(name backend.MailboxName, use []imap.MailboxAttr, uidValidity uint32) *box {
	m.account.LastMailbox++
	m.opened, m.listing = true, true
	rec := &mailboxRecord{Name: name, UIDValidity: uidValidity, UIDNext: 1, HighestModSeq: 1, FirstRecent: 1,
		SpecialUse: use, NoSelect: uidValidity == 0}
	b := m.hold(&box{m: m, id: m.account.LastMailbox, rec: rec, changed: true, tableRead: true})
	m.setName(name, b.id)
	return b
}

func (m *mutation) setName(name backend.MailboxName, id uint64) {
	e := encoder{}
	e.uint(id)
	m.tx.Set(nameKey(prefixName, m.user, name), e.b)
}

// createParents adds the missing superiors of name.
func (m *mutation) createParents(name backend.MailboxName, now int64) {
	for p, ok := name.Parent(); ok; p, ok = p.Parent() {
		if _, exists := m.lookup(p); exists {
			return
		}
		m.create(p, nil, m.nextUIDValidity(now))
	}
}

func applyCreate(tx engine.Tx, d *decoder) ([]byte, error) {
	user, now, name := d.uint(), d.int(), backend.MailboxName(d.string())
	use := decodeStrings[imap.MailboxAttr](d)
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	id, exists := m.lookup(name)
	if !exists {
		m.createParents(name, now)
		m.create(name, use, m.nextUIDValidity(now))
		m.commit()
		return nil, nil
	}
	b, err := m.box(id)
	if err != nil {
		return nil, err
	}
	if !b.rec.NoSelect {
		return nil, backend.NewError(backend.KindExists, "mailbox exists")
	}
	b.rec.NoSelect, b.rec.UIDValidity = false, m.nextUIDValidity(now)
	b.rec.SpecialUse = use
	b.changed, m.listing = true, true
	m.commit()
	return nil, nil
}

// hasChildren reports whether a name has inferiors.
func (m *mutation) hasChildren(name backend.MailboxName) bool {
	lower := nameKey(prefixName, m.user, name+backend.NameSeparator)
	found := false
	scan(m.tx, lower, prefixEnd(lower), func(_, _ []byte) bool {
		found = true
		return false
	})
	return found
}

func applyDelete(tx engine.Tx, d *decoder) ([]byte, error) {
	user, name := d.uint(), backend.MailboxName(d.string())
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	if name == backend.Inbox {
		return nil, backend.NewError(backend.KindPermission, "INBOX cannot be deleted")
	}
	id, ok := m.lookup(name)
	if !ok {
		return nil, errNoMailbox
	}
	b, err := m.box(id)
	if err != nil {
		return nil, err
	}
	parent := m.hasChildren(name)
	if parent && b.rec.NoSelect {
		return nil, backend.NewError(backend.KindConflict, "mailbox has children")
	}
	more := m.drop(b)
	if parent {
		m.create(name, nil, 0)
	}
	m.commit()
	return answerBool(more), nil
}

func answerBool(v bool) []byte {
	e := encoder{}
	e.bool(v)
	return e.b
}

// drop takes a mailbox out of sight and begins to purge its messages; more is
// true when cmdPurge has to go on.
func (m *mutation) drop(b *box) (more bool) {
	b.gone, m.listing = true, true
	m.leaveName(b)
	m.tx.Delete(mailboxKey(prefixMailbox, m.user, b.id))
	side := mailboxKey(prefixSide, m.user, b.id)
	m.tx.DeleteRange(side, prefixEnd(side))
	m.tx.Publish(mailboxTopic(m.user, b.id))
	m.tx.Set(mailboxKey(prefixDoomed, m.user, b.id), present)
	_, more = purgeBox(m.tx, m.user, b.id, stepMessages)
	return more
}

// leaveName frees a mailbox's name and remembers its UIDVALIDITY: name,
// UIDVALIDITY and UID must never mean another message (RFC 9051 2.3.1.1).
func (m *mutation) leaveName(b *box) {
	m.tx.Delete(nameKey(prefixName, m.user, b.rec.Name))
	if b.rec.UIDValidity > m.grave(b.rec.Name) {
		e := encoder{}
		e.uint(uint64(b.rec.UIDValidity))
		m.tx.Set(nameKey(prefixGrave, m.user, b.rec.Name), e.b)
	}
}

// grave is the highest UIDVALIDITY that ever left a name.
func (m *mutation) grave(name backend.MailboxName) uint32 {
	raw, ok := get(m.tx, nameKey(prefixGrave, m.user, name))
	if !ok {
		return 0
	}
	d := decoder{b: raw}
	return d.uint32()
}

// purgeBox removes up to limit messages of a mailbox that is gone.
func purgeBox(tx engine.Tx, user, id uint64, limit int) (purged int, more bool) {
	lower := mailboxKey(prefixMessage, user, id)
	var found []entry
	scan(tx, lower, prefixEnd(lower), func(key, value []byte) bool {
		if len(found) == limit {
			more = true
			return false
		}
		found = append(found, entry{keyUID(key), must(decodeMessage(value))})
		return true
	})
	for _, f := range found {
		tx.ReleaseBody(f.rec.Body)
		tx.Delete(uidKey(prefixMessage, user, id, f.uid))
	}
	if !more {
		for _, prefix := range []byte{prefixModSeq, prefixStructure} {
			lower := mailboxKey(prefix, user, id)
			tx.DeleteRange(lower, prefixEnd(lower))
		}
		tx.Delete(mailboxKey(prefixKeywords, user, id))
		tx.Delete(mailboxKey(prefixDoomed, user, id))
	}
	return len(found), more
}

// applyPurge goes on with the mailboxes of a user that are gone. The answer
// says whether there is more to do.
func applyPurge(tx engine.Tx, d *decoder) ([]byte, error) {
	user := d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	lower := userKey(prefixDoomed, user)
	var doomed []uint64
	scan(tx, lower, prefixEnd(lower), func(key, _ []byte) bool {
		doomed = append(doomed, keyMailbox(key))
		return len(doomed) < stepMessages
	})
	left := stepMessages
	for _, id := range doomed {
		purged, more := purgeBox(tx, user, id, left)
		if left -= purged + 1; more || left <= 0 {
			return answerBool(true), nil
		}
	}
	return answerBool(false), nil
}

// purge repeats cmdPurge until nothing is left.
func (s *Store) purge(ctx context.Context, sh engine.Shard, user uint64) error {
	for {
		e := encoder{}
		e.byte(cmdPurge)
		e.uint(user)
		d, err := s.propose(ctx, sh, e.b)
		if err != nil || !d.bool() {
			return err
		}
	}
}

// applyAccountRemove takes an account out of sight; cmdPurge does the rest.
func applyAccountRemove(tx engine.Tx, d *decoder) ([]byte, error) {
	user := d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	var ids []uint64
	lower := userKey(prefixMailbox, user)
	scan(tx, lower, prefixEnd(lower), func(key, _ []byte) bool {
		ids = append(ids, keyMailbox(key))
		return true
	})
	for _, id := range ids {
		tx.Set(mailboxKey(prefixDoomed, user, id), present)
		tx.Publish(mailboxTopic(user, id))
	}
	for _, prefix := range []byte{prefixMailbox, prefixName, prefixGrave, prefixSubscribe, prefixSide} {
		lower := userKey(prefix, user)
		tx.DeleteRange(lower, prefixEnd(lower))
	}
	tx.Delete(userKey(prefixAccount, user))
	tx.Publish(listTopic(user))
	return nil, nil
}

func applySubscribe(tx engine.Tx, d *decoder) ([]byte, error) {
	user, name, on := d.uint(), backend.MailboxName(d.string()), d.bool()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	if on {
		tx.Set(nameKey(prefixSubscribe, user, name), present)
	} else {
		tx.Delete(nameKey(prefixSubscribe, user, name))
	}
	m.listing = true
	m.commit()
	return nil, nil
}

func applyClaimRecent(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id := d.uint(), d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	b, err := m.box(id)
	if err != nil {
		return nil, err
	}
	e := encoder{}
	e.uint(uint64(b.rec.FirstRecent))
	e.uint(uint64(b.rec.UIDNext))
	if b.rec.FirstRecent != b.rec.UIDNext {
		b.rec.FirstRecent, b.rec.Recent = b.rec.UIDNext, 0
		b.changed = true
		m.commit()
	}
	return e.b, nil
}
