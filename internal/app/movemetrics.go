package app

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/migrate"
)

// migrationMetrics turns the hooks of the engine of moves into metrics. Label
// values: state as migrate.State names them; what is copied, filed, vanished, flagged;
// result is flipped or aborted.
func migrationMetrics(r prometheus.Registerer) (migrate.Metrics, error) {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_migrate_" + name, Help: help}, []string{label})
	}
	states := vec("states_total", "Moves that entered a state.", "state")
	messages := vec("messages_total", "Messages that were copied, filed without fetching, vanished or got other flags.", "what")
	renamed := prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_migrate_mailboxes_renamed_total",
		Help: "Mailboxes that were renamed with what they hold, as at the old store."})
	octets := prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_migrate_bytes_total", Help: "Bytes of messages that were copied."})
	holds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mailferry_migrate_hold_seconds",
		Help: "How long users were on hold, by result: flipped, aborted.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 11)}, []string{"result"})
	failures := vec("failures_total", "Moves that failed, by reason: a kind of error, or hold.", "reason")
	throttles := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mailferry_migrate_throttle_users",
		Help: "Users of a store's host that may be worked on at a time."}, []string{"host"})
	hooks := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_migrate_hook_events_total",
		Help: "Events for a hook, by result: told, failed, dropped."}, []string{"hook", "result"})
	soaked := vec("soak_total", "What soaks carried: late mail to the new store, changes that the old store followed.", "what")
	var errs []error
	for _, c := range []prometheus.Collector{soaked, states, messages, renamed, octets, holds, failures, throttles, hooks} {
		errs = append(errs, r.Register(c))
	}
	return migrate.Metrics{
		State: func(_, to migrate.State) { states.WithLabelValues(to.String()).Inc() },
		Messages: func(copied, vanished, flagged int) {
			messages.WithLabelValues("copied").Add(float64(copied))
			messages.WithLabelValues("vanished").Add(float64(vanished))
			messages.WithLabelValues("flagged").Add(float64(flagged))
		},
		Soak: func(late, followed int) {
			soaked.WithLabelValues("late").Add(float64(late))
			soaked.WithLabelValues("followed").Add(float64(followed))
		},
		Placed: func(filed, boxes int) {
			messages.WithLabelValues("filed").Add(float64(filed))
			renamed.Add(float64(boxes))
		},
		Failed:   func(reason string) { failures.WithLabelValues(reason).Inc() },
		Throttle: func(host string, users, _ int) { throttles.WithLabelValues(host).Set(float64(users)) },
		Hook:     func(hook, result string) { hooks.WithLabelValues(hook, result).Inc() },
		Octets:   func(n int64) { octets.Add(float64(n)) },
		Hold: func(d time.Duration, flipped bool) {
			result := "aborted"
			if flipped {
				result = "flipped"
			}
			holds.WithLabelValues(result).Observe(d.Seconds())
		},
	}, errors.Join(errs...)
}
