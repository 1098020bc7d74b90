package migrate

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
)

// later keeps a batch from being finished.
func later(user string) map[string]UserOptions {
	return map[string]UserOptions{user: {NotBefore: time.Now().Add(time.Hour)}}
}

// TestNoUserIsInTwoBatchesAfterAStart: a node that has just started knows
// which users its interrupted batches hold before it takes new ones.
func TestNoUserIsInTwoBatchesAfterAStart(t *testing.T) {
	r := newRig(t, 1, 2)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: []string{"u00"}, Each: later("u00")})
	e.Close()

	e = r.engine(t)
	started, listed := make(chan error, 1), make(chan []*BatchStatus, 1)
	go func() {
		_, err := e.Start(t.Context(), BatchSpec{Users: []string{"u00"}, To: "home"})
		started <- err
	}()
	go func() {
		list, err := e.Batches(t.Context())
		if err != nil {
			t.Error(err)
		}
		listed <- list
	}()
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("a second batch for the user: %v", err)
	}
	if list := <-listed; len(list) != 1 || list[0].ID != id {
		t.Errorf("batches %+v", list)
	}
}

// TestNoUserIsInTwoBatchesAtOnce: of batches for one user that are started at
// the same moment one is taken.
func TestNoUserIsInTwoBatchesAtOnce(t *testing.T) {
	r := newRig(t, 1, 2)
	e := r.engine(t)
	var taken atomic.Int32
	var wg sync.WaitGroup
	for _, id := range []BatchID{"a", "b", "c", "d", "e", "f", "g", "h"} {
		wg.Go(func() {
			_, err := e.Start(t.Context(), BatchSpec{ID: id, Users: []string{"u00"}, To: "home", Each: later("u00")})
			switch {
			case err == nil:
				taken.Add(1)
			case !backend.IsKind(err, backend.KindConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 1 {
		t.Errorf("%d batches took the user", n)
	}
}

// TestResumeLeavesNewBatches: a batch that is started while the process still
// comes up is not taken for one of before, which would move its users twice.
func TestResumeLeavesNewBatches(t *testing.T) {
	r := newRig(t, 1, 2)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: []string{"u00"}, Each: later("u00")})
	b := e.loaded(id)
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	if e.loaded(id) != b {
		t.Error("the batch is worked on twice")
	}
}

// TestEngineWithoutResumeStartsAtOnce: an unfinished batch of an earlier engine
// keeps nobody waiting where none will be resumed.
func TestEngineWithoutResumeStartsAtOnce(t *testing.T) {
	r := newRig(t, 1, 2)
	r.opt.NoResume = true
	e := r.engine(t)
	start(t, e, BatchSpec{Users: []string{"u00"}, Each: later("u00")})
	e.Close()
	e = r.engine(t)
	wait(t, e, start(t, e, BatchSpec{Users: []string{"u00"}}))
	r.complete(t)
}
