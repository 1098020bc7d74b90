package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// A set asks for so many messages or octets; smaller ones keep the window
// full, larger ones cost the store less.
const (
	setMessages = 1000
	setOctets   = 1 << 20
	// At most so much is asked for ahead of what has come; how much follows the
	// line. It is on the way, not in memory: at 40 ms it lets 800 MB/s through.
	windowOctets   = 32 << 20
	windowCommands = 64
	// A batch of Puts is committed when it holds so much.
	putMessages = 128
	putOctets   = 4 << 20
	// putsAhead batches are committed while reading goes on.
	putsAhead = 3
	// A foreign target gets its messages in smaller batches, each one APPEND.
	orderedMessages = 100
	orderedOctets   = 1 << 20
	// Of a group of small mailboxes so many batches are on their way; the target
	// bounds their octets.
	orderedAhead = 16
)

// fetch copies the messages of l, newest first. What the store does not give
// although it lists it is asked for a second time, then skipped and reported.
func (a *account) fetch(ctx context.Context, c *remote.Client, b *box, l *listing, res *pass) error {
	a.progress.Octets.Add(l.octets)
	a.progress.Messages.Add(int64(len(l.entries)))
	todo := l.entries
	for attempt := 1; len(todo) > 0; attempt++ {
		lctx, cancel := context.WithCancel(ctx)
		cp := &copier{a: a, b: b, l: l, q: newBacklog(l.notAsked(todo)), ctx: ctx, got: newMarks(len(l.entries)), trust: attempt > 1,
			exact: c.Profile().ExactSizes || c.Profile().GhostBodies}
		cp.lines = newLines(lctx, a, cp)
		asked := a.asksIDs()
		err := cp.run(c)
		if err != nil {
			cancel()
		}
		cp.lines.join()
		cancel()
		for _, e := range cp.notes {
			b.note(e)
		}
		a.streamed += uint64(cp.got.n)
		res.Copied += cp.got.n
		if err != nil {
			return err
		}
		left, err := a.stillThere(ctx, c, l, todo, cp.got)
		if err != nil {
			return err
		}
		left = slices.DeleteFunc(left, func(e entry) bool {
			why, refused := cp.refused[e.uid]
			if refused {
				b.skip(e.uid, why)
			}
			return refused
		})
		if todo = left; asked && !a.asksIDs() {
			attempt-- // without their ids
			continue
		}
		if cp.lines.broke && !a.single {
			a.single = true // what it lost was not asked for
			attempt--
			continue
		}
		if attempt < 2 {
			continue
		}
		for _, e := range left {
			b.skip(e.uid, "the old store lists this message but does not give it")
		}
		return nil
	}
	return nil
}

// stillThere asks again for what did not come: a message that is listed no more
// went in between, and is dropped from l.
func (a *account) stillThere(ctx context.Context, c *remote.Client, l *listing, todo []entry, got *marks) ([]entry, error) {
	var missing imap.UIDSet
	for i := range todo {
		if !got.has(l.index(todo[i].uid)) {
			missing.AddNum(todo[i].uid)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	if err := c.Noop(ctx); err != nil { // the store may report expunges now
		return nil, err
	}
	there := make(map[imap.UID]bool)
	for part := range chunks(missing, 200) {
		_, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: part.String()}, func(m *remote.Meta) error {
			there[m.UID] = true
			return nil
		})
		if err != nil && !backend.IsKind(err, backend.KindTemporary) && !backend.IsKind(err, backend.KindInvalid) {
			return nil, err
		}
	}
	var left []entry
	for i := range todo {
		switch e := todo[i]; {
		case got.has(l.index(e.uid)):
		case there[e.uid]:
			left = append(left, e)
		default:
			if l.dropped == nil {
				l.dropped = make(map[imap.UID]bool)
			}
			l.dropped[e.uid] = true
		}
	}
	return left, nil
}

// chunks cuts a set into sets of at most n ranges; command lines are bounded.
func chunks(set imap.UIDSet, n int) func(func(imap.UIDSet) bool) {
	return func(yield func(imap.UIDSet) bool) {
		for len(set) > 0 {
			k := min(n, len(set))
			if !yield(set[:k]) {
				return
			}
			set = set[k:]
		}
	}
}

// copier takes the bodies of one mailbox: a remote.BodySource.
type copier struct {
	a     *account
	b     *box
	l     *listing
	ctx   context.Context
	q     *backlog
	got   *marks // of l
	trust bool   // take a body whose size is not the listed one
	exact bool
	// oldest: this connection takes the oldest messages, another the newest.
	oldest  bool
	notes   []Exception
	large   int64               // the body that came last was larger than the target takes
	refused map[imap.UID]string // why
	short   error               // the store had no room for a set: what did not come is no fault of the messages
	lines   *lines              // nil: no further connections
	client  *remote.Client      // while it runs

	puts *putter
	body backend.Body // read, its message not yet complete
	head headerTee
	buf  []byte
	key  idName // of b
}

// run fetches until nothing is left; between rounds it yields to holds.
func (cp *copier) run(c *remote.Client) error {
	cp.puts = newPutter(cp.ctx, cp.b.imp)
	cp.buf = make([]byte, 64<<10)
	cp.client = c
	defer func() { cp.client = nil }()
	for {
		err := c.FetchBodies(cp.ctx, cp, remote.Window{Octets: windowOctets, Commands: windowCommands, ContentIDs: cp.a.asksIDs()})
		cp.drop()
		if err == nil {
			err = cp.short
		}
		if e := cp.puts.flush(); err == nil {
			err = e
		}
		if err == nil && cp.lines != nil && cp.lines.slow(c) {
			err = c.Compress(cp.ctx)
		}
		if err != nil || cp.q.len() == 0 {
			return errors.Join(err, cp.puts.wait())
		}
		if err := cp.a.yield(cp.ctx); err != nil {
			return errors.Join(err, cp.puts.wait())
		}
	}
}

// drop gives up a body whose message did not come to its end.
func (cp *copier) drop() {
	if cp.body != nil {
		cp.body.Discard()
		cp.body = nil
	}
}

// NextSet takes the newest messages that are left, or the oldest.
func (cp *copier) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if cp.short != nil || cp.a.crowded() || cp.client != nil && cp.lines != nil && cp.lines.slow(cp.client) {
		return nil, 0, false
	}
	limit := setMessages
	if cp.trust { // one bad message must not cost its neighbours again
		limit = 1
	}
	// A target that gives UIDs of its own has to get messages in order.
	set, octets = cp.q.take(limit, cp.oldest || cp.a.ordered)
	if cp.client != nil && cp.lines != nil && !cp.a.ordered && len(set) > 0 {
		cp.lines.look(cp.client)
	}
	return set, octets, len(set) > 0
}

// Body streams a message into the target, which hashes it on the way: the one
// digest of what was read. It counts as told only for all octets of the literal.
func (cp *copier) Body(size int64, r io.Reader) error {
	cp.drop() // the response before had no end
	cp.large = 0
	w, err := cp.b.imp.NewBody(cp.ctx)
	if err != nil {
		return fmt.Errorf("new body: %w", err)
	}
	to := struct{ io.Writer }{w}
	if cp.head = (headerTee{}); cp.l.undated > 0 { // the UID may come behind the body
		to.Writer = io.MultiWriter(w, &cp.head)
	}
	n, err := io.CopyBuffer(to, struct{ io.Reader }{r}, cp.buf)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if backend.IsKind(err, backend.KindTooLarge) { // it costs itself; the rest of it is read and dropped
		w.Abort()
		cp.large = size
		return nil
	}
	if err != nil {
		w.Abort()
		return err
	}
	cp.a.progress.OctetsDone.Add(n)
	if cp.body, err = w.Finish(); err != nil {
		return fmt.Errorf("finish body: %w", err)
	}
	if cp.body.Size() != n {
		return backend.Errorf(backend.KindBug, "", "the target stored %d octets of the %d that were read", cp.body.Size(), n)
	}
	return nil
}

// Message files the body that came with m, if it is one that was asked for.
func (cp *copier) Message(m *remote.Meta) error {
	if cp.large > 0 && m.UID != 0 && m.Body == remote.BodyRead {
		if cp.refused == nil {
			cp.refused = make(map[imap.UID]string)
		}
		cp.refused[m.UID] = fmt.Sprintf("the new store takes no message of %d octets", cp.large)
		cp.large = 0
	}
	if m.Body != remote.BodyRead || cp.body == nil {
		return nil // NIL: expunged, says stillThere
	}
	body := cp.body
	cp.body = nil
	i := cp.l.index(m.UID)
	if i < 0 || cp.got.has(i) || !cp.plausible(&cp.l.entries[i], m.BodySize) {
		body.Discard()
		return nil
	}
	e := &cp.l.entries[i]
	msg := backend.ImportMessage{UID: e.uid, ModSeq: e.modseq, InternalDate: cp.l.internalDate(e), Flags: cp.l.flags(e), Body: body}
	if msg.InternalDate.IsZero() {
		cp.guessDate(&msg)
	}
	cp.identify(m, body)
	cp.got.set(i)
	cp.a.progress.MessagesDone.Add(1)
	return cp.puts.add(msg, m.BodySize)
}

// plausible compares a body with the listing: another size may be a made-up
// message in the place of one that was expunged. The second time it is taken.
func (cp *copier) plausible(e *entry, size int64) bool {
	if e.size == 0 || int64(e.size) == size || e.size == 1<<32-1 {
		return true
	}
	if cp.exact && !cp.trust {
		return false
	}
	if cp.exact {
		cp.note(Exception{Mailbox: cp.b.shown, UID: e.uid,
			What: fmt.Sprintf("the old store announced %d octets and gave %d", e.size, size)})
	}
	return true
}

// note keeps an exception for the mailbox, which other connections write to.
func (cp *copier) note(e Exception) {
	if len(cp.notes) < maxNotes {
		cp.notes = append(cp.notes, e)
	}
}

// guessDate replaces an impossible INTERNALDATE.
func (cp *copier) guessDate(msg *backend.ImportMessage) {
	t, from := cp.head.date()
	msg.InternalDate = t
	cp.note(Exception{Mailbox: cp.b.shown, UID: msg.UID, What: "the old store has no possible date: taken from " + from})
}

// Answered needs little: what did not come is asked for again, in a later pass if
// the store had no room for it.
func (cp *copier) Answered(_ imap.UIDSet, err error) error {
	cp.a.refusedIDs(err)
	if room, _ := refusal(err, false); room && cp.short == nil {
		cp.short = err
	}
	return cp.puts.failed()
}

// putter commits batches of messages while the next ones are read.
type putter struct {
	ctx    context.Context
	imp    backend.MailboxImport
	batch  []backend.ImportMessage
	octets int64
	slots  chan struct{}
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // guarded by mu
}

func newPutter(ctx context.Context, imp backend.MailboxImport) *putter {
	return &putter{ctx: ctx, imp: imp, slots: make(chan struct{}, putsAhead)}
}

func (p *putter) add(m backend.ImportMessage, size int64) error {
	p.batch = append(p.batch, m)
	p.octets += size
	if _, ok := p.imp.(backend.OrderedImport); ok {
		if len(p.batch) < orderedMessages && p.octets < orderedOctets {
			return nil
		}
	} else if len(p.batch) < putMessages && p.octets < putOctets {
		return nil
	}
	return p.flush()
}

// flush hands the batch to a goroutine, or waits for one to end first.
func (p *putter) flush() error {
	if err := p.failed(); err != nil || len(p.batch) == 0 {
		p.discard()
		return err
	}
	batch := p.batch
	p.batch, p.octets = nil, 0
	p.slots <- struct{}{} // each holder ends on its own: Put honours ctx
	put := func() error { return p.imp.Put(p.ctx, batch) }
	if o, ok := p.imp.(backend.OrderedImport); ok {
		wait, err := o.PutOrdered(p.ctx, batch)
		if put = wait; err != nil {
			put = func() error { return err }
		}
	}
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		if err := put(); err != nil {
			p.mu.Lock()
			if p.err == nil {
				p.err = fmt.Errorf("put: %w", err)
			}
			p.mu.Unlock()
		}
	})
	return nil
}

func (p *putter) discard() {
	for _, m := range p.batch {
		m.Body.Discard()
	}
	p.batch, p.octets = nil, 0
}

func (p *putter) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// wait ends all commits; afterwards everything that was filed is durable.
func (p *putter) wait() error {
	p.discard()
	p.wg.Wait()
	return p.failed()
}
