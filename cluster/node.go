package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/semaphore"

	"mailferry/cluster/engine"
)

// Node is one node's replicas of all shards. It implements engine.Engine and is
// safe for concurrent use.
type Node struct {
	opts   Options
	log    *slog.Logger
	cache  *pebble.Cache
	logs   *pebble.DB // Raft logs
	state  *pebble.DB // applied state
	segs   *segments
	placer placer
	groups []*group // by shard id
	fault  *fault
	table  Table

	origin uint64 // random, tells this start's proposals from all others
	seq    atomic.Uint64
	slots  *semaphore.Weighted
	users  gate // open views

	inbox       *inbox
	appendQueue *queue[appendTask]
	applyQueues []*queue[applyTask]
	workers     []*worker
	janitor     *queue[*group]
	growth      logGrowth
	driver      // owned by the driver loop

	stops   []func() // stop the goroutines, in order
	closing sync.Once
	closed  chan struct{}
	closeBy error
}

var _ engine.Engine = (*Node)(nil)

// Open opens or creates the node's data and starts it. When it is the only
// voter, all shards are ready to be used when Open returns, with everything
// applied that was acknowledged before. The caller closes the Node.
func Open(o Options) (*Node, error) {
	n, err := open(o)
	if err != nil {
		return nil, err
	}
	if err := n.bootSingle(); err != nil {
		return nil, errors.Join(err, n.closeFiles())
	}
	n.start()
	return n, nil
}

func open(o Options) (_ *Node, err error) {
	if o.Shards == 0 {
		o.Shards = 1
	}
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	n := newNode(o)
	defer func() {
		if p := recover(); p != nil { // Pebble's way to tell of disk errors
			err = fmt.Errorf("cluster: open %s: %v", o.Dir, p)
		} else if err != nil {
			err = errors.Join(err, n.closeFiles())
		}
	}()
	if err := n.openFiles(); err != nil {
		return nil, err
	}
	for id := range engine.ShardID(o.Shards + 1) {
		g, err := n.newGroup(id)
		if err != nil {
			return nil, err
		}
		n.groups = append(n.groups, g)
	}
	if err := n.repairBodies(); err != nil {
		return nil, err
	}
	return n, nil
}

func newNode(o Options) *Node {
	n := &Node{
		opts: o, log: o.Logger.With("node", o.NodeID), fault: newFault(),
		slots: semaphore.NewWeighted(o.MaxProposalBytes),
		inbox: newInbox(o.MaxInbox), appendQueue: newQueue[appendTask](), janitor: newQueue[*group](),
		closed: make(chan struct{}),
	}
	n.growth.wake = make(chan struct{}, 1)
	n.growth.limit = o.CheckpointBytes
	n.applies = make([][]applyTask, o.ApplyWorkers)
	n.out = map[uint64][]Envelope{}
	n.table.n = n
	n.placer.node = n
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	n.origin = binary.BigEndian.Uint64(b[:])
	n.seq.Store(binary.BigEndian.Uint64(b[8:]) >> 1)
	return n
}

func (n *Node) openFiles() (err error) {
	fs, dir := n.opts.FS, n.opts.Dir
	if err := mkdirSynced(fs, dir); err != nil {
		return err
	}
	logCache := pebble.NewCache(logCacheBytes)
	defer logCache.Unref() // the database keeps it
	n.cache = pebble.NewCache(n.opts.CacheBytes + int64(stateMemTable(n.opts.CheckpointBytes)))
	if n.logs, err = openPebble(fs.PathJoin(dir, "log"), fs, logCache, n.fault, n.log, tuneLog(n.opts.CheckpointBytes)); err != nil {
		return err
	}
	if err := n.checkIdentity(); err != nil {
		return err
	}
	if n.state, err = openPebble(fs.PathJoin(dir, "state"), fs, n.cache, n.fault, n.log, tuneState(n.opts.CheckpointBytes)); err != nil {
		return err
	}
	if n.segs, err = openSegments(fs.PathJoin(dir, "bodies"), fs); err != nil {
		return err
	}
	for range n.opts.ApplyWorkers {
		n.workers = append(n.workers, newWorker(n))
		n.applyQueues = append(n.applyQueues, newQueue[applyTask]())
	}
	return nil
}

// identity is what a directory was made for.
type identity struct {
	Format int      `json:"format"`
	Node   uint64   `json:"node"`
	Shards int      `json:"shards"`
	Voters []uint64 `json:"voters"`
}

const dirFormat = 1

// checkIdentity refuses a directory that was made for something else.
func (n *Node) checkIdentity() error {
	want := identity{Format: dirFormat, Node: n.opts.NodeID, Shards: n.opts.Shards, Voters: n.opts.Voters}
	key := logKey(0xffffffff, logNode)
	v, err := getCopy(n.logs, key)
	if err != nil {
		return err
	}
	if v == nil {
		v, err := json.Marshal(want)
		if err != nil {
			return err
		}
		return n.logs.Set(key, v, pebble.Sync)
	}
	var have identity
	if err := json.Unmarshal(v, &have); err != nil {
		return fmt.Errorf("cluster: identity of %s: %w", n.opts.Dir, err)
	}
	if have.Format != want.Format || have.Node != want.Node || have.Shards != want.Shards || !slices.Equal(have.Voters, want.Voters) {
		return fmt.Errorf("cluster: %s was made for %+v, not for %+v", n.opts.Dir, have, want)
	}
	return nil
}

func (n *Node) newID() entryID { return entryID{n.origin, n.seq.Add(1)} }

func (n *Node) group(id engine.ShardID) *group {
	if int(id) < len(n.groups) {
		return n.groups[id]
	}
	return nil
}

// Shards implements engine.Engine.
func (n *Node) Shards() []engine.ShardID {
	ids := make([]engine.ShardID, len(n.groups))
	for i := range ids {
		ids[i] = engine.ShardID(i)
	}
	return ids
}

// Shard implements engine.Engine.
func (n *Node) Shard(id engine.ShardID) (engine.Shard, error) {
	if g := n.group(id); g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("%w: shard %d", engine.ErrNotFound, id)
}

// LeaderOf returns the node that leads a shard as far as is known here, or 0.
func (n *Node) LeaderOf(id engine.ShardID) uint64 {
	if g := n.group(id); g != nil {
		return g.leader.Load()
	}
	return 0
}

// Applied returns the index of the last command of a shard whose effects are
// visible on this replica.
func (n *Node) Applied(id engine.ShardID) uint64 {
	if g := n.group(id); g != nil {
		return g.applied.Load()
	}
	return 0
}

// Table returns the cluster's small table.
func (n *Node) Table() *Table { return &n.table }

// Receive takes messages from other nodes. It never blocks; when the inbox is
// full it drops, and Raft sends again. It keeps the messages, not batch.
func (n *Node) Receive(batch []Envelope) {
	if d := n.inbox.receive(batch); d > 0 && n.opts.Metrics.InboxDrop != nil {
		n.opts.Metrics.InboxDrop(d)
	}
}

// Err returns nil while the node works, else why it stopped (an
// engine.ErrStopped).
func (n *Node) Err() error { return n.fault.get() }

// Failed is closed when a disk fault or a bug has stopped the node.
func (n *Node) Failed() <-chan struct{} { return n.fault.c }

// gate counts users of the databases, so that Close can wait for them.
type gate struct {
	mu    sync.Mutex
	n     int
	shut  bool
	empty chan struct{}
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.shut && g.n == 0 {
		close(g.empty)
	}
}

// close lets nobody in any more and waits for those inside.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.shut {
		g.shut = true
		g.empty = make(chan struct{})
		if g.n == 0 {
			close(g.empty)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cluster: views are still open: %w", ctx.Err())
	}
}
