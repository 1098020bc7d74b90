package migrate

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sync/errgroup"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// TestFarLoginCarriesSurvey: a Dovecot that is far away answers a login and a
// survey in one turn, from the second login on, and tells the same. Cyrus, which
// loses what comes with a login, gets the one behind the other.
func TestFarLoginCarriesSurvey(t *testing.T) {
	seed := filepath.Join(t.TempDir(), "mailseed")
	if out, err := exec.Command("go", "build", "-o", seed, "mailferry/bench/mailseed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	realSources(t, func(t *testing.T, s *source) {
		s.fill(t, s.conn(t))
		far := storeAt(t, s.store.Type, relayed(t, seed, s.addr, "6ms"), s.store.Login)
		tap, learned := &wiretap{}, &remote.Learned{}
		turns := []int64{2, 1, 1}
		if s.store.Type == backend.StoreCyrus {
			turns = []int64{2, 2}
		}
		var first *remote.Account
		for i, want := range turns {
			tap.reset()
			conn, err := remote.DialIMAP(context.Background(), remote.Target{Store: far, User: s.user, Dial: tap.dial, Learned: learned})
			if err != nil {
				t.Fatal(err)
			}
			c := remote.NewClient(conn)
			acct, err := c.Survey(context.Background())
			c.Close()
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = acct
			}
			if n := tap.turns.Load(); n != want || !reflect.DeepEqual(acct, first) {
				t.Errorf("login %d: %d turns, want %d: %+v, then %+v", i, n, want, first, acct)
			}
		}
	}, "dovecot", "cyrus")
}

// BenchmarkUnchanged asks for 24 users with nothing new, four at a time: the
// engine with our store behind it, and a login with a survey alone.
func BenchmarkUnchanged(b *testing.B) {
	d := mailtest.StartDovecot(b, mailtest.DovecotOptions{})
	seed := filepath.Join(b.TempDir(), "mailseed")
	if out, err := exec.Command("go", "build", "-o", seed, "mailferry/bench/mailseed").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	login := backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}
	var users []string
	for i := range 24 {
		users = append(users, fmt.Sprintf("same%02d", i))
		(&source{addr: d.IMAP, user: users[i], password: d.Password, sep: d.Separator, prefix: d.Prefix}).manyFolders(b, 10, 10)
	}
	for _, delay := range []string{"0", "20ms"} {
		store := storeAt(b, backend.StoreDovecot, relayed(b, seed, d.IMAP, delay), login)
		store.MaxConnections = 20
		b.Run("asked/"+delay, func(b *testing.B) {
			for b.Loop() {
				var g errgroup.Group
				g.SetLimit(4)
				for _, user := range users {
					g.Go(func() error {
						conn, err := remote.DialIMAP(context.Background(), remote.Target{Store: store, User: user})
						if err != nil {
							return err
						}
						c := remote.NewClient(conn)
						defer c.Logout()
						_, err = c.Survey(context.Background())
						return err
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(users)*b.N)/b.Elapsed().Seconds(), "users/s")
		})
		b.Run("engine/"+delay, func(b *testing.B) {
			e, err := New(Options{Dir: b.TempDir(), Importer: ownStore(b).Importer(), Placements: newFakePlacements(),
				Stores: map[string]*backend.Store{"old": store, "home": {Name: "home", Type: backend.StoreLocal}},
				Lookup: func(_ context.Context, user string) (backend.Entry, error) {
					return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
				}})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			pass := func() {
				id, err := e.Start(context.Background(), BatchSpec{Users: users, To: "home", CopyOnly: true, Parallel: 4})
				if err != nil {
					b.Fatal(err)
				}
				if st := wait(b, e, id); st.Failed() > 0 {
					b.Fatalf("%+v", st.Counts)
				}
			}
			pass()
			for b.Loop() {
				pass()
			}
			b.ReportMetric(float64(len(users)*b.N)/b.Elapsed().Seconds(), "users/s")
		})
	}
}
