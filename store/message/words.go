package message

import "strings"

// words reads the tokens of RFC 5322 section 3.2 and RFC 2045 section 5.1 from
// an unfolded field. The results more and atEnd say whether octets are left,
// broken that the token was not there.
type words struct {
	s       string
	i       int
	comment string // the last one
}

type state int

const (
	broken state = iota - 1
	atEnd
	more
)

func (w *words) peek() byte {
	if w.i < len(w.s) {
		return w.s[w.i]
	}
	return 0
}

func (w *words) left() state {
	if w.i < len(w.s) {
		return more
	}
	return atEnd
}

// isAText: atext, with every 8-bit octet.
func isAText(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		return true
	}
	return c != 0 && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// isTokenChar: a character of a MIME token.
func isTokenChar(c byte) bool {
	return c == '.' || isAText(c) && c != '/' && c != '=' && c != '?'
}

// skip moves over white space and comments.
func (w *words) skip() state {
	for w.i < len(w.s) {
		switch w.s[w.i] {
		case ' ', '\t', '\r', '\n':
			w.i++
			continue
		case '(':
			if w.skipComment() == broken {
				return broken
			}
			continue
		}
		return more
	}
	return atEnd
}

func (w *words) skipComment() state {
	var b strings.Builder
	level := 1
	for w.i++; w.i < len(w.s); w.i++ {
		switch c := w.s[w.i]; c {
		case '(':
			level++
			b.WriteByte(c)
		case ')':
			if level--; level == 0 {
				w.i++
				w.comment = b.String()
				return w.left()
			}
			b.WriteByte(c)
		case '\\':
			if w.i++; w.i >= len(w.s) {
				return broken
			}
			b.WriteByte(w.s[w.i])
		default:
			b.WriteByte(c)
		}
	}
	return broken
}

// run takes characters of a class and the white space behind them.
func (w *words) run(ok func(byte) bool) (string, state) {
	start := w.i
	for w.i < len(w.s) && ok(w.s[w.i]) {
		w.i++
	}
	return w.s[start:w.i], w.skip()
}

func (w *words) mimeToken() (string, state) { return w.run(isTokenChar) }
func (w *words) atom() (string, state)      { return w.run(isAText) }

// quoted takes a quoted string and the white space behind it.
func (w *words) quoted() (string, state) {
	var b strings.Builder
	for w.i++; w.i < len(w.s); w.i++ {
		switch c := w.s[w.i]; c {
		case '"':
			w.i++
			return b.String(), w.skip()
		case '\\':
			if w.i++; w.i >= len(w.s) {
				return "", broken
			}
			b.WriteByte(w.s[w.i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), broken
}

// dotAtom takes a dot-atom, or what is as good as one: dots may stand anywhere,
// white space in front of a dot, but not behind one. The text is what was read, even when it
// is broken.
func (w *words) dotAtom() (string, state) {
	var b strings.Builder
	for first := true; ; first = false {
		start := w.i
		for w.i < len(w.s) && isAText(w.s[w.i]) {
			w.i++
		}
		if c := w.peek(); w.i == start && !first && c != '.' && c != '@' {
			return b.String(), broken
		}
		b.WriteString(w.s[start:w.i])
		if r := w.skip(); r != more {
			return b.String(), r
		}
		if w.s[w.i] != '.' {
			return b.String(), more
		}
		w.i++
		b.WriteByte('.')
		if w.left() == atEnd {
			return b.String(), broken
		}
	}
}

// phrase takes words and joins them by single spaces.
func (w *words) phrase() (string, state) {
	if w.left() == atEnd {
		return "", atEnd
	}
	if w.peek() == '.' {
		return "", broken
	}
	var b strings.Builder
	for {
		var s string
		var r state
		if w.peek() == '"' {
			s, r = w.quoted()
		} else {
			s, r = w.run(func(c byte) bool { return c == '.' || isAText(c) })
		}
		b.WriteString(s)
		if r != more {
			return b.String(), r
		}
		if c := w.peek(); !isAText(c) && c != '"' && c != '.' {
			return b.String(), more
		}
		b.WriteByte(' ')
	}
}

// domain takes what follows an "@".
func (w *words) domain() (string, state) {
	w.i++
	if w.skip() != more {
		return "", broken
	}
	if w.peek() != '[' {
		return w.dotAtom()
	}
	start := w.i
	for ; w.i < len(w.s); w.i++ {
		switch w.s[w.i] {
		case '\\':
			w.i++
		case '[':
			if w.i > start {
				return "", broken
			}
		case ']':
			w.i++
			return w.s[start:w.i], w.skip()
		}
	}
	w.i = len(w.s)
	return "", broken
}
