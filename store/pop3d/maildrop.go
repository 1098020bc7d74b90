package pop3d

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"

	"mailferry/internal/line"
	"mailferry/store"
)

// message finds a message by its number, unless DELE has marked it.
func (s *session) message(arg string) (i int, m *store.MaildropMessage, err error) {
	n, err := parseNumber(arg)
	if err != nil {
		return 0, nil, bad("Message number expected")
	}
	if n == 0 || n > uint64(len(s.drop.Messages)) || s.isDeleted(int(n-1)) {
		return 0, nil, refuse("", "No such message")
	}
	return int(n - 1), &s.drop.Messages[n-1], nil
}

// parseNumber reads digits and nothing else. A number too large for us is the
// largest.
func parseNumber(arg string) (uint64, error) {
	if arg == "" || strings.Trim(arg, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	n, _ := strconv.ParseUint(arg, 10, 63)
	return n, nil
}

func (s *session) isDeleted(i int) bool { return s.deleted != nil && s.deleted[i] }

func runStat(_ context.Context, s *session, _ string) error {
	s.ok(fmt.Sprintf("%d %d", len(s.drop.Messages)-s.deletedN, s.drop.Size-s.deletedSize))
	return nil
}

func runList(_ context.Context, s *session, arg string) error {
	return s.list(arg, func(m *store.MaildropMessage) { s.conn.WriteUint(uint64(m.Size)) })
}

func runUIDL(_ context.Context, s *session, arg string) error {
	return s.list(arg, func(m *store.MaildropMessage) { s.conn.WriteString(s.drop.UIDL(m)) })
}

// list answers LIST and UIDL: for one message in a line, for all in many.
func (s *session) list(arg string, value func(*store.MaildropMessage)) error {
	if arg = strings.TrimSpace(arg); arg != "" {
		i, m, err := s.message(arg)
		if err != nil {
			return err
		}
		s.conn.WriteString("+OK ")
		s.entry(i, m, value)
		return nil
	}
	s.ok(fmt.Sprintf("%d messages", len(s.drop.Messages)-s.deletedN))
	for i := range s.drop.Messages {
		if !s.isDeleted(i) {
			s.entry(i, &s.drop.Messages[i], value)
		}
	}
	s.conn.WriteString(".\r\n")
	return nil
}

func (s *session) entry(i int, m *store.MaildropMessage, value func(*store.MaildropMessage)) {
	s.conn.WriteUint(uint64(i + 1))
	s.conn.WriteByte(' ')
	value(m)
	s.conn.WriteString("\r\n")
}

func runDele(_ context.Context, s *session, arg string) error {
	i, m, err := s.message(strings.TrimSpace(arg))
	if err != nil {
		return err
	}
	if s.deleted == nil {
		s.deleted = make([]bool, len(s.drop.Messages))
	}
	s.deleted[i] = true
	s.deletedN++
	s.deletedSize += m.Size
	s.ok("Marked for removal")
	return nil
}

func runRset(_ context.Context, s *session, _ string) error {
	s.deleted, s.deletedN, s.deletedSize = nil, 0, 0
	s.ok(fmt.Sprintf("Maildrop has %d messages (%d octets)", len(s.drop.Messages), s.drop.Size))
	return nil
}

// update removes what DELE has marked; it is durable when it returns.
func (s *session) update(ctx context.Context) error {
	if s.deletedN == 0 {
		return nil
	}
	uids := make([]imap.UID, 0, s.deletedN)
	for i, gone := range s.deleted {
		if gone {
			uids = append(uids, s.drop.Messages[i].UID)
		}
	}
	if err := s.account.Remove(ctx, s.drop.Mailbox, uids); err != nil {
		return err
	}
	s.server.met.deleted.Add(float64(s.deletedN))
	return nil
}

// buffers carry octets from the store to the wire.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func runRetr(ctx context.Context, s *session, arg string) error {
	_, m, err := s.message(strings.TrimSpace(arg))
	if err != nil {
		return err
	}
	r, err := s.account.OpenMaildrop(ctx, m)
	if err != nil {
		return err
	}
	defer r.Close()
	s.ok(fmt.Sprintf("%d octets", m.Size))
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	w := line.NewDotWriter(s.conn.Writer)
	// A bare Reader: a WriterTo would choose its own buffer.
	_, err = io.CopyBuffer(w, struct{ io.Reader }{r}, buf[:])
	s.endMessage(m, w, err)
	if !s.done {
		s.server.met.retrieved.Inc()
	}
	return nil
}

// runTop gives the header, the empty line and n lines of the body (RFC 1939
// section 7).
func runTop(ctx context.Context, s *session, arg string) error {
	number, count, _ := strings.Cut(strings.TrimSpace(arg), " ")
	n, err := parseNumber(strings.TrimSpace(count))
	if err != nil {
		return bad("Number of lines expected")
	}
	_, m, err := s.message(number)
	if err != nil {
		return err
	}
	r, err := s.account.OpenMaildrop(ctx, m)
	if err != nil {
		return err
	}
	defer r.Close()
	s.ok("Top of message follows")
	w := line.NewDotWriter(s.conn.Writer)
	s.endMessage(m, w, copyTop(w, bufio.NewReader(r), n))
	return nil
}

// copyTop copies the header with its empty line, and n lines more. Lines may be
// of any length.
func copyTop(w io.Writer, r *bufio.Reader, n uint64) error {
	header, fresh := true, true
	for header || n > 0 {
		part, err := r.ReadSlice('\n')
		if _, werr := w.Write(part); werr != nil {
			return werr
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			fresh = false
			continue
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		empty := fresh && (len(part) == 1 || len(part) == 2 && part[0] == '\r')
		fresh = true
		if !header {
			n--
		}
		header = header && !empty
	}
	return nil
}

// endMessage ends an answer of many lines. When the message could not be read to
// its end, the connection is given up: nothing else tells the client.
func (s *session) endMessage(m *store.MaildropMessage, w *line.DotWriter, err error) {
	switch {
	case s.conn.Writer.Err() != nil:
		s.log.Debug("message cut off on its way to the client", "uid", m.UID, "err", s.conn.Writer.Err())
		s.done = true
	case err != nil:
		s.log.Error("cannot read a message", "uid", m.UID, "err", err)
		s.done = true
		s.conn.Kill()
	default:
		w.Close()
	}
}
