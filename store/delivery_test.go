package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/store"
)

func stager(t testing.TB, s *store.Store, text string) func(context.Context, engine.ShardID) (engine.StagedBody, error) {
	return func(ctx context.Context, id engine.ShardID) (engine.StagedBody, error) {
		w, err := s.NewBody(ctx, id)
		if err != nil {
			return nil, err
		}
		io.WriteString(w, text)
		return w.Finish()
	}
}

func TestDeliver(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		a, b, c := newUser(t, s, "a"), newUser(t, s, "b"), newUser(t, s, "c")
		if _, err := s.UpdateUser(ctx, "c", func(u *store.User) error { u.Disabled = true; return nil }); err != nil {
			t.Fatal(err)
		}
		d := delivery(t, s, "hello", "a", "nobody", "b", "c", "A")
		for range 2 { // the repetition files nothing
			errs := s.Deliver(ctx, d)
			if errs[0] != nil || errs[2] != nil || errs[4] != nil {
				t.Fatal(errs)
			}
			wantKind(t, errs[1], backend.KindNotFound)
			wantKind(t, errs[3], backend.KindPermission)
		}
		d.ID = s.NewDeliveryID()
		s.Deliver(ctx, d)
		for _, f := range []fixture{a, b} {
			wantStrings(t, f.list(backend.Inbox), []string{"1 2 []", "2 3 []"})
		}
		wantStrings(t, c.list(backend.Inbox), nil)
	})
}

func TestDeliverSharesBody(t *testing.T) {
	e := memoryEngine(t)
	s := newStore(t, e)
	var users []string
	for i := range 10 {
		users = append(users, fmt.Sprint("u", i))
		newUser(t, s, users[i])
	}
	for _, err := range s.Deliver(t.Context(), delivery(t, s, "hello", users...)) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := e.Bodies(1) + e.Bodies(2); n != 2 {
		t.Errorf("%d bodies in two shards", n)
	}
	for _, u := range users {
		if err := s.DeleteUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.Bodies(1) + e.Bodies(2); n != 0 {
		t.Errorf("%d bodies left", n)
	}
}

// lostOnce makes the outcome of the next command of a shard unknown.
type lostOnce struct {
	before, after bool
	shard         engine.ShardID
}

func (l *lostOnce) fault(shard engine.ShardID, _ []byte) (before, after error) {
	if shard != l.shard {
		return nil, nil
	}
	lost := errors.Join(engine.ErrUnknownOutcome)
	if l.before {
		before, l.before = lost, false
	}
	if l.after {
		after, l.after = lost, false
	}
	return before, after
}

// TestDeliverUnknownOutcome: after a lost answer the recipient gets the mail
// exactly when the sender is told so.
func TestDeliverUnknownOutcome(t *testing.T) {
	e := memoryEngine(t)
	lost := &lostOnce{}
	e.Fault = lost.fault
	s := newStore(t, e)
	f := newUser(t, s, "a")
	lost.shard = f.User().Shard

	lost.after = true
	if errs := s.Deliver(t.Context(), delivery(t, s, "applied", "a")); errs[0] != nil {
		t.Errorf("applied delivery: %v", errs[0])
	}
	wantStrings(t, f.list(backend.Inbox), []string{"1 2 []"})

	lost.before = true
	d := delivery(t, s, "not applied", "a")
	wantKind(t, s.Deliver(t.Context(), d)[0], backend.KindTemporary)
	wantKind(t, s.Deliver(t.Context(), d)[0], backend.KindTemporary) // a late copy of the command
	wantStrings(t, f.list(backend.Inbox), []string{"1 2 []"})
}

func TestDeliverStream(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		a := newUser(t, s, "a")
		b := newUser(t, s, "b")
		text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		errs := s.DeliverStream(t.Context(), "x@y", []string{"a", "b", "none"}, bytes.NewReader(text))
		if errs[0] != nil || errs[1] != nil {
			t.Fatal(errs)
		}
		wantKind(t, errs[2], backend.KindNotFound)
		for _, f := range []fixture{a, b} {
			snap := f.snapshot(backend.Inbox)
			m, err := snap.Message(1)
			snap.Close()
			if err != nil || f.read(m) != string(text) {
				t.Errorf("message: %v", err)
			}
		}
		broken := errors.New("peer went away")
		errs = s.DeliverStream(t.Context(), "", []string{"a"}, io.MultiReader(bytes.NewReader(text), brokenReader{broken}))
		if !errors.Is(errs[0], broken) {
			t.Error(errs)
		}
		wantStrings(t, a.list(backend.Inbox), []string{"1 2 []"})
	})
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }
