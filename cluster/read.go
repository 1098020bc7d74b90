package cluster

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"

	"mailferry/cluster/engine"
)

// linearize returns when the state visible here holds every command that was
// acknowledged anywhere before the call.
func (g *group) linearize(ctx context.Context) error {
	if err := g.node.fault.get(); err != nil {
		return err
	}
	if g.single() && g.serving.Load() {
		return nil // what was acknowledged was applied here
	}
	r, err := g.startRead()
	if err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", engine.ErrNotLeader, ctx.Err())
	}
}

func (g *group) startRead() (*read, error) {
	r := &read{g: g, done: make(chan error, 1)}
	if !g.node.inbox.read(r) {
		return nil, engine.ErrStopped
	}
	return r, nil
}

// askReads starts a round of ReadIndex for the reads that wait, unless one is
// under way: those that came after its start need the next one. Without a leader
// they wait a little for one.
func (g *group) askReads() {
	if len(g.reads) == 0 || len(g.asked) > 0 || g.leader.Load() == 0 {
		return
	}
	g.asked, g.reads = g.reads, nil
	g.askedID++
	g.askedTick = g.node.ticks
	g.rn.ReadIndex(g.readContext())
}

// readContext names the round under way. No other round has that name, not even
// one of an earlier start, whose answer may be late.
func (g *group) readContext() []byte {
	return appendID(make([]byte, 0, 16), entryID{g.node.origin, g.askedID})
}

func (g *group) confirmReads(states []raft.ReadState) {
	for _, s := range states {
		if len(g.asked) == 0 || !bytes.Equal(s.RequestCtx, g.readContext()) {
			continue // the answer to a round that was given up
		}
		g.confirmed = append(g.confirmed, confirmedReads{s.Index, g.asked})
		g.asked = nil
	}
	g.releaseReads()
	g.askReads()
}

// releaseReads ends the confirmed reads whose index is applied.
func (g *group) releaseReads() {
	applied := g.applied.Load()
	kept := g.confirmed[:0]
	for _, c := range g.confirmed {
		if c.index > applied {
			kept = append(kept, c)
			continue
		}
		for _, r := range c.reads {
			r.done <- nil
		}
	}
	clear(g.confirmed[len(kept):])
	g.confirmed = kept
}

// askAgain makes the reads under way wait for the new leader.
func (g *group) askAgain() {
	if len(g.asked) == 0 {
		return
	}
	g.reads = append(g.asked, g.reads...)
	g.readsTick = g.askedTick
	g.asked = nil
	g.askedID++
}

// failReads ends the reads that are not confirmed yet.
func (g *group) failReads(err error) {
	for _, r := range g.asked {
		r.done <- err
	}
	for _, r := range g.reads {
		r.done <- err
	}
	g.asked, g.reads = nil, nil
	g.askedID++
}

// view implements engine.View.
type view struct {
	keyspace
	n    *Node
	snap *pebble.Snapshot
}

func (g *group) newView(ctx context.Context) (engine.View, error) {
	if err := g.linearize(ctx); err != nil {
		return nil, err
	}
	if !g.node.users.enter() {
		return nil, engine.ErrStopped
	}
	snap := g.node.state.NewSnapshot()
	return &view{keyspace: keyspace{db: snap, shard: g.id}, n: g.node, snap: snap}, nil
}

// Close implements engine.View.
func (v *view) Close() error {
	if v.snap == nil {
		return nil
	}
	err := v.snap.Close()
	v.snap = nil
	v.n.users.leave()
	return err
}
