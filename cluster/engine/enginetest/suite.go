// Package enginetest is the conformance suite of package engine: every promise
// of the contract as a test, run against any implementation.
package enginetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"mailferry/cluster/engine"
)

// Harness is an engine under test: one or more replicas of the same shards,
// which run Machine. Shards Meta, 1 and 2 must exist.
type Harness struct {
	// Engines returns the replicas that run now, in a fixed order.
	Engines func() []engine.Engine
	// Lead waits until a replica leads the shard and can serve it, and returns it.
	Lead func(ctx context.Context, id engine.ShardID) engine.Shard
	// Restart closes all replicas and opens them again on the same data.
	Restart func()
	// Stop closes all replicas.
	Stop func()
}

// Factory starts an empty engine for one test. What it starts ends with the test.
type Factory func(t *testing.T) *Harness

// Run runs the suite.
func Run(t *testing.T, start Factory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Harness)
	}{
		{"Shards", testShards},
		{"Result", testResult},
		{"ReadsOwnWrites", testReadsOwnWrites},
		{"ConcurrentCommands", testConcurrentCommands},
		{"CommandsAreAtomic", testCommandsAreAtomic},
		{"IndexRises", testIndexRises},
		{"ShardsAreApart", testShardsAreApart},
		{"Iterator", testIterator},
		{"ViewIsSnapshot", testViewIsSnapshot},
		{"ViewIsLinearizable", testViewIsLinearizable},
		{"Followers", testFollowers},
		{"Context", testContext},
		{"Limits", testLimits},
		{"Watch", testWatch},
		{"BodySizes", testBodySizes},
		{"BodiesOfOneCommand", testBodiesOfOneCommand},
		{"SharedBody", testSharedBody},
		{"BodyWithoutOwner", testBodyWithoutOwner},
		{"BodyGivenUp", testBodyGivenUp},
		{"BodyUsedTwice", testBodyUsedTwice},
		{"ConcurrentBodies", testConcurrentBodies},
		{"BodyReaderOutlivesRelease", testBodyReaderOutlivesRelease},
		{"BulkBodySizes", inBulk(testBodySizes)},
		{"BulkBodiesOfOneCommand", inBulk(testBodiesOfOneCommand)},
		{"BulkAndOtherBodies", inTurns(testBodiesOfOneCommand)},
		{"SharedBulkBody", inBulk(testSharedBody)},
		{"BulkBodyWithoutOwner", inBulk(testBodyWithoutOwner)},
		{"BulkBodyGivenUp", inBulk(testBodyGivenUp)},
		{"BulkBodyUsedTwice", inBulk(testBodyUsedTwice)},
		{"ConcurrentBulkBodies", inBulk(testConcurrentBodies)},
		{"Restart", testRestart},
		{"RestartWithBulkBodies", inBulk(testRestart)},
		{"Stopped", testStopped},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, start(t)) })
	}
}

// inBulk has a test write its bodies by NewBulkBody.
func inBulk(test func(*testing.T, *Harness)) func(*testing.T, *Harness) {
	return withBodies(test, func(int) bool { return true })
}

// inTurns has a test write every other body by NewBulkBody.
func inTurns(test func(*testing.T, *Harness)) func(*testing.T, *Harness) {
	return withBodies(test, func(i int) bool { return i%2 == 0 })
}

func withBodies(test func(*testing.T, *Harness), bulk func(int) bool) func(*testing.T, *Harness) {
	return func(t *testing.T, h *Harness) {
		other, bodies := *h, new(atomic.Int64)
		other.Lead = func(ctx context.Context, id engine.ShardID) engine.Shard {
			return bulkShard{h.Lead(ctx, id), bodies, bulk}
		}
		test(t, &other)
	}
}

// bulkShard writes the bodies that bulk selects by NewBulkBody.
type bulkShard struct {
	engine.Shard
	bodies *atomic.Int64
	bulk   func(i int) bool
}

func (s bulkShard) NewBody(ctx context.Context) (engine.BodyWriter, error) {
	if s.bulk(int(s.bodies.Add(1))) {
		return s.Shard.NewBulkBody(ctx)
	}
	return s.Shard.NewBody(ctx)
}

// propose runs ops on the leader of shard 1.
func propose(t *testing.T, s engine.Shard, ops ...Op) []byte {
	t.Helper()
	result, err := s.Propose(t.Context(), Command(ops...))
	if err != nil {
		t.Fatalf("propose: %v", err)
	}
	return result
}

// value reads key in a view of its own; nil when there is none.
func value(t *testing.T, s engine.Shard, key string) []byte {
	t.Helper()
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatalf("view: %v", err)
	}
	defer closeView(t, v)
	got, err := v.Get([]byte(key))
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		t.Fatalf("get %q: %v", key, err)
	}
	return got
}

func closeView(t *testing.T, v engine.View) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Errorf("close view: %v", err)
	}
}

func testShards(t *testing.T, h *Harness) {
	for _, e := range h.Engines() {
		ids := e.Shards()
		if !slices.IsSorted(ids) || !slices.Contains(ids, engine.Meta) {
			t.Errorf("shards %v, want ascending with Meta", ids)
		}
		for _, id := range ids {
			s, err := e.Shard(id)
			if err != nil || s.ID() != id {
				t.Errorf("shard %d: %v", id, err)
			}
		}
		if _, err := e.Shard(1 << 30); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("unknown shard: %v, want ErrNotFound", err)
		}
	}
}

func testResult(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	propose(t, s, Op{Do: "set", Key: "a", Value: "1"})
	if got := propose(t, s, Op{Do: "get", Key: "a"}); string(got) != "1" {
		t.Errorf("result %q, want 1", got)
	}
	if got := propose(t, s, Op{Do: "delete", Key: "a"}); len(got) != 0 {
		t.Errorf("result %q, want none", got)
	}
	if got := value(t, s, "a"); got != nil {
		t.Errorf("deleted key has value %q", got)
	}
	want := ""
	for i := range 50 {
		propose(t, s, Op{Do: "append", Key: "list", Value: fmt.Sprint(i, ",")})
		want += fmt.Sprint(i, ",")
	}
	if got := value(t, s, "list"); string(got) != want {
		t.Errorf("commands in order %q, want %q", got, want)
	}
}

func testReadsOwnWrites(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	got := propose(t, s,
		Op{Do: "set", Key: "k1", Value: "a"}, Op{Do: "set", Key: "k2", Value: "b"},
		Op{Do: "set", Key: "k3", Value: "c"}, Op{Do: "delete", Key: "k2"},
		Op{Do: "scan", Key: "k", Value: "l"})
	if string(got) != "k1=a;k3=c;" {
		t.Errorf("scan of own writes: %q", got)
	}
	got = propose(t, s,
		Op{Do: "deleterange", Key: "k", Value: "k3"}, Op{Do: "set", Key: "k9", Value: "d"},
		Op{Do: "scan", Key: "k", Value: "l"})
	if string(got) != "k3=c;k9=d;" {
		t.Errorf("scan after deleterange: %q", got)
	}
}

// concurrently runs f in n goroutines and reports their errors.
func concurrently(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func testConcurrentCommands(t *testing.T, h *Harness) {
	const writers, each = 16, 25
	s := h.Lead(t.Context(), 1)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	concurrently(t, writers, func(int) error {
		for range each {
			r, err := s.Propose(t.Context(), Command(Op{Do: "add", Key: "n"}))
			if err != nil {
				return err
			}
			mu.Lock()
			if seen[Counter(r)] {
				t.Errorf("result %d came twice", Counter(r))
			}
			seen[Counter(r)] = true
			mu.Unlock()
		}
		return nil
	})
	if n := Counter(value(t, s, "n")); n != writers*each || len(seen) != writers*each {
		t.Errorf("counter %d, %d results, want %d", n, len(seen), writers*each)
	}
}

func testCommandsAreAtomic(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for range 200 {
			if _, err := s.Propose(t.Context(), Command(Op{Do: "add", Key: "a"}, Op{Do: "add", Key: "b"})); err != nil {
				t.Errorf("propose: %v", err)
				return
			}
		}
	})
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		v, err := s.View(t.Context())
		if err != nil {
			t.Fatalf("view: %v", err)
		}
		a, _ := v.Get([]byte("a"))
		b, _ := v.Get([]byte("b"))
		closeView(t, v)
		if Counter(a) != Counter(b) {
			t.Fatalf("saw half a command: a=%d b=%d", Counter(a), Counter(b))
		}
	}
	wg.Wait()
}

func testIndexRises(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	last := uint64(0)
	for range 20 {
		i := binary.BigEndian.Uint64(propose(t, s, Op{Do: "index"}))
		if i <= last {
			t.Fatalf("index %d after %d", i, last)
		}
		last = i
	}
}

func testShardsAreApart(t *testing.T, h *Harness) {
	one, two := h.Lead(t.Context(), 1), h.Lead(t.Context(), 2)
	propose(t, one, Op{Do: "set", Key: "a", Value: "one"}, Op{Do: "set", Key: "~~", Value: "end"})
	propose(t, two, Op{Do: "set", Key: "a", Value: "two"}, Op{Do: "set", Key: "", Value: "empty"})
	if got := value(t, one, "a"); string(got) != "one" {
		t.Errorf("shard 1 has %q", got)
	}
	v, err := one.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeView(t, v)
	if got := collect(t, v, nil, nil); !slices.Equal(got, []string{"a=one", "~~=end"}) {
		t.Errorf("all of shard 1: %q", got)
	}
}

func collect(t *testing.T, r engine.Reader, lower, upper []byte) []string {
	t.Helper()
	var got []string
	it := r.Iter(lower, upper)
	for ok := it.First(); ok; ok = it.Next() {
		got = append(got, fmt.Sprintf("%s=%s", it.Key(), it.Value()))
	}
	if err := it.Close(); err != nil {
		t.Errorf("iterator: %v", err)
	}
	return got
}

func testIterator(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	for _, k := range []string{"b", "d", "f", "h"} {
		propose(t, s, Op{Do: "set", Key: k, Value: k + k})
	}
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeView(t, v)
	it := v.Iter([]byte("c"), []byte("h"))
	for _, c := range []struct {
		move string
		ok   bool
		key  string
	}{
		{"seekge:a", true, "d"}, {"seekge:e", true, "f"}, {"seekge:g", false, ""},
		{"seeklt:z", true, "f"}, {"seeklt:f", true, "d"}, {"seeklt:d", false, ""},
		{"first", true, "d"}, {"next", true, "f"}, {"prev", true, "d"}, {"prev", false, ""},
		{"last", true, "f"}, {"next", false, ""},
	} {
		if ok := move(it, c.move); ok != c.ok {
			t.Fatalf("%s: %v, want %v", c.move, ok, c.ok)
		}
		if c.ok && (string(it.Key()) != c.key || string(it.Value()) != c.key+c.key) {
			t.Errorf("%s: at %q=%q, want %q", c.move, it.Key(), it.Value(), c.key)
		}
	}
	if err := it.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if got := collect(t, v, []byte("x"), nil); got != nil {
		t.Errorf("empty range: %q", got)
	}
	if _, err := v.Get([]byte("c")); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("missing key: %v, want ErrNotFound", err)
	}
}

func move(it engine.Iterator, how string) bool {
	switch how[:4] {
	case "firs":
		return it.First()
	case "last":
		return it.Last()
	case "next":
		return it.Next()
	case "prev":
		return it.Prev()
	}
	if how[:6] == "seekge" {
		return it.SeekGE([]byte(how[7:]))
	}
	return it.SeekLT([]byte(how[7:]))
}

func testViewIsSnapshot(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	propose(t, s, Op{Do: "set", Key: "a", Value: "old"})
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeView(t, v)
	propose(t, s, Op{Do: "set", Key: "a", Value: "new"}, Op{Do: "set", Key: "b", Value: "new"})
	if got := collect(t, v, nil, nil); !slices.Equal(got, []string{"a=old"}) {
		t.Errorf("snapshot changed: %q", got)
	}
	if got := value(t, s, "a"); string(got) != "new" {
		t.Errorf("new view has %q", got)
	}
}

// testViewIsLinearizable: whichever replica answers, it has what was
// acknowledged before.
func testViewIsLinearizable(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	for range 20 {
		n := Counter(propose(t, s, Op{Do: "add", Key: "n"}))
		for i, e := range h.Engines() {
			r, err := e.Shard(1)
			if err != nil {
				t.Fatal(err)
			}
			v, err := r.View(t.Context())
			if errors.Is(err, engine.ErrNotLeader) {
				continue
			}
			if err != nil {
				t.Fatalf("replica %d: %v", i, err)
			}
			got, _ := v.Get([]byte("n"))
			closeView(t, v)
			if Counter(got) < n {
				t.Fatalf("replica %d: view has %d after %d was acknowledged", i, Counter(got), n)
			}
		}
	}
}

// testFollowers: a replica that does not lead says so, or does it all the same.
func testFollowers(t *testing.T, h *Harness) {
	h.Lead(t.Context(), 1)
	done := uint64(0)
	for _, e := range h.Engines() {
		s, err := e.Shard(1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Propose(t.Context(), Command(Op{Do: "add", Key: "n"}))
		switch {
		case err == nil:
			done++
		case !errors.Is(err, engine.ErrNotLeader):
			t.Errorf("follower: %v, want ErrNotLeader", err)
		}
	}
	if n := Counter(value(t, h.Lead(t.Context(), 1), "n")); n != done || done == 0 {
		t.Errorf("%d applied, %d acknowledged", n, done)
	}
}

func testContext(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Propose(ctx, Command(Op{Do: "add", Key: "n"}))
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled propose: %v, want context.Canceled", err)
	}
	// Whatever came of it, it happened at most once, and before what follows.
	if n := Counter(propose(t, s, Op{Do: "add", Key: "n"})); n != 1 && n != 2 {
		t.Errorf("counter %d", n)
	}
}

func testLimits(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	big := make([]byte, engine.MaxCommand)
	for i := range big {
		big[i] = 'x'
	}
	if _, err := s.Propose(t.Context(), append(big, 'x')); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("too large: %v, want ErrTooLarge", err)
	}
	if got, err := s.Propose(t.Context(), big); err != nil || string(got[:11]) != "bad command" {
		t.Errorf("largest command: %.40q, %v", got, err)
	}
	if _, err := s.Propose(t.Context(), nil); err != nil {
		t.Errorf("empty command: %v", err)
	}
}

func testWatch(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	a, b := s.Watch("a"), s.Watch("b")
	defer a.Close()
	other := h.Lead(t.Context(), 2).Watch("a")
	defer other.Close()
	propose(t, s, Op{Do: "publish", Key: "a"}, Op{Do: "set", Key: "x", Value: "1"})
	propose(t, s, Op{Do: "publish", Key: "a"})
	<-a.C
	if got := value(t, s, "x"); string(got) != "1" {
		t.Errorf("woken before the command was visible: %q", got)
	}
	for name, w := range map[string]*engine.Watcher{"coalesced": a, "other topic": b, "other shard": other} {
		select {
		case <-w.C:
			// A second wake-up of a may be the one of the second command.
			if name != "coalesced" {
				t.Errorf("%s was woken", name)
			}
		default:
		}
	}
	for range 200 { // a wake-up is there when Propose returns
		propose(t, s, Op{Do: "publish", Key: "a"})
		select {
		case <-a.C:
		default:
			t.Fatal("Propose returned before the wake-up")
		}
	}
	b.Close()
	b.Close()
	propose(t, s, Op{Do: "publish", Key: "b"}, Op{Do: "publish", Key: "a"})
	<-a.C
	select {
	case <-b.C:
		t.Error("woken after Close")
	default:
	}
}

func testStopped(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	h.Stop()
	if _, err := s.Propose(t.Context(), Command(Op{Do: "add", Key: "n"})); !errors.Is(err, engine.ErrStopped) && !errors.Is(err, engine.ErrNotLeader) {
		t.Errorf("propose: %v, want ErrStopped", err)
	}
	if v, err := s.View(t.Context()); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("view: %v %v, want ErrStopped", v, err)
	}
}
