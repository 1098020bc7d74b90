package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"

	"mailferry/cluster/engine"
)

// Limits of one entry and of what waits in memory.
const (
	// inlineLimit is the most compressed octets of a body that ride in the
	// command's own entry; more are sent ahead in chunks of at most this size.
	inlineLimit = 256 << 10
	// blockSize is the run of original octets that is compressed at a time.
	blockSize = 128 << 10
	// maxInlineBodies bounds all inline bodies of one command, so that an entry
	// stays far below what a transport frame or a Pebble batch may hold.
	maxInlineBodies = 16 << 20
)

// Options configure a Node. NodeID, Dir and Machine are required; the zero
// value of everything else means the stated default.
type Options struct {
	// NodeID is this node's number, from 1; it must never change for a Dir.
	NodeID uint64
	// Voters are the nodes that replicate every shard, this one included.
	// Empty means this node alone.
	Voters []uint64
	// Dir holds everything: log/, state/, bodies/.
	Dir string
	// FS is the file system; vfs.Default when nil.
	FS vfs.FS
	// Shards is the number of user shards besides Meta; 0 means 1. It must not
	// change for a Dir.
	Shards int
	// Machine applies the commands. It is called by several goroutines at
	// once, but never at once for the same shard.
	Machine engine.Machine
	// Transport carries messages to other nodes; needed with several voters.
	Transport Transport
	// Logger receives what an administrator can act on; slog.Default when nil.
	Logger *slog.Logger
	// Metrics are optional hooks.
	Metrics Metrics

	// Tick is the unit of Raft time; default 100 ms. A heartbeat goes out every
	// 2 ticks, an election begins after 10 to 20 silent ticks.
	Tick time.Duration
	// NewTicker makes the ticker of the driver loop; time.NewTicker when nil.
	NewTicker func(time.Duration) (c <-chan time.Time, stop func())

	// ApplyWorkers is the number of goroutines that apply; default the number
	// of CPUs, at most 4. A shard always belongs to the same one.
	ApplyWorkers int
	// MaxProposals and MaxProposalBytes bound the proposals in flight on this
	// node; further ones wait in order of arrival. Default 8192 and 64 MiB.
	MaxProposals     int64
	MaxProposalBytes int64
	// MaxInbox bounds the messages from other nodes that wait for the driver
	// loop; above it new ones are dropped, which Raft repairs. Default 16384.
	MaxInbox int
	// MaxBody bounds the original octets of one body; default 4 GiB, the most
	// that IMAP4rev1 can name (RFC 3501 "number").
	MaxBody int64
	// SegmentBytes is the size at which a body segment is closed; default 256 MiB.
	SegmentBytes int64
	// MemoryBytes is what write buffers and the cache of the state may take
	// together, from which the two bounds below follow; default 48 MiB. Proposals
	// in flight and the Go heap come on top.
	MemoryBytes int64
	// CheckpointBytes is the growth of the log after which segments are synced,
	// the state is flushed and the log is cut; it bounds the replay after a
	// crash. Default a twelfth of MemoryBytes, 1 MiB to 64 MiB. Buffers of the
	// log and the state take up to six times as much.
	CheckpointBytes int64
	// CacheBytes is the block cache of the applied state; default what the
	// buffers leave of MemoryBytes.
	CacheBytes int64
}

// Metrics are hooks for a metrics system. Any may be nil. They are called by
// the engine's own goroutines and must return at once.
type Metrics struct {
	// LogSync reports one synced log write: its duration, entries and bytes.
	LogSync func(d time.Duration, entries, bytes int)
	// Apply reports one applied batch: its duration and number of commands.
	Apply func(d time.Duration, commands int)
	// InboxDrop reports messages dropped because the inbox was full.
	InboxDrop func(n int)
	// Leader reports that this node gained or lost the lead of a shard.
	Leader func(shard engine.ShardID, leads bool)
	// Checkpoint reports a finished checkpoint and its duration.
	Checkpoint func(d time.Duration)
}

func (o *Options) setDefaults() {
	if len(o.Voters) == 0 {
		o.Voters = []uint64{o.NodeID}
	}
	o.Voters = slices.Clone(o.Voters)
	slices.Sort(o.Voters)
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.NewTicker == nil {
		o.NewTicker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	setDefault(&o.Shards, 1)
	setDefault(&o.Tick, 100*time.Millisecond)
	setDefault(&o.ApplyWorkers, min(4, runtime.GOMAXPROCS(0)))
	setDefault(&o.MaxProposals, 8192)
	setDefault(&o.MaxProposalBytes, 64<<20)
	setDefault(&o.MaxInbox, 16384)
	setDefault(&o.MaxBody, 1<<32-1)
	setDefault(&o.SegmentBytes, 256<<20)
	setDefault(&o.MemoryBytes, 48<<20)
	setDefault(&o.CheckpointBytes, min(64<<20, max(1<<20, o.MemoryBytes/12)))
	setDefault(&o.CacheBytes, max(1<<20, o.MemoryBytes-6*o.CheckpointBytes))
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// validate reports every mistake at once.
func (o *Options) validate() error {
	var errs []error
	if o.NodeID == 0 || o.NodeID >= raft.LocalApplyThread {
		errs = append(errs, errors.New("NodeID must be 1 or more"))
	}
	if !slices.Contains(o.Voters, o.NodeID) {
		errs = append(errs, fmt.Errorf("node %d is not among the voters %v", o.NodeID, o.Voters))
	}
	if slices.Contains(o.Voters, 0) || len(slices.Compact(slices.Clone(o.Voters))) != len(o.Voters) {
		errs = append(errs, fmt.Errorf("voters %v: zero or named twice", o.Voters))
	}
	if o.Dir == "" {
		errs = append(errs, errors.New("no directory (Dir)"))
	}
	if o.Machine == nil {
		errs = append(errs, errors.New("no machine (Machine)"))
	}
	if len(o.Voters) > 1 && o.Transport == nil {
		errs = append(errs, errors.New("several voters need a Transport"))
	}
	if o.MemoryBytes < 0 {
		errs = append(errs, fmt.Errorf("MemoryBytes is %d", o.MemoryBytes))
	}
	if o.Shards < 0 || o.Shards > 1<<20 {
		errs = append(errs, fmt.Errorf("Shards is %d, must be 1 to 1048576", o.Shards))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cluster: options: %w", err)
	}
	return nil
}
