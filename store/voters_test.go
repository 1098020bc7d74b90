package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/store"
)

// voters are three nodes in one process, used as one engine: a command goes to
// whichever node leads the shard.
type voters struct {
	t     testing.TB
	net   *cluster.Loopback
	nodes []*cluster.Node

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a leader changes
}

func newVoters(t testing.TB) *voters {
	v := &voters{t: t, net: cluster.NewLoopback(), changed: make(chan struct{})}
	for id := uint64(1); id <= 3; id++ {
		n, err := cluster.Open(cluster.Options{NodeID: id, Voters: []uint64{1, 2, 3}, Dir: "node", FS: vfs.NewMem(),
			Machine: store.NewMachine(), Transport: v.net, Tick: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			Metrics: cluster.Metrics{Leader: func(engine.ShardID, bool) { v.notify() }}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(context.Background()) })
		v.nodes = append(v.nodes, n)
		v.net.Attach(n)
	}
	return v
}

func (v *voters) notify() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// leader waits until a node other than not leads the shard.
func (v *voters) leader(ctx context.Context, id engine.ShardID, not uint64) (uint64, engine.Shard, error) {
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		for i, n := range v.nodes {
			if sh, err := n.Shard(id); err == nil && sh.Leader() && uint64(i+1) != not {
				return uint64(i + 1), sh, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
}

func (v *voters) Shards() []engine.ShardID { return v.nodes[0].Shards() }

func (v *voters) Shard(id engine.ShardID) (engine.Shard, error) {
	sh, err := v.nodes[0].Shard(id)
	return routed{sh, v}, err
}

// routed is a shard whose commands find the leader.
type routed struct {
	engine.Shard
	voters *voters
}

func (r routed) Propose(ctx context.Context, cmd []byte, bodies ...engine.StagedBody) ([]byte, error) {
	_, sh, err := r.voters.leader(ctx, r.ID(), 0)
	if err != nil {
		return nil, err
	}
	return sh.Propose(ctx, cmd, bodies...)
}

func (r routed) NewBody(ctx context.Context) (engine.BodyWriter, error) {
	_, sh, err := r.voters.leader(ctx, r.ID(), 0)
	if err != nil {
		return nil, err
	}
	return sh.NewBody(ctx)
}

func (r routed) NewBulkBody(ctx context.Context) (engine.BodyWriter, error) {
	_, sh, err := r.voters.leader(ctx, r.ID(), 0)
	if err != nil {
		return nil, err
	}
	return sh.NewBulkBody(ctx)
}

func (r routed) OpenBody(id engine.BodyID) (engine.BodyReader, error) {
	_, sh, err := r.voters.leader(context.Background(), r.ID(), 0)
	if err != nil {
		return nil, err
	}
	return sh.OpenBody(id)
}

func (r routed) View(ctx context.Context) (engine.View, error) {
	for {
		_, sh, err := r.voters.leader(ctx, r.ID(), 0)
		if err != nil {
			return nil, err
		}
		v, err := sh.View(ctx)
		if !errors.Is(err, engine.ErrNotLeader) {
			return v, err
		}
	}
}

// sender delivers one mail after the other, each until it is acknowledged, and
// reuses an id whose outcome it does not know.
func sender(ctx context.Context, t *testing.T, s *store.Store, n int, acked chan<- string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		text := fmt.Sprint("mail ", n, " ", i)
		d := delivery(t, s, text, "u")
		for {
			limited, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := s.Deliver(limited, d)[0]
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Error("no leader came back: ", err)
				return
			}
			if backend.IsKind(err, backend.KindTemporary) {
				d.ID = s.NewDeliveryID() // given up for certain
			}
		}
		acked <- text
	}
}

// loseLeader cuts a shard's leader off until another leads.
func loseLeader(ctx context.Context, t *testing.T, v *voters, id engine.ShardID) {
	old, _, err := v.leader(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	v.net.Detach(old)
	_, _, err = v.leader(ctx, id, old)
	v.net.Attach(v.nodes[old-1])
	if err != nil {
		t.Fatal(err)
	}
}

// TestLeaderChanges: deliveries while leaders lose their connection arrive
// once each.
func TestLeaderChanges(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v := newVoters(t)
	for _, id := range v.Shards() {
		if _, _, err := v.leader(ctx, id, 0); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t, v)
	f := newUser(t, s, "u")
	acked, stop := make(chan string, 16), make(chan struct{})
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() { sender(ctx, t, s, n, acked, stop) })
	}
	want := make(map[string]bool)
	for range 5 {
		for range 50 {
			select {
			case text := <-acked:
				want[text] = true
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
		}
		loseLeader(ctx, t, v, f.User().Shard)
	}
	close(stop)
	go func() { wg.Wait(); close(acked) }()
	for text := range acked {
		want[text] = true
	}
	snap := f.snapshot(backend.Inbox)
	defer snap.Close()
	for m, err := range snap.Messages(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}) {
		if err != nil {
			t.Fatal(err)
		}
		if text := f.read(m); !want[text] {
			t.Errorf("%q is there twice, or was never acknowledged", text)
		} else {
			delete(want, text)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d acknowledged mails are missing", len(want))
	}
	t.Logf("%d mails", snap.Mailbox().Messages)
}
