package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// lifecycle is the list of what has been started, for stopping in reverse.
type lifecycle struct {
	log *slog.Logger

	mu    sync.Mutex
	steps []step // guarded by mu; emptied by the first stop
}

// step undoes one start. stop must return soon after its context ends.
type step struct {
	name string
	stop func(context.Context) error
}

// onStop registers how to stop what was just started.
func (l *lifecycle) onStop(name string, stop func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, step{name, stop})
}

// onClose registers something whose end needs no time.
func (l *lifecycle) onClose(name string, stop func() error) {
	l.onStop(name, func(context.Context) error { return stop() })
}

// stop ends everything in reverse order, each step even when another failed.
// ctx bounds all of it together; a step gets three quarters of the time that is
// left, so that a stuck one leaves some for those behind it. Further calls do
// nothing.
func (l *lifecycle) stop(ctx context.Context) error {
	l.mu.Lock()
	steps := l.steps
	l.steps = nil
	l.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		s, began := steps[i], time.Now()
		err := s.within(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		l.log.Debug("stopped", "part", s.name, "took", time.Since(began).Round(time.Millisecond), "error", err)
	}
	return errors.Join(errs...)
}

func (s *step) within(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*3/4)
		defer cancel()
	}
	return s.stop(ctx)
}
