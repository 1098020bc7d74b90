package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"mailferry/cluster/engine"
)

// Any as ifVersion means: whatever the version, and whether it exists or not.
const Any = math.MaxUint64

// maxTableKey and maxTableValue bound the Table's entries.
const (
	maxTableKey   = 4 << 10
	maxTableValue = engine.MaxCommand
)

// ErrConflict: the entry's version is not the one the caller named.
var ErrConflict = errors.New("cluster: version conflict")

// Table is a small table of versioned entries in the Meta shard, for what the
// cluster itself has to remember: placements, jobs. It is safe for concurrent
// use on every node; a node that does not lead Meta sends its changes to the
// leader. Keys have at most 4 KiB, values at most engine.MaxCommand.
//
// Changes return engine.ErrUnknownOutcome when the leader is lost on the way;
// as they are bound to a version, the caller reads and decides again.
type Table struct {
	n        *Node
	watchers watchers
}

// Pair is an entry of the Table. Versions rise with each change and are never
// given twice, not even after a deletion.
type Pair struct {
	Key     string
	Value   []byte
	Version uint64
}

// Operations on the table, as the log has them.
const (
	tableSet    = 1
	tableDelete = 2
)

// Get returns the value and version of key, or engine.ErrNotFound. It sees all
// changes acknowledged anywhere before.
func (t *Table) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := t.meta().linearize(ctx); err != nil {
		return nil, 0, err
	}
	return t.Peek(key)
}

// Peek is Get on what this replica knows: it works without a leader and may be
// behind.
func (t *Table) Peek(key string) ([]byte, uint64, error) {
	if !t.n.users.enter() {
		return nil, 0, engine.ErrStopped
	}
	defer t.n.users.leave()
	v, err := getCopy(t.n.state, newStateKey(engine.Meta, stateTable, []byte(key)))
	if err != nil {
		return nil, 0, err
	}
	if len(v) < 8 {
		return nil, 0, fmt.Errorf("%w: %q", engine.ErrNotFound, key)
	}
	return v[8:], binary.BigEndian.Uint64(v), nil
}

// List returns the entries whose keys begin with prefix, in the order of keys.
// It sees all changes acknowledged anywhere before.
func (t *Table) List(ctx context.Context, prefix string) ([]Pair, error) {
	if err := t.meta().linearize(ctx); err != nil {
		return nil, err
	}
	return t.PeekList(prefix)
}

// PeekList is List on what this replica knows.
func (t *Table) PeekList(prefix string) ([]Pair, error) {
	if !t.n.users.enter() {
		return nil, engine.ErrStopped
	}
	defer t.n.users.leave()
	lower := newStateKey(engine.Meta, stateTable, []byte(prefix))
	it, err := t.n.state.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: prefixEnd(lower)})
	if err != nil {
		return nil, err
	}
	var pairs []Pair
	for ok := it.First(); ok; ok = it.Next() {
		v := it.Value()
		if len(v) < 8 {
			continue
		}
		pairs = append(pairs, Pair{
			Key: string(it.Key()[statePrefix:]), Value: append([]byte{}, v[8:]...), Version: binary.BigEndian.Uint64(v),
		})
	}
	return pairs, it.Close()
}

// prefixEnd returns the first key after all that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; ; i-- { // the kind byte is never 0xff
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
}

// Set stores value under key if the entry's version is ifVersion (0: there must
// be none; Any) and returns the new version; else ErrConflict.
func (t *Table) Set(ctx context.Context, key string, value []byte, ifVersion uint64) (uint64, error) {
	if len(value) > maxTableValue {
		return 0, fmt.Errorf("%w: table value of %d bytes", engine.ErrTooLarge, len(value))
	}
	return t.change(ctx, tableSet, key, value, ifVersion)
}

// Delete removes key if its version is ifVersion, else ErrConflict. With Any it
// succeeds if there is none.
func (t *Table) Delete(ctx context.Context, key string, ifVersion uint64) error {
	_, err := t.change(ctx, tableDelete, key, nil, ifVersion)
	return err
}

// Watch wakes the caller after each change, applied on this replica, to a key
// that begins with prefix. Wake-ups coalesce. Close it when done.
func (t *Table) Watch(prefix string) *engine.Watcher { return t.watchers.watch(prefix) }

func (t *Table) meta() *group { return t.n.groups[engine.Meta] }

func (t *Table) change(ctx context.Context, op byte, key string, value []byte, ifVersion uint64) (uint64, error) {
	if len(key) > maxTableKey {
		return 0, fmt.Errorf("%w: table key of %d bytes", engine.ErrTooLarge, len(key))
	}
	for {
		id := t.n.newID()
		data := appendTableOp(appendHeader(nil, kindTable, id), op, key, value, ifVersion)
		p, err := t.meta().submit(ctx, id, data, true, nil)
		if err != nil {
			return 0, err
		}
		result, err := p.wait(ctx)
		if errors.Is(err, errOvertaken) {
			continue // certainly not done
		}
		if err != nil {
			return 0, err
		}
		return decodeTableResult(result, key)
	}
}

// errOvertaken: an operation that was begun later on the same node came first.
var errOvertaken = fmt.Errorf("%w: table operation overtaken by a later one", engine.ErrNotLeader)

// repeated tells whether an operation of the Table was applied before or was
// overtaken: the transport may repeat and reorder what goes to the leader. The
// numbers of one start of a node only rise.
func (w *worker) repeated(g *group, id entryID) (bool, error) {
	key := binary.BigEndian.AppendUint64(newStateKey(g.id, stateOrigin, nil), id.origin)
	last, err := readUint64(w.batch, key)
	if err != nil || id.seq <= last {
		return true, err
	}
	return false, w.batch.Set(key, binary.BigEndian.AppendUint64(nil, id.seq), nil)
}

func appendTableOp(dst []byte, op byte, key string, value []byte, ifVersion uint64) []byte {
	dst = append(dst, op)
	dst = binary.BigEndian.AppendUint64(dst, ifVersion)
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = append(dst, key...)
	return append(dst, value...)
}

// decodeTableResult takes the version after the change; empty means conflict.
func decodeTableResult(result []byte, key string) (uint64, error) {
	if len(result) != 8 {
		return 0, fmt.Errorf("%w: %q", ErrConflict, key)
	}
	return binary.BigEndian.Uint64(result), nil
}

// applyTable runs an operation of the Table. The index of the entry becomes the
// version.
func (w *worker) applyTable(g *group, index uint64, id entryID, payload []byte) (result []byte, refused, err error) {
	if again, err := w.repeated(g, id); again || err != nil {
		return nil, errOvertaken, err
	}
	r := reader{data: payload}
	op := r.bytes(1)
	ifVersion := r.uint64()
	name := r.bytes(r.uvarint())
	if r.bad {
		return nil, nil, errCorruptEntry
	}
	key := newStateKey(g.id, stateTable, name)
	old, err := getCopy(w.batch, key)
	if err != nil {
		return nil, nil, err
	}
	var version uint64
	if len(old) >= 8 {
		version = binary.BigEndian.Uint64(old)
	}
	if ifVersion != Any && ifVersion != version {
		return nil, nil, nil
	}
	result = binary.BigEndian.AppendUint64(nil, index)
	switch op[0] {
	case tableSet:
		err = w.batch.Set(key, append(result[:8:8], r.data...), nil)
	case tableDelete:
		err = w.batch.Delete(key, nil)
	default:
		err = errCorruptEntry
	}
	w.topics = append(w.topics, topicRef{g: g, topic: string(name), table: true})
	return result, nil, err
}
