package sim

import (
	"errors"
	"fmt"

	"mailferry/cluster/engine"
)

// Run simulates: steps with faults, then all is healed, and everything is
// checked; then all nodes lose power at once, and everything is checked again.
func (w *World) Run() error {
	for range w.cfg.Steps {
		w.now++
		if err := w.step(); err != nil {
			return err
		}
	}
	if err := w.heal(); err != nil {
		return err
	}
	if err := w.check(); err != nil {
		return err
	}
	for _, n := range w.nodes {
		if err := n.crash(w.rng.IntN(3) * 50); err != nil {
			return err
		}
	}
	if err := w.heal(); err != nil {
		return err
	}
	if err := w.check(); err != nil {
		return fmt.Errorf("after power loss of all: %w", err)
	}
	if err := w.checkLogs(); err != nil {
		return err
	}
	for _, n := range w.nodes {
		if err := n.end(); err != nil {
			return err
		}
	}
	return nil
}

// checkLogs: when all is well, the logs are cut.
func (w *World) checkLogs() error {
	for range 3 {
		for _, n := range w.nodes {
			if err := n.settle(n.st.Checkpoint()); err != nil {
				return err
			}
		}
		for range 10 {
			if err := w.round(); err != nil {
				return err
			}
		}
	}
	for _, n := range w.nodes {
		for id := range engine.ShardID(w.cfg.Shards + 1) {
			if l := n.st.LogLength(id); l > 50 {
				return fmt.Errorf("node %d shard %d: the log still has %d entries", n.id, id, l)
			}
		}
	}
	return w.check()
}

// step lets one thing happen.
func (w *World) step() error {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if n.st == nil && w.rng.IntN(60) == 0 {
		w.logf("node %d starts", n.id)
		return n.start()
	}
	switch r := w.rng.IntN(1000); {
	case r < 80:
		if err := w.tick(n); err != nil {
			return err
		}
	case r < 600:
		if err := n.run(w.rng.IntN(4)); err != nil {
			return err
		}
	case r < 720:
		w.client(n)
	case r < 990:
		if err := w.deliver(); err != nil {
			return err
		}
	case r < 997:
		if n.st != nil {
			do := []func() error{n.st.Flush, n.st.Compact}[w.rng.IntN(2)]
			if err := n.settle(do()); err != nil {
				return err
			}
		}
	default:
		if err := w.disturb(n); err != nil {
			return err
		}
	}
	return w.poll()
}

func (w *World) tick(n *node) error {
	if n.st == nil {
		return nil
	}
	return n.settle(n.st.Tick())
}

// disturb is what an administrator fears.
func (w *World) disturb(n *node) error {
	switch w.rng.IntN(6) {
	case 0, 1:
		if n.st != nil {
			keep := []int{0, 50, 100}[w.rng.IntN(3)]
			return n.crash(keep)
		}
	case 2:
		if n.st != nil {
			w.logf("node %d checkpoint", n.id)
			return n.settle(n.st.Checkpoint())
		}
	case 3, 4:
		w.lossy = []int{0, 0, 5, 30}[w.rng.IntN(4)]
		percent := []int{0, 0, 10, 30}[w.rng.IntN(4)]
		for i := range w.cut {
			for j := range w.cut[i] {
				w.cut[i][j] = i != j && w.rng.IntN(100) < percent
			}
		}
		w.logf("network: loss %d %%, cut %v", w.lossy, w.cut)
	case 5:
		if n.st != nil && w.rng.IntN(3) == 0 {
			w.logf("node %d: disk breaks", n.id)
			n.broken.On()
		}
	}
	return nil
}

// heal ends all faults and lets the cluster come to rest.
func (w *World) heal() error {
	w.logf("all is healed")
	w.lossy = 0
	for i := range w.cut {
		clear(w.cut[i])
	}
	for _, n := range w.nodes {
		if n.st == nil {
			if err := n.start(); err != nil {
				return err
			}
		}
		n.broken.Off()
	}
	for range 3000 {
		if err := w.round(); err != nil {
			return err
		}
		if w.atRest() {
			return nil
		}
	}
	return errors.New("the healed cluster does not come to rest")
}

// round lets every node do all it can, between two ticks.
func (w *World) round() error {
	for _, n := range w.nodes {
		if n.st == nil { // its disk broke before it was healed
			if err := n.start(); err != nil {
				return err
			}
		}
		if err := w.tick(n); err != nil {
			return err
		}
	}
	for range 4 {
		for _, n := range w.nodes {
			for what := range 4 {
				if err := n.run(what); err != nil {
					return err
				}
			}
		}
		w.now += 4
		if err := w.deliver(); err != nil {
			return err
		}
	}
	return w.poll()
}

// atRest: nothing is under way and all replicas have applied the same.
func (w *World) atRest() bool {
	if len(w.pending) > 0 {
		return false
	}
	for id := range engine.ShardID(w.cfg.Shards + 1) {
		leader := false
		for _, n := range w.nodes {
			if n.st == nil {
				return false
			}
			s, err := n.st.Node().Shard(id)
			if err != nil {
				return false
			}
			leader = leader || s.Leader()
			if n.st.Node().Applied(id) != w.nodes[0].st.Node().Applied(id) {
				return false
			}
		}
		if !leader {
			return false
		}
	}
	return true
}
