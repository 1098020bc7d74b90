package migrate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

// A batch of 100,000 users, most of whom have moved: it is read back in bounded
// memory, and what status and show ask costs little. Times are logged, not judged.
func TestHundredThousandUsers(t *testing.T) {
	const n = 100_000
	r := newRig(t, 1, 1)
	spec := BatchSpec{ID: "large", To: "home", Each: map[string]UserOptions{}, WaveSize: 10_000, Window: windowAt(t, time.Now().Add(3*time.Hour), time.Now().Add(4*time.Hour))}
	routes := &routeTable{m: map[string]savedRoute{}}
	moves := map[string]Move{}
	for i := range n {
		u := fmt.Sprintf("user%06d@example.org", i)
		spec.Users = append(spec.Users, u)
		spec.Each[u] = UserOptions{Priority: 1}
		routes.m[u] = savedRoute{User: u, From: "old", To: "home"}
		switch {
		case i < 79_000:
			moves[u] = Move{State: Final, Base: 2}
		case i < 80_000:
			moves[u] = Move{State: Failed, Reason: "no such user"}
		case i < 90_000: // the journal has more lines than compact writes
			moves[u] = Move{State: Ready}
		}
	}
	dir := filepath.Join(r.opt.Dir, "large")
	began := time.Now()
	j, err := createJournal(dir, &spec, began)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the batch is written down in %v", time.Since(began))
	j.close()
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for u, m := range moves {
		for _, s := range []State{Copying, Following, Ready, m.State} {
			fmt.Fprintf(&lines, `{"time":"2026-11-27T22:00:00Z","user":%q,"move":{"state":%q,"base":2},"messages":1000,"octets":50000000}`+"\n", u, s)
		}
		fmt.Fprintf(&lines, `{"time":"2026-11-27T22:00:00Z","user":%q,"route":{"user":%q,"from":"old","to":"home"}}`+"\n", u, u)
	}
	if _, err := f.WriteString(lines.String()); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	lines.Reset()
	spec, moves, routes = BatchSpec{}, nil, nil
	before := heap()
	e := r.engine(t)
	began = time.Now()
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	start := time.Since(began)
	grown := heap() - before
	began = time.Now()
	all, err := e.Batches(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	st := all[0]
	status := time.Since(began)
	began = time.Now()
	failed, next, err := e.Users("large", 0, n, func(u *UserStatus) bool { return u.State == Failed })
	show := time.Since(began)
	t.Logf("start %v, %d MiB; status %v; show --failed %v", start, grown>>20, status, show)
	if st.Total != n || st.Counts[Final] != 79_000 || st.Counts[Failed] != 1_000 || st.MessagesDone < 79_000_000 || st.Waves != 10 || st.Wave != 9 {
		t.Errorf("%+v", st)
	}
	if len(failed) != 1_000 || next != -1 || err != nil {
		t.Errorf("%d failed, next %d, %v", len(failed), next, err)
	}
	if grown > 192<<20 {
		t.Errorf("the batch takes %d MiB", grown>>20)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A full disk under the journal: nobody is lost or half moved, the cause is told,
// and when there is room again the batch goes on by an order.
func TestFullDiskUnderTheJournal(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	cut := 0
	defer func() {
		if cut < 5 {
			t.Errorf("only %d batches were cut off", cut)
		}
	}()
	for op := 1; op < 40; op += 3 { // fill up at the op-th operation of the store
		r := newRig(t, 2, 4)
		var b *batch
		n := 0
		e := r.engine(t)
		r.target.fail = func(string) error {
			if n++; n == op {
				b.journal.fill(t)
			}
			return nil
		}
		r.target.mu.Lock()
		id := start(t, e, BatchSpec{Users: r.users(), Parallel: 1})
		b = e.loaded(id)
		r.target.mu.Unlock()
		st := wait(t, e, id)
		broken := 0
		for _, u := range st.Users {
			p := r.places.m[u.User]
			if p.State == backend.PlacementHolding {
				t.Errorf("op %d: %s is left on hold", op, u.User)
			}
			if u.State == Final {
				continue
			}
			broken++
			if !strings.Contains(u.Reason, "no space left on device") {
				t.Errorf("op %d: %s is %v for reason %q", op, u.User, u.State, u.Reason)
			}
		}
		if broken == 0 {
			continue // it had ended by then
		}
		cut++
		r.target.mu.Lock()
		r.target.fail = nil
		r.target.mu.Unlock()
		if err := e.Continue(id); err != nil {
			t.Fatalf("op %d: %v", op, err)
		}
		if st := wait(t, e, id); st.Counts[Final] != 2 {
			t.Errorf("op %d: %+v", op, st)
		}
		r.complete(t)
	}
}

// fill lets every write fail as on a full disk.
func (j *journal) fill(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f != nil {
		j.f.Close()
		j.f = f
	}
}
