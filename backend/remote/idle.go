package remote

import (
	"context"
	"time"
)

// Idle waits until the store reports anything on the selected mailbox, d has
// passed, or ctx ends. It ends IDLE itself (RFC 2177). changed is true when
// something was reported. The connection stays usable, unless ctx ended.
func (c *Client) Idle(ctx context.Context, d time.Duration) (changed bool, err error) {
	if c.broken != nil {
		return false, c.broken
	}
	defer c.conn.link.watch(ctx)()
	if err := c.settle(ctx); err != nil {
		return false, err
	}
	tag := c.conn.nextTag()
	if err := c.conn.send(tag + " IDLE\r\n"); err != nil {
		return false, c.fail(ctx, err)
	}
	seen := make(chan struct{}, 1)
	finished := make(chan struct{})
	done := make(chan struct{})
	go func() { // ends with this call
		defer close(finished)
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-seen:
		case <-done:
			return
		}
		_, _ = c.conn.link.Write([]byte("DONE\r\n"))
	}()
	defer func() { close(done); <-finished }()
	c.conn.link.setTimeout(d + ProgressTimeout)
	defer c.conn.link.setTimeout(ProgressTimeout)
	for {
		r, err := c.next(func(r response) (lineState, error) {
			if !r.status() && !changed {
				changed = true
				seen <- struct{}{}
			}
			return lineUnknown, nil
		})
		if err != nil {
			return changed, c.fail(ctx, err)
		}
		if r.tag == tag {
			if r.name != "OK" {
				return changed, statusError("IDLE", r)
			}
			return changed, nil
		}
	}
}
