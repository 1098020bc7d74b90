package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"mailferry/cluster/engine"
)

// Keys of the log database: shard (4 bytes), kind, index (8 bytes) for entries.
const (
	logEntry     = 'e' // term, type, data
	logHardState = 'h' // term, vote, commit
	logTruncated = 't' // index and term of the last entry cut off
	logSynced    = 'c' // applied index at the last checkpoint
	logNode      = 'n' // under shard 0xffffffff: what this directory is
)

// cacheBytes is what each shard of several voters keeps in memory of entries it
// has applied, for voters that are a little behind.
const cacheBytes = 256 << 10

func logKey(shard engine.ShardID, kind byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 13), uint32(shard))
	return append(b, kind)
}

func entryKey(shard engine.ShardID, index uint64) []byte {
	return binary.BigEndian.AppendUint64(logKey(shard, logEntry), index)
}

// groupLog is the raft.Storage of one shard: the log in Pebble, with its newest
// entries in memory as well. The log writer appends, the driver reads and the
// checkpointer truncates.
type groupLog struct {
	shard engine.ShardID
	db    *pebble.DB
	conf  *raftpb.ConfState
	hard  *raftpb.HardState // as found at start, for InitialState only

	// Owned by the log writer.
	tail    uint64            // last index put into a batch
	unsaved *raftpb.HardState // newer than the one in the database

	mu        sync.Mutex
	truncated uint64 // index of the last entry cut off, 0 for none
	truncTerm uint64
	last      uint64
	cache     []*raftpb.Entry // the newest entries up to last, without gaps
	cached    int             // bytes in cache
}

// openGroupLog reads what there is of a shard's log. applied is the index the
// state has reached: such entries are committed.
func openGroupLog(db *pebble.DB, shard engine.ShardID, voters []uint64, applied uint64) (*groupLog, error) {
	l := &groupLog{shard: shard, db: db, conf: &raftpb.ConfState{Voters: voters}, hard: &raftpb.HardState{}}
	if v, err := getCopy(db, logKey(shard, logTruncated)); err != nil {
		return nil, err
	} else if len(v) == 16 {
		l.truncated, l.truncTerm = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	}
	last, err := l.findLast()
	if err != nil {
		return nil, err
	}
	l.last = max(last, l.truncated)
	l.tail = l.last
	if v, err := getCopy(db, logKey(shard, logHardState)); err != nil {
		return nil, err
	} else if len(v) == 24 {
		l.hard = decodeHardState(v)
	}
	if applied > l.last || applied < l.truncated {
		return nil, fmt.Errorf("cluster: shard %d: state is at index %d, log holds %d to %d", shard, applied, l.truncated+1, l.last)
	}
	if l.hard.GetCommit() < applied {
		l.hard.Commit = new(applied)
	}
	return l, nil
}

func (l *groupLog) findLast() (uint64, error) {
	it, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: logKey(l.shard, logEntry), UpperBound: logKey(l.shard, logEntry+1),
	})
	if err != nil {
		return 0, err
	}
	var last uint64
	if it.Last() {
		last = binary.BigEndian.Uint64(it.Key()[5:])
	}
	return last, it.Close()
}

// getCopy returns nil without error when there is no such key.
func getCopy(db pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = append([]byte(nil), v...)
	return v, closer.Close()
}

func encodeHardState(dst []byte, hs *raftpb.HardState) []byte {
	dst = binary.BigEndian.AppendUint64(dst, hs.GetTerm())
	dst = binary.BigEndian.AppendUint64(dst, hs.GetVote())
	return binary.BigEndian.AppendUint64(dst, hs.GetCommit())
}

func decodeHardState(v []byte) *raftpb.HardState {
	return &raftpb.HardState{
		Term:   new(binary.BigEndian.Uint64(v)),
		Vote:   new(binary.BigEndian.Uint64(v[8:])),
		Commit: new(binary.BigEndian.Uint64(v[16:])),
	}
}

const entryValueHeader = 9

func setEntry(b *pebble.Batch, shard engine.ShardID, e *raftpb.Entry) error {
	data := e.GetData()
	op := b.SetDeferred(13, entryValueHeader+len(data))
	binary.BigEndian.PutUint32(op.Key, uint32(shard))
	op.Key[4] = logEntry
	binary.BigEndian.PutUint64(op.Key[5:], e.GetIndex())
	binary.BigEndian.PutUint64(op.Value, e.GetTerm())
	op.Value[8] = byte(e.GetType())
	copy(op.Value[entryValueHeader:], data)
	return op.Finish()
}

func decodeEntry(index uint64, v []byte) (*raftpb.Entry, error) {
	if len(v) < entryValueHeader {
		return nil, errCorruptEntry
	}
	return &raftpb.Entry{
		Index: new(index),
		Term:  new(binary.BigEndian.Uint64(v)),
		Type:  raftpb.EntryType(v[8]).Enum(),
		Data:  append([]byte(nil), v[entryValueHeader:]...),
	}, nil
}

// write adds entries to the batch. Entries of an older leader that they replace
// go; nobody was told that those are committed.
func (l *groupLog) write(b *pebble.Batch, entries []*raftpb.Entry) error {
	newTail := entries[len(entries)-1].GetIndex()
	if l.tail > newTail {
		if err := b.DeleteRange(entryKey(l.shard, newTail+1), entryKey(l.shard, l.tail+1), nil); err != nil {
			return err
		}
	}
	l.tail = newTail
	for _, e := range entries {
		if err := setEntry(b, l.shard, e); err != nil {
			return err
		}
	}
	return nil
}

// writeHardState adds the hard state to the batch if it is not saved yet.
func (l *groupLog) writeHardState(b *pebble.Batch) error {
	if l.unsaved == nil {
		return nil
	}
	err := b.Set(logKey(l.shard, logHardState), encodeHardState(nil, l.unsaved), nil)
	l.unsaved = nil
	return err
}

// written makes entries visible to raft after their batch is synced.
func (l *groupLog) written(entries []*raftpb.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := entries[0].GetIndex()
	cacheFirst := l.last + 1 - uint64(len(l.cache))
	switch {
	case first > l.last+1 || first < cacheFirst:
		l.cache, l.cached = nil, 0
	default:
		for _, e := range l.cache[first-cacheFirst:] {
			l.cached -= len(e.GetData())
		}
		l.cache = l.cache[:first-cacheFirst]
	}
	l.cache = append(l.cache, entries...)
	for _, e := range entries {
		l.cached += len(e.GetData())
	}
	l.last = entries[len(entries)-1].GetIndex()
}

// evict drops entries up to index from memory while more than keep bytes of
// them are there.
func (l *groupLog) evict(index uint64, keep int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.cache) && l.cached > keep && l.cache[n].GetIndex() <= index {
		l.cached -= len(l.cache[n].GetData())
		l.cache[n] = nil
		n++
	}
	if n == len(l.cache) {
		l.cache = nil
		return
	}
	l.cache = l.cache[n:]
}

// InitialState implements raft.Storage.
func (l *groupLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, l.conf, nil
}

// FirstIndex implements raft.Storage.
func (l *groupLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.truncated + 1, nil
}

// LastIndex implements raft.Storage.
func (l *groupLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// Term implements raft.Storage.
func (l *groupLog) Term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i == l.truncated {
		return l.truncTerm, nil
	}
	if i < l.truncated {
		return 0, raft.ErrCompacted
	}
	if i > l.last {
		return 0, raft.ErrUnavailable
	}
	if first := l.last + 1 - uint64(len(l.cache)); i >= first {
		return l.cache[i-first].GetTerm(), nil
	}
	v, closer, err := l.db.Get(entryKey(l.shard, i))
	if err != nil {
		return 0, err
	}
	term := binary.BigEndian.Uint64(v)
	return term, closer.Close()
}

// Entries implements raft.Storage.
func (l *groupLog) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo <= l.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	first := l.last + 1 - uint64(len(l.cache))
	if lo < first {
		return l.load(lo, min(hi, first), maxSize)
	}
	entries := l.cache[lo-first : hi-first : hi-first]
	var size uint64
	for i, e := range entries {
		size += entrySize(e)
		if size > maxSize && i > 0 {
			entries = entries[:i:i]
			break
		}
	}
	return append([]*raftpb.Entry(nil), entries...), nil
}

func entrySize(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + 24 }

// load reads entries from the database; at least one, not above maxSize.
func (l *groupLog) load(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(l.shard, lo), UpperBound: entryKey(l.shard, hi)})
	if err != nil {
		return nil, err
	}
	var entries []*raftpb.Entry
	var size uint64
	next := lo
	for ok := it.First(); ok; ok = it.Next() {
		e, err := decodeEntry(binary.BigEndian.Uint64(it.Key()[5:]), it.Value())
		if err != nil || e.GetIndex() != next {
			return nil, errors.Join(fmt.Errorf("cluster: shard %d: entry %d is missing or damaged", l.shard, next), err, it.Close())
		}
		size += entrySize(e)
		if size > maxSize && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
		next++
	}
	if err := it.Close(); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, raft.ErrUnavailable
	}
	return entries, nil
}

// Snapshot implements raft.Storage. The log is only cut where every voter has
// it, so no voter needs one.
func (l *groupLog) Snapshot() (*raftpb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

// truncate cuts the log up to index, which must be applied, synced and held by
// all voters; synced is recorded as the checkpoint.
func (l *groupLog) truncate(b *pebble.Batch, index, synced uint64) error {
	if err := b.Set(logKey(l.shard, logSynced), binary.BigEndian.AppendUint64(nil, synced), nil); err != nil {
		return err
	}
	from, err := l.FirstIndex()
	if err != nil || index < from {
		return err
	}
	term, err := l.Term(index)
	if err != nil {
		return err
	}
	v := binary.BigEndian.AppendUint64(nil, index)
	v = binary.BigEndian.AppendUint64(v, term)
	if err := b.Set(logKey(l.shard, logTruncated), v, nil); err != nil {
		return err
	}
	if err := b.DeleteRange(entryKey(l.shard, 0), entryKey(l.shard, index+1), nil); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.truncated, l.truncTerm = index, term
	for len(l.cache) > 0 && l.cache[0].GetIndex() <= index {
		l.cached -= len(l.cache[0].GetData())
		l.cache = l.cache[1:]
	}
	return nil
}
