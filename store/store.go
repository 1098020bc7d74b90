package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
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
	engine engine.Engine
	meta   engine.Shard
	log    *slog.Logger
	now    func() time.Time
	rand   io.Reader
	users  *userCache
	meters *meters
	drops  maildropLocks
}

// New returns a Store over an engine that runs NewMachine().
func New(o Options) (*Store, error) {
	if o.Engine == nil {
		return nil, errors.New("store: no engine")
	}
	meta, err := o.Engine.Shard(engine.Meta)
	if err != nil {
		return nil, engineError(err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	m, err := newMeters(o.Metrics)
	if err != nil {
		return nil, err
	}
	return &Store{engine: o.Engine, meta: meta, log: o.Logger, now: o.Now, rand: o.Rand,
		users: newUserCache(meta.Watch(usersTopic)), meters: m}, nil
}

// Close releases the store's watches. The engine stays open.
func (s *Store) Close() error {
	s.users.watch.Close()
	return nil
}

// shard finds a replica here.
func (s *Store) shard(id engine.ShardID) (engine.Shard, error) {
	sh, err := s.engine.Shard(id)
	if err != nil {
		return nil, backend.Errorf(backend.KindUnavailable, "mailbox is not on this server", "shard %d: %w", id, err)
	}
	return sh, nil
}

// propose has a command applied and returns the handler's answer. A refusal
// comes back with the kind that the machine decided.
func (s *Store) propose(ctx context.Context, sh engine.Shard, cmd []byte, bodies ...engine.StagedBody) (*decoder, error) {
	result, err := sh.Propose(ctx, cmd, plainBodies(bodies)...)
	if err != nil {
		return nil, engineError(err)
	}
	return parseResult(result)
}

// view opens a snapshot of a shard.
func (s *Store) view(ctx context.Context, sh engine.Shard) (engine.View, error) {
	v, err := sh.View(ctx)
	if err != nil {
		return nil, engineError(err)
	}
	return v, nil
}

// engineError gives an engine's error its kind. Nothing that an engine says is
// final for a user, but for what is too large; a key or body that is not there
// has its meaning where it was looked for.
func engineError(err error) error {
	var known *backend.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, engine.ErrTooLarge):
		return backend.Errorf(backend.KindTooLarge, "too large", "engine: %w", err)
	case errors.Is(err, engine.ErrNotLeader), errors.Is(err, engine.ErrUnknownOutcome), errors.Is(err, engine.ErrStopped),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return backend.Errorf(backend.KindUnavailable, "mail store is not available", "engine: %w", err)
	default:
		return backend.Errorf(backend.KindBug, "internal error", "engine: %w", err)
	}
}
