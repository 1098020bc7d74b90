package migrate

import (
	"context"
	"slices"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// TestPOP3AskedEarly: a store that is far away is asked for its maildrop while
// mail is copied. What it said counts only as long as it is true; users whom it
// does not let in are asked for once.
func TestPOP3AskedEarly(t *testing.T) {
	for _, k := range []struct {
		name     string
		extra    string
		password string // another than the right one
		change   func(c *mailtest.IMAPConn)
		sessions int // behind the early one
		left     bool
	}{
		{name: "as it was"},
		{name: "new mail", sessions: 1, change: func(c *mailtest.IMAPConn) {
			c.Append("INBOX", "", time.Time{}, []byte("Subject: new\r\n\r\nmail\r\n"))
		}},
		{name: "less mail", sessions: 1, change: func(c *mailtest.IMAPConn) {
			c.Cmd("SELECT INBOX")
			c.Cmd(`UID STORE 5 +FLAGS.SILENT (\Deleted)`)
			c.Cmd("EXPUNGE")
			c.Cmd("UNSELECT")
		}},
		{name: "ids that follow no pattern", extra: "pop3_uidl_format = %g", sessions: 1},
		{name: "not let in", password: "wrong", left: true},
	} {
		t.Run(k.name, func(t *testing.T) {
			s, own, ctx := dovecotPOP3(t, k.extra), ownStore(t), t.Context()
			c := s.fillPOP3(t)
			a := newAccount(s.user, s.dial, own.Importer())
			defer a.close()
			a.lines.far = 0 // everything is
			early, later := 0, 0
			dial := func(n *int) func(context.Context) (*remote.POP3Client, error) {
				return func(ctx context.Context) (*remote.POP3Client, error) {
					*n++
					st := *s.store
					target := remote.Target{Store: &st, User: s.user, Raw: true}
					if k.password != "" {
						st.Login, target.Password = backend.Login{Mode: backend.LoginUser}, backend.Secret(k.password)
					}
					conn, err := remote.DialPOP3(ctx, target)
					if err != nil {
						return nil, err
					}
					return remote.NewPOP3Client(conn), nil
				}
			}
			a.pop3 = &maildrop{dial: dial(&later), dialEarly: func() (func(context.Context) (*remote.POP3Client, error), func(), bool) {
				return dial(&early), func() {}, true
			}}
			synced(t, a)
			<-a.early.told
			if k.change != nil {
				k.change(c)
				synced(t, a)
			}
			if err := a.identities(ctx); err != nil {
				t.Fatal(err)
			}
			a.endEarly() // the counters are its own until then
			if early != 1 || later != k.sessions {
				t.Errorf("%d sessions early and %d later, want 1 and %d", early, later, k.sessions)
			}
			if k.left {
				if a.pop3.cert.Left == "" {
					t.Errorf("%+v", a.pop3.cert)
				}
				return
			}
			var ours []string
			for e, err := range a.imp.(backend.MaildropReader).Maildrop(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				ours = append(ours, e.UIDL)
			}
			if old := s.ask(t); !slices.Equal(old, ours) {
				t.Errorf("old store %q\nnew store %q", old, ours)
			}
			if err := a.comparePOP3(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
