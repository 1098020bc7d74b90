package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

func testJournal(t *testing.T) (string, *journal) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "moves", "b1")
	j, err := createJournal(dir, &BatchSpec{ID: "b1", Users: []string{"anna", "bob"}, To: "home"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return dir, j
}

func TestJournalCutAtEveryOctet(t *testing.T) {
	dir, j := testJournal(t)
	states := []State{Copying, Following, Holding}
	for i, s := range states {
		if err := j.move("anna", Move{State: s, Base: uint64(i)}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	j.close()
	path := filepath.Join(dir, journalName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := strings.IndexByte(string(whole), '\n') + 1
	for n := head; n <= len(whole); n++ {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, r, err := openJournal(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		lines := strings.Count(string(whole[:n]), "\n") - 1
		if m, ok := r.moves["anna"]; ok != (lines > 0) || ok && m.State != states[lines-1] {
			t.Fatalf("cut at %d: %+v", n, r.moves)
		}
		// What follows a torn line is readable.
		if err := j.move("bob", Move{State: Failed, Reason: "x"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		j.close()
		if _, r, err = openJournal(dir); err != nil || r.moves["bob"].State != Failed || len(r.spec.Users) != 2 {
			t.Fatalf("cut at %d, then a line: %+v, %v", n, r, err)
		}
	}
}

func TestJournalDamage(t *testing.T) {
	spec, _ := json.Marshal(record{Batch: &BatchSpec{ID: "b"}})
	line := `{"time":"2026-01-01T00:00:00Z","user":"a","move":{"state":"final"}}`
	tests := []struct {
		name, text string
		ok         bool
	}{
		{"empty", "", false},
		{"torn spec", string(spec[:10]), false},
		{"spec", string(spec) + "\n", true},
		{"rubbish at the end", string(spec) + "\n" + line + "\n\x00\x00\x00\n", true},
		{"rubbish in the middle", string(spec) + "\n\x00\x00\n" + line + "\n", false},
		{"unknown state", string(spec) + "\n" + `{"user":"a","move":{"state":"flying"}}` + "\n" + line + "\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := replay(strings.NewReader(tt.text)); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestCertificateNames(t *testing.T) {
	seen := map[string]bool{}
	for _, user := range []string{"anna", "Anna", "anna@example.org", "../../etc/passwd", "a/b", ".", strings.Repeat("x", 300), strings.Repeat("x", 301), "ünï"} {
		name := certificateName(user)
		if strings.ContainsAny(name, "/\x00") || len(name) > 255 || seen[name] {
			t.Errorf("%q: %q", user, name)
		}
		seen[name] = true
	}
}

func TestFlagsThatAreNone(t *testing.T) {
	m := flagMapper{}
	for from, want := range map[string]string{`\Seen`: `\Seen`, "$Forwarded": "$Forwarded", `\`: "=5C", "": "=5C", "a]b": "a=5Db", "gr\xfc": "gr=FC", `\x%`: `\x=25`} {
		if got := string(m.flag(imap.Flag(from))); got != want {
			t.Errorf("%q became %q, want %q", from, got, want)
		}
	}
}

// TestJournalOfManyAtOnce: what users record at the same time is there when each
// of them goes on, and whoever closes the journal meanwhile takes nothing back.
func TestJournalOfManyAtOnce(t *testing.T) {
	dir, j := testJournal(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	told := map[string]Move{} // recorded, as far as the journal said so
	for i := range 40 {
		wg.Go(func() {
			user := fmt.Sprintf("u%02d", i)
			for n := range uint64(20) {
				m := Move{State: Copying, Base: n}
				if err := j.move(user, m, time.Now()); err != nil {
					return
				}
				mu.Lock()
				told[user] = m
				mu.Unlock()
				if i == 0 && n == 15 {
					j.close()
				}
			}
		})
	}
	wg.Wait()
	again, r, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
	if len(told) == 0 {
		t.Error("nothing was recorded")
	}
	for user, m := range told {
		if got := r.moves[user]; got.Base < m.Base {
			t.Errorf("%s: %+v on disk, %+v recorded", user, got, m)
		}
	}
	if err := j.move("u00", Move{State: Copying, Base: 99}, time.Now()); err == nil {
		t.Error("a closed journal takes a line")
	}
}

// TestJournalLineBehindCompact: a soak's line may come when its batch has just been
// compacted and is not parked yet. It is in the journal that a restart reads, and
// so are those that come when it is parked.
func TestJournalLineBehindCompact(t *testing.T) {
	dir, j := testJournal(t)
	for n := range uint64(20) {
		if err := j.move("anna", Move{State: Holding, Base: n}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	spec := BatchSpec{ID: "b1", Users: []string{"anna", "bob"}, To: "home"}
	moves := map[string]Move{"anna": {State: Soaking}, "bob": {State: Final}}
	before, err := os.Stat(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.compact(&spec, moves, func(string) figures { return figures{} }, &routeTable{}, false); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(filepath.Join(dir, journalName)); err != nil || after.Size() >= before.Size() {
		t.Fatalf("not compacted: %v", err)
	}
	if err := j.move("anna", Move{State: RolledBack}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := j.park(true); err != nil {
		t.Fatal(err)
	}
	if err := j.move("bob", Move{State: RolledBack, Reason: "parked"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	again, r, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
	if r.moves["anna"].State != RolledBack || r.moves["bob"].Reason != "parked" {
		t.Errorf("%+v", r.moves)
	}
}

// fullFile is the file of a journal on a disk that is full while full is set: half a
// line still fits.
type fullFile struct {
	journalFile
	full *atomic.Bool
}

func (f fullFile) Write(p []byte) (int, error) {
	if !f.full.Load() {
		return f.journalFile.Write(p)
	}
	n, _ := f.journalFile.Write(p[:len(p)/2])
	return n, syscall.ENOSPC
}

func (j *journal) onDisk(full *atomic.Bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.f = fullFile{j.f, full}
}

// A line that the disk has no room for is refused whole, and the next one is taken
// when there is room.
func TestJournalOnAFullDisk(t *testing.T) {
	dir, j := testJournal(t)
	var full atomic.Bool
	j.onDisk(&full)
	for n := range uint64(6) {
		full.Store(n%2 == 1)
		if err := j.move("anna", Move{State: Copying, Base: n}, time.Now()); (err != nil) != full.Load() || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("line %d: %v", n, err)
		}
		if !j.usable() {
			t.Fatal("the journal is given up")
		}
	}
	j.close()
	again, r, err := openJournal(dir)
	if err != nil || r.moves["anna"].Base != 4 {
		t.Fatalf("%+v %v", r, err)
	}
	again.close()
	text, _ := os.ReadFile(filepath.Join(dir, journalName))
	if n := strings.Count(string(text), "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, text)
	}
}

// A batch whose journal has no room pauses, says why, fails nobody, and goes on when
// it is told to and there is room.
func TestBatchOnAFullDisk(t *testing.T) {
	for _, at := range []string{"open", "activate", "swap"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t, 3, 10)
			var full atomic.Bool
			var e *Engine
			var once sync.Once
			begun := make(chan struct{})
			fill := func(op string) error {
				if op == at {
					<-begun
					once.Do(func() { full.Store(true) })
				}
				return nil
			}
			r.target.fail, r.places.fail = fill, fill
			e = r.engine(t)
			id := start(t, e, BatchSpec{Users: r.users(), Parallel: 2})
			e.loaded(id).journal.onDisk(&full)
			close(begun)
			st := until(t, e, id, func(st *BatchStatus) bool { return st.Paused && running(st) == 0 })
			if !strings.Contains(st.Waits, "the journal cannot be written") || !strings.Contains(st.Waits, "no space left") || st.Counts[Failed] > 0 || st.Finished {
				t.Errorf("on a full disk: %+v", st)
			}
			if err := e.Continue(id); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("goes on without room: %v", err)
			}
			full.Store(false)
			if err := e.Continue(id); err != nil {
				t.Fatal(err)
			}
			if st := wait(t, e, id); st.Counts[Final] != 3 {
				t.Errorf("%+v", st)
			}
			r.complete(t)
		})
	}
}

// What was copied for a user is still told when another process ends the move.
func TestFiguresBehindARestart(t *testing.T) {
	r := newRig(t, 1, 10)
	away := make(chan struct{})
	var once sync.Once
	set := r.opt.SetStore
	r.opt.SetStore = func(context.Context, backend.Entry, string) error {
		once.Do(func() { close(away) })
		return backend.NewError(backend.KindUnavailable, "the directory is away")
	}
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users()})
	<-away
	e.Close()
	r.opt.SetStore = set
	e = r.engine(t)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, e, id); st.Counts[Final] != 1 || st.Users[0].MessagesDone != 10 || st.MessagesDone != 10 {
		t.Errorf("%+v", st)
	}
}

// Nobody is flipped whose certificate cannot be written.
func TestNoFlipWithoutACertificate(t *testing.T) {
	r := newRig(t, 2, 10)
	var once sync.Once
	var block string
	r.places.fail = func(op string) error {
		if op == "quiet" {
			once.Do(func() { // somebody who is in the way, as a full disk is
				if err := os.MkdirAll(block, 0o700); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	}
	e := r.engine(t)
	spec := BatchSpec{ID: "b", Users: r.users(), Parallel: 1, To: "home"}
	block = filepath.Join(e.dir("b"), certificateName("u00")+".new", "x")
	id := start(t, e, spec)
	st := until(t, e, id, func(st *BatchStatus) bool { return st.Paused && running(st) == 0 })
	if p := r.places.m["u00"]; p.Store == "home" || !strings.Contains(st.Waits, "the certificate cannot be written") || st.Counts[Failed] > 0 {
		t.Errorf("%+v, placement %+v", st, p)
	}
	if err := os.RemoveAll(filepath.Dir(block)); err != nil {
		t.Fatal(err)
	}
	if err := e.Continue(id); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, e, id); st.Counts[Final] != 2 {
		t.Errorf("%+v", st)
	}
	r.complete(t)
	if c, err := e.Certificate("u00"); err != nil || c.Grade != "perfect" {
		t.Errorf("%+v %v", c, err)
	}
}

// A batch whose beginning was cut off leaves nothing behind, passwords least of all.
func TestBatchThatHadNotBegun(t *testing.T) {
	r := newRig(t, 1, 1)
	for name, text := range map[string]string{"none": "", "torn": `{"time":"2026-01-0`} {
		dir := filepath.Join(r.opt.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, secretsName), []byte(`{"u00":"s3cret"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(filepath.Join(dir, journalName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	damaged := filepath.Join(r.opt.Dir, "damaged")
	if err := os.MkdirAll(damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, journalName), []byte("rubbish\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := r.engine(t)
	if err := e.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged journal: %v", err)
	}
	entries, err := os.ReadDir(r.opt.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, x := range entries {
		if x.IsDir() {
			left = append(left, x.Name())
		}
	}
	if len(left) != 1 || left[0] != "damaged" {
		t.Errorf("left: %v", left)
	}
}
