package line

import (
	"io"
	"strconv"
	"time"

	"github.com/emersion/go-imap/v2"
)

// Encoder writes IMAP responses (RFC 9051 section 9) to a Writer, whose sticky
// error holds for all of it.
type Encoder struct{ *Writer }

// Text writes s as it is.
func (e Encoder) Text(s string) Encoder {
	e.WriteString(s)
	return e
}

// Number writes n.
func (e Encoder) Number(n uint64) Encoder {
	e.WriteUint(n)
	return e
}

// SP writes a space.
func (e Encoder) SP() Encoder {
	e.WriteByte(' ')
	return e
}

// CRLF ends a line.
func (e Encoder) CRLF() Encoder {
	e.WriteString("\r\n")
	return e
}

// maxQuoted octets and maxEscapes escapes are where String changes from a quoted
// string to a literal. The latter is Dovecot's: answers that clients cache stay
// the same to the octet.
const (
	maxQuoted  = 1000
	maxEscapes = 4
)

// String writes a string: quoted when it is short and 7-bit, else as a literal.
func (e Encoder) String(s string) Encoder {
	if len(s) > maxQuoted {
		e.WriteByte('{')
		e.WriteUint(uint64(len(s)))
		e.WriteString("}\r\n")
		e.WriteString(s)
		return e
	}
	var room [256]byte
	e.Write(AppendString(room[:0], s))
	return e
}

// AppendString appends what Encoder.String writes.
func AppendString(b []byte, s string) []byte {
	if !quotable(s) {
		b = append(b, '{')
		b = strconv.AppendUint(b, uint64(len(s)), 10)
		b = append(b, "}\r\n"...)
		return append(b, s...)
	}
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func quotable(s string) bool {
	if len(s) > maxQuoted {
		return false
	}
	escapes := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == 0 || c == '\r' || c == '\n' || c >= 0x80:
			return false
		case c == '"' || c == '\\':
			escapes++
		}
	}
	return escapes <= maxEscapes
}

// NString writes NIL for a string that is not set.
func (e Encoder) NString(s string, set bool) Encoder {
	if !set {
		return e.Text("NIL")
	}
	return e.String(s)
}

// AString writes an atom where s is one, else a string.
func (e Encoder) AString(s string) Encoder {
	if s == "" || len(s) == 3 && (s[0]|0x20) == 'n' && (s[1]|0x20) == 'i' && (s[2]|0x20) == 'l' {
		return e.String(s)
	}
	for i := 0; i < len(s); i++ {
		if !astringChars[s[i]] || s[i] >= 0x80 {
			return e.String(s)
		}
	}
	return e.Text(s)
}

// Flags writes a parenthesised list of flags.
func (e Encoder) Flags(flags []imap.Flag) Encoder {
	e.WriteByte('(')
	for i, f := range flags {
		if i > 0 {
			e.WriteByte(' ')
		}
		e.WriteString(string(f))
	}
	e.WriteByte(')')
	return e
}

// DateTime writes a quoted date-time in t's zone.
func (e Encoder) DateTime(t time.Time) Encoder {
	return e.Text(`"`).Text(t.Format(DateTimeLayout)).Text(`"`)
}

// NumSet writes a sequence-set, which must not be empty.
func (e Encoder) NumSet(s NumSet) Encoder {
	var room [1024]byte
	for len(s) > 0 {
		n := min(len(s), 40)
		e.Write(s[:n].AppendTo(room[:0]))
		if s = s[n:]; len(s) > 0 {
			e.WriteByte(',')
		}
	}
	return e
}

// Literal writes a literal of size octets that are read from r. When r ends
// early or fails, the response cannot be saved: the error sticks.
func (e Encoder) Literal(r io.Reader, size int64) Encoder {
	e.WriteByte('{')
	e.WriteUint(uint64(size))
	e.WriteString("}\r\n")
	return e.Octets(r, size)
}

// Octets copies exactly size octets of r.
func (e Encoder) Octets(r io.Reader, size int64) Encoder {
	n, err := io.CopyN(e.Writer, r, size)
	if n < size && e.Writer.err == nil {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		e.Writer.err = err
	}
	return e
}
