package migrate

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// TestKilledRollBack kills the engine at each operation of a roll-back from real
// stores: nothing is lost or doubled, the user is on exactly one store, and the
// roll-back ends by itself, or by a second order if the first had not begun.
func TestKilledRollBack(t *testing.T) {
	stores := []string{"dovecot"}
	if mailtest.Soaking() {
		stores = append(stores, "cyrus") // takes a minute
	}
	realSources(t, func(t *testing.T, s *source) {
		s.fill(t, s.conn(t))
		r := newSoakRig(t, s)
		k := &killer{rig: r}
		setStore, lookup, importer := r.opt.SetStore, r.opt.Lookup, r.opt.Importer
		r.opt.SetStore = func(ctx context.Context, e backend.Entry, store string) error {
			if err := k.op("write the directory"); err != nil {
				return err
			}
			if err := setStore(ctx, e, store); err != nil {
				return err
			}
			return k.op("the directory was written")
		}
		r.opt.Lookup = func(ctx context.Context, user string) (backend.Entry, error) {
			if err := k.op("look up the route"); err != nil {
				return backend.Entry{}, err
			}
			return lookup(ctx, user)
		}
		r.opt.Importer = killedImporter{importer, k}
		own := r.opt.Own
		r.opt.Own = func(ctx context.Context, user string) (c *remote.Client, err error) {
			if err := k.op("log in to the new store"); err != nil {
				return nil, err
			}
			return own(ctx, user)
		}
		r.places.fail = k.op

		r.move(time.Hour)
		for n, end := range []struct {
			op string
			n  int // the n-th of it
		}{{"look up the route", 1}, {"log in to the new store", 1}, {"get", 1}, {"swap", 1}, {"swapped", 1}, {"quiet", 1}, {"swap", 2}, {"swapped", 2},
			{"close the new store", 1}, {"the new store was closed", 1}, {"write the directory", 1}, {"the directory was written", 1}, {"none", 1}} {
			c := r.ownConn()
			c.Cmd("SELECT INBOX")
			c.Append("INBOX", `\Flagged`, noon, letter(fmt.Sprintf("before kill %d", n)))
			c.Cmd("UID STORE 1:* +FLAGS ($Kill%d)", n%3)
			want := r.seenOwn()

			k.arm(end.op, end.n)
			if _, _, err := r.engine.Rollback("", []string{s.user}); err != nil {
				t.Fatal(err)
			}
			r.await("dead, or rolled back", func() bool { return k.dead() || r.settled(RolledBack) })
			at := k.disarm()
			if dies := end.op != "none"; (at != "") != dies {
				t.Fatalf("armed for %q: killed at %q", end.op, at)
			}
			if at != "" {
				r.open()
				if b, err := r.engine.batch(r.batch); err != nil {
					t.Fatal(err)
				} else if m := b.moveOf(s.user); m.State == Soaking && !m.Back {
					if _, _, err := r.engine.Rollback("", []string{s.user}); err != nil && !backend.IsKind(err, backend.KindNotFound) {
						t.Fatal(err)
					}
				}
				r.await("rolled back behind the kill at "+at, func() bool { return r.settled(RolledBack) })
			}
			if p, _, _ := r.places.Get(context.Background(), s.user); p.Store != "old" || p.State != backend.PlacementActive || r.directory() != "old" {
				t.Fatalf("killed at %q: placement %+v, directory %q", at, p, r.directory())
			}
			if d := differs(want, r.seenOld()); d != "" {
				t.Fatalf("killed at %q (new -, old +): %s", at, d)
			}
			if _, err := r.opt.Own(context.Background(), s.user); err == nil {
				t.Fatalf("killed at %q: the new store lets the user in still", at)
			}
			if at == "" {
				return
			}
			spec, err := r.engine.RetrySpec(r.batch)
			if err != nil {
				t.Fatal(err)
			}
			r.batch = start(t, r.engine, spec)
			if st := wait(t, r.engine, r.batch); st.Users[0].State != Soaking {
				t.Fatalf("moved again behind the kill at %q: %+v", at, st.Users[0])
			}
		}
	}, stores...)
}

// killer kills the rig's engine at the n-th operation of a name: from then on it reaches
// nobody and writes nothing down.
type killer struct {
	rig *soakRig

	mu   sync.Mutex
	name string // of the operation; empty: nobody is killed
	left int
	at   string
}

func (k *killer) arm(name string, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.name, k.left, k.at = name, n, ""
}

func (k *killer) dead() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at != ""
}

// disarm lets everybody live; it returns where the engine died, after that is
// over.
func (k *killer) disarm() (at string) {
	if k.dead() {
		k.rig.engine.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	at = k.at
	k.name, k.at = "", ""
	return at
}

func (k *killer) op(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == "" {
		if name != k.name {
			return nil
		}
		if k.left--; k.left > 0 {
			return nil
		}
		k.at = name
		e := k.rig.engine
		e.mu.Lock()
		for _, b := range e.batches {
			b.journal.park(false)
		}
		e.mu.Unlock()
		e.cancel(context.Canceled)
	}
	return backend.NewError(backend.KindUnavailable, "dead")
}

// killedImporter may die around the closing of the new store.
type killedImporter struct {
	backend.Importer
	k *killer
}

func (i killedImporter) Import(ctx context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	imp, err := i.Importer.Import(ctx, user, o)
	if err != nil {
		return nil, err
	}
	return killedImport{imp, i.k}, nil
}

type killedImport struct {
	backend.Import
	k *killer
}

func (i killedImport) Reopen(ctx context.Context, epoch uint64) error {
	if err := i.k.op("close the new store"); err != nil {
		return err
	}
	if err := i.Import.Reopen(ctx, epoch); err != nil {
		return err
	}
	return i.k.op("the new store was closed")
}

// settled reports that the user is in a state, and that nothing is owed to it.
func (r *soakRig) settled(state State) bool {
	b, err := r.engine.batch(r.batch)
	if err != nil {
		r.t.Fatal(err)
	}
	m := b.moveOf(r.old.user)
	return m.State == state && m.Done() && !r.user().Running
}

func (r *soakRig) directory() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.says
}
