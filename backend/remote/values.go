package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// maxValues bounds the text of one message's values, and their number.
const (
	maxValues     = 1 << 20
	maxValueNodes = 20000
)

// ValueKind is the form of a Value.
type ValueKind uint8

// ValueNil is NIL. ValueText is an atom, a number, a quoted string or a
// literal: which of them is the store's choice and means nothing. ValueList is
// a parenthesised list. ValueCut stands for what was too long to be kept.
const (
	ValueNil ValueKind = iota
	ValueText
	ValueList
	ValueCut
)

// Value is what a FETCH response has for an item, as the store wrote it.
type Value struct {
	Kind ValueKind
	Text string
	List []Value
}

// FetchItems fetches what the Client has no use for itself, ENVELOPE or
// DIGEST.SHA1 for example, of the selected mailbox. fn gets each message with
// its values by item, in upper case ("BODY[HEADER]"); the values are fn's to
// keep. A message of more than 1 MiB of values has ValueCut among them. A
// StatusError says that the store does not know an item.
func (c *Client) FetchItems(ctx context.Context, uids imap.UIDSet, items string, fn func(imap.UID, map[string]Value) error) error {
	_, err := c.one(ctx, func(r response) (lineState, error) {
		if r.name != "FETCH" {
			return lineUnknown, nil
		}
		uid, values, err := c.fetchValues()
		if err == nil && uid != 0 {
			err = fn(uid, values)
		}
		return lineOpen, err
	}, command{text("UID FETCH " + uids.String() + " (UID " + items + ")")})
	return err
}

// fetchValues reads `(item value ...)`.
func (c *Client) fetchValues() (imap.UID, map[string]Value, error) {
	s := c.conn.scan
	s.blanks()
	if !s.accept('(') {
		return 0, nil, syntaxf("FETCH without a list")
	}
	var uid imap.UID
	values := make(map[string]Value)
	room := valueRoom{octets: maxValues, nodes: maxValueNodes}
	for {
		s.blanks()
		if s.accept(')') {
			return uid, values, nil
		}
		item, err := s.itemName()
		if err != nil {
			return 0, nil, err
		}
		s.blanks()
		if item == "UID" {
			if uid, err = s.uid(); err != nil {
				return 0, nil, err
			}
			continue
		}
		if values[item], err = s.value(&room, 0); err != nil {
			return 0, nil, err
		}
	}
}

// itemName reads an item's name with its section; without its origin octet.
func (s *scanner) itemName() (string, error) {
	b, err := s.until(" ()[\r\n")
	if err != nil {
		return "", err
	}
	name := strings.ToUpper(string(b))
	if !s.accept('[') {
		if name == "" {
			return "", syntaxf("FETCH is cut off")
		}
		return name, nil
	}
	if b, err = s.until("]\r\n"); err != nil {
		return "", err
	}
	name += "[" + strings.ToUpper(string(b)) + "]"
	if !s.accept(']') {
		return "", syntaxf("section is cut off")
	}
	if p, err := s.peek(); err == nil && p == '<' {
		_, err = s.token()
		return name, err
	}
	return name, nil
}

// valueRoom is what may still be kept of a message.
type valueRoom struct {
	octets int64
	nodes  int
}

// take reports whether n octets are kept.
func (r *valueRoom) take(n int64) bool {
	if r.nodes--; r.nodes < 0 || n > r.octets {
		return false
	}
	r.octets -= n
	return true
}

// value reads one value of any form.
func (s *scanner) value(room *valueRoom, depth int) (Value, error) {
	s.blanks()
	c, err := s.peek()
	if err != nil {
		return Value{}, err
	}
	switch {
	case c == '(':
		_, _ = s.r.Discard(1)
		return s.valueList(room, depth+1)
	case c == '"':
		b, err := s.quoted()
		if err != nil {
			return Value{}, err
		}
		return room.text(b), nil
	}
	if size, ok := s.literal(); ok {
		return s.valueLiteral(room, size)
	}
	b, err := s.token()
	switch {
	case err != nil:
		return Value{}, err
	case len(b) == 0:
		return Value{}, syntaxf("value expected")
	case bytes.EqualFold(b, []byte("NIL")):
		return Value{}, nil
	}
	return room.text(b), nil
}

func (r *valueRoom) text(b []byte) Value {
	if !r.take(int64(len(b))) {
		return Value{Kind: ValueCut}
	}
	return Value{Kind: ValueText, Text: string(b)}
}

func (s *scanner) valueList(room *valueRoom, depth int) (Value, error) {
	if depth > maxDepth {
		return Value{}, syntaxf("lists nested more than %d deep", maxDepth)
	}
	v := Value{Kind: ValueList}
	for {
		s.blanks()
		if s.accept(')') {
			return v, nil
		}
		e, err := s.value(room, depth)
		if err != nil {
			return Value{}, err
		}
		if room.nodes > 0 { // what follows is read, but not kept
			v.List = append(v.List, e)
		}
	}
}

func (s *scanner) valueLiteral(room *valueRoom, size int64) (Value, error) {
	if !room.take(size) {
		_, err := io.CopyN(io.Discard, s.r, size)
		return Value{Kind: ValueCut}, noEOF(err)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(s.r, b); err != nil {
		return Value{}, noEOF(err)
	}
	return Value{Kind: ValueText, Text: string(b)}, nil
}

// String writes v in one form, however the store wrote it: equal strings are
// equal values.
func (v Value) String() string {
	var b strings.Builder
	v.write(&b)
	return b.String()
}

func (v Value) write(b *strings.Builder) {
	switch v.Kind {
	case ValueNil:
		b.WriteString("NIL")
	case ValueCut:
		b.WriteString("CUT")
	case ValueText:
		fmt.Fprintf(b, "%q", v.Text)
	case ValueList:
		b.WriteByte('(')
		for i, e := range v.List {
			if i > 0 {
				b.WriteByte(' ')
			}
			e.write(b)
		}
		b.WriteByte(')')
	}
}
