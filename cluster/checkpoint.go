package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// logGrowth counts what the log has grown since the last checkpoint.
type logGrowth struct {
	limit int64
	bytes atomic.Int64
	wake  chan struct{}
}

func (n *Node) noteLogGrowth(bytes int) {
	if n.growth.bytes.Add(int64(bytes)) >= n.growth.limit {
		select {
		case n.growth.wake <- struct{}{}:
		default:
		}
	}
}

// housekeep makes checkpoints when the log has grown enough and cleans up after
// earlier leaders.
func (n *Node) housekeep(stop <-chan struct{}) error {
	for {
		select {
		case <-n.growth.wake:
			if n.growth.bytes.Load() < n.growth.limit {
				continue
			}
			if err := n.checkpoint(); err != nil {
				return err
			}
			if err := n.compact(n.moveByWorker(stop)); err != nil {
				return err
			}
		case <-n.janitor.wake:
			for _, g := range n.janitor.take(nil) {
				if err := g.dropLostStages(); err != nil {
					return err
				}
			}
		case <-n.fault.c:
			return nil
		case <-stop:
			return nil
		}
	}
}

// checkpoint makes all that is applied durable without the log, then cuts the
// log behind it and removes dead segments. The order matters: what the state
// refers to is synced before the state is flushed, and only then may the log,
// from which it could be made again, go.
func (n *Node) checkpoint() error {
	begin := time.Now()
	n.growth.bytes.Store(0)
	n.inbox.call(func() {
		for _, g := range n.groups {
			g.offerTruncation()
		}
	})
	marks := make([]uint64, len(n.groups))
	for i, g := range n.groups {
		marks[i] = g.applied.Load()
	}
	for _, w := range n.workers {
		if err := w.seg.sync(); err != nil {
			return err
		}
	}
	if err := n.segs.syncSealed(); err != nil {
		return err
	}
	dead := n.segs.dead()
	if err := n.flushState(); err != nil {
		return err
	}
	if err := n.truncateLogs(marks); err != nil {
		return err
	}
	if err := n.segs.remove(dead); err != nil {
		return err
	}
	if f := n.opts.Metrics.Checkpoint; f != nil {
		f(time.Since(begin))
	}
	return nil
}

func (n *Node) flushState() error {
	flushed, err := n.state.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
	case <-n.fault.c: // Pebble would try again for ever
	}
	return n.fault.get()
}

func (n *Node) truncateLogs(marks []uint64) error {
	b := n.logs.NewBatch()
	for i, g := range n.groups {
		limit := uint64(math.MaxUint64)
		if !g.single() {
			limit = g.truncatable.Load()
		}
		if err := g.log.truncate(b, min(limit, marks[i]), marks[i]); err != nil {
			return err
		}
		g.checkpointed = marks[i]
	}
	// Not synced: after a crash the log is only longer than it has to be.
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	return errors.Join(n.fault.get(), b.Close())
}

// dropLostStages gives up the chunks of bodies whose writer is gone: those that
// came through another leader or an earlier start, as no more can follow in
// this leader's term, and those this node does not know any more.
func (g *group) dropLostStages() error {
	it, err := g.node.state.NewIter(&pebble.IterOptions{
		LowerBound: newStateKey(g.id, stateStage, nil), UpperBound: newStateKey(g.id, stateStage+1, nil),
	})
	if err != nil {
		return err
	}
	var lost []stageID
	for ok := it.First(); ok; ok = it.Next() {
		id := decodeID(it.Key()[statePrefix:])
		g.mu.Lock()
		if !g.stages[id] {
			lost = append(lost, id)
		}
		g.mu.Unlock()
	}
	for _, id := range lost {
		g.abortStage(id)
	}
	return it.Close()
}

// loadLive reads the counters of live bytes at start.
func (g *group) loadLive() error {
	it, err := g.node.state.NewIter(&pebble.IterOptions{
		LowerBound: newStateKey(g.id, stateLive, nil), UpperBound: newStateKey(g.id, stateLive+1, nil),
	})
	if err != nil {
		return err
	}
	all := map[uint32]int64{}
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) != statePrefix+4 || len(it.Value()) != 8 {
			return errors.Join(fmt.Errorf("cluster: damaged counter %q", it.Key()), it.Close())
		}
		id := binary.BigEndian.Uint32(it.Key()[statePrefix:])
		g.live[id] = int64(binary.BigEndian.Uint64(it.Value()))
		all[id] = g.live[id]
	}
	g.node.segs.addLive(all)
	return it.Close()
}
