// Package storetest helps tests of the store and of its adapters: an engine in
// memory, and steps that many tests share. Tests only import it.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/cluster/engine"
)

// Engine is an engine.Engine of one node that forgets everything at Close. It
// applies each command at once, in one transaction.
type Engine struct {
	// Fault, when set before use, is asked for each command: with before, the
	// command fails unapplied; with after, it fails though it was applied.
	Fault func(shard engine.ShardID, cmd []byte) (before, after error)

	db     *pebble.DB
	shards []*shard
}

// NewEngine returns an engine with Meta and shards further shards.
func NewEngine(m engine.Machine, shards int) (*Engine, error) {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}, DisableWAL: true})
	if err != nil {
		return nil, err
	}
	e := &Engine{db: db}
	for i := range shards + 1 {
		e.shards = append(e.shards, &shard{engine: e, id: engine.ShardID(i), machine: m,
			bodies: make(map[engine.BodyID]*body), watchers: make(map[string]map[chan struct{}]bool)})
	}
	return e, nil
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, _ ...any) {
	panic(f)
}

// Close frees the memory.
func (e *Engine) Close() error { return e.db.Close() }

// Bodies is the number of bodies that have an owner in a shard.
func (e *Engine) Bodies(id engine.ShardID) int {
	s := e.shards[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bodies)
}

// Shards implements engine.Engine.
func (e *Engine) Shards() []engine.ShardID {
	ids := make([]engine.ShardID, len(e.shards))
	for i := range ids {
		ids[i] = engine.ShardID(i)
	}
	return ids
}

// Shard implements engine.Engine.
func (e *Engine) Shard(id engine.ShardID) (engine.Shard, error) {
	if int(id) >= len(e.shards) {
		return nil, engine.ErrNotFound
	}
	return e.shards[id], nil
}

type body struct {
	data   []byte
	owners int
}

type shard struct {
	engine  *Engine
	id      engine.ShardID
	machine engine.Machine

	mu       sync.Mutex
	index    uint64
	lastBody engine.BodyID
	bodies   map[engine.BodyID]*body
	watchers map[string]map[chan struct{}]bool
}

func (s *shard) ID() engine.ShardID { return s.id }
func (s *shard) Leader() bool       { return true }

func (s *shard) Propose(ctx context.Context, cmd []byte, bodies ...engine.StagedBody) ([]byte, error) {
	if len(cmd) > engine.MaxCommand {
		return nil, engine.ErrTooLarge
	}
	var before, after error
	if s.engine.Fault != nil {
		before, after = s.engine.Fault(s.id, cmd)
	}
	if before = errors.Join(before, ctx.Err()); before != nil {
		return nil, before
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	result, err := s.apply(cmd, bodies)
	return result, errors.Join(err, after)
}

// apply runs a command. The caller holds mu.
func (s *shard) apply(cmd []byte, bodies []engine.StagedBody) ([]byte, error) {
	s.index++
	batch := s.engine.db.NewIndexedBatch()
	defer batch.Close()
	t := &tx{reader: reader{batch, s.id}, shard: s, batch: batch}
	for _, b := range bodies {
		s.lastBody++
		s.bodies[s.lastBody] = &body{data: b.(*staged).data}
		t.fresh = append(t.fresh, s.lastBody)
	}
	result := s.machine.Apply(t, s.id, cmd)
	for _, id := range t.fresh {
		if b := s.bodies[id]; b != nil && b.owners == 0 {
			delete(s.bodies, id)
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return nil, err
	}
	for _, topic := range t.topics {
		for c := range s.watchers[topic] {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	return result, nil
}

func (s *shard) View(context.Context) (engine.View, error) {
	snap := s.engine.db.NewSnapshot()
	return view{reader{snap, s.id}, snap}, nil
}

func (s *shard) NewBody(context.Context) (engine.BodyWriter, error) { return &writer{}, nil }

func (s *shard) NewBulkBody(context.Context) (engine.BodyWriter, error) { return &writer{}, nil }

func (s *shard) OpenBody(id engine.BodyID) (engine.BodyReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bodies[id]
	if b == nil {
		return nil, engine.ErrNotFound
	}
	return bodyReader{io.NopCloser(bytes.NewReader(b.data)), int64(len(b.data))}, nil
}

func (s *shard) Watch(topic string) *engine.Watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{}, 1)
	if s.watchers[topic] == nil {
		s.watchers[topic] = make(map[chan struct{}]bool)
	}
	s.watchers[topic][c] = true
	return engine.NewWatcher(c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers[topic], c)
	})
}

type reader struct {
	db    pebble.Reader
	shard engine.ShardID
}

func (r reader) key(k []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(r.shard)), k...)
}

func (r reader) bounds(lower, upper []byte) (lo, hi []byte) {
	lo = r.key(lower)
	if upper == nil {
		return lo, binary.BigEndian.AppendUint32(nil, uint32(r.shard)+1)
	}
	return lo, r.key(upper)
}

func (r reader) Get(key []byte) ([]byte, error) {
	v, closer, err := r.db.Get(r.key(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, engine.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(v), closer.Close()
}

func (r reader) Iter(lower, upper []byte) engine.Iterator {
	lo, hi := r.bounds(lower, upper)
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		panic(err)
	}
	return iterator{it, r}
}

type iterator struct {
	*pebble.Iterator
	r reader
}

func (i iterator) Key() []byte            { return i.Iterator.Key()[4:] }
func (i iterator) SeekGE(key []byte) bool { return i.Iterator.SeekGE(i.r.key(key)) }
func (i iterator) SeekLT(key []byte) bool { return i.Iterator.SeekLT(i.r.key(key)) }

type view struct {
	reader
	snap *pebble.Snapshot
}

func (v view) Close() error { return v.snap.Close() }

type tx struct {
	reader
	shard  *shard
	batch  *pebble.Batch
	fresh  []engine.BodyID
	topics []string
}

func (t *tx) must(err error) {
	if err != nil {
		panic(err)
	}
}

func (t *tx) Set(key, value []byte) { t.must(t.batch.Set(t.key(key), value, nil)) }
func (t *tx) Delete(key []byte)     { t.must(t.batch.Delete(t.key(key), nil)) }
func (t *tx) Publish(topic string)  { t.topics = append(t.topics, topic) }
func (t *tx) Index() uint64         { return t.shard.index }

func (t *tx) DeleteRange(lower, upper []byte) {
	lo, hi := t.bounds(lower, upper)
	t.must(t.batch.DeleteRange(lo, hi, nil))
}

func (t *tx) Body(i int) engine.BodyID {
	if i >= len(t.fresh) {
		return 0
	}
	return t.fresh[i]
}

func (t *tx) RetainBody(id engine.BodyID) { t.shard.bodies[id].owners++ }

func (t *tx) ReleaseBody(id engine.BodyID) {
	b := t.shard.bodies[id]
	if b.owners--; b.owners == 0 {
		delete(t.shard.bodies, id)
	}
}

type writer struct{ buf bytes.Buffer }

func (w *writer) Write(p []byte) (int, error) { return w.buf.Write(p) }
func (w *writer) Abort()                      {}

func (w *writer) Finish() (engine.StagedBody, error) { return &staged{w.buf.Bytes()}, nil }

type staged struct{ data []byte }

func (s *staged) Size() int64      { return int64(len(s.data)) }
func (s *staged) Digest() [32]byte { return sha256.Sum256(s.data) }
func (s *staged) Discard()         {}

type bodyReader struct {
	io.ReadCloser
	size int64
}

func (b bodyReader) Size() int64 { return b.size }
