// Package bench measures the product beside its peers; README.md tells how.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

// BenchmarkDeliver files real messages into the INBOXes of 100 users: our store
// over the engine, without a protocol before it, on a real disk with its syncs.
// Three voters are three nodes of this process with a directory each on one
// disk; a delivery begins at the node that leads the user's shard.
//
//	BENCH_DIR=/var/tmp go test ./bench -run '^$' -bench Deliver -benchtime 5s
func BenchmarkDeliver(b *testing.B) {
	mail := mailtest.Corpus(b)
	var messages [][]byte
	for i := range min(2000, mail.Len()) {
		messages = append(messages, mail.Message(b, i))
	}
	for _, voters := range []int{1, 3} {
		for _, shards := range []int{1, 64} { // a node of make run has one
			for _, writers := range []int{1, 16} {
				b.Run(fmt.Sprintf("voters=%d/shards=%d/writers=%d", voters, shards, writers), func(b *testing.B) {
					deliver(b, openStore(b, voters, shards), writers, messages)
				})
			}
		}
	}
}

func deliver(b *testing.B, s *store.Store, writers int, messages [][]byte) {
	const users = 100
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	for i := range users {
		if _, err := s.CreateUser(ctx, store.NewUser{Name: name(i)}); err != nil && !backend.IsKind(err, backend.KindExists) {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				m := messages[i%len(messages)]
				if err := s.DeliverStream(ctx, "", []string{name(i % users)}, bytes.NewReader(m))[0]; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

func name(i int) string { return fmt.Sprintf("u%03d@example.org", i) }

// openStore is our store over some nodes that share their shards, once each
// shard has a leader.
func openStore(b *testing.B, voters, shards int) *store.Store {
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "deliver")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	var ids []uint64
	for i := range voters {
		ids = append(ids, uint64(i+1))
	}
	wire := cluster.NewLoopback()
	var nodes []*cluster.Node
	for _, id := range ids {
		n, err := cluster.Open(cluster.Options{NodeID: id, Voters: ids, Dir: filepath.Join(dir, fmt.Sprint(id)), Shards: shards,
			Machine: store.NewMachine(), Transport: wire, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := n.Close(ctx); err != nil {
				b.Error(err)
			}
		})
		wire.Attach(n)
		nodes = append(nodes, n)
	}
	e := leaders(nodes)
	for deadline := time.Now().Add(30 * time.Second); !e.complete(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("a shard has no leader")
		}
	}
	s, err := store.New(store.Options{Engine: e})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// leaders is an engine whose shards are where they are led.
type leaders []*cluster.Node

func (l leaders) Shards() []engine.ShardID { return l[0].Shards() }

func (l leaders) Shard(id engine.ShardID) (engine.Shard, error) {
	for _, n := range l {
		if s, err := n.Shard(id); err != nil || s.Leader() {
			return s, err
		}
	}
	return nil, engine.ErrNotLeader
}

func (l leaders) complete() bool {
	for _, id := range l.Shards() {
		if _, err := l.Shard(id); err != nil {
			return false
		}
	}
	return true
}
