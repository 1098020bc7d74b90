package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/store"
)

// leaderless is an engine right after its start: a shard is led once somebody
// has waited for a view of it.
type leaderless struct{ engine.Engine }

func (e leaderless) Shard(id engine.ShardID) (engine.Shard, error) {
	sh, err := e.Engine.Shard(id)
	return &leaderlessShard{Shard: sh}, err
}

type leaderlessShard struct {
	engine.Shard
	led bool
}

func (s *leaderlessShard) Leader() bool { return s.led }

func (s *leaderlessShard) View(ctx context.Context) (engine.View, error) {
	s.led = true
	return s.Shard.View(ctx)
}

// TestSweepEndsWhatACrashLeft lets a large deletion and a user's deletion stop
// in the middle.
func TestSweepEndsWhatACrashLeft(t *testing.T) {
	e := memoryEngine(t)
	failing := false
	e.Fault = func(_ engine.ShardID, cmd []byte) (before, after error) {
		const purge = 12 // the command that goes on with a deletion
		if failing && cmd[0] == purge {
			return errors.New("power cut"), nil
		}
		return nil, nil
	}
	s := newStore(t, e)
	for _, name := range []string{"keeps", "leaves"} {
		f := newUser(t, s, name)
		for range 4 {
			var batch []store.Append
			for i := range 400 {
				batch = append(batch, store.Append{Mailbox: "Trash", Body: stage(t, f.Account, fmt.Sprint(i))})
			}
			if _, err := f.Append(f.ctx, batch...); err != nil {
				t.Fatal(err)
			}
		}
	}
	failing = true
	if err := account(t, s, "keeps").Delete(t.Context(), "Trash"); err != nil {
		t.Fatalf("the mailbox is gone, and the client heard %v", err)
	}
	if e.Bodies(1)+e.Bodies(2) == 0 {
		t.Fatal("the purge did not fail")
	}
	if err := s.DeleteUser(t.Context(), "leaves"); err == nil {
		t.Fatal("the deletion did not fail")
	}
	_, err := s.Account(t.Context(), "leaves")
	wantKind(t, err, backend.KindNotFound)
	failing = false
	s = newStore(t, &leaderless{e})
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := e.Bodies(1) + e.Bodies(2); n != 0 {
		t.Errorf("%d bodies left", n)
	}
	if users, err := s.Users(t.Context(), "", 10); err != nil || len(users) != 1 {
		t.Error(users, err)
	}
}
