package migrate

import (
	"context"
	"iter"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Reread implements backend.Rereader; the store's rot flips a UID's octets.
func (b *fakeBox) Reread(ctx context.Context, pick func(imap.UID) bool) iter.Seq2[backend.RereadMessage, error] {
	return func(yield func(backend.RereadMessage, error) bool) {
		for m, err := range b.Messages(ctx) {
			if err == nil && !pick(m.UID) {
				continue
			}
			if b.user.store.unreadable {
				yield(backend.RereadMessage{}, backend.NewError(backend.KindUnavailable, "the disk is away"))
				return
			}
			r := backend.RereadMessage{UID: m.UID, Size: m.Size, Digest: m.Digest, Filed: m.Digest, FiledSize: m.Size}
			if m.UID == b.user.store.rotten {
				r.Digest[0]++
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// TestRereadFindsRot: nobody is flipped onto a store that gives other octets
// than it took.
func TestRereadFindsRot(t *testing.T) {
	r := newRig(t, 1, 40)
	r.target.rotten = 3
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Reread: 100}))
	if u := st.Users[0]; u.State != Failed || len(r.places.history["u00"]) != 0 {
		t.Errorf("%+v, placements %+v", u, r.places.history["u00"])
	}
	r.target.rotten = 0
	st = wait(t, e, start(t, e, BatchSpec{Users: r.users(), Reread: 100}))
	if c, err := e.Certificate("u00"); err != nil || c.Reread != 40 || st.Counts[Final] != 1 {
		t.Errorf("%+v %v", c, err)
	}
}

// TestSecondLookThatNeverWorks ends the move after some attempts, although
// every pass in between is fine.
func TestSecondLookThatNeverWorks(t *testing.T) {
	r := newRig(t, 1, 4)
	r.target.unreadable = true
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Reread: 100, Attempts: 3}))
	if u := st.Users[0]; u.State != Failed || !strings.Contains(u.Reason, "the disk is away") {
		t.Errorf("%+v", u)
	}
}

func TestRereadSamples(t *testing.T) {
	n := 0
	for uid := range imap.UID(100_000) {
		if sampled(uid, 10) {
			n++
		}
	}
	if n < 9_000 || n > 11_000 || sampled(1, 0) || !sampled(1, 100) {
		t.Errorf("%d of 100,000 at 10 %%", n)
	}
}
