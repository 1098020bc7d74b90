package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/errors/oserror"

	"mailferry/cluster/engine"
)

// repair finds the bodies that the state refers to, but that a power cut took
// from the segments, and writes them again from the log. The state may have been
// flushed at any time; segments are only sure to be synced up to the last
// checkpoint. What came after it is still in the log.
type repair struct {
	n    *Node
	w    *worker // whose segment takes what is written again
	used map[uint32]bool
}

// repairBodies runs before the groups start.
func (n *Node) repairBodies() error {
	r := &repair{n: n, used: map[uint32]bool{}}
	for _, g := range n.groups {
		r.w = n.workers[g.worker]
		if err := r.group(g); err != nil {
			return fmt.Errorf("cluster: repair of shard %d: %w", g.id, err)
		}
	}
	return r.syncUsed()
}

// group looks at all entries between the last checkpoint and the applied index.
func (r *repair) group(g *group) error {
	applied := g.applied.Load()
	for next := max(g.checkpointed, g.log.truncated) + 1; next <= applied; {
		entries, err := g.log.load(next, applied+1, 4<<20)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := r.entry(g, e.GetIndex(), e.GetData()); err != nil {
				return fmt.Errorf("index %d: %w", e.GetIndex(), err)
			}
		}
		next += uint64(len(entries))
	}
	return nil
}

func (r *repair) entry(g *group, index uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	kind, _, payload, err := parseHeader(data)
	if err != nil {
		return err
	}
	switch kind {
	case kindCommand, kindPlaced:
		_, bodies, err := parseCommand(payload, kind == kindPlaced, nil)
		if err != nil {
			return err
		}
		for i := range bodies {
			if len(bodies[i].places) > 0 {
				continue // synced before the entry was made
			}
			if err := r.body(g, bodyID(index, i)); err != nil {
				return err
			}
		}
	case kindChunk:
		id, _, _, err := parseChunk(payload)
		if err != nil {
			return err
		}
		return r.stage(g, id)
	}
	return nil
}

func (r *repair) body(g *group, id engine.BodyID) error {
	key := appendBodyKey(nil, g.id, id)
	v, err := getCopy(r.n.state, key)
	if err != nil || v == nil {
		return err
	}
	rec, err := decodeBodyRecord(v)
	if err != nil {
		return err
	}
	changed, err := r.extents(g, rec.extents, rec.tag, int(id&(maxBodies-1)))
	if err != nil || !changed {
		return err
	}
	return r.commit(g, key, rec.encode(nil))
}

func (r *repair) stage(g *group, id stageID) error {
	key := stageKey(g.id, id)
	v, err := getCopy(r.n.state, key)
	if err != nil || v == nil {
		return err
	}
	rec, err := decodeStageRecord(v)
	if err != nil {
		return err
	}
	changed, err := r.extents(g, rec.extents, rec.tag, 0)
	if err != nil || !changed {
		return err
	}
	return r.commit(g, key, rec.encode(nil))
}

// extents verifies those that were not synced for sure and writes the damaged
// ones again. pos is the body's position in its command.
func (r *repair) extents(g *group, extents []extent, tag uint64, pos int) (changed bool, err error) {
	for i, e := range extents {
		if e.index <= g.checkpointed {
			continue
		}
		if r.intact(e, tag) {
			r.used[e.segment] = true
			continue
		}
		frames, err := r.frames(g, e.index, pos)
		if err != nil {
			return false, err
		}
		if extents[i], err = r.w.seg.add(frames, e.index); err != nil {
			return false, err
		}
		r.w.batchLive(g, e, extents[i])
		changed = true
	}
	return changed, nil
}

func (r *repair) intact(e extent, tag uint64) bool {
	data, err := r.n.segs.read(e)
	return err == nil && checkFrames(data, tag) == nil
}

// frames takes a body's frames out of the log entry that brought them.
func (r *repair) frames(g *group, index uint64, pos int) ([]byte, error) {
	entries, err := g.log.load(index, index+1, 0)
	if err != nil {
		return nil, err
	}
	kind, _, payload, err := parseHeader(entries[0].GetData())
	if err != nil {
		return nil, err
	}
	if kind == kindChunk {
		_, _, frames, err := parseChunk(payload)
		return frames, err
	}
	_, bodies, err := parseCommand(payload, kind == kindPlaced, nil)
	if err != nil || pos >= len(bodies) {
		return nil, errors.Join(errCorruptEntry, err)
	}
	return bodies[pos].frames, nil
}

// commit puts one repaired record into the state.
func (r *repair) commit(g *group, key, value []byte) error {
	w := r.w
	w.batch = w.node.state.NewIndexedBatch()
	if err := w.batch.Set(key, value, nil); err != nil {
		return err
	}
	w.touched = append(w.touched, g)
	return w.commit()
}

// batchLive moves the live bytes of an extent that was written again.
func (w *worker) batchLive(g *group, from, to extent) {
	w.addLive(g, []extent{from}, -1)
	w.addLive(g, []extent{to}, 1)
}

// syncUsed syncs the files whose contents were found intact: that they survived
// the end of a process does not mean that they would survive a power cut.
func (r *repair) syncUsed() error {
	for _, id := range slices.Sorted(maps.Keys(r.used)) {
		f, err := r.n.opts.FS.Open(r.n.segs.path(id))
		if oserror.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
