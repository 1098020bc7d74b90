package migrate

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"testing"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// exactness is what the judge says of a copy that keeps identities.
type exactness struct {
	counts
	UID         struct{ Same, Differ int }
	UIDValidity struct{ Same, Differ int }
	UIDNext     struct{ Same, Higher, Lower int }
	ModSeq      struct{ Lower int }                 `json:"highestmodseq"`
	UIDL        struct{ Same, Differ, Missing int } `json:"pop3_uidl"` // none where the judge has no POP3
}

func (e *exactness) same() bool {
	return e.counts.exact() && e.UID.Differ+e.UIDValidity.Differ+e.UIDNext.Higher+e.UIDNext.Lower+e.ModSeq.Lower+
		e.UIDL.Differ+e.UIDL.Missing == 0
}

// TestJudgedCopies: ordinary, odd and torturing mailboxes of every kind of old
// store, and those that changed or were interrupted on the way, are the same
// in our store, says a judge that shares no code with us.
func TestJudgedCopies(t *testing.T) {
	dovecot := func(format string) func(t *testing.T) *peer {
		return func(t *testing.T) *peer { return dovecotPeer(t, "old", mailtest.DovecotOptions{Format: format}) }
	}
	all := []string{"std", "odd", "tor", "delta", "live", "crash"}
	for _, k := range []struct {
		name  string
		old   func(t *testing.T) *peer
		users []string
	}{
		{"maildir", dovecot("maildir"), all}, {"sdbox", dovecot("sdbox"), all[1:3]}, {"mdbox", dovecot("mdbox"), all[1:3]},
		{"cyrus", func(t *testing.T) *peer { return cyrusPeer(t, "old", mailtest.CyrusOptions{}, all...) }, all},
		// It has no MOVE, with which the judge changes mailboxes.
		{"courier", courierPeer, []string{"std", "odd", "tor", "live", "crash"}},
	} {
		t.Run(k.name, func(t *testing.T) { judgeCopies(t, k.old(t), k.users) })
	}
}

// courierPeer is a store that lets users in with their own passwords only.
func courierPeer(t *testing.T) *peer {
	c := mailtest.StartCourier(t, mailtest.CourierOptions{})
	return &peer{judge: mailtest.Server{Addr: c.IMAP, Password: c.Password},
		store: storeAt(t, backend.StoreCourier, c.IMAP, backend.Login{Mode: backend.LoginUser})}
}

func judgeCopies(t *testing.T, old *peer, users []string) {
	own := serveOwn(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = own.server.Serve(l) }()
	here := mailtest.Server{Addr: l.Addr().String(), Password: "x"}
	j := mailtest.NewJudge(t)
	open := func(user string) *account {
		return newAccount(user, func(ctx context.Context) (*remote.Client, error) {
			return dialIMAP(ctx, remote.Target{Store: old.store, User: user, Password: backend.Secret(old.judge.Password)})
		}, own.store.Importer())
	}
	pass := func(t *testing.T, a *account) {
		t.Helper()
		synced(t, a)
	}
	for _, c := range []struct {
		user, profile, messages string
		change                  func(t *testing.T) // between two passes of two processes
	}{
		{"std", "standard", "60", nil},
		{"odd", "oddmail", "60", nil},
		{"tor", "torture", "60", nil},
		{"delta", "standard", "260", func(t *testing.T) { j.Mutate(t, old.judge, "delta") }},
		{"live", "standard", "60", func(t *testing.T) { j.Inject(t, old.judge, "live", "late", 5) }},
	} {
		if !slices.Contains(users, c.user) {
			continue
		}
		t.Run(c.user, func(t *testing.T) {
			manifest := j.Load(t, old.judge, c.user, "-profile", c.profile, "-messages", c.messages, "-big", "0")
			a := open(c.user)
			pass(t, a)
			if c.change != nil {
				a.close()
				c.change(t)
				manifest = j.Snapshot(t, old.judge, c.user)
				a = open(c.user)
				pass(t, a)
			}
			defer a.close()
			judgeActivated(t, j, a, manifest, here, old)
		})
	}
	if !slices.Contains(users, "crash") {
		return
	}
	t.Run("crash", func(t *testing.T) {
		manifest := j.Load(t, old.judge, "crash", "-messages", "150", "-big", "0")
		rnd := mailtest.Rand(t)
		for range 5 { // the line breaks at a random octet, and the process with it
			relay := mailtest.NewRelay(t, net.JoinHostPort(old.store.Address, strconv.Itoa(old.store.Ports[backend.IMAP])))
			store := storeAt(t, old.store.Type, relay.Addr, old.store.Login)
			relay.CutAfter(mailtest.ToClient, 2000+rnd.Int64N(400_000))
			a := newAccount("crash", func(ctx context.Context) (*remote.Client, error) {
				return dialIMAP(ctx, remote.Target{Store: store, User: "crash", Password: backend.Secret(old.judge.Password)})
			}, own.store.Importer())
			_, _ = a.sync(t.Context()) // it may have been through before
			a.close()
			relay.CutAll()
		}
		a := open("crash")
		defer a.close()
		pass(t, a)
		judgeActivated(t, j, a, manifest, here, old)
	})
}

// judgeActivated compares both sides in our way, opens the user and asks the judge.
func judgeActivated(t *testing.T, j *mailtest.Judge, a *account, manifest string, here mailtest.Server, old *peer) {
	t.Helper()
	ctx := t.Context()
	if err := a.sumAhead(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.compare(ctx, false); err != nil {
		t.Fatal(err)
	}
	if err := a.imp.Activate(ctx, 1); err != nil {
		t.Fatal(err)
	}
	v := j.Verify(t, manifest, here, a.user)
	var e exactness
	if err := json.Unmarshal(v.All, &e); err != nil {
		t.Fatal(err)
	}
	if old.store.Type == backend.StoreCourier {
		e.UIDNext.Higher = 0 // its SELECT tells none, where the judge reads it; compare asked STATUS
	}
	if !e.same() {
		t.Errorf("%s: %+v\n%s\n%s", a.user, e, exceptionsOf(a), v.All)
	}
}
