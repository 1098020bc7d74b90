package cluster

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"mailferry/cluster/engine"
)

// appendTask is a log write that Raft asks for.
type appendTask struct {
	g   *group
	msg *raftpb.Message
}

// driver is the state of the loop that drives all groups of a node. Its methods
// are called by one goroutine, or step by step by a simulator.
type driver struct {
	ticks   uint64
	work    inboxWork
	dirty   []*group
	appends []appendTask
	applies [][]applyTask // by worker
	out     map[uint64][]Envelope
}

// pass steps everything that waits into Raft and hands on what Raft wants
// done: messages to the transport, log writes to the log writer, committed
// entries to the apply workers. It neither blocks nor touches the disk, unless
// Raft needs entries that are not in memory any more.
func (n *Node) pass() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cluster: raft: %v\n%s", p, debug.Stack())
		}
	}()
	n.work.reset()
	n.work = n.inbox.take(n.work)
	for _, f := range n.work.calls {
		f()
	}
	for _, r := range n.work.local {
		n.stepLocal(r)
	}
	for _, e := range n.work.messages {
		if g := n.group(e.Shard); g != nil {
			_ = g.rn.Step(e.Message) // an error means: of no use
			n.mark(g)
		}
	}
	for _, p := range n.work.proposals {
		p.g.queued = append(p.g.queued, p)
		n.mark(p.g)
	}
	for _, r := range n.work.reads {
		if len(r.g.reads) == 0 {
			r.g.readsTick = n.ticks
		}
		r.g.reads = append(r.g.reads, r)
		n.mark(r.g)
	}
	n.handleDirty()
	return nil
}

// tickAll advances the clock of all groups that have other voters.
func (n *Node) tickAll() {
	n.ticks++
	for _, g := range n.groups {
		g.tick()
		n.mark(g)
	}
}

func (n *Node) mark(g *group) {
	if !g.dirty {
		g.dirty = true
		n.dirty = append(n.dirty, g)
	}
}

func (n *Node) stepLocal(r localResponses) {
	for _, m := range r.messages {
		_ = r.g.rn.Step(m)
		if m.GetType() == raftpb.MsgStorageApplyResp {
			r.g.afterApply(m)
		}
	}
	n.mark(r.g)
}

// afterApply runs when entries have been applied.
func (g *group) afterApply(m *raftpb.Message) {
	last := m.GetEntries()[len(m.GetEntries())-1]
	keep := cacheBytes
	if g.single() {
		keep = 0
	}
	g.log.evict(last.GetIndex(), keep)
	if g.leads.Load() && last.GetTerm() == g.term && !g.serving.Load() {
		g.serving.Store(true)
		g.node.janitor.add([]*group{g})
	}
	g.releaseReads()
}

func (n *Node) handleDirty() {
	for i := 0; i < len(n.dirty); i++ { // handling one may mark it again
		g := n.dirty[i]
		n.dirty[i] = nil
		g.dirty = false
		if len(g.queued) > 0 {
			g.propose()
		}
		g.askReads()
		for g.rn.HasReady() {
			n.handleReady(g, g.rn.Ready())
			g.askReads()
		}
	}
	n.dirty = n.dirty[:0]
	n.send(n.out)
	if len(n.appends) > 0 {
		n.appendQueue.add(n.appends)
		clear(n.appends)
		n.appends = n.appends[:0]
	}
	for i, tasks := range n.applies {
		if len(tasks) > 0 {
			n.applyQueues[i].add(tasks)
			clear(tasks)
			n.applies[i] = tasks[:0]
		}
	}
}

// send hands messages to the transport, in the order of the voters so that a
// simulation can be repeated, and empties the batches.
func (n *Node) send(out map[uint64][]Envelope) {
	if len(out) == 0 {
		return
	}
	for _, to := range n.opts.Voters {
		if batch := out[to]; len(batch) > 0 {
			n.opts.Transport.Send(to, batch)
			clear(batch)
			out[to] = batch[:0]
		}
	}
}

func (n *Node) handleReady(g *group, rd raft.Ready) {
	if !raft.IsEmptyHardState(rd.HardState) {
		g.term = rd.HardState.GetTerm()
	}
	if rd.SoftState != nil {
		g.setLeader(rd.SoftState)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			n.appends = append(n.appends, appendTask{g, m})
		case raft.LocalApplyThread:
			n.applies[g.worker] = append(n.applies[g.worker], applyTask{g: g, msg: m})
		default:
			n.outbox(m.GetTo(), Envelope{g.id, m})
		}
	}
	if len(rd.ReadStates) > 0 {
		g.confirmReads(rd.ReadStates)
	}
}

func (n *Node) outbox(to uint64, e Envelope) { n.out[to] = append(n.out[to], e) }

// persist writes the log entries and hard states of all tasks in one synced
// batch, then releases the messages that waited for it.
func (n *Node) persist(tasks []appendTask) error {
	begin := time.Now()
	b := n.logs.NewBatch()
	sync, entries := false, 0
	for _, t := range tasks {
		if len(t.msg.GetEntries()) > 0 {
			entries += len(t.msg.GetEntries())
			if err := t.g.log.write(b, t.msg.GetEntries()); err != nil {
				return err
			}
		}
		if t.msg.Term != nil {
			t.g.log.unsaved = &raftpb.HardState{Term: t.msg.Term, Vote: t.msg.Vote, Commit: t.msg.Commit}
		}
		if len(t.msg.GetResponses()) == 0 {
			continue // nothing was promised, as with a new commit index: the next write brings it
		}
		sync = true
		if err := t.g.log.writeHardState(b); err != nil {
			return err
		}
	}
	size := b.Len()
	if sync {
		if err := b.Commit(pebble.Sync); err != nil {
			return err
		}
		if err := n.fault.get(); err != nil {
			return err
		}
		n.noteLogGrowth(size)
	}
	_ = b.Close() // committed or empty
	if f := n.opts.Metrics.LogSync; f != nil && sync {
		f(time.Since(begin), entries, size)
	}
	n.release(tasks)
	return nil
}

// release delivers the messages that were waiting for a log write.
func (n *Node) release(tasks []appendTask) {
	var local []localResponses
	var remote map[uint64][]Envelope
	for _, t := range tasks {
		if len(t.msg.GetEntries()) > 0 {
			t.g.log.written(t.msg.GetEntries())
		}
		own := t.msg.GetResponses()[:0:0]
		for _, m := range t.msg.GetResponses() {
			if m.GetTo() == n.opts.NodeID {
				own = append(own, m)
				continue
			}
			if remote == nil {
				remote = map[uint64][]Envelope{}
			}
			remote[m.GetTo()] = append(remote[m.GetTo()], Envelope{t.g.id, m})
		}
		if len(own) > 0 {
			local = append(local, localResponses{t.g, own})
		}
	}
	n.send(remote)
	if len(local) > 0 {
		n.inbox.respond(local)
	}
}

// applyAll runs the tasks of one worker and tells Raft.
func (n *Node) applyAll(w *worker, tasks []applyTask) error {
	if err := w.apply(tasks); err != nil {
		w.abandon(unknown(err))
		return err
	}
	local := make([]localResponses, 0, len(tasks))
	for _, t := range tasks {
		if t.done != nil {
			close(t.done)
			continue
		}
		local = append(local, localResponses{t.g, t.msg.GetResponses()})
	}
	n.inbox.respond(local)
	return nil
}

// unknown is the outcome of proposals that a fault caught on their way.
func unknown(err error) error {
	return fmt.Errorf("%w: %w: %w", engine.ErrUnknownOutcome, engine.ErrStopped, err)
}
