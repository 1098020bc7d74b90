package mailtest

import (
	"errors"
	"strconv"
	"strings"
)

// reply is one response, taken apart as far as every response goes.
type reply struct {
	raw  string
	tag  string // "*", "+" or a tag
	num  uint32 // of "* 5 EXISTS"
	name string // upper case; a status for tagged ones
	rest string // after the name
}

func parseReply(raw string) (reply, error) {
	r := reply{raw: raw}
	var ok bool
	if raw == "+" {
		r.tag = "+"
		return r, nil
	}
	if r.tag, r.rest, ok = strings.Cut(raw, " "); !ok || r.tag == "" {
		return r, errors.New("no response")
	}
	if r.tag == "+" {
		return r, nil
	}
	word, rest, _ := strings.Cut(r.rest, " ")
	if n, err := strconv.ParseUint(word, 10, 32); err == nil && r.tag == "*" {
		r.num = uint32(n)
		word, rest, _ = strings.Cut(rest, " ")
	}
	r.name, r.rest = strings.ToUpper(word), rest
	if r.name == "" {
		return r, errors.New("response without a name")
	}
	return r, nil
}

// code is the response code of a status response: name and argument.
func (r reply) code() (name, arg string) {
	text, ok := strings.CutPrefix(r.rest, "[")
	if !ok {
		return "", ""
	}
	text, _, _ = strings.Cut(text, "]")
	name, arg, _ = strings.Cut(text, " ")
	return strings.ToUpper(name), arg
}

// value is an atom, a string or a list.
type value struct {
	s    string
	list []value
	kind byte // 'a' atom, 's' string, 'l' list
}

var errSyntax = errors.New("syntax")

// parseValues reads values up to the end of s.
func parseValues(s string) ([]value, error) {
	p := &parser{s: s}
	v, err := p.values(0)
	if err == nil && p.i != len(p.s) {
		err = errSyntax
	}
	return v, err
}

type parser struct {
	s string
	i int
}

// values reads values, separated by one space, up to a closing parenthesis or
// the end. Bodies' lists follow each other without a space.
func (p *parser) values(depth int) ([]value, error) {
	var out []value
	if depth > 60 {
		return nil, errSyntax
	}
	for p.i < len(p.s) && p.s[p.i] != ')' {
		if p.s[p.i] == ' ' {
			if len(out) == 0 {
				return out, errSyntax
			}
			p.i++
		}
		v, err := p.value(depth)
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (p *parser) value(depth int) (value, error) {
	if p.i >= len(p.s) {
		return value{}, errSyntax
	}
	switch p.s[p.i] {
	case '(':
		p.i++
		l, err := p.values(depth + 1)
		if err != nil || p.i >= len(p.s) {
			return value{}, errSyntax
		}
		p.i++
		return value{list: l, kind: 'l'}, nil
	case '"':
		return p.quoted()
	case '{', '~':
		return p.literal()
	}
	return p.atom()
}

func (p *parser) quoted() (value, error) {
	var b strings.Builder
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '"':
			p.i++
			return value{s: b.String(), kind: 's'}, nil
		case '\\':
			p.i++
			if p.i >= len(p.s) {
				return value{}, errSyntax
			}
		case '\r', '\n':
			return value{}, errSyntax
		}
		b.WriteByte(p.s[p.i])
	}
	return value{}, errSyntax
}

func (p *parser) literal() (value, error) {
	if p.s[p.i] == '~' {
		p.i++
	}
	end := strings.Index(p.s[p.i:], "}\r\n")
	if end < 1 {
		return value{}, errSyntax
	}
	n, err := strconv.Atoi(p.s[p.i+1 : p.i+end])
	p.i += end + 3
	if err != nil || n < 0 || p.i+n > len(p.s) {
		return value{}, errSyntax
	}
	v := value{s: p.s[p.i : p.i+n], kind: 's'}
	p.i += n
	return v, nil
}

// atom reads an atom; within brackets, as in BODY[HEADER.FIELDS (DATE)],
// spaces and parentheses belong to it.
func (p *parser) atom() (value, error) {
	start, open := p.i, 0
	for ; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '[':
			open++
		case c == ']':
			open--
		case open > 0 && c >= ' ':
		case c <= ' ' || c == '(' || c == ')' || c == '"' || c >= 0x7f:
			if p.i == start {
				return value{}, errSyntax
			}
			return value{s: p.s[start:p.i], kind: 'a'}, nil
		}
	}
	return value{s: p.s[start:], kind: 'a'}, nil
}

// fetchData is what a FETCH response says, as far as the checker looks at it.
type fetchData struct {
	uid       uint32
	hasFlags  bool
	flags     []string
	body      string // of BODY[]
	hasBody   bool
	header    string // of BODY[HEADER...]
	hasHeader bool
}

func parseFetch(rest string) (fetchData, error) {
	var f fetchData
	v, err := parseValues(rest)
	if err != nil || len(v) != 1 || v[0].kind != 'l' || len(v[0].list)%2 != 0 {
		return f, errSyntax
	}
	l := v[0].list
	for i := 0; i < len(l); i += 2 {
		switch name := strings.ToUpper(l[i].s); {
		case name == "UID":
			n, err := strconv.ParseUint(l[i+1].s, 10, 32)
			if err != nil || n == 0 {
				return f, errSyntax
			}
			f.uid = uint32(n)
		case name == "FLAGS":
			f.hasFlags = true
			for _, x := range l[i+1].list {
				f.flags = append(f.flags, x.s)
			}
		case name == "BODY[]":
			if f.hasBody = l[i+1].kind == 's'; f.hasBody {
				f.body = l[i+1].s
			}
		case strings.HasPrefix(name, "BODY[HEADER"):
			if f.hasHeader = l[i+1].kind == 's'; f.hasHeader {
				f.header = l[i+1].s
			}
		}
	}
	return f, nil
}

// parseSet expands a UID set such as 3,7:9.
func parseSet(s string) ([]uint32, error) {
	var out []uint32
	for part := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(part, ":")
		if !ok {
			b = a
		}
		lo, err1 := strconv.ParseUint(a, 10, 32)
		hi, err2 := strconv.ParseUint(b, 10, 32)
		if lo > hi {
			lo, hi = hi, lo
		}
		if err1 != nil || err2 != nil || lo == 0 || hi-lo > 1<<20 {
			return nil, errSyntax
		}
		for n := lo; n <= hi; n++ {
			out = append(out, uint32(n))
		}
	}
	return out, nil
}
