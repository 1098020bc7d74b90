package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"mailferry/cluster/engine"
)

// chunkWindow is the number of chunk entries of one body that may be under way.
const chunkWindow = 4

var errWriterDone = errors.New("cluster: body writer is finished")

// staged is a finished body. It owns its buffers until Propose or Discard.
type staged struct {
	g      *group
	size   int64
	digest [32]byte
	tag    uint64
	frames []byte  // whole body when chunks is 0
	stage  stageID // where its chunks are otherwise
	chunks uint64
	places []place // or these; each holds a pin
	taken  atomic.Bool
}

var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

func takeBuffer() []byte { return (*frameBuffers.Get().(*[]byte))[:0] }

func giveBuffer(b []byte) {
	if cap(b) > 0 && cap(b) <= 2*inlineLimit {
		frameBuffers.Put(&b)
	}
}

func (b *staged) Size() int64      { return b.size }
func (b *staged) Digest() [32]byte { return b.digest }

// Discard implements engine.StagedBody.
func (b *staged) Discard() {
	if b.taken.CompareAndSwap(false, true) {
		b.release(true)
	}
}

// release frees what the body holds. lost tells that no command claimed it, so
// that its chunks have to be given up through the log.
func (b *staged) release(lost bool) {
	giveBuffer(b.frames)
	b.frames = nil
	b.g.node.segs.unpin(appendPins(nil, b.places))
	b.places = nil
	if b.chunks > 0 {
		b.g.endStage(b.stage, lost)
	}
}

// bodyWriter implements engine.BodyWriter.
type bodyWriter struct {
	g      *group
	ctx    context.Context
	hash   hash.Hash
	size   int64
	tag    uint64
	block  []byte // original octets of the block being filled
	frames []byte // finished frames that have not been sent
	stage  stageID
	chunks uint64
	ahead  bool    // frames are placed, not kept and not sent
	places []place // of these
	flight []*proposal
	err    error // sticky
	done   bool
	nowait bool // of a Stepper: nobody would end the wait
}

var hashes = sync.Pool{New: func() any { return sha256.New() }}

func (g *group) newBodyWriter(ctx context.Context) *bodyWriter {
	h := hashes.Get().(hash.Hash)
	h.Reset()
	id := g.node.newID()
	return &bodyWriter{g: g, ctx: ctx, hash: h, stage: id, tag: id.origin ^ id.seq, block: takeBuffer(), frames: takeBuffer()}
}

// Write implements io.Writer. It waits while earlier chunks are under way.
func (w *bodyWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, errWriterDone
	}
	if w.err == nil && w.size+int64(len(p)) > w.g.node.opts.MaxBody {
		w.err = fmt.Errorf("%w: body of more than %d octets", engine.ErrTooLarge, w.g.node.opts.MaxBody)
	}
	if w.err != nil {
		return 0, w.err
	}
	w.hash.Write(p)
	w.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		n := min(len(rest), blockSize-len(w.block))
		w.block = append(w.block, rest[:n]...)
		rest = rest[n:]
		if len(w.block) == blockSize {
			if w.err = w.endBlock(); w.err != nil {
				return 0, w.err
			}
		}
	}
	return len(p), nil
}

// endBlock compresses the block and sends the frames before it when they would
// no longer fit into one entry together.
func (w *bodyWriter) endBlock() error {
	if len(w.block) == 0 {
		return nil
	}
	before := len(w.frames)
	w.frames = appendFrame(w.frames, w.block, w.tag)
	w.block = w.block[:0]
	if len(w.frames) <= inlineLimit || before == 0 {
		return nil
	}
	if w.g.single() {
		w.ahead = true
		return w.place()
	}
	if err := w.sendChunk(w.frames[:before]); err != nil {
		return err
	}
	w.frames = append(w.frames[:0], w.frames[before:]...)
	return nil
}

// place writes the finished frames to where they stay.
func (w *bodyWriter) place() error {
	if len(w.frames) == 0 {
		return nil
	}
	at, err := w.g.node.placer.place(w.frames)
	if err != nil {
		return err
	}
	w.places = append(w.places, at)
	w.frames = w.frames[:0]
	return nil
}

func (w *bodyWriter) sendChunk(frames []byte) error {
	if w.chunks == 0 {
		w.g.beginStage(w.stage)
	}
	if err := w.await(chunkWindow - 1); err != nil {
		return err
	}
	id := w.g.node.newID()
	data := appendHeader(make([]byte, 0, entryHeader+16+10+len(frames)), kindChunk, id)
	data = appendChunk(data, w.stage, w.chunks, frames)
	if w.nowait {
		w.chunks++
		_, err := w.g.trySubmit(id, data, false, nil)
		return err
	}
	p, err := w.g.submit(w.ctx, id, data, false, nil)
	if err != nil {
		return err
	}
	w.chunks++
	w.flight = append(w.flight, p)
	return nil
}

// await waits until at most n chunks are under way.
func (w *bodyWriter) await(n int) error {
	for len(w.flight) > n {
		if _, err := w.flight[0].wait(w.ctx); err != nil {
			return err
		}
		w.flight = w.flight[1:]
	}
	return nil
}

// Finish implements engine.BodyWriter.
func (w *bodyWriter) Finish() (engine.StagedBody, error) {
	if w.done {
		return nil, errWriterDone
	}
	if w.err == nil {
		w.err = w.endBlock()
	}
	if w.err == nil && w.ahead {
		w.err = w.place()
	}
	if w.err == nil && w.chunks > 0 {
		if w.err = w.sendChunk(w.frames); w.err == nil {
			w.err = w.await(0)
		}
	}
	if w.err != nil {
		w.Abort()
		return nil, w.err
	}
	b := &staged{g: w.g, size: w.size, tag: w.tag, stage: w.stage, chunks: w.chunks}
	w.hash.Sum(b.digest[:0])
	b.places, w.places = w.places, nil
	if w.chunks == 0 && !w.ahead {
		b.frames = w.frames
		w.frames = nil
	}
	w.end()
	return b, nil
}

// Abort implements engine.BodyWriter.
func (w *bodyWriter) Abort() {
	if w.done {
		return
	}
	if w.chunks > 0 {
		w.g.endStage(w.stage, true)
	}
	w.g.node.segs.unpin(appendPins(nil, w.places))
	w.end()
}

func (w *bodyWriter) end() {
	w.done = true
	hashes.Put(w.hash)
	giveBuffer(w.block)
	giveBuffer(w.frames)
	w.hash, w.block, w.frames, w.flight, w.places = nil, nil, nil, nil, nil
}

// beginStage notes that a body's chunks are on their way, so that the janitor
// leaves them alone.
func (g *group) beginStage(id stageID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stages[id] = true
}

// endStage ends that; lost chunks are given up through the log. Should that
// fail, the janitor of the next leader finds them.
func (g *group) endStage(id stageID, lost bool) {
	g.mu.Lock()
	delete(g.stages, id)
	g.mu.Unlock()
	if lost {
		g.abortStage(id)
	}
}

func (g *group) abortStage(id stageID) {
	pid := g.node.newID()
	data := appendID(appendHeader(nil, kindAbort, pid), id)
	_, _ = g.trySubmit(pid, data, false, nil)
}
