package migrate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// entry is one message of a listing: 24 octets without a pointer, so that a
// mailbox of a million messages stays in bounds and costs no garbage collection.
type entry struct {
	modseq uint64
	uid    imap.UID
	size   uint32 // saturated; a claim of the store
	date   uint32 // Unix seconds; noDate without one, farDate behind 2106
	more   uint32 // zoneBits for the minutes east of Greenwich, the rest counts the flag list
}

const (
	noDate   = 1<<32 - 1
	farDate  = 1<<32 - 2
	zoneBits = 11 // -1023 to 1023 minutes
	zoneZero = 1 << (zoneBits - 1)
	maxLists = 1 << (32 - zoneBits)
)

func (e *entry) zone() int { return int(e.more&(1<<zoneBits-1)) - zoneZero }

func (e *entry) list() uint32 { return e.more >> zoneBits }

// shared is what listings of one mailbox have in common: flag lists, of which
// few differ, and what has no room in an entry.
type shared struct {
	lists [][]imap.Flag
	index map[string]uint32
	far   map[imap.UID]int64
	key   []byte // scratch
}

// listing is a mailbox's messages in UID order.
type listing struct {
	entries []entry
	octets  int64 // as the store claims
	*shared
	mapper  *flagMapper
	dropped map[imap.UID]bool // went while they were copied
	undated int               // messages without a possible date
	asked   imap.UID          // from here on bodies are asked for already; 0: none
}

func newListing(m *flagMapper) *listing {
	return &listing{shared: &shared{index: make(map[string]uint32)}, mapper: m}
}

// flags of an entry of this listing; read-only.
func (s *shared) flags(e *entry) []imap.Flag { return s.lists[e.list()] }

// at is the moment of an entry's date in Unix seconds; negative without one.
func (s *shared) at(e *entry) int64 {
	switch e.date {
	case noDate:
		return -1
	case farDate:
		return s.far[e.uid]
	}
	return int64(e.date)
}

// internalDate of an entry; zero without one.
func (s *shared) internalDate(e *entry) time.Time {
	at := s.at(e)
	if at < 0 {
		return time.Time{}
	}
	return time.Unix(at, 0).In(time.FixedZone("", e.zone()*60))
}

func (s *shared) setDate(e *entry, t time.Time) {
	if t.IsZero() {
		e.date = noDate
		return
	}
	_, zone := t.Zone()
	e.more = e.more&^(1<<zoneBits-1) | uint32(zone/60+zoneZero)
	if at := t.Unix(); at < farDate {
		e.date = uint32(at)
		return
	}
	if s.far == nil {
		s.far = make(map[imap.UID]int64)
	}
	e.date, s.far[e.uid] = farDate, t.Unix()
}

// add takes a FETCH response. Those without flags or of a UID that came before
// replace what they tell.
func (l *listing) add(m *remote.Meta) error {
	if !m.HasFlags {
		return nil
	}
	n, err := l.number(l.mapper.clean(m.Flags))
	if err != nil {
		return err
	}
	e := entry{uid: m.UID, modseq: m.ModSeq, more: n<<zoneBits | zoneZero, size: uint32(min(max(m.Size, 0), 1<<32-1))}
	l.setDate(&e, m.Date)
	l.entries = append(l.entries, e)
	return nil
}

// number is the place of a list of flags.
func (s *shared) number(flags []imap.Flag) (uint32, error) {
	s.key = s.key[:0]
	for _, f := range flags {
		s.key = append(append(s.key, f...), ' ')
	}
	n, ok := s.index[string(s.key)]
	if !ok {
		if n = uint32(len(s.lists)); n == maxLists {
			return 0, backend.NewError(backend.KindInvalid, "The mailbox has too many different lists of flags.")
		}
		s.lists = append(s.lists, flags)
		s.index[string(s.key)] = n
	}
	return n, nil
}

// finish sorts and merges what came for the same UID: the later flags, and the
// size and date of whichever told them.
func (l *listing) finish() {
	byUID := func(a, b entry) int { return int(int64(a.uid) - int64(b.uid)) }
	if !slices.IsSortedFunc(l.entries, byUID) {
		slices.SortStableFunc(l.entries, byUID)
	}
	out := l.entries[:0]
	for _, e := range l.entries {
		if n := len(out); n > 0 && out[n-1].uid == e.uid {
			prev := &out[n-1]
			more := e.more
			if e.date == noDate {
				more = more&^(1<<zoneBits-1) | prev.more&(1<<zoneBits-1)
			} else {
				prev.date = e.date
			}
			prev.more, prev.modseq = more, max(prev.modseq, e.modseq)
			prev.size = max(prev.size, e.size)
			continue
		}
		out = append(out, e)
	}
	l.entries, l.octets, l.undated = out, 0, 0
	for i := range out {
		l.octets += int64(out[i].size)
		if out[i].date == noDate {
			l.undated++
		}
	}
}

// sum is the listing's part of a MailboxDigest, without the UIDs in skip.
func (l *listing) sum(skip map[imap.UID]string) (sum [32]byte, count uint32) {
	for i := range l.entries {
		e := &l.entries[i]
		if skip[e.uid] != "" {
			continue
		}
		backend.AddSum(&sum, backend.SumMessage(e.uid, l.flags(e)))
		count++
	}
	return sum, count
}

// modseq is the highest of any message; 0 without modseqs.
func (l *listing) modseq() (highest uint64) {
	for i := range l.entries {
		highest = max(highest, l.entries[i].modseq)
	}
	return highest
}

func (l *listing) highest() imap.UID {
	if len(l.entries) == 0 {
		return 0
	}
	return l.entries[len(l.entries)-1].uid
}

// index is where uid stands, -1 when it is not listed.
func (l *listing) index(uid imap.UID) int {
	i, ok := slices.BinarySearchFunc(l.entries, uid, func(e entry, u imap.UID) int {
		return int(int64(e.uid) - int64(u))
	})
	if !ok {
		return -1
	}
	return i
}

// marks is a bit per entry of a listing.
type marks struct {
	bits []uint64
	n    int
}

func newMarks(n int) *marks { return &marks{bits: make([]uint64, (n+63)/64)} }

func (m *marks) has(i int) bool { return i >= 0 && m.bits[i/64]&(1<<(i%64)) != 0 }

func (m *marks) set(i int) {
	if !m.has(i) {
		m.bits[i/64] |= 1 << (i % 64)
		m.n++
	}
}

// errListing: a store whose listing does not fit its own count of messages is
// not believed.
func errListing(box string, listed int, exists uint32) error {
	return backend.Errorf(backend.KindTemporary, "The old store's listing is not complete.",
		"mailbox %q: %d messages listed, %d exist", box, listed, exists)
}

// list enumerates the selected mailbox. FETCH 1:* is the authority, never
// SEARCH; its count must fit EXISTS, at the second attempt at the latest.
func list(ctx context.Context, c *remote.Client, sel *remote.Selected, m *flagMapper, items string) (*listing, error) {
	for attempt := 0; ; attempt++ {
		l := newListing(m)
		if sel.Exists == 0 {
			return l, nil
		}
		// No garbage of growing lists; a count is a claim, so within reason.
		l.entries = make([]entry, 0, min(sel.Exists, 1<<20)+64)
		if _, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: "1:*", Items: items}, l.add); err != nil {
			return nil, fmt.Errorf("list %q: %w", sel.Raw, err)
		}
		l.finish()
		if len(l.entries) == int(sel.Exists) {
			return l, nil
		}
		if attempt > 0 {
			return nil, errListing(sel.Raw, len(l.entries), sel.Exists)
		}
		if err := c.Noop(ctx); err != nil { // lets the store say what changed
			return nil, err
		}
	}
}
