package imapd

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
)

// listOptions are those of RFC 5258, RFC 5819 and RFC 6154.
type listOptions struct {
	reference string
	patterns  []string
	// selection
	subscribed, recursive, specialUse bool
	// return
	returnSubscribed, returnSpecialUse bool
	status                             []string
}

// entry is a line of an answer to LIST.
type entry struct {
	shown      string
	mb         *store.Mailbox // nil: there is no such mailbox
	subscribed bool
	children   bool
	childInfo  bool // CHILDINFO ("SUBSCRIBED")
}

func runList(ctx context.Context, s *session, c *call) error {
	o, err := s.parseList(c)
	if err != nil {
		return err
	}
	if len(o.patterns) == 1 && o.patterns[0] == "" {
		// The hierarchy's delimiter and root are asked for.
		s.enc.Text(`* LIST (\Noselect) `).String(s.namespace().Delimiter).SP()
		s.enc.String("").CRLF()
		return nil
	}
	entries, err := s.entries(ctx, true)
	if err != nil {
		return err
	}
	for _, e := range s.selectEntries(entries, o) {
		s.writeEntry("LIST", e, s.listAttributes(e, o))
		if len(o.status) > 0 && e.mb != nil && !e.mb.NoSelect {
			if err := s.writeStatus(ctx, *e.mb, o.status); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) parseList(c *call) (o listOptions, err error) {
	d := c.d
	d.ExpectSP()
	selection := func() bool {
		var w string
		d.Keyword(&w)
		switch w {
		case "SUBSCRIBED":
			o.subscribed, o.returnSubscribed = true, true
		case "SPECIAL-USE":
			o.specialUse, o.returnSpecialUse = true, true
		case "RECURSIVEMATCH":
			o.recursive = true
		case "REMOTE":
		default:
			return d.Fail("Unknown selection option")
		}
		return true
	}
	if d.ListOf(selection) {
		d.ExpectSP()
	}
	var ref string
	if !d.ExpectAString(&ref) || !d.ExpectSP() {
		return o, d.Err()
	}
	o.reference = ref
	pattern := func() bool {
		var p string
		if len(o.patterns) >= 100 || !d.ExpectListMailbox(&p) {
			return false
		}
		o.patterns = append(o.patterns, p)
		return true
	}
	if !d.ListOf(pattern) && !pattern() {
		return o, d.Err()
	}
	if d.SP() && (!d.Word("RETURN") || !d.ExpectSP() || !d.ExpectList(func() bool { return s.parseReturn(d, &o) })) {
		d.Fail("RETURN expected")
	}
	if o.recursive && !o.subscribed {
		d.Fail("RECURSIVEMATCH needs SUBSCRIBED")
	}
	d.ExpectEnd()
	return o, d.Err()
}

func (s *session) parseReturn(d *line.Decoder, o *listOptions) bool {
	var w string
	d.Keyword(&w)
	switch w {
	case "SUBSCRIBED":
		o.returnSubscribed = true
	case "SPECIAL-USE":
		o.returnSpecialUse = true
	case "CHILDREN":
	case "STATUS":
		if !d.ExpectSP() {
			return false
		}
		items, err := s.parseStatusItems(d)
		o.status = items
		return err == nil
	default:
		return d.Fail("Unknown return option")
	}
	return true
}

// entries lists the user's mailboxes by shown name, with levels of the
// hierarchy that no mailbox has, and with subscriptions, if wanted, to names
// without a mailbox.
func (s *session) entries(ctx context.Context, subscriptions bool) ([]entry, error) {
	boxes, err := s.account.Mailboxes(ctx)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]int, len(boxes))
	var out []entry
	add := func(e entry) {
		seen[e.shown] = len(out)
		out = append(out, e)
	}
	for i := range boxes {
		add(entry{shown: s.show(boxes[i].Name), mb: &boxes[i], subscribed: boxes[i].Subscribed})
	}
	if subscriptions {
		names, err := s.account.Subscriptions(ctx)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			shown := s.show(n)
			if i, ok := seen[shown]; ok {
				out[i].subscribed = true
			} else {
				add(entry{shown: shown, subscribed: true})
			}
		}
	}
	delimiter := s.namespace().Delimiter
	for i := 0; i < len(out); i++ { // grows
		e := out[i]
		k := strings.LastIndex(e.shown, delimiter)
		if k <= 0 {
			continue
		}
		parent := e.shown[:k]
		j, ok := seen[parent]
		if !ok {
			j = len(out)
			add(entry{shown: parent})
		}
		if e.mb != nil || e.children {
			out[j].children = true
		}
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		if a.shown == "INBOX" || b.shown == "INBOX" {
			return boolInt(b.shown == "INBOX") - boolInt(a.shown == "INBOX")
		}
		return strings.Compare(a.shown, b.shown)
	})
	return out, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// selectEntries picks what matches patterns and selection options.
func (s *session) selectEntries(entries []entry, o listOptions) []entry {
	delimiter := s.namespace().Delimiter
	var patterns []string
	for _, p := range o.patterns {
		if u, err := line.DecodeUTF7(o.reference + p); err == nil {
			patterns = append(patterns, foldInbox(u, delimiter))
		}
	}
	match := func(shown string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, shown, delimiter) })
	}
	var out []entry
	for i, e := range entries {
		if !match(e.shown) {
			continue
		}
		switch {
		case o.specialUse && (e.mb == nil || len(e.mb.SpecialUse) == 0):
			continue
		case o.subscribed && !e.subscribed:
			e.childInfo = o.recursive && subscribedBelow(entries[i+1:], e.shown+delimiter, match)
			if !e.childInfo {
				continue
			}
		case !o.subscribed && e.mb == nil && !e.children:
			continue // known by a subscription only
		}
		out = append(out, e)
	}
	return out
}

// subscribedBelow: a subscribed name below prefix does not match itself
// (RFC 5258 section 3.5).
func subscribedBelow(entries []entry, prefix string, match func(string) bool) bool {
	return slices.ContainsFunc(entries, func(e entry) bool {
		return e.subscribed && strings.HasPrefix(e.shown, prefix) && !match(e.shown)
	})
}

func (s *session) listAttributes(e entry, o listOptions) []imap.MailboxAttr {
	var attrs []imap.MailboxAttr
	switch {
	case e.mb == nil && o.subscribed:
		attrs = append(attrs, imap.MailboxAttrNonExistent)
	case e.mb == nil || e.mb.NoSelect:
		attrs = append(attrs, imap.MailboxAttrNoSelect)
	}
	if e.children {
		attrs = append(attrs, imap.MailboxAttrHasChildren)
	} else {
		attrs = append(attrs, imap.MailboxAttrHasNoChildren)
	}
	if e.subscribed && o.returnSubscribed {
		attrs = append(attrs, imap.MailboxAttrSubscribed)
	}
	// RFC 6154 section 2: special use may be told in any case; clients that do
	// not ask for it profit.
	if e.mb != nil && !s.withheld("SPECIAL-USE") {
		attrs = append(attrs, e.mb.SpecialUse...)
	}
	return attrs
}

func (s *session) writeEntry(response string, e entry, attrs []imap.MailboxAttr) {
	s.enc.Text("* " + response + " (")
	for i, a := range attrs {
		if i > 0 {
			s.enc.SP()
		}
		s.enc.Text(string(a))
	}
	s.enc.Text(") ").String(s.namespace().Delimiter).SP()
	s.encodeMailbox(e.shown)
	if e.childInfo {
		s.enc.Text(` ("CHILDINFO" ("SUBSCRIBED"))`)
	}
	s.enc.CRLF()
}

// runLsub: a name that does not match itself, while one below it is subscribed
// and matches but for "%", is shown as \Noselect (RFC 3501 section 6.3.9).
func runLsub(ctx context.Context, s *session, c *call) error {
	var o listOptions
	var pattern string
	d := c.d
	if !d.ExpectSP() || !d.ExpectAString(&o.reference) || !d.ExpectSP() || !d.ExpectListMailbox(&pattern) || !d.ExpectEnd() {
		return d.Err()
	}
	if pattern == "" {
		s.enc.Text(`* LSUB (\Noselect) `).String(s.namespace().Delimiter).Text(` ""`).CRLF()
		return nil
	}
	o.patterns, o.subscribed, o.recursive = []string{pattern}, true, true
	entries, err := s.entries(ctx, true)
	if err != nil {
		return err
	}
	for _, e := range s.selectEntries(entries, o) {
		var attrs []imap.MailboxAttr
		if e.childInfo || e.mb != nil && e.mb.NoSelect {
			attrs = append(attrs, imap.MailboxAttrNoSelect)
		}
		e.childInfo = false
		s.writeEntry("LSUB", e, attrs)
	}
	return nil
}

// runNamespace: RFC 2342.
func runNamespace(_ context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	ns := s.namespace()
	s.enc.Text("* NAMESPACE ((").String(line.EncodeUTF7(ns.Prefix)).SP().String(ns.Delimiter).Text(")) NIL NIL").CRLF()
	return nil
}

// statusItems are what STATUS can tell.
var statusItems = map[string]func(store.Mailbox) uint64{
	"MESSAGES":      func(m store.Mailbox) uint64 { return uint64(m.Messages) },
	"RECENT":        func(m store.Mailbox) uint64 { return uint64(m.Recent) },
	"UIDNEXT":       func(m store.Mailbox) uint64 { return uint64(m.UIDNext) },
	"UIDVALIDITY":   func(m store.Mailbox) uint64 { return uint64(m.UIDValidity) },
	"UNSEEN":        func(m store.Mailbox) uint64 { return uint64(m.Unseen) },
	"DELETED":       func(m store.Mailbox) uint64 { return uint64(m.Deleted) },
	"HIGHESTMODSEQ": func(m store.Mailbox) uint64 { return m.HighestModSeq },
	"SIZE":          func(m store.Mailbox) uint64 { return uint64(m.Size) },
}

func (s *session) parseStatusItems(d *line.Decoder) (items []string, err error) {
	d.ExpectList(func() bool {
		var w string
		d.Keyword(&w)
		if statusItems[w] == nil || len(items) > 20 {
			return d.Fail("Unknown status item")
		}
		items = append(items, w)
		return true
	})
	return items, d.Err()
}

func runStatus(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	var name backend.MailboxName
	nameErr := s.expectMailbox(c, &name)
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	items, err := s.parseStatusItems(c.d)
	if err != nil || !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if nameErr != nil {
		return nameErr
	}
	mb, err := s.account.Mailbox(ctx, name)
	if err != nil {
		return err
	}
	if mb.NoSelect {
		return no("NONEXISTENT", "Mailbox holds no messages")
	}
	return s.writeStatus(ctx, mb, items)
}

func (s *session) writeStatus(_ context.Context, mb store.Mailbox, items []string) error {
	if slices.Contains(items, "HIGHESTMODSEQ") {
		s.useCondstore() // RFC 7162 section 3.1.2
	}
	mb.Recent = s.server.recents.left(recentBox{s.account.User().ID, mb.ID}, mb)
	s.enc.Text("* STATUS ")
	s.encodeMailbox(s.show(mb.Name)).Text(" (")
	for i, item := range items {
		if i > 0 {
			s.enc.SP()
		}
		s.enc.Text(item).SP().Number(statusItems[item](mb))
	}
	s.enc.Text(")").CRLF()
	return nil
}
