package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// meters count what the store does. Labels: result is "filed", "unknown_user"
// or "temporary".
type meters struct {
	deliveries *prometheus.CounterVec // per recipient
	appended   prometheus.Counter
	expunged   prometheus.Counter
	imported   prometheus.Counter
}

func newMeters(r prometheus.Registerer) (*meters, error) {
	m := &meters{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_store_deliveries_total",
			Help: "Recipients of deliveries by result."}, []string{"result"}),
		appended: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_store_appended_total",
			Help: "Messages filed by APPEND, COPY and MOVE."}),
		expunged: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_store_expunged_total",
			Help: "Messages expunged, moved ones included."}),
		imported: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailferry_store_imported_total",
			Help: "Messages put by imports, repetitions included."}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.deliveries), r.Register(m.appended), r.Register(m.expunged), r.Register(m.imported))
}
