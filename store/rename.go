package store

import (
	"mailferry/backend"
	"mailferry/cluster/engine"
)

// maxRename bounds the mailboxes that one RENAME takes along.
const maxRename = 5000

// applyRename renames a mailbox and its children at once.
func applyRename(tx engine.Tx, d *decoder) ([]byte, error) {
	user, now := d.uint(), d.int()
	from, to := backend.MailboxName(d.string()), backend.MailboxName(d.string())
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	if from == backend.Inbox || to.Below(from) {
		return nil, backend.NewError(backend.KindInvalid, "cannot be renamed so")
	}
	moved, err := m.subtree(from, to)
	if err != nil {
		return nil, err
	}
	m.createParents(to, now)
	for _, b := range moved {
		name := to + b.rec.Name[len(from):]
		m.leaveName(b)
		if v := b.rec.UIDValidity; v != 0 && v <= m.grave(name) {
			b.rec.UIDValidity = m.nextUIDValidity(now)
		}
		b.rec.Name = name
		m.setName(name, b.id)
		b.changed = true
	}
	m.listing = true
	m.commit()
	return nil, nil
}

// subtree reads from and its children and refuses when one of the new names is
// taken or too long.
func (m *mutation) subtree(from, to backend.MailboxName) ([]*box, error) {
	id, ok := m.lookup(from)
	if !ok {
		return nil, errNoMailbox
	}
	ids := []uint64{id}
	lower := nameKey(prefixName, m.user, from+backend.NameSeparator)
	scan(m.tx, lower, prefixEnd(lower), func(_, value []byte) bool {
		d := decoder{b: value}
		ids = append(ids, d.uint())
		return len(ids) <= maxRename
	})
	if len(ids) > maxRename {
		return nil, backend.NewError(backend.KindTooLarge, "too many children to rename at once")
	}
	list := make([]*box, 0, len(ids))
	for _, id := range ids {
		b, err := m.box(id)
		if err != nil {
			return nil, err
		}
		name := to + b.rec.Name[len(from):]
		if len(name) > maxNameLength {
			return nil, backend.NewError(backend.KindInvalid, "name too long")
		}
		if _, taken := m.lookup(name); taken {
			return nil, backend.NewError(backend.KindExists, "mailbox exists")
		}
		list = append(list, b)
	}
	return list, nil
}
