package migrate

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// peer is a real store as both sides of a copy need it.
type peer struct {
	store *backend.Store
	judge mailtest.Server
}

func dovecotPeer(t testing.TB, name string, o mailtest.DovecotOptions) *peer {
	d := mailtest.StartDovecot(t, o)
	p := &peer{judge: mailtest.Server{Addr: d.IMAP, Password: d.Password},
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
	p.store.Name = name
	return p
}

func cyrusPeer(t testing.TB, name string, o mailtest.CyrusOptions, users ...string) *peer {
	o.Users = users
	c := mailtest.StartCyrus(t, o)
	p := &peer{judge: mailtest.Server{Addr: c.IMAP, Password: c.Password},
		store: storeAt(t, backend.StoreCyrus, c.IMAP, backend.Login{Mode: backend.LoginAuthzid, User: c.Admin, Secret: backend.Secret(c.AdminPassword)})}
	p.store.Name = name
	return p
}

// foreignEngine copies from one foreign store into another.
func foreignEngine(t testing.TB, dir string, from, to *backend.Store, change func(*Options)) *Engine {
	t.Helper()
	o := Options{Dir: dir, Placements: newFakePlacements(), Timing: Timing{BackOff: time.Millisecond, Settle: 200 * time.Millisecond},
		Stores: map[string]*backend.Store{from.Name: from, to.Name: to},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: from.Name}, nil
		}}
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// counts are what the judge found, as far as a foreign target can be right.
type counts struct {
	Messages struct {
		Expected, Intact, Missing, Duplicated, Extra int
		ChangedHeader                                int `json:"changed_header_only"`
		ChangedBody                                  int `json:"changed_body"`
	}
	Flags struct {
		System   int `json:"system_differ"`
		Keywords int `json:"keywords_differ"`
	}
	InternalDate struct{ Differ int } `json:"internaldate"`
	Folders      struct{ Missing, Extra int }
	Subscription struct{ Missing, Extra int } `json:"subscriptions"`
	SpecialUse   struct{ Missing int }        `json:"special_use"`
}

func judged(t testing.TB, v mailtest.Verdict) (c counts) {
	t.Helper()
	if err := json.Unmarshal(v.All, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c counts) exact() bool {
	m := c.Messages
	return m.Expected > 0 && m.Intact == m.Expected && m.Missing+m.Duplicated+m.Extra+m.ChangedHeader+m.ChangedBody == 0 &&
		c.Flags.System+c.Flags.Keywords+c.InternalDate.Differ == 0 &&
		c.Folders.Missing+c.Folders.Extra+c.Subscription.Missing+c.Subscription.Extra+c.SpecialUse.Missing == 0
}

func begin(t testing.TB, e *Engine, spec BatchSpec) BatchID {
	t.Helper()
	id, err := e.Start(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestForeignTarget copies ordinary, odd and torturing mailboxes from one real
// store into another, twice.
func TestForeignTarget(t *testing.T) {
	for _, k := range []struct {
		name     string
		from, to func(t *testing.T, name string) *peer
	}{
		{"dovecot-dovecot", func(t *testing.T, n string) *peer { return dovecotPeer(t, n, mailtest.DovecotOptions{Separator: "."}) },
			func(t *testing.T, n string) *peer { return dovecotPeer(t, n, mailtest.DovecotOptions{}) }},
		{"dovecot-cyrus", func(t *testing.T, n string) *peer { return dovecotPeer(t, n, mailtest.DovecotOptions{}) },
			func(t *testing.T, n string) *peer {
				return cyrusPeer(t, n, mailtest.CyrusOptions{Extra: "munge8bit: no"}, "std", "odd", "tor")
			}},
		{"cyrus-dovecot", func(t *testing.T, n string) *peer {
			return cyrusPeer(t, n, mailtest.CyrusOptions{}, "std", "odd", "tor")
		},
			func(t *testing.T, n string) *peer { return dovecotPeer(t, n, mailtest.DovecotOptions{}) }},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			j := mailtest.NewJudge(t)
			from, to := k.from(t, "from"), k.to(t, "to")
			loads := map[string]string{"std": "standard", "odd": "oddmail", "tor": "torture"}
			manifests, told := make(map[string]string), make(map[string]*Certificate)
			for user, profile := range loads {
				manifests[user] = j.Load(t, from.judge, user, "-profile", profile, "-messages", "100", "-big", "1", "-big-max", "3000")
			}
			e := foreignEngine(t, t.TempDir(), from.store, to.store, nil)
			for range 2 {
				spec := BatchSpec{Users: []string{"std", "odd", "tor"}, To: "to", Reread: 100}
				st := wait(t, e, begin(t, e, spec))
				for user := range loads {
					c := judged(t, j.Verify(t, manifests[user], to.judge, user))
					cert, err := e.Certificate(user)
					if err != nil || cert.Note == "" {
						t.Fatalf("%v: %+v, %+v", err, cert, st.Users)
					}
					if told[user] == nil { // what the first run sent is not told again
						told[user] = cert
					}
					if !c.explained(cert) && !c.explained(told[user]) {
						t.Errorf("%s: %+v\n%+v\n%+v", user, c, cert.Exception, st.Users)
					}
					t.Logf("%s: %+v, %d exceptions", user, c, len(cert.Exception))
				}
			}
		})
	}
}

// explained wants every difference to be one that the report names: a message
// or a name that the target refused, a date that it does not take.
func (c counts) explained(cert *Certificate) bool {
	refused, renamed, dates := 0, 0, 0
	for _, x := range cert.Exception {
		switch {
		case x.Skipped:
			refused++
		case strings.Contains(x.What, "the target refused the name"):
			renamed++
		case strings.Contains(x.What, "in the future"):
			dates++
		}
	}
	c.Messages.Missing -= refused
	c.Messages.Expected -= refused
	if renamed > 0 && c.Messages.Missing == c.Messages.Extra {
		c.Messages.Expected -= c.Messages.Missing
		c.Messages.Missing, c.Messages.Extra = 0, 0
	}
	for _, names := range []*struct{ Missing, Extra int }{&c.Folders, &c.Subscription} { // under the old name, and the new one
		if names.Missing == names.Extra && names.Missing <= renamed {
			*names = struct{ Missing, Extra int }{}
		}
	}
	c.InternalDate.Differ = max(0, c.InternalDate.Differ-dates)
	return c.exact()
}
