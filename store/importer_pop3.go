package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

var _ backend.POP3Import = (*mailboxImport)(nil)

// SetPOP3 implements backend.POP3Import.
func (m *mailboxImport) SetPOP3(ctx context.Context, ids []backend.ImportPOP3) error {
	for len(ids) > 0 {
		list, n := encoder{}, 0
		for n < len(ids) && n < stepMessages && len(list.b) < putOctets {
			list.uint(uint64(ids[n].UID))
			list.string(ids[n].UIDL)
			list.uint(uint64(ids[n].Order))
			n++
		}
		e := m.command(cmdImportPOP3)
		e.uint(uint64(n))
		e.b = append(e.b, list.b...)
		if _, err := m.propose(ctx, e); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// applyImportPOP3 replaces unique ids and places. IMAP shows neither: counters,
// modseqs and the seal of the mailbox stay as they are.
func applyImportPOP3(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id := d.uint(), d.uint()
	ids := make([]backend.ImportPOP3, 0, 64)
	for range d.count() {
		ids = append(ids, backend.ImportPOP3{UID: imap.UID(d.uint32()), UIDL: d.string(), Order: d.uint32()})
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	if _, err := importBox(tx, user, id); err != nil {
		return nil, err
	}
	for _, p := range ids {
		key := uidKey(prefixMessage, user, id, p.UID)
		raw, ok := get(tx, key)
		if !ok {
			continue
		}
		rec := must(decodeMessage(raw))
		if rec.UIDL != p.UIDL || rec.POP3Order != p.Order {
			rec.UIDL, rec.POP3Order = p.UIDL, p.Order
			tx.Set(key, rec.encode())
		}
	}
	return nil, nil
}
