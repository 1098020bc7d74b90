package target

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Put implements backend.MailboxImport.
func (b *mailbox) Put(ctx context.Context, msgs []backend.ImportMessage) error {
	wait, err := b.PutOrdered(ctx, msgs)
	if err != nil {
		return err
	}
	return wait()
}

// Refused implements backend.OrderedImport.
func (b *mailbox) Refused() map[imap.UID]string {
	b.state.Lock()
	defer b.state.Unlock()
	return maps.Clone(b.refused)
}

// sending is a batch on its way.
type sending struct {
	msgs    []backend.ImportMessage
	recs    []record
	appends []*remote.Append // of step messages each
	step    int
	box     *mailbox
	once    sync.Once
	failed  error // of file
}

// part are the records of append k.
func (s *sending) part(k int) []record {
	return s.recs[k*s.step : min((k+1)*s.step, len(s.recs))]
}

// told reports that the target gave append k's messages UIDs as it has to: one
// each, ascending, and none that was there before.
func (s *sending) told(k int) bool {
	next := imap.UID(s.part(k)[0].dst)
	for _, uid := range s.appends[k].UIDs {
		if uid < next {
			return false
		}
		next = uid + 1
	}
	return len(s.appends[k].UIDs) == len(s.part(k))
}

// file waits for the answers and takes over the UIDs that they tell.
func (s *sending) file() error {
	s.once.Do(func() {
		for k, a := range s.appends {
			recs := s.part(k)
			if a.Wait() != nil || !s.told(k) || a.UIDValidity != s.box.m.header().DstValidity {
				continue // finish looks into it
			}
			for n := range recs {
				if err := s.box.m.settle(imap.UID(recs[n].src), stateStored, a.UIDs[n]); err != nil {
					s.failed = err
					return
				}
			}
			s.box.filed(len(recs), a.UIDs[len(a.UIDs)-1])
		}
	})
	return s.failed
}

// PutOrdered implements backend.OrderedImport.
func (b *mailbox) PutOrdered(ctx context.Context, msgs []backend.ImportMessage) (func() error, error) {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	todo, err := b.take(ctx, msgs)
	var s *sending
	switch {
	case err != nil:
	case b.i.o.Exact != nil:
		defer discard(msgs)
		return func() error { return nil }, b.putExact(ctx, todo)
	default:
		s, err = b.send(ctx, todo)
	}
	if err != nil {
		discard(msgs)
		return nil, err
	}
	return func() error {
		defer discard(msgs)
		return b.finish(ctx, s)
	}, nil
}

func discard(msgs []backend.ImportMessage) {
	for _, m := range msgs {
		m.Body.Discard()
	}
}

// take leaves out what need not be sent; callers hold i.mu.
func (b *mailbox) take(ctx context.Context, msgs []backend.ImportMessage) ([]backend.ImportMessage, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	var limit int64
	if b.sel == nil {
		if err := b.open(ctx); err != nil {
			return nil, err
		}
	}
	if b.i.client != nil {
		limit = b.i.client.AppendLimit()
	}
	if m := b.i.o.Rules.MaxSize; m > 0 && (limit == 0 || m < limit) {
		limit = m
	}
	if b.adopt != nil {
		if err := b.claim(ctx, msgs); err != nil {
			return nil, err
		}
	}
	todo := make([]backend.ImportMessage, 0, len(msgs))
	for _, m := range msgs {
		rec, known, err := b.m.get(m.UID)
		switch {
		case err != nil:
			return nil, err
		case known && rec.state == stateStored:
		case known && rec.state == stateDoubt: // on its way already
		case limit > 0 && m.Body.Size() > limit:
			if err := b.refuse(m, fmt.Sprintf("it has %d octets, the target takes %d", m.Body.Size(), limit)); err != nil {
				return nil, err
			}
		default:
			todo = append(todo, m)
		}
	}
	return todo, nil
}

// send records what is to be sent, and sends it; callers hold i.mu.
func (b *mailbox) send(ctx context.Context, msgs []backend.ImportMessage) (*sending, error) {
	s := &sending{msgs: msgs, box: b}
	if len(msgs) == 0 {
		return s, nil
	}
	_, next := b.counters()
	flags := make([][]imap.Flag, len(msgs))
	for k, m := range msgs {
		body := m.Body.(*body)
		s.recs = append(s.recs, record{src: uint32(m.UID), dst: next, size: uint32(min(body.size, 1<<32-1)), digest: body.sum})
		flags[k] = m.Flags
	}
	if b.i.app == nil {
		c, err := b.i.connect(ctx)
		if err != nil {
			return nil, err
		}
		if b.i.app, err = c.Appender(ctx, remote.AppendWindow{}); err != nil {
			b.i.drop()
			return nil, err
		}
	}
	if err := b.m.intend(s.recs, flags); err != nil {
		return nil, err
	}
	if err := b.sentNow(s.recs); err != nil {
		return nil, err
	}
	items := make([]remote.AppendMessage, len(msgs))
	soon := time.Now().Add(2 * time.Hour)
	for k, m := range msgs {
		body := m.Body.(*body)
		if m.InternalDate.After(soon) && b.i.client.Profile().Type == backend.StoreDovecot {
			b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: "its date lies in the future: Dovecot takes the present time for it"})
		}
		items[k] = remote.AppendMessage{Flags: b.allowed(m.UID, m.Flags), Date: m.InternalDate, Size: body.size, NUL: body.nul, Body: body}
	}
	err := b.sendItems(s, items)
	if err == nil && b.i.app != nil {
		b.i.sent = append(slices.DeleteFunc(b.i.sent, (*sending).answered), s)
	}
	return s, err
}

// sendItems sends all by one command where the target knows MULTIAPPEND.
func (b *mailbox) sendItems(s *sending, items []remote.AppendMessage) error {
	if s.step = len(items); !b.i.client.Has("MULTIAPPEND") {
		s.step = 1
	}
	for part := range slices.Chunk(items, s.step) {
		a, err := b.i.app.Send(b.raw, part)
		if err != nil {
			b.i.drop()
			if len(s.appends) > 0 {
				return nil // wait tells what the others met
			}
			return err
		}
		s.appends = append(s.appends, a)
	}
	return nil
}

// answered reports that file has nothing to wait for.
func (s *sending) answered() bool {
	for _, a := range s.appends {
		if !a.Answered() {
			return false
		}
	}
	return s.file() == nil
}

// finish takes the target's answers.
func (b *mailbox) finish(ctx context.Context, s *sending) error {
	if err := s.file(); err != nil {
		return err
	}
	for k, a := range s.appends {
		err := a.Wait()
		switch {
		case err == nil && a.UIDs != nil && a.UIDValidity != b.m.header().DstValidity:
			err = backend.Errorf(backend.KindTemporary, "A mailbox of the target was replaced.", "mailbox %q", b.raw)
		case err == nil && !s.told(k): // no UIDPLUS, or not what it promises
			err = b.look(ctx, s.part(k))
		case refusal(err):
			err = b.refusedBatch(ctx, s.msgs[k*s.step:][:len(s.part(k))], err)
		}
		if err != nil {
			return err
		}
	}
	if len(s.appends)*s.step < len(s.recs) {
		return backend.NewError(backend.KindUnavailable, "The connection to the target is lost.")
	}
	return nil
}

// look finds out what became of recs when the target did not tell their UIDs.
func (b *mailbox) look(ctx context.Context, recs []record) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.i.quiesce(); err != nil {
		return err
	}
	return b.settled(ctx, recs)
}

// settled looks for recs at the target, and fails when one is not there;
// callers hold i.mu.
func (b *mailbox) settled(ctx context.Context, recs []record) error {
	if err := b.resolve(ctx); err != nil {
		return err
	}
	for k := range recs {
		if r, ok, err := b.m.get(imap.UID(recs[k].src)); err != nil {
			return err
		} else if !ok || r.state != stateStored {
			return backend.Errorf(backend.KindTemporary, "The target does not keep what it takes.",
				"mailbox %q: the target said OK to a message (UID %d) and does not have it, or not as it was", b.raw, recs[k].src)
		}
	}
	return nil
}
