package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// ACLChange gives an identifier rights on a mailbox in the place of those that it
// has, or takes its entry away.
type ACLChange struct {
	Raw, Identifier, Rights string
	Delete                  bool
}

// ChangeACLs runs SETACL and DELETEACL (RFC 4314) in their order; errs says of
// each what the store refused. err is the connection's.
func (c *Client) ChangeACLs(ctx context.Context, changes []ACLChange) (errs []error, err error) {
	cmds := make([]command, len(changes))
	for i, ch := range changes {
		if ch.Delete {
			cmds[i] = command{text("DELETEACL "), wire(ch.Raw), text(" "), wire(ch.Identifier)}
			continue
		}
		cmds[i] = command{text("SETACL "), wire(ch.Raw), text(" "), wire(ch.Identifier), text(" "), wire(ch.Rights)}
	}
	return c.inTurn(ctx, cmds)
}

// MyRights are the rights of the user who is logged in, sorted; a mailbox that
// the store does not tell of is missing.
func (c *Client) MyRights(ctx context.Context, raws []string) (map[string]string, error) {
	out := make(map[string]string, len(raws))
	for len(raws) > 0 {
		n := min(len(raws), 200)
		cmds := make([]command, n)
		for i, raw := range raws[:n] {
			cmds[i] = command{text("MYRIGHTS "), wire(raw)}
		}
		turn := 0
		_, err := c.runEach(ctx, func(r response) (lineState, error) {
			if r.name != "MYRIGHTS" {
				return lineUnknown, nil
			}
			if err := c.skipName(); err != nil {
				return lineOpen, err
			}
			c.conn.scan.blanks()
			rights, err := c.string()
			out[raws[min(turn, n-1)]] = sortRights(rights)
			return lineOpen, err
		}, func(i int, _ response) error {
			turn = i + 1
			return nil
		}, cmds...)
		if err != nil {
			return nil, err
		}
		raws = raws[n:]
	}
	return out, nil
}

// OldRights reports a store that has the rights of RFC 2086 only: c and d in
// the place of k, x, t and e (RFC 4314, 2.1.1).
func (c *Client) OldRights() bool {
	for _, name := range c.conn.caps {
		if strings.HasPrefix(name, "RIGHTS=") {
			return false
		}
	}
	return true
}

// MetadataChange sets one annotation of a mailbox (RFC 5464), of the server when
// Raw is empty.
type MetadataChange struct {
	Raw, Entry string
	Value      []byte // nil removes it
}

// SetMetadata sets annotations, each by a command of its own; errs says of each
// what the store refused, by kind: KindOverQuota for TOOMANY and no room,
// KindTooLarge for MAXSIZE.
func (c *Client) SetMetadata(ctx context.Context, changes []MetadataChange) (errs []error, err error) {
	cmds := make([]command, len(changes))
	for i, ch := range changes {
		cmds[i] = command{text("SETMETADATA "), wire(ch.Raw), text(" ("), wire(ch.Entry), text(" ")}
		if ch.Value == nil {
			cmds[i] = append(cmds[i], text("NIL)"))
		} else {
			cmds[i] = append(cmds[i], wire(string(ch.Value)), text(")"))
		}
	}
	errs, err = c.inTurn(ctx, cmds)
	for i, e := range errs {
		errs[i] = metadataKind(e)
	}
	return errs, err
}

// metadataKind reads the codes of RFC 5464, 4.3.
func metadataKind(err error) error {
	var s *StatusError
	if !errors.As(err, &s) {
		return err
	}
	kind := backend.KindOf(err)
	switch code := s.Code + " " + s.Text; {
	case strings.Contains(code, "MAXSIZE"):
		kind = backend.KindTooLarge
	case strings.Contains(code, "TOOMANY"), s.Code == "OVERQUOTA", s.Code == "NOQUOTA":
		kind = backend.KindOverQuota
	}
	return &backend.Error{Kind: kind, Text: "The mail store refused an annotation.", Err: s}
}

// SetQuota limits a quota root (RFC 9208) to exactly these resources.
func (c *Client) SetQuota(ctx context.Context, root string, limits []backend.QuotaLimit) error {
	list := make([]string, len(limits))
	for i, l := range limits {
		list[i] = fmt.Sprintf("%s %d", l.Resource, l.Limit)
	}
	_, err := c.one(ctx, nil, command{text("SETQUOTA "), wire(root), text(" (" + strings.Join(list, " ") + ")")})
	return err
}

// QuotaOf are the roots of one mailbox with their limits.
func (c *Client) QuotaOf(ctx context.Context, raw string) ([]backend.QuotaRoot, error) {
	s := &Side{}
	if err := c.ask(ctx, s, []question{{"quota", raw, command{text("GETQUOTAROOT "), wire(raw)}}}); err != nil {
		return nil, err
	}
	return s.Quotas, nil
}

// SpecialUses are the mailboxes that have a special use (RFC 6154), by name.
func (c *Client) SpecialUses(ctx context.Context) (map[string][]imap.MailboxAttr, error) {
	out := make(map[string][]imap.MailboxAttr)
	var list []ListEntry
	cmd := command{text(`LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)`)}
	if !c.Has("LIST-EXTENDED") {
		cmd = command{text(`LIST "" "*"`)}
	}
	if _, err := c.one(ctx, func(r response) (lineState, error) {
		if r.name == "LIST" {
			return c.listEntry(&list)
		}
		return lineUnknown, nil
	}, cmd); err != nil {
		return nil, err
	}
	for _, e := range list {
		out[e.Raw] = append(out[e.Raw], e.Attrs...)
	}
	return out, nil
}

// Kind is what the store is: its configured type, or what it says of itself (RFC
// 2971) when that is generic.
func (c *Client) Kind(ctx context.Context) (backend.StoreType, error) {
	if c.profile.Type != backend.StoreGeneric || !c.Has("ID") {
		return c.profile.Type, nil
	}
	var says string
	_, err := c.run(ctx, func(r response) (lineState, error) {
		if r.name != "ID" {
			return lineUnknown, nil
		}
		sc := c.conn.scan
		sc.blanks()
		if !sc.accept('(') {
			return lineOpen, nil
		}
		for {
			if sc.blanks(); sc.accept(')') {
				return lineOpen, nil
			}
			word, err := c.string()
			if err != nil {
				return lineOpen, err
			}
			says += " " + strings.ToLower(word)
			sc.blanks()
		}
	}, command{text("ID NIL")})
	switch {
	case err != nil:
		return "", err
	case strings.Contains(says, "dovecot"):
		return backend.StoreDovecot, nil
	case strings.Contains(says, "cyrus"):
		return backend.StoreCyrus, nil
	case strings.Contains(says, "courier"):
		return backend.StoreCourier, nil
	}
	return backend.StoreGeneric, nil
}
