package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
)

// rig is an engine between a source in memory and a fake store.
type rig struct {
	src    *memSource
	target *fakeStore
	places *fakePlacements
	opt    Options

	mu     sync.Mutex
	stored map[string]string // the directory
	bind   bool
}

func newRig(t testing.TB, users, messages int) *rig {
	r := &rig{src: startMem(t, users, messages), target: newFakeStore(), places: newFakePlacements(),
		stored: map[string]string{}, bind: true}
	r.opt = Options{
		Dir: t.TempDir(), Importer: r.target, Placements: r.places,
		Stores: map[string]*backend.Store{"old": r.src.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.src.users[user] == nil {
				return backend.Entry{}, backend.NewError(backend.KindNotFound, "nobody")
			}
			store := r.stored[user]
			if store == "" {
				store = "old"
			}
			return backend.Entry{User: user, Directory: "company", Store: store, CheckPassword: r.bind}, nil
		},
		SetStore: func(_ context.Context, e backend.Entry, store string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.stored[e.User] = store
			return nil
		},
		Timing: Timing{BackOff: time.Millisecond},
	}
	return r
}

func (r *rig) users() []string { return slices.Sorted(maps.Keys(r.src.users)) }

func (r *rig) engine(t testing.TB) *Engine {
	t.Helper()
	e, err := New(r.opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func start(t testing.TB, e *Engine, spec BatchSpec) BatchID {
	t.Helper()
	spec.To = "home"
	id, err := e.Start(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func wait(t testing.TB, e *Engine, id BatchID) *BatchStatus {
	t.Helper()
	return waitUpTo(t, e, id, 30*time.Second)
}

// waitUpTo waits for a batch; where it does not end it shows what every
// goroutine waits for.
func waitUpTo(t testing.TB, e *Engine, id BatchID, limit time.Duration) *BatchStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	st, err := e.Wait(ctx, id)
	if err != nil {
		var b strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
		if now, err := e.Status(id); err == nil { // st is as of the last change
			st = now
		}
		t.Fatalf("batch does not end within %v: %v: %+v\n%s", limit, err, st, b.String())
	}
	return st
}

// complete wants every user at home with all mail.
func (r *rig) complete(t testing.TB) {
	t.Helper()
	for _, u := range r.users() {
		if p := r.places.m[u]; p.Store != "home" || p.State != backend.PlacementActive {
			t.Errorf("%s: placement %+v", u, p)
		}
		if r.stored[u] != "home" {
			t.Errorf("%s: directory says %q", u, r.stored[u])
		}
		n := len(r.target.box(t, u, "INBOX").msgs) + len(r.target.box(t, u, "Sent").msgs)
		if n != r.src.sizes[u] || !r.target.users[u].active {
			t.Errorf("%s: %d of %d messages, active %v", u, n, r.src.sizes[u], r.target.users[u].active)
		}
	}
}

func TestEngineMovesABatch(t *testing.T) {
	r := newRig(t, 7, 30)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), Parallel: 4})
	ch, err := e.Watch(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	var last *BatchStatus
	for st := range ch {
		last = st
	}
	if !last.Finished || last.Counts[Final] != 7 || last.MessagesDone != 7*30 || last.Share != 1 {
		t.Errorf("last status %+v", last)
	}
	if last, err = e.Status(id); err != nil {
		t.Fatal(err)
	}
	r.complete(t)
	if r.places.most > 2 {
		t.Errorf("%d users on hold at once", r.places.most)
	}
	for _, u := range last.Users {
		if u.MessagesDone != 30 || u.Messages != 30 || u.OctetsDone == 0 {
			t.Errorf("progress %+v", u)
		}
		c, err := e.Certificate(u.User)
		if err != nil || c.Grade != "perfect" || c.Level != "compared" || c.Messages != 30 || c.From != "old" || c.Pause == nil || c.Pause.Attached != 1 {
			t.Errorf("certificate %+v %v", c, err)
		}
		h := r.places.history[u.User]
		if len(h) != 2 || h[0].Epoch != 1 || h[0].State != backend.PlacementHolding || h[1].Epoch != 2 {
			t.Errorf("placements %+v", h)
		}
	}
}

func TestEngineRefusesUnknownPasswords(t *testing.T) {
	r := newRig(t, 1, 1)
	r.bind = false
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	if u := st.Users[0]; u.State != Failed || !strings.Contains(u.Reason, "would not know this user's password") {
		t.Errorf("status %+v", u)
	}
	if len(r.target.users) != 0 {
		t.Error("the user was created")
	}
}

func TestEngineCopyOnlyAndDry(t *testing.T) {
	r := newRig(t, 2, 10)
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Dry: true}))
	if st.Counts[Checked] != 2 || len(r.target.users) != 0 {
		t.Errorf("dry run: %+v, %d users created", st.Counts, len(r.target.users))
	}
	st = wait(t, e, start(t, e, BatchSpec{Users: r.users(), CopyOnly: true}))
	if st.Counts[Ready] != 2 || len(r.places.m) != 0 {
		t.Errorf("copy: %+v, placements %v", st.Counts, r.places.m)
	}
	if c, err := e.Certificate("u00"); err != nil || c.Level != "copied" || c.Messages != 10 {
		t.Errorf("certificate %+v %v", c, err)
	}
	puts := r.target.puts
	wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	r.complete(t)
	if r.target.puts != puts {
		t.Errorf("%d messages were copied again", r.target.puts-puts)
	}
}

func TestEngineTriesRefusedHoldsAgain(t *testing.T) {
	r := newRig(t, 1, 4)
	n := 0
	r.places.quiet = func(user string, epoch uint64) []backend.Confirmation {
		if n++; n < 3 {
			return []backend.Confirmation{{Node: "n1", User: user, Epoch: epoch, Refused: "SEARCH runs for 2 s"}}
		}
		return []backend.Confirmation{{Node: "n1", User: user, Epoch: epoch, Closing: 1}}
	}
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	r.complete(t)
	if st.Users[0].Tries != 2 || r.places.m["u00"].Epoch != 6 {
		t.Errorf("status %+v, placement %+v", st.Users[0], r.places.m["u00"])
	}
	for _, p := range r.places.history["u00"][:5] {
		if p.Store != "old" {
			t.Errorf("placement %+v before the flip", p)
		}
	}
}

func TestEngineGivesUpHolds(t *testing.T) {
	r := newRig(t, 1, 4)
	r.places.quiet = func(user string, epoch uint64) []backend.Confirmation {
		return []backend.Confirmation{{Node: "n1", Refused: "never"}}
	}
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	if u := st.Users[0]; u.State != Failed || u.Tries != MaxHolds {
		t.Errorf("status %+v", u)
	}
	if p := r.places.m["u00"]; p.State != backend.PlacementActive || p.Store != "old" || r.target.users["u00"].active {
		t.Errorf("placement %+v", p)
	}
}

// Mail that comes while nothing may come is found, and stops the flip.
func TestEngineFindsWritesDuringHold(t *testing.T) {
	r := newRig(t, 1, 4)
	sneaked := false
	r.target.fail = func(op string) error {
		if op == "seal" && r.places.m["u00"].State == backend.PlacementHolding && !sneaked {
			sneaked = true
			r.src.deliver(t, "u00", "Sent", "out of band") // INBOX is sealed, Sent not yet compared
			r.src.deliver(t, "u00", "INBOX", "out of band")
		}
		return nil
	}
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	r.complete(t)
	if st.Users[0].Tries != 1 {
		t.Errorf("status %+v", st.Users[0])
	}
}

func TestEnginePauseContinueStop(t *testing.T) {
	r := newRig(t, 3, 10)
	type gate struct{ began, open chan struct{} }
	gates := [2]gate{{make(chan struct{}), make(chan struct{})}, {make(chan struct{}), make(chan struct{})}}
	var next atomic.Pointer[gate] // stops the next copy
	next.Store(&gates[0])
	r.target.fail = func(op string) error {
		if op == "open" {
			if g := next.Swap(nil); g != nil {
				close(g.began)
				<-g.open
			}
		}
		return nil
	}
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), Parallel: 1})
	<-gates[0].began
	if err := e.Pause(id); err != nil {
		t.Fatal(err)
	}
	close(gates[0].open)
	b, _ := e.batch(id)
	for {
		st, changed := b.snapshot()
		if st.Counts[Paused] == 1 && !st.Users[0].Running {
			break
		}
		<-changed
	}
	if len(r.places.m) != 0 {
		t.Errorf("placements while paused: %v", r.places.m)
	}
	next.Store(&gates[1])
	if err := e.Continue(id); err != nil {
		t.Fatal(err)
	}
	<-gates[1].began
	if st, _ := b.snapshot(); st.Counts[Paused] != 0 || st.Counts[Copying] != 1 || !st.Users[0].Running {
		t.Errorf("a resumed user is shown as %+v, %v", st.Users[0], st.Counts)
	}
	close(gates[1].open)
	wait(t, e, id)
	r.complete(t)
	if err := e.Stop(id); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("stop of a finished batch: %v", err)
	}
}

// TestEngineSurvivesCrashes kills the engine at a random operation, again and
// again, on the journal, the placements and the store that are left behind.
func TestEngineSurvivesCrashes(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 11))
			r := newRig(t, 3, 12)
			var id BatchID
			for life := 0; ; life++ {
				if life > 60 {
					t.Fatal("the batch never ends")
				}
				e, dead := r.life(t, 5+rng.IntN(60)+life*4)
				var err error
				if id == "" {
					id, err = e.Start(context.Background(), BatchSpec{Users: r.users(), To: "home", Parallel: 2,
						WaveSize: int(seed % 3)}) // all at once, one by one, two and one
				} else {
					err = e.Resume(context.Background())
				}
				if err != nil {
					t.Fatal(err)
				}
				st, _ := e.Wait(dead, id)
				e.Close()
				if st != nil && st.Finished && dead.Err() == nil {
					if st.Counts[Final] != 3 {
						t.Fatalf("ended as %+v", st)
					}
					break
				}
			}
			r.complete(t)
			for u, h := range r.places.history {
				flips := 0
				for _, p := range h {
					if p.Store == "home" {
						flips++
					}
				}
				if flips != 1 {
					t.Errorf("%s flipped %d times: %+v", u, flips, h)
				}
			}
		})
	}
}

// life is an engine that dies at its n-th operation: from then on nothing it
// does reaches anybody, its journal included.
func (r *rig) life(t *testing.T, n int) (*Engine, context.Context) {
	dead, die := context.WithCancel(context.Background())
	t.Cleanup(die)
	var mu sync.Mutex
	var e *Engine
	count := 0
	crash := func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if count++; count < n {
			return nil
		}
		if count == n {
			e.mu.Lock()
			for _, b := range e.batches {
				b.journal.close()
			}
			e.mu.Unlock()
			e.cancel(errors.New("killed"))
			die()
		}
		return backend.NewError(backend.KindUnavailable, "dead")
	}
	r.target.mu.Lock()
	r.target.fail = crash
	r.target.mu.Unlock()
	r.places.mu.Lock()
	r.places.fail = crash
	r.places.mu.Unlock()
	mu.Lock()
	defer mu.Unlock()
	e, err := New(r.opt)
	if err != nil {
		t.Fatal(err)
	}
	return e, dead
}
