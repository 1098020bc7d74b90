package app

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/cluster"
	"mailferry/cluster/engine"
)

// engineMetrics turns the engine's hooks into metrics; there are no labels.
func engineMetrics(r prometheus.Registerer) (cluster.Metrics, error) {
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_engine_" + name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10)})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_engine_" + name, Help: help})
	}
	syncs := seconds("log_sync_seconds", "Time of one synced write of the log.")
	applies := seconds("apply_seconds", "Time of one applied batch.")
	checkpoints := seconds("checkpoint_seconds", "Time of one checkpoint.")
	entries := counter("log_entries_total", "Entries written to the log.")
	bytes := counter("log_bytes_total", "Bytes written to the log.")
	commands := counter("commands_total", "Commands applied.")
	drops := counter("inbox_drops_total", "Messages of other nodes that were dropped because the inbox was full.")
	leads := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_engine_shards_led", Help: "Shards that this node leads."})
	var errs []error
	for _, c := range []prometheus.Collector{syncs, applies, checkpoints, entries, bytes, commands, drops, leads} {
		errs = append(errs, r.Register(c))
	}
	return cluster.Metrics{
		LogSync: func(d time.Duration, n, size int) {
			syncs.Observe(d.Seconds())
			entries.Add(float64(n))
			bytes.Add(float64(size))
		},
		Apply: func(d time.Duration, n int) {
			applies.Observe(d.Seconds())
			commands.Add(float64(n))
		},
		InboxDrop: func(n int) { drops.Add(float64(n)) },
		Leader: func(_ engine.ShardID, is bool) {
			if is {
				leads.Inc()
			} else {
				leads.Dec()
			}
		},
		Checkpoint: func(d time.Duration) { checkpoints.Observe(d.Seconds()) },
	}, errors.Join(errs...)
}
