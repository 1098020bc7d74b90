package remote

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// utf7 is the base64 of modified UTF-7 (RFC 3501 5.1.3).
var utf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

// DecodeName makes UTF-8 of a mailbox name as it is on the wire. Names that are
// not valid modified UTF-7 are taken as they are meant: raw UTF-8 as such, other
// octets as Latin-1, a lone "&" as itself. ok is false for those.
func DecodeName(raw string) (name string, ok bool) {
	if s, ok := decodeUTF7(raw); ok {
		return s, true
	}
	if utf8.ValidString(raw) {
		return raw, false
	}
	runes := make([]rune, 0, len(raw))
	for i := range len(raw) {
		runes = append(runes, rune(raw[i]))
	}
	return string(runes), false
}

func decodeUTF7(raw string) (string, bool) {
	var b strings.Builder
	for len(raw) > 0 {
		c := raw[0]
		if c >= 0x80 {
			return "", false
		}
		if c != '&' {
			b.WriteByte(c)
			raw = raw[1:]
			continue
		}
		end := strings.IndexByte(raw, '-')
		if end < 0 {
			return "", false
		}
		if end == 1 {
			b.WriteByte('&')
		} else if s, ok := decodeShift(raw[1:end]); ok {
			b.WriteString(s)
		} else {
			return "", false
		}
		raw = raw[end+1:]
	}
	return b.String(), true
}

// decodeShift decodes the base64 between "&" and "-".
func decodeShift(s string) (string, bool) {
	data, err := utf7.DecodeString(s)
	if err != nil || len(data)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = uint16(data[2*i])<<8 | uint16(data[2*i+1])
	}
	runes := utf16.Decode(units)
	for _, r := range runes {
		if r == utf8.RuneError {
			return "", false
		}
	}
	return string(runes), true
}

// EncodeName is modified UTF-7 of a name in UTF-8.
func EncodeName(name string) string {
	var b strings.Builder
	var shift []rune
	flush := func() {
		if len(shift) == 0 {
			return
		}
		units := utf16.Encode(shift)
		data := make([]byte, 0, 2*len(units))
		for _, u := range units {
			data = append(data, byte(u>>8), byte(u))
		}
		b.WriteString("&" + utf7.EncodeToString(data) + "-")
		shift = shift[:0]
	}
	for _, r := range name {
		if r < 0x20 || r > 0x7e {
			shift = append(shift, r)
			continue
		}
		flush()
		if r == '&' {
			b.WriteString("&-")
		} else {
			b.WriteRune(r)
		}
	}
	flush()
	return b.String()
}
