package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"mailferry/cluster/engine"
)

// applyBatchBytes is the size of entries after which a batch is committed even
// if more are waiting.
const applyBatchBytes = 8 << 20

// errStageLost: chunks of a body did not all reach the log. The command was not
// applied and never will be.
var errStageLost = fmt.Errorf("%w: chunks of the body were lost in a change of leader", engine.ErrNotLeader)

// applyTask is a run of committed entries of one shard, or bodies that moved.
type applyTask struct {
	g     *group
	msg   *raftpb.Message
	moved []relocation
	done  chan struct{} // closed when moved is committed
}

// worker applies the entries of the shards that belong to it: several shards'
// entries in one Pebble batch. All fields belong to the goroutine that calls
// apply, except seg, which the checkpointer syncs.
type worker struct {
	node  *Node
	seg   segmentWriter
	batch *pebble.Batch
	tx    tx

	// What the current batch will have done once it is committed.
	touched  []*group
	finished []finished
	live     map[uint32]int64 // change of live bytes by segment
	topics   []topicRef
	commands int
	bytes    int
	buf      []byte
}

type finished struct {
	p      *proposal
	result []byte
	err    error
}

type topicRef struct {
	g     *group
	topic string
	table bool
}

func newWorker(n *Node) *worker {
	w := &worker{node: n, live: map[uint32]int64{}}
	w.seg = segmentWriter{segs: n.segs, limit: n.opts.SegmentBytes}
	return w
}

// apply runs tasks and returns when their effects are visible. An error stops
// the replica: nothing of the failed batch was acknowledged.
func (w *worker) apply(tasks []applyTask) error {
	for _, t := range tasks {
		if t.moved != nil {
			if err := w.relocate(t.g, t.moved); err != nil {
				return err
			}
		}
		for _, e := range t.msg.GetEntries() {
			if err := w.applyEntry(t.g, e); err != nil {
				return fmt.Errorf("apply shard %d index %d: %w", t.g.id, e.GetIndex(), err)
			}
			if w.bytes >= applyBatchBytes {
				if err := w.commit(); err != nil {
					return err
				}
			}
		}
	}
	return w.commit()
}

func (w *worker) applyEntry(g *group, e *raftpb.Entry) error {
	index := e.GetIndex()
	if index != g.passed+1 {
		return fmt.Errorf("expected index %d", g.passed+1)
	}
	if w.batch == nil {
		w.batch = w.node.state.NewIndexedBatch()
	}
	if !g.touched {
		g.touched = true
		w.touched = append(w.touched, g)
	}
	g.passed = index
	w.bytes += len(e.GetData()) + 64
	if len(e.GetData()) == 0 || e.GetType() != raftpb.EntryNormal {
		return nil
	}
	kind, id, payload, err := parseHeader(e.GetData())
	if err != nil {
		return err
	}
	result, refused, err := w.applyKind(g, index, kind, id, payload)
	if err != nil {
		return err
	}
	if p := g.takePending(id); p != nil {
		w.finished = append(w.finished, finished{p, result, refused})
	}
	return nil
}

// applyKind returns the result of the entry or why it was refused. An error
// stops the replica.
func (w *worker) applyKind(g *group, index uint64, kind byte, id entryID, payload []byte) (result []byte, refused, err error) {
	switch kind {
	case kindCommand, kindPlaced:
		w.commands++
		return w.applyCommand(g, index, kind == kindPlaced, payload)
	case kindChunk:
		return nil, nil, w.applyChunk(g, index, payload)
	case kindAbort:
		return nil, nil, w.applyAbort(g, payload)
	case kindTable:
		return w.applyTable(g, index, id, payload)
	case kindTruncate:
		return nil, nil, w.applyTruncate(g, payload)
	}
	return nil, nil, fmt.Errorf("entry of unknown kind %d: written by a newer version?", kind)
}

func (w *worker) applyCommand(g *group, index uint64, placed bool, payload []byte) (result []byte, refused, err error) {
	t := &w.tx
	t.reset(w, g, index)
	cmd, bodies, err := parseCommand(payload, placed, t.bodies)
	if err != nil {
		return nil, nil, err
	}
	t.bodies = bodies
	if err := t.loadStages(); err != nil {
		if errors.Is(err, errStageLost) {
			return nil, err, nil
		}
		return nil, nil, err
	}
	result, err = w.callMachine(t, g.id, cmd)
	if err == nil {
		err = t.err
	}
	if err == nil {
		err = t.storeBodies()
	}
	for _, topic := range t.topics {
		w.topics = append(w.topics, topicRef{g: g, topic: topic})
	}
	return result, nil, err
}

func (w *worker) callMachine(t *tx, shard engine.ShardID, cmd []byte) (result []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("machine panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return w.node.opts.Machine.Apply(t, shard, cmd), nil
}

func (w *worker) applyChunk(g *group, index uint64, payload []byte) error {
	id, no, frames, err := parseChunk(payload)
	if err != nil {
		return err
	}
	rec := &stageRecord{tag: id.origin ^ id.seq}
	v, err := getCopy(w.batch, stageKey(g.id, id))
	if err == nil && v != nil {
		rec, err = decodeStageRecord(v)
	}
	if err != nil {
		return err
	}
	if no != uint64(len(rec.extents)) {
		return nil // one before it is lost: the command will be refused
	}
	ext, err := w.seg.add(frames, index)
	if err != nil {
		return err
	}
	rec.extents = append(rec.extents, ext)
	w.addLive(g, []extent{ext}, 1)
	return w.batch.Set(stageKey(g.id, id), rec.encode(nil), nil)
}

func (w *worker) applyAbort(g *group, payload []byte) error {
	if len(payload) != 16 {
		return errCorruptEntry
	}
	key := stageKey(g.id, decodeID(payload))
	v, err := getCopy(w.batch, key)
	if err != nil || v == nil {
		return err
	}
	rec, err := decodeStageRecord(v)
	if err != nil {
		return err
	}
	w.addLive(g, rec.extents, -1)
	return w.batch.Delete(key, nil)
}

func (w *worker) applyTruncate(g *group, payload []byte) error {
	if len(payload) != 8 {
		return errCorruptEntry
	}
	g.truncatable.Store(max(g.truncatable.Load(), binary.BigEndian.Uint64(payload)))
	return w.batch.Set(newStateKey(g.id, stateTruncate, nil), payload, nil)
}

// addLive counts extents as referred to (sign 1) or not any more (-1).
func (w *worker) addLive(g *group, extents []extent, sign int64) {
	for _, e := range extents {
		d := sign * int64(e.length)
		g.live[e.segment] += d
		g.liveDirty[e.segment] = true
		w.live[e.segment] += d
	}
}

// commit makes the batch visible, then tells everybody who waits for it.
func (w *worker) commit() error {
	if w.batch == nil {
		return nil
	}
	begin := time.Now()
	if err := w.seg.flush(); err != nil {
		return err
	}
	for _, g := range w.touched {
		if err := w.setProgress(g); err != nil {
			return err
		}
	}
	if err := w.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	if err := w.node.fault.get(); err != nil {
		return err
	}
	_ = w.batch.Close() // committed: nothing can fail any more
	w.batch = nil
	w.node.segs.addLive(w.live)
	clear(w.live)
	w.seg.roll()
	w.announce()
	if f := w.node.opts.Metrics.Apply; f != nil && w.commands > 0 {
		f(time.Since(begin), w.commands)
	}
	w.commands, w.bytes = 0, 0
	return nil
}

// setProgress puts the applied index and the changed counters into the batch.
func (w *worker) setProgress(g *group) error {
	w.buf = appendStateKey(w.buf[:0], g.id, stateApplied, nil)
	n := len(w.buf)
	w.buf = binary.BigEndian.AppendUint64(w.buf, g.passed)
	if err := w.batch.Set(w.buf[:n], w.buf[n:], nil); err != nil {
		return err
	}
	for segment := range g.liveDirty {
		key := liveKey(g.id, segment)
		var err error
		if v := g.live[segment]; v > 0 {
			err = w.batch.Set(key, binary.BigEndian.AppendUint64(nil, uint64(v)), nil)
		} else {
			delete(g.live, segment)
			err = w.batch.Delete(key, nil)
		}
		if err != nil {
			return err
		}
	}
	clear(g.liveDirty)
	return nil
}

func (w *worker) announce() {
	for i, g := range w.touched {
		g.applied.Store(g.passed)
		g.touched = false
		w.touched[i] = nil
	}
	w.touched = w.touched[:0]
	// Wake-ups go first: who changed something must not find an old cache.
	for i, t := range w.topics {
		if t.table {
			t.g.node.table.watchers.publishKey(t.topic)
		} else {
			t.g.watchers.publish(t.topic)
		}
		w.topics[i] = topicRef{}
	}
	w.topics = w.topics[:0]
	for i, f := range w.finished {
		f.p.finish(f.result, f.err)
		w.finished[i] = finished{}
	}
	w.finished = w.finished[:0]
}

// abandon tells the proposers of a batch that failed.
func (w *worker) abandon(err error) {
	for _, f := range w.finished {
		f.p.finish(nil, err)
	}
	w.finished = nil
}
