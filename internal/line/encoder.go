package line

import (
	"io"
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

// maxQuoted is where String changes from a quoted string to a literal.
const maxQuoted = 1000

// String writes a string: quoted when it is short and 7-bit, else as a literal.
func (e Encoder) String(s string) Encoder {
	if !quotable(s) {
		e.WriteByte('{')
		e.WriteUint(uint64(len(s)))
		e.WriteString("}\r\n")
		e.WriteString(s)
		return e
	}
	e.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			e.WriteByte('\\')
		}
		e.WriteByte(s[i])
	}
	e.WriteByte('"')
	return e
}

func quotable(s string) bool {
	if len(s) > maxQuoted {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == 0 || c == '\r' || c == '\n' || c >= 0x80 {
			return false
		}
	}
	return true
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
