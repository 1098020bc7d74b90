package imapd

import (
	"context"
	"io"
	"net/mail"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/message"
)

// candidate is a message that is asked about. Its octets are read only when a
// key needs them; an error in reading them ends the search.
type candidate struct {
	store.Message
	v      *view
	bodies *bodies
	err    error
}

// keys

type (
	and       []key
	not       struct{ k key }
	or        struct{ a, b key }
	uidKey    struct{ set line.NumSet }
	recentKey struct{}
	flagKey   struct {
		flag imap.Flag
		set  bool
	}
	modseqKey uint64
	sizeKey   struct {
		size   int64
		larger bool
	}
	ageKey struct {
		at    time.Time
		older bool
	}
	dateKey struct {
		op   string // BEFORE, ON or SINCE
		sent bool
		day  time.Time
	}
	fieldKey struct {
		name string
		m    *message.Matcher
		// addresses: the text may also be in the addresses as ENVELOPE tells
		// them, without comments and spaces
		addresses bool
	}
	bodyKey struct {
		m      *message.Matcher
		header bool
	}
)

func (k and) match(c *candidate) bool {
	for _, sub := range k {
		if !sub.match(c) {
			return false
		}
	}
	return true
}

func (k not) match(c *candidate) bool       { return !k.k.match(c) }
func (k or) match(c *candidate) bool        { return k.a.match(c) || k.b.match(c) }
func (k uidKey) match(c *candidate) bool    { return k.set.Contains(uint32(c.UID)) }
func (recentKey) match(c *candidate) bool   { return c.v.isRecent(c.UID) }
func (k flagKey) match(c *candidate) bool   { return hasFlag(c.Flags, k.flag) == k.set }
func (k modseqKey) match(c *candidate) bool { return c.ModSeq >= uint64(k) }

func (k sizeKey) match(c *candidate) bool {
	if k.larger {
		return c.Size > k.size
	}
	return c.Size < k.size
}

func (k ageKey) match(c *candidate) bool { return c.InternalDate.After(k.at) != k.older }

// match compares days, disregarding time and zone (RFC 3501 section 6.4.4).
func (k dateKey) match(c *candidate) bool {
	t := c.InternalDate
	if k.sent {
		var ok bool
		if t, ok = c.sentDate(); !ok {
			return false
		}
	}
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch k.op {
	case "BEFORE":
		return day.Before(k.day)
	case "SINCE":
		return !day.Before(k.day)
	}
	return day.Equal(k.day)
}

func (k fieldKey) match(c *candidate) bool {
	if !c.open(0) {
		return false
	}
	h := c.bodies.structure.Header
	found, err := k.m.Field(io.LimitReader(c.bodies.r, h.Len()), k.name)
	c.bodies.at = h.Len()
	if err == nil && !found && k.addresses {
		found = k.inAddresses(c.bodies.structure.Envelope)
	}
	return c.result(found, err)
}

func (k fieldKey) inAddresses(e *message.Envelope) bool {
	list := map[string][]message.Address{"FROM": e.From, "TO": e.To, "CC": e.Cc, "BCC": e.Bcc}[k.name]
	return slices.ContainsFunc(list, func(a message.Address) bool {
		return k.m.String(a.Mailbox.Value + "@" + a.Host.Value)
	})
}

func (k bodyKey) match(c *candidate) bool {
	if !c.open(0) {
		return false
	}
	found, err := k.m.Message(c.bodies.r, c.bodies.structure, k.header)
	c.bodies.at = c.Size // unknown: any seek back begins anew
	return c.result(found, err)
}

// open makes structure and octets ready at an offset.
func (c *candidate) open(at int64) bool {
	if c.err != nil {
		return false
	}
	if c.err = c.bodies.readStructure(); c.err == nil {
		c.err = c.bodies.seek(at)
	}
	return c.err == nil
}

func (c *candidate) result(found bool, err error) bool {
	if err != nil && c.err == nil {
		c.err = err
	}
	return found
}

func (c *candidate) sentDate() (time.Time, bool) {
	if c.err != nil {
		return time.Time{}, false
	}
	if c.err = c.bodies.readStructure(); c.err != nil {
		return time.Time{}, false
	}
	t, err := mail.ParseDate(c.bodies.structure.Envelope.Date.Value)
	return t, err == nil
}

// runSearch is SEARCH and UID SEARCH.
func runSearch(ctx context.Context, s *session, c *call) error {
	a, err := s.parseSearch(c)
	if err != nil {
		return err
	}
	if a.modseq {
		s.useCondstore()
	}
	found, modseqs, err := s.search(ctx, a)
	if err != nil {
		if a.options["SAVE"] {
			s.saved = nil // RFC 5182 section 2.1
		}
		return err
	}
	if a.options["SAVE"] {
		s.saved = a.reduce(setOf(found))
	}
	modseq := uint64(0)
	if a.modseq {
		modseq = a.highest(modseqs)
	}
	if a.ret {
		s.writeESearch(c, a, found, modseq)
		return nil
	}
	s.enc.Text("* SEARCH")
	for _, uid := range found {
		s.enc.SP().Number(uint64(s.inTermsOf(c, uid)))
	}
	if modseq > 0 && len(found) > 0 {
		s.enc.Text(" (MODSEQ ").Number(modseq).Text(")")
	}
	s.enc.CRLF()
	return nil
}

// inTermsOf is a message as the command counts: by UID or by number.
func (s *session) inTermsOf(c *call, uid imap.UID) uint32 {
	if c.uid {
		return uint32(uid)
	}
	return s.view.seq(uid)
}

// highest is the modseq that the answer tells: that of the messages in it, as
// MIN and MAX by themselves name single ones (RFC 4731 section 3.2).
func (a searchArguments) highest(modseqs []uint64) uint64 {
	n := len(modseqs)
	switch {
	case n == 0:
		return 0
	case a.options["ALL"] || a.options["COUNT"] || !a.options["MIN"] && !a.options["MAX"]:
		return slices.Max(modseqs)
	case !a.options["MAX"]:
		return modseqs[0]
	case !a.options["MIN"]:
		return modseqs[n-1]
	}
	return max(modseqs[0], modseqs[n-1])
}

// search returns the messages of the view that match, and their modseqs if the
// answer tells one.
func (s *session) search(ctx context.Context, a searchArguments) (matching []imap.UID, modseqs []uint64, err error) {
	v := s.view
	if v.dead || len(v.uids) == 0 {
		return nil, nil, nil
	}
	err = s.eachMessage(ctx, a.bounds(v), a.structures, func(m found) error {
		if v.seq(m.UID) == 0 {
			return nil
		}
		c := &candidate{Message: m.Message, v: v, bodies: &bodies{ctx: ctx, s: s, blob: m.structure, m: m.Message}}
		ok := a.key.match(c)
		c.bodies.close()
		if backend.IsKind(c.err, backend.KindNotFound) {
			return nil // expunged in the meantime
		}
		if c.err == nil && ok {
			matching = append(matching, m.UID)
			if a.modseq {
				modseqs = append(modseqs, m.ModSeq)
			}
		}
		return c.err
	})
	return matching, modseqs, err
}

// bounds narrows the messages that have to be read: a key of numbers at the
// top level does it.
func (a searchArguments) bounds(v *view) imap.UIDSet {
	if keys, ok := a.key.(and); ok {
		for _, k := range keys {
			if u, ok := k.(uidKey); ok {
				out, _ := v.resolve(slices.Clone(u.set), true)
				return out
			}
		}
	}
	return imap.UIDSet{{Start: v.uids[0], Stop: v.uids[len(v.uids)-1]}}
}

// reduce is what SAVE keeps: with MIN or MAX alone only those (RFC 5182 section 2.4).
func (a searchArguments) reduce(found line.NumSet) line.NumSet {
	if len(found) == 0 || a.options["ALL"] || a.options["COUNT"] || !a.options["MIN"] && !a.options["MAX"] {
		return found
	}
	var out line.NumSet
	if a.options["MIN"] {
		out = out.Add(found[0].Start)
	}
	if last := found[len(found)-1].Stop; a.options["MAX"] && (len(out) == 0 || out[0].Start != last) {
		out = out.Add(last)
	}
	return out
}

// writeESearch: RFC 4731.
func (s *session) writeESearch(c *call, a searchArguments, found []imap.UID, modseq uint64) {
	if len(a.options) == 1 && a.options["SAVE"] {
		return
	}
	s.enc.Text("* ESEARCH (TAG ").String(c.tag).Text(")")
	if c.uid {
		s.enc.Text(" UID")
	}
	if n := len(found); n > 0 {
		if a.options["MIN"] {
			s.enc.Text(" MIN ").Number(uint64(s.inTermsOf(c, found[0])))
		}
		if a.options["MAX"] {
			s.enc.Text(" MAX ").Number(uint64(s.inTermsOf(c, found[n-1])))
		}
		if a.options["ALL"] {
			var set line.NumSet
			for _, uid := range found {
				set = set.Add(s.inTermsOf(c, uid))
			}
			s.enc.Text(" ALL ").NumSet(set)
		}
	}
	if a.options["COUNT"] {
		s.enc.Text(" COUNT ").Number(uint64(len(found)))
	}
	if modseq > 0 && len(found) > 0 {
		s.enc.Text(" MODSEQ ").Number(modseq)
	}
	s.enc.CRLF()
}
