package line

import (
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// The character classes of RFC 9051 section 9. Octets above 127 are accepted
// where real clients send them raw: in quoted strings and, in place of an
// error, in astrings (mailbox names in UTF-8).
var (
	atomChars    = class(func(b byte) bool { return b > ' ' && b < 0x7f && !strings.ContainsRune("(){%*\"\\]", rune(b)) })
	astringChars = class(func(b byte) bool { return atomChars[b] || b == ']' || b >= 0x80 })
	listChars    = class(func(b byte) bool { return astringChars[b] || b == '%' || b == '*' })
	tagChars     = class(func(b byte) bool { return atomChars[b] && b != '+' || b == ']' })
	digits       = class(func(b byte) bool { return b >= '0' && b <= '9' })
	setChars     = class(func(b byte) bool { return digits[b] || b == ':' || b == ',' || b == '*' })
	sectionChars = class(func(b byte) bool { return digits[b] || b == '.' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' })
)

func class(ok func(byte) bool) *[256]bool {
	var t [256]bool
	for i := range t {
		t[i] = ok(byte(i))
	}
	return &t
}

func nonEmpty(s *string, v string) bool {
	*s = v
	return v != ""
}

// ExpectTag takes a command's tag.
func (d *Decoder) ExpectTag(s *string) bool {
	return nonEmpty(s, d.take(tagChars)) || d.Fail("Tag expected")
}

// Atom takes an atom.
func (d *Decoder) Atom(s *string) bool { return nonEmpty(s, d.take(atomChars)) }

// ExpectAtom is Atom that must be there.
func (d *Decoder) ExpectAtom(s *string) bool { return d.Atom(s) || d.Fail("Atom expected") }

// Keyword takes an atom and turns it to upper case.
func (d *Decoder) Keyword(s *string) bool {
	if !d.Atom(s) {
		return false
	}
	*s = strings.ToUpper(*s)
	return true
}

// Section takes the text of a body section's start: letters, digits and dots,
// in upper case; possibly none.
func (d *Decoder) Section() string { return strings.ToUpper(d.take(sectionChars)) }

// Word takes the atom w, in any case.
func (d *Decoder) Word(w string) bool {
	if d.err != nil || len(d.cur) < len(w) || !strings.EqualFold(string(d.cur[:len(w)]), w) {
		return false
	}
	if len(d.cur) > len(w) && atomChars[d.cur[len(w)]] {
		return false
	}
	d.cur = d.cur[len(w):]
	return true
}

// Quoted takes a quoted string. Raw octets above 127 are accepted; NUL cannot
// be in it, and CR and LF end the line.
func (d *Decoder) Quoted(s *string) bool {
	if d.peek() != '"' {
		return false
	}
	var b strings.Builder
	for i := 1; i < len(d.cur); i++ {
		switch c := d.cur[i]; c {
		case '"':
			*s = b.String()
			d.cur = d.cur[i+1:]
			return true
		case '\\':
			i++
			if i == len(d.cur) || d.cur[i] != '"' && d.cur[i] != '\\' {
				return d.Fail("Invalid escape in a quoted string")
			}
			b.WriteByte(d.cur[i])
		case 0, '\r':
			return d.Fail("Invalid character in a quoted string")
		default:
			b.WriteByte(c)
		}
	}
	return d.Fail("Quoted string is not closed")
}

// String takes a quoted string or a literal, which is read into memory.
func (d *Decoder) String(s *string) bool {
	return d.Quoted(s) || d.err == nil && d.literal(s, d.limits.Literal)
}

// BigString is String whose literal may have up to limit octets, apart from
// the limits of the command.
func (d *Decoder) BigString(s *string, limit int64) bool {
	return d.Quoted(s) || d.err == nil && d.literal(s, limit)
}

// ExpectString is String that must be there.
func (d *Decoder) ExpectString(s *string) bool { return d.String(s) || d.Fail("String expected") }

// ExpectAString takes an astring.
func (d *Decoder) ExpectAString(s *string) bool {
	if nonEmpty(s, d.take(astringChars)) || d.String(s) {
		return true
	}
	return d.Fail("String expected")
}

// ExpectListMailbox takes a list-mailbox: an astring that may hold wildcards.
func (d *Decoder) ExpectListMailbox(s *string) bool {
	if nonEmpty(s, d.take(listChars)) || d.String(s) {
		return true
	}
	return d.Fail("Mailbox pattern expected")
}

// ExpectNString takes a string or NIL; set is false for NIL.
func (d *Decoder) ExpectNString(s *string, set *bool) bool {
	if *set = false; d.Word("NIL") {
		*s = ""
		return true
	}
	*set = true
	return d.ExpectString(s)
}

// Number takes a number of 32 bits.
func (d *Decoder) Number(n *uint32) bool {
	var u uint64
	if !d.number(&u, 32) {
		return false
	}
	*n = uint32(u)
	return true
}

// ExpectNumber is Number that must be there.
func (d *Decoder) ExpectNumber(n *uint32) bool { return d.Number(n) || d.Fail("Number expected") }

// ExpectNumber64 takes a number of 63 bits, as mod-sequences are.
func (d *Decoder) ExpectNumber64(n *uint64) bool {
	return d.number(n, 63) || d.Fail("Number expected")
}

func (d *Decoder) number(n *uint64, bits int) bool {
	i := 0
	for i < len(d.cur) && digits[d.cur[i]] {
		i++
	}
	if d.err != nil || i == 0 {
		return false
	}
	u, err := strconv.ParseUint(string(d.cur[:i]), 10, bits)
	if err != nil {
		return d.Fail("Number too large")
	}
	*n = u
	d.cur = d.cur[i:]
	return true
}

// NumSet takes a sequence-set.
func (d *Decoder) NumSet(set *NumSet) bool {
	if c := d.peek(); !digits[c] && c != '*' {
		return false
	}
	n := 0
	for n < len(d.cur) && setChars[d.cur[n]] {
		n++
	}
	s, ok := AppendNumSet(nil, d.cur[:n])
	if !ok {
		return d.Fail("Invalid message set")
	}
	*set = s
	d.cur = d.cur[n:]
	return true
}

// ExpectNumSet is NumSet that must be there.
func (d *Decoder) ExpectNumSet(set *NumSet) bool {
	return d.NumSet(set) || d.Fail("Message set expected")
}

// ListOf takes a parenthesised list; item is called at each member and reads
// it. It returns false without input taken when there is no "(".
func (d *Decoder) ListOf(item func() bool) bool {
	if !d.Special('(') {
		return false
	}
	if d.depth++; d.depth > d.limits.Nesting {
		return d.Fail("Too many parentheses")
	}
	defer func() { d.depth-- }()
	if d.Special(')') {
		return true
	}
	for {
		if !item() {
			return d.Fail("Invalid list")
		}
		if d.Special(')') {
			return true
		}
		if !d.ExpectSP() {
			return false
		}
	}
}

// ExpectList is ListOf that must be there.
func (d *Decoder) ExpectList(item func() bool) bool {
	return d.ListOf(item) || d.Fail("List expected")
}

// Enter counts one more level of nesting for recursive grammars (SEARCH keys);
// it fails at the bound. Leave takes it back.
func (d *Decoder) Enter() bool {
	if d.depth++; d.depth > d.limits.Nesting {
		return d.Fail("Too deeply nested")
	}
	return true
}

// Leave ends a level that Enter began.
func (d *Decoder) Leave() { d.depth-- }

// ExpectFlag takes a flag or keyword.
func (d *Decoder) ExpectFlag(f *imap.Flag) bool {
	system := d.Special('\\')
	var s string
	if !d.Atom(&s) {
		return d.Fail("Flag expected")
	}
	if system {
		s = "\\" + s
	}
	*f = imap.Flag(s)
	return true
}

// ExpectFlags takes a list of flags, with or without parentheses.
func (d *Decoder) ExpectFlags(flags *[]imap.Flag) bool {
	one := func() bool {
		var f imap.Flag
		if !d.ExpectFlag(&f) {
			return false
		}
		*flags = append(*flags, f)
		return true
	}
	if d.ListOf(one) {
		return true
	}
	if !one() {
		return false
	}
	for d.SP() {
		if !one() {
			return false
		}
	}
	return true
}
