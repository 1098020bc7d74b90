package store

import (
	"crypto/sha256"
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// mailbox checks one mailbox: its counters are counted again.
func (c *checker) mailbox(user, id uint64, r *mailboxRecord, active bool) error {
	table, err := readKeywords(c.view, user, id)
	if err != nil {
		return c.fault(user, id, "keyword table: %v", err)
	}
	count := mailboxRecord{Name: r.Name, UIDValidity: r.UIDValidity, UIDNext: r.UIDNext, HighestModSeq: r.HighestModSeq,
		Remembered: r.Remembered, FirstRecent: r.FirstRecent, SpecialUse: r.SpecialUse, NoSelect: r.NoSelect, Sealed: r.Sealed, SealedModSeq: r.SealedModSeq}
	err = c.eachOf(mailboxKey(prefixMessage, user, id), func(key, value []byte) error {
		uid := keyUID(key)
		m, err := decodeMessage(value)
		if err != nil {
			return c.fault(user, id, "message %d is corrupt", uid)
		}
		count.tally(uid, m, table)
		if active && uint32(uid) >= r.UIDNext || m.ModSeq > r.HighestModSeq {
			if err := c.fault(user, id, "message %d has modseq %d, UIDNEXT is %d, HIGHESTMODSEQ %d", uid, m.ModSeq,
				r.UIDNext, r.HighestModSeq); err != nil {
				return err
			}
		}
		return c.message(user, id, uid, m, table)
	})
	if err != nil {
		return err
	}
	if want, got := string(count.encode()), string(r.encode()); want != got {
		if err := c.fault(user, id, "counters are %+v, counted %+v", *r, count); err != nil {
			return err
		}
	}
	return c.modSeqIndex(user, id, r)
}

// tally counts a message as box.count does.
func (r *mailboxRecord) tally(uid imap.UID, m *messageRecord, table keywordTable) {
	r.Messages++
	r.Size += m.Size
	if !m.Flags.has(bitSeen) {
		r.Unseen++
	}
	if m.Flags.has(bitDeleted) {
		r.Deleted++
	}
	if uint32(uid) >= r.FirstRecent {
		r.Recent++
	}
	backend.AddSum(&r.Sum, backend.SumMessage(uid, table.flags(m.Flags)))
}

// message checks what belongs to one message.
func (c *checker) message(user, id uint64, uid imap.UID, m *messageRecord, table keywordTable) error {
	for _, k := range m.Flags.Keywords {
		if int(k) >= len(table) {
			return c.fault(user, id, "message %d has keyword %d of %d", uid, k, len(table))
		}
	}
	value, err := c.view.Get(modSeqKey(user, id, m.ModSeq, uid))
	if errors.Is(err, engine.ErrNotFound) || len(value) == 1 && value[0] != indexLive {
		err = c.fault(user, id, "message %d is not in the modseq index at %d", uid, m.ModSeq)
	}
	if err != nil {
		return err
	}
	extra, err := c.has(uidKey(prefixStructure, user, id, uid))
	if err == nil && extra != m.HasExtra {
		err = c.fault(user, id, "message %d: structure blob %v, expected %v", uid, extra, m.HasExtra)
	}
	if err != nil || !c.options.Bodies {
		return err
	}
	return c.body(user, id, uid, m)
}

// body reads a body, once for all messages that share it.
func (c *checker) body(user, id uint64, uid imap.UID, m *messageRecord) error {
	digest, known := c.bodies[m.Body]
	if !known {
		r, err := c.shard.OpenBody(m.Body)
		if errors.Is(err, engine.ErrNotFound) {
			return c.bodyGone(user, id, uid, m)
		}
		if err != nil {
			return c.fault(user, id, "message %d: open body %d: %v", uid, m.Body, err)
		}
		h := sha256.New()
		n, err := io.Copy(h, r)
		r.Close()
		if err != nil || n != m.Size {
			return c.fault(user, id, "message %d: body %d has %d octets of %d: %v", uid, m.Body, n, m.Size, err)
		}
		digest = [32]byte(h.Sum(nil))
		c.bodies[m.Body] = digest
	}
	if digest != m.Digest {
		return c.fault(user, id, "message %d: body %d has digest %x, expected %x", uid, m.Body, digest, m.Digest)
	}
	return nil
}

// bodyGone tells a body that was expunged after the view from one that is lost.
func (c *checker) bodyGone(user, id uint64, uid imap.UID, m *messageRecord) error {
	now, err := c.store.view(c.ctx, c.shard)
	if err != nil {
		return err
	}
	defer now.Close()
	if _, err := now.Get(uidKey(prefixMessage, user, id, uid)); errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	return c.fault(user, id, "message %d: body %d is gone", uid, m.Body)
}

// modSeqIndex checks the index from its own side.
func (c *checker) modSeqIndex(user, id uint64, r *mailboxRecord) error {
	live := uint32(0)
	err := c.eachOf(mailboxKey(prefixModSeq, user, id), func(key, value []byte) error {
		if keyModSeq(key) > r.HighestModSeq || len(value) != 1 {
			return c.fault(user, id, "modseq index has %d:%d above HIGHESTMODSEQ %d", keyModSeq(key), keyUID(key), r.HighestModSeq)
		}
		if value[0] == indexLive {
			live++
		}
		return nil
	})
	if err == nil && live != r.Messages {
		err = c.fault(user, id, "modseq index has %d messages of %d", live, r.Messages)
	}
	return err
}
