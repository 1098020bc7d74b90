package cluster_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// testCluster is some nodes in one process.
type testCluster struct {
	t     testing.TB
	net   *cluster.Loopback
	opts  []cluster.Options
	nodes []*cluster.Node

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a leader changes
}

func newCluster(t testing.TB, voters int, tune func(*cluster.Options)) *testCluster {
	c := &testCluster{t: t, net: cluster.NewLoopback(), changed: make(chan struct{})}
	var ids []uint64
	for i := range voters {
		ids = append(ids, uint64(i+1))
	}
	for _, id := range ids {
		o := cluster.Options{
			NodeID: id, Voters: ids, Dir: "node", FS: vfs.NewMem(), Shards: 3, Machine: enginetest.Machine{},
			Transport: c.net, Tick: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			Metrics: cluster.Metrics{Leader: func(engine.ShardID, bool) { c.notify() }},
		}
		if tune != nil {
			tune(&o)
		}
		c.opts = append(c.opts, o)
	}
	c.open()
	t.Cleanup(c.close)
	return c
}

func (c *testCluster) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *testCluster) open() {
	for _, o := range c.opts {
		n, err := cluster.Open(o)
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
		c.net.Attach(n)
	}
}

func (c *testCluster) close() {
	for _, n := range c.nodes {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := n.Close(ctx); err != nil {
			c.t.Errorf("close: %v", err)
		}
		cancel()
	}
	c.nodes = nil
}

// lead waits for a leader that can serve the shard.
func (c *testCluster) lead(ctx context.Context, id engine.ShardID) engine.Shard {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		for _, n := range c.nodes {
			s, err := n.Shard(id)
			if err != nil {
				c.t.Fatal(err)
			}
			if !s.Leader() {
				continue
			}
			if v, err := s.View(ctx); err == nil {
				_ = v.Close()
				return s
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("shard %d has no leader", id)
		}
	}
}

func (c *testCluster) engines() []engine.Engine {
	var all []engine.Engine
	for _, n := range c.nodes {
		all = append(all, n)
	}
	return all
}

func (c *testCluster) harness() *enginetest.Harness {
	return &enginetest.Harness{
		Engines: c.engines,
		Lead:    c.lead,
		Restart: func() { c.close(); c.open() },
		Stop:    c.close,
	}
}

func TestConformance(t *testing.T) {
	t.Run("OneVoter", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) *enginetest.Harness { return newCluster(t, 1, nil).harness() })
	})
	t.Run("ThreeVoters", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) *enginetest.Harness { return newCluster(t, 3, nil).harness() })
	})
	t.Run("RealDisk", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) *enginetest.Harness {
			return newCluster(t, 1, func(o *cluster.Options) { o.FS, o.Dir = vfs.Default, t.TempDir() }).harness()
		})
	})
}
