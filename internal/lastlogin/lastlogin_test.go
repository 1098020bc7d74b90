package lastlogin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var noon = time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)

func TestRecordOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Seen(noon, "anna", "anna@example.org")
	r.Seen(noon.Add(-time.Hour), "anna") // a clock that went back
	r.Seen(noon.Add(time.Hour), "bert", "bert")
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), "anna") {
		t.Fatalf("names are on the disk, or %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	minute := noon.Truncate(time.Minute)
	for name, want := range map[string]time.Time{"anna": minute, "Anna@Example.org": minute, "anna@example.org": minute, "bert": minute.Add(time.Hour), "carl": {}} {
		if got := again.At(name); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	// Damage costs the record, and nothing else.
	for n, bad := range [][]byte{nil, text[:len(text)-1], append([]byte("x"), text[1:]...), append(text[:len(magic)+3:len(magic)+3], make([]byte, len(text)-len(magic)-3)...)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path)
		if err == nil || !r.At("anna").IsZero() {
			t.Errorf("damage %d: %v, %v", n, err, r.At("anna"))
		}
		r.Seen(noon, "anna")
		if err := r.Save(); err != nil {
			t.Fatal(err)
		}
		if r, err := Open(path); err != nil || r.At("anna").IsZero() {
			t.Errorf("behind damage %d: %v", n, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// The record is written lazily, and at the end; a disk that refuses is told of, and
// tried again.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone", "logins")
	synctest.Test(t, func(t *testing.T) {
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var failures []error
		wg.Go(func() { _ = r.Keep(ctx, func(err error) { failures = append(failures, err) }) })
		r.Seen(noon, "anna")
		time.Sleep(saveEvery + time.Second)
		synctest.Wait()
		if len(failures) != 1 {
			t.Fatalf("failures %v", failures)
		}
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(saveEvery)
		synctest.Wait()
		first, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(saveEvery) // nobody came
		synctest.Wait()
		if second, err := os.Stat(path); err != nil || !os.SameFile(first, second) {
			t.Errorf("written although nobody logged in: %v", err)
		}
		r.Seen(noon, "bert")
		cancel()
		wg.Wait()
		if again, err := Open(path); err != nil || again.At("bert").IsZero() || len(failures) != 1 {
			t.Errorf("the end is not in it: %v %v", err, failures)
		}
	})
}

// When there are too many names, those who were away longest are forgotten.
func TestBound(t *testing.T) {
	r, err := Open(filepath.Join(t.TempDir(), "logins"))
	if err != nil {
		t.Fatal(err)
	}
	r.max = 80
	for n := range 400 {
		r.Seen(noon.Add(time.Duration(n)*time.Minute), fmt.Sprint("user", n))
		if len(r.times) > r.max {
			t.Fatalf("%d names", len(r.times))
		}
	}
	if r.At("user399").IsZero() || r.At("user335").IsZero() || !r.At("user300").IsZero() {
		t.Errorf("kept: %v %v %v", r.At("user399"), r.At("user335"), r.At("user300"))
	}
}

func BenchmarkSeen(b *testing.B) {
	r, err := Open(filepath.Join(b.TempDir(), "logins"))
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for n := 0; pb.Next(); n++ {
			r.Seen(noon.Add(time.Duration(n)*time.Second), "anna", "anna@example.org")
		}
	})
}
