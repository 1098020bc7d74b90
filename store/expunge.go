package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/cluster/engine"
)

// Expunge removes the messages of a set (nil: of the mailbox) that have
// \Deleted. It returns their UIDs and the mailbox's HIGHESTMODSEQ after it. A
// large set is worked off in several steps.
func (a *Account) Expunge(ctx context.Context, mailbox uint64, uids imap.UIDSet) (imap.UIDSet, uint64, error) {
	if uids == nil {
		uids = allUIDs()
	}
	return a.expunge(ctx, mailbox, uids, false)
}

// expunge is Expunge; force takes messages without \Deleted too.
func (a *Account) expunge(ctx context.Context, mailbox uint64, uids imap.UIDSet, force bool) (gone imap.UIDSet, modseq uint64, err error) {
	err = inSteps(uids, func(part imap.UIDSet) (imap.UID, error) {
		e := a.command(cmdExpunge)
		e.uint(mailbox)
		e.bool(force)
		e.uidSet(part)
		d, err := a.propose(ctx, e)
		if err != nil {
			return 0, err
		}
		next := imap.UID(d.uint32())
		modseq = d.uint()
		n := d.uint()
		gone = appendUIDs(gone, d.uidSet())
		a.store.meters.expunged.Add(float64(n))
		return next, engineError(d.end())
	})
	return gone, modseq, err
}

func applyExpunge(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, force, set := d.uint(), d.uint(), d.bool(), d.uidSet()
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
	var gone imap.UIDSet
	found, next := b.deleted(set, stepMessages, force)
	for _, f := range found {
		b.remove(f.uid, f.rec, b.nextModSeq())
		gone = appendUID(gone, f.uid)
	}
	e := encoder{}
	e.uint(uint64(next))
	e.uint(b.rec.HighestModSeq)
	e.uint(uint64(len(found)))
	e.uidSet(gone)
	m.commit()
	return e.b, nil
}

// scanStep bounds the messages without \Deleted that one command looks at.
const scanStep = 20 * stepMessages

// deleted is collect for messages with \Deleted. A mailbox that has none, the
// usual CLOSE, is not read at all.
func (b *box) deleted(set imap.UIDSet, limit int, force bool) (list []entry, next imap.UID) {
	if b.rec.Deleted == 0 && !force {
		return nil, 0
	}
	looked := 0
	for _, r := range set {
		lower, upper := uidBounds(prefixMessage, b.m.user, b.id, r.Start, r.Stop)
		scan(b.m.tx, lower, upper, func(key, value []byte) bool {
			if len(list) == limit || looked == scanStep {
				next = keyUID(key)
				return false
			}
			looked++
			if rec := must(decodeMessage(value)); force || rec.Flags.has(bitDeleted) {
				list = append(list, entry{keyUID(key), rec})
			}
			return true
		})
		if next != 0 {
			break
		}
	}
	return list, next
}
