package imapd

import "github.com/prometheus/client_golang/prometheus"

// Labels of mailferry_imap_commands_total: command is a name of the table or
// "unknown", result is ok, no or bad.
type metrics struct {
	sessions prometheus.Gauge
	commands *prometheus.CounterVec
	seconds  prometheus.Histogram
	bodies   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_imap_sessions", Help: "Open IMAP sessions at the store."}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_imap_commands_total", Help: "IMAP commands at the store."},
			[]string{"command", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_imap_command_seconds",
			Help: "Time from a command's first octet to its answer, IDLE apart.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}),
		bodies: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_imap_bodies_fetched_total",
			Help: "Messages of which a FETCH gave out more than headers."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.sessions, m.commands, m.seconds, m.bodies} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
