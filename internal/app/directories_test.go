package app

import (
	"testing"

	"mailferry/backend"
)

// TestFreshSeesTheDirectoryAndKeepsTheCache: a move decides by what the
// directory says now, and a directory that is away costs nobody a login.
func TestFreshSeesTheDirectoryAndKeepsTheCache(t *testing.T) {
	f := startFarm(t, "anna")
	dirs := f.node.dirs
	store := func(what string, lookup func() (backend.Entry, error), want string) {
		t.Helper()
		if e, err := lookup(); err != nil || e.Store != want {
			t.Errorf("%s: %+v %v, want %s", what, e, err, want)
		}
	}
	remembered := func() (backend.Entry, error) { return dirs.Lookup(t.Context(), "anna") }
	fresh := func() (backend.Entry, error) { return dirs.fresh(t.Context(), "anna") }
	store("first", remembered, "old1")
	f.ldap.SetAttr(t, "anna", "mailHost", "home")
	store("remembered", remembered, "old1")
	store("fresh", fresh, "home")
	f.ldap.Stop()
	if _, err := fresh(); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("fresh without a directory: %v", err)
	}
	store("remembered without a directory", remembered, "old1")
}
