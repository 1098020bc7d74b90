package message

import (
	"bytes"
	"strings"
)

// headerLine handles one line of a header. A line without a colon belongs to
// no field; only an empty line ends the header.
func (p *Parser) headerLine(l []byte) {
	if len(l) == 0 {
		p.endField()
		p.endHeader(p.off+p.lineLen, p.lf+1, true)
		return
	}
	if l[0] == ' ' || l[0] == '\t' {
		if p.field.want {
			p.field.append(l)
		}
		return
	}
	p.endField()
	i := bytes.IndexByte(l, ':')
	if i < 0 {
		return
	}
	name := strings.ToLower(string(bytes.TrimRight(l[:min(i, 64)], " \t")))
	if !p.wanted(name) {
		return
	}
	p.field = field{name: name, want: true, value: p.field.value[:0]}
	p.field.append(bytes.TrimLeft(l[i+1:], " \t"))
}

func (f *field) append(b []byte) {
	f.value = append(f.value, b[:min(len(b), maxField-len(f.value))]...)
}

// wanted reports whether a field (in lower case) is kept.
func (p *Parser) wanted(name string) bool {
	if p.kept > maxKept {
		return false
	}
	switch name {
	case "content-type", "content-id", "content-description", "content-transfer-encoding", "content-md5",
		"content-disposition", "content-language", "content-location", "mime-version":
		return true
	case "date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id":
		return p.cur.Envelope != nil
	}
	return false
}

// endField hands the collected field over.
func (p *Parser) endField() {
	if !p.field.want {
		return
	}
	p.field.want = false
	v := string(p.field.value)
	p.kept += len(v)
	if p.cur.setMIME(p.field.name, v) || p.cur.Envelope == nil {
		return
	}
	p.cur.Envelope.set(p.field.name, v)
}

// setMIME sets a MIME field; the first of several counts.
func (o *open) setMIME(name, v string) bool {
	first := func(t *Text) {
		if !t.Set {
			*t = text(v)
		}
	}
	switch name {
	case "mime-version":
		o.mime = true
	case "content-type":
		o.mime = true
		o.contentType(v)
	case "content-id":
		first(&o.ID)
	case "content-description":
		first(&o.Description)
	case "content-md5":
		first(&o.MD5)
	case "content-location":
		first(&o.Location)
	case "content-transfer-encoding":
		if w := (&words{s: v}); !o.Encoding.Set {
			w.skip()
			if enc, r := w.mimeToken(); r == atEnd && enc != "" {
				o.Encoding = text(enc)
			}
		}
	case "content-disposition":
		o.contentDisposition(v)
	case "content-language":
		o.contentLanguage(v)
	default:
		return false
	}
	return true
}

// contentType parses a Content-Type. A broken one leaves a part without type.
func (o *open) contentType(v string) {
	if o.typed {
		return
	}
	o.typed = true
	w := &words{s: v}
	if w.skip() != more {
		return
	}
	typ, r := w.mimeToken()
	if r == more && w.peek() == '/' {
		w.i++
		if w.skip() != more {
			return
		}
		o.Subtype, r = w.mimeToken()
		if r == broken || r == more && w.peek() != ';' {
			typ = "" // "TEXT/PLAIN charset=US-ASCII"
		}
	} else {
		r = broken
	}
	if typ == "" {
		o.Subtype = ""
		return
	}
	o.Type = typ
	switch main := strings.ToLower(typ); {
	case main == "message" && equalFold(o.Subtype, "rfc822"):
		o.Kind = Embedded
	case main == "text":
		o.Kind = TextLeaf
	case main == "multipart":
		o.Kind = Multipart
	}
	if r == broken {
		return
	}
	o.Params = w.params()
	if o.Kind == Multipart {
		for _, q := range o.Params {
			if equalFold(q.Name, "boundary") {
				o.boundary = q.Value[:min(len(q.Value), maxBoundary)]
				break
			}
		}
	}
}

func (o *open) contentDisposition(v string) {
	w := &words{s: v}
	w.skip()
	d, r := w.mimeToken()
	if r == broken {
		return
	}
	o.Disposition = text(d) // the last one counts
	o.DispositionParams = w.params()
}

func (o *open) contentLanguage(v string) {
	if o.Language != nil {
		return
	}
	w := &words{s: v}
	w.skip()
	for {
		l, r := w.atom()
		if r == broken || l == "" {
			return
		}
		o.Language = append(o.Language, l)
		if r == atEnd || w.peek() != ',' {
			return
		}
		w.i++
		if w.skip() != more {
			return
		}
	}
}

// endHeader ends the header at an offset that has lf line feeds before it, and
// decides what the body is. Without more nothing can follow (the message or the
// parent's part is over).
func (p *Parser) endHeader(at, lf int64, more bool) {
	o := p.cur
	o.Header.End, o.Body.Start = at, at
	o.HeaderLines, o.lf = lf-o.lf, lf
	p.inHeader = false
	p.decideKind(o)
	switch {
	case o.Kind == Multipart && more && o.boundary != "":
		o.deep = true
		p.depth++
		p.bound = append(p.bound, boundary{text: []byte(o.boundary), of: o})
	case o.Kind == Embedded:
		child := &Part{Envelope: &Envelope{}}
		o.Children = []*Part{child}
		if !more {
			child.Header, child.Body, child.Kind = Range{at, at}, Range{at, at}, TextLeaf
			return
		}
		o.deep = true
		p.depth++
		p.begin(child, o)
		p.cur.Header.Start, p.cur.lf = at, lf
	}
}

// decideKind settles what the fields together mean.
func (p *Parser) decideKind(o *open) {
	if !o.mime && o.Envelope != nil {
		// Neither Mime-Version nor Content-Type: not a MIME message.
		o.ID, o.Description, o.MD5, o.Encoding, o.Location, o.Disposition = Text{}, Text{}, Text{}, Text{}, Text{}, Text{}
		o.DispositionParams, o.Language = nil, nil
	}
	full := p.depth >= maxNesting || p.parts >= maxParts
	if full && o.Kind == Multipart {
		o.boundary = ""
	} else if full && o.Kind == Embedded {
		o.Kind = Leaf
	}
	if !o.typed {
		o.Kind = TextLeaf
		if o.parent != nil && o.parent.Kind == Multipart && equalFold(o.parent.Subtype, "digest") && !full {
			o.Kind = Embedded // RFC 2046 section 5.1.5
		}
	}
}

func (e *Envelope) set(name, v string) {
	switch name {
	case "date":
		e.Date = text(v)
	case "subject":
		e.Subject = text(v)
	case "in-reply-to":
		e.InReplyTo = text(v)
	case "message-id":
		e.MessageID = text(v)
	case "from":
		e.From = append(e.From, ParseAddresses(v)...)
	case "sender":
		e.Sender = append(e.Sender, ParseAddresses(v)...)
	case "reply-to":
		e.ReplyTo = append(e.ReplyTo, ParseAddresses(v)...)
	case "to":
		e.To = append(e.To, ParseAddresses(v)...)
	case "cc":
		e.Cc = append(e.Cc, ParseAddresses(v)...)
	case "bcc":
		e.Bcc = append(e.Bcc, ParseAddresses(v)...)
	}
}

func equalFold(a, b string) bool { return strings.EqualFold(a, b) }
