package cluster_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// benchMachine does what filing a mail costs at least: two reads, three writes,
// one body.
type benchMachine struct{}

func (benchMachine) Apply(tx engine.Tx, _ engine.ShardID, cmd []byte) []byte {
	n, _ := tx.Get([]byte("count"))
	next := enginetest.Counter(n) + 1
	key := fmt.Appendf(nil, "m/%016x", next)
	if id := tx.Body(0); id != 0 {
		tx.RetainBody(id)
	}
	tx.Set(key, cmd)
	tx.Set([]byte("count"), fmt.Appendf(nil, "%08d", next)[:8])
	tx.Publish("mailbox")
	return key
}

// BenchmarkPropose measures commands per second on a real disk, with 64 shards:
//
//	go test ./cluster -run '^$' -bench Propose -benchtime 5s
func BenchmarkPropose(b *testing.B) {
	for _, voters := range []int{1, 3} {
		for _, writers := range []int{1, 32} {
			for _, body := range []int{0, 4 << 10, 16 << 10} {
				b.Run(fmt.Sprintf("voters=%d/writers=%d/body=%dKiB", voters, writers, body>>10), func(b *testing.B) {
					benchPropose(b, voters, writers, body)
				})
			}
		}
	}
}

func benchPropose(b *testing.B, voters, writers, body int) {
	const shards = 64
	c := newCluster(b, voters, func(o *cluster.Options) {
		o.FS, o.Dir, o.Shards = vfs.Default, benchDir(b), shards
		o.Machine = benchMachine{}
		o.Tick = 100 * time.Millisecond
	})
	var leaders []engine.Shard
	for id := range engine.ShardID(shards) {
		leaders = append(leaders, c.lead(b.Context(), id+1))
	}
	cmd := enginetest.Octets(1, 400, true)
	data := enginetest.Octets(2, body, true)
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := benchOne(b, leaders[i%shards], cmd, data); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func benchOne(b *testing.B, s engine.Shard, cmd, data []byte) error {
	if len(data) == 0 {
		_, err := s.Propose(b.Context(), cmd)
		return err
	}
	w, err := s.NewBody(b.Context())
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	body, err := w.Finish()
	if err != nil {
		return err
	}
	_, err = s.Propose(b.Context(), cmd, body)
	return err
}

// benchDir is on a real disk, where MAILFERRY_BENCH_DIR says.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(os.Getenv("MAILFERRY_BENCH_DIR"), "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
