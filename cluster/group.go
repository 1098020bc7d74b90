package cluster

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"mailferry/cluster/engine"
)

// Raft times, in ticks.
const (
	electionTicks  = 10
	heartbeatTicks = 2
	// giveUpTicks ends what waits for an answer of another node.
	giveUpTicks = 3 * electionTicks
)

// group is this node's replica of one shard.
type group struct {
	id     engine.ShardID
	node   *Node
	worker int
	log    *groupLog

	// Owned by the driver.
	rn        *raft.RawNode
	dirty     bool
	term      uint64
	queued    []*proposal
	waiting   []*proposal // forwarded ones, until a leader is known
	reads     []*read     // not asked yet
	readsTick uint64      // when the first of them came
	asked     []*read     // a ReadIndex is under way for these
	askedID   uint64
	askedTick uint64
	confirmed []confirmedReads
	forwarded int // pending proposals sent to another node's leader, at most

	// Owned by the apply worker.
	passed    uint64 // last index put into a batch
	touched   bool
	live      map[uint32]int64 // live bytes by segment
	liveDirty map[uint32]bool

	// Read by everybody.
	applied     atomic.Uint64 // last index whose effects are visible
	truncatable atomic.Uint64 // all voters hold the log up to here
	leads       atomic.Bool
	leader      atomic.Uint64 // node id, 0 when unknown
	serving     atomic.Bool   // leads, and all that older leaders acknowledged is applied

	mu      sync.Mutex
	pending map[entryID]*proposal
	stages  map[stageID]bool // large bodies being written through this node

	checkpointed uint64 // applied index at the last checkpoint; the checkpointer's
	watchers     watchers
}

// read waits until the state holds all that was acknowledged before it.
type read struct {
	g    *group
	done chan error
}

type confirmedReads struct {
	index uint64
	reads []*read
}

// localResponses are messages that a log write or an apply releases.
type localResponses struct {
	g        *group
	messages []*raftpb.Message
}

func (n *Node) newGroup(id engine.ShardID) (*group, error) {
	g := &group{
		id: id, node: n, worker: int(id) % n.opts.ApplyWorkers,
		live: map[uint32]int64{}, liveDirty: map[uint32]bool{},
		pending: map[entryID]*proposal{}, stages: map[stageID]bool{},
	}
	applied, err := readUint64(n.state, newStateKey(id, stateApplied, nil))
	if err != nil {
		return nil, err
	}
	truncatable, err := readUint64(n.state, newStateKey(id, stateTruncate, nil))
	if err != nil {
		return nil, err
	}
	g.truncatable.Store(truncatable)
	g.passed = applied
	g.applied.Store(applied)
	if err := g.loadLive(); err != nil {
		return nil, err
	}
	if g.log, err = openGroupLog(n.logs, id, n.opts.Voters, applied); err != nil {
		return nil, err
	}
	if g.checkpointed, err = readUint64(n.logs, logKey(id, logSynced)); err != nil {
		return nil, err
	}
	g.term = g.log.hard.GetTerm()
	g.rn, err = raft.NewRawNode(&raft.Config{
		ID:                       n.opts.NodeID,
		ElectionTick:             electionTicks,
		HeartbeatTick:            heartbeatTicks,
		Storage:                  g.log,
		Applied:                  applied,
		AsyncStorageWrites:       true,
		MaxSizePerMsg:            1 << 20,
		MaxCommittedSizePerReady: 8 << 20,
		MaxInflightMsgs:          64,
		MaxInflightBytes:         16 << 20,
		CheckQuorum:              true,
		PreVote:                  true,
		ReadOnlyOption:           raft.ReadOnlySafe,
		// A forwarded command could be repeated on its way and applied twice.
		DisableProposalForwarding: true,
		Logger:                    raftLogger{n.log.With("shard", id)},
	})
	return g, err
}

// single tells that this node is the only voter.
func (g *group) single() bool { return len(g.node.opts.Voters) == 1 }

// setLeader takes over what Raft says about the leader.
func (g *group) setLeader(s *raft.SoftState) {
	leads := s.RaftState == raft.StateLeader
	if s.Lead != g.leader.Load() || leads != g.leads.Load() {
		g.serving.Store(false)
		g.failPending(engine.ErrUnknownOutcome, func(*proposal) bool { return true })
		g.askAgain()
		g.forwarded = 0
	}
	g.leader.Store(s.Lead)
	if s.Lead != 0 && len(g.waiting) > 0 {
		g.queued = append(g.queued, g.waiting...)
		g.waiting = nil
		g.node.mark(g)
	}
	if g.leads.Swap(leads) != leads {
		if f := g.node.opts.Metrics.Leader; f != nil {
			f(g.id, leads)
		}
	}
}

// propose steps the queued proposals into Raft as one message.
func (g *group) propose() {
	queued := g.queued
	g.queued = queued[:0]
	entries := make([]*raftpb.Entry, 0, len(queued))
	batch := make([]*proposal, 0, len(queued))
	for i, p := range queued {
		queued[i] = nil
		switch {
		case g.leads.Load():
			g.addPending(p)
			entries = append(entries, &raftpb.Entry{Data: p.data})
			batch = append(batch, p)
			p.data = nil
		case p.forward && g.leader.Load() != 0:
			g.forward(p)
		case p.forward && !g.single():
			if p.expires == 0 {
				p.expires = g.node.ticks + giveUpTicks
			}
			g.waiting = append(g.waiting, p)
		default:
			p.finish(nil, engine.ErrNotLeader)
		}
	}
	if len(entries) == 0 {
		return
	}
	m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(g.node.opts.NodeID), Entries: entries}
	if err := g.rn.Step(m); err != nil { // dropped: none of them will be in the log
		for _, p := range batch {
			if g.takePending(p.id) != nil {
				p.finish(nil, engine.ErrNotLeader)
			}
		}
	}
}

// forward sends a proposal to the leader. It may be lost or repeated on the way:
// only operations of the Table, which notice repetitions, go there.
func (g *group) forward(p *proposal) {
	p.expires = g.node.ticks + giveUpTicks
	g.forwarded++
	g.addPending(p)
	g.node.outbox(g.leader.Load(), Envelope{g.id, &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(g.node.opts.NodeID), To: new(g.leader.Load()),
		Entries: []*raftpb.Entry{{Data: p.data}},
	}})
	p.data = nil
}

// offerTruncation tells all voters, through the log, how much of the log every
// one of them has on disk, so that each may cut its own up to there. No voter
// ever asks another for entries before that.
func (g *group) offerTruncation() {
	if g.single() || !g.leads.Load() {
		return
	}
	index := g.applied.Load()
	g.rn.WithProgress(func(_ uint64, _ raft.ProgressType, pr tracker.Progress) {
		index = min(index, pr.Match)
	})
	if index < g.truncatable.Load()+minTruncation {
		return
	}
	data := binary.BigEndian.AppendUint64(appendHeader(nil, kindTruncate, g.node.newID()), index)
	_ = g.rn.Propose(data) // the next checkpoint offers again
	g.node.mark(g)
}

// minTruncation is the number of entries for which an offer is worth an entry.
const minTruncation = 16

// tick advances Raft's clock and gives up what waited too long.
func (g *group) tick() {
	g.rn.Tick()
	now := g.node.ticks
	if g.forwarded > 0 {
		g.failPending(engine.ErrUnknownOutcome, func(p *proposal) bool { return p.forward && p.expires != 0 && now >= p.expires })
	}
	if len(g.asked) > 0 && now >= g.askedTick+giveUpTicks || len(g.reads) > 0 && now >= g.readsTick+giveUpTicks {
		g.failReads(engine.ErrNotLeader)
	}
	for len(g.waiting) > 0 && now >= g.waiting[0].expires {
		g.waiting[0].finish(nil, engine.ErrNotLeader)
		g.waiting = g.waiting[1:]
	}
}
