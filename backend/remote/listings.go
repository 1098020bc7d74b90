package remote

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// MailboxListing is one mailbox that Listings opens and lists.
type MailboxListing struct {
	Raw     string
	Options SelectOptions
	Query   FetchMeta
	Meta    func(*Meta) error

	// What came of it. Err is the store's refusal of either command: then
	// nothing that Meta got is to be believed.
	Selected *Selected
	Gone     imap.UIDSet
	Err      error
}

// Queueable reports whether a mailbox's name can be sent without waiting for
// the store's consent in between.
func (c *Client) Queueable(raw string) bool { return quotable(raw) || c.Has("LITERAL+") }

// Listings opens mailboxes one after the other and lists each, all in one round
// trip. Modseqs are asked for where the store has them at all: a mailbox
// without them may refuse its listing for that. The last mailbox stays open. An
// error is the connection's, or of a Meta.
func (c *Client) Listings(ctx context.Context, boxes []*MailboxListing) error {
	cmds := make([]command, 0, 2*len(boxes))
	for _, b := range boxes {
		cmd, _ := c.examine(b.Raw, b.Options)
		cmds = append(cmds, cmd, b.Query.command(c.condstore()))
		b.Selected = &Selected{Raw: b.Raw, Resynced: b.Options.QResync != nil}
	}
	turn := 0 // of the command whose answers come
	_, err := c.runEach(ctx, func(r response) (lineState, error) {
		b := boxes[min(turn/2, len(boxes)-1)]
		if turn%2 == 0 {
			return c.selectData(b.Selected, b.Options, r)
		}
		return c.metaHandler(&b.Gone, b.Meta)(r)
	}, func(i int, r response) error {
		b := boxes[i/2]
		if err := statusOf(cmds[i], r); err != nil && b.Err == nil {
			b.Err = err
		}
		if turn = i + 1; i%2 == 0 {
			c.selected = b.Selected
			if q := b.Options.QResync; q != nil && b.Selected.UIDValidity != q.UIDValidity {
				b.Selected.Resynced = false
			}
		}
		return nil
	}, cmds...)
	if n := len(boxes); err == nil && n > 0 && boxes[n-1].Err != nil {
		c.selected = nil
	}
	return err
}
