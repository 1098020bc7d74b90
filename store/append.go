package store

import (
	"context"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Append is one message to append.
type Append struct {
	Mailbox      backend.MailboxName
	Flags        []imap.Flag
	InternalDate time.Time // zero: now
	Body         engine.StagedBody
}

// Appended is where a message went.
type Appended struct {
	UIDValidity uint32
	UID         imap.UID
	ModSeq      uint64
}

// NewBody begins a body for Append. Its structure is kept with the message.
func (a *Account) NewBody(ctx context.Context) (engine.BodyWriter, error) {
	return newBody(ctx, a.shard)
}

// Append files messages, all of one mailbox, all or none (RFC 3502), durable
// when it returns. It takes the bodies over, whatever the outcome. KindNotFound:
// no such mailbox (TRYCREATE).
func (a *Account) Append(ctx context.Context, msgs ...Append) ([]Appended, error) {
	bodies := make([]engine.StagedBody, len(msgs))
	for i, m := range msgs {
		bodies[i] = m.Body
	}
	e, err := a.encodeAppend(msgs)
	if err != nil {
		discard(bodies)
		return nil, err
	}
	d, err := a.propose(ctx, e, bodies...)
	if err != nil {
		return nil, err
	}
	validity, first, modseq := d.uint32(), imap.UID(d.uint32()), d.uint()
	out := make([]Appended, len(msgs))
	for i := range out {
		out[i] = Appended{UIDValidity: validity, UID: first + imap.UID(i), ModSeq: modseq}
	}
	a.store.meters.appended.Add(float64(len(msgs)))
	return out, d.end()
}

func discard(bodies []engine.StagedBody) {
	for _, b := range bodies {
		b.Discard()
	}
}

func (a *Account) encodeAppend(msgs []Append) (*encoder, error) {
	if len(msgs) == 0 {
		return nil, backend.NewError(backend.KindInvalid, "no messages")
	}
	now := a.store.now()
	e := a.command(cmdAppend)
	e.string(string(msgs[0].Mailbox))
	e.int(now.Unix())
	e.uint(uint64(len(msgs)))
	for _, m := range msgs {
		if m.Mailbox != msgs[0].Mailbox {
			return nil, backend.NewError(backend.KindInvalid, "not one append")
		}
		if err := checkFlags(m.Flags); err != nil {
			return nil, err
		}
		date := m.InternalDate
		if date.IsZero() {
			date = now
		}
		encodeStrings(e, m.Flags)
		e.stamp(stampOf(date))
		e.int(m.Body.Size())
		e.sum(m.Body.Digest())
		structure := structureOf(m.Body)
		if len(e.b)+len(structure) > putOctets {
			structure = nil // many messages at once: parsed when asked for
		}
		e.bytes(structure)
	}
	return e, nil
}

// checkFlags refuses what cannot be a flag on the wire.
func checkFlags(flags []imap.Flag) error {
	for _, f := range flags {
		if f == "" || len(f) > maxFlagLength {
			return backend.NewError(backend.KindInvalid, "not a flag")
		}
	}
	return nil
}

// newMessage is a message of a command: what to file, and its blob.
type newMessage struct {
	flags     []imap.Flag
	rec       messageRecord
	structure []byte
}

func (d *decoder) newMessage(now int64) newMessage {
	n := newMessage{flags: decodeStrings[imap.Flag](d)}
	n.rec = messageRecord{Date: d.stamp(), Saved: now, Size: d.int(), Digest: d.sum()}
	n.structure = d.bytes()
	n.rec.HasExtra = len(n.structure) > 0
	if n.rec.Size < 0 {
		d.fail()
	}
	return n
}

func applyAppend(tx engine.Tx, d *decoder) ([]byte, error) {
	user, name, now := d.uint(), backend.MailboxName(d.string()), d.int()
	msgs := make([]newMessage, 0, 1)
	for range d.count() {
		msgs = append(msgs, d.newMessage(now))
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	m, err := beginClient(tx, user)
	if err != nil {
		return nil, err
	}
	b, err := m.target(name)
	if err != nil {
		return nil, err
	}
	if err := b.room(len(msgs)); err != nil {
		return nil, err
	}
	for i := range msgs {
		if msgs[i].rec.Flags, err = b.intern(msgs[i].flags); err != nil {
			return nil, err
		}
	}
	if len(msgs) > 0 && tx.Body(len(msgs)-1) == 0 {
		return nil, errNoBody
	}
	e := encoder{}
	e.uint(uint64(b.rec.UIDValidity))
	e.uint(uint64(b.rec.UIDNext))
	for i := range msgs {
		n := &msgs[i]
		n.rec.Body = tx.Body(i)
		tx.RetainBody(n.rec.Body)
		b.fileExtra(b.file(&n.rec), n.structure)
	}
	e.uint(b.rec.HighestModSeq)
	m.commit()
	return e.b, nil
}

// errNoBody is about a command that came with fewer bodies than messages.
var errNoBody = backend.NewError(backend.KindBug, "message without body")

// fileExtra keeps a structure blob.
func (b *box) fileExtra(uid imap.UID, blob []byte) {
	if len(blob) > 0 {
		b.m.tx.Set(uidKey(prefixStructure, b.m.user, b.id, uid), blob)
	}
}
