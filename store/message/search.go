package message

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Matcher finds a text in messages: decoded, without regard to case. It is
// safe for concurrent use.
type Matcher struct{ want []byte }

// NewMatcher returns a Matcher for a text in UTF-8.
func NewMatcher(text string) *Matcher { return &Matcher{want: fold([]byte(text))} }

func fold(b []byte) []byte { return bytes.ToLower(b) }

// String searches a decoded text.
func (m *Matcher) String(s string) bool { return bytes.Contains(fold([]byte(s)), m.want) }

// read searches a stream of UTF-8 with bounded memory.
func (m *Matcher) read(r io.Reader) (bool, error) {
	if len(m.want) == 0 {
		return true, nil
	}
	buf := make([]byte, 0, 32<<10+2*len(m.want))
	var folded []byte
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		cut := len(buf)
		if err == nil { // a character may be incomplete
			for k := 1; k < utf8.UTFMax && k <= cut; k++ {
				if utf8.RuneStart(buf[cut-k]) {
					if !utf8.FullRune(buf[cut-k:]) {
						cut -= k
					}
					break
				}
			}
		}
		folded = append(folded, fold(buf[:cut])...)
		buf = append(buf[:0], buf[cut:]...)
		if bytes.Contains(folded, m.want) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		keep := min(len(folded), len(m.want)-1)
		folded = append(folded[:0], folded[len(folded)-keep:]...)
	}
}

// Field searches the fields of a header that have this name; an empty text
// finds any such field (RFC 3501 section 6.4.4, HEADER).
func (m *Matcher) Field(header io.Reader, name string) (bool, error) {
	var w bytes.Buffer
	if _, err := FilterFields(&capped{&w, maxKept}, header, []string{name}, false); err != nil {
		return false, err
	}
	for _, f := range fields(w.Bytes()) {
		if m.String(DecodeHeader(f.value)) {
			return true, nil
		}
	}
	return false, nil
}

type capped struct {
	w *bytes.Buffer
	n int
}

func (c *capped) Write(p []byte) (int, error) {
	c.w.Write(p[:max(0, min(len(p), c.n-c.w.Len()))])
	return len(p), nil
}

type headerField struct{ name, value string }

// fields splits a header into unfolded fields.
func fields(h []byte) []headerField {
	var out []headerField
	for l := range bytes.SplitSeq(h, []byte("\n")) {
		l = bytes.TrimSuffix(l, []byte("\r"))
		if len(l) > 0 && (l[0] == ' ' || l[0] == '\t') && len(out) > 0 {
			out[len(out)-1].value += string(l)
			continue
		}
		name, value, ok := strings.Cut(string(l), ":")
		if ok {
			out = append(out, headerField{strings.TrimSpace(name), strings.TrimLeft(value, " \t")})
		}
	}
	return out
}

var wordDecoder = mime.WordDecoder{CharsetReader: charsetReader}

func charsetReader(charset string, r io.Reader) (io.Reader, error) {
	enc, err := htmlindex.Get(charset)
	if err != nil {
		return r, nil // as it is: better than nothing
	}
	return enc.NewDecoder().Reader(r), nil
}

// DecodeHeader decodes the encoded words (RFC 2047) of a field's value.
func DecodeHeader(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	d, err := wordDecoder.DecodeHeader(s)
	if err != nil {
		return s
	}
	return d
}

// Message searches the text parts of a message, with header also the headers of
// the message and its parts. r is at the start of the message.
func (m *Matcher) Message(r io.Reader, msg *Message, header bool) (bool, error) {
	at := int64(0)
	found := false
	visit := func(rg Range, search func(io.Reader) (bool, error)) (bool, error) {
		if found || rg.Len() == 0 {
			return found, nil
		}
		n, err := io.CopyN(io.Discard, r, rg.Start-at)
		at += n
		if err != nil {
			return false, err
		}
		l := &io.LimitedReader{R: r, N: rg.Len()}
		found, err = search(l)
		at += rg.Len() - l.N
		return found, err
	}
	var walk func(p *Part) error
	walk = func(p *Part) error {
		if header {
			if _, err := visit(p.Header, m.header); err != nil {
				return err
			}
		}
		if p.Kind == TextLeaf {
			_, err := visit(p.Body, func(r io.Reader) (bool, error) { return m.read(p.decode(r)) })
			return err
		}
		for _, c := range p.Children {
			if err := walk(c); err != nil || found {
				return err
			}
		}
		return nil
	}
	err := walk(&msg.Part)
	return found, err
}

// header searches a whole header, names and values.
func (m *Matcher) header(r io.Reader) (bool, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKept))
	if err != nil {
		return false, err
	}
	for _, f := range fields(b) {
		if m.String(f.name + ": " + DecodeHeader(f.value)) {
			return true, nil
		}
	}
	return false, nil
}

// decode undoes transfer encoding and charset of a text part.
func (p *Part) decode(r io.Reader) io.Reader {
	switch strings.ToLower(p.Encoding.Value) {
	case "base64":
		r = base64.NewDecoder(base64.RawStdEncoding, &base64Filter{r: r})
	case "quoted-printable":
		r = &qpReader{r: r}
	}
	charset := p.Param("charset")
	if charset == "" || equalFold(charset, "us-ascii") || equalFold(charset, "utf-8") {
		return r
	}
	r, _ = charsetReader(charset, r)
	return r
}

// base64Filter passes the characters of the alphabet up to the padding.
type base64Filter struct {
	r    io.Reader
	done bool
}

func (f *base64Filter) Read(p []byte) (int, error) {
	for !f.done {
		n, err := f.r.Read(p)
		k := 0
		for _, c := range p[:n] {
			if c == '=' {
				f.done = true
				break
			}
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
				p[k] = c
				k++
			}
		}
		if k > 0 || err != nil {
			return k, err
		}
	}
	return 0, io.EOF
}

// qpReader decodes quoted-printable; what is broken stays as it is.
type qpReader struct {
	r       io.Reader
	pending []byte // "=" and what follows it, incomplete
}

func (q *qpReader) Read(p []byte) (int, error) {
	if len(p) < 8 {
		return 0, io.ErrShortBuffer
	}
	for {
		k := copy(p, q.pending)
		n, err := q.r.Read(p[k:])
		in := p[:k+n]
		q.pending = q.pending[:0]
		out := 0
		for i := 0; i < len(in); i++ {
			c := in[i]
			if c != '=' {
				p[out] = c
				out++
				continue
			}
			rest := in[i+1:]
			if err == nil && (len(rest) < 2 || rest[0] == '\r' && len(rest) < 2) {
				q.pending = append(q.pending, in[i:]...)
				break
			}
			v, skip, ok := qpEscape(rest)
			if !ok {
				p[out] = c
				out++
				continue
			}
			i += skip
			if skip == 2 && rest[0] != '\r' {
				p[out] = v
				out++
			}
		}
		if out > 0 || err != nil {
			return out, err
		}
	}
}

// qpEscape decodes what follows "=": two hex digits, or a soft line break.
func qpEscape(b []byte) (v byte, skip int, ok bool) {
	switch {
	case len(b) >= 1 && b[0] == '\n':
		return 0, 1, true
	case len(b) >= 2 && b[0] == '\r' && b[1] == '\n':
		return 0, 2, true
	case len(b) < 2:
		return 0, 0, false
	}
	h, ok1 := unhex(b[0])
	l, ok2 := unhex(b[1])
	return h<<4 | l, 2, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
