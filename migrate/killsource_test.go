package migrate

import (
	"context"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestKilledSource kills the old store with all its processes, -9, at a random
// moment of each move, and starts it again. The move ends well by itself, and
// nothing is lost, doubled or changed.
func TestKilledSource(t *testing.T) {
	trials := 3
	if mailtest.Soaking() {
		trials = 250 // of each kind of store
	}
	realSources(t, func(t *testing.T, s *source) {
		s.fill(t, s.conn(t))
		rnd := mailtest.Rand(t)
		took := s.movedWhile(t, func(<-chan struct{}) {})
		hit, tries := 0, 0
		for ; hit < trials && tries < 5*trials; tries++ {
			after := time.Duration(rnd.Int64N(int64(took)))
			s.movedWhile(t, func(done <-chan struct{}) {
				select {
				case <-time.After(after): // the fault's moment, not a wait for something
					hit++
				case <-done:
				}
				s.kill()
				s.start(t)
			})
			if t.Failed() {
				t.Fatalf("killed after %v of about %v", after, took)
			}
		}
		if hit == 0 {
			t.Errorf("none of %d kills came before the move was over", tries)
		}
		t.Logf("%d of %d kills hit the move", hit, tries)
	}, "dovecot", "cyrus")
}

// movedWhile moves the user into a fresh store of ours while something happens,
// and compares everything. It returns how long the move took.
func (s *source) movedWhile(t *testing.T, happens func(done <-chan struct{})) time.Duration {
	t.Helper()
	own, places := serveOwn(t), newFakePlacements()
	e, err := New(Options{Dir: t.TempDir(), Importer: own.store.Importer(), Placements: places, Timing: Timing{BackOff: 100 * time.Millisecond},
		Stores: map[string]*backend.Store{"old": s.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	began := time.Now()
	id := start(t, e, BatchSpec{Users: []string{s.user}, To: "home", Attempts: 20})
	done, hurt := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(hurt)
		happens(done)
	}()
	st := wait(t, e, id)
	took := time.Since(began)
	close(done)
	<-hurt
	if u := st.Users[0]; u.State != Final {
		t.Fatalf("the move ended %s: %s", u.State, u.Reason)
	}
	res, err := RunAudit(t.Context(), s.user, AuditSide{Name: "old", Dial: s.dial}, own.side("home", s.user), AuditOptions{Bodies: 100})
	if err != nil || !res.Equal || res.Messages == 0 {
		t.Errorf("after the move: %s, %v: %v", classes(res), err, res.Differences)
	}
	return took
}
