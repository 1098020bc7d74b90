package target

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
