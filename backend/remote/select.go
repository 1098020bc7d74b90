package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Selected is a mailbox that is open. Exists follows the store's reports while
// it is.
type Selected struct {
	Raw            string
	Exists         uint32
	Recent         uint32
	UIDValidity    uint32
	UIDNext        uint32 // 0: the store did not say; ask STATUS
	HighestModSeq  uint64 // 0: the mailbox has no modseqs
	PermanentFlags []imap.Flag
	// Vanished are UIDs that were expunged since QResync, as far as the store
	// knows; it may name UIDs that never were.
	Vanished imap.UIDSet
	// Other is the form in which the store took the name, when it was not Raw.
	Other string
	// Resynced: the store took the QRESYNC parameter, so Changed and Vanished
	// tell all that changed.
	Resynced bool
	// MailboxID is the mailbox's OBJECTID (RFC 8474 4.2), "" where none is told.
	MailboxID string
}

// QResync is what we know of a mailbox (RFC 7162 3.2.5).
type QResync struct {
	UIDValidity uint32
	ModSeq      uint64
}

// SelectOptions tell how to open a mailbox. It is always opened read-only,
// except where the profile needs one SELECT.
type SelectOptions struct {
	QResync *QResync // needs Enable("QRESYNC")
	// Changed gets the messages that changed since QResync; the Meta is valid
	// during the call.
	Changed func(*Meta) error
}

// Examine opens a mailbox read-only, so that \Recent stays for the user's own
// clients. KindNotFound when it is gone.
func (c *Client) Examine(ctx context.Context, raw string, o SelectOptions) (*Selected, error) {
	cmd, param := c.examine(raw, o)
	sel, err := c.open(ctx, cmd, raw, o)
	if se := (*StatusError)(nil); param == " (CONDSTORE)" && errors.As(err, &se) && se.Status == "BAD" {
		// A capability is a claim: some announce it and know no parameters.
		sel, err = c.open(ctx, cmd[:2], raw, o)
	}
	if err != nil {
		if other := otherForm(raw); other != "" && !backend.IsKind(err, backend.KindTemporary) && c.broken == nil {
			// It lists names in a form that it does not take back.
			cmd[1] = wire(other)
			if sel, e := c.open(ctx, cmd, raw, o); e == nil {
				sel.Other = other
				return sel, nil
			}
		}
		return nil, err
	}
	if o.QResync != nil && sel.UIDValidity != o.QResync.UIDValidity {
		sel.Resynced = false
	}
	return sel, nil
}

// otherForm is modified UTF-7 of a name that is not; "" for one that is.
func otherForm(raw string) string {
	name, ok := DecodeName(raw)
	if ok {
		return ""
	}
	if other := EncodeName(name); other != raw {
		return other
	}
	return ""
}

// examine is the command that opens a mailbox, its parameter last.
func (c *Client) examine(raw string, o SelectOptions) (cmd command, param string) {
	name := "EXAMINE "
	if c.profile.SelectOnce {
		name = "SELECT "
	}
	switch {
	case o.QResync != nil:
		param = fmt.Sprintf(" (QRESYNC (%d %d))", o.QResync.UIDValidity, o.QResync.ModSeq)
	case c.condstore():
		param = " (CONDSTORE)"
	}
	return command{text(name), wire(raw), text(param)}, param
}

func (c *Client) open(ctx context.Context, cmd command, raw string, o SelectOptions) (*Selected, error) {
	sel := &Selected{Raw: raw, Resynced: o.QResync != nil}
	c.selected = sel
	_, err := c.one(ctx, func(r response) (lineState, error) { return c.selectData(sel, o, r) }, cmd)
	if err != nil {
		c.selected = nil
		return nil, err
	}
	return sel, nil
}

// selectData is one response to SELECT or EXAMINE.
func (c *Client) selectData(sel *Selected, o SelectOptions, r response) (lineState, error) {
	switch r.name {
	case "OK":
		c.selectCode(sel, r)
		return lineRead, nil
	case "EXISTS":
		sel.Exists = r.num
		return lineOpen, nil
	case "RECENT":
		sel.Recent = r.num
		return lineOpen, nil
	case "VANISHED":
		_, set, err := c.vanished()
		sel.Vanished.AddSet(set)
		return lineOpen, err
	case "FETCH":
		m, err := c.fetchData(r.num, nil)
		if err == nil && m.UID != 0 && o.Changed != nil {
			err = o.Changed(m)
		}
		return lineOpen, err
	}
	return lineUnknown, nil
}

// selectCode reads the codes that describe a mailbox (RFC 9051 7.1).
func (c *Client) selectCode(sel *Selected, r response) {
	switch r.code {
	case "CLOSED": // what came before was of the mailbox that was open
		*sel = Selected{Raw: sel.Raw, Resynced: sel.Resynced}
	case "UIDVALIDITY":
		sel.UIDValidity = number32(r.arg)
	case "UIDNEXT":
		sel.UIDNext = number32(r.arg)
	case "HIGHESTMODSEQ":
		sel.HighestModSeq = number64(r.arg)
	case "MAILBOXID":
		sel.MailboxID = strings.Trim(r.arg, "() ")
	case "NOMODSEQ":
		sel.HighestModSeq = 0
	case "PERMANENTFLAGS":
		for _, f := range strings.Fields(strings.Trim(r.arg, "()")) {
			sel.PermanentFlags = append(sel.PermanentFlags, imap.Flag(f))
		}
	default:
		_, _ = c.unsolicited(r) // of status responses it makes no error
	}
}

// vanished reads `(EARLIER) set` (RFC 7162 3.2.10); sets of any length. Without
// EARLIER the messages were there and count down Exists.
func (c *Client) vanished() (earlier bool, set imap.UIDSet, err error) {
	s := c.conn.scan
	s.blanks()
	if s.accept('(') {
		word, err := s.token()
		if err != nil {
			return false, nil, err
		}
		earlier = strings.EqualFold(string(word), "EARLIER")
		s.blanks()
		s.accept(')')
	}
	s.blanks()
	set, err = s.uidSet()
	if !earlier && c.selected != nil && err == nil {
		c.selected.Exists -= min(countUIDs(set), c.selected.Exists)
	}
	return earlier, set, err
}

// uidSet reads a set without "*".
func (s *scanner) uidSet() (imap.UIDSet, error) {
	var set imap.UIDSet
	for {
		lo, err := s.uid()
		if err != nil {
			return set, err
		}
		hi := lo
		if s.accept(':') {
			if hi, err = s.uid(); err != nil {
				return set, err
			}
		}
		set = append(set, imap.UIDRange{Start: min(lo, hi), Stop: max(lo, hi)})
		if !s.accept(',') {
			return set, nil
		}
	}
}

func countUIDs(set imap.UIDSet) (n uint32) {
	for _, r := range set {
		n += uint32(r.Stop-r.Start) + 1
	}
	return n
}

func (s *scanner) uid() (imap.UID, error) {
	n, err := s.number()
	if err != nil {
		return 0, err
	}
	if n == 0 || n > 1<<32-1 {
		return 0, syntaxf("UID %d", n)
	}
	return imap.UID(n), nil
}
