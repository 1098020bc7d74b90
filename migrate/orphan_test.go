package migrate

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailferry/backend"
)

// TestOrphanedHoldIsReleased: a hold whose journal is lost is ended at start,
// its target closed; one that may be another node's is left alone.
func TestOrphanedHoldIsReleased(t *testing.T) {
	r := newRig(t, 2, 1)
	held := backend.Placement{User: "u00", State: backend.PlacementHolding, Store: "old", Host: "h", Target: "home", Epoch: 3,
		Move: "lost", Since: time.Now().Add(-time.Hour)}
	young := held
	young.User, young.Since = "u01", time.Now()
	r.places.m["u00"], r.places.m["u01"] = held, young
	r.target.users["u00"] = &fakeUser{store: r.target, boxes: map[backend.MailboxName]*fakeBox{}, active: true, epoch: 4}
	lost := 0
	r.places.fail = func(op string) error { // the first answer gets lost
		if op == "swap" {
			if lost++; lost == 1 {
				return backend.NewError(backend.KindUnavailable, "no quorum")
			}
		}
		return nil
	}
	reopened := make(chan struct{}, 1)
	r.target.fail = func(op string) error {
		if op == "reopen" {
			reopened <- struct{}{}
		}
		return nil
	}
	e := r.engine(t)
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reopened:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody ended the hold")
	}
	e.Close()
	if p := r.places.m["u00"]; p.State != backend.PlacementActive || p.Store != "old" || p.Host != "h" || p.Epoch != 4 {
		t.Errorf("placement %+v", p)
	}
	if r.target.users["u00"].active {
		t.Error("the copy is open")
	}
	if p := r.places.m["u01"]; p.State != backend.PlacementHolding {
		t.Errorf("a young hold was ended: %+v", p)
	}
}

// TestDirectoryThatIsAwayTakesNoWorker: the first user's directory comes back
// only when the others are through, and there is one worker.
func TestDirectoryThatIsAwayTakesNoWorker(t *testing.T) {
	r := newRig(t, 3, 2)
	set := r.opt.SetStore
	r.opt.SetStore = func(ctx context.Context, e backend.Entry, store string) error {
		r.mu.Lock()
		away := e.User == "u00" && (r.stored["u01"] == "" || r.stored["u02"] == "")
		r.mu.Unlock()
		if away {
			return backend.NewError(backend.KindUnavailable, "directory is down")
		}
		return set(ctx, e, store)
	}
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Parallel: 1}))
	if st.Counts[Final] != 3 {
		t.Errorf("%+v", st)
	}
	r.complete(t)
	if c, err := e.Certificate("u00"); err != nil || c.Level != "compared" || c.Pause == nil || c.Pause.Hold == 0 {
		t.Errorf("certificate %+v, %v", c, err)
	}
}

// TestFinishedBatchIsCompacted: two lines a user, and all of it there after a
// restart.
func TestFinishedBatchIsCompacted(t *testing.T) {
	r := newRig(t, 3, 2)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: append(r.users(), "nobody"), Parallel: 2})
	wait(t, e, id)
	e.Close()
	path := filepath.Join(r.opt.Dir, string(id), journalName)
	b, err := os.ReadFile(path)
	if n := bytes.Count(b, []byte("\n")); err != nil || n != 1+3*2+1 {
		t.Errorf("%d lines, %v:\n%s", n, err, b)
	}
	e = r.engine(t)
	resumed := make(chan error, 1)
	go func() { resumed <- e.Resume(context.Background()) }()
	st := wait(t, e, id) // also when it is asked for before it is read
	if err := <-resumed; err != nil {
		t.Fatal(err)
	}
	if st.Counts[Final] != 3 || st.Counts[Failed] != 1 {
		t.Errorf("%+v", st)
	}
	e.Close()
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, b) {
		t.Errorf("a restart wrote the journal anew: %v", err)
	}
}
