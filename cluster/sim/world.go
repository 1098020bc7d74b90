// Package sim tests package cluster under faults, deterministically as far as
// Pebble's own goroutines allow: nodes are driven step by step by one goroutine
// under a virtual clock, over a network that drops, delays, reorders, repeats and
// partitions, on disks that lose what was not synced or return errors. All
// chance comes from one seed.
package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// Config says what to simulate.
type Config struct {
	Seed   uint64
	Voters int
	Shards int // besides Meta
	Steps  int // with faults, before everything is healed and checked
}

// World is the simulated cluster with its client and what it must remember.
type World struct {
	cfg   Config
	rng   *rand.Rand
	now   int // steps so far
	nodes []*node
	ids   []uint64

	flight []packet
	cut    [][]bool // [from][to]: the way is cut
	lossy  int      // percent of messages that are lost or repeated

	nextOp  int
	pending []*op
	done    []*op // of all shards, in the order of their ends
	highest map[engine.ShardID]uint64
	trace   []string // the last things that happened
}

type node struct {
	w      *World
	id     uint64
	fs     *vfs.MemFS
	broken *errorfs.Toggle
	st     *cluster.Stepper // nil while it is down
	maxApp map[engine.ShardID]uint64
}

type packet struct {
	due      int
	from, to uint64
	shard    engine.ShardID
	data     []byte
}

// New makes a world of running nodes.
func New(cfg Config) (*World, error) {
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), highest: map[engine.ShardID]uint64{}}
	for i := range cfg.Voters {
		w.ids = append(w.ids, uint64(i+1))
		w.cut = append(w.cut, make([]bool, cfg.Voters))
	}
	for _, id := range w.ids {
		n := &node{w: w, id: id, fs: vfs.NewCrashableMem()}
		w.nodes = append(w.nodes, n)
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *World) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%6d ", w.now)+fmt.Sprintf(format, args...))
	if len(w.trace) > 400 {
		w.trace = w.trace[200:]
	}
}

// Trace returns the last things that happened.
func (w *World) Trace() string { return strings.Join(w.trace, "\n") }

func (n *node) start() error {
	n.broken = &errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errorfs.ErrInjected
		}
		return nil
	})}
	st, err := cluster.OpenStepper(cluster.Options{
		NodeID: n.id, Voters: n.w.ids, Dir: "data", FS: errorfs.Wrap(n.fs, n.broken), Shards: n.w.cfg.Shards,
		Machine: enginetest.Machine{}, Transport: transport{n}, Logger: slog.New(slog.DiscardHandler),
		ApplyWorkers: 2, SegmentBytes: 256 << 10, CacheBytes: 1 << 20, CheckpointBytes: 1 << 20,
	})
	if err != nil {
		return fmt.Errorf("node %d does not start: %w", n.id, err)
	}
	n.st = st
	n.maxApp = map[engine.ShardID]uint64{}
	return nil
}

// transport is the network as one node sees it.
type transport struct{ n *node }

// Send implements cluster.Transport.
func (t transport) Send(to uint64, batch []cluster.Envelope) {
	for _, e := range batch {
		data, err := proto.Marshal(e.Message)
		if err != nil {
			panic(err) // Raft's messages always encode
		}
		t.n.w.post(packet{from: t.n.id, to: to, shard: e.Shard, data: data})
	}
}

// post puts a packet on its way, unless it is lost.
func (w *World) post(p packet) {
	if w.cut[p.from-1][p.to-1] {
		return
	}
	if w.rng.IntN(100) < w.lossy {
		if w.rng.IntN(2) == 0 {
			return
		}
		again := p
		again.due = w.now + w.rng.IntN(200)
		w.flight = append(w.flight, again)
	}
	p.due = w.now + w.rng.IntN(4)
	if w.rng.IntN(100) < w.lossy {
		p.due += w.rng.IntN(100)
	}
	w.flight = append(w.flight, p)
}

// deliver hands over the packets that are due, in any order.
func (w *World) deliver() error {
	var late []packet
	var due []packet
	for _, p := range w.flight {
		if p.due <= w.now {
			due = append(due, p)
		} else {
			late = append(late, p)
		}
	}
	w.flight = late
	w.rng.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	for _, p := range due {
		n := w.nodes[p.to-1]
		if n.st == nil || w.cut[p.from-1][p.to-1] {
			continue
		}
		m := &raftpb.Message{}
		if err := proto.Unmarshal(p.data, m); err != nil {
			return err
		}
		n.st.Node().Receive([]cluster.Envelope{{Shard: p.shard, Message: m}})
	}
	return nil
}

// settle notes that a node's step failed: fine when its disk does.
func (n *node) settle(err error) error {
	if err == nil {
		return n.checkApplied()
	}
	if !errors.Is(err, errorfs.ErrInjected) && !strings.Contains(err.Error(), errorfs.ErrInjected.Error()) {
		return fmt.Errorf("node %d: %w", n.id, err)
	}
	n.w.logf("node %d stops: disk error", n.id)
	n.fs = n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: n.w.rng.IntN(101), RNG: n.w.rng})
	return n.end()
}

// checkApplied: applied indexes never go back while a node runs.
func (n *node) checkApplied() error {
	for _, id := range n.st.Node().Shards() {
		a := n.st.Node().Applied(id)
		if a < n.maxApp[id] {
			return fmt.Errorf("node %d shard %d: applied index went back from %d to %d", n.id, id, n.maxApp[id], a)
		}
		n.maxApp[id] = a
	}
	return nil
}

// crash ends a node; keep is the percentage of unsynced data that survives, 100
// as after kill -9.
func (n *node) crash(keep int) error {
	n.w.logf("node %d crashes, keeps %d %% of unsynced data", n.id, keep)
	clone := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: n.w.rng})
	err := n.end()
	n.fs = clone
	return err
}

// end abandons a node and frees its files. The copy of its disk was taken before.
func (n *node) end() error {
	st := n.st
	n.st = nil
	st.Crash()
	return st.Release()
}

// run does one of the things a node has to do.
func (n *node) run(what int) error {
	if n.st == nil {
		return nil
	}
	var err error
	switch what {
	case 0:
		err = n.st.Pass()
	case 1:
		_, err = n.st.Persist()
	case 2:
		_, err = n.st.Apply()
	case 3:
		err = n.st.Clean()
	}
	return n.settle(err)
}
