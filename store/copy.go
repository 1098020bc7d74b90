package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// CopyResult is the content of COPYUID (RFC 4315 3). The n-th UID of Source
// became the n-th of Dest; both are ascending.
type CopyResult struct {
	UIDValidity  uint32
	Source, Dest imap.UIDSet
}

// Copy copies messages with flags and dates to another (or the same) mailbox:
// all or none. KindNotFound: no such target (TRYCREATE).
func (a *Account) Copy(ctx context.Context, mailbox uint64, uids imap.UIDSet, to backend.MailboxName) (CopyResult, error) {
	target, err := a.Mailbox(ctx, to)
	if err != nil {
		return CopyResult{}, err
	}
	res, err := a.transfer(ctx, mailbox, uids, to, target, false)
	if err != nil && len(res.Dest) > 0 {
		// RFC 9051 6.4.7: the target goes back to the state before the COPY.
		undo, cancel := a.store.afterwards(ctx)
		defer cancel()
		if _, _, uerr := a.expunge(undo, target.ID, res.Dest, true); uerr != nil {
			a.store.log.Error("taking back a failed COPY", "user", a.user.Name, "error", uerr)
		}
	}
	if err != nil {
		return CopyResult{}, err
	}
	return res, nil
}

// Move is Copy and the removal of the originals, each message at once in both
// (RFC 6851 3.3); a large set is worked off in several steps, and after an
// error the result tells what was moved.
func (a *Account) Move(ctx context.Context, mailbox uint64, uids imap.UIDSet, to backend.MailboxName) (CopyResult, error) {
	target, err := a.Mailbox(ctx, to)
	if err != nil {
		return CopyResult{}, err
	}
	return a.transfer(ctx, mailbox, uids, to, target, true)
}

func (a *Account) transfer(ctx context.Context, mailbox uint64, uids imap.UIDSet, to backend.MailboxName, target Mailbox,
	move bool) (CopyResult, error) {
	res := CopyResult{UIDValidity: target.UIDValidity}
	if mailbox == target.ID {
		// What the first steps file must not be copied again by the later ones.
		uids = clip(normalise(uids), 1, target.UIDNext-1)
	}
	err := inSteps(uids, func(part imap.UIDSet) (imap.UID, error) {
		e := a.command(cmdCopy)
		e.uint(mailbox)
		e.bool(move)
		e.string(string(to))
		e.uint(target.ID)
		e.int(a.store.now().Unix())
		e.uidSet(part)
		d, err := a.propose(ctx, e)
		if err != nil {
			return 0, err
		}
		next := imap.UID(d.uint32())
		n := float64(d.uint())
		res.Source = appendUIDs(res.Source, d.uidSet())
		res.Dest = appendUIDs(res.Dest, d.uidSet())
		a.store.meters.appended.Add(n)
		if move {
			a.store.meters.expunged.Add(n)
		}
		return next, engineError(d.end())
	})
	return res, err
}

func applyCopy(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, move := d.uint(), d.uint(), d.bool()
	to, targetID, now, set := backend.MailboxName(d.string()), d.uint(), d.int(), d.uidSet()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	source, err := m.box(id)
	if err != nil {
		return nil, err
	}
	target, err := m.target(to)
	if err != nil {
		return nil, err
	}
	if target.id != targetID {
		return nil, errNoMailbox // replaced since the first step
	}
	found, next := source.collect(set, stepMessages)
	if err := target.room(len(found)); err != nil {
		return nil, err
	}
	copies, err := source.copies(target, found, now)
	if err != nil {
		return nil, err
	}
	var from, dest imap.UIDSet
	for i, f := range found {
		uid := target.file(copies[i])
		tx.RetainBody(f.rec.Body)
		if f.rec.HasExtra {
			blob, _ := get(tx, uidKey(prefixStructure, user, id, f.uid))
			target.fileExtra(uid, blob)
		}
		if move {
			source.remove(f.uid, f.rec, source.nextModSeq())
		}
		from, dest = appendUID(from, f.uid), appendUID(dest, uid)
	}
	e := encoder{}
	e.uint(uint64(next))
	e.uint(uint64(len(found)))
	e.uidSet(from)
	e.uidSet(dest)
	m.commit()
	return e.b, nil
}

// copies are the records of found as target files them. UIDLs stay behind: they
// name a message in one mailbox.
func (b *box) copies(target *box, found []entry, now int64) ([]*messageRecord, error) {
	out := make([]*messageRecord, len(found))
	for i, f := range found {
		r := *f.rec
		r.Saved, r.UIDL, r.POP3Order = now, "", 0
		if len(r.Flags.Keywords) > 0 && target != b {
			flags, err := target.intern(b.show(r.Flags))
			if err != nil {
				return nil, err
			}
			r.Flags = flags
		}
		out[i] = &r
	}
	return out, nil
}
