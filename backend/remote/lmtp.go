package remote

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"

	"mailferry/backend"
)

// DialLMTP connects to the store's LMTP service and protects the connection as
// its TLS mode says. The connection is for go-smtp's NewClientLMTP, which finds
// the greeting unread and says LHLO itself. KindTemporary: the service asks to
// try later; KindUnavailable: it cannot be reached, or does not behave.
func DialLMTP(ctx context.Context, t Target) (net.Conn, error) {
	conn, err := t.dial(ctx, backend.LMTP)
	if err != nil {
		return nil, err
	}
	if m := t.Store.TLSFor(backend.LMTP); m == backend.TLSImplicit || m == backend.TLSNone {
		return conn, nil
	}
	l := newLink(conn, t.timeout())
	defer l.watch(ctx)()
	greeting, err := lmtpStartTLS(l)
	if err != nil {
		conn.Close()
		if backend.KindOf(err) != backend.KindBug {
			return nil, err
		}
		return nil, t.unavailable(backend.LMTP, "STARTTLS", cause(ctx, err))
	}
	tc, err := t.startTLS(ctx, backend.LMTP, conn)
	if err != nil {
		return nil, err
	}
	// The service greets once, before TLS; the client waits for it behind.
	return &greeted{Conn: tc, greeting: bytes.NewReader([]byte(greeting))}, nil
}

// lmtpStartTLS runs the dialogue up to the handshake (RFC 3207) and returns
// the greeting.
func lmtpStartTLS(l *link) (greeting string, err error) {
	r := bufio.NewReaderSize(l, 4<<10)
	greeting, _, err = lmtpReply(r, "220")
	if err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(l, "LHLO localhost\r\n"); err != nil {
		return "", err
	}
	_, lines, err := lmtpReply(r, "250")
	if err != nil {
		return "", err
	}
	offered := false
	for _, line := range lines[1:] {
		offered = offered || strings.EqualFold(line, "STARTTLS")
	}
	if !offered {
		return "", fmt.Errorf("the store does not offer STARTTLS")
	}
	if _, err := fmt.Fprintf(l, "STARTTLS\r\n"); err != nil {
		return "", err
	}
	if _, _, err := lmtpReply(r, "220"); err != nil {
		return "", err
	}
	if n := r.Buffered(); n > 0 {
		return "", fmt.Errorf("%d octets behind the reply to STARTTLS", n)
	}
	return greeting, nil
}

// lmtpReply reads a reply of at most 100 lines and wants its code: the reply as
// it came, and the lines' texts.
func lmtpReply(r *bufio.Reader, want string) (raw string, lines []string, err error) {
	for len(lines) < 100 {
		b, err := r.ReadSlice('\n')
		if err != nil {
			return "", nil, err
		}
		raw += string(b)
		line := strings.TrimRight(string(b), "\r\n")
		if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return "", nil, fmt.Errorf("reply %q", line)
		}
		lines = append(lines, line[min(4, len(line)):])
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if line[0] == '4' {
			return "", nil, backend.Errorf(backend.KindTemporary, "The mail store asks to try again later.", "reply %q", line)
		}
		if line[:3] != want {
			return "", nil, fmt.Errorf("reply %q", line)
		}
		return raw, lines, nil
	}
	return "", nil, fmt.Errorf("reply of more than 100 lines")
}

// greeted is a connection that starts with a greeting that was read before.
type greeted struct {
	net.Conn
	greeting *bytes.Reader
}

func (g *greeted) Read(p []byte) (int, error) {
	if g.greeting.Len() > 0 {
		return g.greeting.Read(p)
	}
	return g.Conn.Read(p)
}
