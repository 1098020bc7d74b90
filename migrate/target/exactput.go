package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// tidy removes what the target has under another UID than the source does:
// callers hold i.mu, and nothing is on the way.
func (b *mailbox) tidy(ctx context.Context) error {
	if b.i.displacing {
		return nil
	}
	var set imap.UIDSet
	var src []imap.UID
	if err := b.m.each(func(r record) bool {
		if r.state == stateStored && r.src != r.dst {
			set.AddNum(imap.UID(r.dst))
			src = append(src, imap.UID(r.src))
		}
		return true
	}); err != nil || len(src) == 0 {
		return err
	}
	if err := b.expunge(ctx, set); err != nil {
		return err
	}
	for _, uid := range src {
		if err := b.m.settle(uid, stateGone, 0); err != nil {
			return err
		}
	}
	return nil
}

// putExact files messages, ascending by UID, each under its own; callers hold
// i.mu. What is in the way of one makes it displaced.
func (b *mailbox) putExact(ctx context.Context, msgs []backend.ImportMessage) error {
	msgs = slices.Clone(msgs)
	slices.SortFunc(msgs, func(x, y backend.ImportMessage) int { return int(int64(x.UID) - int64(y.UID)) })
	if err := b.i.quiesce(); err != nil {
		return err
	}
	for len(msgs) > 0 {
		_, next := b.counters()
		m := msgs[0]
		if uint32(m.UID) < next && !b.i.displacing {
			b.displace(m.UID)
			msgs = msgs[1:]
			continue
		}
		if uint32(m.UID) > next {
			if err := b.fill(ctx, uint32(m.UID)); err != nil {
				return err
			}
			if _, now := b.counters(); now != uint32(m.UID) {
				continue // somebody else was there
			}
		}
		n := 1
		for b.multi(ctx) && n < len(msgs) && msgs[n].UID == m.UID+imap.UID(n) {
			n++
		}
		if err := b.putRun(ctx, msgs[:n]); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

// multi reports whether one command may file several messages, all or none.
func (b *mailbox) multi(ctx context.Context) bool {
	c, err := b.i.connect(ctx)
	return err == nil && c.Has("MULTIAPPEND")
}

// putRun files messages of consecutive UIDs; callers hold i.mu.
func (b *mailbox) putRun(ctx context.Context, msgs []backend.ImportMessage) error {
	s, err := b.send(ctx, msgs)
	if err != nil {
		return err
	}
	lost := b.i.quiesce()
	for k, a := range s.appends {
		switch err := a.Wait(); {
		case err == nil && !s.told(k):
			if err := b.settled(ctx, s.part(k)); err != nil {
				return err
			}
		case err == nil:
		case !refusal(err):
			return err
		case len(msgs) == 1:
			if err := b.resolve(ctx); err != nil { // a NO is a claim
				return err
			}
			if err := b.halves(ctx, msgs, err); err != nil {
				return err
			}
		default: // one of them is at fault, and must not move the others
			if err := b.resolve(ctx); err != nil {
				return err
			}
			for n := range msgs {
				if err := b.putExact(ctx, msgs[n:n+1]); err != nil {
					return err
				}
			}
		}
	}
	if lost != nil {
		return lost
	}
	return b.tidyRun(ctx, msgs)
}

// tidyRun looks whether messages got the UIDs that were foreseen; callers hold i.mu.
func (b *mailbox) tidyRun(ctx context.Context, msgs []backend.ImportMessage) error {
	if b.i.displacing {
		return nil
	}
	for _, m := range msgs {
		r, ok, err := b.m.get(m.UID)
		if err != nil {
			return err
		}
		if ok && r.state == stateStored && r.src != r.dst {
			if err := b.tidy(ctx); err != nil {
				return err
			}
			b.displace(m.UID)
		}
	}
	return nil
}

func (b *mailbox) displace(uid imap.UID) {
	b.state.Lock()
	defer b.state.Unlock()
	if b.refused == nil {
		b.refused = make(map[imap.UID]string)
	}
	b.refused[uid] = displaced
}

// displaced is why a message is not at the target for now.
const displaced = "its UID is taken at the old store: a roll-back gives it a new one there"

// filler is what holes of UIDs are filled with, for a moment. Its Message-ID is
// of this pair of accounts alone.
type filler struct{ text []byte }

func (i *account) filler() filler {
	sum := sha256.Sum256([]byte(filepath.Base(i.o.Dir)))
	return filler{fmt.Appendf(nil, "From: mailferry <mailferry@invalid>\r\nSubject: fills a hole of UIDs, and goes at once\r\nMessage-ID: <fill.%s@mailferry.invalid>\r\n\r\n",
		hex.EncodeToString(sum[:12]))}
}

func (f filler) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(f.text)
	return int64(n), err
}

func (f filler) sum() digest {
	id := newIdentity()
	_, _ = id.Write(f.text)
	return id.sum()
}

// fillAtOnce bounds a command that fills holes.
const fillAtOnce = 100

// fill uses UIDs up, so that the next message gets upTo; callers hold i.mu, and
// nothing is on the way. A crash leaves some of the fillers: Watch knows them.
func (b *mailbox) fill(ctx context.Context, upTo uint32) error {
	if b.sel == nil { // it learns the UIDVALIDITY that answers are checked by
		if err := b.open(ctx); err != nil {
			return err
		}
	}
	for {
		_, next := b.counters()
		if next >= upTo {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		used, err := b.fillSome(ctx, min(fillAtOnce, int(upTo-next)))
		if err != nil {
			return fmt.Errorf("fill holes of UIDs: %w", err)
		}
		if err := b.expunge(ctx, used); err != nil {
			return fmt.Errorf("fill holes of UIDs: %w", err)
		}
	}
}

func (b *mailbox) fillSome(ctx context.Context, n int) (used imap.UIDSet, err error) {
	c, err := b.i.connect(ctx)
	if err != nil {
		return nil, err
	}
	app, err := c.Appender(ctx, remote.AppendWindow{})
	if err != nil {
		b.i.drop()
		return nil, err
	}
	step := 1
	if c.Has("MULTIAPPEND") {
		step = n
	}
	f := b.i.filler()
	items := make([]remote.AppendMessage, n)
	for k := range items {
		items[k] = remote.AppendMessage{Flags: []imap.Flag{imap.FlagSeen, imap.FlagDeleted}, Size: int64(len(f.text)), Body: f}
	}
	var sent []*remote.Append
	for part := range slices.Chunk(items, step) {
		a, e := app.Send(b.raw, part)
		if err = e; err != nil {
			break
		}
		sent = append(sent, a)
	}
	if e := app.Close(); err == nil {
		err = e
	}
	for _, a := range sent {
		switch e := a.Wait(); {
		case e != nil && err == nil:
			err = e
		case e == nil && len(a.UIDs) == 0:
			err = &decided{errNoUIDPlus}
		case e == nil:
			used.AddNum(a.UIDs...)
			b.filed(len(a.UIDs), a.UIDs[len(a.UIDs)-1])
		}
	}
	if err != nil {
		if !refusal(err) {
			b.i.drop()
		}
		b.checked, b.sel = false, nil // what was filed is looked for
		return nil, err
	}
	return used, nil
}

// renew replaces a mailbox of the target whose source is another one now: the
// UIDs begin again. An INBOX can only be emptied. Callers hold i.mu.
func (b *mailbox) renew(ctx context.Context) error {
	if b.name == backend.Inbox || b.i.shared(b) {
		var set imap.UIDSet
		if err := b.m.each(func(r record) bool {
			if r.state == stateStored {
				set.AddNum(imap.UID(r.dst))
			}
			return true
		}); err != nil || len(set) == 0 {
			return err
		}
		return b.expunge(ctx, set)
	}
	return b.i.do(ctx, func(c *remote.Client) error {
		if err := c.DeleteMailbox(ctx, b.raw); err != nil && !backend.IsKind(err, backend.KindNotFound) {
			return err
		}
		errs, err := c.CreateMailboxes(ctx, []remote.NewMailbox{{Raw: b.raw}})
		if err != nil {
			return err
		}
		if errs[0] != nil && !backend.IsKind(errs[0], backend.KindExists) {
			return errs[0]
		}
		return nil
	})
}
