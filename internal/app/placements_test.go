package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

// memoryTable is a table of one node; changes reach the watchers at once.
type memoryTable struct {
	mu       sync.Mutex
	values   map[string][]byte
	versions map[string]uint64
}

func newMemoryTable() *memoryTable {
	return &memoryTable{values: map[string][]byte{}, versions: map[string]uint64{}}
}

func (m *memoryTable) get(_ context.Context, key string) ([]byte, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], m.versions[key], nil
}

func (m *memoryTable) set(_ context.Context, key string, value []byte, ifVersion uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.versions[key] != ifVersion {
		return errVersion
	}
	m.values[key] = value
	m.versions[key]++
	return nil
}

func (m *memoryTable) list(_ context.Context, prefix string, fn func(string, []byte)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.values {
		if strings.HasPrefix(k, prefix) {
			fn(k, v)
		}
	}
	return nil
}

func (m *memoryTable) watch(ctx context.Context, _ string, _ func(string, []byte)) error {
	<-ctx.Done()
	return ctx.Err()
}

func testPlacements(t table, proxies ...string) *placements {
	return newPlacements(t, func() []string { return proxies }, slog.New(slog.DiscardHandler))
}

func TestSwapComparesEpochs(t *testing.T) {
	ctx, ps := context.Background(), testPlacements(newMemoryTable())
	if err := ps.Swap(ctx, backend.Placement{User: "Anna", Store: "old", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if err := ps.Swap(ctx, backend.Placement{User: "anna", Store: "new", Epoch: 1}); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("same epoch again: %v", err)
	}
	if err := ps.Swap(ctx, backend.Placement{User: "anna", Store: "new", Epoch: 3}); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("an epoch left out: %v", err)
	}
	p, ok, err := ps.Placement(ctx, "ANNA")
	if err != nil || !ok || p.Store != "old" {
		t.Errorf("after refusals: %+v %v %v", p, ok, err)
	}
}

func TestOnlyOneOfManySwapsWins(t *testing.T) {
	ctx, tab := context.Background(), newMemoryTable()
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 20 {
		wg.Go(func() {
			if testPlacements(tab).Swap(ctx, backend.Placement{User: "anna", Epoch: 1}) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d swaps won", won)
	}
}

func TestSubscribersSeeEpochsInOrderOnce(t *testing.T) {
	ctx, ps := context.Background(), testPlacements(newMemoryTable())
	var seen []uint64
	cancel := ps.Subscribe(func(p backend.Placement) { seen = append(seen, p.Epoch) })
	for e := range uint64(3) {
		if err := ps.Swap(ctx, backend.Placement{User: "anna", Epoch: e + 1}); err != nil {
			t.Fatal(err)
		}
	}
	ps.receive(placementKey("anna"), []byte(`{"user":"anna","epoch":2}`)) // a late echo
	cancel()
	if err := ps.Swap(ctx, backend.Placement{User: "anna", Epoch: 4}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 3 || seen[0] != 1 || seen[1] != 2 || seen[2] != 3 {
		t.Errorf("seen %v", seen)
	}
}

func TestAwaitQuietWantsEveryProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, ps := context.Background(), testPlacements(newMemoryTable(), "a", "b")
		type answer struct {
			got []backend.Confirmation
			err error
		}
		done := make(chan answer, 1)
		go func() {
			got, err := ps.AwaitQuiet(ctx, "anna", 2)
			done <- answer{got, err}
		}()
		_ = ps.Confirm(ctx, backend.Confirmation{Node: "a", User: "anna", Epoch: 1})
		_ = ps.Confirm(ctx, backend.Confirmation{Node: "b", User: "anna", Epoch: 2, Frozen: 3})
		synctest.Wait()
		select {
		case a := <-done:
			t.Fatalf("returned without a: %+v", a)
		default:
		}
		_ = ps.Confirm(ctx, backend.Confirmation{Node: "a", User: "anna", Epoch: 2, Refused: "long command"})
		a := <-done
		if a.err != nil || len(a.got) != 2 || a.got[0].Refused == "" || a.got[1].Frozen != 3 {
			t.Errorf("got %+v", a)
		}
	})
}

func TestAwaitNamesTheSilentProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := testPlacements(newMemoryTable(), "a", "b")
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = ps.Confirm(ctx, backend.Confirmation{Node: "b", User: "anna", Epoch: 2})
		_, err := ps.AwaitQuiet(ctx, "anna", 2)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "proxy a") {
			t.Errorf("error %v", err)
		}
		got, err := ps.AwaitResumed(ctx, "anna", 3)
		if err != nil || len(got) != 0 {
			t.Errorf("resumed: %v %v", got, err)
		}
	})
}

func TestPlacementsSurviveARestart(t *testing.T) {
	ctx, tab := context.Background(), newMemoryTable()
	if err := testPlacements(tab).Swap(ctx, backend.Placement{User: "anna", Store: "home", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	again := testPlacements(tab)
	if err := again.load(ctx); err != nil {
		t.Fatal(err)
	}
	if p, ok, _ := again.Placement(ctx, "anna"); !ok || p.Store != "home" {
		t.Errorf("after restart: %+v %v", p, ok)
	}
}

func placed(user string, epoch uint64) backend.Placement {
	return backend.Placement{User: user, Store: "home", Epoch: epoch}
}
