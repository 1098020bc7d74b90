package cluster

import (
	"context"
	"fmt"
	"sync"

	"mailferry/cluster/engine"
)

// proposal is one entry on its way into a shard's log. Whoever takes it off the
// pending map, or off the inbox before that, calls finish, once.
type proposal struct {
	g       *group
	id      entryID
	data    []byte
	cost    int64
	forward bool   // may go to another node's leader
	expires uint64 // driver tick at which a forwarded one is given up
	pins    []uint32
	done    chan outcome
}

type outcome struct {
	result []byte
	err    error
}

func (p *proposal) finish(result []byte, err error) {
	p.g.node.slots.Release(p.cost)
	p.g.node.segs.unpin(p.pins)
	p.done <- outcome{result, err}
}

// wait returns the outcome, or ErrUnknownOutcome when ctx ends before.
func (p *proposal) wait(ctx context.Context) ([]byte, error) {
	select {
	case o := <-p.done:
		return o.result, o.err
	default:
	}
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, ctx.Err())
	}
}

// cost is what an entry of n bytes takes of the bound on proposals in flight.
func (n *Node) cost(size int) int64 {
	return min(int64(size)+n.opts.MaxProposalBytes/n.opts.MaxProposals, n.opts.MaxProposalBytes)
}

// submit hands an entry to the driver. It waits for room among the proposals in
// flight; an error means that the entry will never be in the log. The pins are
// taken back when the proposal ends, with an error they stay the caller's.
func (g *group) submit(ctx context.Context, id entryID, data []byte, forward bool, pins []uint32) (*proposal, error) {
	if err := g.mayPropose(forward); err != nil {
		return nil, err
	}
	cost := g.node.cost(len(data))
	if err := g.node.slots.Acquire(ctx, cost); err != nil {
		return nil, err
	}
	return g.enqueue(id, data, cost, forward, pins)
}

// trySubmit is submit for entries that may as well be dropped, or for callers
// that must not wait.
func (g *group) trySubmit(id entryID, data []byte, forward bool, pins []uint32) (*proposal, error) {
	if err := g.mayPropose(forward); err != nil {
		return nil, err
	}
	cost := g.node.cost(len(data))
	if !g.node.slots.TryAcquire(cost) {
		return nil, fmt.Errorf("%w: too many proposals in flight", engine.ErrNotLeader)
	}
	return g.enqueue(id, data, cost, forward, pins)
}

func (g *group) mayPropose(forward bool) error {
	if err := g.node.fault.get(); err != nil {
		return err
	}
	if !forward && !g.leads.Load() {
		return engine.ErrNotLeader
	}
	return nil
}

func (g *group) enqueue(id entryID, data []byte, cost int64, forward bool, pins []uint32) (*proposal, error) {
	p := &proposal{g: g, id: id, data: data, cost: cost, forward: forward, pins: pins, done: make(chan outcome, 1)}
	if !g.node.inbox.propose(p) {
		g.node.slots.Release(cost)
		return nil, engine.ErrStopped
	}
	return p, nil
}

// takePending removes and returns the proposal with this id, or nil: it may be
// another node's, or given up.
func (g *group) takePending(id entryID) *proposal {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pending[id]
	if p != nil {
		delete(g.pending, id)
	}
	return p
}

func (g *group) addPending(p *proposal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending[p.id] = p
}

// failPending ends the pending proposals that sel selects.
func (g *group) failPending(err error, sel func(*proposal) bool) {
	g.mu.Lock()
	var failed []*proposal
	for id, p := range g.pending {
		if sel(p) {
			failed = append(failed, p)
			delete(g.pending, id)
		}
	}
	g.mu.Unlock()
	for _, p := range failed {
		p.finish(nil, err)
	}
}

// inbox is what waits for the driver.
type inbox struct {
	wake chan struct{}

	mu       sync.Mutex
	refuse   bool // no new proposals and reads
	limit    int  // of messages
	work     inboxWork
	anything bool
}

type inboxWork struct {
	proposals []*proposal
	reads     []*read
	messages  []Envelope
	local     []localResponses
	calls     []func()
}

func newInbox(limit int) *inbox { return &inbox{wake: make(chan struct{}, 1), limit: limit} }

// poke wakes the driver; with mu held.
func (b *inbox) poke() {
	if b.anything {
		return
	}
	b.anything = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) propose(p *proposal) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse {
		return false
	}
	b.work.proposals = append(b.work.proposals, p)
	b.poke()
	return true
}

func (b *inbox) read(r *read) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse {
		return false
	}
	b.work.reads = append(b.work.reads, r)
	b.poke()
	return true
}

// receive returns how many messages were dropped.
func (b *inbox) receive(batch []Envelope) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(batch), b.limit-len(b.work.messages))
	b.work.messages = append(b.work.messages, batch[:n]...)
	b.poke()
	return len(batch) - n
}

func (b *inbox) respond(r []localResponses) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.work.local = append(b.work.local, r...)
	b.poke()
}

// call has f run by the driver.
func (b *inbox) call(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.work.calls = append(b.work.calls, f)
	b.poke()
}

// take returns all that waits; old is given back for its memory.
func (b *inbox) take(old inboxWork) inboxWork {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.work
	b.work = old
	b.anything = false
	return w
}

func (b *inbox) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = true
}

func (w *inboxWork) reset() {
	clear(w.proposals)
	clear(w.reads)
	clear(w.messages)
	clear(w.local)
	clear(w.calls)
	w.proposals, w.reads, w.messages = w.proposals[:0], w.reads[:0], w.messages[:0]
	w.local, w.calls = w.local[:0], w.calls[:0]
}

// queue hands tasks from one goroutine to another.
type queue[T any] struct {
	wake  chan struct{}
	mu    sync.Mutex
	tasks []T
}

func newQueue[T any]() *queue[T] { return &queue[T]{wake: make(chan struct{}, 1)} }

func (q *queue[T]) add(tasks []T) {
	q.mu.Lock()
	q.tasks = append(q.tasks, tasks...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits; old is given back for its memory.
func (q *queue[T]) take(old []T) []T {
	clear(old)
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tasks
	q.tasks = old[:0]
	return t
}
