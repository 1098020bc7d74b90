package scenario

import (
	"context"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// TestKilledWhileMoving kills the node, with -9, at random points of moves and
// starts it again. Clients come back by themselves; the moves go on where they
// were; every acknowledged message is there once and every user is active on
// exactly one store.
func TestKilledWhileMoving(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	kills, users, messages := 3, 12, 100
	if mailtest.Soaking() {
		kills, users = 20, 42
	}
	rnd := mailtest.Rand(t)
	f := newFarm(t, users, messages)
	n := newNode(t, f)
	l := startLife(t, f, n, lifeOptions{quiet: []string{"u01"}, reconnect: true})
	l.mail.Await(t, users)

	wave := users / (kills + 1)
	names := f.users()
	calm := names[:wave]
	start := time.Now()
	f.migrate(t.Context(), t, n, calm, "--parallel", "2")
	took := time.Since(start)
	for names = names[wave:]; len(names) > 0; {
		k := min(wave, len(names))
		after := time.Duration(rnd.Int64N(int64(took)))
		t.Logf("killed %v into the move of %v, which takes about %v", after, names[:k], took)
		f.killWhileMoving(t, n, names[:k], after)
		names = names[k:]
	}
	l.mail.Await(t, l.mail.Acked()+users)
	r := l.stop()
	t.Log(r)
	for _, u := range f.users() {
		r.idle[u].Check(t)
		r.reading[u].Check(t)
	}
	f.checkDirectory(t)
	f.checkMail(t, n, r, flips(f.certificates(t, n, true)), l.quiet)
}

// killWhileMoving begins a batch, kills the node some time later, starts it
// again and waits until the batch, which nobody touches, is done.
func (f *farm) killWhileMoving(t *testing.T, n *node, users []string, after time.Duration) {
	t.Helper()
	batch := f.migrate(t.Context(), t, n, users, "--parallel", "2", "--detach")
	<-time.After(after) // the fault's moment, not a wait for something
	n.kill()
	n.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, errs, code := n.run(ctx, "migrate", "watch", batch); code != 0 {
		t.Fatalf("batch %s ended with %d after the kill\n%s%s", batch, code, out, errs)
	}
}
