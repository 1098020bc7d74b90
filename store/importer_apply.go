package store

import (
	"fmt"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// applyImportBegin closes a user for an import. The answer is whether the
// import is open; it is not after an Activate.
func applyImportBegin(tx engine.Tx, d *decoder) ([]byte, error) {
	user := d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := begin(tx, user)
	if err != nil {
		m = &mutation{tx: tx, user: user, account: &accountRecord{State: accountImporting, Generation: 1}, opened: true}
		m.commit()
		return answerBool(true), nil
	}
	if m.account.State == accountImporting {
		return answerBool(true), nil
	}
	if m.account.Epoch != 0 {
		return answerBool(false), nil
	}
	boxes := m.all()
	for _, b := range boxes {
		if b.rec.UIDNext > 1 {
			return nil, backend.NewError(backend.KindConflict, "user has mail in this store")
		}
	}
	for _, b := range boxes {
		m.drop(b)
	}
	subscriptions := userKey(prefixSubscribe, user)
	tx.DeleteRange(subscriptions, prefixEnd(subscriptions))
	m.account.State, m.account.Generation, m.account.Inbox = accountImporting, 1, 0
	m.opened = true
	m.commit()
	return answerBool(true), nil
}

// all reads every mailbox of the user.
func (m *mutation) all() []*box {
	var list []*box
	lower := userKey(prefixMailbox, m.user)
	scan(m.tx, lower, prefixEnd(lower), func(key, value []byte) bool {
		list = append(list, &box{m: m, id: keyMailbox(key), rec: must(decodeMailbox(value))})
		return true
	})
	for _, b := range list {
		m.hold(b)
	}
	return list
}

// applyImportOpen creates or continues a mailbox. The answer is its id and
// whether cmdPurge has to go on with a former one.
func applyImportOpen(tx engine.Tx, d *decoder) ([]byte, error) {
	user, name, validity := d.uint(), backend.MailboxName(d.string()), d.uint32()
	use := decodeStrings[imap.MailboxAttr](d)
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginImport(tx, user)
	if err != nil {
		return nil, err
	}
	e := encoder{}
	more := false
	if id, ok := m.lookup(name); ok {
		b, err := m.box(id)
		if err != nil {
			return nil, err
		}
		if b.rec.UIDValidity == validity {
			b.rec.SpecialUse, b.changed = use, true
			m.commit()
			e.uint(id)
			e.bool(false)
			return e.b, nil
		}
		more = m.drop(b)
	}
	b := m.create(name, use, validity)
	m.noteUIDValidity(validity)
	if name == backend.Inbox {
		m.account.Inbox = b.id
	}
	m.commit()
	e.uint(b.id)
	e.bool(more)
	return e.b, nil
}

func applyImportRemove(tx engine.Tx, d *decoder) ([]byte, error) {
	user, name := d.uint(), backend.MailboxName(d.string())
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginImport(tx, user)
	if err != nil {
		return nil, err
	}
	id, ok := m.lookup(name)
	if !ok {
		return answerBool(false), nil
	}
	b, err := m.box(id)
	if err != nil {
		return nil, err
	}
	if name == backend.Inbox {
		m.account.Inbox, m.opened = 0, true
	}
	more := m.drop(b)
	m.commit()
	return answerBool(more), nil
}

func applyImportSubscribe(tx engine.Tx, d *decoder) ([]byte, error) {
	user, names := d.uint(), decodeStrings[backend.MailboxName](d)
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginImport(tx, user)
	if err != nil {
		return nil, err
	}
	lower := userKey(prefixSubscribe, user)
	tx.DeleteRange(lower, prefixEnd(lower))
	for _, name := range names {
		tx.Set(nameKey(prefixSubscribe, user, name), present)
	}
	m.listing = true
	m.commit()
	return nil, nil
}

// importBox is the start of each command on one mailbox of an import.
func importBox(tx engine.Tx, user, id uint64) (*box, error) {
	m, err := beginImport(tx, user)
	if err != nil {
		return nil, err
	}
	b, err := m.box(id)
	if err != nil {
		return nil, err
	}
	if b.rec.NoSelect {
		return nil, errNoMailbox
	}
	return b, nil
}

// modSeq reads a modseq that another store gave: 63 bits (RFC 7162 3.1).
func (d *decoder) modSeq() uint64 {
	v := d.uint()
	if v > 1<<63-1 {
		d.fail()
		return 0
	}
	return v
}

// importModSeq is the modseq of an imported change: that of the source, or our
// own where the source has none.
func (b *box) importModSeq(given uint64) uint64 {
	if given == 0 {
		return b.nextModSeq()
	}
	b.changed = true
	b.rec.HighestModSeq = max(b.rec.HighestModSeq, given)
	return given
}

// importedMessage is one message of cmdImportPut; old is what is there.
type importedMessage struct {
	uid   imap.UID
	flags []imap.Flag
	rec   messageRecord
	old   *messageRecord
	// structure is kept with the message; nil: none came
	structure []byte
}

func (d *decoder) importedMessages(parsed bool) []importedMessage {
	list := make([]importedMessage, 0, putMessages)
	for range d.count() {
		m := importedMessage{uid: imap.UID(d.uint32())}
		m.rec.ModSeq = d.modSeq()
		m.flags = decodeStrings[imap.Flag](d)
		m.rec.Date, m.rec.Saved, m.rec.Size, m.rec.Digest, m.rec.UIDL = d.stamp(), d.int(), d.int(), d.sum(), d.string()
		if parsed {
			m.structure = d.bytes()
			m.rec.HasExtra = len(m.structure) > 0
		}
		if m.rec.Size < 0 {
			d.fail()
		}
		list = append(list, m)
	}
	return list
}

// applyImportPut is cmdImportPut, which brings no structures.
func applyImportPut(tx engine.Tx, d *decoder) ([]byte, error) { return applyPut(tx, d, false) }

// applyImportPutParsed is cmdImportPutParsed, which does.
func applyImportPutParsed(tx engine.Tx, d *decoder) ([]byte, error) { return applyPut(tx, d, true) }

func applyPut(tx engine.Tx, d *decoder, parsed bool) ([]byte, error) {
	user, id := d.uint(), d.uint()
	msgs := d.importedMessages(parsed)
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	b, err := importBox(tx, user, id)
	if err != nil {
		return nil, err
	}
	if err := b.checkPut(msgs); err != nil {
		return nil, err
	}
	if len(msgs) > 0 && tx.Body(len(msgs)-1) == 0 {
		return nil, errNoBody
	}
	for i := range msgs {
		m := &msgs[i]
		if m.old != nil {
			b.importFlags(m.uid, m.old, m.rec.Flags, m.rec.ModSeq)
			continue
		}
		m.rec.Body = tx.Body(i)
		tx.RetainBody(m.rec.Body)
		m.rec.ModSeq = b.importModSeq(m.rec.ModSeq)
		m.rec.Created = m.rec.ModSeq
		b.put(m.uid, &m.rec)
		b.fileExtra(m.uid, m.structure)
	}
	b.rec.Sealed = 0
	b.m.commit()
	return nil, nil
}

// checkPut reads what is there, interns flags, and refuses the whole command
// when one message contradicts what is there under its UID.
func (b *box) checkPut(msgs []importedMessage) (err error) {
	seen := make(map[imap.UID]bool, len(msgs))
	for i := range msgs {
		m := &msgs[i]
		if m.uid == 0 || m.uid > maxUID || seen[m.uid] {
			return backend.NewError(backend.KindInvalid, fmt.Sprintf("UID %d is not valid here", m.uid))
		}
		seen[m.uid] = true
		if raw, ok := get(b.m.tx, uidKey(prefixMessage, b.m.user, b.id, m.uid)); ok {
			m.old = must(decodeMessage(raw))
			if m.old.Digest != m.rec.Digest {
				return backend.NewError(backend.KindConflict, fmt.Sprintf("UID %d is there with other content", m.uid))
			}
		}
		if m.rec.Flags, err = b.intern(m.flags); err != nil {
			return err
		}
	}
	return nil
}

// importFlags gives a message the source's flags and modseq. Without a modseq
// of the source, equal flags are no change.
func (b *box) importFlags(uid imap.UID, old *messageRecord, flags flagSet, modseq uint64) {
	if old.Flags.equal(flags) && (modseq == 0 || modseq == old.ModSeq) {
		return
	}
	b.reflag(uid, old, flags, b.importModSeq(modseq))
}

func applyImportFlags(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id := d.uint(), d.uint()
	updates := make([]backend.ImportFlags, 0, 64)
	for range d.count() {
		updates = append(updates, backend.ImportFlags{UID: imap.UID(d.uint32()), ModSeq: d.modSeq(),
			Flags: decodeStrings[imap.Flag](d)})
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	b, err := importBox(tx, user, id)
	if err != nil {
		return nil, err
	}
	sets := make([]flagSet, len(updates))
	for i, u := range updates {
		if sets[i], err = b.intern(u.Flags); err != nil {
			return nil, err
		}
	}
	for i, u := range updates {
		if raw, ok := get(tx, uidKey(prefixMessage, user, id, u.UID)); ok {
			b.importFlags(u.UID, must(decodeMessage(raw)), sets[i], u.ModSeq)
		}
	}
	b.rec.Sealed, b.changed = 0, true
	b.m.commit()
	return nil, nil
}

func applyImportVanish(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, modseq, set := d.uint(), d.uint(), d.modSeq(), d.uidSet()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	b, err := importBox(tx, user, id)
	if err != nil {
		return nil, err
	}
	found, next := b.collect(set, stepMessages)
	for _, f := range found {
		b.remove(f.uid, f.rec, b.importModSeq(modseq))
	}
	b.rec.Sealed, b.changed = 0, true
	b.m.commit()
	e := encoder{}
	e.uint(uint64(next))
	return e.b, nil
}

func applyImportSeal(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, uidNext, modseq, firstRecent := d.uint(), d.uint(), d.uint32(), d.modSeq(), d.uint32()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	b, err := importBox(tx, user, id)
	if err != nil {
		return nil, err
	}
	if uidNext > maxUID || uint32(b.highestUID()) >= uidNext || uidNext < b.rec.UIDNext {
		return nil, backend.NewError(backend.KindInvalid,
			fmt.Sprintf("UIDNEXT %d is not above UID %d and UIDNEXT %d", uidNext, b.highestUID(), b.rec.UIDNext))
	}
	rec := b.rec
	rec.UIDNext = uidNext
	rec.HighestModSeq = max(rec.HighestModSeq, modseq)
	// What the source expunged before we knew the message is not in our index.
	rec.Remembered = rec.HighestModSeq
	if rec.FirstRecent = uidNext; firstRecent != 0 && firstRecent < uidNext {
		rec.FirstRecent = firstRecent
	}
	rec.Recent = b.countFrom(imap.UID(rec.FirstRecent))
	rec.Sealed, rec.SealedModSeq, b.changed = b.m.account.Generation, modseq, true
	b.m.commit()
	return nil, nil
}

// highestUID is that of the last message, 0 without one.
func (b *box) highestUID() imap.UID {
	lower := mailboxKey(prefixMessage, b.m.user, b.id)
	it := b.m.tx.Iter(lower, prefixEnd(lower))
	uid := imap.UID(0)
	if it.Last() {
		uid = keyUID(it.Key())
	}
	if err := it.Close(); err != nil {
		panic(fmt.Errorf("store: scan in apply: %w", err))
	}
	return uid
}

// countFrom counts the messages with at least this UID.
func (b *box) countFrom(first imap.UID) (n uint32) {
	lower, upper := uidBounds(prefixMessage, b.m.user, b.id, first, 1<<32-1)
	scan(b.m.tx, lower, upper, func(_, _ []byte) bool {
		n++
		return true
	})
	return n
}

func applyImportActivate(tx engine.Tx, d *decoder) ([]byte, error) {
	user, epoch := d.uint(), d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := begin(tx, user)
	if err != nil {
		return nil, err
	}
	switch a := m.account; {
	case a.State == accountActive && a.Epoch == epoch && epoch != 0:
		return nil, nil // done before
	case a.State == accountActive, epoch <= a.Fence:
		return nil, backend.NewError(backend.KindConflict, "another epoch decided")
	case a.Inbox == 0:
		return nil, backend.NewError(backend.KindInvalid, "import has no INBOX")
	}
	for _, b := range m.all() {
		if !b.rec.NoSelect && b.rec.Sealed != m.account.Generation {
			return nil, backend.NewError(backend.KindInvalid, fmt.Sprintf("mailbox %q is not sealed", b.rec.Name))
		}
	}
	m.account.State, m.account.Epoch = accountActive, epoch
	m.opened, m.listing = true, true
	m.commit()
	return nil, nil
}

func applyImportReopen(tx engine.Tx, d *decoder) ([]byte, error) {
	user, epoch := d.uint(), d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := begin(tx, user)
	if err != nil {
		return nil, err
	}
	a := m.account
	if a.State == accountActive {
		if a.Epoch != epoch {
			return nil, backend.NewError(backend.KindConflict, "another epoch decided")
		}
		a.State, a.Epoch = accountImporting, 0
		a.Generation++ // every Seal belonged to the hold that failed
	}
	a.Fence = max(a.Fence, epoch)
	m.opened, m.listing = true, true
	m.commit()
	return nil, nil
}
