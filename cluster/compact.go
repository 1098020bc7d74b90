package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"mailferry/cluster/engine"
)

// compactPerRun bounds the segments that one run empties, and so how long the
// housekeeper is busy.
const compactPerRun = 4

// relocation is one extent of a body that was copied.
type relocation struct {
	id       engine.BodyID
	from, to extent
}

// sparse lists closed segments of which less than half is live, the emptiest
// first.
func (s *segments) sparse() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint32
	for id, size := range s.onDisk {
		if live := s.live[id]; live > 0 && live < size/2 && s.pins[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint32) int {
		return int(s.live[a]*1000/s.onDisk[a]) - int(s.live[b]*1000/s.onDisk[b])
	})
	return ids[:min(len(ids), compactPerRun)]
}

// compact copies what lives in sparse segments into a new one and has the apply
// workers, through move, put the new places into the body records. The copies
// are synced before that. The emptied segments go at the next checkpoint.
func (n *Node) compact(move func(g *group, moved []relocation) error) error {
	victims := map[uint32]bool{}
	for _, id := range n.segs.sparse() {
		victims[id] = true
	}
	if len(victims) == 0 {
		return nil
	}
	w := &segmentWriter{segs: n.segs, limit: n.opts.SegmentBytes}
	moved := make([][]relocation, len(n.groups))
	for i, g := range n.groups {
		var err error
		if moved[i], err = g.copyBodies(w, victims); err != nil {
			return fmt.Errorf("compact shard %d: %w", g.id, err)
		}
	}
	if err := w.sync(); err != nil {
		return err
	}
	// The copy stays open, that is safe from the checkpoint, until it is live.
	for i, g := range n.groups {
		if len(moved[i]) == 0 {
			continue
		}
		if err := move(g, moved[i]); err != nil {
			return err
		}
	}
	w.close()
	return n.segs.syncSealed()
}

// copyBodies copies the extents of the shard's bodies that lie in victims.
func (g *group) copyBodies(w *segmentWriter, victims map[uint32]bool) ([]relocation, error) {
	it, err := g.node.state.NewIter(&pebble.IterOptions{
		LowerBound: newStateKey(g.id, stateBody, nil), UpperBound: newStateKey(g.id, stateBody+1, nil),
	})
	if err != nil {
		return nil, err
	}
	var moved []relocation
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := decodeBodyRecord(it.Value())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		id := engine.BodyID(binary.BigEndian.Uint64(it.Key()[statePrefix:]))
		for _, from := range rec.extents {
			if !victims[from.segment] {
				continue
			}
			to, err := g.copyExtent(w, from, rec.tag)
			if err != nil {
				return nil, errors.Join(err, it.Close())
			}
			moved = append(moved, relocation{id, from, to})
		}
	}
	return moved, it.Close()
}

func (g *group) copyExtent(w *segmentWriter, from extent, tag uint64) (extent, error) {
	data, err := g.node.segs.read(from)
	if err != nil {
		return extent{}, err
	}
	if err := checkFrames(data, tag); err != nil {
		return extent{}, fmt.Errorf("%w: segment %d at %d", err, from.segment, from.offset)
	}
	to, err := w.add(data, from.index)
	if err != nil {
		return extent{}, err
	}
	return to, w.flush()
}

// read returns an extent's octets, unverified.
func (s *segments) read(e extent) ([]byte, error) {
	f, err := s.fs.Open(s.path(e.segment))
	if err != nil {
		return nil, err
	}
	data := make([]byte, e.length)
	_, err = f.ReadAt(data, int64(e.offset))
	return data, errors.Join(err, f.Close())
}

// relocate changes the places in body records. Bodies that were released since
// they were copied are left alone.
func (w *worker) relocate(g *group, moved []relocation) error {
	if w.batch == nil {
		w.batch = w.node.state.NewIndexedBatch()
	}
	if !g.touched {
		g.touched = true
		w.touched = append(w.touched, g)
	}
	for _, m := range moved {
		key := appendBodyKey(nil, g.id, m.id)
		v, err := getCopy(w.batch, key)
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		rec, err := decodeBodyRecord(v)
		if err != nil {
			return err
		}
		for i, e := range rec.extents {
			if e == m.from {
				rec.extents[i] = m.to
				w.addLive(g, []extent{m.from}, -1)
				w.addLive(g, []extent{m.to}, 1)
			}
		}
		if err := w.batch.Set(key, rec.encode(nil), nil); err != nil {
			return err
		}
	}
	return nil
}

// moveByWorker has the shard's apply worker relocate and waits for it.
func (n *Node) moveByWorker(stop <-chan struct{}) func(*group, []relocation) error {
	return func(g *group, moved []relocation) error {
		done := make(chan struct{})
		n.applyQueues[g.worker].add([]applyTask{{g: g, moved: moved, done: done}})
		select {
		case <-done:
			return nil
		case <-n.fault.c:
			return n.fault.get()
		case <-stop: // the workers stop after the housekeeper
			<-done
			return nil
		}
	}
}
