package message

// Message is the structure of a whole message.
type Message struct {
	Part
	Size int64
}

// Range is a run of octets of the message.
type Range struct{ Start, End int64 }

// Len is the number of octets.
func (r Range) Len() int64 { return r.End - r.Start }

// Part is the message itself, a MIME part, or the message within a
// message/rfc822 part.
type Part struct {
	// Header includes the empty line that ends it; Body is what follows, up to
	// the line break in front of the boundary line.
	Header, Body Range
	// HeaderLines and Lines count the line feeds in Header and Body.
	HeaderLines, Lines int64

	Kind Kind
	// Type and Subtype are as written; both empty without a Content-Type.
	Type, Subtype string
	Params        []Param

	ID, Description, Encoding, MD5, Location Text
	Disposition                              Text
	DispositionParams                        []Param
	Language                                 []string

	// Envelope is set for the message itself and for messages within.
	Envelope *Envelope
	// Children are the parts of a multipart, or the one message within a
	// message/rfc822 part.
	Children []*Part
}

// Kind is how a part is treated, which need not agree with a broken Type.
type Kind uint8

// The kinds of parts.
const (
	Leaf Kind = iota
	TextLeaf
	Multipart
	Embedded // message/rfc822
)

// Text is a field's value that may be missing (NIL on the wire).
type Text struct {
	Value string
	Set   bool
}

func text(s string) Text { return Text{Value: s, Set: true} }

// Param is a parameter of Content-Type or Content-Disposition.
type Param struct{ Name, Value string }

// Param returns a parameter of Content-Type by its name in any case.
func (p *Part) Param(name string) string {
	for _, q := range p.Params {
		if equalFold(q.Name, name) {
			return q.Value
		}
	}
	return ""
}

// Envelope is the data of ENVELOPE, undecoded.
type Envelope struct {
	Date, Subject, InReplyTo, MessageID Text
	From, Sender, ReplyTo, To, Cc, Bcc  []Address
}

// Address is one address, or the start (Mailbox is the group's name) or end
// (nothing is set) of a group.
type Address struct {
	Name, Route, Mailbox, Host Text
}
