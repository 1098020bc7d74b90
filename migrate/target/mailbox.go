package target

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// mailbox is one mailbox at the target: a backend.OrderedImport.
type mailbox struct {
	i    *account
	name backend.MailboxName
	raw  string // at the target
	want string // the name that the target refused; empty: none
	file int
	m    *uidMap

	// Guarded by i.mu.
	failed  error                // it cannot be created or opened
	checked bool                 // the map fits the target
	broken  int                  // i.broken, as of the last check
	sel     *remote.Selected     // as of when it was opened; nil: not yet
	adopt   *adoption            // what the target has and the map does not
	resent  map[[8]byte]int      // sent a second time: the first may have arrived late
	base    uint32               // of resent
	ahead   map[imap.UID]content // read by RereadAhead, by the target's UID

	// Of an exact target; guarded by i.mu.
	common    ExactBox // as of the move
	from      string   // a rename from there is not known to be done
	strangers []listed // at the target, and neither the move's nor ours

	state   sync.Mutex          // below i.mu
	refused map[imap.UID]string // guarded by state
	next    uint32              // the target's UIDNEXT is not below it; guarded by state
	exists  uint32              // at the target, as far as we know; guarded by state
}

// seen takes over what the target tells of the mailbox.
func (b *mailbox) seen(exists, next uint32) {
	b.state.Lock()
	defer b.state.Unlock()
	b.exists, b.next = exists, max(b.next, next, 1)
}

// filed counts messages that the target has filed under UIDs up to last.
func (b *mailbox) filed(n int, last imap.UID) {
	b.state.Lock()
	defer b.state.Unlock()
	b.exists, b.next = b.exists+uint32(n), max(b.next, uint32(last)+1)
}

func (b *mailbox) counters() (exists, next uint32) {
	b.state.Lock()
	defer b.state.Unlock()
	return b.exists, b.next
}

// begin makes ready for the messages of a source's mailbox; callers hold i.mu.
func (b *mailbox) begin(ctx context.Context, validity uint32) error {
	if h := b.m.header(); h.SrcValidity != validity {
		if h.SrcValidity != 0 { // another mailbox: what is equal will be known again
			if b.i.o.Exact != nil {
				if err := b.renew(ctx); err != nil {
					return fmt.Errorf("renew %q: %w", b.raw, err)
				}
			}
			if err := b.m.reset(mapHeader{}); err != nil {
				return err
			}
			b.checked, b.sel, b.adopt, b.resent = false, nil, nil, nil
		}
		if err := b.m.setHead(func(h *mapHeader) { h.SrcValidity = validity }); err != nil {
			return err
		}
	}
	return b.check(ctx)
}

// check makes the map fit the target; callers hold i.mu.
func (b *mailbox) check(ctx context.Context) error {
	if b.checked && b.broken == b.i.broken {
		return nil
	}
	if err := b.i.quiesce(); err != nil {
		return err
	}
	if b.checked { // only what was on the way can be wrong
		if err := b.resolve(ctx); err != nil {
			return err
		}
		b.broken = b.i.broken
		return nil
	}
	if b.sel == nil {
		if err := b.open(ctx); err != nil {
			return err
		}
	}
	sel, h := b.sel, b.m.header()
	if h.DstValidity != 0 && h.DstValidity != sel.UIDValidity {
		b.i.note(backend.ImportNote{Mailbox: b.name, What: "the target's mailbox is another one than at the last run: compared anew"})
		if err := b.m.reset(mapHeader{SrcValidity: h.SrcValidity}); err != nil {
			return err
		}
		b.resent = nil // went with the other
	}
	if h.DstValidity != sel.UIDValidity { // UIDs may begin anew: what UIDNEXT was says nothing
		b.state.Lock()
		b.next = 0
		b.state.Unlock()
		b.ahead = nil
	}
	b.seen(sel.Exists, sel.UIDNext)
	if err := b.m.setHead(func(h *mapHeader) { h.DstValidity = sel.UIDValidity }); err != nil {
		return err
	}
	stored, doubts := b.m.counts()
	if doubts > 0 {
		if err := b.resolve(ctx); err != nil {
			return err
		}
		stored, _ = b.m.counts()
	}
	if stored > 0 || sel.Exists > 0 {
		if err := b.reconcile(ctx); err != nil {
			return err
		}
	}
	b.checked, b.broken = true, b.i.broken
	if b.i.o.Exact != nil {
		return b.tidy(ctx)
	}
	return nil
}

// open selects the mailbox; callers hold i.mu.
func (b *mailbox) open(ctx context.Context) error {
	return b.i.do(ctx, func(c *remote.Client) (err error) {
		b.sel, err = c.SelectMailbox(ctx, b.raw)
		return err
	})
}

// selected makes it the open mailbox of the connection; callers hold i.mu.
func (b *mailbox) selected(ctx context.Context, fn func(*remote.Client) error) error {
	return b.i.do(ctx, func(c *remote.Client) error {
		sel, err := c.SelectMailbox(ctx, b.raw)
		if err != nil {
			return err
		}
		if h := b.m.header(); h.DstValidity != 0 && sel.UIDValidity != h.DstValidity {
			b.checked, b.sel = false, nil
			return &decided{backend.Errorf(backend.KindTemporary, "A mailbox of the target was replaced.", "mailbox %q: UIDVALIDITY %d became %d",
				b.raw, h.DstValidity, sel.UIDValidity)}
		}
		b.sel = sel
		return fn(c)
	})
}

// NewBody implements backend.MailboxImport.
func (b *mailbox) NewBody(ctx context.Context) (backend.BodyWriter, error) {
	return newBody(ctx, b.i.o.Dir), nil
}

// Seal implements backend.MailboxImport: it keeps the counters of both sides, so
// that a later run knows an unchanged mailbox without opening it.
func (b *mailbox) Seal(ctx context.Context, uidNext uint32, highestModSeq uint64, firstRecent uint32) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.check(ctx); err != nil {
		return err
	}
	if _, doubts := b.m.counts(); doubts > 0 {
		return backend.Errorf(backend.KindTemporary, "The target's answers are not complete.", "mailbox %q: %d messages in doubt", b.raw, doubts)
	}
	if len(b.resent) > 0 {
		if err := b.lateDoubles(ctx); err != nil {
			return err
		}
	}
	if err := b.deleteExtra(ctx); err != nil {
		return err
	}
	if b.i.o.Exact != nil {
		if err := b.fill(ctx, uidNext); err != nil { // messages that came and went again
			return err
		}
	}
	stored, _ := b.m.counts()
	exists, next := b.counters()
	if b.i.displacing {
		next = 0 // the next Watch has to look
	}
	return b.m.setHead(func(h *mapHeader) {
		h.UIDNext, h.ModSeq, h.FirstRecent, h.Count = uidNext, highestModSeq, firstRecent, stored
		h.DstMessages, h.DstUIDNext = exists, next
	})
}

// Messages implements backend.MailboxImport. Digest is that of identity.
func (b *mailbox) Messages(context.Context) iter.Seq2[backend.ImportedMessage, error] {
	return func(yield func(backend.ImportedMessage, error) bool) {
		on := true
		err := b.m.each(func(r record) bool {
			if r.state != stateStored {
				return true
			}
			m := backend.ImportedMessage{UID: imap.UID(r.src), ModSeq: 1<<64 - 1, Flags: b.m.flagsOf(r.flags), Size: int64(r.size)}
			copy(m.Digest[:], r.digest[:])
			on = yield(m, nil)
			return on
		})
		if err != nil && on {
			yield(backend.ImportedMessage{}, err)
		}
	}
}
