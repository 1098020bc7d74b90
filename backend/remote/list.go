package remote

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Namespaces are the namespaces of an account (RFC 9051 6.3.10).
type Namespaces struct {
	Personal, Other, Shared []backend.Namespace
}

// ListEntry is a mailbox as the store lists it.
type ListEntry struct {
	// Raw is the name in the store's own octets; commands use it as it is.
	Raw string
	// Name is its text; ValidName is false when Raw is not modified UTF-7.
	Name      string
	ValidName bool
	Delimiter string // "": a flat name
	Attrs     []imap.MailboxAttr
	Status    *Status // where LIST-STATUS gave one
}

// Has reports whether the entry carries attribute a.
func (e *ListEntry) Has(a imap.MailboxAttr) bool {
	for _, x := range e.Attrs {
		if strings.EqualFold(string(x), string(a)) {
			return true
		}
	}
	return false
}

// Selectable reports whether the mailbox can hold messages.
func (e *ListEntry) Selectable() bool {
	return !e.Has(imap.MailboxAttrNoSelect) && !e.Has(imap.MailboxAttrNonExistent)
}

// Status is the answer to STATUS; zero for what the store did not tell.
type Status struct {
	Messages, UIDNext, UIDValidity uint32
	HighestModSeq                  uint64
}

// Account is what one round trip tells of an account, two where the store
// cannot give the status of all mailboxes at once.
type Account struct {
	Namespaces    Namespaces
	Mailboxes     []ListEntry
	Subscriptions []ListEntry // also of mailboxes that do not exist
}

// Survey asks for everything that shows whether an account changed.
func (c *Client) Survey(ctx context.Context) (*Account, error) {
	a, seen := &Account{}, map[string]*Status{}
	if c.Hasty() {
		if ok, err := c.takeQueued(ctx, c.surveyHandler(a, seen)); err != nil {
			return nil, err
		} else if ok {
			return a, c.completed(ctx, a, seen)
		}
		a, seen = &Account{}, map[string]*Status{}
	}
	cmds := c.leave()
	first := len(cmds)
	cmds = append(cmds, surveyCommands(c.Has)...)
	rs, err := c.run(ctx, c.surveyHandler(a, seen), cmds...)
	if err != nil {
		return nil, err
	}
	cmds, rs = cmds[first:], rs[first:] // leaving cannot do worse than fail
	if rs[0].name != "OK" && c.Has("LIST-STATUS") {
		// A capability is a claim: ask again in the plainest form.
		*a, seen = Account{Namespaces: a.Namespaces, Subscriptions: a.Subscriptions}, map[string]*Status{}
		rs[0], err = c.one(ctx, c.surveyHandler(a, seen), command{text(`LIST "" "*"`)})
		if err != nil {
			return nil, err
		}
	}
	if err := statusOf(cmds[0], rs[0]); err != nil {
		return nil, err
	}
	return a, c.completed(ctx, a, seen)
}

func (c *Client) completed(ctx context.Context, a *Account, seen map[string]*Status) error {
	a.Mailboxes, a.Subscriptions = once(a.Mailboxes), once(a.Subscriptions)
	return c.fillStatus(ctx, a, seen)
}

// surveyCommands are those of a survey, LIST first, at a store that has these
// capabilities; none has an argument that could need a literal.
func surveyCommands(has func(string) bool) []command {
	cmds := []command{listCommand(has), {text(`LSUB "" "*"`)}}
	if has("NAMESPACE") {
		cmds = append(cmds, command{text("NAMESPACE")})
	}
	return cmds
}

// leave gives up the selected mailbox: of that one a store may give the status
// as the session last saw it, not as it is (Dovecot does), and mail that came
// meanwhile would stay unseen. A mailbox that had to be selected read-write is
// not closed, as CLOSE would expunge.
func (c *Client) leave() []command {
	if c.selected == nil {
		return nil
	}
	c.selected = nil
	switch {
	case c.Has("UNSELECT"):
		return []command{{text("UNSELECT")}}
	case !c.profile.SelectOnce:
		return []command{{text("CLOSE")}}
	}
	return []command{{text("NOOP")}}
}

// once drops entries that a store lists twice.
func once(entries []ListEntry) []ListEntry {
	seen := make(map[string]bool, len(entries))
	return slices.DeleteFunc(entries, func(e ListEntry) bool {
		key := foldInbox(e.Raw)
		defer func() { seen[key] = true }()
		return seen[key]
	})
}

func statusItems(has func(string) bool) string {
	items := "(MESSAGES UIDNEXT UIDVALIDITY"
	if condstore(has) {
		items += " HIGHESTMODSEQ"
	}
	return items + ")"
}

func condstore(has func(string) bool) bool { return has("CONDSTORE") || has("QRESYNC") }

func (c *Client) condstore() bool { return condstore(c.Has) }

func listCommand(has func(string) bool) command {
	switch {
	case has("LIST-STATUS") && has("SPECIAL-USE"):
		return command{text(`LIST "" "*" RETURN (SPECIAL-USE STATUS ` + statusItems(has) + `)`)}
	case has("LIST-STATUS"):
		return command{text(`LIST "" "*" RETURN (STATUS ` + statusItems(has) + `)`)}
	}
	return command{text(`LIST "" "*"`)}
}

func (c *Client) surveyHandler(a *Account, seen map[string]*Status) handler {
	return func(r response) (lineState, error) {
		switch r.name {
		case "LIST":
			return c.listEntry(&a.Mailboxes)
		case "LSUB":
			return c.listEntry(&a.Subscriptions)
		case "STATUS":
			return c.statusData(seen)
		case "NAMESPACE":
			return lineOpen, c.namespaceData(&a.Namespaces)
		}
		return lineUnknown, nil
	}
}

// fillStatus asks for what LIST-STATUS left out.
func (c *Client) fillStatus(ctx context.Context, a *Account, seen map[string]*Status) error {
	var cmds []command
	for i := range a.Mailboxes {
		m := &a.Mailboxes[i]
		if m.Selectable() && seen[foldInbox(m.Raw)] == nil {
			cmds = append(cmds, command{text("STATUS "), wire(m.Raw), text(" " + statusItems(c.Has))})
		}
	}
	for len(cmds) > 0 { // a few hundred at a time fit the socket buffers
		n := min(len(cmds), 200)
		_, err := c.run(ctx, func(r response) (lineState, error) {
			if r.name == "STATUS" {
				return c.statusData(seen)
			}
			return lineUnknown, nil
		}, cmds[:n]...)
		if err != nil {
			return err
		}
		cmds = cmds[n:]
	}
	for i := range a.Mailboxes {
		a.Mailboxes[i].Status = seen[foldInbox(a.Mailboxes[i].Raw)]
	}
	return nil
}

// foldInbox makes one key of all spellings of INBOX.
func foldInbox(raw string) string {
	if strings.EqualFold(raw, "INBOX") {
		return "INBOX"
	}
	return raw
}

// listEntry reads `(attrs) "delimiter" name` (RFC 9051 7.3.1).
func (c *Client) listEntry(to *[]ListEntry) (lineState, error) {
	s := c.conn.scan
	var e ListEntry
	s.blanks()
	if s.accept('(') {
		for {
			s.blanks()
			if s.accept(')') {
				break
			}
			attr, err := s.token()
			if err != nil {
				return lineOpen, err
			}
			if len(attr) == 0 {
				return lineOpen, syntaxf("LIST attributes")
			}
			e.Attrs = append(e.Attrs, imap.MailboxAttr(attr))
		}
	}
	s.blanks()
	delim, null, err := s.str()
	if err != nil {
		return lineOpen, err
	}
	if !null {
		e.Delimiter = string(delim)
	}
	s.blanks()
	name, err := c.mailboxName()
	if err != nil {
		return lineOpen, err
	}
	e.Raw = name
	e.Name, e.ValidName = DecodeName(e.Raw)
	*to = append(*to, e)
	return lineOpen, nil
}

// mailboxName reads a name in any form; it may be empty only when it is quoted.
func (c *Client) mailboxName() (string, error) {
	s := c.conn.scan
	b, _, err := s.str()
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		if p, err := s.peek(); err == nil && (p == '\r' || p == '\n') {
			return "", syntaxf("mailbox name missing")
		}
	}
	return string(b), nil
}

// statusData reads `name (ITEM value ...)`.
func (c *Client) statusData(seen map[string]*Status) (lineState, error) {
	s := c.conn.scan
	s.blanks()
	name, err := c.mailboxName()
	if err != nil {
		return lineOpen, err
	}
	st := &Status{}
	s.blanks()
	if !s.accept('(') {
		return lineOpen, syntaxf("STATUS without a list")
	}
	for {
		s.blanks()
		if s.accept(')') {
			seen[foldInbox(name)] = st
			return lineOpen, nil
		}
		item, err := s.token()
		if err != nil {
			return lineOpen, err
		}
		key := strings.ToUpper(string(item))
		s.blanks()
		n, err := s.number()
		if err != nil {
			return lineOpen, err
		}
		switch key {
		case "MESSAGES":
			st.Messages = uint32(n)
		case "UIDNEXT":
			st.UIDNext = uint32(n)
		case "UIDVALIDITY":
			st.UIDValidity = uint32(n)
		case "HIGHESTMODSEQ":
			st.HighestModSeq = n
		}
	}
}

// namespaceData reads three lists of namespaces.
func (c *Client) namespaceData(ns *Namespaces) error {
	s := c.conn.scan
	for _, to := range []*[]backend.Namespace{&ns.Personal, &ns.Other, &ns.Shared} {
		s.blanks()
		if !s.accept('(') {
			if err := s.skipValue(); err != nil { // NIL
				return err
			}
			continue
		}
		for {
			s.blanks()
			if s.accept(')') {
				break
			}
			n, err := c.namespace()
			if err != nil {
				return err
			}
			*to = append(*to, n)
		}
	}
	return nil
}

func (c *Client) namespace() (backend.Namespace, error) {
	s := c.conn.scan
	var n backend.Namespace
	if !s.accept('(') {
		return n, syntaxf("NAMESPACE")
	}
	prefix, _, err := s.str()
	if err != nil {
		return n, err
	}
	n.Prefix, _ = DecodeName(string(prefix))
	s.blanks()
	delim, null, err := s.str()
	if err != nil {
		return n, err
	}
	if !null {
		n.Delimiter = string(delim)
	}
	for {
		s.blanks()
		if s.accept(')') {
			return n, nil
		}
		if p, err := s.peek(); err != nil || p == '\r' || p == '\n' {
			return n, syntaxf("NAMESPACE is cut off")
		}
		if err := s.skipValue(); err != nil {
			return n, err
		}
	}
}
