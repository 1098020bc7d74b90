package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"mailferry/cluster"
	"mailferry/cluster/engine"
)

func TestTable(t *testing.T) {
	for _, voters := range []int{1, 3} {
		t.Run(fmt.Sprint(voters, " voters"), func(t *testing.T) {
			c := newCluster(t, voters, nil)
			c.lead(t.Context(), engine.Meta)
			for i, n := range c.nodes { // on every node, leader or not
				testTable(t, n.Table(), fmt.Sprint("node", i, "/"))
			}
			c.close()
			c.open()
			c.lead(t.Context(), engine.Meta)
			pairs, err := c.nodes[0].Table().List(t.Context(), "node")
			if err != nil || len(pairs) != 2*voters {
				t.Errorf("after restart: %v, %v", pairs, err)
			}
		})
	}
}

func testTable(t *testing.T, tab *cluster.Table, prefix string) {
	t.Helper()
	ctx := t.Context()
	w := tab.Watch(prefix)
	defer w.Close()
	set := func(key, value string, ifVersion uint64, want error) uint64 {
		t.Helper()
		v, err := tab.Set(ctx, prefix+key, []byte(value), ifVersion)
		if !errors.Is(err, want) {
			t.Fatalf("set %s if %d: %v, want %v", key, ifVersion, err, want)
		}
		return v
	}
	v1 := set("a", "1", 0, nil)
	<-w.C
	set("a", "2", 0, cluster.ErrConflict)
	v2 := set("a", "2", v1, nil)
	set("a", "3", v1, cluster.ErrConflict)
	set("b", "", cluster.Any, nil)
	set("c", "x", cluster.Any, nil)
	if v2 <= v1 {
		t.Errorf("version %d after %d", v2, v1)
	}
	value, version, err := tab.Get(ctx, prefix+"a")
	if string(value) != "2" || version != v2 || err != nil {
		t.Errorf("get: %q %d %v", value, version, err)
	}
	if err := tab.Delete(ctx, prefix+"c", 1<<60); !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("delete of another version: %v", err)
	}
	if err := tab.Delete(ctx, prefix+"c", cluster.Any); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, _, err := tab.Get(ctx, prefix+"c"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("get deleted: %v", err)
	}
	if _, err := tab.Set(ctx, strings.Repeat("k", 5000), nil, 0); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("long key: %v", err)
	}
	pairs, err := tab.List(ctx, prefix)
	if err != nil || len(pairs) != 2 || pairs[0].Key != prefix+"a" || pairs[1].Key != prefix+"b" {
		t.Errorf("list: %v %v", pairs, err)
	}
}

// TestTableContention: of many that change one version, one succeeds.
func TestTableContention(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.lead(t.Context(), engine.Meta)
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 12 {
		tab := c.nodes[i%3].Table()
		wg.Go(func() {
			for range 10 {
				increment(t.Context(), t, tab, &won)
			}
		})
	}
	wg.Wait()
	value, _, err := c.nodes[0].Table().Get(t.Context(), "n")
	if err != nil || string(value) != fmt.Sprint(won.Load()) || won.Load() != 120 {
		t.Errorf("%d changes succeeded, value %s, %v", won.Load(), value, err)
	}
}

func increment(ctx context.Context, t *testing.T, tab *cluster.Table, won *atomic.Int64) {
	for {
		n := 0
		value, version, err := tab.Get(ctx, "n")
		if err == nil {
			_, err = fmt.Sscan(string(value), &n)
		}
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			t.Error(err)
			return
		}
		_, err = tab.Set(ctx, "n", fmt.Append(nil, n+1), version)
		if err == nil {
			won.Add(1)
			return
		}
		if !errors.Is(err, cluster.ErrConflict) {
			t.Error(err)
			return
		}
	}
}
