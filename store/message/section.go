package message

import (
	"bytes"
	"io"
)

// Specifier names what of a part a section means (RFC 9051 section 6.4.5).
type Specifier uint8

// The specifiers: SectionAll is BODY[] or BODY[1.2], the others are named as in the RFC.
const (
	SectionAll Specifier = iota
	SectionHeader
	SectionText
	SectionMIME
	SectionFields
	SectionFieldsNot
)

// Section is the text between the brackets of BODY[...].
type Section struct {
	Path      []int
	Specifier Specifier
	Names     []string // of SectionFields and SectionFieldsNot
}

// Find returns the octets that a section stands for; for SectionFields and SectionFieldsNot
// those of the header to be filtered. ok is false when the message has no such
// part.
func (m *Message) Find(s Section) (r Range, ok bool) {
	if len(s.Path) == 0 {
		switch s.Specifier {
		case SectionAll:
			return Range{0, m.Size}, true
		case SectionText:
			return m.Body, true
		}
		return m.Part.Header, true
	}
	p := m.at(s.Path)
	if p == nil {
		return Range{}, false
	}
	switch s.Specifier {
	case SectionAll:
		return p.Body, true
	case SectionMIME:
		return p.Header, true
	}
	if p.Kind != Embedded {
		return Range{}, false
	}
	if p = p.Children[0]; s.Specifier == SectionText {
		return p.Body, true
	}
	return p.Header, true
}

// At returns the part with this number, nil when there is none.
func (m *Message) At(path []int) *Part { return m.at(path) }

// at walks: the parts of a multipart are counted; anything else has just part
// 1, itself; a message within a part is walked like a message.
func (m *Message) at(path []int) *Part {
	p := &m.Part
	for i, n := range path {
		if p.Kind == Embedded && i > 0 {
			p = p.Children[0]
		}
		switch {
		case p.Kind == Multipart:
			if n < 1 || n > len(p.Children) {
				return nil
			}
			p = p.Children[n-1]
		case n != 1 || p == &m.Part && i > 0:
			return nil
		}
	}
	return p
}

// fieldFilter passes the fields of a header that are named, or those that are
// not, and the empty line at the end.
type fieldFilter struct {
	w     io.Writer
	names []string
	not   bool
	line  []byte // an incomplete line's start, until its name is known
	pass  bool   // the present field passes
	known bool   // the present line's fate is known
	ended bool   // the empty line was seen
	last  byte   // written
	n     int64
}

// maxName bounds the octets looked at for a field's name.
const maxName = 1000

// FilterFields copies the fields of a header that are named to w, followed by
// an empty line, as BODY[HEADER.FIELDS (...)] has it; with not, the others, and
// the empty line if the header has one.
// Names are compared without case. It returns the number of octets.
func FilterFields(w io.Writer, header io.Reader, names []string, not bool) (int64, error) {
	f := &fieldFilter{w: w, names: names, not: not, pass: not, last: '\n'}
	if _, err := io.Copy(f, header); err != nil {
		return f.n, err
	}
	if err := f.settle(); err != nil {
		return f.n, err
	}
	if not && !f.ended {
		return f.n, nil
	}
	if f.last != '\n' {
		if err := f.out([]byte("\r\n")); err != nil {
			return f.n, err
		}
	}
	return f.n, f.out([]byte("\r\n"))
}

func (f *fieldFilter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n') + 1
		end := i > 0
		if !end {
			i = len(b)
		}
		if err := f.part(b[:i], end); err != nil {
			return 0, err
		}
		b = b[i:]
	}
	return total, nil
}

// part takes octets of one line.
func (f *fieldFilter) part(b []byte, end bool) error {
	if f.known {
		if f.pass {
			if err := f.out(b); err != nil {
				return err
			}
		}
	} else {
		f.line = append(f.line, b...)
		if end || len(f.line) > maxName || bytes.IndexByte(b, ':') >= 0 {
			if err := f.settle(); err != nil {
				return err
			}
		}
	}
	if end {
		f.known = false
	}
	return nil
}

// settle decides about the line that begins with f.line.
func (f *fieldFilter) settle() error {
	l := f.line
	f.line, f.known = f.line[:0], true
	if len(l) == 0 {
		return nil
	}
	if empty := bytes.TrimRight(l, "\r\n"); len(empty) == 0 {
		f.pass, f.ended = false, true // FilterFields writes its own
		return nil
	}
	if l[0] != ' ' && l[0] != '\t' {
		f.pass = f.wants(l)
	}
	if !f.pass {
		return nil
	}
	return f.out(l)
}

func (f *fieldFilter) wants(l []byte) bool {
	i := bytes.IndexByte(l, ':')
	if i < 0 {
		i = len(l) // a line without colon is a field without name
	}
	name := bytes.TrimRight(l[:i], " \t")
	for _, n := range f.names {
		if bytes.EqualFold(name, []byte(n)) {
			return !f.not
		}
	}
	return f.not
}

func (f *fieldFilter) out(b []byte) error {
	n, err := f.w.Write(b)
	f.n += int64(n)
	if n > 0 {
		f.last = b[n-1]
	}
	return err
}
