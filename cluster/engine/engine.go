// Package engine is the contract between the mailstore and whatever keeps its
// data: an ordered keyspace per shard, changed only by commands that every
// replica applies in the same order, and message bodies beside it.
//
// Package store writes the Machine and calls Shard; package cluster implements
// Engine with Raft and Pebble. Package enginetest holds the conformance suite
// that every implementation runs.
package engine

import (
	"context"
	"errors"
	"io"
)

// ShardID names a shard. Shard 0 (Meta) holds what the whole cluster shares:
// users, placements, jobs. The others hold users' mail.
type ShardID uint32

// Meta is the shard of users, placements and jobs.
const Meta ShardID = 0

// Errors of this contract. Callers compare with errors.Is.
var (
	// ErrNotFound: no such key or body.
	ErrNotFound = errors.New("engine: not found")
	// ErrNotLeader: this replica cannot answer now; another may (see Shard.Leader).
	ErrNotLeader = errors.New("engine: not the leader of this shard")
	// ErrUnknownOutcome: the command may or may not be applied, now or later.
	// A caller that repeats it must make the repetition harmless (delivery id).
	ErrUnknownOutcome = errors.New("engine: outcome unknown")
	// ErrStopped: the engine is stopping or has stopped after a disk fault.
	ErrStopped = errors.New("engine: stopped")
	// ErrTooLarge: command or body above the engine's limits.
	ErrTooLarge = errors.New("engine: too large")
)

// MaxCommand bounds the bytes of one command, bodies apart.
const MaxCommand = 1 << 20

// Engine gives access to the shards of which this node has a replica.
// It is safe for concurrent use.
type Engine interface {
	// Shards lists the shards with a replica here, Meta included, ascending.
	Shards() []ShardID
	// Shard returns one of them, or ErrNotFound.
	Shard(ShardID) (Shard, error)
}

// Shard is one replica of one shard. It is safe for concurrent use.
type Shard interface {
	ID() ShardID

	// Propose has cmd applied by the shard's Machine on all replicas and
	// returns what Apply returned here, after the command is durable on a
	// quorum and applied on this replica. Commands proposed at the same time
	// share one synced write. bodies become addressable in Apply as
	// Tx.Body(0), Tx.Body(1)...; Propose takes them over and releases them,
	// whatever the outcome. The error is an error of this package or ctx's; a
	// refusal by the Machine comes in the result, not as an error. When ctx
	// ends first, the outcome is unknown (ErrUnknownOutcome wraps ctx.Err).
	Propose(ctx context.Context, cmd []byte, bodies ...StagedBody) ([]byte, error)

	// NewBody begins a body. At most 256 KiB of compressed octets wait in
	// memory and ride in the command; a larger body is sent ahead in chunks
	// while it is written, so that memory is bounded for any size.
	NewBody(ctx context.Context) (BodyWriter, error)

	// NewBulkBody begins a body of which many will go into one command, as in an
	// import. It may be written to where it stays while it comes, so that it
	// takes no memory until its command is proposed; Propose then makes those
	// of a command durable together. For a single body NewBody is the faster one.
	NewBulkBody(ctx context.Context) (BodyWriter, error)

	// View returns a consistent read-only snapshot that contains every command
	// whose Propose returned on any replica before View was called
	// (linearizable; ErrNotLeader when that cannot be assured in time).
	View(ctx context.Context) (View, error)

	// OpenBody opens a body's original octets for reading from offset 0.
	// ErrNotFound when it is released or was never there.
	OpenBody(BodyID) (BodyReader, error)

	// Watch wakes the caller after each applied command that called
	// Tx.Publish with this topic on this replica. Wake-ups coalesce: one that
	// finds an unread one is dropped, so the caller reads the state anew after
	// each. It comes before the Propose of the command returns, so that a cache
	// that is emptied by it never answers the proposer with what was before.
	// Close it when done.
	Watch(topic string) *Watcher

	// Leader reports whether this replica leads the shard now.
	Leader() bool
}

// Machine is the deterministic logic of the shards, written by the store. Every
// replica calls Apply with the same commands in the same order and must come
// to the same writes and results: no clock, no random numbers, no map order.
// Times and random ids come in the command.
type Machine interface {
	// Apply runs one committed command. It must not keep tx or cmd. A panic is
	// a bug that stops the replica.
	Apply(tx Tx, shard ShardID, cmd []byte) (result []byte)
}

// Tx reads and writes the keyspace of one shard during Apply. All writes of
// one command become visible and durable together.
type Tx interface {
	Reader
	Set(key, value []byte)
	Delete(key []byte)
	// DeleteRange removes the keys in [lower, upper).
	DeleteRange(lower, upper []byte)
	// Body returns the id of the i-th body proposed with this command. It has
	// no owner until RetainBody; a body without owner after Apply is dropped.
	Body(i int) BodyID
	// RetainBody adds an owner (a message that refers to the body).
	RetainBody(BodyID)
	// ReleaseBody removes an owner; at zero the body is gone and its space is
	// reclaimed later.
	ReleaseBody(BodyID)
	// Publish wakes the watchers of topic after this command is applied.
	Publish(topic string)
	// Index is the position of the command in the shard's log: unique, rising,
	// equal on all replicas.
	Index() uint64
}

// Reader reads a keyspace.
type Reader interface {
	// Get returns a copy of the value, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Iter walks the keys in [lower, upper) in order; Close it.
	Iter(lower, upper []byte) Iterator
}

// View is a snapshot. Close it; hold it for the length of a command, not of a
// session. Not safe for concurrent use.
type View interface {
	Reader
	Close() error
}

// Iterator starts before the first key when fresh.
//
//	for ok := it.First(); ok; ok = it.Next() { use(it.Key(), it.Value()) }
//	if err := it.Close(); err != nil { ... }
//
// Key and Value stay valid until the next move.
type Iterator interface {
	First() bool
	Last() bool
	// SeekGE moves to the first key >= key within the bounds.
	SeekGE(key []byte) bool
	// SeekLT moves to the last key < key within the bounds.
	SeekLT(key []byte) bool
	Next() bool
	Prev() bool
	Key() []byte
	Value() []byte
	// Close releases the iterator and returns the first error it met.
	Close() error
}

// BodyID names a body within its shard; 0 is none. Ids are never reused.
type BodyID uint64

// BodyWriter takes the octets of one body. Exactly one of Finish and Abort
// ends it. Not safe for concurrent use.
type BodyWriter interface {
	io.Writer
	// Finish ends the body and hands it over for one Propose.
	Finish() (StagedBody, error)
	// Abort gives it up; safe after Finish or Propose (then it does nothing).
	Abort()
}

// StagedBody is a finished body that waits for its command.
type StagedBody interface {
	// Size is the number of octets written to it.
	Size() int64
	// Digest is the SHA-256 of these octets.
	Digest() [32]byte
	// Discard gives it up without a Propose; harmless after one.
	Discard()
}

// BodyReader reads a body's original octets; ReadAt-like seeking is by
// skipping, as bodies are compressed. Each frame's checksum is verified before
// its octets are returned.
type BodyReader interface {
	io.ReadCloser
	// Size is the number of original octets.
	Size() int64
}

// Watcher delivers wake-ups.
type Watcher struct {
	// C receives after the topic was published. It holds one wake-up.
	C     <-chan struct{}
	close func()
}

// NewWatcher is for implementations of Shard.
func NewWatcher(c <-chan struct{}, close func()) *Watcher { return &Watcher{C: c, close: close} }

// Close ends the watch; no wake-up comes after it. It may be called twice.
func (w *Watcher) Close() { w.close() }
