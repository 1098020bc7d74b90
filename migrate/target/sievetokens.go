package target

import (
	"bytes"
	"iter"
	"strings"
)

// sieveToken is a word, a sign or a string of a script.
type sieveToken struct {
	text   string
	quoted bool
}

// sieveTokens takes a script apart as far as its strings have to be found (RFC
// 5228, 8.1). One that is broken ends where it breaks.
func sieveTokens(s []byte) iter.Seq[sieveToken] {
	return func(yield func(sieveToken) bool) {
		for len(s) > 0 {
			var t sieveToken
			t, s = sieveNext(s)
			if (t.text != "" || t.quoted) && !yield(t) {
				return
			}
		}
	}
}

// sieveNext reads one token; an empty one is a comment or a blank.
func sieveNext(s []byte) (t sieveToken, rest []byte) {
	switch c := s[0]; {
	case c == '#':
		_, rest, _ = bytes.Cut(s, []byte("\n"))
		return t, rest
	case bytes.HasPrefix(s, []byte("/*")):
		_, rest, _ = bytes.Cut(s[2:], []byte("*/"))
		return t, rest
	case c == '"':
		return sieveQuoted(s[1:])
	case len(s) >= 5 && strings.EqualFold(string(s[:5]), "text:"):
		return sieveText(s[5:])
	case wordByte(c):
		n := 1
		for n < len(s) && wordByte(s[n]) {
			n++
		}
		return sieveToken{text: string(s[:n])}, s[n:]
	case c == ' ', c == '\t', c == '\r', c == '\n':
		return t, s[1:]
	}
	return sieveToken{text: string(s[:1])}, s[1:]
}

func wordByte(c byte) bool {
	return c == '_' || c == ':' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func sieveQuoted(s []byte) (sieveToken, []byte) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			return sieveToken{b.String(), true}, s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return sieveToken{}, nil
}

// sieveText reads a multi-line string behind "text:"; a comment may stand before
// the line's end.
func sieveText(s []byte) (sieveToken, []byte) {
	_, s, _ = bytes.Cut(s, []byte("\n"))
	var b strings.Builder
	for len(s) > 0 {
		line, rest, _ := bytes.Cut(s, []byte("\n"))
		s = rest
		if string(bytes.TrimRight(line, "\r")) == "." {
			return sieveToken{b.String(), true}, s
		}
		b.Write(bytes.TrimPrefix(line, []byte(".")))
		b.WriteByte('\n')
	}
	return sieveToken{}, nil
}
