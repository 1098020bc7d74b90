package remote

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// inTurn runs cmds without waiting in between, a few at a time; errs has what
// the store said to each, nil for OK. err is the connection's.
func (c *Client) inTurn(ctx context.Context, cmds []command) (errs []error, err error) {
	for len(cmds) > 0 {
		n := min(len(cmds), 200)
		rs, err := c.run(ctx, nil, cmds[:n]...)
		if err != nil {
			return nil, err
		}
		for i := range rs {
			errs = append(errs, statusOf(cmds[i], rs[i]))
		}
		cmds = cmds[n:]
	}
	return errs, nil
}

// NewMailbox is a mailbox to create.
type NewMailbox struct {
	Raw string
	// Use asks for a special use (RFC 6154) where the store offers
	// CREATE-SPECIAL-USE; a store that refuses it is asked again without.
	Use imap.MailboxAttr
}

// CreateMailboxes creates mailboxes in one round trip; errs says of each what
// the store did not do. One that exists is an error of its own kind only where
// the store says so: list afterwards.
func (c *Client) CreateMailboxes(ctx context.Context, boxes []NewMailbox) (errs []error, err error) {
	cmds := make([]command, len(boxes))
	again := false
	for i, b := range boxes {
		cmds[i] = command{text("CREATE "), wire(b.Raw)}
		if b.Use != "" && c.Has("CREATE-SPECIAL-USE") {
			cmds[i], again = append(cmds[i], text(" (USE ("+string(b.Use)+"))")), true
		}
	}
	errs, err = c.inTurn(ctx, cmds)
	if err != nil || !again {
		return errs, err
	}
	for i := range errs {
		if errs[i] == nil || len(cmds[i]) < 3 {
			continue
		}
		one, err := c.inTurn(ctx, []command{cmds[i][:2]})
		if err != nil {
			return nil, err
		}
		errs[i] = one[0]
	}
	return errs, nil
}

// Subscribe changes subscriptions in one round trip.
func (c *Client) Subscribe(ctx context.Context, add, remove []string) (errs []error, err error) {
	var cmds []command
	for _, raw := range add {
		cmds = append(cmds, command{text("SUBSCRIBE "), wire(raw)})
	}
	for _, raw := range remove {
		cmds = append(cmds, command{text("UNSUBSCRIBE "), wire(raw)})
	}
	return c.inTurn(ctx, cmds)
}

// DeleteMailbox deletes a mailbox; the selected one is left first.
func (c *Client) DeleteMailbox(ctx context.Context, raw string) error {
	cmds := append(c.leave(), command{text("DELETE "), wire(raw)})
	errs, err := c.inTurn(ctx, cmds)
	if err != nil {
		return err
	}
	return errs[len(errs)-1]
}

// RenameMailbox renames a mailbox; the selected one is left first.
func (c *Client) RenameMailbox(ctx context.Context, from, to string) error {
	cmds := append(c.leave(), command{text("RENAME "), wire(from), text(" "), wire(to)})
	errs, err := c.inTurn(ctx, cmds)
	if err != nil {
		return err
	}
	return errs[len(errs)-1]
}

// SelectMailbox opens a mailbox for changes.
func (c *Client) SelectMailbox(ctx context.Context, raw string) (*Selected, error) {
	return c.open(ctx, command{text("SELECT "), wire(raw)}, raw, SelectOptions{})
}

// SelectEach opens mailboxes one after the other, in one round trip, and tells
// what each is; nil for one that could not be opened. The last stays open.
func (c *Client) SelectEach(ctx context.Context, raws []string) ([]*Selected, error) {
	return c.openEach(ctx, "SELECT ", raws)
}

// ExamineEach is SelectEach without the right to change anything.
func (c *Client) ExamineEach(ctx context.Context, raws []string) ([]*Selected, error) {
	return c.openEach(ctx, "EXAMINE ", raws)
}

func (c *Client) openEach(ctx context.Context, verb string, raws []string) ([]*Selected, error) {
	out := make([]*Selected, 0, len(raws))
	for len(raws) > 0 {
		n := min(len(raws), 100)
		part := make([]*Selected, n)
		cmds := make([]command, n)
		for i, raw := range raws[:n] {
			part[i], cmds[i] = &Selected{Raw: raw}, command{text(verb), wire(raw)}
		}
		turn := 0
		_, err := c.runEach(ctx, func(r response) (lineState, error) {
			return c.selectData(part[min(turn, n-1)], SelectOptions{}, r)
		}, func(i int, r response) error {
			turn = i + 1
			c.selected = part[i]
			if r.name != "OK" {
				c.selected, part[i] = nil, nil
				if i == n-1 {
					return nil
				}
			}
			return nil
		}, cmds...)
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
		raws = raws[n:]
	}
	return out, nil
}

// FlagChange is what a STORE does with the flags that it names.
type FlagChange string

// ReplaceFlags puts them in the place of those that are there.
const (
	ReplaceFlags FlagChange = "FLAGS.SILENT"
	AddFlags     FlagChange = "+FLAGS.SILENT"
	RemoveFlags  FlagChange = "-FLAGS.SILENT"
)

// FlagStore changes the flags of messages of the selected mailbox.
type FlagStore struct {
	UIDs   imap.UIDSet
	Change FlagChange // empty: ReplaceFlags
	Flags  []imap.Flag
}

// StoreFlags changes flags in one round trip; errs says of each what the store
// refused.
func (c *Client) StoreFlags(ctx context.Context, changes []FlagStore) (errs []error, err error) {
	cmds := make([]command, len(changes))
	for i, ch := range changes {
		names := make([]string, len(ch.Flags))
		for j, f := range ch.Flags {
			names[j] = string(f)
		}
		cmds[i] = command{text(fmt.Sprintf("UID STORE %s %s (%s)", ch.UIDs, cmp.Or(ch.Change, ReplaceFlags), strings.Join(names, " ")))}
	}
	return c.inTurn(ctx, cmds)
}

// ExpungeUIDs removes messages that carry \Deleted, and only those named. It
// needs UIDPLUS (RFC 4315).
func (c *Client) ExpungeUIDs(ctx context.Context, set imap.UIDSet) error {
	_, err := c.one(ctx, nil, command{text("UID EXPUNGE " + set.String())})
	return err
}
