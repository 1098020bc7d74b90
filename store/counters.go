package store

import (
	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Values of the modseq index.
const (
	indexLive     = 0
	indexVanished = 1
)

// nextModSeq is the modseq of this command's changes in the mailbox: one above
// everything before it.
func (b *box) nextModSeq() uint64 {
	if !b.bumped {
		b.bumped, b.changed = true, true
		b.rec.HighestModSeq++
	}
	return b.rec.HighestModSeq
}

// room refuses n more messages when the UIDs would run out.
func (b *box) room(n int) error {
	if uint64(b.rec.UIDNext)+uint64(n) > maxUID {
		return backend.NewError(backend.KindOverQuota, "mailbox has no UIDs left")
	}
	return nil
}

// count adds a message to the counters, or takes it away.
func (b *box) count(uid imap.UID, r *messageRecord, sign int) {
	b.changed = true
	n := uint32(sign) // -1 wraps around and subtracts
	rec := b.rec
	rec.Messages += n
	rec.Size += int64(sign) * r.Size
	if uint32(uid) >= rec.FirstRecent {
		rec.Recent += n
	}
	b.countFlags(uid, r.Flags, sign)
}

func (b *box) countFlags(uid imap.UID, f flagSet, sign int) {
	n := uint32(sign)
	if !f.has(bitSeen) {
		b.rec.Unseen += n
	}
	if f.has(bitDeleted) {
		b.rec.Deleted += n
	}
	sum := backend.SumMessage(uid, b.show(f))
	if sign > 0 {
		backend.AddSum(&b.rec.Sum, sum)
	} else {
		backend.SubSum(&b.rec.Sum, sum)
	}
}

// show names the flags of a set; it reads the keyword table only when needed.
func (b *box) show(f flagSet) []imap.Flag {
	if len(f.Keywords) == 0 {
		return keywordTable(nil).flags(f)
	}
	return b.keywords().flags(f)
}

// put files a message under a UID that has none; r.ModSeq is set.
func (b *box) put(uid imap.UID, r *messageRecord) {
	b.count(uid, r, +1)
	b.writeMessage(uid, r)
}

// file gives a message the next UID and this command's modseq.
func (b *box) file(r *messageRecord) imap.UID {
	uid := imap.UID(b.rec.UIDNext)
	b.rec.UIDNext++
	r.ModSeq = b.nextModSeq()
	r.Created = r.ModSeq
	b.put(uid, r)
	return uid
}

func (b *box) writeMessage(uid imap.UID, r *messageRecord) {
	tx, user := b.m.tx, b.m.user
	tx.Set(uidKey(prefixMessage, user, b.id, uid), r.encode())
	tx.Set(modSeqKey(user, b.id, r.ModSeq, uid), []byte{indexLive})
}

// reflag gives a message other flags and another modseq.
func (b *box) reflag(uid imap.UID, r *messageRecord, f flagSet, modseq uint64) {
	b.changed = true
	if !r.Flags.equal(f) {
		b.countFlags(uid, r.Flags, -1)
		b.countFlags(uid, f, +1)
	}
	if modseq != r.ModSeq {
		b.m.tx.Delete(modSeqKey(b.m.user, b.id, r.ModSeq, uid))
	}
	r.Flags, r.ModSeq = f, modseq
	b.writeMessage(uid, r)
}

// remove expunges a message and remembers that it vanished at modseq.
func (b *box) remove(uid imap.UID, r *messageRecord, modseq uint64) {
	b.count(uid, r, -1)
	tx, user := b.m.tx, b.m.user
	tx.Delete(uidKey(prefixMessage, user, b.id, uid))
	tx.Delete(modSeqKey(user, b.id, r.ModSeq, uid))
	tx.Set(modSeqKey(user, b.id, modseq, uid), []byte{indexVanished})
	if r.HasExtra {
		tx.Delete(uidKey(prefixStructure, user, b.id, uid))
	}
	tx.ReleaseBody(r.Body)
}

// entry is a message found by collect.
type entry struct {
	uid imap.UID
	rec *messageRecord
}

// collect reads the first messages of a set, up to limit. next is the UID to go
// on with, 0 at the end. No iterator is open when it returns, so the caller may
// write.
func (b *box) collect(set imap.UIDSet, limit int) (list []entry, next imap.UID) {
	for _, r := range set {
		lower, upper := uidBounds(prefixMessage, b.m.user, b.id, r.Start, r.Stop)
		scan(b.m.tx, lower, upper, func(key, value []byte) bool {
			if len(list) == limit {
				next = keyUID(key)
				return false
			}
			list = append(list, entry{keyUID(key), must(decodeMessage(value))})
			return true
		})
		if next != 0 {
			break
		}
	}
	return list, next
}
