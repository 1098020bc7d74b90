package remote

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Bounds of what is kept in memory of one response. What is longer is read and
// thrown away, or makes that one response unusable, never the connection.
const (
	maxText    = 4 << 10  // text of a status response, an atom, a flag
	maxString  = 64 << 10 // a mailbox name, a namespace, an envelope's string
	maxDepth   = 64       // nested lists that are skipped
	readBuffer = 64 << 10
	// loginBuffer is enough for a login, which is all that the proxy reads here.
	loginBuffer = 4 << 10
)

// errSyntax marks a response that makes no sense. The scanner is still on its
// line: skipLine leads to the next response.
var errSyntax = errors.New("response makes no sense")

func syntaxf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errSyntax, fmt.Sprintf(format, args...))
}

// scanner reads server responses (RFC 9051 section 9, "response") leniently.
// It never fails for the content of a response: errSyntax is the only error of
// its own, all others come from the connection.
type scanner struct {
	r   *bufio.Reader
	buf []byte // scratch of token and str, valid until the next call
}

// loginReaders serve one login after the other.
var loginReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, loginBuffer) }}

func newScanner(r io.Reader) *scanner {
	s := &scanner{r: loginReaders.Get().(*bufio.Reader)}
	s.r.Reset(r)
	return s
}

// release gives the buffer to the next login; the scanner is of no further use.
func (s *scanner) release() {
	if s.r.Size() == loginBuffer {
		s.r.Reset(nil)
		loginReaders.Put(s.r)
	}
	s.r = nil
}

// grow prepares for reading accounts.
func (s *scanner) grow() { s.r = bufio.NewReaderSize(s.r, readBuffer) }

// peek is the next octet, unread.
func (s *scanner) peek() (byte, error) {
	b, err := s.r.Peek(1)
	if err != nil {
		return 0, noEOF(err)
	}
	return b[0], nil
}

// accept reads c when it is next.
func (s *scanner) accept(c byte) bool {
	b, err := s.r.Peek(1)
	if err != nil || b[0] != c {
		return false
	}
	_, _ = s.r.Discard(1)
	return true
}

// blanks reads any number of spaces; servers double them.
func (s *scanner) blanks() {
	for s.accept(' ') {
	}
}

// token reads up to a blank, a list's edge, a line's end or a literal. The
// slice is valid until the next call.
func (s *scanner) token() ([]byte, error) { return s.until(" ()\r\n") }

// until reads up to one of stop or the start of a literal.
func (s *scanner) until(stop string) ([]byte, error) {
	s.buf = s.buf[:0]
	for {
		s.plain(stop)
		c, err := s.peek()
		if err != nil {
			return nil, err
		}
		if strings.IndexByte(stop, c) >= 0 {
			return s.buf, nil
		}
		if c == '{' {
			if _, n := s.literalAhead(); n > 0 {
				return s.buf, nil
			}
		}
		if len(s.buf) >= maxText {
			return nil, syntaxf("token of more than %d octets", maxText)
		}
		_, _ = s.r.Discard(1)
		s.buf = append(s.buf, c)
	}
}

// plain takes over what is buffered up to one of stop, a possible literal, or
// the bound: the common case of until.
func (s *scanner) plain(stop string) {
	b, _ := s.r.Peek(min(s.r.Buffered(), maxText-len(s.buf)))
	n := 0
	for n < len(b) && b[n] != '{' && b[n] != '~' && strings.IndexByte(stop, b[n]) < 0 {
		n++
	}
	s.buf = append(s.buf, b[:n]...)
	_, _ = s.r.Discard(n)
}

// literalAhead looks for "{n}CRLF", also "~{n}" and "{n+}", without reading it:
// the literal's size and the length of its header, 0 when there is none.
func (s *scanner) literalAhead() (size int64, header int) {
	// A header has at most "~{" + 19 digits + "+}" CR LF. Each octet is asked
	// for only when the ones before it fit: a line may end anywhere.
	for n := 1; n <= 25; n++ {
		b, err := s.r.Peek(n)
		if err != nil {
			return 0, 0
		}
		if c := b[n-1]; c == '\n' {
			return parseLiteral(b)
		} else if strings.IndexByte("~{}+\r0123456789", c) < 0 {
			return 0, 0
		}
	}
	return 0, 0
}

func parseLiteral(b []byte) (size int64, header int) {
	i := 0
	if b[i] == '~' {
		i++
	}
	if i >= len(b) || b[i] != '{' {
		return 0, 0
	}
	i++
	start := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		if size > 1<<53 {
			return 0, 0
		}
		size = size*10 + int64(b[i]-'0')
		i++
	}
	if i == start {
		return 0, 0
	}
	if i < len(b) && b[i] == '+' {
		i++
	}
	if i >= len(b) || b[i] != '}' {
		return 0, 0
	}
	i++
	if i < len(b) && b[i] == '\r' {
		i++
	}
	if i >= len(b) || b[i] != '\n' {
		return 0, 0
	}
	return size, i + 1
}

// literal reads the header of a literal that is next.
func (s *scanner) literal() (size int64, ok bool) {
	c, err := s.peek()
	if err != nil || (c != '{' && c != '~') {
		return 0, false
	}
	size, n := s.literalAhead()
	if n == 0 {
		return 0, false
	}
	_, _ = s.r.Discard(n)
	return size, true
}

// number reads digits. It fails with errSyntax when there are none.
func (s *scanner) number() (uint64, error) {
	var v uint64
	for n := 0; ; n++ {
		c, err := s.peek()
		if err != nil {
			return 0, err
		}
		if c < '0' || c > '9' {
			if n == 0 {
				return 0, syntaxf("number expected, got %q", c)
			}
			return v, nil
		}
		if n > 19 || v > (1<<64-1-9)/10 {
			return 0, syntaxf("number too large")
		}
		_, _ = s.r.Discard(1)
		v = v*10 + uint64(c-'0')
	}
}

// str reads an nstring: quoted, literal, NIL; or a bare token, as some servers
// send. The slice is valid until the next call. null is true for NIL.
func (s *scanner) str() (b []byte, null bool, err error) {
	c, err := s.peek()
	if err != nil {
		return nil, false, err
	}
	if c == '"' {
		b, err = s.quoted()
		return b, false, err
	}
	if size, ok := s.literal(); ok {
		b, err = s.literalBytes(size)
		return b, false, err
	}
	b, err = s.token()
	if err != nil {
		return nil, false, err
	}
	return b, strings.EqualFold(string(b), "NIL"), nil
}

// quoted reads a quoted string; a line's end inside it makes it errSyntax, and
// is left unread.
func (s *scanner) quoted() ([]byte, error) {
	_, _ = s.r.Discard(1)
	s.buf = s.buf[:0]
	for {
		c, err := s.peek()
		if err != nil {
			return nil, err
		}
		if c == '\r' || c == '\n' {
			return nil, syntaxf("line ends in a quoted string")
		}
		_, _ = s.r.Discard(1)
		switch c {
		case '"':
			return s.buf, nil
		case '\\':
			// Only " and \ may be quoted (RFC 9051 section 9); a lone
			// backslash in a name stands for itself.
			if n, err := s.peek(); err == nil && (n == '"' || n == '\\') {
				_, _ = s.r.Discard(1)
				c = n
			}
		}
		if len(s.buf) >= maxString {
			return nil, syntaxf("string of more than %d octets", maxString)
		}
		s.buf = append(s.buf, c)
	}
}

func (s *scanner) literalBytes(size int64) ([]byte, error) {
	if size > maxString {
		if _, err := io.CopyN(io.Discard, s.r, size); err != nil {
			return nil, noEOF(err)
		}
		return nil, syntaxf("literal of %d octets where a name was expected", size)
	}
	if int64(cap(s.buf)) < size {
		s.buf = make([]byte, size)
	}
	s.buf = s.buf[:size]
	_, err := io.ReadFull(s.r, s.buf)
	return s.buf, noEOF(err)
}

// skipValue reads one value of any form: string, literal, atom, nested lists.
func (s *scanner) skipValue() error {
	depth := 0
	for {
		s.blanks()
		c, err := s.peek()
		if err != nil {
			return err
		}
		switch {
		case c == '(':
			_, _ = s.r.Discard(1)
			if depth++; depth > maxDepth {
				return syntaxf("lists nested more than %d deep", maxDepth)
			}
			continue
		case c == ')':
			if depth == 0 {
				return nil
			}
			_, _ = s.r.Discard(1)
			depth--
		case c == '\r' || c == '\n':
			if depth > 0 {
				return syntaxf("line ends in a list")
			}
			return nil
		default:
			if err := s.skipScalar(c); err != nil {
				return err
			}
		}
		if depth == 0 {
			return nil
		}
	}
}

// skipScalar reads a string of any length, or an atom.
func (s *scanner) skipScalar(c byte) error {
	if c == '"' {
		_, err := s.quoted()
		return err
	}
	if size, ok := s.literal(); ok {
		_, err := io.CopyN(io.Discard, s.r, size)
		return noEOF(err)
	}
	b, err := s.token()
	if err == nil && len(b) == 0 {
		return syntaxf("value expected")
	}
	return err
}

// skipLine reads to the end of the response, literals included.
func (s *scanner) skipLine() error {
	for {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c == '{' || c == '~' {
			if size, ok := s.literal(); ok {
				if _, err := io.CopyN(io.Discard, s.r, size); err != nil {
					return noEOF(err)
				}
				continue
			}
		}
		_, _ = s.r.Discard(1)
		if c == '\n' {
			return nil
		}
	}
}

// text reads the rest of the line, of which it keeps at most maxText octets.
// Literals have no meaning in it.
func (s *scanner) text() (string, error) {
	s.buf = s.buf[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		if room := maxText - len(s.buf); room > 0 {
			s.buf = append(s.buf, part[:min(room, len(part))]...)
		}
		if err == nil {
			return strings.TrimRight(string(s.buf), "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", noEOF(err)
		}
	}
}

// noEOF makes an end of the stream inside a response an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
