package migrate

import (
	"slices"
	"testing"
	"time"

	"mailferry/backend"
)

// Users of a batch that waits for orders are copied and followed; those who are
// ordered are flipped, also behind a restart, the others stay.
func TestCutoverOnOrder(t *testing.T) {
	r := newRig(t, 3, 5)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), OnOrder: true})
	for _, u := range r.users() {
		awaitState(t, e, id, u, Ready)
	}
	got, users, err := e.Cutover("", []string{"u01"})
	if err != nil || got != id || !slices.Equal(users, []string{"u01"}) {
		t.Fatalf("%v %v %v", got, users, err)
	}
	awaitState(t, e, id, "u01", Final)
	if st, _ := e.Status(id); st.Counts[Ready] != 2 || st.Finished || r.places.m["u00"].Store == "home" {
		t.Errorf("%+v", st)
	}
	if _, _, err := e.Cutover(id, []string{"nobody"}); !backend.IsKind(err, backend.KindNotFound) {
		t.Errorf("%v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = r.engine(t)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, users, err := e.Cutover(id, nil); err != nil || got != id || len(users) != 2 {
		t.Fatalf("%v %v %v", got, users, err)
	}
	if err := e.Close(); err != nil { // before anybody may have been flipped
		t.Fatal(err)
	}
	e = r.engine(t)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, e, id)
	r.complete(t)
}

// Users of a copy become a batch of their own.
func TestCutoverOfACopy(t *testing.T) {
	r := newRig(t, 3, 5)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), CopyOnly: true})
	if _, _, err := e.Cutover("", []string{"nobody"}); !backend.IsKind(err, backend.KindNotFound) {
		t.Errorf("%v", err)
	}
	wait(t, e, id)
	next, users, err := e.Cutover("", []string{"u01"})
	if err != nil || next == id || !slices.Equal(users, []string{"u01"}) {
		t.Fatalf("%v %v %v", next, users, err)
	}
	if st := wait(t, e, next); st.Counts[Final] != 1 || r.places.m["u00"].Store == "home" {
		t.Errorf("%+v", st)
	}
	if _, _, err := e.Cutover(next, nil); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("a batch that moved everybody: %v", err)
	}
}

func TestOrderOfABatch(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	each := map[string]UserOptions{"cleo": {Size: 5, LastLogin: day(3)}, "anna": {Size: 9, LastLogin: day(7)}, "bert": {Priority: 1}}
	for order, want := range map[Order][]string{
		"":             {"bert", "dora", "cleo", "anna"},
		OrderCSV:       {"bert", "dora", "cleo", "anna"},
		OrderName:      {"bert", "anna", "cleo", "dora"},
		OrderSize:      {"bert", "cleo", "anna", "dora"},
		OrderLastLogin: {"bert", "anna", "cleo", "dora"},
	} {
		s := BatchSpec{Users: []string{"dora", "cleo", "bert", "anna"}, Each: each, Order: order}
		if got := s.InOrder(); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", order, got, want)
		}
	}
	r := newRig(t, 1, 1)
	if _, err := r.engine(t).Start(t.Context(), BatchSpec{Users: r.users(), To: "home", Order: "luck"}); !backend.IsKind(err, backend.KindInvalid) {
		t.Errorf("%v", err)
	}
}
