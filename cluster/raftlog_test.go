package cluster

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

func openTestLog(t *testing.T, fs vfs.FS) (*pebble.DB, *groupLog) {
	t.Helper()
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	db, err := openPebble("log", fs, cache, newFault(), slog.New(slog.DiscardHandler), tuneLog(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	l, err := openGroupLog(db, 3, []uint64{1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return db, l
}

func appendEntries(t *testing.T, db *pebble.DB, l *groupLog, term, from, to uint64) {
	t.Helper()
	var entries []*raftpb.Entry
	for i := from; i <= to; i++ {
		entries = append(entries, &raftpb.Entry{Index: new(i), Term: new(term), Data: fmt.Append(nil, term, ".", i)})
	}
	b := db.NewBatch()
	if err := l.write(b, entries); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	l.written(entries)
}

// contents reads the whole log as "term.index ..." in portions of a few bytes.
func contents(t *testing.T, l *groupLog) string {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	var out []string
	for i := first; i <= last; {
		entries, err := l.Entries(i, last+1, 40)
		if err != nil {
			t.Fatalf("entries from %d: %v", i, err)
		}
		for _, e := range entries {
			if term, err := l.Term(i); err != nil || term != e.GetTerm() {
				t.Errorf("term of %d: %d, %v", i, term, err)
			}
			out = append(out, string(e.GetData()))
			i++
		}
	}
	return strings.Join(out, " ")
}

// TestLogOverwrite: a new leader's shorter log replaces the longer tail of an
// old one, in memory, on disk, and after a restart.
func TestLogOverwrite(t *testing.T) {
	for _, evict := range []uint64{0, 3, 8} {
		t.Run(fmt.Sprint("evicted to ", evict), func(t *testing.T) {
			fs := vfs.NewMem()
			db, l := openTestLog(t, fs)
			appendEntries(t, db, l, 1, 1, 8)
			l.evict(evict, 0)
			appendEntries(t, db, l, 2, 4, 5)
			const want = "1 . 1 1 . 2 1 . 3 2 . 4 2 . 5"
			check := func() {
				t.Helper()
				if got := strings.ReplaceAll(contents(t, l), ".", " . "); strings.Join(strings.Fields(got), " ") != want {
					t.Errorf("log is %q", got)
				}
			}
			check()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db, l = openTestLog(t, fs)
			check()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLogTruncate: what was cut off is gone, the rest and the term before it stay.
func TestLogTruncate(t *testing.T) {
	fs := vfs.NewMem()
	db, l := openTestLog(t, fs)
	appendEntries(t, db, l, 1, 1, 6)
	appendEntries(t, db, l, 2, 7, 9)
	l.evict(5, 0)
	b := db.NewBatch()
	if err := l.truncate(b, 7, 7); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	check := func(l *groupLog) {
		t.Helper()
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		if term, err := l.Term(7); first != 8 || last != 9 || term != 2 || err != nil {
			t.Errorf("log is %d to %d, term before it %d, %v", first, last, term, err)
		}
		if _, err := l.Entries(7, 8, 1); err == nil {
			t.Error("entry that was cut off is still there")
		}
	}
	check(l)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	db, err := openPebble("log", fs, cache, newFault(), slog.New(slog.DiscardHandler), tuneLog(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if l, err = openGroupLog(db, 3, []uint64{1}, 8); err != nil {
		t.Fatal(err)
	}
	check(l)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
