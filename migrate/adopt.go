package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

const (
	// adoptChunk messages of a mailbox are in hand at a time.
	adoptChunk = 20_000
	// adoptFew messages more in INBOX are taken for new mail: no round trip is
	// spent on the question whether they were moved there.
	adoptFew = 10
	// adoptHeld is how many messages have to be new in all for the question to
	// be asked while the user is on hold.
	adoptHeld = 50
	// adoptFailures in a row, and what moves is fetched.
	adoptFailures = 3
)

// stray is a new message of the old store, and where the target may have its
// content.
type stray struct {
	uid imap.UID
	id  idHash
}

// origin is a message of the target that may be the content of others.
type origin struct {
	idPlace
	size int64
	full [32]byte
	date int64
	sha1 [20]byte // where the source tells its own
	ok   bool     // it is there, as it was noted
}

// adopt files messages that were moved or copied at the old store with the
// bodies that the target has, before anything is removed there. The store's
// ids only say where to look: the message has to be there with the digest that
// was noted, and of the listed size; then its SHA-1 has to be the one that the
// old store tells or, where it tells none, the date has to be equal and some of
// them are fetched and compared. One that differs ends the use of the ids. What
// fails here is fetched by the pass that follows.
func (a *account) adopt(ctx context.Context, pl *plan, res *pass) error {
	if a.ids == nil || a.ordered || a.filter != nil {
		return nil
	}
	if err := a.dropDoubtful(ctx); err != nil {
		return err
	}
	if len(a.boxes) == 0 || !a.asksIDs() {
		return nil
	}
	grown, total := a.grown(pl)
	if len(grown) == 0 || a.onHold && total < adoptHeld {
		return nil
	}
	if empty, err := a.ids.empty(); empty || err != nil {
		return a.withoutIDs(err)
	}
	err := a.adoptAll(ctx, grown, res)
	switch {
	case err == nil:
		a.failed = 0
	case ctx.Err() != nil:
		return err
	default:
		a.log.Info("what moved cannot be found here and is fetched", "error", err)
		if a.failed++; a.failed == adoptFailures {
			a.lostIDs.Store(true)
		}
	}
	return nil
}

func (a *account) adoptAll(ctx context.Context, grown []growth, res *pass) error {
	c, err := a.connected(ctx)
	if err != nil || c.ContentIDs() == "" {
		return err
	}
	for _, g := range grown {
		if empty, err := a.ids.empty(); empty || err != nil { // distrusted by now
			return err
		}
		if err := a.adoptBox(ctx, c, g.planned, g.first, res); err != nil {
			if ctx.Err() != nil || brokenBy(err) {
				a.drop()
			}
			return fmt.Errorf("mailbox %q: %w", g.shown, err)
		}
	}
	return nil
}

// withoutIDs goes on when the file of ids fails: everything is fetched. It
// returns nil.
func (a *account) withoutIDs(err error) error {
	if err != nil {
		a.log.Warn("ids of messages cannot be kept: what moves is fetched again", "error", err)
		a.lostIDs.Store(true)
	}
	return nil
}

// growth is a mailbox with new messages.
type growth struct {
	planned
	first uint32
}

// grown are the mailboxes to which messages may have been moved. One that takes
// the place of another at the target is not among them: opening it drops that.
func (a *account) grown(pl *plan) (list []growth, total uint32) {
	for _, p := range pl.boxes {
		s := p.status
		if p.hollow || !p.known || s.Messages == 0 || s.UIDValidity == 0 {
			continue
		}
		first := uint32(1)
		b := a.boxes[p.name]
		m, there := a.imported[p.name]
		switch {
		case b != nil && !b.hollow && b.validity == s.UIDValidity:
			first = b.next
		case b != nil || there && m.UIDValidity != s.UIDValidity:
			continue
		}
		if s.UIDNext <= first {
			continue
		}
		n := min(s.UIDNext-first, s.Messages)
		if total += n; p.name != backend.Inbox || n > adoptFew {
			list = append(list, growth{p, first})
		}
	}
	return list, total
}

// adoptBox looks at one mailbox from UID first on, at so many UIDs at a time as
// hold about adoptChunk messages.
func (a *account) adoptBox(ctx context.Context, c *remote.Client, p planned, first uint32, res *pass) error {
	most := cmp.Or(a.chunk, adoptChunk)
	width := uint64(1<<32 - 1)
	if n := uint64(p.status.Messages); n > uint64(most) {
		width = max(1, uint64(p.status.UIDNext)*uint64(most)/n)
	}
	for from := uint64(first); from < uint64(p.status.UIDNext); from += width {
		uids := fmt.Sprintf("%d:%d", from, min(from+width, uint64(p.status.UIDNext))-1)
		l, strays, validity, err := a.strays(ctx, c, p, uids)
		if err != nil || validity == 0 {
			return err
		}
		for chunk := range slices.Chunk(strays, most) { // where UIDs are dense
			if more, err := a.adoptSome(ctx, c, p, validity, l, chunk, res); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// adoptSome files what it can of some strays. more is false when ids are not
// believed any more.
func (a *account) adoptSome(ctx context.Context, c *remote.Client, p planned, validity uint32, l *listing, chunk []stray, res *pass) (more bool, err error) {
	found, err := a.origins(ctx, chunk)
	if err != nil {
		return false, err
	}
	chunk = slices.DeleteFunc(chunk, func(s stray) bool {
		o, i := found[s.id], l.index(s.uid)
		return o == nil || i < 0 || l.entries[i].size == 1<<32-1 || int64(l.entries[i].size) != o.size
	})
	if len(chunk) == 0 {
		return true, nil
	}
	chunk, digests, err := a.vouched(ctx, c, l, chunk, found)
	if err != nil {
		return false, err
	}
	if empty, err := a.ids.empty(); empty || err != nil {
		return false, err
	}
	return true, a.fileCopies(ctx, p, validity, l, chunk, found, !digests, res)
}

// strays lists messages of a mailbox with their ids. validity 0: it cannot be.
func (a *account) strays(ctx context.Context, c *remote.Client, p planned, uids string) (l *listing, list []stray, validity uint32, err error) {
	l = newListing(&a.flags)
	q := &remote.MailboxListing{Raw: p.raw, Query: remote.FetchMeta{UIDs: uids, Items: remote.FetchAll + " " + c.ContentIDs()}}
	q.Meta = func(m *remote.Meta) error {
		if id := hashID(m.ContentID); (id != idHash{}) {
			list = append(list, stray{m.UID, id})
		}
		return l.add(m)
	}
	if !c.Queueable(p.raw) {
		return nil, nil, 0, nil
	}
	if err := c.Listings(ctx, []*remote.MailboxListing{q}); err != nil {
		return nil, nil, 0, err
	}
	if q.Err != nil || q.Selected.UIDValidity != p.status.UIDValidity {
		a.log.Info("ids of messages are not told", "mailbox", p.shown, "error", q.Err)
		a.refusedIDs(q.Err)
		return nil, nil, 0, nil
	}
	if b := a.boxes[p.name]; b != nil && a.replaced(b, q.Selected) {
		return nil, nil, 0, nil // to be looked at again
	}
	l.finish()
	slices.SortStableFunc(list, func(x, y stray) int { return cmp.Compare(x.uid, y.uid) })
	list = slices.CompactFunc(list, func(x, y stray) bool { return x.uid == y.uid })
	return l, list, q.Selected.UIDValidity, nil
}

// origins finds, for ids of messages, one message of the target each.
func (a *account) origins(ctx context.Context, chunk []stray) (map[idHash]*origin, error) {
	names := make(map[idName]*box)
	for name, b := range a.boxes {
		if !b.hollow && b.validity != 0 {
			names[nameOf(name, b.validity)] = b
		}
	}
	const most = 4 // places of one content that are remembered
	found := make(map[idHash][]*origin)
	want := make(map[idHash]bool, len(chunk))
	for _, s := range chunk {
		want[s.id] = true
	}
	byBox := make(map[*box][]*origin)
	err := a.ids.find(func(id idHash) bool { return want[id] }, func(id idHash, at idPlace) {
		if names[at.box] == nil {
			return
		}
		o := append(found[id], &origin{idPlace: at})
		found[id] = o[max(0, len(o)-most):]
	})
	if err != nil {
		return nil, a.withoutIDs(err)
	}
	for _, list := range found {
		for _, o := range list {
			byBox[names[o.box]] = append(byBox[names[o.box]], o)
		}
	}
	for b, list := range byBox {
		if err := a.recall(ctx, b, list); err != nil {
			return nil, err
		}
	}
	out := make(map[idHash]*origin, len(found))
	for id, list := range found {
		for _, o := range list {
			if o.ok {
				out[id] = o
			}
		}
	}
	return out, nil
}

// recall reads what the target has of messages of one mailbox.
func (a *account) recall(ctx context.Context, b *box, list []*origin) error {
	if err := a.opened(ctx, b); err != nil {
		return err
	}
	slices.SortFunc(list, func(x, y *origin) int { return cmp.Compare(x.uid, y.uid) })
	i := 0
	for m, err := range b.imp.Messages(ctx) {
		if err != nil {
			return fmt.Errorf("list the target: %w", err)
		}
		for i < len(list) && list[i].uid < m.UID {
			i++
		}
		if i == len(list) {
			return nil
		}
		for ; i < len(list) && list[i].uid == m.UID; i++ {
			if o := list[i]; idDigest(m.Digest[:]) == o.digest {
				o.size, o.full, o.date, o.ok = m.Size, m.Digest, m.InternalDate.Unix(), true
			}
		}
	}
	return nil
}

// distrust ends the use of the old store's ids, and drops the mailboxes that
// hold messages which were filed by them: they are copied anew.
func (a *account) distrust(ctx context.Context) error {
	if err := a.ids.distrust(); err != nil {
		_ = a.withoutIDs(err) // it is nil: what is doubtful is known until the process ends
	}
	a.log.Warn("the old store gives one id to different messages: what moves is fetched again")
	return a.dropDoubtful(ctx)
}

// dropDoubtful drops what distrust did not come to drop.
func (a *account) dropDoubtful(ctx context.Context) error {
	boxes, err := a.ids.doubtful()
	if boxes == nil || err != nil {
		return a.withoutIDs(err)
	}
	for name, h := range a.held() {
		if boxes[nameOf(name, h.UIDValidity)] {
			a.log.Info("copied anew: messages in it were filed by ids", "mailbox", strings.ReplaceAll(string(name), backend.NameSeparator, "/"))
			if err := a.forsake(ctx, name); err != nil {
				return err
			}
		}
	}
	a.filed, a.adopted, a.trusted = nil, 0, 0
	return a.withoutIDs(a.ids.dropped())
}

// setOfStrays is the set of their UIDs, which ascend.
func setOfStrays(list []stray) (set imap.UIDSet) {
	for _, s := range list {
		if n := len(set); n > 0 && set[n-1].Stop+1 == s.uid {
			set[n-1].Stop = s.uid
		} else {
			set = append(set, imap.UIDRange{Start: s.uid, Stop: s.uid})
		}
	}
	return set
}

// asksIDs reports whether the ids of messages are asked for with their bodies.
func (a *account) asksIDs() bool { return a.ids != nil && !a.noIDs.Load() && !a.lostIDs.Load() }

// refusedIDs takes the error of a FETCH: a store that does not know the item
// refuses its syntax.
func (a *account) refusedIDs(err error) {
	if se := (*remote.StatusError)(nil); a.ids != nil && errors.As(err, &se) && se.Status == "BAD" {
		a.noIDs.Store(true)
	}
}

// identify notes the id of a message whose body is about to be filed.
func (cp *copier) identify(m *remote.Meta, body backend.Body) {
	if len(m.ContentID) == 0 || !cp.a.asksIDs() {
		return
	}
	if (cp.key == idName{}) {
		cp.key = nameOf(cp.b.name, cp.b.validity)
	}
	if err := cp.a.ids.add(cp.key, hashID(m.ContentID), m.UID, body.Digest()); err != nil {
		_ = cp.a.withoutIDs(err) // it is nil
	}
}

// noteObject keeps the OBJECTID of a sealed mailbox over a restart.
func (a *account) noteObject(b *box) error {
	a.sealedFiled(b.name)
	if a.ids == nil || a.lostIDs.Load() {
		return nil
	}
	return a.withoutIDs(a.ids.note(nameOf(b.name, b.validity), b.object))
}

// trimIDs keeps the file of ids in proportion.
func (a *account) trimIDs() error {
	if a.ids == nil {
		return nil
	}
	n := 0
	for _, b := range a.boxes {
		n += int(b.total())
	}
	return a.ids.trim(n)
}
