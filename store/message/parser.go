package message

import (
	"bytes"
	"io"
	"sync"
)

// Bounds on what a message can make the parser hold.
const (
	maxParts    = 10000               // in one message; further boundaries are text
	maxNesting  = 100                 // of multiparts and messages within each other
	maxField    = 64 << 10            // octets kept of one field
	maxKept     = 1 << 20             // octets of fields kept for one message
	maxBoundary = 80                  // octets compared of a boundary, as Dovecot does
	maxBodyLine = 2 + maxBoundary + 8 // octets looked at of a body's line
)

// Parser finds the structure of the octets written to it. It is an io.Writer
// that never fails, so that it can listen while a message is received.
type Parser struct {
	msg   *Message
	cur   *open
	bound []boundary // innermost last
	parts int
	depth int
	kept  int

	off     int64 // of the present line
	lineLen int64 // octets of the present line so far
	line    []byte
	lf      int64 // line feeds before the present line
	prevNL  int64 // octets of the line break before the present line

	inHeader     bool
	boundaryLine bool // the present line is one
	field        field
}

// open is a part that has not ended.
type open struct {
	*Part
	parent *open
	lf     int64 // line feeds before the body (before the header, within it)
	typed  bool  // a Content-Type was seen
	mime   bool  // MIME fields count: a MIME part, or Mime-Version or Content-Type was seen
	deep   bool  // counted in Parser.depth
	// boundary is the parameter; empty: none.
	boundary string
}

// boundary is the delimiter of an open multipart.
type boundary struct {
	text []byte
	of   *open
}

// field is the header field that is being read.
type field struct {
	name  string
	value []byte
	want  bool
}

// NewParser returns a Parser at the start of a message.
func NewParser() *Parser {
	p := &Parser{msg: &Message{}}
	p.begin(&p.msg.Part, nil)
	p.cur.Envelope = &Envelope{}
	return p
}

// Parse reads a message to its end. The error is the reader's.
func Parse(r io.Reader) (*Message, error) {
	p := NewParser()
	_, err := p.ReadFrom(r)
	return p.Finish(), err
}

// chunks are the buffers of ReadFrom.
var chunks = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// ReadFrom takes octets from r to its end.
func (p *Parser) ReadFrom(r io.Reader) (total int64, err error) {
	b := chunks.Get().(*[16 << 10]byte)
	defer chunks.Put(b)
	for {
		n, err := r.Read(b[:])
		p.Write(b[:n])
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// begin opens a part whose header starts here.
func (p *Parser) begin(part *Part, parent *open) {
	p.cur = &open{Part: part, parent: parent, lf: p.lf}
	part.Header.Start = p.off
	p.inHeader = true
	p.prevNL = 0
	p.parts++
}

// Write takes the next octets. It returns len(b), nil.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if k := p.skipBody(b); k > 0 {
			b = b[k:]
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.keep(b)
			break
		}
		if len(p.line) == 0 && p.lineLen == 0 {
			p.lineLen = int64(i + 1)
			p.endLine(b[:i])
		} else {
			p.keep(b[:i])
			p.lineLen++
			p.endLine(p.line)
		}
		b = b[i+1:]
	}
	return n, nil
}

// skipBody passes over the whole lines at the start of b that are a body's text
// and cannot be boundaries, and returns their length. Most of a message is such.
func (p *Parser) skipBody(b []byte) int {
	if p.inHeader || p.lineLen > 0 || len(p.bound) > 0 && b[0] == '-' {
		return 0
	}
	i := -1
	if len(p.bound) > 0 {
		i = bytes.Index(b, []byte("\n-"))
	}
	if i < 0 {
		i = bytes.LastIndexByte(b, '\n')
	}
	if i < 0 {
		return 0
	}
	p.lf += int64(bytes.Count(b[:i+1], []byte("\n")))
	p.off += int64(i + 1)
	p.prevNL = 1
	if i > 0 && b[i-1] == '\r' {
		p.prevNL = 2
	}
	return i + 1
}

// keep collects a line that is not complete, as far as it is looked at.
func (p *Parser) keep(b []byte) {
	limit := maxBodyLine
	if p.inHeader {
		limit = maxField
	}
	p.lineLen += int64(len(b))
	room := max(0, limit-len(p.line))
	if len(b) > room {
		// The last octet is kept: it may be the CR of the line's end.
		last := b[len(b)-1]
		p.line = append(p.line, b[:room]...)
		if last == '\r' && len(p.line) > 0 {
			p.line[len(p.line)-1] = '\r'
		}
		return
	}
	p.line = append(p.line, b...)
}

// endLine handles a line, whose octets come without the line feed.
func (p *Parser) endLine(l []byte) {
	nl := int64(1)
	if n := len(l); n > 0 && l[n-1] == '\r' {
		l = l[:n-1]
		nl = 2
	}
	p.handle(l)
	p.off += p.lineLen
	p.lf++
	p.prevNL = nl
	if p.boundaryLine {
		p.prevNL, p.boundaryLine = 0, false // its line break is its own
	}
	p.lineLen = 0
	p.line = p.line[:0]
}

// handle decides what a line is.
func (p *Parser) handle(l []byte) {
	if len(l) > 2 && l[0] == '-' && l[1] == '-' && len(p.bound) > 0 {
		if i, final := p.findBoundary(l[2:]); i >= 0 {
			p.atBoundary(i, final)
			return
		}
	}
	if p.inHeader {
		p.headerLine(l)
	}
}

// findBoundary returns the index of the boundary that a line (without its
// dashes) shows: of those that the line begins with the longest one, among
// equals the innermost, as nested parts may reuse one. -1: none.
func (p *Parser) findBoundary(l []byte) (best int, final bool) {
	best = -1
	for i := len(p.bound) - 1; i >= 0; i-- {
		b := p.bound[i].text
		if !bytes.HasPrefix(l, b) || best >= 0 && len(b) <= len(p.bound[best].text) {
			continue
		}
		best = i
		if len(l) == len(b) || string(l[len(b):]) == "--" {
			break
		}
	}
	if best < 0 {
		return -1, false
	}
	return best, bytes.HasPrefix(l[len(p.bound[best].text):], []byte("--"))
}

// atBoundary ends what is open within the multipart of boundary i, and begins
// its next part unless the boundary is the final one.
func (p *Parser) atBoundary(i int, final bool) {
	b := p.bound[i]
	at := p.off - p.prevNL
	if p.inHeader {
		// The header ends without an empty line, its last line break belongs
		// to the boundary.
		p.endField()
		start := max(at, p.cur.Header.Start)
		p.endHeader(start, p.lf, false)
		p.end(p.cur, start)
		p.cur = p.cur.parent
		if start == at {
			at = p.off
		}
	}
	for p.cur != b.of {
		if p.end(p.cur, at) {
			at = p.off
		}
		p.cur = p.cur.parent
	}
	p.inHeader, p.boundaryLine = false, true
	if final {
		p.bound = p.bound[:i]
		return
	}
	p.bound = p.bound[:i+1]
	if p.parts >= maxParts {
		return
	}
	child := &Part{}
	b.of.Children = append(b.of.Children, child)
	p.begin(child, b.of)
	p.cur.Header.Start = p.off + p.lineLen
	p.cur.lf = p.lf + 1
}

// end closes a part's body at offset at: the start of the present line or the
// line break in front of it. When the body is empty, that is the one which
// ended the header (took is true): it belongs to the boundary then, yet to the
// body of a message/rfc822 around it too.
func (p *Parser) end(o *open, at int64) (took bool) {
	o.Lines = p.lf - o.lf
	switch {
	case at < o.Body.Start && at >= o.Header.Start:
		o.Header.End, o.Body.Start = at, at
		o.HeaderLines--
		took = true
		if o.Kind == Embedded {
			c := o.Children[0] // empty
			c.Header, c.Body, c.HeaderLines, c.Lines = Range{at, at}, Range{at, at}, 0, 0
		}
	case at < p.off && o.Lines > 0:
		o.Lines--
	}
	o.Body.End = at
	if o.deep {
		p.depth--
	}
	return took
}

// Finish ends the message and returns its structure. Nothing may be written
// afterwards.
func (p *Parser) Finish() *Message {
	if p.lineLen > 0 {
		p.handle(p.line)
		p.off += p.lineLen
		p.cur.lf = min(p.cur.lf, p.lf) // there was no line feed
	}
	if p.inHeader {
		p.endField()
		p.endHeader(p.off, p.lf, false)
	}
	for o := p.cur; o != nil; o = o.parent {
		o.Body.End = p.off
		o.Lines = p.lf - o.lf
	}
	p.msg.Size = p.off
	return p.msg
}
