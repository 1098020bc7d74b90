package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/store"
	"mailferry/store/storetest"
)

// TestCrash: what was acknowledged is there after the power fails.
func TestCrash(t *testing.T) {
	seed := modelSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 2))
	fs := vfs.NewCrashableMem()
	s := newStore(t, clusterEngine(t, fs))
	w := newWalker(t, newUser(t, s, "walker"), seed)
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		for range 20 + rnd.IntN(100) {
			w.step()
		}
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
		node := clusterEngine(t, after)
		restarted := newStore(t, node)
		seen := *w
		seen.fixture = account(t, restarted, "walker")
		seen.compare()
		storetest.Check(t, restarted)
	}
}

// TestConcurrentUse has deliveries, appends, flag changes, expunges and
// readers at work on one mailbox. Every acknowledged message is there once.
func TestConcurrentUse(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "a")
		newUser(t, s, "b")
		id := f.mailbox(backend.Inbox).ID
		const workers, rounds = 4, 40
		var wg sync.WaitGroup
		for n := range workers {
			wg.Go(func() {
				for i := range rounds {
					text := fmt.Sprint("delivery ", n, " ", i)
					for _, err := range s.Deliver(f.ctx, delivery(t, s, text, "a", "b")) {
						if err != nil {
							t.Error(err)
						}
					}
				}
			})
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(n), 3))
				for range rounds {
					set := imap.UIDSet{{Start: imap.UID(1 + rnd.IntN(100)), Stop: imap.UID(100 + rnd.IntN(100))}}
					if _, _, err := f.StoreFlags(f.ctx, id, set, store.FlagOp(rnd.IntN(3)), []imap.Flag{modelFlags[rnd.IntN(2)+5]}, 0); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range rounds {
					if err := readAll(f, id); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for _, name := range []string{"a", "b"} {
			if mb := account(t, s, name).mailbox(backend.Inbox); mb.Messages != workers*rounds || int(mb.UIDNext) != workers*rounds+1 {
				t.Errorf("%s has %d messages, UIDNEXT %d", name, mb.Messages, mb.UIDNext)
			}
		}
	})
}

// readAll reads a mailbox and checks that the snapshot agrees with itself.
func readAll(f fixture, id uint64) error {
	snap, err := f.Snapshot(f.ctx, id)
	if err != nil {
		return err
	}
	defer snap.Close()
	n := uint32(0)
	for m, err := range snap.Messages(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}) {
		if err != nil {
			return err
		}
		if m.UID >= snap.Mailbox().UIDNext || m.ModSeq > snap.Mailbox().HighestModSeq {
			return fmt.Errorf("message %d at %d in %+v", m.UID, m.ModSeq, snap.Mailbox())
		}
		n++
	}
	if n != snap.Mailbox().Messages {
		return fmt.Errorf("%d messages of %d", n, snap.Mailbox().Messages)
	}
	return nil
}

// recorder keeps the commands that a shard was given.
type recorder struct {
	mu       sync.Mutex
	commands [][]byte
}

func (r *recorder) fault(_ engine.ShardID, cmd []byte) (before, after error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, append([]byte(nil), cmd...))
	return nil, nil
}

// everyCommand makes the store use each of its commands once.
func everyCommand(t testing.TB, s *store.Store) {
	f := newUser(t, s, "u")
	f.append(backend.Inbox, "one", imap.FlagDeleted, "Key")
	id := f.mailbox(backend.Inbox).ID
	all := imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	_, _, err := f.StoreFlags(f.ctx, id, all, store.FlagsAdd, []imap.Flag{"Other"}, 9)
	must(err)
	_, err = f.Create(f.ctx, path("a", "b"), []imap.MailboxAttr{imap.MailboxAttrSent})
	must(err)
	_, err = f.Copy(f.ctx, id, all, path("a", "b"))
	must(err)
	must(f.Rename(f.ctx, path("a"), path("c")))
	must(f.Subscribe(f.ctx, path("c"), true))
	_, _, err = f.ClaimRecent(f.ctx, id)
	must(err)
	_, _, err = f.Expunge(f.ctx, id, nil)
	must(err)
	must(f.Delete(f.ctx, path("c", "b")))
	for _, err := range s.Deliver(f.ctx, delivery(t, s, "hello", "u")) {
		must(err)
	}
	imp, err := s.Importer().Import(f.ctx, "v", backend.ImportOptions{})
	must(err)
	m, err := imp.Open(f.ctx, backend.ImportMailbox{Name: backend.Inbox, UIDValidity: 7})
	must(err)
	w, err := m.NewBody(f.ctx)
	must(err)
	b, err := w.Finish()
	must(err)
	must(m.Put(f.ctx, []backend.ImportMessage{{UID: 5, ModSeq: 6, Flags: []imap.Flag{"x"}, Body: b}}))
	must(m.SetFlags(f.ctx, []backend.ImportFlags{{UID: 5, ModSeq: 8}}))
	must(m.Vanish(f.ctx, all, 9))
	must(m.Seal(f.ctx, 6, 10, 0))
	must(imp.Subscriptions(f.ctx, []backend.MailboxName{"x"}))
	must(imp.Activate(f.ctx, 2))
	must(imp.Reopen(f.ctx, 2))
	must(imp.Remove(f.ctx, backend.Inbox))
	must(s.DeleteUser(f.ctx, "v"))
}

// FuzzApply: no command stops a replica, however it is mangled.
func FuzzApply(f *testing.F) {
	rec := &recorder{}
	e, err := storetest.NewEngine(store.NewMachine(), 1)
	if err != nil {
		f.Fatal(err)
	}
	defer e.Close()
	e.Fault = rec.fault
	s, err := store.New(store.Options{Engine: e, Now: newClock().Now})
	if err != nil {
		f.Fatal(err)
	}
	everyCommand(f, s)
	s.Close()
	kinds := make(map[byte]bool)
	for _, cmd := range rec.commands {
		kinds[cmd[0]] = true
		f.Add(cmd, uint8(1))
	}
	if len(kinds) < 25 {
		f.Fatalf("only %d kinds of commands were seen", len(kinds))
	}
	f.Fuzz(func(t *testing.T, cmd []byte, bodies uint8) { applyAny(t, rec.commands, cmd, bodies%3) })
}

// applyAny applies a command to both shards of an engine that has some state.
func applyAny(t *testing.T, history [][]byte, cmd []byte, bodies uint8) {
	e, err := storetest.NewEngine(store.NewMachine(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := context.Background()
	for id, commands := range map[engine.ShardID][][]byte{engine.Meta: {history[0], cmd}, 1: {history[1], cmd, cmd}} {
		sh, err := e.Shard(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if len(c) > engine.MaxCommand {
				continue
			}
			var staged []engine.StagedBody
			for range bodies {
				w, _ := sh.NewBody(ctx)
				b, _ := w.Finish()
				staged = append(staged, b)
			}
			if _, err := sh.Propose(ctx, c, staged...); err != nil {
				t.Fatal(err)
			}
		}
	}
}
