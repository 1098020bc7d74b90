package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"mailferry/cluster/engine"
)

// Stepper drives a Node step by step, without any goroutine but Pebble's own:
// for simulations that decide what happens when. It runs the same code as the
// goroutines of an opened Node do. It is not safe for concurrent use. After an
// error of one of its methods the node has stopped.
type Stepper struct{ n *Node }

// OpenStepper opens a node that does nothing until it is told to.
func OpenStepper(o Options) (*Stepper, error) {
	n, err := open(o)
	if err != nil {
		return nil, err
	}
	s := &Stepper{n}
	if err := s.do(n.bootSingle); err != nil {
		return nil, err
	}
	return s, nil
}

// Node returns the node. Of its methods, those may be called that do not wait.
func (s *Stepper) Node() *Node { return s.n }

// do runs f as a goroutine of the node would.
func (s *Stepper) do(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err = errors.Join(err, s.n.fault.get()); err != nil {
			s.n.fail(err)
			s.n.refuseAll()
		}
	}()
	return f()
}

// Tick advances the node's clock by one.
func (s *Stepper) Tick() error {
	return s.do(func() error {
		if len(s.n.opts.Voters) > 1 {
			s.n.tickAll()
		}
		return s.n.pass()
	})
}

// Pass runs the driver once.
func (s *Stepper) Pass() error { return s.do(s.n.pass) }

// Persist writes what waits for the log and tells whether that was anything.
func (s *Stepper) Persist() (worked bool, err error) {
	err = s.do(func() error {
		tasks := s.n.appendQueue.take(nil)
		if worked = len(tasks) > 0; !worked {
			return nil
		}
		return s.n.persist(tasks)
	})
	return worked, err
}

// Apply applies what waits for it and tells whether that was anything.
func (s *Stepper) Apply() (worked bool, err error) {
	err = s.do(func() error {
		for i, w := range s.n.workers {
			tasks := s.n.applyQueues[i].take(nil)
			if len(tasks) == 0 {
				continue
			}
			worked = true
			if err := s.n.applyAll(w, tasks); err != nil {
				return err
			}
		}
		return nil
	})
	return worked, err
}

// Checkpoint does what the node does when its log has grown.
func (s *Stepper) Checkpoint() error { return s.do(s.n.checkpoint) }

// Compact empties segments of which little is live.
func (s *Stepper) Compact() error {
	return s.do(func() error {
		return s.n.compact(func(g *group, moved []relocation) error {
			return s.n.applyAll(s.n.workers[g.worker], []applyTask{{g: g, moved: moved, done: make(chan struct{})}})
		})
	})
}

// Flush flushes the state, as Pebble does by itself at any time.
func (s *Stepper) Flush() error { return s.do(s.n.flushState) }

// Clean gives up the chunks that earlier leaders left behind.
func (s *Stepper) Clean() error {
	return s.do(func() error {
		for _, g := range s.n.janitor.take(nil) {
			if err := g.dropLostStages(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Pending is a proposal or a read under way.
type Pending struct {
	p *proposal
	r *read
}

// Poll returns whether it has ended, and how.
func (p *Pending) Poll() (result []byte, done bool, err error) {
	if p.r != nil {
		select {
		case err := <-p.r.done:
			return nil, true, err
		default:
			return nil, false, nil
		}
	}
	select {
	case o := <-p.p.done:
		return o.result, true, o.err
	default:
		return nil, false, nil
	}
}

// Stage writes a body, as one of NewBulkBody with bulk. Its chunks are proposed,
// but not awaited.
func (s *Stepper) Stage(id engine.ShardID, data []byte, bulk bool) (engine.StagedBody, error) {
	g := s.n.group(id)
	if err := g.mayPropose(false); err != nil {
		return nil, err
	}
	w := g.newBodyWriter(context.Background())
	w.nowait, w.ahead = true, bulk && g.single()
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return nil, err
	}
	return w.Finish()
}

// Propose begins what Shard.Propose does.
func (s *Stepper) Propose(id engine.ShardID, cmd []byte, bodies ...engine.StagedBody) (*Pending, error) {
	g := s.n.group(id)
	p, err := g.start(cmd, bodies, func(id entryID, data []byte, pins []uint32) (*proposal, error) {
		return g.trySubmit(id, data, false, pins)
	})
	if err != nil {
		return nil, err
	}
	return &Pending{p: p}, nil
}

// SetTable begins what Table.Set does; TableVersion decodes its result.
func (s *Stepper) SetTable(key string, value []byte, ifVersion uint64) (*Pending, error) {
	id := s.n.newID()
	data := appendTableOp(appendHeader(nil, kindTable, id), tableSet, key, value, ifVersion)
	p, err := s.n.table.meta().trySubmit(id, data, true, nil)
	if err != nil {
		return nil, err
	}
	return &Pending{p: p}, nil
}

// TableVersion returns the new version, or ErrConflict.
func TableVersion(result []byte) (uint64, error) { return decodeTableResult(result, "") }

// Read begins what Shard.View does; once it has ended without error, Peek sees
// all that was acknowledged before it began.
func (s *Stepper) Read(id engine.ShardID) (*Pending, error) {
	r, err := s.n.group(id).startRead()
	if err != nil {
		return nil, err
	}
	return &Pending{r: r}, nil
}

// Peek reads a key as this replica has it.
func (s *Stepper) Peek(id engine.ShardID, key string) ([]byte, error) {
	return keyspace{db: s.n.state, shard: id}.Get([]byte(key))
}

// Dump returns what must be equal on all replicas that have applied the same
// entries of a shard, in a readable form.
func (s *Stepper) Dump(id engine.ShardID) (string, error) {
	var out strings.Builder
	err := s.each(id, func(kind byte, key, value []byte) error {
		switch kind {
		case stateLive:
			return nil
		case stateBody:
			rec, err := decodeBodyRecord(value)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "b %x refs=%d size=%d digest=%s", key, rec.refs, rec.size, hex.EncodeToString(rec.digest[:]))
			dumpExtents(&out, rec.extents)
		case stateStage:
			rec, err := decodeStageRecord(value)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "s %x", key)
			dumpExtents(&out, rec.extents)
		default:
			fmt.Fprintf(&out, "%c %q=%q\n", kind, key, value)
		}
		return nil
	})
	return out.String(), err
}

func dumpExtents(out *strings.Builder, extents []extent) {
	for _, e := range extents {
		fmt.Fprintf(out, " %d:%d", e.index, e.length)
	}
	out.WriteByte('\n')
}

// each walks all state of a shard.
func (s *Stepper) each(id engine.ShardID, f func(kind byte, key, value []byte) error) error {
	it, err := s.n.state.NewIter(&pebble.IterOptions{LowerBound: newStateKey(id, 0, nil), UpperBound: newStateKey(id, 0xff, nil)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := f(it.Key()[statePrefix-1], it.Key()[statePrefix:], it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// Check verifies what is this replica's own: that the counters of live bytes
// agree with the bodies there are, and that every body's frames are intact.
func (s *Stepper) Check() error {
	total := map[uint32]int64{}
	for _, g := range s.n.groups {
		live, counted := map[uint32]int64{}, map[uint32]int64{}
		err := s.each(g.id, func(kind byte, key, value []byte) error {
			switch kind {
			case stateBody:
				rec, err := decodeBodyRecord(value)
				if err != nil {
					return err
				}
				return s.checkExtents(rec.extents, rec.tag, live)
			case stateStage:
				rec, err := decodeStageRecord(value)
				if err != nil {
					return err
				}
				return s.checkExtents(rec.extents, rec.tag, live)
			case stateLive:
				r, v := reader{data: key}, reader{data: value}
				counted[r.uint32()] = int64(v.uint64())
			}
			return nil
		})
		if err != nil {
			return err
		}
		if !maps.Equal(live, counted) {
			return fmt.Errorf("shard %d: live bytes %v, counted %v", g.id, live, counted)
		}
		for id, n := range live {
			total[id] += n
		}
	}
	return s.checkTotals(total)
}

func (s *Stepper) checkExtents(extents []extent, tag uint64, live map[uint32]int64) error {
	r := repair{n: s.n}
	for _, e := range extents {
		live[e.segment] += int64(e.length)
		if !r.intact(e, tag) {
			return fmt.Errorf("segment %d at %d is damaged (entry %d)", e.segment, e.offset, e.index)
		}
	}
	return nil
}

func (s *Stepper) checkTotals(total map[uint32]int64) error {
	s.n.segs.mu.Lock()
	defer s.n.segs.mu.Unlock()
	for id, n := range s.n.segs.live {
		if total[id] != n {
			return fmt.Errorf("segment %d: %d live bytes, counted %d", id, total[id], n)
		}
	}
	return nil
}

// LogLength returns how many entries of a shard's log are kept.
func (s *Stepper) LogLength(id engine.ShardID) uint64 {
	l := s.n.groups[id].log
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last - l.truncated
}

// Crash ends the node without saving anything: as far as its files are
// concerned, the process is gone. The caller took its copy of the disk before.
func (s *Stepper) Crash() {
	s.n.fault.set(errors.New("crashed"))
	s.n.refuseAll()
}

// Release frees the files of a crashed node.
func (s *Stepper) Release() error {
	for _, w := range s.n.workers {
		if w.batch != nil {
			_ = w.batch.Close() // was never committed
		}
	}
	return s.n.closeFiles()
}
