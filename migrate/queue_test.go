package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

func testQueue(spec *BatchSpec) *queue {
	spec.order()
	q := newQueue(spec)
	q.fill(func(string) (bool, bool) { return true, false })
	return q
}

// take takes all users whose turn it is.
func take(q *queue, t time.Time) (users []string, again time.Time) {
	for {
		u, _, again := q.next(t)
		if u == "" {
			return users, again
		}
		users = append(users, u)
	}
}

func TestQueueWaves(t *testing.T) {
	spec := &BatchSpec{Users: []string{"a", "b", "c", "d", "e"}, WaveSize: 2, Each: map[string]UserOptions{
		"a": {Wave: "two"}, "b": {Wave: "one"}, "d": {Wave: "two"}, "e": {Wave: "two", Priority: 1}, "c": {}}}
	var got []string
	for _, w := range func() []wave { spec.order(); return spec.waves() }() {
		got = append(got, w.name+":"+strings.Join(w.users, ""))
	}
	if want := []string{"two:ea", "two:d", "one:b", ":c"}; !slices.Equal(got, want) {
		t.Errorf("waves %q, want %q", got, want)
	}
	q := testQueue(spec)
	now := time.Now()
	for _, want := range []string{"ea", "d", "b", "c"} {
		users, _ := take(q, now)
		if strings.Join(users, "") != want {
			t.Fatalf("took %q, want %q", users, want)
		}
		for i, u := range users {
			if more, _ := take(q, now); len(more) > 0 {
				t.Fatalf("%q before wave %s was done", more, want)
			}
			q.done(u, i > 0)
		}
	}
	if q.now != 4 {
		t.Errorf("ends in wave %d", q.now)
	}
}

func TestQueueWindows(t *testing.T) {
	day := func(s string) time.Time { return at(t, "UTC", "2026-11-27 "+s) }
	window, err := ParseWindows("10:00-12:00", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	flips, err := ParseWindows("23:00-01:00", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	q := testQueue(&BatchSpec{Users: []string{"a", "b"}, Window: window, FlipWindow: flips,
		Each: map[string]UserOptions{"a": {NotBefore: day("10:30")}}})
	if users, again := take(q, day("09:00")); len(users) > 0 || !again.Equal(day("10:00")) {
		t.Errorf("took %q, next %v", users, again)
	}
	if users, again := take(q, day("10:00")); !slices.Equal(users, []string{"b"}) || !again.Equal(day("10:30")) {
		t.Errorf("took %q, next %v", users, again)
	}
	if users, _ := take(q, day("10:30")); !slices.Equal(users, []string{"a"}) {
		t.Errorf("took %q", users)
	}
	q.back("a")
	q.park("b")
	if users, again := take(q, day("12:00")); len(users) > 0 || !again.Equal(day("23:00")) || !strings.Contains(q.waiting(day("12:00")), "the window opens Sat 2026-11-28 10:00") {
		t.Errorf("took %q, next %v: %s", users, again, q.waiting(day("12:00")))
	}
	if u, flip, _ := q.next(day("23:30")); u != "b" || !flip {
		t.Errorf("took %q, flip %v", u, flip)
	}
}

func TestQueueStops(t *testing.T) {
	q := testQueue(&BatchSpec{Users: []string{"a", "b", "c", "d"}, WaveSize: 3, StopAt: StopRule{Count: 2}})
	if halt := q.done("a", true); halt != "" {
		t.Errorf("halted by one: %s", halt)
	}
	if halt := q.done("b", true); !strings.Contains(halt, "2 of 3 users of wave 1 failed") {
		t.Errorf("halt %q", halt)
	}
	q.done("c", true)
	if q.now != 0 {
		t.Error("the next wave began in spite of the failures")
	}
	q.forgive()
	if q.now != 1 {
		t.Error("the next wave did not begin after the order")
	}
}

// The clock opens a window for a batch that waits in next.
func TestBatchWaitsForItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC() // midnight, says synctest
		w, err := ParseWindows("22:00-23:00", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		b := newBatch(BatchSpec{ID: "b", Users: []string{"anna"}, Window: w}, nil, nil)
		b.begin(func(error) {})
		u, flip, ok := b.next(t.Context())
		if u != "anna" || flip || !ok || time.Since(now) != 22*time.Hour {
			t.Errorf("%q %v after %v", u, ok, time.Since(now))
		}
		if b.pausing(false) {
			t.Error("pauses in its window")
		}
		time.Sleep(time.Hour)
		if !b.pausing(false) {
			t.Error("goes on behind its window")
		}
	})
}

// flipsFrom is a window that opens after d, and one that is over.
func windowAt(t *testing.T, from, to time.Time) Windows {
	t.Helper()
	w, err := ParseWindows(fmt.Sprintf("%s-%s", from.UTC().Format("15:04"), to.UTC().Format("15:04")), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Outside of the window for flips users are copied, and park without a worker.
func TestEngineParksForTheFlipWindow(t *testing.T) {
	r := newRig(t, 5, 6)
	e := r.engine(t)
	now := time.Now()
	id := start(t, e, BatchSpec{Users: r.users(), Parallel: 1, FlipWindow: windowAt(t, now.Add(3*time.Hour), now.Add(5*time.Hour))})
	st := until(t, e, id, func(st *BatchStatus) bool {
		return st.Counts[Ready] == 5 && running(st) == 0 && strings.HasPrefix(st.Waits, "5 users")
	})
	if len(r.places.m) != 0 || !strings.Contains(st.Waits, "5 users are copied; the window for flips opens") {
		t.Errorf("placements %v, waits %q", r.places.m, st.Waits)
	}
	e.Close()
	// A restart inside of the window flips them.
	b := e.loaded(id)
	spec := b.spec
	spec.FlipWindow = Windows{}
	if err := b.journal.rewrite(&spec); err != nil {
		t.Fatal(err)
	}
	e2 := r.engine(t)
	if err := e2.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	wait(t, e2, id)
	r.complete(t)
}

// rewrite replaces the head of a closed journal.
func (j *journal) rewrite(spec *BatchSpec) error {
	path := filepath.Join(j.dir, journalName)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, err := json.Marshal(record{Time: time.Now(), Batch: spec})
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(head, text[bytes.IndexByte(text, '\n'):]...), 0o600)
}

func running(st *BatchStatus) (n int) {
	for _, u := range st.Users {
		if u.Running {
			n++
		}
	}
	return n
}

// until waits for a batch to be in some condition.
func until(t testing.TB, e *Engine, id BatchID, is func(*BatchStatus) bool) *BatchStatus {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	b, err := e.batch(id)
	if err != nil {
		t.Fatal(err)
	}
	for {
		st, changed := b.snapshot()
		if is(st) {
			return st
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("never so: %+v", st)
		}
	}
}

// Too many failures halt the batch over a restart, until an operator goes on.
func TestEngineHaltsAtFailures(t *testing.T) {
	r := newRig(t, 4, 2)
	e := r.engine(t)
	users := append([]string{"nobody1", "nobody2"}, r.users()...)
	id := start(t, e, BatchSpec{Users: users, Parallel: 1, WaveSize: 3, StopAt: StopRule{Percent: 40}})
	st := until(t, e, id, func(st *BatchStatus) bool { return st.Paused })
	if st.Counts[Failed] != 2 || !strings.Contains(st.Waits, "2 of 3 users of wave 1 failed") || st.Wave != 1 || st.Waves != 2 {
		t.Errorf("%+v", st)
	}
	e.Close()
	e = r.engine(t)
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	st, err := e.Status(id)
	if err != nil || !st.Paused || !strings.Contains(st.Waits, "2 of 3") || st.Finished {
		t.Fatalf("after a restart: %+v %v", st, err)
	}
	if err := e.Continue(id); err != nil {
		t.Fatal(err)
	}
	if st = wait(t, e, id); st.Counts[Final] != 4 || st.Counts[Failed] != 2 {
		t.Errorf("%+v", st)
	}
	r.complete(t)
}

// Users of one batch may go to and come from different stores.
func TestEngineUsersOfTheirOwn(t *testing.T) {
	r := newRig(t, 2, 3)
	e := r.engine(t)
	_, err := e.Start(context.Background(), BatchSpec{Users: r.users(), Each: map[string]UserOptions{"u00": {To: "home"}}})
	if !backend.IsKind(err, backend.KindInvalid) || !strings.Contains(err.Error(), `user "u01"`) {
		t.Errorf("a user without a new store: %v", err)
	}
	id, err := e.Start(context.Background(), BatchSpec{Users: r.users(), Each: map[string]UserOptions{"u00": {To: "home", From: "home"}, "u01": {To: "home", From: "old"}}})
	if err != nil {
		t.Fatal(err)
	}
	st := wait(t, e, id)
	if st.Users[0].State != Failed || !strings.Contains(st.Users[0].Reason, `"u00" is at "old", not at "home"`) || st.Users[1].State != Final {
		t.Errorf("%+v", st.Users)
	}
}

// Users of a store without an admin's login bring their passwords: kept apart
// from the journal, over a restart, until they have moved.
func TestEngineUsesTheUsersPasswords(t *testing.T) {
	r := newRig(t, 2, 2)
	r.src.store.Login = backend.Login{Mode: backend.LoginUser}
	r.src.passwords = map[string]string{"anna2": "s3cret", "u01": "other s3cret"}
	r.src.users["anna2"] = r.src.users["u00"]
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte("other s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := r.engine(t)
	window := windowAt(t, time.Now().Add(3*time.Hour), time.Now().Add(4*time.Hour))
	id := start(t, e, BatchSpec{Users: []string{"u00", "u01"}, Window: window, Each: map[string]UserOptions{
		"u00": {Login: "anna2", Password: "s3cret"}, "u01": {PasswordFile: file}}})
	b := e.loaded(id)
	e.Close()
	journal, err := os.ReadFile(filepath.Join(b.journal.dir, journalName))
	if err != nil || strings.Contains(string(journal), "s3cret") {
		t.Fatalf("journal %s %v", journal, err)
	}
	spec := b.spec
	spec.Window = Windows{}
	if err := b.journal.rewrite(&spec); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(b.journal.dir, secretsName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	e = r.engine(t)
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, e, id); st.Counts[Final] != 2 {
		t.Errorf("%+v", st)
	}
	e.Close()
	if _, err := os.Stat(filepath.Join(b.journal.dir, secretsName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("passwords are left: %v", err)
	}
}

// Passwords of users who were copied are kept for their cutover, also over a restart,
// and go when they have moved, or when the batch is stopped.
func TestPasswordsOfACopy(t *testing.T) {
	for _, stop := range []bool{false, true} {
		r := newRig(t, 2, 2)
		r.src.store.Login = backend.Login{Mode: backend.LoginUser}
		r.src.passwords = map[string]string{"u00": "s3cret", "u01": "other s3cret"}
		e := r.engine(t)
		id := start(t, e, BatchSpec{Users: r.users(), CopyOnly: true, Each: map[string]UserOptions{
			"u00": {Password: "s3cret"}, "u01": {Password: "other s3cret"}}})
		wait(t, e, id)
		dir := e.loaded(id).journal.dir
		kept := func() bool {
			_, err := os.Stat(filepath.Join(dir, secretsName))
			return err == nil
		}
		restart := func() {
			e.Close()
			e = r.engine(t)
			if err := e.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			wait(t, e, id)
		}
		restart()
		if st, _ := e.Status(id); !st.Passwords || !kept() {
			t.Fatalf("passwords are gone: %+v", st)
		}
		if stop {
			if err := e.Stop(id); err != nil || kept() {
				t.Errorf("%v, kept %v", err, kept())
			}
			if st, _ := e.Status(id); st.Passwords {
				t.Errorf("%+v", st)
			}
			if err := e.Stop(id); !backend.IsKind(err, backend.KindConflict) {
				t.Errorf("stopped twice: %v", err)
			}
			continue
		}
		next, _, err := e.Cutover(id, []string{"u01"})
		if err != nil {
			t.Fatal(err)
		}
		if st := wait(t, e, next); st.Counts[Final] != 1 || !kept() {
			t.Errorf("first: %+v, kept %v", st, kept())
		}
		restart()
		if next, _, err = e.Cutover(id, []string{"u00"}); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, e, next); st.Counts[Final] != 1 {
			t.Errorf("second: %+v", st)
		}
		e.Close()
		if kept() {
			t.Error("passwords are left")
		}
		r.complete(t)
	}
}
