package migrate

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/sync/errgroup"

	"mailferry/backend/remote"
)

// Small mailboxes are listed and copied in groups, so that at a distance a group
// costs some round trips and not each mailbox. What a group does not bring over
// cleanly is left to the way of single mailboxes (merge), which knows every
// odd case.
const (
	groupBoxes    = 32
	groupMessages = 20_000 // listed at a time
	groupSmall    = 4_000  // larger ones keep a window full by themselves
	groupCommands = 64     // on the way
	// Each group costs two round trips: where they are long, groups are larger.
	// groupNames bounds the octets of their names, as a group's commands are sent
	// before its answers are read and have to fit in the buffers on the way.
	groupFar   = 4
	groupNames = 16 << 10
)

// groupTimes is by how much groups are larger than near by. c is nil when there is no
// connection at the moment.
func (a *account) groupTimes(c *remote.Client) int {
	if c != nil && c.RTT() >= a.lines.far {
		return groupFar
	}
	return 1
}

// member is one mailbox of a group.
type member struct {
	b       *box
	list    *remote.MailboxListing
	l       *listing
	missing *listing
	cp      *copier
	failed  bool
}

// groupable reports mailboxes that have to be listed whole and are small.
func (a *account) groupable(c *remote.Client, p planned) bool {
	b := a.boxes[p.name]
	if b == nil && a.asBefore(p) { // nothing to do: it costs nothing alone
		return false
	}
	if b != nil && !b.hollow && slices.Equal(b.special, p.special) && (b.modseq > 0 || b.unchanged(p)) {
		return false // a delta is cheaper
	}
	if a.filter != nil && a.filter.Search != "" {
		return false
	}
	return !p.hollow && p.known && p.status.Messages <= groupSmall && c.Queueable(p.raw)
}

// groups calls one for mailboxes that go alone, and many for groups.
func (a *account) groups(c *remote.Client, boxes []planned, one func(planned), many func([]planned)) {
	var group []planned
	most := groupBoxes * a.groupTimes(c)
	messages, names := uint32(0), 0
	flush := func() {
		if len(group) > 1 {
			many(group)
		} else {
			for _, p := range group {
				one(p)
			}
		}
		group, messages, names = nil, 0, 0
	}
	for _, p := range boxes {
		if !a.groupable(c, p) {
			one(p)
			continue
		}
		group = append(group, p)
		if names += len(p.raw); p.status.Messages > groupMessages-min(messages, groupMessages) || len(group) >= most || names >= groupNames {
			flush()
			continue
		}
		messages += p.status.Messages
	}
	flush()
}

// mergeGroup brings mailboxes over that a full listing is needed for. It
// returns those that are left to do one by one, for whatever reason.
func (a *account) mergeGroup(ctx context.Context, group []planned, res *pass) (left []planned) {
	c, err := a.connected(ctx)
	if err != nil {
		return group
	}
	members, err := a.listGroup(ctx, c, group)
	if err != nil {
		a.drop()
		return group
	}
	a.together(len(members), func(i int) { members[i].failed = a.enter(ctx, c, members[i]) != nil })
	for _, m := range members {
		m.failed = m.failed || a.stage(ctx, m, res) != nil
	}
	if err := a.fetchGroup(ctx, c, members, res); err != nil {
		a.log.Info("a group of mailboxes was cut off", "error", err)
		a.drop()
	}
	a.together(len(members), func(i int) { members[i].failed = a.finish(ctx, members[i]) != nil })
	for i, m := range members {
		if m.failed {
			left = append(left, group[i])
			continue
		}
		res.Changed++
		a.boxes[m.b.name] = m.b
	}
	return left
}

// listGroup lists mailboxes, unless listAhead did.
func (a *account) listGroup(ctx context.Context, c *remote.Client, group []planned) ([]*member, error) {
	if x := a.listed; x != nil {
		a.listed = nil
		if slices.EqualFunc(x.members, group, func(m *member, p planned) bool { return m.b.raw == p.raw }) {
			return x.members, x.err
		}
	}
	members := a.members(group)
	return members, listMembers(ctx, c, members)
}

func (a *account) members(group []planned) []*member {
	members := make([]*member, len(group))
	for i, p := range group {
		m := &member{b: &box{planned: p}, l: newListing(&a.flags)}
		if old := a.boxes[p.name]; old != nil {
			m.b.object = old.object
			m.b.validity, m.b.firstRecent, m.b.notes, m.b.reread, m.b.proved = old.validity, old.firstRecent, old.notes, old.reread, old.proved
		}
		m.list = &remote.MailboxListing{Raw: p.raw, Query: remote.FetchMeta{UIDs: "1:*", Items: remote.FetchAll}, Meta: m.l.add}
		members[i] = m
	}
	return members
}

func listMembers(ctx context.Context, c *remote.Client, members []*member) error {
	lists := make([]*remote.MailboxListing, len(members))
	for i, m := range members {
		lists[i] = m.list
	}
	return c.Listings(ctx, lists)
}

// listedGroup is a group that was listed before its turn.
type listedGroup struct {
	members []*member
	err     error
}

// listAhead lists the first group of a first copy while meanwhile goes on, which
// works at the target alone.
func (a *account) listAhead(ctx context.Context, pl *plan, meanwhile func() error) error {
	a.listed = nil
	var first []planned
	if a.client != nil && len(a.imported) == 0 && len(a.boxes) == 0 {
		boxes := slices.DeleteFunc(inboxFirst(pl.boxes), func(p planned) bool { return p.hollow })
		a.groups(a.client, boxes, func(planned) {}, func(group []planned) {
			if first == nil {
				first = group
			}
		})
	}
	if len(first) == 0 {
		return meanwhile()
	}
	x, c := &listedGroup{members: a.members(first)}, a.client
	var wg sync.WaitGroup
	wg.Go(func() { x.err = listMembers(ctx, c, x.members) })
	err := meanwhile()
	if wg.Wait(); err == nil {
		a.listed = x
	}
	return err
}

// atOnce is how many writes about mailboxes are under way at the target. Each is
// made durable, and those that come together share the cost of that.
const atOnce = 16

// together calls f for each of n mailboxes, several at a time where the target
// has no order of its own to keep.
func (a *account) together(n int, f func(i int)) {
	if a.ordered || n == 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { f(i); return nil })
	}
	_ = g.Wait() // f keeps its own errors
}

var errLeft = errors.New("left to the way of single mailboxes")

// enter opens the target's mailbox for a listing that is whole.
func (a *account) enter(ctx context.Context, c *remote.Client, m *member) error {
	m.l.finish()
	if m.list.Err != nil || len(m.l.entries) != int(m.list.Selected.Exists) || len(m.list.Gone) > 0 {
		return errLeft
	}
	return a.openBox(ctx, c, m.b, m.list.Selected)
}

// stage compares a listing with the target and applies all but new messages.
func (a *account) stage(ctx context.Context, m *member, res *pass) error {
	if back, err := a.rewound(ctx, m.b, m.list.Selected, m.l); back || err != nil {
		return errLeft
	}
	d, err := diff(ctx, m.l, m.b.imp)
	if err != nil {
		return err
	}
	if tooMany(d.removed, d.had) || a.stranger(m.b, d) {
		return errLeft
	}
	res.Vanished += d.removed
	m.missing = d.missing
	m.b.filtered = 0
	a.wanted(m.b, m.missing, nil)
	return a.applyMerge(ctx, m.b, &changes{flags: d.flags, fresh: &listing{}}, d, m.list.Selected, res)
}

// fetchGroup copies what the members miss.
func (a *account) fetchGroup(ctx context.Context, c *remote.Client, members []*member, res *pass) error {
	src := &groupSource{boxes: make(map[string]*member)}
	ahead := 2 * putsAhead
	if a.ordered {
		ahead = orderedAhead
	}
	slots := make(chan struct{}, ahead)
	buf := make([]byte, 64<<10)
	for _, m := range members {
		if m.failed || len(m.missing.entries) == 0 {
			continue
		}
		m.cp = &copier{a: a, b: m.b, l: m.missing, q: newBacklog(m.missing.entries), ctx: ctx, got: newMarks(len(m.missing.entries)),
			exact: c.Profile().ExactSizes || c.Profile().GhostBodies, puts: newPutter(ctx, m.b.imp), buf: buf}
		m.cp.puts.slots = slots
		src.todo = append(src.todo, m)
		src.boxes[m.b.raw] = m
		a.progress.Octets.Add(m.missing.octets)
		a.progress.Messages.Add(int64(len(m.missing.entries)))
	}
	err := error(nil)
	for err == nil && len(src.todo) > 0 {
		err = c.FetchBodies(ctx, src, remote.Window{Octets: windowOctets, Commands: groupCommands * a.groupTimes(c), ContentIDs: a.asksIDs()})
		src.leave()
		if err == nil && len(src.todo) > 0 {
			err = a.yield(ctx)
		}
	}
	for _, m := range src.boxes {
		m.cp.drop()
		if e := m.cp.puts.wait(); e != nil {
			m.failed = true
		}
		for _, e := range m.cp.notes {
			m.b.note(e)
		}
		a.streamed += uint64(m.cp.got.n)
		res.Copied += m.cp.got.n
	}
	return err
}

// finish seals a mailbox that came over whole.
func (a *account) finish(ctx context.Context, m *member) error {
	if cp := m.cp; cp != nil && cp.got.n < len(m.missing.entries) {
		m.failed = true // single counts it again
		a.progress.Messages.Add(int64(cp.got.n - len(m.missing.entries)))
	}
	if m.failed {
		return errLeft
	}
	m.b.skipRefused()
	m.b.summarize(m.l, m.list.Selected)
	return a.seal(ctx, m.b, m.list.Selected, m.l)
}

// groupSource is a remote.MailboxSource over the members of a group.
type groupSource struct {
	todo  []*member // not asked for to the end
	boxes map[string]*member
	open  *member // whose answers come; nil: nobody's
}

// NextSet gives the sets of one mailbox after the other.
func (g *groupSource) NextSet() (imap.UIDSet, int64, bool) {
	for len(g.todo) > 0 && g.todo[0].cp.q.len() == 0 {
		g.todo = g.todo[1:]
	}
	if len(g.todo) == 0 {
		return nil, 0, false
	}
	return g.todo[0].cp.NextSet()
}

// Mailbox is that of the set before.
func (g *groupSource) Mailbox() string { return g.todo[0].b.raw }

// Opened switches to the next mailbox, if it is still the one that was listed.
func (g *groupSource) Opened(raw string, sel *remote.Selected, err error) {
	g.leave()
	if m := g.boxes[raw]; err == nil && m != nil && sel.UIDValidity == m.b.validity {
		g.open = m
	}
}

// leave commits what is there of the mailbox that was open.
func (g *groupSource) leave() {
	if g.open != nil {
		g.open.cp.drop()
		_ = g.open.cp.puts.flush() // wait tells its error
		g.open = nil
	}
}

func (g *groupSource) Body(size int64, r io.Reader) error {
	if g.open == nil {
		return nil
	}
	return g.open.cp.Body(size, r)
}

func (g *groupSource) Message(m *remote.Meta) error {
	if g.open != nil && g.open.cp.Message(m) != nil {
		g.open.failed = true // a Put of this mailbox: the others go on
	}
	return nil
}

func (g *groupSource) Answered(_ imap.UIDSet, err error) error {
	if g.open != nil {
		g.open.cp.a.refusedIDs(err)
	}
	return nil
}
