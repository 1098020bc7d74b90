package remote

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
)

// BodySource drives FetchBodies: it says what to fetch next, and takes what
// comes. All its methods are called from FetchBodies' goroutine.
type BodySource interface {
	// NextSet is the next set of UIDs to ask for, and about how many octets
	// they will bring; ok is false when nothing is left for now.
	NextSet() (set imap.UIDSet, octets int64, ok bool)
	// Body takes a body. It need not read to the end. An error ends the fetch
	// and the client.
	Body(size int64, r io.Reader) error
	// Message comes when a response was read to its end: after its Body, if it
	// had one. m is valid during the call. A response that broke off behind
	// its Body comes with UID 0.
	Message(m *Meta) error
	// Answered tells that a set was answered: with nil, or with the error that
	// the store gave for it. Messages that did not come may be gone.
	Answered(set imap.UIDSet, err error) error
}

// MailboxSource is a BodySource whose sets are of several mailboxes:
// FetchBodies opens them as they come, without waiting.
type MailboxSource interface {
	BodySource
	// Mailbox names that of the set which NextSet gave last, in the store's
	// octets; it has to be Queueable.
	Mailbox() string
	// Opened tells that what comes from now on is of this mailbox; with an
	// error it could not be opened, and what comes is of none. sel may be of
	// another UIDVALIDITY than when the mailbox was listed.
	Opened(raw string, sel *Selected, err error)
}

// Window bounds what FetchBodies asks for ahead of what has come. What is on
// the way follows bandwidth times delay, as they are measured.
type Window struct {
	Octets   int64 // at most; at least 1 MiB is kept on the way; default 4 MiB
	Commands int   // default 16
	// ContentIDs asks for the item of that name along with each body, where the
	// store has one.
	ContentIDs bool
}

// leastWindow is kept on the way whatever was measured, startWindow before
// anything was.
const (
	leastWindow = 1 << 20
	startWindow = 8 << 20
)

// commandOctets bounds the commands on the way: a store that cannot send its answers,
// because we write and do not read, reads no commands either. So much fits in
// the buffers between.
const commandOctets = 64 << 10

// pace measures what comes, and sizes the window: twice what comes in a round
// trip, so that it grows until the line is full.
type pace struct {
	rtt    time.Duration
	most   int64
	window int64
	since  time.Time
	octets int64 // since then
}

func newPace(rtt time.Duration, most int64) pace {
	return pace{rtt: rtt, most: most, window: min(startWindow, most), since: time.Now()}
}

// minPace is the least time over which a rate is taken.
const minPace = 20 * time.Millisecond

func (p *pace) arrived(n int64) {
	p.octets += n
	if p.rtt == 0 || p.octets < p.window/2 {
		return
	}
	took := time.Since(p.since)
	if took < max(p.rtt, minPace) {
		return
	}
	p.resize(took)
}

// resize sets the window after octets came within took.
func (p *pace) resize(took time.Duration) {
	perTrip := float64(p.octets) * float64(p.rtt) / float64(took)
	p.window = min(max(int64(2*perTrip), p.window/2, leastWindow), max(p.most, leastWindow))
	p.since, p.octets = time.Now(), 0
}

func (w Window) octets() int64 {
	if w.Octets <= 0 {
		return 4 << 20
	}
	return max(w.Octets, leastWindow)
}

func (w Window) commands() int {
	if w.Commands <= 0 {
		return 16
	}
	return w.Commands
}

// request is a FETCH that is on its way.
type request struct {
	set  imap.UIDSet
	left int64     // octets that it may still bring
	sel  *Selected // what it opens, if it is no FETCH
	line int       // octets of the command
}

// bodyFetch is one run of FetchBodies.
type bodyFetch struct {
	c       *Client
	src     BodySource
	window  Window
	items   string // beside UID
	flight  map[string]*request
	order   []string // tags in the order of sending; stores answer in it
	octets  int64
	lines   int // octets of the commands in flight
	pace    pace
	drained bool
	boxes   MailboxSource // nil: one mailbox, which is open
	at      string        // the mailbox opened last
}

// FetchBodies fetches BODY.PEEK[] of the selected mailbox, several commands
// ahead of the answers, so that distance costs one round trip and not one per
// message.
func (c *Client) FetchBodies(ctx context.Context, src BodySource, w Window) error {
	if c.broken != nil {
		return c.broken
	}
	defer c.conn.link.watch(ctx)()
	c.askIDs = w.ContentIDs
	f := &bodyFetch{c: c, src: src, items: c.bodyItems(), window: w, flight: map[string]*request{}, pace: newPace(c.conn.rtt, w.octets())}
	if f.boxes, _ = src.(MailboxSource); f.boxes != nil {
		if err := c.settle(ctx); err != nil {
			return err
		}
	}
	f.adopt(&c.ahead)
	for {
		if err := f.fill(); err != nil {
			return c.fail(ctx, err)
		}
		if len(f.flight) == 0 {
			return nil
		}
		r, err := c.next(f.handle)
		if err == nil {
			err = f.answered(r)
		}
		if err != nil {
			return c.fail(ctx, err)
		}
	}
}

// adopt takes over what AskAhead sent.
func (f *bodyFetch) adopt(a *ahead) {
	for _, tag := range a.order {
		f.flight[tag] = a.flight[tag]
		f.octets += a.flight[tag].left
	}
	f.order = a.order
	*a = ahead{}
}

func fetchBodies(tag string, set imap.UIDSet, items string) string {
	return tag + " UID FETCH " + set.String() + " (UID " + items + ")\r\n"
}

func remove(tags []string, tag string) []string {
	if i := slices.Index(tags, tag); i >= 0 {
		return slices.Delete(tags, i, i+1)
	}
	return tags
}

// fill sends commands until the window is full.
func (f *bodyFetch) fill() error {
	sent := false
	for !f.drained && f.octets < f.pace.window && len(f.flight) < f.window.commands() && f.lines < commandOctets {
		set, octets, ok := f.src.NextSet()
		if !ok {
			f.drained = true
			break
		}
		if err := f.open(); err != nil {
			return err
		}
		tag := f.c.conn.nextTag()
		line := fetchBodies(tag, set, f.items)
		if _, err := f.c.conn.w.WriteString(line); err != nil {
			return err
		}
		f.send(tag, &request{set: set, left: octets, line: len(line)})
		sent = true
	}
	if !sent {
		return nil
	}
	return f.c.conn.w.Flush()
}

// send notes a command that was written.
func (f *bodyFetch) send(tag string, req *request) {
	f.flight[tag] = req
	f.order = append(f.order, tag)
	f.octets += req.left
	f.lines += req.line
}

// open asks for the mailbox of the next set, unless it is the one before.
func (f *bodyFetch) open() error {
	if f.boxes == nil || f.boxes.Mailbox() == f.at {
		return nil
	}
	f.at = f.boxes.Mailbox()
	cmd, _ := f.c.examine(f.at, SelectOptions{})
	tag := f.c.conn.nextTag()
	f.send(tag, &request{sel: &Selected{Raw: f.at}, line: len(tag) + len(f.at) + len(` EXAMINE "" (CONDSTORE)`)})
	return f.c.write(tag, cmd, nil, nil) // nothing to wait for: the name is Queueable
}

// opening is the mailbox that the oldest command opens; nil when it is a FETCH.
func (f *bodyFetch) opening() *Selected {
	if len(f.order) == 0 {
		return nil
	}
	return f.flight[f.order[0]].sel
}

func (f *bodyFetch) handle(r response) (lineState, error) {
	if sel := f.opening(); sel != nil {
		return f.c.selectData(sel, SelectOptions{}, r)
	}
	if r.name != "FETCH" {
		return lineUnknown, nil
	}
	m, err := f.c.fetchData(r.num, f.src.Body)
	if m.Body == BodyRead {
		f.arrived(m.BodySize)
	}
	if isSyntax(err) {
		// What was told before stands, but a body without its end is not one.
		if m.Body != BodyRead {
			return lineOpen, err
		}
		m.UID = 0
		if e := f.src.Message(m); e != nil {
			return lineOpen, e
		}
		return lineOpen, err
	}
	if err == nil && (m.UID != 0 || m.Body == BodyRead) {
		err = f.src.Message(m)
	}
	if err == nil {
		// Keep the pipe full while a long answer is still coming.
		if e := f.skipEnd(); e != nil {
			return lineRead, e
		}
		return lineRead, f.fill()
	}
	return lineOpen, err
}

// skipEnd reads the line's end before more is sent, so that a broken end is
// met where it belongs.
func (f *bodyFetch) skipEnd() error { return f.c.conn.scan.skipLine() }

// arrived takes octets off the oldest request.
func (f *bodyFetch) arrived(n int64) {
	f.pace.arrived(n)
	for _, tag := range f.order {
		req := f.flight[tag]
		took := min(n, req.left)
		req.left -= took
		f.octets -= took
		return
	}
}

func (f *bodyFetch) answered(r response) error {
	req := f.flight[r.tag]
	if req == nil {
		return nil
	}
	delete(f.flight, r.tag)
	f.order = remove(f.order, r.tag)
	f.octets -= req.left
	f.lines -= req.line
	f.drained = false
	var err error
	if r.name != "OK" {
		err = statusError("UID FETCH", r)
	}
	if req.sel != nil {
		f.c.selected = req.sel
		if err != nil {
			f.c.selected = nil
		}
		f.boxes.Opened(req.sel.Raw, req.sel, err)
		return nil
	}
	return f.src.Answered(req.set, err)
}
