package mailtest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// box is what a client knows of one mailbox, over all its sessions there.
type box struct {
	name     string
	own      string // a keyword that only this client sets
	keep     bool   // nobody expunges here
	validity uint32
	next     uint32 // highest UIDNEXT seen
	slots    []slot // by sequence number
	msgs     map[uint32]*boxMsg
	gone     map[uint32]bool // expunged: must never come back
	before   []uint32        // UIDs of the session before, until settled
	unasked  bool            // that session did not know all UIDs
	loaded   bool            // the first listing is complete
}

// maxMessages in a mailbox; more is taken for nonsense.
const maxMessages = 10_000_000

// slot is one sequence number; uid is 0 until the client has asked.
type slot struct {
	uid  uint32
	seen time.Time // when EXISTS told of it; zero when it was there before
	idle bool      // told in IDLE
}

type boxMsg struct {
	digest   [sha256.Size]byte
	hasBody  bool
	id       string // Message-ID
	listed   bool   // the header was asked for
	own      ownState
	flags    []string
	seen     time.Time
	seenIdle bool
}

// ownState is what the client knows about its own keyword at a message.
type ownState byte

const (
	ownUnknown ownState = iota
	ownSet
	ownUnset
	ownPending // a change is under way: both states may be told until its answer
)

func newBox(name, own string, keep bool) *box {
	return &box{name: name, own: own, keep: keep, msgs: map[uint32]*boxMsg{}, gone: map[uint32]bool{}}
}

// opened begins a session on the mailbox with the state that SELECT told.
func (b *box) opened(exists, validity, next uint32) error {
	if b.validity != 0 && validity != b.validity {
		return fmt.Errorf("%s: UIDVALIDITY was %d and is %d", b.name, b.validity, validity)
	}
	b.validity = validity
	b.before = b.known()
	b.unasked = len(b.before) < len(b.slots)
	if exists > maxMessages {
		return fmt.Errorf("%s: EXISTS %d", b.name, exists)
	}
	b.slots = make([]slot, exists)
	return b.uidnext(next)
}

func (b *box) uidnext(n uint32) error {
	if n != 0 && n < b.next {
		return fmt.Errorf("%s: UIDNEXT was %d and is %d", b.name, b.next, n)
	}
	b.next = max(b.next, n)
	return nil
}

// settled compares the complete listing of a new session with what was known.
func (b *box) settled() error {
	now := map[uint32]bool{}
	for _, s := range b.slots {
		now[s.uid] = true
	}
	top, was := uint32(0), map[uint32]bool{}
	for _, uid := range b.before {
		top, was[uid] = max(top, uid), true
		if !now[uid] {
			if b.keep {
				return fmt.Errorf("%s: message UID %d is gone", b.name, uid)
			}
			b.gone[uid] = true
		}
	}
	for uid := range now {
		if uid != 0 && uid <= top && !was[uid] && !b.unasked {
			return fmt.Errorf("%s: UID %d appeared below %d", b.name, uid, top)
		}
	}
	b.before, b.loaded = nil, true
	return nil
}

// exists takes an EXISTS; it may only grow.
func (b *box) exists(n uint32, idle bool, at time.Time) error {
	if int(n) < len(b.slots) {
		return fmt.Errorf("%s: EXISTS %d after %d without EXPUNGE", b.name, n, len(b.slots))
	}
	if n > maxMessages {
		return fmt.Errorf("%s: EXISTS %d", b.name, n)
	}
	for len(b.slots) < int(n) {
		b.slots = append(b.slots, slot{seen: at, idle: idle})
	}
	return nil
}

// expunge takes an EXPUNGE of a sequence number.
func (b *box) expunge(n uint32) error {
	if n == 0 || int(n) > len(b.slots) {
		return fmt.Errorf("%s: EXPUNGE %d of %d", b.name, n, len(b.slots))
	}
	if b.keep {
		return fmt.Errorf("%s: EXPUNGE %d though nobody expunges", b.name, n)
	}
	if uid := b.slots[n-1].uid; uid != 0 {
		b.gone[uid] = true
	}
	b.slots = slices.Delete(b.slots, int(n)-1, int(n))
	return nil
}

// vanished takes a VANISHED. Earlier ones may name what the client never saw.
func (b *box) vanished(set string, earlier bool) error {
	uids, err := parseSet(set)
	if err != nil {
		return fmt.Errorf("%s: VANISHED %s: %w", b.name, set, err)
	}
	for _, uid := range uids {
		i := slices.IndexFunc(b.slots, func(s slot) bool { return s.uid == uid })
		if i < 0 && !earlier { // one that came and went before we asked
			i = slices.IndexFunc(b.slots, func(s slot) bool { return s.uid == 0 })
		}
		switch {
		case i >= 0:
			if err := b.expunge(uint32(i + 1)); err != nil {
				return err
			}
		case !earlier:
			return fmt.Errorf("%s: VANISHED %d, which is not there", b.name, uid)
		}
	}
	return nil
}

// fetch takes a FETCH response.
func (b *box) fetch(n uint32, f fetchData) error {
	if n == 0 || int(n) > len(b.slots) {
		return fmt.Errorf("%s: FETCH %d of %d", b.name, n, len(b.slots))
	}
	s := &b.slots[n-1]
	if f.uid != 0 && s.uid == 0 {
		if err := b.learn(int(n)-1, f.uid); err != nil {
			return err
		}
	}
	if f.uid != 0 && f.uid != s.uid {
		return fmt.Errorf("%s: message %d had UID %d and has %d", b.name, n, s.uid, f.uid)
	}
	m := b.msgs[s.uid]
	if m == nil {
		return nil // a flag change of a message not yet asked for
	}
	return b.content(s.uid, m, f)
}

// learn notes the UID of a sequence number; UIDs ascend strictly.
func (b *box) learn(i int, uid uint32) error {
	for j := i - 1; j >= 0; j-- {
		if p := b.slots[j].uid; p != 0 {
			if p >= uid {
				return fmt.Errorf("%s: UID %d at %d follows UID %d at %d", b.name, uid, i+1, p, j+1)
			}
			break
		}
	}
	for j := i + 1; j < len(b.slots); j++ {
		if q := b.slots[j].uid; q != 0 {
			if q <= uid {
				return fmt.Errorf("%s: UID %d at %d precedes UID %d at %d", b.name, uid, i+1, q, j+1)
			}
			break
		}
	}
	if b.gone[uid] {
		return fmt.Errorf("%s: UID %d was expunged and is back", b.name, uid)
	}
	b.slots[i].uid = uid
	b.next = max(b.next, uid+1)
	if b.msgs[uid] == nil {
		m := &boxMsg{seen: b.slots[i].seen, seenIdle: b.slots[i].idle}
		if m.seen.IsZero() && b.loaded {
			m.seen = time.Now() // came while we were away
		}
		b.msgs[uid] = m
	}
	return nil
}

// content compares a message with what it was before.
func (b *box) content(uid uint32, m *boxMsg, f fetchData) error {
	if f.hasBody {
		d := sha256.Sum256([]byte(f.body))
		if m.hasBody && d != m.digest {
			return fmt.Errorf("%s: UID %d has other octets than before (%d now)", b.name, uid, len(f.body))
		}
		m.digest, m.hasBody = d, true
	}
	if f.hasHeader || f.hasBody {
		m.listed = true
		if id := messageID(f.header + f.body); id != "" {
			if m.id != "" && m.id != id {
				return fmt.Errorf("%s: UID %d was %s and is %s", b.name, uid, m.id, id)
			}
			m.id = id
		}
	}
	if !f.hasFlags {
		return nil
	}
	m.flags = f.flags
	if m.own == ownPending {
		return nil
	}
	is := ownUnset
	if hasFlag(f.flags, b.own) {
		is = ownSet
	}
	if m.own != ownUnknown && m.own != is {
		return fmt.Errorf("%s: UID %d has flags %v, against our last acknowledged change of %s", b.name, uid, f.flags, b.own)
	}
	m.own = is
	return nil
}

// search checks a SEARCH result: sequence numbers, or UIDs of the mailbox.
func (b *box) search(list string, byUID bool) ([]uint32, error) {
	var out []uint32
	list, _, _ = strings.Cut(list, "(") // (MODSEQ n)
	for _, word := range strings.Fields(list) {
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%s: SEARCH %s", b.name, list)
		}
		if !byUID && int(n) > len(b.slots) {
			return nil, fmt.Errorf("%s: SEARCH found %d of %d", b.name, n, len(b.slots))
		}
		if byUID && b.gone[uint32(n)] {
			return nil, fmt.Errorf("%s: SEARCH found UID %d, which is expunged", b.name, n)
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

// unlisted is the index of the first message that came since the first
// listing and of which UID or Message-ID is not known, or -1.
func (b *box) unlisted() int {
	return slices.IndexFunc(b.slots, func(s slot) bool {
		m := b.msgs[s.uid]
		return m == nil || !m.seen.IsZero() && !m.listed
	})
}

// known lists the UIDs of the session.
func (b *box) known() []uint32 {
	var out []uint32
	for _, s := range b.slots {
		if s.uid != 0 {
			out = append(out, s.uid)
		}
	}
	return out
}

func hasFlag(flags []string, f string) bool {
	return slices.ContainsFunc(flags, func(x string) bool { return strings.EqualFold(x, f) })
}

// messageID finds the first Message-ID of a header.
func messageID(header string) string {
	for line := range strings.SplitSeq(header, "\r\n") {
		if line == "" {
			return ""
		}
		if name, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Message-ID") {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
