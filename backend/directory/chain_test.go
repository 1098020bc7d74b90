package directory

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

func newChain(t testing.TB, o ChainOptions) *Chain {
	t.Helper()
	c, err := NewChain(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func annaTable(name string) *table {
	return &table{name: name, asked: make(chan string, 10_000), entries: map[string]backend.Entry{
		"anna":             {User: "anna", Store: name},
		"anna@example.org": {User: "anna", Store: name},
	}}
}

func TestChainOrder(t *testing.T) {
	first, second := &table{name: "first"}, annaTable("second")
	c := newChain(t, ChainOptions{Directories: []backend.Directory{first, second}})
	e, err := c.Lookup(t.Context(), "anna")
	if err != nil || e.Directory != "second" {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := c.Authenticate(t.Context(), e, "secret"); err != nil {
		t.Error(err)
	}
	if err := c.Authenticate(t.Context(), e, ""); !backend.IsKind(err, backend.KindAuthentication) {
		t.Error(err)
	}
}

func TestChainCannotTellEndsTheSearch(t *testing.T) {
	for name, fault := range map[string]error{"kind": errAway, "no kind": fmt.Errorf("broken")} {
		t.Run(name, func(t *testing.T) {
			first, second := &table{name: "first", err: fault}, annaTable("second")
			c := newChain(t, ChainOptions{Directories: []backend.Directory{first, second}})
			if e, err := c.Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
				t.Fatalf("%+v, %v", e, err)
			}
			first.err = nil // nothing of the failure may be remembered
			if _, err := c.Lookup(t.Context(), "anna"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChainRefusalIsNotRemembered(t *testing.T) {
	d := annaTable("d")
	d.err = backend.NewError(backend.KindConflict, "two entries")
	c := newChain(t, ChainOptions{Directories: []backend.Directory{d, annaTable("other")}})
	if _, err := c.Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindConflict) {
		t.Fatal(err)
	}
	d.err = nil
	if e, err := c.Lookup(t.Context(), "anna"); err != nil || e.Directory != "d" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestChainCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := annaTable("d")
		c := newChain(t, ChainOptions{Directories: []backend.Directory{d}, TTL: time.Minute, NegativeTTL: 10 * time.Second})
		steps := []struct {
			after time.Duration
			name  string
			asks  int
		}{
			{0, "anna", 1}, {59 * time.Second, "anna", 0}, {2 * time.Second, "anna", 1},
			{0, "nobody", 1}, {9 * time.Second, "nobody", 0}, {2 * time.Second, "nobody", 1},
		}
		for i, s := range steps {
			time.Sleep(s.after) // fake time
			c.Lookup(t.Context(), s.name)
			synctest.Wait()
			if n := len(d.asked); n != s.asks {
				t.Errorf("step %d: %d questions, want %d", i, n, s.asks)
			}
			for len(d.asked) > 0 {
				<-d.asked
			}
		}
	})
}

func TestChainStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := annaTable("d")
		c := newChain(t, ChainOptions{Directories: []backend.Directory{d}, TTL: time.Minute, StaleFor: 24 * time.Hour})
		c.Lookup(t.Context(), "anna")
		c.Lookup(t.Context(), "nobody")
		d.err = errAway
		time.Sleep(23 * time.Hour)
		if e, err := c.Lookup(t.Context(), "anna"); err != nil || e.User != "anna" {
			t.Errorf("a known user in an outage: %+v, %v", e, err)
		}
		if _, err := c.Lookup(t.Context(), "nobody"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Errorf("an unknown user in an outage: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if _, err := c.Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Errorf("after a day: %v", err)
		}
	})
}

func TestChainServesStaleWhileTheDirectoryIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := annaTable("d")
		c := newChain(t, ChainOptions{Directories: []backend.Directory{d}, TTL: time.Minute})
		c.Lookup(t.Context(), "anna")
		time.Sleep(time.Hour)
		d.answer = make(chan struct{})
		begin := time.Now()
		if _, err := c.Lookup(t.Context(), "anna"); err != nil || time.Since(begin) > time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := c.Lookup(t.Context(), "otto"); !backend.IsKind(err, backend.KindUnavailable) || time.Since(begin) > lookupLimit {
			t.Errorf("a mute directory: %v after %v", err, time.Since(begin))
		}
	})
}

func TestChainSingleflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := annaTable("d")
		d.answer = make(chan struct{})
		c := newChain(t, ChainOptions{Directories: []backend.Directory{d}})
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				if e, err := c.Lookup(t.Context(), "anna"); err != nil || e.User != "anna" {
					t.Errorf("%+v, %v", e, err)
				}
			})
		}
		synctest.Wait()
		close(d.answer)
		wg.Wait()
		if n := len(d.asked); n != 1 {
			t.Errorf("%d searches for one name", n)
		}
	})
}

func TestChainSetStoreForgetsAllNames(t *testing.T) {
	d := annaTable("d")
	c := newChain(t, ChainOptions{Directories: []backend.Directory{d}})
	c.Lookup(t.Context(), "anna@example.org")
	e, _ := c.Lookup(t.Context(), "anna")
	if err := c.SetStore(t.Context(), e, "home"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna", "anna@example.org"} {
		if e, err := c.Lookup(t.Context(), name); err != nil || e.Store != "home" {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestChainForgetsWhatWasAskedBeforeInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := annaTable("d")
		d.answer = make(chan struct{})
		c := newChain(t, ChainOptions{Directories: []backend.Directory{d}})
		go c.Lookup(t.Context(), "anna")
		synctest.Wait()
		c.Invalidate("anna")
		close(d.answer)
		synctest.Wait()
		c.Lookup(t.Context(), "anna")
		if n := len(d.asked); n != 2 {
			t.Errorf("%d searches, want one more after Invalidate", n)
		}
	})
}

func TestCacheBounded(t *testing.T) {
	c := newCache(10)
	for i := range 100 {
		name := fmt.Sprint("user", i%50)
		c.put(name, cached{entry: backend.Entry{User: fmt.Sprint("u", i%7)}}, 0)
		c.put("miss"+name, cached{err: errAway}, 0)
	}
	n := 0
	for _, set := range c.names {
		n += len(set)
	}
	if c.hits.Len() != 10 || c.misses.Len() != 10 || n != 10 {
		t.Errorf("%d hits, %d misses, %d names", c.hits.Len(), c.misses.Len(), n)
	}
}

func TestStores(t *testing.T) {
	home := &backend.Store{Name: "home", Type: backend.StoreLocal}
	old := &backend.Store{Name: "old1", Type: backend.StoreCyrus, Address: "10.0.0.5", Alternates: []string{"10.0.0.6"}}
	farm := &backend.Store{Name: "farm", Type: backend.StoreDovecot}
	s, err := NewStores([]*backend.Store{home, old, farm})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		st   *backend.Store
		host string
	}{
		"home": {home, ""}, "old1": {old, "10.0.0.5"}, "10.0.0.5": {old, "10.0.0.5"}, "10.0.0.6": {old, "10.0.0.5"},
		"ms7.example.org": {farm, "ms7.example.org"}, "2001:db8::1": {farm, "2001:db8::1"},
		"": {}, "a/b": {}, "-x": {}, "a b": {}, "a\r\nb": {}, "farm": {},
	}
	for name, want := range tests {
		st, host, err := s.Find(name)
		if want.st == nil && name != "farm" {
			if !backend.IsKind(err, backend.KindUnavailable) {
				t.Errorf("%q: %v, %v", name, st, err)
			}
		} else if want.st != nil && (st != want.st || host != want.host) {
			t.Errorf("%q: %v %q %v", name, st, host, err)
		}
	}
	if _, err := NewStores([]*backend.Store{home, home}); err == nil {
		t.Error("two stores of one name")
	}
}
