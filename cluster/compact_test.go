package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/cluster/engine/enginetest"
)

// TestSpaceIsReclaimed: the segments shrink to about what is live, and the log
// does not grow for ever, while bodies come and go.
func TestSpaceIsReclaimed(t *testing.T) {
	t.Run("bodies", func(t *testing.T) { testSpace(t, engine.Shard.NewBody) })
	t.Run("bulk bodies", func(t *testing.T) { testSpace(t, engine.Shard.NewBulkBody) })
}

type newBody func(engine.Shard, context.Context) (engine.BodyWriter, error)

func testSpace(t *testing.T, newBody newBody) {
	fs := vfs.NewMem()
	checkpoints := make(chan struct{}, 1000)
	c := newCluster(t, 1, func(o *cluster.Options) {
		o.FS, o.SegmentBytes, o.CheckpointBytes = fs, 256<<10, 1<<20
		o.Metrics.Checkpoint = func(time.Duration) { checkpoints <- struct{}{} }
	})
	s := c.lead(t.Context(), 1)
	body := func(i int) []byte { return enginetest.Octets(uint64(i), 20<<10, true) }
	for i := range 400 { // 8 MiB, of which every tenth body stays
		fileOne(t, s, newBody, fmt.Sprint(i), body(i))
		if i%10 != 0 {
			if _, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "unfile", Key: fmt.Sprint(i)})); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := 1000; diskUsed(t, fs, "node/bodies") > 3<<20; i++ { // until compaction caught up
		if i == 3000 {
			t.Fatalf("segments still use %d bytes", diskUsed(t, fs, "node/bodies"))
		}
		fileOne(t, s, newBody, "last", body(i))
		if _, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "unfile", Key: "last"})); err != nil {
			t.Fatal(err)
		}
	}
	if len(checkpoints) < 5 {
		t.Errorf("%d checkpoints", len(checkpoints))
	}
	v, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for i := 0; i < 400; i += 10 {
		id, err := v.Get([]byte(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenBody(enginetest.FiledBody(id))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body(i)) {
			t.Errorf("body %d after compaction: %d octets, %v", i, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func fileOne(t *testing.T, s engine.Shard, newBody newBody, key string, data []byte) {
	t.Helper()
	w, err := newBody(s, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(t.Context(), enginetest.Command(enginetest.Op{Do: "file", Key: key}), b); err != nil {
		t.Fatal(err)
	}
}

func diskUsed(t *testing.T, fs vfs.FS, dir string) (sum int64) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if info, err := fs.Stat(fs.PathJoin(dir, name)); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
