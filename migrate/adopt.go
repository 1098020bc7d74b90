package migrate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

const (
	// adoptMost bounds the messages of a mailbox for which an original is looked
	// for in one pass, adoptChunk those that are in hand at a time.
	adoptMost  = 1_000_000
	adoptChunk = 20_000
	// adoptFew messages more in INBOX are taken for new mail: no round trip is
	// spent on the question whether they were moved there.
	adoptFew = 10
	// adoptHeld is how many messages have to be new in all for the question to
	// be asked while the user is on hold.
	adoptHeld = 50
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
// them are fetched and compared. One that differs ends the use of the ids.
func (a *account) adopt(ctx context.Context, pl *plan, res *pass) error {
	a.filed = nil
	if a.ids == nil || a.lostIDs.Load() || a.ordered || a.filter != nil || len(a.boxes) == 0 {
		return nil
	}
	if empty, err := a.ids.empty(); empty || err != nil {
		return a.withoutIDs(err)
	}
	grown, total := a.grown(pl)
	if len(grown) == 0 || a.onHold && total < adoptHeld {
		return nil
	}
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	if c.ContentIDs() == "" {
		return nil
	}
	for _, g := range grown {
		if empty, err := a.ids.empty(); empty || err != nil { // distrusted by now
			return a.withoutIDs(err)
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

// adoptBox looks at one mailbox from UID first on.
func (a *account) adoptBox(ctx context.Context, c *remote.Client, p planned, first uint32, res *pass) error {
	l, strays, validity, err := a.strays(ctx, c, p, first)
	if err != nil || len(strays) == 0 {
		return err
	}
	for chunk := range slices.Chunk(strays, adoptChunk) {
		found, err := a.origins(ctx, chunk)
		if err != nil {
			return err
		}
		chunk = slices.DeleteFunc(chunk, func(s stray) bool {
			o, i := found[s.id], l.index(s.uid)
			return o == nil || i < 0 || l.entries[i].size == 1<<32-1 || int64(l.entries[i].size) != o.size
		})
		if len(chunk) == 0 {
			continue
		}
		if chunk, err = a.vouched(ctx, c, l, chunk, found); err != nil {
			return err
		}
		if err := a.fileCopies(ctx, p, validity, l, chunk, found, res); err != nil {
			return err
		}
	}
	return nil
}

// strays lists the new messages of a mailbox with their ids.
func (a *account) strays(ctx context.Context, c *remote.Client, p planned, first uint32) (*listing, []stray, uint32, error) {
	l := newListing(&a.flags)
	var list []stray
	q := &remote.MailboxListing{Raw: p.raw, Query: remote.FetchMeta{UIDs: fmt.Sprintf("%d:*", first), Items: remote.FetchAll + " " + c.ContentIDs()}}
	q.Meta = func(m *remote.Meta) error {
		if uint32(m.UID) < first || len(list) >= adoptMost {
			return nil
		}
		if id := hashID(m.ContentID); (id != idHash{}) {
			list = append(list, stray{m.UID, id})
		}
		return l.add(m)
	}
	if !c.Queueable(p.raw) {
		return l, nil, 0, nil
	}
	if err := c.Listings(ctx, []*remote.MailboxListing{q}); err != nil {
		return nil, nil, 0, err
	}
	if q.Err != nil || q.Selected.UIDValidity != p.status.UIDValidity {
		a.log.Info("ids of messages are not told", "mailbox", p.shown, "error", q.Err)
		return l, nil, 0, nil
	}
	if b := a.boxes[p.name]; b != nil && a.replaced(b, q.Selected) {
		return l, nil, 0, nil // to be looked at again
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

// vouched leaves the messages of which the store's word is confirmed.
func (a *account) vouched(ctx context.Context, c *remote.Client, l *listing, chunk []stray, found map[idHash]*origin) ([]stray, error) {
	sums := make(map[imap.UID][]byte)
	told := true
	for part := range chunks(setOfStrays(chunk), 200) {
		ok, err := c.ServerSums(ctx, part, func(uid imap.UID, sum []byte) error {
			sums[uid] = bytes.Clone(sum)
			return nil
		})
		if err != nil {
			return nil, err
		}
		told = told && ok
	}
	if !told {
		return a.sampledStrays(ctx, c, l, chunk, found)
	}
	if err := a.hashOrigins(ctx, chunk, found); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(chunk, func(s stray) bool { return !bytes.Equal(sums[s.uid], found[s.id].sha1[:]) }), nil
}

// hashOrigins makes the SHA-1 of bodies of the target.
func (a *account) hashOrigins(ctx context.Context, chunk []stray, found map[idHash]*origin) error {
	byBox := make(map[idName]map[imap.UID][]*origin)
	for _, s := range chunk {
		o := found[s.id]
		if byBox[o.box] == nil {
			byBox[o.box] = make(map[imap.UID][]*origin)
		}
		byBox[o.box][o.uid] = append(byBox[o.box][o.uid], o)
	}
	for name, b := range a.boxes {
		picked := byBox[nameOf(name, b.validity)]
		r, ok := b.imp.(backend.Rereader)
		if len(picked) == 0 || !ok {
			continue
		}
		for m, err := range r.Reread(ctx, func(uid imap.UID) bool { return picked[uid] != nil }) {
			if err != nil {
				return fmt.Errorf("read %q again: %w", b.shown, err)
			}
			for _, o := range picked[m.UID] {
				if m.Digest == o.full {
					o.sha1 = m.SHA1
				}
			}
		}
	}
	return nil
}

// sampledStrays wants equal dates, and the same octets of a few.
func (a *account) sampledStrays(ctx context.Context, c *remote.Client, l *listing, chunk []stray, found map[idHash]*origin) ([]stray, error) {
	chunk = slices.DeleteFunc(chunk, func(s stray) bool {
		e := &l.entries[l.index(s.uid)]
		return e.date == noDate || l.at(e) != found[s.id].date
	})
	if len(chunk) == 0 {
		return nil, nil
	}
	n := min(len(chunk), 3+len(chunk)/100)
	sample := make(map[imap.UID]stray, n)
	uids := make([]imap.UID, 0, n)
	for i := range n {
		s := chunk[i*(len(chunk)-1)/max(n-1, 1)]
		if _, ok := sample[s.uid]; !ok {
			sample[s.uid] = s
			uids = append(uids, s.uid)
		}
	}
	good := true
	size := func(i int) int64 { return found[sample[uids[i]].id].size }
	err := c.BodySums(ctx, uids, size, sha256.New(), func(uid imap.UID, _ int64, sum []byte) error {
		s, ok := sample[uid]
		good = good && (!ok || bytes.Equal(sum, found[s.id].full[:]))
		return nil
	})
	if err != nil || good {
		return chunk, err
	}
	return nil, a.distrust(ctx)
}

// distrust ends the use of the old store's ids, and drops the mailboxes that
// hold messages which were filed by them: they are copied anew.
func (a *account) distrust(ctx context.Context) error {
	boxes, err := a.ids.distrust()
	if err != nil {
		return err
	}
	a.filed, a.adopted = nil, 0
	a.log.Warn("the old store gives one id to different messages: what moves is fetched again")
	for _, name := range a.names() {
		if b := a.boxes[name]; boxes[nameOf(name, b.validity)] {
			if err := a.forsake(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileCopies files what was vouched for.
func (a *account) fileCopies(ctx context.Context, p planned, validity uint32, l *listing, chunk []stray, found map[idHash]*origin, res *pass) error {
	if len(chunk) == 0 {
		return nil
	}
	imp, err := a.imp.Open(ctx, backend.ImportMailbox{Name: p.name, UIDValidity: validity, SpecialUse: p.special})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	to, ok := imp.(backend.CopyingImport)
	if !ok {
		return nil
	}
	if b := a.boxes[p.name]; b != nil { // what follows counts on what it knows
		b.imp, b.sealed, b.compared = imp, false, false
	}
	byBox := make(map[idName][]stray)
	for _, s := range chunk {
		byBox[found[s.id].box] = append(byBox[found[s.id].box], s)
	}
	for name, b := range a.boxes {
		list := byBox[nameOf(name, b.validity)]
		if len(list) == 0 {
			continue
		}
		copies := make([]backend.ImportCopy, len(list))
		for i, s := range list {
			e, o := &l.entries[l.index(s.uid)], found[s.id]
			copies[i] = backend.ImportCopy{Original: o.uid, Size: o.size, Digest: o.full, ImportMessage: backend.ImportMessage{UID: s.uid,
				ModSeq: e.modseq, InternalDate: l.internalDate(e), Flags: l.flags(e)}}
		}
		set, err := to.PutCopies(ctx, name, copies)
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		n := 0
		for _, s := range list {
			if !set.Contains(s.uid) {
				continue
			}
			n++
			if err := a.ids.add(nameOf(p.name, validity), s.id, s.uid, found[s.id].full, true); err != nil {
				return a.withoutIDs(err)
			}
		}
		a.tookCopies(p.name, set, n, res)
	}
	return nil
}

func (a *account) tookCopies(name backend.MailboxName, set imap.UIDSet, n int, res *pass) {
	if a.filed == nil {
		a.filed = make(map[backend.MailboxName]imap.UIDSet)
	}
	all := a.filed[name]
	all.AddSet(set)
	a.filed[name] = all
	a.adopted += uint64(n)
	res.Filed += n
	a.progress.Messages.Add(int64(n))
	a.progress.MessagesDone.Add(int64(n))
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
	if err := cp.a.ids.add(cp.key, hashID(m.ContentID), m.UID, body.Digest(), false); err != nil {
		_ = cp.a.withoutIDs(err) // it is nil
	}
}

// noteObject keeps the OBJECTID of a mailbox over a restart.
func (a *account) noteObject(b *box) error {
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
