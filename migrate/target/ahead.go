package target

import (
	"context"
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// So many messages are read ahead of their Reread, of a mailbox and in all: what
// is kept of each is a digest.
const (
	aheadOfBox = 100
	aheadOfAll = 5000
)

// RereadAhead implements backend.GroupRereader. What cannot be read so is read
// by Reread.
func (i *account) RereadAhead(ctx context.Context, picks map[backend.MailboxName]func(imap.UID) bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	src := &aheadSource{boxes: make(map[string]*aheadBox)}
	left := aheadOfAll
	for name, pick := range picks {
		b := i.box(name)
		if b == nil || b.raw == "" || b.failed != nil || src.boxes[b.raw] != nil {
			continue
		}
		b.ahead = nil
		x := &aheadBox{b: b}
		if err := b.m.each(func(r record) bool {
			if r.state == stateStored && pick(imap.UID(r.src)) {
				x.uids = append(x.uids, imap.UID(r.dst))
			}
			return len(x.uids) <= aheadOfBox
		}); err != nil {
			return err
		}
		if n := len(x.uids); n == 0 || n > min(aheadOfBox, left) {
			continue
		}
		left -= len(x.uids)
		slices.Sort(x.uids)
		src.boxes[b.raw], src.todo = x, append(src.todo, x)
	}
	if len(src.todo) < 2 {
		return nil // nothing is won
	}
	return i.do(ctx, func(c *remote.Client) error {
		again := *src
		again.todo = slices.DeleteFunc(slices.Clone(src.todo), func(x *aheadBox) bool { return !c.Queueable(x.b.raw) })
		return c.FetchBodies(ctx, &again, remote.Window{})
	})
}

// aheadBox is a mailbox of which messages are read ahead.
type aheadBox struct {
	b    *mailbox
	uids []imap.UID
}

// aheadSource is a remote.MailboxSource.
type aheadSource struct {
	todo  []*aheadBox
	boxes map[string]*aheadBox
	asked *aheadBox // of the last set
	open  *digester // of the mailbox whose answers come; nil: nobody's
}

func (s *aheadSource) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if len(s.todo) == 0 {
		return nil, 0, false
	}
	s.asked, s.todo = s.todo[0], s.todo[1:]
	set.AddNum(s.asked.uids...)
	return set, int64(len(s.asked.uids)) * 16 << 10, true
}

func (s *aheadSource) Mailbox() string { return s.asked.b.raw }

// Opened switches to the next mailbox, if it is the one of the map.
func (s *aheadSource) Opened(raw string, sel *remote.Selected, err error) {
	s.open = nil
	if x := s.boxes[raw]; err == nil && x != nil && sel.UIDValidity == x.b.m.header().DstValidity {
		s.open = newDigester(nil)
		s.open.full = true
		x.b.ahead = s.open.got
	}
}

func (s *aheadSource) Body(size int64, r io.Reader) error {
	if s.open == nil {
		return nil
	}
	return s.open.Body(size, r)
}

func (s *aheadSource) Message(m *remote.Meta) error {
	if s.open == nil {
		return nil
	}
	return s.open.Message(m)
}

func (s *aheadSource) Answered(imap.UIDSet, error) error { return nil }
