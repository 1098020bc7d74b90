package store

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/cluster/engine"
)

// Options are what a Store is built from.
type Options struct {
	Engine  engine.Engine         // not owned
	Logger  *slog.Logger          // nil: discard
	Now     func() time.Time      // nil: time.Now
	Rand    io.Reader             // nil: crypto/rand (delivery ids)
	Metrics prometheus.Registerer // nil: none
}

// Store gives access to users and accounts. It is safe for concurrent use and
// owns no goroutine; Close it before the engine stops.
type Store struct {
	// set at start
	engine engine.Engine
	log    *slog.Logger
	now    func() time.Time
	rand   io.Reader
}

// New returns a Store over an engine that runs NewMachine().
func New(o Options) (*Store, error) {
	return nil, errors.New("store: not ready")
}

// Close releases the store's watches. The engine stays open.
func (s *Store) Close() error { return nil }
