package remote

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"

	"mailferry/backend"
)

// Side is what IMAP tells of an account beside mail. Mailboxes have the names of
// the question.
type Side struct {
	ACLs     map[string][]backend.ACLEntry
	Metadata map[string][]backend.MetadataEntry // "": the server's
	Quotas   []backend.QuotaRoot
	// Refused are questions that the store announces and does not answer.
	Refused []SideRefusal
	// TooLarge names annotations of more than backend.MaxSideValue octets.
	TooLarge []SideRefusal
}

// SideRefusal is a question about a mailbox that has no answer.
type SideRefusal struct {
	Mailbox, What, Text string
}

// sideGroup mailboxes are asked for in one round trip.
const sideGroup = 100

// Side asks for access rights, annotations and quotas of these mailboxes (RFC
// 4314, RFC 5464, RFC 9208), many in a round trip.
func (c *Client) Side(ctx context.Context, mailboxes []string) (*Side, error) {
	s := &Side{ACLs: map[string][]backend.ACLEntry{}, Metadata: map[string][]backend.MetadataEntry{}}
	if c.Has("METADATA") || c.Has("METADATA-SERVER") {
		if err := c.ask(ctx, s, []question{c.metadataOf("", metadataScopes)}); err != nil {
			return nil, err
		}
	}
	for group := range slices.Chunk(mailboxes, sideGroup) {
		var qs []question
		for _, raw := range group {
			if c.Has("ACL") {
				qs = append(qs, question{"access rights", raw, command{text("GETACL "), wire(raw)}})
			}
			if c.Has("METADATA") {
				qs = append(qs, c.metadataOf(raw, metadataScopes))
			}
			if c.Has("QUOTA") {
				qs = append(qs, question{"quota", raw, command{text("GETQUOTAROOT "), wire(raw)}})
			}
		}
		if err := c.ask(ctx, s, qs); err != nil {
			return nil, err
		}
	}
	s.sort()
	return s, nil
}

// question is a command about a mailbox.
type question struct {
	what, mailbox string
	cmd           command
}

const metadataScopes = "(/private /shared)"

func (c *Client) metadataOf(raw, scopes string) question {
	return question{"annotations", raw, command{text("GETMETADATA (DEPTH infinity) "), wire(raw), text(" " + scopes)}}
}

// ask runs the questions in one round trip; the answers come in their order.
func (c *Client) ask(ctx context.Context, s *Side, qs []question) error {
	if len(qs) == 0 {
		return nil
	}
	cmds := make([]command, len(qs))
	for i, q := range qs {
		cmds[i] = q.cmd
	}
	turn := 0
	_, err := c.runEach(ctx, func(r response) (lineState, error) {
		return c.sideData(s, qs[min(turn, len(qs)-1)].mailbox, r)
	}, func(i int, r response) error {
		turn = i + 1
		if err := statusOf(cmds[i], r); err != nil && r.code != "NONEXISTENT" {
			s.Refused = append(s.Refused, SideRefusal{qs[i].mailbox, qs[i].what, err.Error()})
		}
		return nil
	}, cmds...)
	return err
}

func (c *Client) sideData(s *Side, mailbox string, r response) (lineState, error) {
	switch r.name {
	case "ACL":
		return lineOpen, c.aclData(s, mailbox)
	case "METADATA":
		return lineOpen, c.metadata(s, mailbox)
	case "QUOTA":
		return lineOpen, c.quotaData(s)
	case "QUOTAROOT":
		return lineOpen, nil // the roots follow
	}
	return lineUnknown, nil
}

// aclData reads `mailbox identifier rights ...`.
func (c *Client) aclData(s *Side, mailbox string) error {
	if err := c.skipName(); err != nil {
		return err
	}
	var list []backend.ACLEntry
	for c.more() {
		id, err := c.string()
		if err != nil {
			return err
		}
		if !c.more() {
			return syntaxf("an identifier without rights")
		}
		rights, err := c.string()
		if err != nil {
			return err
		}
		list = append(list, backend.ACLEntry{Identifier: id, Rights: sortRights(rights)})
	}
	s.ACLs[mailbox] = list
	return nil
}

// sortRights brings rights into a form that can be compared.
func sortRights(rights string) string {
	b := []byte(rights)
	slices.Sort(b)
	return string(slices.Compact(b))
}

// metadata reads `mailbox (entry value ...)`; one without values only says that
// something changed.
func (c *Client) metadata(s *Side, mailbox string) error {
	if err := c.skipName(); err != nil {
		return err
	}
	sc := c.conn.scan
	sc.blanks()
	if !sc.accept('(') {
		return nil
	}
	for {
		sc.blanks()
		if sc.accept(')') {
			return nil
		}
		name, err := c.string()
		if err != nil {
			return err
		}
		if name == "" {
			return syntaxf("an annotation without a name")
		}
		sc.blanks()
		value, null, large, err := c.sideValue()
		switch {
		case err != nil:
			return err
		case large:
			s.TooLarge = append(s.TooLarge, SideRefusal{mailbox, name, "too large"})
		case !null && settable(name):
			s.Metadata[mailbox] = append(s.Metadata[mailbox], backend.MetadataEntry{Name: strings.ToLower(name), Value: value})
		}
	}
}

// sideValue reads a string that may be large.
func (c *Client) sideValue() (value []byte, null, large bool, err error) {
	sc := c.conn.scan
	size, literal := sc.literal()
	switch {
	case literal && size > backend.MaxSideValue:
		_, err = io.CopyN(io.Discard, sc.r, size)
		return nil, false, true, noEOF(err)
	case literal:
		value = make([]byte, size)
		_, err = io.ReadFull(sc.r, value)
		return value, false, false, noEOF(err)
	}
	b, null, err := sc.str()
	return slices.Clone(b), null, false, err
}

// settable leaves out what a server tells about itself, which changes by itself
// and means nothing elsewhere.
func settable(name string) bool {
	name = strings.ToLower(name)
	_, ours, cyrus := strings.Cut(name, "/vendor/cmu/cyrus-imapd/")
	if !cyrus {
		_, _, dovecot := strings.Cut(name, "/vendor/vendor.dovecot/pvt/")
		return !dovecot
	}
	return slices.Contains(cyrusSettings, ours)
}

// cyrusSettings are the annotations of Cyrus that people set; the others count
// and date.
var cyrusSettings = []string{"expire", "archive", "delete", "squat", "sieve", "news2mail", "sharedseen", "pop3showafter",
	"duplicatedeliver", "annotsize-limit", "color", "displayname", "newsgroup"}

// quotaData reads `root (resource usage limit ...)`.
func (c *Client) quotaData(s *Side) error {
	sc := c.conn.scan
	sc.blanks()
	root, err := c.string()
	if err != nil {
		return err
	}
	q := backend.QuotaRoot{Root: root}
	sc.blanks()
	if !sc.accept('(') {
		return syntaxf("QUOTA without a list")
	}
	for {
		sc.blanks()
		if sc.accept(')') {
			break
		}
		name, err := sc.token()
		if err != nil {
			return err
		}
		l := backend.QuotaLimit{Resource: strings.ToUpper(string(name))}
		for _, to := range []*int64{&l.Usage, &l.Limit} {
			sc.blanks()
			n, err := sc.number()
			if err != nil {
				return err
			}
			*to = int64(min(n, 1<<62))
		}
		q.Limits = append(q.Limits, l)
	}
	if !slices.ContainsFunc(s.Quotas, func(have backend.QuotaRoot) bool { return have.Root == root }) {
		s.Quotas = append(s.Quotas, q)
	}
	return nil
}

// more reports whether the line goes on.
func (c *Client) more() bool {
	c.conn.scan.blanks()
	p, err := c.conn.scan.peek()
	return err == nil && p != '\r' && p != '\n'
}

func (c *Client) string() (string, error) {
	b, _, err := c.conn.scan.str()
	return string(b), err
}

func (c *Client) skipName() error {
	c.conn.scan.blanks()
	_, err := c.mailboxName()
	return err
}

func (s *Side) sort() {
	for _, list := range s.ACLs {
		slices.SortFunc(list, func(x, y backend.ACLEntry) int { return strings.Compare(x.Identifier, y.Identifier) })
	}
	for name, list := range s.Metadata {
		slices.SortStableFunc(list, func(x, y backend.MetadataEntry) int { return strings.Compare(x.Name, y.Name) })
		s.Metadata[name] = slices.CompactFunc(list, func(x, y backend.MetadataEntry) bool { return x.Name == y.Name })
	}
	slices.SortFunc(s.Quotas, func(x, y backend.QuotaRoot) int { return strings.Compare(x.Root, y.Root) })
	slices.SortFunc(s.Refused, func(x, y SideRefusal) int {
		return cmp.Or(strings.Compare(x.Mailbox, y.Mailbox), strings.Compare(x.What, y.What))
	})
}
