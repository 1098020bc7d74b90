package line

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits bound one IMAP command.
type Limits struct {
	// Line bounds each line of a command, its end included.
	Line int
	// Literal bounds a literal that is read into memory.
	Literal int64
	// Command bounds all lines and in-memory literals of a command together.
	Command int64
	// Nesting bounds parentheses.
	Nesting int
}

// PreLogin is for peers that have not logged in, whose line may be an OAuth
// token in base64; Session for those that have.
// The line of Session is Dovecot's imap_max_line_length: real clients send
// sets of that length.
var (
	PreLogin = Limits{Line: 12 << 10, Literal: 8 << 10, Command: 16 << 10, Nesting: 4}
	Session  = Limits{Line: 64 << 10, Literal: 64 << 10, Command: 256 << 10, Nesting: 32}
)

// SyntaxError is a command that does not parse: the sender gets BAD with Text,
// which is safe to send.
type SyntaxError struct{ Text string }

func (e *SyntaxError) Error() string { return e.Text }

// ErrTooBig: a literal or a command exceeds its bound (BAD [TOOBIG]).
var ErrTooBig = errors.New("line: literal or command too big")

// Decoder reads IMAP commands (RFC 9051 section 9) on raw octets.
//
// The first error sticks and every later method fails. Methods whose name
// begins with Expect record an error when the input is something else; the
// others leave the input alone and return false, so that alternatives can be
// tried. A Decoder belongs to one goroutine.
type Decoder struct {
	// Continue is called before a synchronising literal is read and has to
	// send and flush "+ ..."; when nil, such literals are refused.
	Continue func() error

	r      *Reader
	limits Limits
	cur    []byte // unread rest of the present line
	total  int64
	depth  int
	err    error
	lit    *Exact // open literal
	// announced: a literal's header was read, its octets were not asked for.
	announced *LiteralInfo
}

// NewDecoder reads from r within limits.
func NewDecoder(r *Reader, limits Limits) *Decoder {
	return &Decoder{r: r, limits: limits}
}

// SetLimits replaces the limits, from the next Begin on.
func (d *Decoder) SetLimits(l Limits) { d.limits = l }

// Begin reads the first line of a command. It returns ErrLineTooLong (the
// command must then be given up with Discard) or an error of the connection.
func (d *Decoder) Begin() error {
	d.cur, d.total, d.depth, d.err, d.lit, d.announced = nil, 0, 0, nil, nil, nil
	return d.nextLine()
}

func (d *Decoder) nextLine() error {
	l, err := d.r.ReadLine(d.limits.Line)
	d.total += int64(len(l))
	if err == nil && d.total > d.limits.Command {
		err = ErrTooBig
	}
	if err != nil {
		d.err = err
	}
	d.cur = l
	return err
}

// Err is the first error: a *SyntaxError, ErrTooBig, ErrLineTooLong, or one of
// the connection.
func (d *Decoder) Err() error { return d.err }

// Fail records a syntax error, unless there is an error already, and returns
// false.
func (d *Decoder) Fail(format string, args ...any) bool {
	if d.err == nil {
		d.err = &SyntaxError{Text: fmt.Sprintf(format, args...)}
	}
	return false
}

// Discard drops the rest of the command after an error, literals that are on
// their way included, so that the next Begin finds the next command. It drops
// at most max octets and fails beyond that; then the connection is lost.
func (d *Decoder) Discard(max int64) error {
	tail := d.cur
	if d.lit != nil {
		max -= d.lit.Left()
		if max < 0 {
			return ErrTooBig
		}
		if err := d.lit.Drain(); err != nil {
			return err
		}
		d.lit, d.err = nil, ErrLineTooLong
	}
	if d.announced != nil {
		tail = []byte("{" + strconv.FormatInt(d.announced.Size, 10) + "+}")
		if !d.announced.NonSync {
			return nil // never asked for, so it does not come
		}
		d.announced = nil
	} else if d.err == ErrLineTooLong {
		var err error
		if tail, err = d.r.SkipLine(int(max)); err != nil {
			return err
		}
	}
	return d.discardLiterals(tail, max)
}

// discardLiterals drops the non-synchronising literals behind a line that ends
// with tail, and the lines that follow them.
func (d *Decoder) discardLiterals(tail []byte, max int64) error {
	for {
		info, ok := literalAtEnd(tail)
		if !ok || !info.NonSync {
			d.cur = nil
			return nil
		}
		if max -= info.Size; max < 0 {
			return ErrTooBig
		}
		if err := d.r.Exactly(info.Size).Drain(); err != nil {
			return err
		}
		var err error
		if tail, err = d.r.SkipLine(int(max)); err != nil {
			return err
		}
	}
}

// literalAtEnd finds the literal that a line's end announces.
func literalAtEnd(l []byte) (info LiteralInfo, ok bool) {
	i := strings.LastIndexByte(string(l[max(0, len(l)-32):]), '{')
	if i < 0 {
		return info, false
	}
	return parseLiteralInfo(l[max(0, len(l)-32)+i:])
}

// Rest returns what is unread of the present line; for logs and raw parsers.
func (d *Decoder) Rest() []byte { return d.cur }

// TakeRest takes what is left of the present line, whatever it is.
func (d *Decoder) TakeRest() string {
	s := string(d.cur)
	d.cur = nil
	return s
}

// peek is the next octet, 0 at the end of the line (NUL itself is refused
// wherever it could matter).
func (d *Decoder) peek() byte {
	if d.err != nil || len(d.cur) == 0 {
		return 0
	}
	return d.cur[0]
}

// Special takes the octet b.
func (d *Decoder) Special(b byte) bool {
	if len(d.cur) == 0 || d.err != nil || d.cur[0] != b {
		return false
	}
	d.cur = d.cur[1:]
	return true
}

// SP takes one space.
func (d *Decoder) SP() bool { return d.Special(' ') }

// ExpectSP is SP that must be there.
func (d *Decoder) ExpectSP() bool { return d.SP() || d.Fail("Space expected") }

// ExpectSpecial is Special that must be there.
func (d *Decoder) ExpectSpecial(b byte) bool {
	return d.Special(b) || d.Fail("%q expected", rune(b))
}

// AtEnd reports whether the command's last line is used up.
func (d *Decoder) AtEnd() bool { return d.err == nil && len(d.cur) == 0 && d.announced == nil }

// ExpectEnd fails when something follows. Spaces at the end are forgiven: old
// clients send them.
func (d *Decoder) ExpectEnd() bool {
	for d.SP() {
	}
	return d.AtEnd() || d.Fail("Unexpected arguments at the end of the command")
}

// take moves over the longest run of octets that ok accepts.
func (d *Decoder) take(ok *[256]bool) string {
	if d.err != nil {
		return ""
	}
	n := 0
	for n < len(d.cur) && ok[d.cur[n]] {
		n++
	}
	s := string(d.cur[:n])
	d.cur = d.cur[n:]
	return s
}

// LiteralInfo is what {n}, {n+} or ~{n} announces.
type LiteralInfo struct {
	Size    int64
	NonSync bool // {n+}: RFC 7888
	Binary  bool // ~{n}: literal8, RFC 3516
}

// parseLiteralInfo parses a literal's header that fills l.
func parseLiteralInfo(l []byte) (info LiteralInfo, ok bool) {
	s := string(l)
	s, info.Binary = strings.CutPrefix(s, "~")
	s, ok = strings.CutPrefix(s, "{")
	if !ok {
		return info, false
	}
	if s, ok = strings.CutSuffix(s, "}"); !ok {
		return info, false
	}
	s, info.NonSync = strings.CutSuffix(s, "+")
	if s == "" || len(s) > 19 || strings.Trim(s, "0123456789") != "" {
		return info, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	info.Size = n
	return info, err == nil
}

// LiteralHeader takes a literal's header without asking for its octets:
// OpenLiteral does that. A refusal after it needs nothing but Discard.
func (d *Decoder) LiteralHeader(info *LiteralInfo) bool {
	if c := d.peek(); c != '{' && c != '~' {
		return false
	}
	i, ok := parseLiteralInfo(d.cur)
	if !ok {
		return d.Fail("Invalid literal")
	}
	*info = i
	d.announced = &i
	d.cur = nil
	return true
}

// OpenLiteral asks for the octets of the literal whose header was read last
// and returns their reader, nil after an error. CloseLiteral must follow.
func (d *Decoder) OpenLiteral() io.Reader {
	if d.err != nil || d.announced == nil {
		d.Fail("Literal expected")
		return nil
	}
	info := d.announced
	if !info.NonSync {
		if d.Continue == nil {
			d.Fail("Synchronising literal not allowed here")
			return nil
		}
		if d.err = d.Continue(); d.err != nil {
			return nil
		}
	}
	d.announced = nil
	d.lit = d.r.Exactly(info.Size)
	return d.lit
}

// CloseLiteral drops what is unread of the open literal and goes on with the
// line behind it.
func (d *Decoder) CloseLiteral() bool {
	if d.lit == nil || d.err != nil {
		return d.err == nil
	}
	if d.err = d.lit.Drain(); d.err != nil {
		return false
	}
	d.lit = nil
	return d.nextLine() == nil
}

// literal reads a literal into memory, within the limits.
func (d *Decoder) literal(s *string, limit int64) bool {
	var info LiteralInfo
	if !d.LiteralHeader(&info) {
		return false
	}
	if info.Size > limit || d.total+info.Size > max(d.limits.Command, limit) {
		d.err = ErrTooBig
		return false
	}
	r := d.OpenLiteral()
	if r == nil {
		return false
	}
	b, err := io.ReadAll(r)
	if err != nil {
		d.err = err
		return false
	}
	if limit == d.limits.Literal { // those with a bound of their own count apart
		d.total += info.Size
	}
	*s = string(b)
	return d.CloseLiteral()
}
