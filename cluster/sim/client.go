package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// op is one thing the client asked for.
type op struct {
	id      int
	kind    opKind
	shard   engine.ShardID
	key     string
	size    int // of the body
	noise   bool
	begun   int
	floor   uint64 // highest count acknowledged before it began
	node    *node
	pending *cluster.Pending
	fate    fate
	count   uint64 // what the counter said
}

type opKind int

const (
	opCount  opKind = iota // adds to the counter and leaves a mark
	opFile                 // files a body
	opUnfile               // releases one
	opRead                 // reads the counter
	opTable                // sets an entry of the table
)

type fate int

const (
	underWay fate = iota
	acknowledged
	refused
	unknown
)

func (o *op) String() string {
	return fmt.Sprintf("op %d kind %d shard %d key %q size %d", o.id, o.kind, o.shard, o.key, o.size)
}

func (o *op) body() []byte { return enginetest.Octets(uint64(o.id), o.size, o.noise) }

// client asks a node for something.
func (w *World) client(n *node) {
	if n.st == nil || len(w.pending) > 30 {
		return
	}
	w.nextOp++
	o := &op{id: w.nextOp, shard: engine.ShardID(w.rng.IntN(w.cfg.Shards + 1)), begun: w.now, node: n}
	o.floor = w.highest[o.shard]
	o.key = fmt.Sprintf("op/%d", o.id)
	if w.rng.IntN(4) > 0 { // mostly a client knows whom to ask
		if leader := n.st.Node().LeaderOf(o.shard); leader != 0 && w.nodes[leader-1].st != nil {
			o.node = w.nodes[leader-1]
		}
	}
	o.kind = []opKind{opCount, opCount, opFile, opFile, opUnfile, opRead, opRead, opTable}[w.rng.IntN(8)]
	var err error
	if o.pending, err = w.begin(o); err != nil {
		o.fate = refused
		w.end(o)
		return
	}
	w.pending = append(w.pending, o)
}

func (w *World) begin(o *op) (*cluster.Pending, error) {
	st := o.node.st
	mark := enginetest.Op{Do: "add", Key: o.key}
	switch o.kind {
	case opFile:
		o.size, o.noise = w.bodySize(), w.rng.IntN(2) == 0
		b, err := st.Stage(o.shard, o.body(), w.rng.IntN(2) == 0)
		if err != nil {
			return nil, err
		}
		if w.rng.IntN(10) == 0 {
			b.Discard()
			return nil, errors.New("given up")
		}
		return st.Propose(o.shard, enginetest.Command(mark, enginetest.Op{Do: "file", Key: "body/" + o.key}), b)
	case opUnfile:
		of := w.someFile(o.shard)
		if of == nil {
			return nil, errors.New("nothing to release")
		}
		o.key = of.key
		return st.Propose(o.shard, enginetest.Command(enginetest.Op{Do: "unfile", Key: "body/" + of.key}))
	case opRead:
		return st.Read(o.shard)
	case opTable:
		o.shard = engine.Meta
		return st.SetTable(o.key, []byte(o.key), 0)
	}
	return st.Propose(o.shard, enginetest.Command(mark,
		enginetest.Op{Do: "append", Key: "log", Value: o.key + ","}, enginetest.Op{Do: "add", Key: "n"}))
}

func (w *World) bodySize() int {
	switch w.rng.IntN(20) {
	case 0:
		return w.rng.IntN(900 << 10)
	case 1:
		return 0
	case 2, 3:
		return w.rng.IntN(150 << 10)
	}
	return w.rng.IntN(9000)
}

// someFile returns a filed body that nobody has begun to release.
func (w *World) someFile(shard engine.ShardID) *op {
	released := map[string]bool{}
	for _, list := range [][]*op{w.done, w.pending} {
		for _, o := range list {
			if o.kind == opUnfile {
				released[o.key] = true
			}
		}
	}
	var files []*op
	for _, o := range w.done {
		if o.kind == opFile && o.shard == shard && o.fate == acknowledged && !released[o.key] {
			files = append(files, o)
		}
	}
	if len(files) == 0 {
		return nil
	}
	return files[w.rng.IntN(len(files))]
}

// poll looks which ops have ended.
func (w *World) poll() error {
	var still []*op
	for _, o := range w.pending {
		result, done, err := o.pending.Poll()
		if !done {
			still = append(still, o)
			continue
		}
		if err := w.settle(o, result, err); err != nil {
			return err
		}
		w.end(o)
	}
	w.pending = still
	return nil
}

func (w *World) end(o *op) {
	w.done = append(w.done, o)
	w.logf("%v at node %d: fate %d count %d", o, o.node.id, o.fate, o.count)
}

func (w *World) settle(o *op, result []byte, err error) error {
	switch {
	case err == nil:
		o.fate = acknowledged
	case errors.Is(err, engine.ErrUnknownOutcome):
		o.fate = unknown
		return nil
	case errors.Is(err, engine.ErrNotLeader) || errors.Is(err, engine.ErrStopped):
		o.fate = refused
		return nil
	default:
		return fmt.Errorf("%v: %w", o, err)
	}
	switch o.kind {
	case opCount:
		o.count = enginetest.Counter(result)
		if o.count <= o.floor {
			return fmt.Errorf("%v: counted %d, but %d was acknowledged before it began", o, o.count, o.floor)
		}
		w.highest[o.shard] = max(w.highest[o.shard], o.count)
	case opTable:
		if _, err := cluster.TableVersion(result); err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
	case opRead:
		return w.settleRead(o)
	}
	return nil
}

// settleRead: a read sees what was acknowledged before it began.
func (w *World) settleRead(o *op) error {
	if o.node.st == nil {
		return nil // ended, and then the node crashed
	}
	v, err := o.node.st.Peek(o.shard, "n")
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		return err
	}
	if o.count = enginetest.Counter(v); o.count < o.floor {
		return fmt.Errorf("%v at node %d: reads %d, but %d was acknowledged before it began", o, o.node.id, o.count, o.floor)
	}
	return nil
}

// check verifies everything on all replicas, which are at rest.
func (w *World) check() error {
	for id := range engine.ShardID(w.cfg.Shards + 1) {
		first := ""
		for i, n := range w.nodes {
			dump, err := n.st.Dump(id)
			if err != nil {
				return err
			}
			if i == 0 {
				first = dump
			} else if dump != first {
				return fmt.Errorf("shard %d differs between node 1 and %d:\n%s", id, n.id, firstDifference(first, dump))
			}
		}
	}
	for _, n := range w.nodes {
		if err := n.st.Check(); err != nil {
			return fmt.Errorf("node %d: %w", n.id, err)
		}
		released := map[string]bool{}
		for _, o := range w.done {
			if o.kind == opUnfile && o.fate != refused {
				released[o.key] = true
			}
		}
		for _, o := range w.done {
			if err := n.checkOp(o, released[o.key]); err != nil {
				return fmt.Errorf("node %d: %v, fate %d: %w", n.id, o, o.fate, err)
			}
		}
	}
	return nil
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return la[i] + "\n" + lb[i]
		}
	}
	return fmt.Sprintf("%d and %d lines", len(la), len(lb))
}

// checkOp: acknowledged means once, refused never, unknown at most once.
func (n *node) checkOp(o *op, released bool) error {
	switch o.kind {
	case opCount, opFile:
		v, err := n.st.Peek(o.shard, o.key)
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return err
		}
		if err := o.checkTimes(enginetest.Counter(v)); err != nil {
			return err
		}
		if o.kind == opFile && enginetest.Counter(v) == 1 {
			return n.checkBody(o, released)
		}
	case opTable:
		v, version, err := n.st.Node().Table().Peek(o.key)
		times := uint64(0)
		if err == nil && version > 0 && string(v) == o.key {
			times = 1
		}
		return o.checkTimes(times)
	}
	return nil
}

func (o *op) checkTimes(times uint64) error {
	if o.fate == acknowledged && times != 1 || o.fate == refused && times != 0 || times > 1 {
		return fmt.Errorf("is there %d times", times)
	}
	return nil
}

func (n *node) checkBody(o *op, released bool) error {
	v, err := n.st.Peek(o.shard, "body/"+o.key)
	if errors.Is(err, engine.ErrNotFound) && released {
		return nil
	}
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	s, err := n.st.Node().Shard(o.shard)
	if err != nil {
		return err
	}
	r, err := s.OpenBody(engine.BodyID(binary.BigEndian.Uint64(v)))
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, o.body()) {
		return fmt.Errorf("body of %d octets, want %d", len(got), o.size)
	}
	return nil
}

// Summary tells how many ops ended how.
func (w *World) Summary() string {
	var n [4]int
	for _, o := range w.done {
		n[o.fate]++
	}
	return fmt.Sprintf("%d operations: %d acknowledged, %d refused, %d unknown", len(w.done), n[acknowledged], n[refused], n[unknown])
}
