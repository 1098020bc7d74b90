package imapd

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
)

// maxMultiAppend bounds the messages of one APPEND (RFC 3502): all of them are
// filed at once.
const maxMultiAppend = 1000

// runAppend streams each message into the store.
func runAppend(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	var name backend.MailboxName
	if err := s.expectMailbox(c, &name); err != nil {
		return err
	}
	var msgs []store.Append
	filed := false
	defer func() {
		for _, m := range msgs {
			if !filed {
				m.Body.Discard()
			}
		}
	}()
	for c.d.SP() {
		m := store.Append{Mailbox: name}
		if err := s.readAppend(ctx, c, &m, len(msgs)); err != nil {
			return err
		}
		msgs = append(msgs, m)
	}
	if len(msgs) == 0 {
		c.d.Fail("Message expected")
	}
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	filed = true // Append takes the bodies over
	done, err := s.account.Append(ctx, msgs...)
	if err != nil {
		return tryCreate(err)
	}
	uids := make([]imap.UID, len(done))
	for i, a := range done {
		uids[i] = a.UID
	}
	if s.view != nil {
		s.view.wake()
	}
	return okay("APPENDUID "+numString(uint64(done[0].UIDValidity))+" "+setOf(uids).String(), "APPEND completed")
}

// readAppend reads flags, date and octets of one message. What cannot be filed
// is refused before its octets are asked for.
func (s *session) readAppend(ctx context.Context, c *call, m *store.Append, n int) error {
	d := c.d
	flag := func() bool {
		var f imap.Flag
		if len(m.Flags) >= 1000 || !d.ExpectFlag(&f) {
			return false
		}
		switch {
		case strings.EqualFold(string(f), "\\Recent"):
		case unknownFlag(f):
			return d.Fail("Unknown system flag %s", f)
		default:
			m.Flags = append(m.Flags, f)
		}
		return true
	}
	if d.ListOf(flag) && !d.ExpectSP() {
		return d.Err()
	}
	if b := d.Rest(); len(b) > 0 && b[0] == '"' {
		if !d.ExpectDateTime(&m.InternalDate) || !d.ExpectSP() {
			return d.Err()
		}
	}
	var info line.LiteralInfo
	if !d.LiteralHeader(&info) {
		d.Fail("Literal expected")
		return d.Err()
	}
	switch {
	case info.Size > s.server.o.Limits.AppendSize:
		return no("TOOBIG", "Message is too large")
	case n >= maxMultiAppend:
		return no("LIMIT", "Too many messages in one APPEND")
	case info.Size == 0:
		return no("CANNOT", "Message is empty")
	}
	if n == 0 {
		mb, err := s.account.Mailbox(ctx, m.Mailbox)
		if err != nil {
			return tryCreate(err)
		}
		if mb.NoSelect {
			return no("CANNOT", "Mailbox holds no messages")
		}
	}
	return s.receive(ctx, d, m)
}

// receive takes the octets.
func (s *session) receive(ctx context.Context, d *line.Decoder, m *store.Append) error {
	w, err := s.account.NewBody(ctx)
	if err != nil {
		return err
	}
	r := d.OpenLiteral()
	if r == nil {
		w.Abort()
		return d.Err()
	}
	s.conn.Progress(s.server.o.Limits.Progress)
	defer s.endProgress()
	if _, err := io.Copy(w, r); err != nil {
		w.Abort()
		return err
	}
	if m.Body, err = w.Finish(); err != nil {
		return err
	}
	if !d.CloseLiteral() {
		m.Body.Discard()
		return d.Err()
	}
	if m.InternalDate.IsZero() {
		m.InternalDate = time.Now()
	}
	return nil
}

// endProgress goes back to one deadline for the command.
func (s *session) endProgress() {
	s.conn.Progress(0)
	s.conn.SetTimeout(s.server.o.Limits.Command)
}
