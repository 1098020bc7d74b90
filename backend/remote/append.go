package remote

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// AppendMessage is one message of an APPEND.
type AppendMessage struct {
	Flags []imap.Flag
	Date  time.Time // zero: the store takes the present time
	Size  int64
	// NUL: the octets hold a NUL, which needs a literal8 (RFC 3516).
	NUL bool
	// WriteTo writes the octets, exactly Size of them.
	Body io.WriterTo
}

// Append is an APPEND on its way.
type Append struct {
	octets int64
	count  int           // of messages
	done   chan struct{} // closed when it is answered

	// Of the answer; read them after Wait.
	UIDValidity uint32     // of APPENDUID (RFC 4315); 0 without
	UIDs        []imap.UID // in the order of the messages; nil without
	err         error
}

// Wait ends when the store has answered. A *StatusError in the error's chain is
// its refusal of the whole command; without one the connection is gone, and
// what the store did is not known.
func (a *Append) Wait() error {
	<-a.done
	return a.err
}

// Answered reports that Wait does not wait.
func (a *Append) Answered() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// AppendWindow bounds what is sent ahead of the answers.
type AppendWindow struct {
	Octets   int64 // default 4 MiB
	Commands int   // default 16: mailboxes may be small
}

// Appender sends APPENDs without waiting for their answers. It owns its Client
// until Close. Send is called by one goroutine at a time.
type Appender struct {
	c       *Client
	ctx     context.Context
	release func()
	window  AppendWindow
	plus    chan struct{} // a continuation request came
	ended   chan struct{} // closed when the reader is gone

	mu     sync.Mutex
	cond   *sync.Cond
	flight map[string]*Append // guarded by mu
	octets int64              // in flight; guarded by mu
	closed bool               // guarded by mu
	err    error              // the connection's; guarded by mu
}

// Appender begins sending APPENDs; the Client is used for nothing else until Close.
func (c *Client) Appender(ctx context.Context, w AppendWindow) (*Appender, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	if w.Octets <= 0 {
		w.Octets = 4 << 20
	}
	if w.Commands <= 0 {
		w.Commands = 16
	}
	a := &Appender{c: c, ctx: ctx, window: w, plus: make(chan struct{}, 1), ended: make(chan struct{}),
		flight: make(map[string]*Append), release: c.conn.link.watch(ctx)}
	a.cond = sync.NewCond(&a.mu)
	c.conn.growWriter()
	go a.read() // ends with Close, or with the connection
	return a, nil
}

// read takes the answers.
func (a *Appender) read() {
	defer close(a.ended)
	for {
		a.mu.Lock()
		for len(a.flight) == 0 && !a.closed {
			a.cond.Wait()
		}
		idle := len(a.flight) == 0
		a.mu.Unlock()
		if idle {
			return
		}
		r, err := a.c.next(nil)
		if err != nil {
			a.lose(err)
			return
		}
		if r.tag == "+" {
			select {
			case a.plus <- struct{}{}:
			default: // nobody asked
			}
			continue
		}
		a.answered(r)
	}
}

func (a *Appender) answered(r response) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.flight[r.tag]
	if p == nil {
		return
	}
	delete(a.flight, r.tag)
	a.octets -= p.octets
	if r.name != "OK" {
		p.err = appendError(r)
	} else if r.code == "APPENDUID" {
		p.UIDValidity, p.UIDs = appendUID(r.arg, p.count)
	}
	close(p.done)
	a.cond.Broadcast()
}

// appendError gives a refused APPEND its kind.
func appendError(r response) error {
	kind := backend.KindInvalid
	switch r.code {
	case "OVERQUOTA":
		kind = backend.KindOverQuota
	case "TOOBIG":
		kind = backend.KindTooLarge
	case "LIMIT": // of one message, to Dovecot and others
		return &backend.Error{Kind: backend.KindTooLarge, Text: "The mail store refused a message.",
			Err: &StatusError{Command: "APPEND", Status: r.name, Code: r.code, Text: r.text}}
	default:
		return statusError("APPEND", r)
	}
	return &backend.Error{Kind: kind, Text: "The mail store refused a message.",
		Err: &StatusError{Command: "APPEND", Status: r.name, Code: r.code, Text: r.text}}
}

// appendUID reads "validity set"; the set is of ascending UIDs, one for each of
// count messages. A set of others gives none.
func appendUID(arg string, count int) (validity uint32, uids []imap.UID) {
	v, set, _ := strings.Cut(strings.TrimSpace(arg), " ")
	validity = number32(v)
	for part := range strings.SplitSeq(set, ",") {
		lo, hi, ok := strings.Cut(part, ":")
		if !ok {
			hi = lo
		}
		from, to := number32(lo), number32(hi)
		if from > to {
			from, to = to, from
		}
		if from == 0 || int64(to-from) >= int64(count-len(uids)) {
			return validity, nil
		}
		for u := uint64(from); u <= uint64(to); u++ {
			uids = append(uids, imap.UID(u))
		}
	}
	if len(uids) != count {
		return validity, nil
	}
	return validity, uids
}

// lose ends everything that is on its way.
func (a *Appender) lose(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = a.c.fail(a.ctx, err)
	}
	for tag, p := range a.flight {
		delete(a.flight, tag)
		p.err = a.err
		close(p.done)
	}
	a.cond.Broadcast()
}

// room waits until a command of so many octets may be sent, and files it.
func (a *Appender) room(tag string, octets int64, count int) (*Append, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.err == nil && len(a.flight) > 0 && (len(a.flight) >= a.window.Commands || a.octets+octets > a.window.Octets) {
		a.cond.Wait()
	}
	if a.err != nil {
		return nil, a.err
	}
	p := &Append{octets: octets, count: count, done: make(chan struct{})}
	a.flight[tag] = p
	a.octets += octets
	a.cond.Broadcast()
	return p, nil
}

// Send files msgs in the mailbox by one command: all or none, if the store
// knows MULTIAPPEND (RFC 3502); else there may be only one. It blocks while the
// window is full or the store does not read. An error is the connection's.
func (a *Appender) Send(raw string, msgs []AppendMessage) (*Append, error) {
	var octets int64
	for i := range msgs {
		octets += msgs[i].Size
	}
	tag := a.c.conn.nextTag()
	p, err := a.room(tag, octets, len(msgs))
	if err != nil {
		return nil, err
	}
	if err := a.write(p, tag, raw, msgs); err != nil {
		// The store may have said why before it hung up: the reader knows.
		a.c.conn.link.abandon()
		<-a.ended
		return p, nil
	}
	return p, nil
}

// write sends the command; it returns early when the store has answered it.
func (a *Appender) write(p *Append, tag, raw string, msgs []AppendMessage) error {
	w := a.c.conn.w
	if _, err := w.WriteString(tag + " APPEND "); err != nil {
		return err
	}
	if quotable(raw) {
		_, _ = w.WriteString(quote(raw))
	} else if ok, err := a.literal(p, int64(len(raw)), false); err != nil || !ok {
		return err
	} else {
		_, _ = w.WriteString(raw)
	}
	for i := range msgs {
		m := &msgs[i]
		_, _ = w.WriteString(" (")
		for j, f := range m.Flags {
			if j > 0 {
				_ = w.WriteByte(' ')
			}
			_, _ = w.WriteString(string(f))
		}
		_, _ = w.WriteString(") ")
		if !m.Date.IsZero() {
			_, _ = w.WriteString(m.Date.Format(`"_2-Jan-2006 15:04:05 -0700" `))
		}
		if ok, err := a.literal(p, m.Size, m.NUL && a.c.Has("BINARY")); err != nil || !ok {
			return err
		}
		n, err := m.Body.WriteTo(w)
		if err == nil && n != m.Size {
			err = fmt.Errorf("a message of %d octets gave %d", m.Size, n)
		}
		if err != nil {
			return err
		}
	}
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

// literalMinus is how long a literal may be without consent under LITERAL- (RFC 7888).
const literalMinus = 4096

// literal sends the head of a literal and gets the store's consent where it is
// needed; ok is false when the store answered the command instead.
func (a *Appender) literal(p *Append, size int64, binary bool) (ok bool, err error) {
	w := a.c.conn.w
	if binary {
		_ = w.WriteByte('~')
	}
	if a.c.Has("LITERAL+") || a.c.Has("LITERAL-") && size <= literalMinus {
		_, err := fmt.Fprintf(w, "{%d+}\r\n", size)
		return true, err
	}
	select {
	case <-a.plus: // one that nobody asked for
	default:
	}
	if _, err := fmt.Fprintf(w, "{%d}\r\n", size); err != nil {
		return false, err
	}
	if err := w.Flush(); err != nil {
		return false, err
	}
	select {
	case <-a.plus:
		return true, nil
	case <-p.done:
		return false, nil
	}
}

// Close waits for all answers. An error is the connection's.
func (a *Appender) Close() error {
	a.mu.Lock()
	a.closed = true
	a.cond.Broadcast()
	a.mu.Unlock()
	<-a.ended
	a.release()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// AppendLimit is the largest message that the store takes (RFC 7889); 0: it
// does not say.
func (c *Client) AppendLimit() int64 {
	for _, name := range c.conn.caps {
		if s, ok := strings.CutPrefix(name, "APPENDLIMIT="); ok {
			return int64(number64(s))
		}
	}
	return 0
}
