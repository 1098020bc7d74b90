package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

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
