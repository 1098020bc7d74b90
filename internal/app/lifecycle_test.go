package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStopInReverseOnce(t *testing.T) {
	l := lifecycle{log: slog.New(slog.DiscardHandler)}
	var order []string
	for _, name := range []string{"first", "second", "third"} {
		l.onClose(name, func() error {
			order = append(order, name)
			if name == "second" {
				return errors.New("stuck")
			}
			return nil
		})
	}
	err := l.stop(context.Background())
	if err == nil || !strings.Contains(err.Error(), "second: stuck") {
		t.Errorf("error %v does not name the step", err)
	}
	if err := l.stop(context.Background()); err != nil {
		t.Errorf("second stop: %v", err)
	}
	if diff := cmp.Diff([]string{"third", "second", "first"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestStuckStepLeavesTimeForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lifecycle{log: slog.New(slog.DiscardHandler)}
		var left time.Duration
		l.onStop("engine", func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return ctx.Err()
		})
		l.onStop("proxy", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := l.stop(ctx)
		if err == nil || strings.Contains(err.Error(), "engine") || left < 3*time.Second {
			t.Errorf("error %v, left for the engine %v", err, left)
		}
	})
}
