package remote

import (
	"context"
	"strings"

	"mailferry/backend"
)

// notifySet asks for all that shows in a copy of an account (RFC 5465).
const notifySet = "NOTIFY SET STATUS (personal (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange))"

// Notify makes the store report changes of all personal mailboxes, to be awaited
// by Idle, and returns their status as of then, by name in the store's octets.
// No mailbox is open afterwards. KindInvalid: the store cannot do so.
func (c *Client) Notify(ctx context.Context) (map[string]*Status, error) {
	if !c.Has("NOTIFY") {
		return nil, backend.NewError(backend.KindInvalid, "The mail store does not offer NOTIFY.")
	}
	seen := make(map[string]*Status)
	cmds := append(c.leave(), command{text(notifySet)})
	rs, err := c.run(ctx, func(r response) (lineState, error) {
		if r.name == "STATUS" {
			return c.statusData(seen)
		}
		return lineUnknown, nil
	}, cmds...)
	if err != nil {
		return nil, err
	}
	last := len(cmds) - 1
	if err := statusOf(cmds[last], rs[last]); err != nil {
		c.conn.caps = without(c.conn.caps, "NOTIFY") // a claim; it is not asked again
		return nil, backend.Errorf(backend.KindInvalid, "The mail store does not offer NOTIFY.", "%w", err)
	}
	return seen, nil
}

// NotifyNone ends Notify.
func (c *Client) NotifyNone(ctx context.Context) error {
	_, err := c.run(ctx, nil, command{text("NOTIFY NONE")})
	return err
}

func without(list []string, name string) (out []string) {
	for _, s := range list {
		if !strings.EqualFold(s, name) {
			out = append(out, s)
		}
	}
	return out
}
