package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// Meta is what a FETCH response tells of a message. It is reused: valid until
// the callback that gets it returns. Flags is shared and read-only.
type Meta struct {
	Seq    uint32
	UID    imap.UID // 0: not told
	Size   int64    // RFC822.SIZE, a claim; -1: not told
	ModSeq uint64   // 0: not told
	// Date is the INTERNALDATE; zero when the store told none that is
	// possible, then DateRaw is what it told.
	Date    time.Time
	DateRaw string
	// Flags are as the store has them, without \Recent; HasFlags is false
	// when none were told.
	Flags    []imap.Flag
	HasFlags bool
	Recent   bool
	// Body tells what came for BODY[].
	Body     BodyState
	BodySize int64
	// ContentID is what came for an item of ContentIDs; valid as Meta is. nil:
	// not told.
	ContentID []byte
}

// BodyState tells what a FETCH response had for BODY[].
type BodyState uint8

// BodyNone: not part of the response. BodyNil: the store says there is none,
// which is how an expunged message looks to some.
const (
	BodyNone BodyState = iota
	BodyNil
	BodyRead
)

// bodySink takes a body while its response is read.
type bodySink func(size int64, r io.Reader) error

// FetchMeta fetches UID, FLAGS and, for items beyond, what the caller names.
// fn gets every response that names a UID, also unasked ones: the last word on
// a UID counts. changedSince limits to messages with a higher modseq; vanished
// asks for VANISHED as well, and gets it in the returned set.
type FetchMeta struct {
	UIDs         string // a UID set, "1:*"
	Items        string // beyond UID and FLAGS, e.g. "INTERNALDATE RFC822.SIZE"
	ChangedSince uint64
	Vanished     bool
}

// FetchAll is what a listing of a whole mailbox asks for.
const FetchAll = "INTERNALDATE RFC822.SIZE"

// FetchMeta runs q and returns the UIDs that vanished.
func (c *Client) FetchMeta(ctx context.Context, q FetchMeta, fn func(*Meta) error) (imap.UIDSet, error) {
	var gone imap.UIDSet
	modseqs := c.condstore() && c.selected != nil && c.selected.HighestModSeq > 0
	_, err := c.one(ctx, c.metaHandler(&gone, fn), q.command(modseqs))
	return gone, err
}

func (q *FetchMeta) command(modseqs bool) command {
	items := "UID FLAGS"
	if q.Items != "" {
		items += " " + q.Items
	}
	if modseqs {
		items += " MODSEQ"
	}
	line := fmt.Sprintf("UID FETCH %s (%s)", q.UIDs, items)
	switch {
	case q.ChangedSince > 0 && q.Vanished:
		line += fmt.Sprintf(" (CHANGEDSINCE %d VANISHED)", q.ChangedSince)
	case q.ChangedSince > 0:
		line += fmt.Sprintf(" (CHANGEDSINCE %d)", q.ChangedSince)
	}
	return command{text(line)}
}

func (c *Client) metaHandler(gone *imap.UIDSet, fn func(*Meta) error) handler {
	return func(r response) (lineState, error) {
		switch r.name {
		case "FETCH":
			m, err := c.fetchData(r.num, nil)
			if err == nil && m.UID != 0 {
				err = fn(m)
			}
			return lineOpen, err
		case "VANISHED":
			_, set, err := c.vanished()
			gone.AddSet(set)
			return lineOpen, err
		}
		return lineUnknown, nil
	}
}

// Search runs UID SEARCH with a criterion; ESEARCH's form is understood too.
func (c *Client) Search(ctx context.Context, criterion string) (imap.UIDSet, error) {
	var set imap.UIDSet
	_, err := c.one(ctx, func(r response) (lineState, error) {
		if r.name != "SEARCH" {
			return lineUnknown, nil
		}
		s := c.conn.scan
		for {
			s.blanks()
			p, err := s.peek()
			if err != nil || p < '0' || p > '9' {
				return lineOpen, err
			}
			uid, err := s.uid()
			if err != nil {
				return lineOpen, err
			}
			if n := len(set); n > 0 && set[n-1].Stop+1 == uid {
				set[n-1].Stop = uid
			} else {
				set = append(set, imap.UIDRange{Start: uid, Stop: uid})
			}
		}
	}, command{text("UID SEARCH " + criterion)})
	return set, err
}

// fetchData reads `(item value ...)` of a FETCH response. Each item that makes
// no sense is left out; the others stand. sink takes BODY[]; without one a body
// is thrown away.
func (c *Client) fetchData(seq uint32, sink bodySink) (*Meta, error) {
	s := c.conn.scan
	m := &Meta{Seq: seq, Size: -1}
	s.blanks()
	if !s.accept('(') {
		return m, syntaxf("FETCH without a list")
	}
	for {
		s.blanks()
		if s.accept(')') {
			return m, nil
		}
		p, err := s.peek()
		if err != nil {
			return m, err
		}
		if p == '\r' || p == '\n' {
			return m, syntaxf("FETCH is cut off")
		}
		if err := c.fetchItem(m, sink); err != nil {
			return m, err
		}
	}
}

// fetchItem reads one item with its value.
func (c *Client) fetchItem(m *Meta, sink bodySink) error {
	s := c.conn.scan
	b, err := s.until(" ()[\r\n")
	if err != nil {
		return err
	}
	item, ok := fetchItems[string(b)]
	if !ok {
		item = fetchItems[string(bytes.ToUpper(b))]
	}
	if p, err := s.peek(); err != nil {
		return err
	} else if p == '[' {
		if item, err = c.section(item); err != nil {
			return err
		}
	}
	s.blanks()
	switch item {
	case itemUID:
		m.UID, err = s.uid()
	case itemFlags:
		m.Flags, m.Recent, err = c.flagList()
		m.HasFlags = err == nil
	case itemDate:
		err = c.dateValue(m)
	case itemSize:
		m.Size, err = c.sizeValue()
	case itemModSeq:
		m.ModSeq, err = c.modSeqValue()
	case itemBody:
		return c.bodyValue(m, sink)
	case itemContentID:
		m.ContentID, err = c.contentIDValue()
	default:
		return s.skipValue()
	}
	return err
}

type fetchItem uint8

const (
	itemOther fetchItem = iota
	itemUID
	itemFlags
	itemDate
	itemSize
	itemModSeq
	itemBody
	itemContentID
)

var fetchItems = map[string]fetchItem{
	"UID": itemUID, "FLAGS": itemFlags, "INTERNALDATE": itemDate, "RFC822.SIZE": itemSize,
	"MODSEQ": itemModSeq, "BODY": itemBody, "BINARY": itemBody,
	"EMAILID": itemContentID, "X-GUID": itemContentID, "X-GM-MSGID": itemContentID,
}

// section reads "[...]" and a "<origin>" behind it; only the whole message is a
// body to us.
func (c *Client) section(item fetchItem) (fetchItem, error) {
	s := c.conn.scan
	b, err := s.until("]\r\n")
	if err != nil {
		return itemOther, err
	}
	if len(b) != 1 {
		item = itemOther
	}
	if !s.accept(']') {
		return itemOther, syntaxf("section is cut off")
	}
	if p, err := s.peek(); err == nil && p == '<' {
		_, err = s.token()
		return itemOther, err
	}
	return item, nil
}

// sizeValue reads RFC822.SIZE; NIL and rubbish are no size.
func (c *Client) sizeValue() (int64, error) {
	n, err := c.conn.scan.number()
	if isSyntax(err) {
		return -1, c.conn.scan.skipValue()
	}
	return int64(n), err
}

// modSeqValue reads "(n)".
func (c *Client) modSeqValue() (uint64, error) {
	s := c.conn.scan
	paren := s.accept('(')
	n, err := s.number()
	if err != nil {
		return 0, err
	}
	if paren && !s.accept(')') {
		return 0, syntaxf("MODSEQ")
	}
	return n, nil
}

func (c *Client) dateValue(m *Meta) error {
	b, null, err := c.conn.scan.str()
	if err != nil || null {
		return err
	}
	t, ok := ParseDate(b)
	if !ok {
		m.DateRaw = string(b)
		return nil
	}
	m.Date = t
	return nil
}

// bodyValue streams BODY[] into sink.
func (c *Client) bodyValue(m *Meta, sink bodySink) error {
	s := c.conn.scan
	if sink == nil || m.Body == BodyRead {
		return s.skipValue()
	}
	if size, ok := s.literal(); ok {
		m.Body, m.BodySize = BodyRead, size
		lr := &io.LimitedReader{R: s.r, N: size}
		if err := sink(size, lr); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, lr)
		if err == nil && lr.N > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	b, null, err := s.str()
	if err != nil {
		return err
	}
	if null {
		m.Body = BodyNil
		return nil
	}
	m.Body, m.BodySize = BodyRead, int64(len(b))
	return sink(m.BodySize, bytes.NewReader(bytes.Clone(b)))
}

// flagList reads "(flag ...)"; a flag is whatever stands between blanks.
func (c *Client) flagList() (flags []imap.Flag, recent bool, err error) {
	s := c.conn.scan
	if !s.accept('(') {
		return nil, false, s.skipValue() // NIL
	}
	key := make([]byte, 0, 128)
	for {
		s.blanks()
		if s.accept(')') {
			return c.flags.list(key), recent, nil
		}
		p, err := s.peek()
		if err != nil {
			return nil, false, err
		}
		if p == '\r' || p == '\n' {
			return nil, false, syntaxf("FLAGS is cut off")
		}
		if p == '(' {
			if err := s.skipValue(); err != nil {
				return nil, false, err
			}
			continue
		}
		flag, err := s.token()
		if err != nil {
			return nil, false, err
		}
		if len(flag) == 0 { // a literal where a flag should be
			if err := s.skipValue(); err != nil {
				return nil, false, err
			}
			continue
		}
		if strings.EqualFold(string(flag), `\Recent`) {
			recent = true
			continue
		}
		key = append(append(key, flag...), ' ')
	}
}

// list is the shared list of blank-terminated flags.
func (t *flagTable) list(key []byte) []imap.Flag {
	if len(key) == 0 {
		return nil
	}
	if l, ok := t.lists[string(key)]; ok {
		return l
	}
	var l []imap.Flag
	for f := range strings.FieldsSeq(string(key)) {
		l = append(l, imap.Flag(f))
	}
	if t.lists == nil || len(t.lists) >= maxFlagLists {
		t.lists = make(map[string][]imap.Flag)
	}
	t.lists[string(key)] = l
	return l
}
