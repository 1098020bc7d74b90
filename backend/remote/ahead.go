package remote

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// ahead are FETCHes of bodies that were sent while a listing was still coming.
// The next FetchBodies takes them over; any other command lets their answers
// pass first.
type ahead struct {
	flight map[string]*request
	order  []string
}

// AskAhead asks for the bodies of messages of the mailbox that Listings opened
// last, and may be called from its Meta, so that they are on their way when the
// listing ends. octets is about what they bring. They are for the FetchBodies that
// comes next; when another command comes first they are read and dropped. A UID
// that does not exist costs nothing. contentIDs is that of a Window.
func (c *Client) AskAhead(set imap.UIDSet, octets int64, contentIDs bool) error {
	if c.broken != nil {
		return c.broken
	}
	c.askIDs = contentIDs
	tag := c.conn.nextTag()
	if _, err := c.conn.w.WriteString(fetchBodies(tag, set, c.bodyItems())); err != nil {
		return err
	}
	if c.ahead.flight == nil {
		c.ahead.flight = make(map[string]*request)
	}
	c.ahead.flight[tag] = &request{set: set, left: octets}
	c.ahead.order = append(c.ahead.order, tag)
	return c.conn.w.Flush()
}

// answered takes a tagged response that came before its turn: what it brought
// is lost.
func (a *ahead) answered(tag string) {
	if a.flight[tag] != nil {
		delete(a.flight, tag)
		a.order = remove(a.order, tag)
	}
}

// settle reads what was asked for ahead, by AskAhead or with the login, and nobody
// took.
func (c *Client) settle(ctx context.Context) error {
	if c.Hasty() {
		if _, err := c.takeQueued(ctx, nil); err != nil {
			return err
		}
	}
	for len(c.ahead.flight) > 0 {
		r, err := c.next(func(r response) (lineState, error) {
			if r.name != "FETCH" {
				return lineUnknown, nil
			}
			_, err := c.fetchData(r.num, nil)
			return lineOpen, err
		})
		if err != nil {
			return c.fail(ctx, err)
		}
		c.ahead.answered(r.tag)
	}
	return nil
}
