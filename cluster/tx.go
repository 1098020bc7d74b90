package cluster

import (
	"errors"

	"mailferry/cluster/engine"
)

// tx is the engine.Tx of one command. Its methods cannot return errors; the
// first one is kept in err and stops the replica before anything is committed.
type tx struct {
	keyspace
	w      *worker
	g      *group
	index  uint64
	bodies []entryBody
	stages []*stageRecord // of the chunked ones among bodies
	refs   []uint32       // owners of bodies so far
	topics []string
	key    []byte
	err    error
}

func (t *tx) reset(w *worker, g *group, index uint64) {
	clear(t.bodies)
	clear(t.stages)
	*t = tx{
		keyspace: keyspace{db: w.batch, shard: g.id}, w: w, g: g, index: index,
		bodies: t.bodies[:0], stages: t.stages[:0], refs: t.refs[:0], topics: t.topics[:0], key: t.key,
	}
}

func (t *tx) note(err error) {
	if err != nil && t.err == nil && !errors.Is(err, engine.ErrNotFound) {
		t.err = err
	}
}

// Get implements engine.Reader.
func (t *tx) Get(key []byte) ([]byte, error) {
	v, err := t.keyspace.Get(key)
	t.note(err)
	return v, err
}

// Iter implements engine.Reader.
func (t *tx) Iter(lower, upper []byte) engine.Iterator {
	it := t.iter(lower, upper)
	it.sink = &t.err
	return it
}

// Set implements engine.Tx.
func (t *tx) Set(key, value []byte) {
	t.key = appendStateKey(t.key[:0], t.shard, stateKey, key)
	t.note(t.w.batch.Set(t.key, value, nil))
}

// Delete implements engine.Tx.
func (t *tx) Delete(key []byte) {
	t.key = appendStateKey(t.key[:0], t.shard, stateKey, key)
	t.note(t.w.batch.Delete(t.key, nil))
}

// DeleteRange implements engine.Tx.
func (t *tx) DeleteRange(lower, upper []byte) {
	lo, hi := t.bounds(lower, upper)
	t.note(t.w.batch.DeleteRange(lo, hi, nil))
}

// Body implements engine.Tx.
func (t *tx) Body(i int) engine.BodyID {
	if i < 0 || i >= len(t.bodies) {
		return 0
	}
	return bodyID(t.index, i)
}

// fresh returns the position of a body that came with this command, or -1.
func (t *tx) fresh(id engine.BodyID) int {
	if i := int(id & (maxBodies - 1)); uint64(id)>>bodyBits == t.index && i < len(t.bodies) {
		return i
	}
	return -1
}

// RetainBody implements engine.Tx. A body that is not there stays so.
func (t *tx) RetainBody(id engine.BodyID) {
	if i := t.fresh(id); i >= 0 {
		t.refs[i]++
		return
	}
	t.changeRefs(id, 1)
}

// ReleaseBody implements engine.Tx.
func (t *tx) ReleaseBody(id engine.BodyID) {
	if i := t.fresh(id); i >= 0 {
		if t.refs[i] > 0 {
			t.refs[i]--
		}
		return
	}
	t.changeRefs(id, -1)
}

func (t *tx) changeRefs(id engine.BodyID, d int) {
	t.key = appendBodyKey(t.key[:0], t.shard, id)
	v, err := getCopy(t.w.batch, t.key)
	if err != nil || v == nil {
		t.note(err)
		return
	}
	rec, err := decodeBodyRecord(v)
	if err != nil {
		t.note(err)
		return
	}
	rec.refs += uint32(d)
	if rec.refs > 0 {
		t.note(t.w.batch.Set(t.key, rec.encode(nil), nil))
		return
	}
	t.note(t.w.batch.Delete(t.key, nil))
	t.w.addLive(t.g, rec.extents, -1)
}

// Publish implements engine.Tx.
func (t *tx) Publish(topic string) { t.topics = append(t.topics, topic) }

// Index implements engine.Tx.
func (t *tx) Index() uint64 { return t.index }

// loadStages finds the chunks of large bodies; errStageLost when some are not
// there, which is so on every replica.
func (t *tx) loadStages() error {
	for i := range t.bodies {
		b := &t.bodies[i]
		t.refs = append(t.refs, 0)
		t.stages = append(t.stages, nil)
		if b.chunks == 0 {
			continue
		}
		v, err := getCopy(t.w.batch, stageKey(t.shard, b.stage))
		if err != nil {
			return err
		}
		if v == nil {
			return errStageLost
		}
		if t.stages[i], err = decodeStageRecord(v); err != nil {
			return err
		}
		if uint64(len(t.stages[i].extents)) != b.chunks {
			return errStageLost
		}
	}
	return nil
}

// storeBodies files the bodies that got an owner and drops the others.
func (t *tx) storeBodies() error {
	for i := range t.bodies {
		b := &t.bodies[i]
		var extents []extent
		if b.chunks > 0 {
			extents = t.stages[i].extents
			if err := t.w.batch.Delete(stageKey(t.shard, b.stage), nil); err != nil {
				return err
			}
		}
		if t.refs[i] == 0 {
			t.w.addLive(t.g, extents, -1)
			continue
		}
		if len(b.places) > 0 {
			extents = b.places
			for j := range extents {
				extents[j].index = t.index
			}
			t.w.addLive(t.g, extents, 1)
		}
		if b.chunks == 0 && len(b.frames) > 0 {
			e, err := t.w.seg.add(b.frames, t.index)
			if err != nil {
				return err
			}
			extents = []extent{e}
			t.w.addLive(t.g, extents, 1)
		}
		rec := bodyRecord{refs: t.refs[i], size: b.size, digest: b.digest, tag: b.tag, extents: extents}
		t.key = appendBodyKey(t.key[:0], t.shard, bodyID(t.index, i))
		t.w.buf = rec.encode(t.w.buf[:0])
		if err := t.w.batch.Set(t.key, t.w.buf, nil); err != nil {
			return err
		}
	}
	return nil
}
