package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// account brings one user's mail over and keeps it up to date. It is used by
// one goroutine at a time; Progress may be read by others.
type account struct {
	// Set at start.
	user     string
	dial     dialer
	importer backend.Importer
	// holds go before copying: crowded asks for a pause, yield waits it out.
	crowded func() bool
	yield   func(context.Context) error
	// another takes the place of one more connection to the source, when there
	// may be one; release gives it up, if dial's connection did not.
	another  func() (dial dialer, release func(), ok bool)
	lines    lineRule
	progress *Progress
	log      *slog.Logger

	// Owned by the goroutine.
	client    *remote.Client
	imp       backend.Import
	namespace backend.Namespace
	flags     flagMapper
	boxes     map[backend.MailboxName]*box
	filter    *compiled                                       // nil: everything
	imported  map[backend.MailboxName]backend.ImportedMailbox // of earlier runs, until looked at
	subs      []backend.MailboxName
	subsKnown bool
	planned   []Exception
	looked    *plan        // of the check just before, for the first pass
	listed    *listedGroup // nil: none
	ordered   bool         // the target takes messages in the order of UIDs
	streamed  uint64       // messages that were read, their size compared
	rereads   uint64       // bodies read again from the disk of the new store
	single    bool         // one connection per mailbox is enough
	probed    bool         // the source is known to be steady, or not to be
	proved    uint64       // messages asked of the old store again, and equal
	pop3      *maildrop
	early     *earlyDrop // asked for, not yet taken
	placing
	side *sideState
	// foreign are others' mailboxes that the user sees, subscribed those of them.
	foreign    []planned
	subscribed []string
}

// dialer opens a connection on which the user is logged in.
type dialer func(context.Context) (*remote.Client, error)

// box is what the target has of one mailbox.
type box struct {
	planned
	imp         backend.MailboxImport // nil for a hollow one
	validity    uint32
	next        uint32
	modseq      uint64 // 0: the mailbox has none
	count       uint32
	firstRecent uint32
	sum         [32]byte // of the source's UIDs and flags
	summed      bool     // sum belongs to the counters above
	listed      bool     // sum, or ledger, comes of a full listing and of no delta
	ledger      *ledger  // nil: not known, or the mailbox has no modseqs
	object      idHash   // its OBJECTID; zero: not known
	sealed      bool     // with these counters, and not reopened since
	reread      imap.UID // up to here bodies were read again
	proved      imap.UID // up to here the old store was asked again
	skipped     map[imap.UID]string
	filtered    uint32 // left out by the filter
	notes       map[string]Exception
	compared    bool // equal on both sides at the last compare
}

// Progress counts what a move has done. Safe for concurrent use.
type Progress struct {
	Messages, MessagesDone atomic.Int64
	Octets, OctetsDone     atomic.Int64
	// Planned is how many messages the first survey counted; those of Messages are
	// listed, and more is known of them. 0 before, and when all are listed.
	Planned  atomic.Int64
	Surveyed atomic.Bool
}

func (p *Progress) figures() (f figures) {
	if p.Surveyed.Load() {
		f.users = 1
	}
	f.planned, f.messages, f.messagesDone = p.Planned.Load(), p.Messages.Load(), p.MessagesDone.Load()
	f.octets, f.octetsDone = p.Octets.Load(), p.OctetsDone.Load()
	return f
}

// plan notes what the first survey found.
func (p *Progress) plan(pl *plan) {
	if p.Surveyed.Load() {
		return
	}
	n := int64(0)
	for i := range pl.boxes {
		n += int64(pl.boxes[i].status.Messages)
	}
	p.Planned.Store(n)
	p.Surveyed.Store(true)
}

func newAccount(user string, dial func(context.Context) (*remote.Client, error), importer backend.Importer) *account {
	return &account{
		user: user, dial: dial, importer: importer, progress: &Progress{}, log: slog.New(slog.DiscardHandler),
		crowded: func() bool { return false }, yield: func(context.Context) error { return nil },
		another: func() (dialer, func(), bool) { return nil, nil, false }, lines: defaultLines, boxes: make(map[backend.MailboxName]*box),
	}
}

// close ends the connection; the next pass dials again.
func (a *account) close() {
	a.endEarly()
	if a.client != nil {
		_ = a.client.Logout()
		a.client = nil
	}
	if err := a.ids.close(); err != nil {
		a.log.Info("ids of messages are not kept", "error", err)
	}
	if c, ok := a.imp.(io.Closer); ok { // it has a connection of its own
		if err := c.Close(); err != nil {
			a.log.Info("the target's side could not be closed", "error", err)
		}
		a.imp = nil
	} else {
		a.rest()
	}
}

// connected gives the connection, dialling when there is none.
func (a *account) connected(ctx context.Context) (*remote.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	a.rest()
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	a.client = c
	return c, nil
}

// rest gives up a foreign target's connection while there is none to the
// source: one who waits for a connection to the source holds none to the target,
// else they could wait for those who hold one to the source and wait for the
// target.
func (a *account) rest() {
	rest := any(a.imp)
	if a.imp == nil {
		rest = a.importer // it may have begun
	}
	if r, ok := rest.(interface{ Rest() }); ok {
		r.Rest()
	}
}

// begin lets a foreign target be logged in to and surveyed while the source is; it
// holds a place for a connection to the source.
func (a *account) begin(ctx context.Context) {
	if b, ok := a.importer.(interface {
		Begin(context.Context, string)
	}); ok && a.imp == nil {
		b.Begin(ctx, a.user)
	}
}

// survey asks the source for its mailboxes. A connection that died while it was
// idle costs one fresh dial, and so does a store that takes nothing with a login.
func (a *account) survey(ctx context.Context) (*plan, error) {
	fresh := a.client == nil
	for {
		c, err := a.connected(ctx)
		if err != nil {
			return nil, err
		}
		hasty := c.Hasty()
		acct, err := c.Survey(ctx)
		if err == nil {
			pl := makePlan(acct)
			a.filter.boxes(pl)
			return pl, nil
		}
		a.drop()
		if fresh && !hasty || ctx.Err() != nil || !retriable(err) {
			return nil, fmt.Errorf("survey of %s: %w", a.user, err)
		}
		fresh = true
	}
}

// drop closes a connection that failed.
func (a *account) drop() {
	if a.client != nil {
		_ = a.client.Close()
		a.client = nil
	}
}

func retriable(err error) bool {
	k := backend.KindOf(err)
	return k == backend.KindTemporary || k == backend.KindUnavailable
}

// pass is what one pass over the account did.
type pass struct {
	Changed  int // mailboxes that differed
	Copied   int // messages that came over
	Filed    int // messages that the target had already, elsewhere
	Renamed  int // mailboxes
	Vanished int
	Flagged  int
	Errors   []error // per mailbox; the others went on
}

// nothing reports a pass that found both sides as they were.
func (p *pass) nothing() bool {
	return p.Changed+p.Copied+p.Filed+p.Renamed+p.Vanished+p.Flagged+len(p.Errors) == 0
}

func (p *pass) err() error {
	if len(p.Errors) == 0 {
		return nil
	}
	return p.Errors[0]
}

// sync makes the target equal to the source as of some moment during the call, or
// just before it when the check has looked: the first call copies, later ones follow.
func (a *account) sync(ctx context.Context) (*pass, error) {
	pl := a.looked
	if a.looked = nil; pl == nil {
		var err error
		if pl, err = a.survey(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.open(ctx, pl); err != nil {
		return nil, err
	}
	if err := a.prepare(ctx, pl); err != nil {
		return nil, err
	}
	a.planned, a.foreign, a.subscribed = pl.exceptions, pl.foreign, pl.subscribed
	a.restore(pl)
	a.progress.plan(pl)
	a.askEarly(ctx)
	defer a.progress.Planned.Store(0)
	res := &pass{}
	if err := a.placeAndSync(ctx, pl, res); err != nil {
		return res, err
	}
	if a.client == nil && len(res.Errors) > goneErrors {
		return res, res.err()
	}
	if err := a.removeGone(ctx, pl, res); err != nil {
		res.Errors = append(res.Errors, err)
	}
	if err := a.trimIDs(); err != nil {
		a.log.Info("ids of messages are not kept", "error", err)
	}
	if res.Copied > 0 && res.err() == nil {
		if err := a.probe(ctx); err != nil {
			a.log.Info("no message could be read a second time", "error", err)
		}
	}
	return res, a.subscribe(ctx, pl)
}

// goneErrors: with more of them and no connection the store is gone, not a
// mailbox.
const goneErrors = 3

// syncBoxes brings all mailboxes up to date; errors are kept in res.
func (a *account) syncBoxes(ctx context.Context, boxes []planned, res *pass) {
	one := func(p planned) {
		if ctx.Err() != nil || a.client == nil && len(res.Errors) > goneErrors {
			return
		}
		if err := a.syncBox(ctx, p, res); err != nil {
			res.Errors = append(res.Errors, fmt.Errorf("mailbox %q: %w", p.shown, err))
		}
	}
	boxes = a.hollows(ctx, boxes, res)
	a.groups(a.client, boxes, one, func(group []planned) {
		for _, p := range a.mergeGroup(ctx, group, res) {
			one(p)
		}
	})
}

// open begins the import at the first pass, and when the user's view of the
// names changed.
func (a *account) open(ctx context.Context, pl *plan) error {
	if a.imp != nil && a.namespace == pl.namespace {
		return nil
	}
	imp, err := a.importer.Import(ctx, a.user, backend.ImportOptions{Namespace: pl.namespace})
	if err != nil {
		return fmt.Errorf("import of %s: %w", a.user, err)
	}
	have, err := imp.Mailboxes(ctx)
	if err != nil {
		return fmt.Errorf("import of %s: %w", a.user, err)
	}
	a.imp, a.namespace = imp, pl.namespace
	_, a.ordered = imp.(backend.ForeignImport)
	a.imported = make(map[backend.MailboxName]backend.ImportedMailbox, len(have))
	for _, m := range have {
		a.imported[m.Name] = m
	}
	return nil
}

// prepare tells a foreign target what is to come, so that it can make all
// mailboxes at once.
func (a *account) prepare(ctx context.Context, pl *plan) error {
	f, ok := a.imp.(backend.ForeignImport)
	if !ok {
		return nil
	}
	if err := a.listAhead(ctx, pl, func() error { return f.Prepare(ctx, importBoxes(pl)) }); err != nil {
		return err
	}
	have, err := a.imp.Mailboxes(ctx)
	if err != nil {
		return err
	}
	for _, m := range have { // a renamed one has its new name now
		a.imported[m.Name] = m
	}
	return nil
}

// importBoxes are the mailboxes of a plan as a target is told them.
func importBoxes(pl *plan) []backend.ImportMailbox {
	boxes := make([]backend.ImportMailbox, 0, len(pl.boxes)+len(pl.left))
	for i, p := range slices.Concat(pl.boxes, pl.left) {
		boxes = append(boxes, backend.ImportMailbox{Name: p.name, UIDValidity: p.status.UIDValidity, SpecialUse: p.special, NoSelect: p.hollow,
			LeftOut: i >= len(pl.boxes)})
	}
	return boxes
}

// asBefore takes a mailbox over that an earlier run left as both sides have it
// still. Only a foreign target tells so: it compares its own side as well.
func (a *account) asBefore(p planned) bool {
	m, ok := a.imported[p.name]
	if s := p.status; !a.ordered || !ok || !p.known || s.HighestModSeq == 0 || m.HighestModSeq != s.HighestModSeq ||
		m.UIDValidity != s.UIDValidity || m.UIDNext != s.UIDNext || m.Messages != s.Messages {
		return false
	}
	a.boxes[p.name] = &box{planned: p, validity: m.UIDValidity, next: m.UIDNext, modseq: m.HighestModSeq, count: m.Messages, sealed: true}
	a.progress.Messages.Add(int64(m.Messages))
	a.progress.MessagesDone.Add(int64(m.Messages))
	return true
}

// inboxFirst orders the mailboxes so that what a user misses first comes first.
func inboxFirst(boxes []planned) []planned {
	out := slices.Clone(boxes)
	slices.SortStableFunc(out, func(x, y planned) int {
		switch {
		case x.name == y.name:
			return 0
		case x.name == backend.Inbox:
			return -1
		case y.name == backend.Inbox:
			return 1
		}
		return 0
	})
	return out
}

// syncBox brings one mailbox up to date by the cheapest way that is safe.
func (a *account) syncBox(ctx context.Context, p planned, res *pass) error {
	b := a.boxes[p.name]
	switch {
	case p.hollow:
		return nil // hollows saw to it
	case b == nil && a.asBefore(p):
		return nil
	case b == nil || b.hollow || !slices.Equal(b.special, p.special):
		b = &box{planned: p}
		if old := a.boxes[p.name]; old != nil {
			b.notes, b.validity, b.object = old.notes, old.validity, old.object
		}
	case b.unchanged(p) && !a.twins[p.name]:
		b.planned = p
		return a.reseal(ctx, b)
	default:
		b.planned = p
	}
	res.Changed++
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	b.summed, b.compared, b.sealed = false, false, false
	err = a.follow(ctx, c, b, res)
	if err != nil && (ctx.Err() != nil || brokenBy(err)) {
		a.drop()
	}
	if err != nil {
		return err
	}
	a.boxes[p.name] = b
	return nil
}

// reseal states the counters again after a Reopen.
func (a *account) reseal(ctx context.Context, b *box) error {
	if b.sealed {
		return nil
	}
	if err := a.opened(ctx, b); err != nil {
		return err
	}
	if err := b.imp.Seal(ctx, b.next, b.modseq, b.firstRecent); err != nil {
		return a.sealed(b, err)
	}
	b.sealed = true
	return nil
}

// reopened tells that the import was closed and opened again: every mailbox has
// to be sealed anew before the next Activate.
func (a *account) reopened() {
	for _, b := range a.boxes {
		b.sealed = false
	}
}

// brokenBy reports errors after which a connection is not to be used again.
func brokenBy(err error) bool {
	k := backend.KindOf(err)
	return !errors.Is(err, errAnother) && k != backend.KindNotFound && k != backend.KindInvalid && k != backend.KindPermission
}

// unchanged reports whether the survey's status proves that nothing changed.
// Without modseqs flags can change unseen.
func (b *box) unchanged(p planned) bool {
	s := p.status
	return p.known && b.raw == p.raw && s.HighestModSeq != 0 && s.HighestModSeq == b.modseq && s.UIDValidity == b.validity &&
		s.UIDNext == b.next && s.Messages == b.total()
}

// hollows opens those mailboxes that are names only, and are not known to be
// there, all together; it returns what is left to do.
func (a *account) hollows(ctx context.Context, boxes []planned, res *pass) (left []planned) {
	var todo []planned
	for _, p := range boxes {
		if b := a.boxes[p.name]; p.hollow && (b == nil || !b.hollow) {
			todo = append(todo, p)
		} else {
			left = append(left, p)
		}
	}
	errs := make([]error, len(todo))
	a.together(len(todo), func(i int) { errs[i] = a.openHollow(ctx, todo[i]) })
	for i, p := range todo {
		if errs[i] != nil {
			res.Errors = append(res.Errors, fmt.Errorf("mailbox %q: %w", p.shown, errs[i]))
			continue
		}
		if !a.ordered { // a foreign target has no such mailboxes
			res.Changed++
		}
		a.boxes[p.name] = &box{planned: p, summed: true}
	}
	return left
}

func (a *account) openHollow(ctx context.Context, p planned) error {
	_, err := a.imp.Open(ctx, backend.ImportMailbox{Name: p.name, SpecialUse: p.special, NoSelect: true})
	return err
}

// removeGone drops what the source no longer has. A mailbox with mail goes only
// when a second connection does not list it either.
func (a *account) removeGone(ctx context.Context, pl *plan, res *pass) error {
	present := make(map[backend.MailboxName]bool, len(pl.boxes)+len(pl.left))
	for _, p := range slices.Concat(pl.boxes, pl.left) {
		present[p.name] = true
	}
	var gone []backend.MailboxName
	filled := false
	for name, b := range a.boxes {
		if !present[name] {
			gone, filled = append(gone, name), filled || b.count > 0
		}
	}
	for name, m := range a.imported {
		if !present[name] && a.boxes[name] == nil {
			gone, filled = append(gone, name), filled || m.Messages > 0
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if filled {
		if err := a.confirmAbsent(ctx, present); err != nil {
			return err
		}
	}
	slices.SortFunc(gone, func(x, y backend.MailboxName) int { return strings.Compare(string(y), string(x)) })
	for _, name := range gone { // descendants before their parents
		if err := a.imp.Remove(ctx, name); err != nil && !backend.IsKind(err, backend.KindNotFound) {
			return fmt.Errorf("remove %q: %w", name, err)
		}
		delete(a.boxes, name)
		delete(a.imported, name)
		res.Changed++
	}
	return nil
}

// confirmAbsent lists the account a second time, independently, and fails when
// the answers differ.
func (a *account) confirmAbsent(ctx context.Context, present map[backend.MailboxName]bool) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	acct, err := c.Survey(ctx)
	if err != nil {
		return err
	}
	again := makePlan(acct)
	same := len(again.boxes) == len(present)
	for _, p := range again.boxes {
		same = same && present[p.name]
	}
	if !same {
		return backend.Errorf(backend.KindTemporary, "The old store's list of mailboxes is not steady.",
			"two listings of the mailboxes of %s differ: nothing removed", a.user)
	}
	return nil
}

func (a *account) subscribe(ctx context.Context, pl *plan) error {
	if a.subsKnown && slices.Equal(a.subs, pl.subscriptions) {
		return nil
	}
	if err := a.imp.Subscriptions(ctx, pl.subscriptions); err != nil {
		return fmt.Errorf("subscriptions of %s: %w", a.user, err)
	}
	a.subs, a.subsKnown = pl.subscriptions, true
	return nil
}

// maxNotes bounds the exceptions that are kept of a mailbox.
const maxNotes = 10000

// note keeps an exception once.
func (b *box) note(e Exception) {
	if b.notes == nil {
		b.notes = make(map[string]Exception)
	}
	if len(b.notes) < maxNotes {
		b.notes[fmt.Sprint(e.UID, e.What)] = e
	}
}

// skip marks a message that cannot be carried over.
func (b *box) skip(uid imap.UID, why string) {
	if b.skipped == nil {
		b.skipped = make(map[imap.UID]string)
	}
	b.skipped[uid] = why
}
