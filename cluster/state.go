package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"mailferry/cluster/engine"
)

// Keys of the state database: shard (4 bytes), kind, rest.
const (
	stateApplied  = 'a' // index of the last applied entry
	stateBody     = 'b' // body id: a bodyRecord
	stateLive     = 'g' // segment: live bytes this shard has there; differs between replicas
	stateKey      = 'k' // the Machine's keys
	stateOrigin   = 'o' // origin of table operations: the last one's number
	stateStage    = 's' // stage id: the chunks of a body that has no command yet
	stateTable    = 't' // the Table's keys
	stateTruncate = 'u' // index up to which all voters hold the log
)

const statePrefix = 5

func appendStateKey(dst []byte, shard engine.ShardID, kind byte, rest []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(shard))
	dst = append(dst, kind)
	return append(dst, rest...)
}

func newStateKey(shard engine.ShardID, kind byte, rest []byte) []byte {
	return appendStateKey(make([]byte, 0, statePrefix+len(rest)), shard, kind, rest)
}

func appendBodyKey(dst []byte, shard engine.ShardID, id engine.BodyID) []byte {
	dst = appendStateKey(dst, shard, stateBody, nil)
	return binary.BigEndian.AppendUint64(dst, uint64(id))
}

func stageKey(shard engine.ShardID, id stageID) []byte {
	return appendID(appendStateKey(make([]byte, 0, statePrefix+16), shard, stateStage, nil), id)
}

func liveKey(shard engine.ShardID, segment uint32) []byte {
	return binary.BigEndian.AppendUint32(appendStateKey(make([]byte, 0, statePrefix+4), shard, stateLive, nil), segment)
}

// bodyRecord tells where a body is. Everything but segment and offset of the
// extents is equal on all replicas.
type bodyRecord struct {
	refs    uint32
	size    int64
	digest  [32]byte
	tag     uint64
	extents []extent
}

func (r *bodyRecord) encode(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, r.refs)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.size))
	dst = append(dst, r.digest[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.tag)
	return appendExtents(dst, r.extents)
}

func decodeBodyRecord(v []byte) (*bodyRecord, error) {
	d := reader{data: v}
	r := &bodyRecord{refs: d.uint32(), size: int64(d.uint64())}
	copy(r.digest[:], d.bytes(32))
	r.tag = d.uint64()
	r.extents = d.extents()
	if d.bad || len(d.data) != 0 {
		return nil, errors.New("cluster: damaged body record")
	}
	return r, nil
}

func appendExtents(dst []byte, extents []extent) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(extents)))
	for _, e := range extents {
		dst = binary.BigEndian.AppendUint32(dst, e.segment)
		dst = binary.AppendUvarint(dst, uint64(e.length))
		dst = binary.AppendUvarint(dst, e.offset)
		dst = binary.AppendUvarint(dst, e.index)
	}
	return dst
}

func (r *reader) extents() []extent {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.bad = true
		return nil
	}
	extents := make([]extent, 0, n)
	for range n {
		extents = append(extents, extent{
			segment: r.uint32(), length: uint32(r.uvarint()), offset: r.uvarint(), index: r.uvarint(),
		})
	}
	return extents
}

// stageRecord holds the chunks of a large body that have been applied.
type stageRecord struct {
	tag     uint64
	extents []extent
}

func (r *stageRecord) encode(dst []byte) []byte {
	return appendExtents(binary.BigEndian.AppendUint64(dst, r.tag), r.extents)
}

func decodeStageRecord(v []byte) (*stageRecord, error) {
	d := reader{data: v}
	r := &stageRecord{tag: d.uint64(), extents: d.extents()}
	if d.bad || len(d.data) != 0 {
		return nil, errors.New("cluster: damaged stage record")
	}
	return r, nil
}

func readUint64(db pebble.Reader, key []byte) (uint64, error) {
	v, err := getCopy(db, key)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("cluster: damaged counter %q", key)
	}
	return binary.BigEndian.Uint64(v), nil
}

// keyspace reads the Machine's keys of one shard from a snapshot or a batch.
type keyspace struct {
	db    pebble.Reader
	shard engine.ShardID
}

// Get implements engine.Reader.
func (k keyspace) Get(key []byte) ([]byte, error) {
	var buf [128]byte
	v, closer, err := k.db.Get(appendStateKey(buf[:0], k.shard, stateKey, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, engine.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	v = append(make([]byte, 0, len(v)), v...)
	return v, closer.Close()
}

// bounds turns the Machine's bounds into keys; nil means open.
func (k keyspace) bounds(lower, upper []byte) (lo, hi []byte) {
	lo = newStateKey(k.shard, stateKey, lower)
	if upper == nil {
		return lo, newStateKey(k.shard, stateKey+1, nil)
	}
	return lo, newStateKey(k.shard, stateKey, upper)
}

// Iter implements engine.Reader.
func (k keyspace) Iter(lower, upper []byte) engine.Iterator { return k.iter(lower, upper) }

func (k keyspace) iter(lower, upper []byte) *iterator {
	lo, hi := k.bounds(lower, upper)
	it, err := k.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	return &iterator{it: it, err: err, shard: k.shard}
}

// iterator takes the shard's prefix off Pebble's keys.
type iterator struct {
	it    *pebble.Iterator
	err   error
	shard engine.ShardID
	sink  *error // gets the first error too, when set
}

func (i *iterator) First() bool { return i.err == nil && i.it.First() }
func (i *iterator) Last() bool  { return i.err == nil && i.it.Last() }
func (i *iterator) Next() bool  { return i.err == nil && i.it.Next() }
func (i *iterator) Prev() bool  { return i.err == nil && i.it.Prev() }

func (i *iterator) SeekGE(key []byte) bool {
	return i.err == nil && i.it.SeekGE(newStateKey(i.shard, stateKey, key))
}

func (i *iterator) SeekLT(key []byte) bool {
	return i.err == nil && i.it.SeekLT(newStateKey(i.shard, stateKey, key))
}

func (i *iterator) Key() []byte   { return i.it.Key()[statePrefix:] }
func (i *iterator) Value() []byte { return i.it.Value() }

func (i *iterator) Close() error {
	if i.it == nil {
		return i.err
	}
	err := i.it.Close()
	i.it, i.err = nil, errors.Join(i.err, err)
	if i.sink != nil && *i.sink == nil {
		*i.sink = i.err
	}
	return i.err
}
