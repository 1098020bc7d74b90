package target

import (
	"context"
	"errors"
	"testing"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// What Begin met is told, once, and costs the user no second failed login.
func TestBeginTellsARefusedLogin(t *testing.T) {
	refused := errors.New("no such password")
	dials := 0
	f := New(Options{Dir: t.TempDir(), Dial: func(context.Context) (*remote.Client, error) {
		dials++
		return nil, refused
	}}).(*importer)
	f.Begin(t.Context(), "anna")
	imp, err := f.Import(t.Context(), "anna", backend.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := imp.(*account)
	defer a.Close()
	if err := a.Prepare(t.Context(), []backend.ImportMailbox{{Name: backend.Inbox}}); !errors.Is(err, refused) {
		t.Fatalf("Prepare: %v, want the refused login", err)
	}
	if dials != 1 {
		t.Fatalf("%d logins, want 1", dials)
	}
	if err := a.Prepare(t.Context(), []backend.ImportMailbox{{Name: backend.Inbox}}); !errors.Is(err, refused) || dials != 2 {
		t.Fatalf("Prepare again: %v after %d logins", err, dials)
	}
}

// Rest gives free what Begin took: another copy of the account can run, and so can
// the next Begin.
func TestRestUndoesBegin(t *testing.T) {
	dir := t.TempDir()
	entered := make(chan struct{}, 2)
	o := Options{Dir: dir, Dial: func(ctx context.Context) (*remote.Client, error) {
		entered <- struct{}{}
		<-ctx.Done() // a target that does not answer
		return nil, context.Cause(ctx)
	}}
	f := New(o).(*importer)
	for range 2 {
		f.Begin(t.Context(), "anna")
		<-entered
		if _, err := New(o).Import(t.Context(), "anna", backend.ImportOptions{}); !backend.IsKind(err, backend.KindConflict) {
			t.Fatalf("a second copy beside one that has begun: %v, want a conflict", err)
		}
		f.Rest()
		imp, err := New(o).Import(t.Context(), "anna", backend.ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		imp.(*account).Close()
	}
}
