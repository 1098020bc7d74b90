package migrate

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
)

// TestOneMoveAtATime: of batches that begin at the same moment one gets a user,
// and an alias does not get around it.
func TestOneMoveAtATime(t *testing.T) {
	r := newRig(t, 1, 3)
	user, lookup := r.users()[0], r.opt.Lookup
	r.opt.Lookup = func(ctx context.Context, name string) (backend.Entry, error) {
		return lookup(ctx, strings.TrimPrefix(name, "alias-of-"))
	}
	e := r.engine(t)
	now := time.Now()
	closed := windowAt(t, now.Add(3*time.Hour), now.Add(5*time.Hour))

	var begun atomic.Int32
	var wg sync.WaitGroup
	ids := make(chan BatchID, 8)
	for range cap(ids) {
		wg.Go(func() {
			id, err := e.Start(context.Background(), BatchSpec{Users: []string{user}, To: "home", FlipWindow: closed})
			if err == nil {
				begun.Add(1)
				ids <- id
			} else if !backend.IsKind(err, backend.KindConflict) && !backend.IsKind(err, backend.KindExists) {
				t.Errorf("a second batch: %v", err)
			}
		})
	}
	wg.Wait()
	if n := begun.Load(); n != 1 {
		t.Fatalf("%d batches move the same user", n)
	}
	first := <-ids
	until(t, e, first, func(st *BatchStatus) bool { return st.Counts[Ready] == 1 && running(st) == 0 })

	second := start(t, e, BatchSpec{ID: "alias", Users: []string{"alias-of-" + user}})
	st := wait(t, e, second)
	if u := st.Users[0]; u.State != Failed || !strings.Contains(u.Reason, string(first)) {
		t.Errorf("the alias of a user who is being moved: %v, %q", u.State, u.Reason)
	}
	if err := e.Stop(first); err != nil {
		t.Fatal(err)
	}
	wait(t, e, first)
	wait(t, e, start(t, e, BatchSpec{ID: "again", Users: []string{"alias-of-" + user}}))
	r.complete(t)
}
