package imapd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/internal/line"
	"mailferry/store"
)

// recents gives each new message to the first read-write session that hears of
// it, as \Recent (RFC 3501 section 2.3.2). SELECT writes its claim to the store;
// what arrives in running sessions is claimed here, and written when the last of
// them leaves the mailbox: a write for each message and session would cost more
// than the flag is worth. Safe for concurrent use.
type recents struct {
	mu    sync.Mutex
	boxes map[recentBox]*recentClaim
}

type recentBox struct{ user, mailbox uint64 }

type recentClaim struct {
	sessions int
	next     imap.UID // messages below it were given; 0: none beyond the store's claim
}

func (r *recents) enter(b recentBox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.boxes[b]
	if c == nil {
		c = &recentClaim{}
		r.boxes[b] = c
	}
	c.sessions++
}

// leave returns the claim that the store should know, 0 while sessions are left.
func (r *recents) leave(b recentBox) (next imap.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.boxes[b]
	if c.sessions--; c.sessions > 0 {
		return 0
	}
	delete(r.boxes, b)
	return c.next
}

// claim returns the first message from first on that nobody has, and gives them
// all up to next away, unless it is only to look.
func (r *recents) claim(b recentBox, first, next imap.UID, look bool) imap.UID {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.boxes[b]
	first = max(first, c.next)
	if !look && first < next {
		c.next = max(c.next, next)
	}
	return first
}

// left is the number of messages of a mailbox that nobody has; messages that are
// gone may count.
func (r *recents) left(b recentBox, mb store.Mailbox) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.boxes[b]
	switch {
	case c == nil || c.next <= mb.FirstRecent:
		return mb.Recent
	case c.next >= mb.UIDNext:
		return 0
	}
	return min(mb.Recent, uint32(mb.UIDNext-c.next))
}

func (s *session) recentBox(v *view) recentBox { return recentBox{s.account.User().ID, v.mailbox} }

// claimRecent makes messages from first on, as far as nobody has them, \Recent
// in this session.
func (s *session) claimRecent(v *view, first imap.UID, mb store.Mailbox) {
	first = s.server.recents.claim(s.recentBox(v), max(first, mb.FirstRecent), mb.UIDNext, v.readOnly)
	if first >= mb.UIDNext {
		return
	}
	if n := len(v.recent); n > 0 && v.recent[n-1].Stop+1 >= uint32(first) {
		v.recent[n-1].Stop = max(v.recent[n-1].Stop, uint32(mb.UIDNext)-1)
		return
	}
	v.recent = append(v.recent, line.Range{Start: uint32(first), Stop: uint32(mb.UIDNext) - 1})
}

// leaveRecent tells the store what running sessions have claimed. When a message
// has come that nobody heard of, the claim is left out: better \Recent twice
// than never.
func (s *session) leaveRecent(v *view) {
	next := s.server.recents.leave(s.recentBox(v))
	if next == 0 || v.dead {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	snap, err := s.account.Snapshot(ctx, v.mailbox)
	if err != nil {
		return
	}
	mb := snap.Mailbox()
	snap.Close()
	if mb.Recent == 0 || mb.UIDNext != next {
		return
	}
	if _, _, err := s.account.ClaimRecent(ctx, v.mailbox); err != nil {
		s.log.Debug("cannot write which messages are not \\Recent any more", "err", err)
	}
}

func (v *view) isRecent(uid imap.UID) bool { return v.recent.Contains(uint32(uid)) }

func (v *view) recentCount() (n int) {
	for _, r := range v.recent {
		i, _ := slices.BinarySearch(v.uids, imap.UID(r.Start))
		j, found := slices.BinarySearch(v.uids, imap.UID(r.Stop))
		if found {
			j++
		}
		n += j - i
	}
	return n
}
