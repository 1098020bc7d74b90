package backend

import (
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// UIDLFormat is a pattern that makes a message's POP3 unique id (RFC 1939
// section 7, UIDL) from its UID and UIDVALIDITY: %u is the UID, %v the
// UIDVALIDITY, %% a percent sign. Between the percent sign and the letter may
// stand a width that begins with 0, filled with zeros, and X for lower
// case hexadecimal, as in Dovecot's pop3_uidl_format. Empty is UIDLCyrus.
type UIDLFormat string

// The formats of the servers that users come from.
const (
	UIDLCyrus        UIDLFormat = "%v.%u" // and of our own store
	UIDLPlain        UIDLFormat = "%u"
	UIDLDovecot      UIDLFormat = "%08Xu%08Xv"
	UIDLDovecotOld   UIDLFormat = "%08Xv%08Xu"
	UIDLCourier      UIDLFormat = "UID%u-%v"
	UIDLCourierPlain UIDLFormat = "UID%u"
	UIDLDashed       UIDLFormat = "%v-%u" // Cyrus' word for it is courier
)

// UIDLFormats lists the known formats, to try them on a list of unique ids.
func UIDLFormats() []UIDLFormat {
	return []UIDLFormat{UIDLCyrus, UIDLDovecot, UIDLCourier, UIDLDovecotOld, UIDLPlain, UIDLCourierPlain, UIDLDashed}
}

// MaxUIDL is the longest unique id that RFC 1939 section 7 allows. Stored ones
// may be longer: they stay what the client knows.
const MaxUIDL = 70

// Valid reports whether the format is well-formed, tells messages apart by
// their UID, and makes ids of at most MaxUIDL printable characters.
func (f UIDLFormat) Valid() bool {
	if f == "" {
		return true
	}
	usesUID, width := false, 0
	for rest := string(f); rest != ""; {
		if rest[0] != '%' {
			if rest[0] <= ' ' || rest[0] > '~' {
				return false
			}
			rest, width = rest[1:], width+1
			continue
		}
		d, n := parseDirective(rest[1:])
		if n == 0 {
			return false
		}
		usesUID = usesUID || d.letter == 'u'
		width += max(d.width, len("4294967295"))
		rest = rest[1+n:]
	}
	return usesUID && width <= MaxUIDL
}

// UIDL is the unique id of a message. Of a format that is not valid it is that
// of UIDLCyrus.
func (f UIDLFormat) UIDL(uidValidity uint32, uid imap.UID) string {
	if f == "" || !f.Valid() {
		f = UIDLCyrus
	}
	b := make([]byte, 0, 32)
	for rest := string(f); rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return string(append(b, rest...))
		}
		d, n := parseDirective(rest[i+1:])
		b = append(b, rest[:i]...)
		switch d.letter {
		case 'u':
			b = d.appendTo(b, uint32(uid))
		case 'v':
			b = d.appendTo(b, uidValidity)
		default:
			b = append(b, '%')
		}
		rest = rest[i+1+n:]
	}
	return string(b)
}

// directive is what follows a percent sign.
type directive struct {
	letter byte // u, v or %
	width  int
	hex    bool
}

// parseDirective returns the number of octets it takes, 0 when there is none.
func parseDirective(s string) (d directive, n int) {
	for n < len(s) && n < 2 && s[n] >= '0' && s[n] <= '9' {
		d.width = 10*d.width + int(s[n]-'0')
		n++
	}
	if n > 0 && s[0] != '0' {
		return d, 0 // a width without zeros would be filled with spaces
	}
	if n < len(s) && s[n] == 'X' {
		d.hex = true
		n++
	}
	if n == len(s) || s[n] != 'u' && s[n] != 'v' && (s[n] != '%' || n > 0) {
		return d, 0
	}
	d.letter = s[n]
	return d, n + 1
}

func (d directive) appendTo(b []byte, v uint32) []byte {
	text := strconv.FormatUint(uint64(v), d.base())
	for range d.width - len(text) {
		b = append(b, '0')
	}
	return append(b, text...)
}

// UID is the UID whose unique id of this format and UIDVALIDITY id is; ok is
// false when it is none.
func (f UIDLFormat) UID(uidValidity uint32, id string) (uid imap.UID, ok bool) {
	if f == "" || !f.Valid() {
		f = UIDLCyrus
	}
	in := id
	for rest := string(f); rest != ""; {
		if rest[0] != '%' {
			if in == "" || in[0] != rest[0] {
				return 0, false
			}
			rest, in = rest[1:], in[1:]
			continue
		}
		d, n := parseDirective(rest[1:])
		rest = rest[1+n:]
		if d.letter == '%' {
			if in == "" || in[0] != '%' {
				return 0, false
			}
			in = in[1:]
			continue
		}
		digits := d.digits(in, rest != "" && rest[0] == '%')
		v, err := strconv.ParseUint(in[:digits], d.base(), 32)
		if err != nil {
			return 0, false
		}
		if in = in[digits:]; d.letter == 'u' {
			uid = imap.UID(v)
		}
	}
	// The other way round settles widths, zeros and the UIDVALIDITY.
	return uid, uid != 0 && f.UIDL(uidValidity, uid) == id
}

// digits counts the digits of a number at the start of s; before another number
// it is as long as its width says.
func (d directive) digits(s string, more bool) (n int) {
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || d.hex && s[n] >= 'a' && s[n] <= 'f') && !(more && n == d.width) {
		n++
	}
	return n
}

func (d directive) base() int {
	if d.hex {
		return 16
	}
	return 10
}
