package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Rename implements backend.RenamingImport.
func (i *userImport) Rename(ctx context.Context, moves []backend.ImportRename) error {
	if len(moves) > maxRename {
		return backend.Errorf(backend.KindTooLarge, "", "rename of %d mailboxes at once", len(moves))
	}
	e := i.command(cmdImportRename)
	e.uint(uint64(len(moves)))
	for _, m := range moves {
		if m.UIDValidity == 0 || m.To == "" || len(m.To) > maxNameLength {
			return backend.Errorf(backend.KindInvalid, "", "rename of mailbox %q with UIDVALIDITY %d to %q", m.From, m.UIDValidity, m.To)
		}
		e.string(string(m.From))
		e.string(string(m.To))
		e.uint(uint64(m.UIDValidity))
	}
	_, err := i.propose(ctx, e)
	return err
}

// applyImportRename takes all names away before it gives any: names may go round
// in a circle.
func applyImportRename(tx engine.Tx, d *decoder) ([]byte, error) {
	user := d.uint()
	moves := make([]backend.ImportRename, 0, 16)
	for range d.count() {
		moves = append(moves, backend.ImportRename{From: backend.MailboxName(d.string()), To: backend.MailboxName(d.string()),
			UIDValidity: d.uint32()})
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginImport(tx, user)
	if err != nil {
		return nil, err
	}
	moving, err := m.moving(moves)
	if err != nil {
		return nil, err
	}
	for _, r := range moving {
		m.leaveName(r.box)
		if r.box.id == m.account.Inbox {
			m.account.Inbox, m.opened = 0, true
		}
	}
	for _, r := range moving {
		r.box.rec.Name, r.box.changed = r.to, true
		m.setName(r.to, r.box.id)
		if r.to == backend.Inbox {
			m.account.Inbox, m.opened = r.box.id, true
		}
	}
	m.listing = true
	m.commit()
	return nil, nil
}

// renamed is a mailbox on its way to another name.
type renamed struct {
	box *box
	to  backend.MailboxName
}

// moving finds the mailboxes that are still to be renamed, and refuses what
// would leave one without a name of its own.
func (m *mutation) moving(moves []backend.ImportRename) ([]renamed, error) {
	list := make([]renamed, 0, len(moves))
	leaves, taken := make(map[uint64]bool), make(map[backend.MailboxName]bool)
	for _, r := range moves {
		if taken[r.To] {
			return nil, backend.NewError(backend.KindInvalid, "two mailboxes get one name")
		}
		taken[r.To] = true
		b, ok, err := m.importedAs(r.From, r.UIDValidity)
		if err != nil {
			return nil, err
		}
		if !ok {
			if _, done, err := m.importedAs(r.To, r.UIDValidity); err != nil || !done {
				return nil, errNoMailbox
			}
			continue // before a crash
		}
		if r.From == r.To {
			continue
		}
		if leaves[b.id] {
			return nil, backend.NewError(backend.KindInvalid, "a mailbox gets two names")
		}
		leaves[b.id] = true
		list = append(list, renamed{b, r.To})
	}
	for _, r := range list {
		if id, there := m.lookup(r.to); there && !leaves[id] {
			return nil, backend.NewError(backend.KindExists, "mailbox exists")
		}
	}
	return list, nil
}

// importedAs finds a mailbox with messages by name and UIDVALIDITY.
func (m *mutation) importedAs(name backend.MailboxName, validity uint32) (*box, bool, error) {
	id, ok := m.lookup(name)
	if !ok {
		return nil, false, nil
	}
	b, err := m.box(id)
	if err != nil {
		return nil, false, err
	}
	return b, !b.rec.NoSelect && b.rec.UIDValidity == validity, nil
}

// PutCopies implements backend.CopyingImport. Many messages go in several
// commands.
func (m *mailboxImport) PutCopies(ctx context.Context, from backend.MailboxName, copies []backend.ImportCopy) (filed imap.UIDSet, err error) {
	source, err := m.imported(ctx, from)
	if err != nil {
		return nil, err
	}
	for len(copies) > 0 {
		list, n := encoder{}, 0
		for n < len(copies) && n < putMessages && len(list.b) < putOctets {
			encodeCopy(&list, &copies[n])
			n++
		}
		e := m.command(cmdImportCopies)
		e.uint(source)
		e.uint(uint64(n))
		e.b = append(e.b, list.b...)
		d, err := m.propose(ctx, e)
		if err != nil {
			return filed, err
		}
		filed = appendUIDs(filed, d.uidSet())
		if err := d.end(); err != nil {
			return filed, engineError(err)
		}
		copies = copies[n:]
	}
	return filed, nil
}

// imported is the id of one of the import's mailboxes.
func (i *userImport) imported(ctx context.Context, name backend.MailboxName) (uint64, error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	return findMailbox(v, i.user.ID, name)
}

func encodeCopy(e *encoder, c *backend.ImportCopy) {
	e.uint(uint64(c.Original))
	e.uint(uint64(c.UID))
	e.uint(c.ModSeq)
	encodeStrings(e, c.Flags)
	e.stamp(stampOf(c.InternalDate))
	e.int(c.Size)
	e.sum(c.Digest)
}

// copied is one message of cmdImportCopies; nil originals and old ones are not
// there.
type copied struct {
	from, uid     imap.UID
	flags         []imap.Flag
	rec           messageRecord
	original, old *messageRecord
}

// applyImportCopies files messages with the bodies of others. The answer is the
// set of UIDs that are there now.
func applyImportCopies(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, sourceID := d.uint(), d.uint(), d.uint()
	list := make([]copied, 0, putMessages)
	for range d.count() {
		c := copied{from: imap.UID(d.uint32()), uid: imap.UID(d.uint32())}
		c.rec.ModSeq = d.modSeq()
		c.flags = decodeStrings[imap.Flag](d)
		c.rec.Date, c.rec.Size, c.rec.Digest = d.stamp(), d.int(), d.sum()
		list = append(list, c)
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	b, err := importBox(tx, user, id)
	if err != nil {
		return nil, err
	}
	if _, err := b.m.box(sourceID); err != nil {
		return nil, err
	}
	if err := b.checkCopies(sourceID, list); err != nil {
		return nil, err
	}
	var filed imap.UIDSet
	for i := range list {
		c := &list[i]
		switch {
		case c.old != nil:
			b.importFlags(c.uid, c.old, c.rec.Flags, c.rec.ModSeq)
		case c.original != nil:
			b.putCopy(sourceID, c)
		default:
			continue
		}
		filed = appendUID(filed, c.uid)
	}
	b.rec.Sealed, b.changed = 0, true
	b.m.commit()
	e := encoder{}
	e.uidSet(filed)
	return e.b, nil
}

// checkCopies reads what is there and interns flags. What has other content
// than was named counts as not there.
func (b *box) checkCopies(source uint64, list []copied) error {
	last := imap.UID(0)
	for i := range list {
		c := &list[i]
		if c.uid <= last || c.uid > maxUID {
			return backend.NewError(backend.KindInvalid, "UIDs of copies do not ascend")
		}
		last = c.uid
		if raw, ok := get(b.m.tx, uidKey(prefixMessage, b.m.user, b.id, c.uid)); ok {
			if old := must(decodeMessage(raw)); old.Digest == c.rec.Digest && old.Size == c.rec.Size {
				c.old = old
			}
		} else if raw, ok := get(b.m.tx, uidKey(prefixMessage, b.m.user, source, c.from)); ok {
			if o := must(decodeMessage(raw)); o.Digest == c.rec.Digest && o.Size == c.rec.Size {
				c.original = o
			}
		}
		if c.old == nil && c.original == nil {
			continue
		}
		var err error
		if c.rec.Flags, err = b.intern(c.flags); err != nil {
			return err
		}
	}
	return nil
}

// putCopy files one message. POP3 ids stay behind: they name a message in one
// mailbox.
func (b *box) putCopy(source uint64, c *copied) {
	tx, user := b.m.tx, b.m.user
	r := &c.rec
	r.Body, r.HasExtra = c.original.Body, c.original.HasExtra
	tx.RetainBody(r.Body)
	r.ModSeq = b.importModSeq(r.ModSeq)
	r.Created = r.ModSeq
	b.put(c.uid, r)
	if r.HasExtra {
		blob, _ := get(tx, uidKey(prefixStructure, user, source, c.from))
		b.fileExtra(c.uid, blob)
	}
}
