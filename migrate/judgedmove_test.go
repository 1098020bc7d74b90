package migrate

import (
	"context"
	"encoding/json"
	"net"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
	"mailferry/store"
	"mailferry/store/pop3d"
)

// ownPOP3 lets anybody in.
func ownPOP3(t *testing.T, own *store.Store) (addr string) {
	t.Helper()
	s, err := pop3d.New(pop3d.Options{Store: own, ClearLogin: true,
		Authenticate: func(_ context.Context, name string, _ backend.Secret) (string, error) { return name, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, s)
}

// serve runs a server of ours on a free port up to the test's end.
func serve(t *testing.T, s interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return l.Addr().String()
}

// TestJudgedMoves: behind a whole move, up to the flip, a judge that shares no code
// with us finds the same by IMAP and by POP3: all that TestJudgedCopies asks, and
// unique ids.
func TestJudgedMoves(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *popSource{
		"dovecot": func(t *testing.T) *popSource { return dovecotPOP3(t, "") },
		"mdbox":   func(t *testing.T) *popSource { return dovecotDrop(t, mailtest.DovecotOptions{Format: "mdbox"}) },
		"cyrus":   func(t *testing.T) *popSource { return cyrusPOP3(t, "") },
		"courier": func(t *testing.T) *popSource { return courierSource(t, "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, own, j := open(t), serveOwn(t), mailtest.NewJudge(t)
			manifest := j.Load(t, mailtest.Server{Addr: s.addr, POP3: s.pop3, Password: s.password}, s.user, "-messages", "80", "-big", "0")
			spec := BatchSpec{To: "home"}
			if s.store.Login.Mode == backend.LoginUser {
				spec.Each = map[string]UserOptions{s.user: {Password: backend.Secret(s.password)}}
			}
			st, _ := s.movePOP3(t, own.store, spec, nil)
			if st.State != Final {
				t.Fatalf("%+v", st)
			}
			v := j.Verify(t, manifest, mailtest.Server{Addr: serve(t, own.server), POP3: ownPOP3(t, own.store), Password: "x"}, s.user)
			var e exactness
			if err := json.Unmarshal(v.All, &e); err != nil {
				t.Fatal(err)
			}
			if s.store.Type == backend.StoreCourier {
				e.UIDNext.Higher = 0 // as in TestJudgedCopies
			}
			if !e.same() || e.UIDL.Same == 0 {
				t.Errorf("%+v\n%s", e, v.All)
			}
			t.Logf("%d messages, %d unique ids of POP3 the same", e.Messages.Intact, e.UIDL.Same)
		})
	}
}
