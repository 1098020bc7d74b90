package perdition

import "strings"

// maxToken is how many bytes of a key or value the library keeps.
const maxToken = 4096 - 3

// token is a key or a value of a file. end stands between lines of a map.
type token struct {
	text string
	key  bool
	end  bool
}

// scanner reads the files of Perdition as libvanessa_adt does, whose rules are
// of the making of shells and have corners: state by state, because people's
// files depend on the corners.
type scanner struct {
	multi bool // a map: values are separated by white space

	out         []token
	buf         []byte
	lastEscaped int
	escape      bool
	comment     bool
	value       bool
	key         bool
	addedKey    bool
	single      bool
	double      bool
}

// scan returns the tokens of a file; with multi those of a map, with an end
// after each line.
func scan(text string, multi bool) []token {
	s := &scanner{multi: multi, key: true}
	for i := 0; i < len(text); i++ {
		s.char(text[i])
	}
	return s.out
}

// unfinished reports whether a file ends in a line without its end, the last
// value of which Perdition never sees.
func unfinished(text string) bool {
	last := text[strings.LastIndexByte(text, '\n')+1:]
	last = strings.TrimSpace(last)
	return last != "" && last[0] != '#'
}

func (s *scanner) quoted() bool { return s.single || s.double }

func (s *scanner) char(c byte) {
	skip := false
	switch c {
	case ' ', '\t':
		if s.multi {
			s.endValue()
		}
		s.endKey()
		if s.escape {
			s.beginValue()
		}
		s.endEscape()
	case '\n', '\r':
		s.endKey()
		if !s.escape {
			s.comment = false
		}
		s.endValue()
		s.beginKey()
		s.endEscape()
	case '\\':
		if s.escape || s.single {
			s.endEscape()
		} else {
			s.escape = true
		}
		s.beginValue()
	case '#':
		if !s.escape && !s.quoted() {
			s.comment = true
		}
		s.endKey()
		s.endValue()
		s.beginValue()
		s.endEscape()
	case '"':
		s.beginValue()
		skip = s.quote(&s.double, s.single)
		s.endEscape()
	case '\'':
		s.beginValue()
		skip = s.quote(&s.single, s.double)
		s.endEscape()
	default:
		s.beginValue()
		s.endEscape()
	}
	if (s.key || s.value) && c != '\n' && c != '\r' && !s.escape && !skip && len(s.buf) < maxToken {
		s.buf = append(s.buf, c)
	}
}

// quote opens or closes a quotation; skip is whether the mark is dropped.
func (s *scanner) quote(mine *bool, other bool) (skip bool) {
	switch {
	case s.escape || s.comment:
		return false
	case *mine:
		*mine = false
		s.lastEscaped = len(s.buf)
		return true
	case !other:
		*mine = true
		return true
	}
	return false
}

func (s *scanner) beginKey() {
	s.lastEscaped = 0
	if s.escape || s.comment || s.quoted() {
		return
	}
	if s.addedKey && s.multi {
		s.out = append(s.out, token{end: true})
	}
	s.key, s.addedKey = true, false
}

func (s *scanner) endKey() {
	if s.escape || !s.key || s.quoted() {
		return
	}
	if len(s.buf) > 0 {
		s.add(true)
		s.addedKey = true
	}
	s.buf, s.key = s.buf[:0], false
}

func (s *scanner) beginValue() {
	s.lastEscaped = 0
	if !s.key && !s.comment && !s.quoted() {
		s.value = true
	}
}

func (s *scanner) endValue() {
	if s.escape || !s.value || s.quoted() {
		return
	}
	s.add(false)
	s.buf, s.value = s.buf[:0], false
}

func (s *scanner) endEscape() {
	if s.escape {
		s.escape = false
		s.lastEscaped = len(s.buf) + 1
	}
}

// add ends a token: white space at its end goes, unless it was escaped.
func (s *scanner) add(key bool) {
	keep := min(s.lastEscaped, len(s.buf))
	s.out = append(s.out, token{text: string(s.buf[:keep]) + strings.TrimRight(string(s.buf[keep:]), " \t"), key: key})
}

// dashed are the words of a configuration file as a command line has them: the
// library writes the dashes before keys.
func dashed(text string) []string {
	var out []string
	for _, t := range scan(text, false) {
		switch {
		case t.key && len(t.text) == 1:
			out = append(out, "-"+t.text)
		case t.key:
			out = append(out, "--"+t.text)
		default:
			out = append(out, t.text)
		}
	}
	return out
}
