package cluster_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"mailferry/cluster"
	"mailferry/cluster/engine"
)

// BenchmarkIdle measures the CPU time that idle shards cost, in percent of a
// core for all nodes together:
//
//	go test ./cluster -run '^$' -bench Idle -benchtime 5s
func BenchmarkIdle(b *testing.B) {
	for _, c := range []struct{ voters, shards int }{{1, 1024}, {3, 64}, {3, 256}, {3, 1024}} {
		b.Run(fmt.Sprintf("voters=%d/shards=%d", c.voters, c.shards), func(b *testing.B) {
			n := newCluster(b, c.voters, func(o *cluster.Options) {
				o.Shards, o.Tick = c.shards, 100*time.Millisecond
			})
			for id := range engine.ShardID(c.shards) {
				n.lead(b.Context(), id+1)
			}
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			before := cpuTime(b)
			b.ResetTimer()
			for range b.N { // N milliseconds
				<-tick.C
			}
			b.StopTimer()
			b.ReportMetric(100*(cpuTime(b)-before).Seconds()/b.Elapsed().Seconds(), "%core")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
