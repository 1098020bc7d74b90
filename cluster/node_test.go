package cluster_test

import (
	"io"
	"strings"
	"testing"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

func TestSingleVoter(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	open := func() *cluster.Node {
		n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: dir, Shards: 3, Machine: enginetest.Machine{}})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	s, err := n.Shard(2)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.NewBody(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, strings.Repeat("hello ", 1000)); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(ctx, enginetest.Command(enginetest.Op{Do: "file", Key: "m"}), b); err != nil {
		t.Fatal(err)
	}
	check := func(s engine.Shard) {
		t.Helper()
		v, err := s.View(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		x, err := v.Get([]byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenBody(enginetest.FiledBody(x))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != strings.Repeat("hello ", 1000) {
			t.Fatalf("body: %d octets, %v", len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check(s)
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
	n = open()
	if s, err = n.Shard(2); err != nil {
		t.Fatal(err)
	}
	check(s)
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
