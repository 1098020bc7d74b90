package message

import (
	"strconv"
	"strings"

	"mailferry/internal/line"
)

// AppendEnvelope appends the value of ENVELOPE (RFC 9051 section 7.5.2).
// Sender and Reply-To default to From.
func AppendEnvelope(b []byte, e *Envelope) []byte {
	if e == nil {
		e = &Envelope{}
	}
	orFrom := func(a []Address) []Address {
		if len(a) == 0 {
			return e.From
		}
		return a
	}
	b = append(b, '(')
	b = appendText(b, e.Date)
	b = appendHuman(append(b, ' '), e.Subject)
	for _, list := range [][]Address{e.From, orFrom(e.Sender), orFrom(e.ReplyTo), e.To, e.Cc, e.Bcc} {
		b = appendAddresses(append(b, ' '), list)
	}
	b = appendText(append(b, ' '), e.InReplyTo)
	b = appendText(append(b, ' '), e.MessageID)
	return append(b, ')')
}

func appendText(b []byte, t Text) []byte {
	if !t.Set {
		return append(b, "NIL"...)
	}
	return line.AppendString(b, t.Value)
}

// appendHuman appends a text for human eyes: runs of white space, of which
// folding leaves many, become one space. What is not plain is a literal, which
// is Dovecot's form to the octet.
func appendHuman(b []byte, t Text) []byte {
	if !t.Set {
		return append(b, "NIL"...)
	}
	folded := strings.Join(strings.FieldsFunc(t.Value, isSpace), " ")
	if folded != "" && (folded != t.Value || strings.ContainsAny(folded, `"\`)) {
		return appendLiteral(b, folded)
	}
	return line.AppendString(b, folded)
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }

func appendLiteral(b []byte, s string) []byte {
	b = strconv.AppendInt(append(b, '{'), int64(len(s)), 10)
	return append(append(b, "}\r\n"...), s...)
}

func appendAddresses(b []byte, list []Address) []byte {
	if len(list) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for _, a := range list {
		b = appendHuman(append(b, '('), a.Name)
		b = appendText(append(b, ' '), a.Route)
		b = appendText(append(b, ' '), a.Mailbox)
		b = append(appendText(append(b, ' '), a.Host), ')')
	}
	return append(b, ')')
}

// AppendStructure appends the value of BODY, or with extended that of
// BODYSTRUCTURE (RFC 9051 section 7.5.2).
func AppendStructure(b []byte, p *Part, extended bool) []byte {
	b = append(b, '(')
	if p.Kind == Multipart {
		b = appendMultipart(b, p, extended)
	} else {
		b = appendSingle(b, p, extended)
	}
	return append(b, ')')
}

func appendMultipart(b []byte, p *Part, extended bool) []byte {
	if len(p.Children) == 0 { // the grammar wants one
		b = append(b, `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0`...)
		if extended {
			b = append(b, " NIL NIL NIL NIL"...)
		}
		b = append(b, ')')
	}
	for _, c := range p.Children {
		b = AppendStructure(b, c, extended)
	}
	subtype := p.Subtype
	if subtype == "" {
		subtype = "x-unknown"
	}
	b = line.AppendString(append(b, ' '), subtype)
	if extended {
		b = appendParams(append(b, ' '), p.Params, false)
		b = appendExtension(b, p)
	}
	return b
}

// plain reports whether nothing differs from the defaults of RFC 2045 section
// 5.2. Such a message (not a part of one) is shown in one form, however it was
// written.
func (p *Part) plain() bool {
	if p.Envelope == nil || p.Header.Start > 0 || p.Kind != TextLeaf || p.Type != "" && !(equalFold(p.Type, "text") && equalFold(p.Subtype, "plain")) ||
		p.ID.Set || p.Description.Set || p.MD5.Set || p.Disposition.Set || p.Language != nil || p.Location.Set ||
		p.Encoding.Set && !equalFold(p.Encoding.Value, "7bit") || len(p.Params) > 1 {
		return false
	}
	return len(p.Params) == 0 || equalFold(p.Params[0].Name, "charset") && equalFold(p.Params[0].Value, "us-ascii")
}

func appendSingle(b []byte, p *Part, extended bool) []byte {
	switch {
	case p.plain():
		b = append(b, `"text" "plain" ("charset" "us-ascii") NIL NIL "7bit" `...)
		b = strconv.AppendInt(b, p.Body.Len(), 10)
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
		if extended {
			b = append(b, " NIL NIL NIL NIL"...)
		}
		return b
	case p.Type == "" && p.Kind == Embedded:
		b = append(b, `"message" "rfc822"`...)
	case p.Type == "" && p.Kind == TextLeaf:
		b = append(b, `"text" "plain"`...)
	default:
		b = line.AppendString(b, p.Type)
		b = line.AppendString(append(b, ' '), p.Subtype)
	}
	b = appendParams(append(b, ' '), p.Params, p.Kind == TextLeaf)
	b = appendText(append(b, ' '), p.ID)
	b = appendHuman(append(b, ' '), p.Description)
	b = append(b, ' ')
	if p.Encoding.Set {
		b = line.AppendString(b, p.Encoding.Value)
	} else {
		b = append(b, `"7bit"`...)
	}
	b = strconv.AppendInt(append(b, ' '), p.Body.Len(), 10)
	switch p.Kind {
	case TextLeaf:
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
	case Embedded:
		b = AppendEnvelope(append(b, ' '), p.Children[0].Envelope)
		b = AppendStructure(append(b, ' '), p.Children[0], extended)
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
	}
	if extended {
		b = appendText(append(b, ' '), p.MD5)
		b = appendExtension(b, p)
	}
	return b
}

// appendParams appends a parameter list. A text part always shows a charset
// (RFC 2046 section 4.1.2 makes it us-ascii).
func appendParams(b []byte, params []Param, text bool) []byte {
	charset := !text
	if len(params) == 0 && charset {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for i, q := range params {
		if i > 0 {
			b = append(b, ' ')
		}
		b = line.AppendString(b, q.Name)
		b = line.AppendString(append(b, ' '), q.Value)
		charset = charset || equalFold(q.Name, "charset")
	}
	if !charset {
		if len(params) > 0 {
			b = append(b, ' ')
		}
		b = append(b, `"charset" "us-ascii"`...)
	}
	return append(b, ')')
}

// appendExtension appends disposition, language and location.
func appendExtension(b []byte, p *Part) []byte {
	if p.Disposition.Set {
		b = line.AppendString(append(b, ' ', '('), p.Disposition.Value)
		b = append(appendParams(append(b, ' '), p.DispositionParams, false), ')')
	} else {
		b = append(b, " NIL"...)
	}
	if len(p.Language) > 0 {
		b = append(b, ' ', '(')
		for i, l := range p.Language {
			if i > 0 {
				b = append(b, ' ')
			}
			b = line.AppendString(b, l)
		}
		b = append(b, ')')
	} else {
		b = append(b, " NIL"...)
	}
	return appendText(append(b, ' '), p.Location)
}
