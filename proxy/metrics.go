package proxy

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the proxy. Label values are closed lists: protocol imap, lmtp;
// login result ok, denied, unavailable, refused, cleartext; hold end attached,
// resumed, closed; reason as declared with type reason; delivery result
// delivered, rejected, deferred.
type metrics struct {
	connections *prometheus.CounterVec // protocol
	sessions    prometheus.Gauge
	logins      *prometheus.CounterVec // result
	loginTime   prometheus.Histogram
	octets      *prometheus.CounterVec // direction: up, down
	holds       *prometheus.CounterVec // result: confirmed, refused
	thaws       *prometheus.CounterVec // end
	closes      *prometheus.CounterVec // reason
	pause       prometheus.Histogram
	deliveries  *prometheus.CounterVec // result
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_proxy_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		connections: vec("connections_total", "Connections of clients, by protocol.", "protocol"),
		sessions:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_proxy_sessions", Help: "Sessions that are logged in."}),
		logins:      vec("logins_total", "Logins by result: ok, denied, unavailable, refused, cleartext.", "result"),
		loginTime: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_proxy_login_seconds",
			Help: "Time of successful logins, lookup to answer.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 9)}),
		octets: vec("relayed_bytes_total", "Octets relayed: up to stores, down to clients.", "direction"),
		holds:  vec("holds_total", "Holds by answer: confirmed, refused.", "result"),
		thaws:  vec("thaws_total", "Sessions after a hold: attached, resumed, closed.", "end"),
		closes: vec("attach_failures_total", "Sessions that were closed rather than attached, by reason.", "reason"),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_proxy_pause_seconds",
			Help: "How long a hold made a session, login or delivery wait.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 12)}),
		deliveries: vec("deliveries_total", "Recipients of LMTP by result: delivered, rejected, deferred.", "result"),
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.connections, m.sessions, m.logins, m.loginTime, m.octets, m.holds,
		m.thaws, m.closes, m.pause, m.deliveries} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
