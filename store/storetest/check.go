package storetest

import (
	"context"
	"testing"

	"mailferry/store"
)

// Check fails the test for each fault that store.Check finds, bodies included.
func Check(t testing.TB, s *store.Store) {
	t.Helper()
	faults, err := s.Check(context.Background(), store.CheckOptions{Bodies: true, Limit: 20})
	if err != nil {
		t.Errorf("check: %v", err)
	}
	for _, f := range faults {
		t.Errorf("check: %v", f)
	}
}
