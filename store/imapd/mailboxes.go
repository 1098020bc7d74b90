package imapd

import (
	"context"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// mailboxArgument reads the only argument of a command.
func (s *session) mailboxArgument(c *call) (name backend.MailboxName, err error) {
	if !c.d.ExpectSP() {
		return "", c.d.Err()
	}
	err = s.expectMailbox(c, &name)
	if !c.d.ExpectEnd() {
		return "", c.d.Err()
	}
	return name, err
}

// runCreate: a name may end in the delimiter, as a sign that children will
// follow (RFC 3501 section 6.3.3); USE is RFC 6154.
func runCreate(ctx context.Context, s *session, c *call) error {
	var wire string
	if !c.d.ExpectSP() || !c.d.ExpectAString(&wire) {
		return c.d.Err()
	}
	var use []imap.MailboxAttr
	if c.d.SP() {
		c.d.ExpectList(func() bool {
			return c.d.Word("USE") && c.d.ExpectSP() && c.d.ExpectList(func() bool {
				var f imap.Flag
				ok := c.d.ExpectFlag(&f)
				use = append(use, imap.MailboxAttr(f))
				return ok
			})
		})
	}
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	for i, u := range use {
		known, ok := specialUse(u)
		if !ok {
			return no("USEATTR", "Unknown special use")
		}
		use[i] = known
	}
	if d := s.namespace().Delimiter; len(wire) > len(d) {
		wire = strings.TrimSuffix(wire, d)
	}
	name, err := s.mailboxName(wire)
	if err != nil {
		return err
	}
	_, err = s.account.Create(ctx, name, use)
	return err
}

// specialUse finds an attribute of RFC 6154 in its proper case.
func specialUse(a imap.MailboxAttr) (imap.MailboxAttr, bool) {
	for _, k := range []imap.MailboxAttr{imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrFlagged,
		imap.MailboxAttrJunk, imap.MailboxAttrSent, imap.MailboxAttrTrash, imap.MailboxAttrAll, imap.MailboxAttrImportant} {
		if strings.EqualFold(string(k), string(a)) {
			return k, true
		}
	}
	return "", false
}

func runDelete(ctx context.Context, s *session, c *call) error {
	name, err := s.mailboxArgument(c)
	if err != nil {
		return err
	}
	return s.account.Delete(ctx, name)
}

func runRename(ctx context.Context, s *session, c *call) error {
	var from, to backend.MailboxName
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	fromErr := s.expectMailbox(c, &from)
	if !c.d.ExpectSP() {
		return c.d.Err()
	}
	toErr := s.expectMailbox(c, &to)
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if fromErr != nil {
		return fromErr
	}
	if toErr != nil {
		return toErr
	}
	return s.account.Rename(ctx, from, to)
}

func runSubscribe(ctx context.Context, s *session, c *call) error {
	name, err := s.mailboxArgument(c)
	if err != nil {
		return err
	}
	return s.account.Subscribe(ctx, name, c.name == "SUBSCRIBE")
}
