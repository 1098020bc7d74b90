package target

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Exact makes a target follow the store that users moved to from it: both have
// the same messages under the same UIDs as of the move, and every later message
// gets the UID that it has at the source. Holes are filled by messages that are
// expunged at once. Where the target has given that UID to something else, the
// message waits until Follower.Displace: no UID of the target ever shows other
// mail than the same UID of the source does. Deletions are followed.
type Exact struct {
	// Boxes names the target's mailboxes as the source does, and says what both
	// had in common at the move.
	Boxes func(*remote.Account) []ExactBox
}

// ExactBox is a mailbox of the target.
type ExactBox struct {
	Name backend.MailboxName
	Raw  string // at the target
	// UIDValidity, UIDNext and HighestModSeq are as of the move; zero for a
	// mailbox that is younger.
	UIDValidity   uint32
	UIDNext       uint32
	HighestModSeq uint64
	Selectable    bool
	Status        *remote.Status // nil: not told
}

// Follower is the Import of an exact target.
type Follower interface {
	backend.ForeignImport
	// Watch looks for mail at the target that neither the move nor we put there,
	// and files it at the source, once. It has to run before each pass.
	Watch(ctx context.Context, source *remote.Client) ([]LateMail, error)
	// Displaced are the messages of a mailbox that cannot get their UID.
	Displaced(backend.MailboxName) []imap.UID
	// Displace lets the next pass put displaced messages behind all others,
	// under UIDs that the source has not given to any; the next Watch takes them
	// away again.
	Displace(on bool)
	// At is where the target has a message of the source.
	At(name backend.MailboxName) (func(imap.UID) imap.UID, error)
	// Raw is the name of a mailbox at the target; empty: not there.
	Raw(backend.MailboxName) string
	// Use lends the connection to the target; nothing is open on it.
	Use(ctx context.Context, fn func(*remote.Client) error) error
	// Repair sets flags that somebody else changed at the target.
	Repair(ctx context.Context, name backend.MailboxName, flags []backend.ImportFlags) error
	Close() error
}

// LateMail is a message that somebody else put into the target.
type LateMail struct {
	Mailbox backend.MailboxName
	UID     imap.UID // at the target
	As      imap.UID // at the source
}

var errNoUIDPlus = backend.NewError(backend.KindInvalid, "The old store cannot expunge single messages (UIDPLUS), so it cannot follow the new one.")

// Watch implements Follower.
func (i *account) Watch(ctx context.Context, source *remote.Client) (late []LateMail, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.do(ctx, func(c *remote.Client) (err error) {
		if !c.Has("UIDPLUS") {
			return &decided{errNoUIDPlus}
		}
		i.list, err = c.Survey(ctx)
		return err
	}); err != nil {
		return nil, fmt.Errorf("survey of the old store: %w", err)
	}
	i.displacing = false
	if err := i.finishRenames(ctx); err != nil {
		return nil, err
	}
	for _, x := range i.o.Exact.Boxes(i.list) {
		if !x.Selectable {
			continue
		}
		got, err := i.watchBox(ctx, x, source)
		if err != nil {
			return late, fmt.Errorf("mailbox %q: %w", x.Raw, err)
		}
		late = append(late, got...)
	}
	i.watched = true
	return late, nil
}

// watchBox looks at one mailbox, if it changed behind our back; callers hold mu.
func (i *account) watchBox(ctx context.Context, x ExactBox, source *remote.Client) ([]LateMail, error) {
	b := i.box(x.Name)
	if b == nil {
		if x.UIDValidity == 0 && x.Status != nil && x.Status.Messages == 0 {
			return nil, nil // younger than the move, and empty
		}
		if st := x.Status; st != nil && len(i.mailboxes()) > 0 && st.UIDValidity != x.UIDValidity {
			x.UIDValidity, x.UIDNext = 0, 0 // another one of this name
		}
		var err error
		if b, err = i.adopted(x); err != nil {
			return nil, err
		}
	}
	h := b.m.header()
	if h.SrcValidity != x.UIDValidity {
		x.UIDValidity, x.UIDNext = 0, 0
	}
	b.common = x
	if _, doubts := b.m.counts(); doubts == 0 && x.Status != nil && h.DstValidity != 0 && h.DstUIDNext != 0 && x.Status.UIDValidity == h.DstValidity &&
		x.Status.Messages == h.DstMessages && x.Status.UIDNext == h.DstUIDNext {
		b.checked, b.broken = true, i.broken
		b.seen(x.Status.Messages, x.Status.UIDNext)
		return nil, nil
	}
	for _, v := range []uint32{h.DstValidity, x.UIDValidity} {
		if st := x.Status; v != 0 && st != nil && st.UIDValidity != v && st.Messages > 0 {
			return nil, backend.Errorf(backend.KindConflict, "A mailbox of the old store is another one now.",
				"UIDVALIDITY %d became %d: somebody replaced it", v, st.UIDValidity)
		}
	}
	b.checked, b.sel = false, nil
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if x.Status != nil && x.Status.UIDNext > 0 { // SELECT need not tell it
		exists, _ := b.counters()
		b.seen(exists, x.Status.UIDNext)
	} else if b.sel == nil || b.sel.UIDNext == 0 {
		return nil, backend.NewError(backend.KindInvalid, "The old store does not tell UIDNEXT.")
	}
	late, err := b.carryAll(ctx, source)
	if err != nil {
		return late, err
	}
	exists, next := b.counters()
	return late, b.m.setHead(func(h *mapHeader) { h.DstMessages, h.DstUIDNext = exists, next })
}

// adopted begins the map of a mailbox that the target has; callers hold mu.
func (i *account) adopted(x ExactBox) (*mailbox, error) {
	i.state.Lock()
	defer i.state.Unlock()
	i.files++
	m, err := i.openMap(i.files)
	if err != nil {
		return nil, err
	}
	b := &mailbox{i: i, name: x.Name, raw: x.Raw, file: i.files, m: m}
	if err := m.setHead(func(h *mapHeader) {
		h.SrcValidity, h.UIDNext, h.ModSeq = x.UIDValidity, x.UIDNext, x.HighestModSeq
	}); err != nil {
		return nil, err
	}
	if err := i.record(indexed{Name: x.Name, Raw: x.Raw, File: b.file}); err != nil {
		return nil, err
	}
	i.boxes[x.Name] = b
	return b, nil
}

// recognize sorts what a listing of the target has and the map has not: what
// was there at the move is the source's under the same UID, the rest is a
// stranger's. Callers hold i.mu.
func (b *mailbox) recognize(all []listed) error {
	h := b.m.header()
	same := b.common.UIDValidity != 0 && h.SrcValidity == b.common.UIDValidity && h.DstValidity == b.common.UIDValidity
	var recs []record
	var flags [][]imap.Flag
	b.strangers = nil
	for _, l := range all {
		if !same || uint32(l.uid) >= b.common.UIDNext {
			b.strangers = append(b.strangers, l)
			continue
		}
		recs = append(recs, record{src: uint32(l.uid), dst: uint32(l.uid), size: uint32(min(l.size, 1<<32-1))})
		flags = append(flags, l.flags)
	}
	if len(recs) > 0 {
		if err := b.m.file(recs, flags); err != nil {
			return err
		}
	}
	if h.Count == 0 && len(recs) > 0 {
		return b.m.setHead(func(h *mapHeader) { h.Count = uint32(len(recs)) })
	}
	return nil
}

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

// unsubscribed are subscriptions of the target to the user's own mailboxes that
// the source has not; callers hold mu.
func (i *account) unsubscribed(names []backend.MailboxName) (remove []string) {
	raw := make(map[string]backend.MailboxName)
	for _, b := range i.mailboxes() {
		raw[b.raw] = b.name
	}
	others := append(slices.Clone(i.list.Namespaces.Other), i.list.Namespaces.Shared...)
	for _, e := range i.list.Subscriptions {
		if slices.ContainsFunc(others, func(ns backend.Namespace) bool { return ns.Prefix != "" && strings.HasPrefix(e.Name, ns.Prefix) }) {
			continue
		}
		name, ok := raw[e.Raw]
		if !ok {
			name, ok = i.source.Name(e.Name)
		}
		if ok && !slices.Contains(names, name) {
			remove = append(remove, e.Raw)
		}
	}
	return remove
}

// Displaced implements Follower.
func (i *account) Displaced(name backend.MailboxName) (uids []imap.UID) {
	b := i.box(name)
	if b == nil {
		return nil
	}
	b.state.Lock()
	defer b.state.Unlock()
	for uid, why := range b.refused {
		if why == displaced {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}

// Displace implements Follower.
func (i *account) Displace(on bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.displacing = on
	for _, b := range i.mailboxes() {
		b.state.Lock()
		for uid, why := range b.refused {
			if why == displaced {
				delete(b.refused, uid)
			}
		}
		b.state.Unlock()
	}
}

// At implements Follower.
func (i *account) At(name backend.MailboxName) (func(imap.UID) imap.UID, error) {
	moved := make(map[imap.UID]imap.UID)
	if b := i.box(name); b != nil {
		if err := b.m.each(func(r record) bool {
			if r.state == stateStored && r.src != r.dst {
				moved[imap.UID(r.src)] = imap.UID(r.dst)
			}
			return true
		}); err != nil {
			return nil, err
		}
	}
	return func(uid imap.UID) imap.UID {
		if to, ok := moved[uid]; ok {
			return to
		}
		return uid
	}, nil
}

// Raw implements Follower.
func (i *account) Raw(name backend.MailboxName) string {
	if b := i.box(name); b != nil {
		return b.raw
	}
	return ""
}

// oneBody is a remote.BodySource for one message.
type oneBody struct {
	uid   imap.UID
	asked bool
	to    *body
	got   bool
}

func (o *oneBody) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if o.asked {
		return nil, 0, false
	}
	o.asked = true
	set.AddNum(o.uid)
	return set, 64 << 10, true
}

func (o *oneBody) Body(_ int64, r io.Reader) error {
	if o.got {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	_, err := io.Copy(struct{ io.Writer }{o.to}, struct{ io.Reader }{r})
	return err
}

func (o *oneBody) Message(m *remote.Meta) error {
	o.got = o.got || m.UID == o.uid && m.Body == remote.BodyRead
	return nil
}

func (o *oneBody) Answered(imap.UIDSet, error) error { return nil }

func equalID(x, y digest) bool { id, other := x.id(), y.id(); return bytes.Equal(id[:], other[:]) }

// Use implements Follower.
func (i *account) Use(ctx context.Context, fn func(*remote.Client) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.do(ctx, fn)
}

// Repair implements Follower.
func (i *account) Repair(ctx context.Context, name backend.MailboxName, flags []backend.ImportFlags) error {
	b := i.box(name)
	if b == nil {
		return backend.Errorf(backend.KindNotFound, "", "mailbox %q", name)
	}
	for _, f := range flags {
		if _, ok, err := b.m.get(f.UID); err != nil || !ok {
			return err
		}
		if err := b.m.setFlags(f.UID, unknownFlags); err != nil {
			return err
		}
	}
	return b.SetFlags(ctx, flags)
}
