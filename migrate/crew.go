package migrate

import (
	"cmp"
	"sync"
	"time"
)

// tripWorker is the round trip that is worth one more set of workers: at a
// distance a worker spends its time waiting, and small mailboxes have to be
// many at a time to fill the line.
const tripWorker = 20 * time.Millisecond

// crew are the workers of a batch. Safe for concurrent use.
type crew struct {
	hire func() // called by a worker, or before there is one

	mu sync.Mutex
	n  int // guarded by mu
}

// grow makes the workers at least n.
func (c *crew) grow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.n < n; c.n++ {
		c.hire()
	}
}

// workersAt is how many workers copy at once when a store is rtt away, and
// parallel are wanted near by: never more than most.
func workersAt(parallel, most int, rtt time.Duration) int {
	return max(parallel, min(most, parallel+int(time.Duration(parallel)*rtt/tripWorker)))
}

// widen lets more users be moved at a time when the source turned out to be far
// away; within what it may get of connections.
func (d *driver) widen() {
	if d.crew == nil || d.acct == nil || d.acct.client == nil {
		return
	}
	rtt := d.acct.client.RTT()
	if rtt < d.acct.lines.far {
		return
	}
	d.crew.grow(min(len(d.b.spec.Users), workersAt(cmp.Or(d.b.spec.Parallel, 4), linesOf(d.route.from), rtt)))
}
