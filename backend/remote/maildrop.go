package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"

	"mailferry/backend"
)

// POP3Client reads a maildrop without changing it (RFC 1939). It is used by one
// goroutine at a time. After an error of the connection or a context's end it
// is broken.
type POP3Client struct {
	conn   *TextConn
	text   *textproto.Reader
	marked bool // RETR was used: some stores note that at QUIT
}

// NewPOP3Client takes a connection over on which a user is logged in.
func NewPOP3Client(c *TextConn) *POP3Client {
	c.link.setTimeout(ProgressTimeout)
	return &POP3Client{conn: c, text: textproto.NewReader(c.r)}
}

// Maildrop is what POP3 lists, in the order of message numbers. It is kept
// densely: a maildrop may hold a million messages.
type Maildrop struct {
	// NoUIDL: the store does not know UIDL; all ids are empty.
	NoUIDL bool

	entries []maildropEntry
	ids     []byte
}

type maildropEntry struct {
	number, size uint32
	id           uint32 // its end in ids
}

// maxMaildrop bounds the messages of a maildrop, and the octets of its ids.
const (
	maxMaildrop    = 16 << 20
	maxMaildropIDs = 1 << 30
)

// Len counts the messages.
func (m *Maildrop) Len() int { return len(m.entries) }

// Number is the message number of entry i.
func (m *Maildrop) Number(i int) int { return int(m.entries[i].number) }

// Size is what LIST says of entry i in octets, a claim; 0: nothing.
func (m *Maildrop) Size(i int) int64 { return int64(m.entries[i].size) }

// UIDL is the unique id of entry i, as the store sent it.
func (m *Maildrop) UIDL(i int) string {
	from := uint32(0)
	if i > 0 {
		from = m.entries[i-1].id
	}
	return string(m.ids[from:m.entries[i].id])
}

// Maildrop asks for unique ids and sizes in one round trip.
func (p *POP3Client) Maildrop(ctx context.Context) (*Maildrop, error) {
	defer p.conn.link.watch(ctx)()
	if err := p.conn.send("UIDL\r\nLIST"); err != nil {
		return nil, p.failed(ctx, "UIDL", err)
	}
	m := &Maildrop{}
	switch refused, err := p.listing(m.addID); {
	case err != nil:
		return nil, p.failed(ctx, "UIDL", err)
	case refused:
		m.NoUIDL = true
	}
	at := 0
	refused, err := p.listing(func(number int, arg string) error { return m.addSize(&at, number, arg) })
	if err == nil && refused && m.NoUIDL {
		err = errors.New("the store refuses both UIDL and LIST")
	}
	if err != nil {
		return nil, p.failed(ctx, "LIST", err)
	}
	return m, nil
}

// listing reads a reply of lines "number argument".
func (p *POP3Client) listing(fn func(number int, arg string) error) (refused bool, err error) {
	_, err = p.conn.popReply()
	if _, no := err.(*popError); no {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for {
		l, err := p.conn.line()
		if err != nil || l == "." {
			return false, err
		}
		word, arg, _ := strings.Cut(l, " ")
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil || n == 0 {
			return false, fmt.Errorf("a line %.80q", l)
		}
		if err := fn(int(n), arg); err != nil {
			return false, err
		}
	}
}

func (m *Maildrop) addID(number int, id string) error {
	if len(m.entries) == maxMaildrop || len(m.ids)+len(id) > maxMaildropIDs {
		return fmt.Errorf("a maildrop of more than %d messages", len(m.entries))
	}
	if n := len(m.entries); n > 0 && int(m.entries[n-1].number) >= number {
		return fmt.Errorf("message number %d behind %d", number, m.entries[n-1].number)
	}
	m.ids = append(m.ids, id...)
	m.entries = append(m.entries, maildropEntry{number: uint32(number), id: uint32(len(m.ids))})
	return nil
}

// addSize notes what LIST says; a store without UIDL lists here alone.
func (m *Maildrop) addSize(at *int, number int, arg string) error {
	if m.NoUIDL {
		if err := m.addID(number, ""); err != nil {
			return err
		}
	}
	for *at < len(m.entries) && int(m.entries[*at].number) < number {
		*at++
	}
	if *at == len(m.entries) || int(m.entries[*at].number) != number {
		return nil
	}
	word, _, _ := strings.Cut(arg, " ")
	if n, err := strconv.ParseUint(word, 10, 32); err == nil {
		m.entries[*at].size = uint32(n)
	}
	return nil
}

// topsAhead commands TOP are sent before the first is answered.
const topsAhead = 32

// Top gives fn the header of each numbered message, lines ended by LF alone. A
// message that the store refuses has a nil header.
func (p *POP3Client) Top(ctx context.Context, numbers []int, fn func(i int, header io.Reader) error) error {
	defer p.conn.link.watch(ctx)()
	sent := 0
	for i := range numbers {
		if sent < len(numbers) && sent <= i+topsAhead/2 {
			var b strings.Builder
			for ; sent < len(numbers) && sent < i+topsAhead; sent++ {
				fmt.Fprintf(&b, "TOP %d 0\r\n", numbers[sent])
			}
			if err := p.conn.send(strings.TrimSuffix(b.String(), "\r\n")); err != nil {
				return p.failed(ctx, "TOP", err)
			}
		}
		if err := p.message(func(r io.Reader) error { return fn(i, r) }); err != nil {
			return p.failed(ctx, "TOP", err)
		}
	}
	return nil
}

// allLines is more than any message has.
const allLines = 999999999

// Retrieve gives fn a whole message, lines ended by LF alone; nil when the
// store refuses it. TOP is asked first: some stores note what RETR gives as
// read.
func (p *POP3Client) Retrieve(ctx context.Context, number int, fn func(io.Reader) error) error {
	defer p.conn.link.watch(ctx)()
	refused := false
	err := p.conn.send(fmt.Sprintf("TOP %d %d", number, allLines))
	if err == nil {
		err = p.message(func(r io.Reader) error {
			if refused = r == nil; refused {
				return nil
			}
			return fn(r)
		})
	}
	if err == nil && refused {
		p.marked = true
		if err = p.conn.send(fmt.Sprintf("RETR %d", number)); err == nil {
			err = p.message(fn)
		}
	}
	return p.failed(ctx, "RETR", err)
}

// message reads a reply of many lines.
func (p *POP3Client) message(fn func(io.Reader) error) error {
	_, err := p.conn.popReply()
	if _, no := err.(*popError); no {
		return fn(nil)
	}
	if err != nil {
		return err
	}
	r := p.text.DotReader()
	if err := fn(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func (p *POP3Client) failed(ctx context.Context, step string, err error) error {
	if err == nil {
		return nil
	}
	err = cause(ctx, err)
	if backend.KindOf(err) == backend.KindBug && ctx.Err() == nil {
		err = p.conn.target.unavailable(backend.POP3, step, err)
	}
	p.conn.Close()
	return err
}

// Close ends the session. Nothing was deleted, so QUIT only frees the
// maildrop's lock at once; behind a RETR it is left out.
func (p *POP3Client) Close(ctx context.Context) {
	if !p.marked {
		release := p.conn.link.watch(ctx)
		p.conn.link.setTimeout(p.conn.target.timeout())
		_, _ = p.conn.popCommand("QUIT") // the connection goes either way
		release()
	}
	p.conn.Close()
}
