package enginetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"mailferry/cluster/engine"
)

// Octets returns n octets that depend on seed only: text that compresses, or
// noise that does not.
func Octets(seed uint64, n int, noise bool) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	if noise {
		return b
	}
	for i := range b {
		b[i] = "etaoin shrdlu\r\n"[b[i]%15]
	}
	return b
}

// stage writes data as a body, in pieces of odd sizes.
func stage(t *testing.T, s engine.Shard, data []byte) engine.StagedBody {
	t.Helper()
	w, err := s.NewBody(t.Context())
	if err != nil {
		t.Fatalf("new body: %v", err)
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)*2/3)
		if m, err := w.Write(rest[:n]); m != n || err != nil {
			t.Fatalf("write: %d of %d, %v", m, n, err)
		}
		rest = rest[n:]
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatalf("finish: %v", err)
	}
	w.Abort() // does nothing after Finish
	if b.Size() != int64(len(data)) || b.Digest() != sha256.Sum256(data) {
		t.Fatalf("staged %d octets of %d, or digest differs", b.Size(), len(data))
	}
	return b
}

// fileBody files data under key and returns the body's id.
func fileBody(t *testing.T, s engine.Shard, key string, data []byte) engine.BodyID {
	t.Helper()
	if _, err := s.Propose(t.Context(), Command(Op{Do: "file", Key: key}), stage(t, s, data)); err != nil {
		t.Fatalf("propose: %v", err)
	}
	id := FiledBody(value(t, s, key))
	if id == 0 {
		t.Fatal("body id is 0")
	}
	return id
}

func checkBody(t *testing.T, s engine.Shard, id engine.BodyID, want []byte) {
	t.Helper()
	r, err := s.OpenBody(id)
	if err != nil {
		t.Fatalf("open body %d: %v", id, err)
	}
	if r.Size() != int64(len(want)) {
		t.Errorf("body of %d octets says %d", len(want), r.Size())
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("body of %d octets: got %d, %v", len(want), len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("close body: %v", err)
	}
}

func checkNoBody(t *testing.T, s engine.Shard, id engine.BodyID) {
	t.Helper()
	if r, err := s.OpenBody(id); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("body %d: %v %v, want ErrNotFound", id, r, err)
	}
}

func testBodySizes(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	ids := map[engine.BodyID]bool{}
	for i, n := range []int{0, 1, 63, 64, 4096, 128<<10 - 1, 128 << 10, 128<<10 + 1, 256 << 10, 300 << 10, 1 << 20, 2<<20 + 7} {
		for _, noise := range []bool{false, true} {
			data := Octets(uint64(i), n, noise)
			id := fileBody(t, s, fmt.Sprint("body ", n, noise), data)
			if ids[id] {
				t.Fatalf("id %d given twice", id)
			}
			ids[id] = true
			checkBody(t, s, id, data)
			for _, e := range h.Engines() {
				checkOnReplica(t, e, id, data)
			}
		}
	}
	checkNoBody(t, s, 0)
	checkNoBody(t, s, 1<<50)
}

// checkOnReplica reads the body where a view says that it is there.
func checkOnReplica(t *testing.T, e engine.Engine, id engine.BodyID, want []byte) {
	t.Helper()
	s, err := e.Shard(1)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(t.Context())
	if errors.Is(err, engine.ErrNotLeader) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	closeView(t, v)
	checkBody(t, s, id, want)
}

func testBodiesOfOneCommand(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	data := [][]byte{Octets(1, 5000, false), Octets(2, 700<<10, true), {}, Octets(3, 100, true)}
	var staged []engine.StagedBody
	var ops []Op
	for i, d := range data {
		staged = append(staged, stage(t, s, d))
		ops = append(ops, Op{Do: "file", Key: fmt.Sprint(i), Body: i})
	}
	if _, err := s.Propose(t.Context(), Command(ops...), staged...); err != nil {
		t.Fatal(err)
	}
	for i, d := range data {
		checkBody(t, s, FiledBody(value(t, s, fmt.Sprint(i))), d)
	}
}

func testSharedBody(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	for _, n := range []int{3000, 900 << 10} {
		data := Octets(7, n, true)
		id := fileBody(t, s, "a", data)
		propose(t, s, Op{Do: "share", Key: "b", By: "a"}, Op{Do: "share", Key: "c", By: "a"})
		propose(t, s, Op{Do: "unfile", Key: "a"})
		checkBody(t, s, id, data)
		propose(t, s, Op{Do: "unfile", Key: "c"})
		checkBody(t, s, id, data)
		propose(t, s, Op{Do: "unfile", Key: "b"})
		checkNoBody(t, s, id)
		propose(t, s, Op{Do: "unfile", Key: "b"}) // of nothing: harmless
	}
}

func testBodyWithoutOwner(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	for _, n := range []int{3000, 900 << 10} {
		id := fileBody(t, s, "next", []byte("x"))
		index, err := s.Propose(t.Context(), Command(Op{Do: "index"}), stage(t, s, Octets(9, n, true)))
		if err != nil {
			t.Fatal(err)
		}
		// Filed and unfiled by the same command: dropped as well.
		if _, err := s.Propose(t.Context(), Command(Op{Do: "file", Key: "k"}, Op{Do: "unfile", Key: "k"}), stage(t, s, Octets(9, n, true))); err != nil {
			t.Fatal(err)
		}
		checkNoBody(t, s, id+engine.BodyID(Counter(index)))
		checkBody(t, s, id, []byte("x"))
	}
}

func testBodyGivenUp(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	for _, n := range []int{3000, 900 << 10} {
		b := stage(t, s, Octets(1, n, true))
		b.Discard()
		b.Discard()
		w, err := s.NewBody(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(Octets(1, n, true)); err != nil {
			t.Fatal(err)
		}
		w.Abort()
		w.Abort()
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("write after Abort succeeded")
		}
		if _, err := w.Finish(); err == nil {
			t.Error("Finish after Abort succeeded")
		}
	}
	propose(t, s, Op{Do: "add", Key: "n"})
}

func testBodyUsedTwice(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	data := Octets(4, 600<<10, true)
	b := stage(t, s, data)
	if _, err := s.Propose(t.Context(), Command(Op{Do: "file", Key: "a"}), b); err != nil {
		t.Fatal(err)
	}
	b.Discard() // harmless after Propose
	if _, err := s.Propose(t.Context(), Command(Op{Do: "file", Key: "b"}), b); err == nil {
		t.Error("a body was proposed twice")
	}
	if got := value(t, s, "b"); got != nil {
		t.Error("refused command was applied")
	}
	checkBody(t, s, FiledBody(value(t, s, "a")), data)
}

func testConcurrentBodies(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	concurrently(t, 8, func(i int) error {
		for j := range 6 {
			data := Octets(uint64(i*100+j), 1000*(j+1)*(1+i%3*60), i%2 == 0)
			w, err := s.NewBody(t.Context())
			if err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
			b, err := w.Finish()
			if err != nil {
				return err
			}
			if _, err := s.Propose(t.Context(), Command(Op{Do: "file", Key: fmt.Sprint(i, "/", j)}), b); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 8 {
		for j := range 6 {
			data := Octets(uint64(i*100+j), 1000*(j+1)*(1+i%3*60), i%2 == 0)
			checkBody(t, s, FiledBody(value(t, s, fmt.Sprint(i, "/", j))), data)
		}
	}
}

func testBodyReaderOutlivesRelease(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	data := Octets(5, 200<<10, true)
	id := fileBody(t, s, "a", data)
	r, err := s.OpenBody(id)
	if err != nil {
		t.Fatal(err)
	}
	propose(t, s, Op{Do: "unfile", Key: "a"})
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read after release: %d octets, %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func testRestart(t *testing.T, h *Harness) {
	s := h.Lead(t.Context(), 1)
	small, large := Octets(1, 2000, false), Octets(2, 900<<10, true)
	a := fileBody(t, s, "small", small)
	b := fileBody(t, s, "large", large)
	gone := fileBody(t, s, "gone", small)
	propose(t, s, Op{Do: "unfile", Key: "gone"})
	index := Counter(propose(t, s, Op{Do: "index"}))
	for range 3 {
		h.Restart()
		s = h.Lead(t.Context(), 1)
		checkBody(t, s, a, small)
		checkBody(t, s, b, large)
		checkNoBody(t, s, gone)
		propose(t, s, Op{Do: "add", Key: "n"})
	}
	if n := Counter(value(t, s, "n")); n != 3 {
		t.Errorf("counter %d after 3 restarts", n)
	}
	if i := Counter(propose(t, s, Op{Do: "index"})); i <= index {
		t.Errorf("index %d after %d", i, index)
	}
	if id := fileBody(t, s, "new", small); id == a || id == b || id == gone {
		t.Errorf("body id %d given twice", id)
	}
}
