package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"

	"mailferry/cluster/engine"
)

// placeBuffer is what a placer gathers of frames before it writes them.
const placeBuffer = 256 << 10

// placer writes bodies of a single voter to the place where they will stay,
// before their command is proposed. The command's entry names the places; it is
// proposed when they are synced. Bodies that come in bulk are so written once
// and not twice, and none waits in memory for its command.
//
// A segment that holds such a body is pinned until the command is applied, when
// its live bytes are counted, or the body is given up.
type placer struct {
	node *Node

	mu     sync.Mutex // guards the fields below, and what is written to cur
	cur    *placedFile
	buf    []byte // for the end of cur, not written yet
	closed bool
}

// placedFile is a segment that a placer writes or has written.
type placedFile struct {
	segmentFile              // size is guarded by placer.mu
	syncing     sync.Mutex   // held while it is synced; taken before placer.mu
	synced      atomic.Int64 // octets that are durable
}

// place is a run of a body's frames in a placed file.
type place struct {
	file *placedFile
	extent
}

// end is how much of the file has to be durable.
func (p *place) end() int64 { return int64(p.offset) + int64(p.length) }

// place puts frames, at most 2*inlineLimit of them, into the current segment and
// pins it. They can be read after sync.
func (p *placer) place(frames []byte) (place, error) {
	full, at, err := p.add(frames)
	if err == nil && full != nil {
		err = p.seal(full)
	}
	return at, err // after an error the node stops, and pins mean nothing
}

// add is place, but for closing a segment that became full.
func (p *placer) add(frames []byte) (full *placedFile, at place, err error) {
	if err := p.node.fault.get(); err != nil {
		return nil, at, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, at, engine.ErrStopped
	}
	if p.cur == nil {
		f, err := p.node.segs.create()
		if err != nil {
			return nil, at, p.failed(err)
		}
		p.cur = &placedFile{segmentFile: *f}
	}
	at = place{p.cur, extent{segment: p.cur.id, length: uint32(len(frames)), offset: uint64(p.cur.size + int64(len(p.buf)))}}
	if p.buf == nil {
		p.buf = make([]byte, 0, placeBuffer)
	}
	if len(p.buf)+len(frames) > cap(p.buf) {
		if err := p.flush(); err != nil {
			return nil, at, err
		}
	}
	p.buf = append(p.buf, frames...)
	p.node.segs.pin(at.segment)
	if at.end() < p.node.opts.SegmentBytes {
		return nil, at, nil
	}
	full = p.cur
	err = p.flush()
	p.cur = nil
	return full, at, err
}

// flush writes what was gathered. The caller holds mu.
func (p *placer) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	n, err := p.cur.file.Write(p.buf)
	if err != nil || n != len(p.buf) {
		return p.failed(fmt.Errorf("cluster: segment %d: wrote %d of %d: %w", p.cur.id, n, len(p.buf), err))
	}
	p.cur.size += int64(n)
	p.buf = p.buf[:0]
	if cap(p.buf) > placeBuffer {
		p.buf = nil
	}
	return nil
}

// failed stops the node: what is in the file now is not known.
func (p *placer) failed(err error) error {
	p.node.fail(err)
	return p.node.fault.get()
}

// sync makes places durable. Those who come while it is at work share the next
// sync.
func (p *placer) sync(places []place) error {
	for i := range places {
		if err := p.syncFile(places[i].file, places[i].end()); err != nil {
			return err
		}
	}
	return nil
}

func (p *placer) syncFile(f *placedFile, end int64) error {
	if f.synced.Load() >= end {
		return nil
	}
	f.syncing.Lock()
	defer f.syncing.Unlock()
	if f.synced.Load() >= end {
		return nil
	}
	p.mu.Lock()
	var err error
	if p.cur == f {
		err = p.flush()
	}
	size := f.size
	p.mu.Unlock()
	if err == nil {
		err = p.node.fault.get() // after a failed sync another one proves nothing
	}
	if err != nil {
		return err
	}
	if err := f.file.SyncData(); err != nil {
		return p.failed(fmt.Errorf("cluster: segment %d: %w", f.id, err))
	}
	f.synced.Store(size)
	return nil
}

// seal gives a segment that is not written any more to the checkpointer, which
// closes it: nobody syncs it after this.
func (p *placer) seal(f *placedFile) error {
	if err := p.syncFile(f, f.size); err != nil {
		return err
	}
	p.node.segs.seal(&f.segmentFile)
	p.node.noteLogGrowth(int(p.node.opts.CheckpointBytes)) // segments may be due to be emptied
	return nil
}

// close ends the placer; nothing is placed after it.
func (p *placer) close() error {
	p.mu.Lock()
	f, err := p.cur, p.flush()
	p.cur, p.buf, p.closed = nil, nil, true
	p.mu.Unlock()
	if f == nil || err != nil {
		return err
	}
	return p.seal(f)
}

// pin keeps a segment, whatever the counters of live bytes say.
func (s *segments) pin(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[id]++
}

// unpin takes back as many pins as there are ids.
func (s *segments) unpin(ids []uint32) {
	if len(ids) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.pins[id]--; s.pins[id] == 0 {
			delete(s.pins, id)
		}
	}
}
