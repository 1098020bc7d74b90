package message

import (
	"encoding/binary"
	"errors"
)

// ErrBlob: a blob is not one that this version has written. The message has
// to be parsed again.
var ErrBlob = errors.New("message: unknown structure blob")

// blobVersion changes whenever the parser answers differently.
const blobVersion = 1

// MarshalBinary returns a compact form of m for a cache.
func (m *Message) MarshalBinary() ([]byte, error) {
	w := blobWriter{blobVersion}
	w.number(m.Size)
	w.part(&m.Part)
	return w, nil
}

// UnmarshalBinary reads what MarshalBinary wrote, or returns ErrBlob.
func (m *Message) UnmarshalBinary(b []byte) error {
	r := &blobReader{b: b}
	if len(b) == 0 || b[0] != blobVersion {
		return ErrBlob
	}
	r.b = b[1:]
	m.Size = r.number()
	r.part(&m.Part, 0)
	if r.bad || len(r.b) != 0 {
		return ErrBlob
	}
	return nil
}

type blobWriter []byte

func (w *blobWriter) number(n int64)  { *w = binary.AppendUvarint(*w, uint64(n)) }
func (w *blobWriter) string(s string) { w.number(int64(len(s))); *w = append(*w, s...) }

func (w *blobWriter) text(t Text) {
	if !t.Set {
		w.number(0)
		return
	}
	w.number(int64(len(t.Value)) + 1)
	*w = append(*w, t.Value...)
}

func (w *blobWriter) params(p []Param) {
	w.number(int64(len(p)))
	for _, q := range p {
		w.string(q.Name)
		w.string(q.Value)
	}
}

func (w *blobWriter) addresses(list []Address) {
	w.number(int64(len(list)))
	for _, a := range list {
		w.text(a.Name)
		w.text(a.Route)
		w.text(a.Mailbox)
		w.text(a.Host)
	}
}

// hasEnvelope and hasFields mark what follows, in the octet that holds the kind.
const (
	hasEnvelope = 1 << 4
	hasFields   = 1 << 5
)

func (w *blobWriter) part(p *Part) {
	kind := byte(p.Kind)
	if p.Envelope != nil {
		kind |= hasEnvelope
	}
	rare := []Text{p.ID, p.Description, p.MD5, p.Location, p.Disposition}
	for _, t := range rare {
		if t.Set {
			kind |= hasFields
		}
	}
	if p.Language != nil || p.DispositionParams != nil {
		kind |= hasFields
	}
	*w = append(*w, kind)
	w.number(p.Header.Start)
	w.number(p.Header.Len())
	w.number(p.Body.Len())
	w.number(p.HeaderLines)
	w.number(p.Lines)
	w.string(p.Type)
	w.string(p.Subtype)
	w.params(p.Params)
	w.text(p.Encoding)
	if kind&hasFields != 0 {
		for _, t := range rare {
			w.text(t)
		}
		w.params(p.DispositionParams)
		w.number(int64(len(p.Language)))
		for _, l := range p.Language {
			w.string(l)
		}
	}
	if e := p.Envelope; e != nil {
		for _, t := range []Text{e.Date, e.Subject, e.InReplyTo, e.MessageID} {
			w.text(t)
		}
		for _, l := range [][]Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
			w.addresses(l)
		}
	}
	w.number(int64(len(p.Children)))
	for _, c := range p.Children {
		w.part(c)
	}
}

type blobReader struct {
	b   []byte
	bad bool
}

func (r *blobReader) number() int64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 || n > 1<<62 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return int64(n)
}

// count is a number of things of which each takes an octet at least.
func (r *blobReader) count() int {
	n := r.number()
	if n > int64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *blobReader) octets(n int) string {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *blobReader) string() string { return r.octets(r.count()) }

func (r *blobReader) text() Text {
	n := r.number()
	if n == 0 || n-1 > int64(len(r.b)) {
		r.bad = r.bad || n != 0
		return Text{}
	}
	return text(r.octets(int(n - 1)))
}

func (r *blobReader) params() (out []Param) {
	for range r.count() {
		out = append(out, Param{r.string(), r.string()})
	}
	return out
}

func (r *blobReader) addresses() (out []Address) {
	for range r.count() {
		out = append(out, Address{r.text(), r.text(), r.text(), r.text()})
	}
	return out
}

func (r *blobReader) part(p *Part, depth int) {
	if depth > 2*maxNesting+2 || len(r.b) == 0 {
		r.bad, r.b = true, nil
		return
	}
	kind := r.b[0]
	r.b = r.b[1:]
	p.Kind = Kind(kind & 3)
	p.Header.Start = r.number()
	p.Header.End = p.Header.Start + r.number()
	p.Body.Start = p.Header.End
	p.Body.End = p.Body.Start + r.number()
	p.HeaderLines, p.Lines = r.number(), r.number()
	p.Type, p.Subtype = r.string(), r.string()
	p.Params = r.params()
	p.Encoding = r.text()
	if kind&hasFields != 0 {
		for _, t := range []*Text{&p.ID, &p.Description, &p.MD5, &p.Location, &p.Disposition} {
			*t = r.text()
		}
		p.DispositionParams = r.params()
		for range r.count() {
			p.Language = append(p.Language, r.string())
		}
	}
	if kind&hasEnvelope != 0 {
		p.Envelope = r.envelope()
	}
	for range r.count() {
		c := &Part{}
		r.part(c, depth+1)
		p.Children = append(p.Children, c)
	}
	if p.Kind == Embedded && len(p.Children) != 1 {
		r.bad = true
	}
}

func (r *blobReader) envelope() *Envelope {
	e := &Envelope{Date: r.text(), Subject: r.text(), InReplyTo: r.text(), MessageID: r.text()}
	for _, l := range []*[]Address{&e.From, &e.Sender, &e.ReplyTo, &e.To, &e.Cc, &e.Bcc} {
		*l = r.addresses()
	}
	return e
}
