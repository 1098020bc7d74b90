package cluster

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"mailferry/cluster/engine"
)

// Envelope is a Raft message and the shard it belongs to. Messages are shared
// between sender and receiver within a process and must not be changed.
type Envelope struct {
	Shard   engine.ShardID
	Message *raftpb.Message
}

// Transport carries messages between nodes. It may lose, delay, reorder and
// repeat them; Raft repairs that.
type Transport interface {
	// Send hands over messages for node to. It must not block: when the way is
	// congested it drops. It is called by several goroutines at once and must
	// not keep batch, only what it points to.
	Send(to uint64, batch []Envelope)
}

// Loopback is a Transport between nodes of one process.
type Loopback struct {
	mu    sync.RWMutex
	nodes map[uint64]*Node
}

// NewLoopback returns a Loopback without nodes.
func NewLoopback() *Loopback { return &Loopback{nodes: make(map[uint64]*Node)} }

// Attach makes n reachable under its id, in place of any node before it.
// Messages to nodes that are not attached are lost.
func (l *Loopback) Attach(n *Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[n.opts.NodeID] = n
}

// Detach makes a node unreachable.
func (l *Loopback) Detach(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.nodes, id)
}

// Send implements Transport.
func (l *Loopback) Send(to uint64, batch []Envelope) {
	l.mu.RLock()
	n := l.nodes[to]
	l.mu.RUnlock()
	if n != nil {
		n.Receive(batch)
	}
}
