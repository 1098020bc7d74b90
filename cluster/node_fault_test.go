package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// TestDiskFault: after a write error nothing is acknowledged, all that wait are
// told, and after a restart on a working disk everything acknowledged is there.
func TestDiskFault(t *testing.T) {
	mem := vfs.NewCrashableMem()
	broken := &errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errorfs.ErrInjected
		}
		return nil
	})}
	c := newCluster(t, 1, func(o *cluster.Options) { o.FS = errorfs.Wrap(mem, broken) })
	s := c.lead(t.Context(), 1)
	var mu sync.Mutex
	acknowledged := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				_, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "add", Key: "n"}))
				mu.Lock()
				if err == nil {
					acknowledged++
				}
				if acknowledged == 100 {
					broken.On()
				}
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, engine.ErrStopped) {
						t.Errorf("propose on a broken disk: %v", err)
					}
					return
				}
			}
		})
	}
	wg.Wait()
	<-c.nodes[0].Failed()
	if _, err := s.View(t.Context()); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("view after the fault: %v", err)
	}
	if err := c.nodes[0].Close(t.Context()); !errors.Is(err, engine.ErrStopped) || !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("close after the fault: %v", err)
	}
	c.nodes = nil
	c.opts[0].FS = mem.CrashClone(vfs.CrashCloneCfg{})
	c.open()
	v, err := c.lead(t.Context(), 1).View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	n, _ := v.Get([]byte("n"))
	if got := int(enginetest.Counter(n)); got < acknowledged || got > acknowledged+8 {
		t.Errorf("%d commands after the crash, %d were acknowledged", got, acknowledged)
	}
}

type panicking struct{ enginetest.Machine }

func (panicking) Apply(tx engine.Tx, id engine.ShardID, cmd []byte) []byte {
	if string(cmd) == "panic" {
		panic("bug")
	}
	return enginetest.Machine{}.Apply(tx, id, cmd)
}

func TestMachinePanic(t *testing.T) {
	c := newCluster(t, 1, func(o *cluster.Options) { o.Machine = panicking{} })
	s := c.lead(t.Context(), 1)
	if _, err := s.Propose(t.Context(), []byte("panic")); !errors.Is(err, engine.ErrUnknownOutcome) || !errors.Is(err, engine.ErrStopped) {
		t.Errorf("%v, want unknown outcome and stopped", err)
	}
	<-c.nodes[0].Failed()
	if err := c.nodes[0].Close(t.Context()); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("close: %v", err)
	}
	c.nodes = nil
}

// TestBackPressure: far more proposals than may be in flight all succeed.
func TestBackPressure(t *testing.T) {
	c := newCluster(t, 1, func(o *cluster.Options) { o.MaxProposals, o.MaxProposalBytes = 4, 1<<20 })
	s := c.lead(t.Context(), 1)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "add", Key: "n"})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCloseEndsEverything(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := newCluster(t, 3, nil)
	s := c.lead(t.Context(), 1)
	if _, err := s.Propose(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, n := range c.nodes {
			if err := n.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	c.nodes = nil
}

// TestCloseWaitsForViews: an open view bounds Close by its context only, and its
// data stays readable.
func TestCloseWaitsForViews(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.lead(t.Context(), 1)
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.nodes[0].Close(t.Context()) }()
	for { // until Close has begun
		if other, err := s.View(t.Context()); err != nil {
			break
		} else if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Get([]byte("x")); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("get while closing: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.nodes = nil
}

func TestOtherDirectory(t *testing.T) {
	c := newCluster(t, 1, nil)
	o := c.opts[0]
	c.close()
	o.NodeID, o.Voters = 2, []uint64{2}
	if n, err := cluster.Open(o); err == nil {
		t.Errorf("opened another node's directory: %v", n)
	}
	if _, err := cluster.Open(cluster.Options{Voters: []uint64{1, 1, 0}}); err == nil {
		t.Error("opened without options")
	}
}

// TestLeaderLost: commands at a leader that is cut off end, and a new leader
// goes on with all that was acknowledged.
func TestLeaderLost(t *testing.T) {
	c := newCluster(t, 3, nil)
	s := c.lead(t.Context(), 1)
	for i := range 10 {
		if _, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "append", Key: "l", Value: fmt.Sprint(i)})); err != nil {
			t.Fatal(err)
		}
	}
	lost := -1
	for i, n := range c.nodes {
		if r, _ := n.Shard(1); r == s {
			lost = i
		}
	}
	c.net.Detach(uint64(lost + 1))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := s.Propose(ctx, enginetest.Command(enginetest.Op{Do: "append", Key: "l", Value: "x"}))
	if err != nil && !errors.Is(err, engine.ErrUnknownOutcome) && !errors.Is(err, engine.ErrNotLeader) {
		t.Errorf("propose at a cut off leader: %v", err)
	}
	old := c.nodes[lost]
	c.nodes = append(append([]*cluster.Node{}, c.nodes[:lost]...), c.nodes[lost+1:]...)
	v, err := c.lead(t.Context(), 1).View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Get([]byte("l"))
	if err != nil || string(got) != "0123456789" && string(got) != "0123456789x" {
		t.Errorf("new leader has %q, %v", got, err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	c.nodes = append(c.nodes, old)
}
