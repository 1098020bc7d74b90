package store

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// FlagOp is what StoreFlags does with its flags.
type FlagOp uint8

// The operations of STORE.
const (
	FlagsReplace FlagOp = iota
	FlagsAdd
	FlagsRemove
)

// StoreFlags changes flags of the messages of a set; UIDs without a message are
// left out. changed are those whose flags are different now, ascending. With
// unchangedSince != 0, messages with a higher modseq stay as they are and are
// returned in failed (RFC 7162 3.1.3; a client's UNCHANGEDSINCE 0 fails for
// every message and must not come here). A large set is worked off in several
// steps: after an error some of it may be done.
func (a *Account) StoreFlags(ctx context.Context, mailbox uint64, uids imap.UIDSet, op FlagOp, flags []imap.Flag,
	unchangedSince uint64) (changed []Message, failed imap.UIDSet, err error) {
	failed, err = a.EachStoreFlags(ctx, mailbox, uids, op, flags, unchangedSince, func(step []Message) error {
		changed = append(changed, step...)
		return nil
	})
	return changed, failed, err
}

// EachStoreFlags is StoreFlags for sets of any size: fn gets the changed
// messages of each step, which are durable then. An error of fn ends it.
func (a *Account) EachStoreFlags(ctx context.Context, mailbox uint64, uids imap.UIDSet, op FlagOp, flags []imap.Flag,
	unchangedSince uint64, fn func([]Message) error) (failed imap.UIDSet, err error) {
	if err := checkFlags(flags); err != nil {
		return nil, err
	}
	err = inSteps(uids, func(part imap.UIDSet) (imap.UID, error) {
		e := a.command(cmdStoreFlags)
		e.uint(mailbox)
		e.byte(byte(op))
		encodeStrings(e, flags)
		e.uint(unchangedSince)
		e.uidSet(part)
		d, err := a.propose(ctx, e)
		if err != nil {
			return 0, err
		}
		next := imap.UID(d.uint32())
		failed = appendUIDs(failed, d.uidSet())
		step := d.messages()
		if err := d.end(); err != nil {
			return 0, engineError(err)
		}
		return next, fn(step)
	})
	return failed, err
}

// inSteps works off a set: step gets a part whose encoding is bounded and
// returns the UID to go on with, 0 when the part is done.
func inSteps(set imap.UIDSet, step func(part imap.UIDSet) (next imap.UID, err error)) error {
	rest := normalise(set)
	for len(rest) > 0 {
		part := rest[:min(len(rest), stepRanges)]
		next, err := step(part)
		switch {
		case err != nil:
			return err
		case next == 0:
			rest = rest[len(part):]
		default:
			rest = from(rest, next)
		}
	}
	return nil
}

// messages writes changed messages of one mailbox; shown with b's keywords.
func (e *encoder) messages(b *box, list []entry) {
	var table keywordTable
	for _, m := range list {
		if len(m.rec.Flags.Keywords) > 0 {
			table = b.keywords()
			break
		}
	}
	encodeStrings(e, table)
	e.uint(uint64(len(list)))
	for _, m := range list {
		e.uint(uint64(m.uid))
		e.bool(uint32(m.uid) >= b.rec.FirstRecent)
		e.bytes(m.rec.encode())
	}
}

func (d *decoder) messages() []Message {
	table := keywordTable(d.strings())
	n := d.count()
	list := make([]Message, 0, min(n, stepMessages))
	for range n {
		uid, recent := imap.UID(d.uint32()), d.bool()
		r, err := decodeMessage(d.bytes())
		if err != nil {
			d.fail()
			return nil
		}
		m := showMessage(uid, r, table)
		m.Recent = recent
		list = append(list, m)
	}
	return list
}

func applyStoreFlags(tx engine.Tx, d *decoder) ([]byte, error) {
	user, id, op := d.uint(), d.uint(), FlagOp(d.byte())
	flags, unchangedSince, set := decodeStrings[imap.Flag](d), d.uint(), d.uidSet()
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
	given, err := b.given(op, flags)
	if err != nil {
		return nil, err
	}
	found, next := b.collect(set, stepMessages)
	var failed imap.UIDSet
	changed := found[:0]
	for _, f := range found {
		if unchangedSince != 0 && f.rec.ModSeq > unchangedSince {
			failed = appendUID(failed, f.uid)
			continue
		}
		after := f.rec.Flags.apply(op, given)
		if after.equal(f.rec.Flags) {
			continue
		}
		b.reflag(f.uid, f.rec, after, b.nextModSeq())
		changed = append(changed, f)
	}
	e := encoder{}
	e.uint(uint64(next))
	e.uidSet(failed)
	e.messages(b, changed)
	m.commit()
	return e.b, nil
}

// given turns a command's flags into a set; a removal adds no keywords.
func (b *box) given(op FlagOp, flags []imap.Flag) (flagSet, error) {
	switch op {
	case FlagsReplace, FlagsAdd:
		return b.intern(flags)
	case FlagsRemove:
		if hasKeywords(flags) {
			return b.keywords().lookup(flags), nil
		}
		return keywordTable(nil).lookup(flags), nil
	default:
		return flagSet{}, backend.NewError(backend.KindBug, "unknown flag operation")
	}
}
