package line

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrUTF7: a name is not valid modified UTF-7.
var ErrUTF7 = errors.New("line: invalid modified UTF-7")

// utf7Base64 is base64 with "," in place of "/", without padding, and strict
// about unused bits (RFC 3501 section 5.1.3).
var utf7Base64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding).Strict()

// EncodeUTF7 turns UTF-8 into modified UTF-7 (RFC 3501 section 5.1.3). Octets
// that are not UTF-8 become U+FFFD.
func EncodeUTF7(s string) string {
	if plainUTF7(s) {
		return s
	}
	var b strings.Builder
	var shifted []rune
	flush := func() {
		if len(shifted) == 0 {
			return
		}
		var raw []byte
		for _, u := range utf16.Encode(shifted) {
			raw = append(raw, byte(u>>8), byte(u))
		}
		b.WriteString("&" + utf7Base64.EncodeToString(raw) + "-")
		shifted = shifted[:0]
	}
	for _, r := range s {
		if r < ' ' || r > '~' {
			shifted = append(shifted, r)
			continue
		}
		flush()
		if r == '&' {
			b.WriteString("&-")
			continue
		}
		b.WriteByte(byte(r))
	}
	flush()
	return b.String()
}

func plainUTF7(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' || s[i] == '&' {
			return false
		}
	}
	return true
}

// DecodeUTF7 turns modified UTF-7 into UTF-8. It accepts exactly what
// EncodeUTF7 can produce; everything else (octets outside printable ASCII,
// shifts that are not closed, that hold printable ASCII, lone surrogates, or
// follow each other) is ErrUTF7, because two forms of one name would be two
// mailboxes for some clients and one for others.
func DecodeUTF7(s string) (string, error) {
	if plainUTF7(s) {
		return s, nil
	}
	var b strings.Builder
	shiftEnd := false // the last thing was a shift with content
	for len(s) > 0 {
		c := s[0]
		if c < ' ' || c > '~' {
			return "", ErrUTF7
		}
		if c != '&' {
			b.WriteByte(c)
			s, shiftEnd = s[1:], false
			continue
		}
		end := strings.IndexByte(s, '-')
		if end < 0 {
			return "", ErrUTF7
		}
		if end == 1 {
			b.WriteByte('&')
			s, shiftEnd = s[2:], false
			continue
		}
		if shiftEnd || !appendShift(&b, s[1:end]) {
			return "", ErrUTF7
		}
		s, shiftEnd = s[end+1:], true
	}
	return b.String(), nil
}

// appendShift decodes what stands between "&" and "-".
func appendShift(b *strings.Builder, s string) bool {
	raw, err := utf7Base64.DecodeString(s)
	if err != nil || len(raw)%2 != 0 {
		return false
	}
	for i := 0; i < len(raw); i += 2 {
		r := rune(raw[i])<<8 | rune(raw[i+1])
		if utf16.IsSurrogate(r) {
			if i += 2; i >= len(raw) {
				return false
			}
			r = utf16.DecodeRune(r, rune(raw[i])<<8|rune(raw[i+1]))
			if r == utf8.RuneError {
				return false
			}
		}
		if r >= ' ' && r <= '~' {
			return false
		}
		b.WriteRune(r)
	}
	return true
}
