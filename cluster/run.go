package cluster

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"mailferry/cluster/engine"
)

// bootSingle elects this node in all shards, when it is the only voter, and
// replays what was not applied. It runs before the goroutines start.
func (n *Node) bootSingle() error {
	if len(n.opts.Voters) > 1 {
		return nil
	}
	for _, g := range n.groups {
		if err := g.rn.Campaign(); err != nil {
			return err
		}
		n.mark(g)
	}
	for {
		waiting := false
		for _, g := range n.groups {
			waiting = waiting || !g.serving.Load()
		}
		if !waiting {
			return nil
		}
		if err := n.stepOnce(); err != nil {
			return err
		}
	}
}

// stepOnce does one round of all the work there is, without goroutines.
func (n *Node) stepOnce() error {
	if err := n.pass(); err != nil {
		return err
	}
	if tasks := n.appendQueue.take(nil); len(tasks) > 0 {
		if err := n.persist(tasks); err != nil {
			return err
		}
	}
	for i, w := range n.workers {
		if tasks := n.applyQueues[i].take(nil); len(tasks) > 0 {
			if err := n.applyAll(w, tasks); err != nil {
				return err
			}
		}
	}
	return n.fault.get()
}

// start starts the goroutines: the driver, the housekeeper, the log writer and
// the apply workers. stops ends them in an order in which each still finds
// those it hands work to.
func (n *Node) start() {
	n.spawn(n.drive)
	n.spawn(n.housekeep) // hands work to the apply workers
	n.spawn(func(stop <-chan struct{}) error {
		return drain(stop, n.appendQueue, n.persist)
	})
	for i, w := range n.workers {
		n.spawn(func(stop <-chan struct{}) error {
			return drain(stop, n.applyQueues[i], func(t []applyTask) error { return n.applyAll(w, t) })
		})
	}
}

// spawn runs f until its stop is called or a fault ends it.
func (n *Node) spawn(f func(stop <-chan struct{}) error) {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				n.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		if err := f(stop); err != nil {
			n.fail(err)
		}
	}()
	n.stops = append(n.stops, sync.OnceFunc(func() {
		close(stop)
		<-done
	}))
}

// fail stops the node's work for good.
func (n *Node) fail(err error) {
	if n.fault.get() == nil {
		n.log.Error("the node stops: its data may be damaged or its disk fails", "error", err)
	}
	n.fault.set(err)
}

// drain handles queued tasks until stop is closed, those queued before that
// included.
func drain[T any](stop <-chan struct{}, q *queue[T], handle func([]T) error) error {
	var tasks []T
	for {
		tasks = q.take(tasks)
		if len(tasks) > 0 {
			if err := handle(tasks); err != nil {
				return err
			}
			continue
		}
		select {
		case <-q.wake:
		case <-stop:
			return nil
		}
	}
}

// drive is the driver loop.
func (n *Node) drive(stop <-chan struct{}) error {
	defer n.refuseAll()
	var tick <-chan time.Time
	if len(n.opts.Voters) > 1 {
		c, stopTicker := n.opts.NewTicker(n.opts.Tick)
		defer stopTicker()
		tick = c
	}
	for {
		select {
		case <-n.inbox.wake:
		case <-tick:
			n.tickAll()
		case <-n.fault.c:
			return nil
		case <-stop:
			return nil
		}
		if err := n.pass(); err != nil {
			return err
		}
	}
}

// refuseAll ends everything that waits for the driver, when it ends.
func (n *Node) refuseAll() {
	n.inbox.stop()
	var work inboxWork
	work = n.inbox.take(work)
	for _, p := range work.proposals {
		p.finish(nil, engine.ErrStopped)
	}
	for _, r := range work.reads {
		r.done <- engine.ErrStopped
	}
	err := fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, engine.ErrStopped)
	for _, g := range n.groups {
		for _, p := range append(g.queued, g.waiting...) {
			p.finish(nil, engine.ErrStopped)
		}
		g.queued, g.waiting = nil, nil
		g.failPending(err, func(*proposal) bool { return true })
		g.failReads(engine.ErrStopped)
		for _, c := range g.confirmed {
			for _, r := range c.reads {
				r.done <- engine.ErrStopped
			}
		}
		g.confirmed = nil
	}
}

// Close stops the node: it takes no new proposals, waits for those in flight
// and for open views as long as ctx allows, makes everything durable and closes
// the files. It may be called again and by several; all get the same error.
// Data is safe whatever the error.
func (n *Node) Close(ctx context.Context) error {
	n.closing.Do(func() {
		defer close(n.closed)
		n.closeBy = n.close(ctx)
	})
	<-n.closed
	return n.closeBy
}

func (n *Node) close(ctx context.Context) error {
	n.inbox.stop()
	n.awaitProposals(ctx)
	viewsErr := n.users.close(ctx)
	for _, stop := range n.stops {
		stop()
	}
	n.refuseAll()
	err := n.fault.get()
	if err == nil {
		for _, w := range n.workers {
			w.seg.close()
		}
		if err = n.placer.close(); err == nil {
			err = n.checkpoint()
		}
	}
	if viewsErr != nil {
		return errors.Join(err, viewsErr) // Pebble cannot be closed under its readers
	}
	return errors.Join(err, n.closeFiles())
}

// awaitProposals waits until no proposal is in flight, or ctx or a fault ends it.
func (n *Node) awaitProposals(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		select {
		case <-n.fault.c:
			cancel()
		case <-ctx.Done():
		}
	}()
	if n.slots.Acquire(ctx, n.opts.MaxProposalBytes) == nil {
		n.slots.Release(n.opts.MaxProposalBytes)
	}
	cancel()
	<-stop
}

// closeFiles closes what is open.
func (n *Node) closeFiles() error {
	var errs []error
	for _, db := range []*pebble.DB{n.state, n.logs} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if n.segs != nil {
		n.segs.closeReading()
	}
	if n.cache != nil {
		n.cache.Unref()
	}
	return errors.Join(errs...)
}
