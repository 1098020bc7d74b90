package smtpd

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// Trace describes one transaction for its Received field.
type Trace struct {
	Helo      string // as the peer calls itself; not to be trusted
	Peer      net.Addr
	Domain    string // ours
	With      string // LMTP, ESMTPSA ... (RFC 3848)
	Recipient string // the only one; empty: none, or several that must not know of each other
	ID        string
	Time      time.Time
}

// NewID returns an id for a transaction: 64 random bits.
func NewID() string { return strings.ToLower(rand.Text()[:13]) }

// TraceOf begins a Trace with what the connection knows.
func TraceOf(c *smtp.Conn, domain, with string) Trace {
	return Trace{Helo: c.Hostname(), Peer: c.Conn().RemoteAddr(), Domain: domain, With: with, ID: NewID(), Time: time.Now()}
}

// Received is the trace field (RFC 5321 4.4), CRLF included.
func (t Trace) Received() string {
	var b strings.Builder
	b.WriteString("Received: ")
	if t.Helo != "" || t.Peer != nil {
		t.writeFrom(&b)
	}
	fmt.Fprintf(&b, "by %s with %s id %s", word(t.Domain), t.With, t.ID)
	if t.Recipient != "" {
		fmt.Fprintf(&b, "\r\n\tfor <%s>", word(t.Recipient))
	}
	fmt.Fprintf(&b, ";\r\n\t%s\r\n", t.Time.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	return b.String()
}

// writeFrom tells the peer. A step within this server has none.
func (t Trace) writeFrom(b *strings.Builder) {
	fmt.Fprintf(b, "from %s", word(t.Helo))
	if host, _, err := net.SplitHostPort(addrString(t.Peer)); err == nil {
		if strings.Contains(host, ":") {
			host = "IPv6:" + host
		}
		fmt.Fprintf(b, " ([%s])", word(host))
	}
	b.WriteString("\r\n\t")
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// word keeps what a peer says from ending the field or its comment.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7F || strings.ContainsRune("()<>;\\", r) {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "unknown"
	}
	return s[:min(len(s), 255)]
}

// ReturnPath is the field that final delivery adds (RFC 5321 4.4).
func ReturnPath(from string) string {
	if from == "" {
		return "Return-Path: <>\r\n"
	}
	return "Return-Path: <" + word(from) + ">\r\n"
}

// Prepend is header followed by body.
func Prepend(header string, body io.Reader) io.Reader {
	return io.MultiReader(strings.NewReader(header), body)
}
