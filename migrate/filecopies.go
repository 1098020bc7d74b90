package migrate

import (
	"context"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// fileCopies files what was vouched for, and notes before that it is about to.
// trusted: no digest confirms each.
func (a *account) fileCopies(ctx context.Context, p planned, validity uint32, l *listing, chunk []stray, found map[idHash]*origin, trusted bool, res *pass) error {
	if len(chunk) == 0 {
		return nil
	}
	imp, err := a.imp.Open(ctx, backend.ImportMailbox{Name: p.name, UIDValidity: validity, SpecialUse: p.special})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	to, ok := imp.(backend.CopyingImport)
	if !ok {
		return nil
	}
	if b := a.boxes[p.name]; b != nil { // what follows counts on what it knows
		b.imp, b.sealed, b.compared = imp, false, false
	}
	byBox := make(map[idName][]stray)
	notes := make([]filing, len(chunk))
	for i, s := range chunk {
		byBox[found[s.id].box] = append(byBox[found[s.id].box], s)
		notes[i] = filing{s.id, s.uid, found[s.id].full}
	}
	if err := a.ids.filing(nameOf(p.name, validity), notes); err != nil {
		return err
	}
	for name, b := range a.boxes {
		list := byBox[nameOf(name, b.validity)]
		if len(list) == 0 {
			continue
		}
		copies := make([]backend.ImportCopy, len(list))
		for i, s := range list {
			e, o := &l.entries[l.index(s.uid)], found[s.id]
			copies[i] = backend.ImportCopy{Original: o.uid, Size: o.size, Digest: o.full, ImportMessage: backend.ImportMessage{UID: s.uid,
				ModSeq: e.modseq, InternalDate: l.internalDate(e), Flags: l.flags(e)}}
		}
		set, err := to.PutCopies(ctx, name, copies)
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		a.tookCopies(p.name, set, trusted, res)
	}
	return nil
}

// tookCopies counts what the target took. Those of a pass that was cut off are
// told a second time.
func (a *account) tookCopies(name backend.MailboxName, set imap.UIDSet, trusted bool, res *pass) {
	a.shelf.Lock()
	defer a.shelf.Unlock()
	f := a.filed[name]
	if f == nil {
		f = &filed{}
		if a.filed == nil {
			a.filed = make(map[backend.MailboxName]*filed)
		}
		a.filed[name] = f
	}
	before := setSize(f.uids)
	if f.uids.AddSet(set); trusted {
		f.trusted.AddSet(set)
	}
	n := setSize(f.uids) - before
	res.Filed += n
	a.progress.Messages.Add(int64(n))
	a.progress.MessagesDone.Add(int64(n))
}

// sealedFiled counts what was filed of a mailbox that is sealed now.
func (a *account) sealedFiled(name backend.MailboxName) {
	a.shelf.Lock()
	defer a.shelf.Unlock()
	if f := a.filed[name]; f != nil {
		a.adopted += uint64(setSize(f.uids))
		a.trusted += uint64(setSize(f.trusted))
		delete(a.filed, name)
	}
}

func setSize(set imap.UIDSet) (n int) {
	for _, r := range set {
		n += int(r.Stop-r.Start) + 1
	}
	return n
}

// unfiled is what is to be fetched of a delta: not what was filed without that.
// What was filed gets the flags of the listing.
func (a *account) unfiled(ctx context.Context, b *box, fresh *listing) (*listing, error) {
	there := a.filed[b.name]
	if there == nil {
		return fresh, nil
	}
	todo := &listing{shared: fresh.shared, mapper: fresh.mapper}
	var flags []backend.ImportFlags
	for i := range fresh.entries {
		e := &fresh.entries[i]
		if there.uids.Contains(e.uid) {
			flags = append(flags, backend.ImportFlags{UID: e.uid, ModSeq: e.modseq, Flags: fresh.flags(e)})
		} else {
			todo.entries = append(todo.entries, *e)
		}
	}
	for part := range slices.Chunk(flags, 1000) {
		if err := b.imp.SetFlags(ctx, part); err != nil {
			return nil, fmt.Errorf("set flags: %w", err)
		}
	}
	todo.finish()
	return todo, nil
}
