package pop3d

import "github.com/prometheus/client_golang/prometheus"

// Labels of mailferry_pop3_commands_total: command is a name of the table or
// "unknown", result is ok or err.
type metrics struct {
	sessions  prometheus.Gauge
	commands  *prometheus.CounterVec
	seconds   prometheus.Histogram
	retrieved prometheus.Counter
	deleted   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_pop3_sessions", Help: "Open POP3 sessions at the store."}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_pop3_commands_total", Help: "POP3 commands at the store."},
			[]string{"command", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_pop3_command_seconds",
			Help: "Time from a POP3 command's line to its answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}),
		retrieved: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_pop3_messages_retrieved_total",
			Help: "Messages that RETR gave out."}),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_pop3_messages_deleted_total",
			Help: "Messages that QUIT removed."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.sessions, m.commands, m.seconds, m.retrieved, m.deleted} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
