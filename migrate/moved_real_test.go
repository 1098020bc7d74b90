package migrate

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

// bodyCounter counts the bodies that a store gives, by the responses that have
// one; it stands in the dial of an account.
type bodyCounter struct {
	net.Conn
	n    *atomic.Int64
	tail []byte
}

const bodyMark = "BODY[] {"

func (c *bodyCounter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	text := append(c.tail, p[:n]...)
	c.n.Add(int64(strings.Count(string(text), bodyMark)))
	c.tail = append([]byte(nil), text[max(0, len(text)-len(bodyMark)+1):]...)
	return n, err
}

// following is a user whose mailboxes are followed into our own store.
type following struct {
	t      *testing.T
	old    *peer
	user   string
	ids    string // file
	own    *served
	bodies atomic.Int64
	a      *account
	c      *mailtest.IMAPConn // the owner's
}

// follow begins with a user of n messages of INBOX, and a tree of two mailboxes.
func follow(t *testing.T, old *peer, prefix, sep string, n int) *following {
	f := &following{t: t, old: old, user: "anna", own: serveOwn(t), ids: filepath.Join(t.TempDir(), "ids")}
	f.c = mailtest.DialIMAP(t, old.judge.Addr)
	f.c.Login(f.user, old.judge.Password)
	for _, name := range []string{"Archive", "Tree", "Tree/Branch", "Other"} {
		f.c.Cmd("CREATE %s", mailtest.Quote(prefix+strings.ReplaceAll(name, "/", sep)))
	}
	for i := range n {
		f.append("INBOX", i)
		switch i % 10 {
		case 0:
			f.append(prefix+"Tree", n+i)
		case 1:
			f.append(prefix+"Tree"+sep+"Branch", n+i)
		case 2:
			f.append(prefix+"Other", n+i)
		}
	}
	f.open()
	synced(t, f.a)
	return f
}

func (f *following) append(box string, i int) {
	flags := []string{"", `\Seen`, `\Flagged $Label1`, `\Answered \Seen work`}[i%4]
	body := fmt.Sprintf("From: a@example.org\r\nSubject: message %d\r\n\r\n%s\r\n", i, strings.Repeat(fmt.Sprintf("line %d\r\n", i), 1+i%50))
	f.c.Append(box, flags, time.Date(2001+i%20, 3, 1+i%28, i%24, i%60, i*7%60, 0, time.FixedZone("", (i%5-2)*3600)), []byte(body))
}

// open begins a new process, as it were.
func (f *following) open() {
	if f.a != nil {
		f.a.close()
	}
	f.a = newAccount(f.user, func(ctx context.Context) (*remote.Client, error) {
		return dialIMAP(ctx, remote.Target{Store: f.old.store, User: f.user, Password: backend.Secret(f.old.judge.Password),
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &bodyCounter{Conn: conn, n: &f.bodies}, nil
			}})
	}, f.own.store.Importer())
	f.a.ids = newContentIDs(f.ids)
	f.t.Cleanup(f.a.close)
}

// pass follows what changed, of which it may fetch so many bodies.
func (f *following) pass(what string, most int64) *pass {
	f.t.Helper()
	before := f.bodies.Load()
	p := synced(f.t, f.a)
	if n := f.bodies.Load() - before; n > most {
		f.t.Errorf("%s: %d bodies were fetched, want at most %d", what, n, most)
	}
	if err := f.a.sumAhead(f.t.Context()); err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
	if err := f.a.compare(f.t.Context(), false); err != nil {
		f.t.Errorf("%s: %v", what, err)
	}
	return p
}

// judged opens the user here, and asks the judge.
func (f *following) judged() {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	go func() { _ = f.own.server.Serve(l) }()
	j := mailtest.NewJudge(f.t)
	judgeActivated(f.t, j, f.a, j.Snapshot(f.t, f.old.judge, f.user), mailtest.Server{Addr: l.Addr().String(), Password: "x"}, f.old)
	if faults, err := f.own.store.Check(f.t.Context(), store.CheckOptions{}); err != nil || len(faults) > 0 {
		f.t.Errorf("faults of the store: %v, %v", faults, err)
	}
}

// movers runs test against the stores that name contents or mailboxes.
func movers(t *testing.T, test func(t *testing.T, f func(n int) *following, prefix, sep string)) {
	for _, format := range []string{"maildir", "sdbox", "mdbox"} {
		t.Run(format, func(t *testing.T) {
			old := dovecotPeer(t, "old", mailtest.DovecotOptions{Format: format})
			test(t, func(n int) *following { return follow(t, old, "", "/", n) }, "", "/")
		})
	}
	t.Run("cyrus", func(t *testing.T) {
		old := cyrusPeer(t, "old", mailtest.CyrusOptions{}, "anna")
		test(t, func(n int) *following { return follow(t, old, "INBOX.", ".", n) }, "INBOX.", ".")
	})
}

// TestMovedMailIsNotFetchedAgain: what an owner moves, copies and renames while
// the mailbox is followed comes over without its bodies, and is the same, says
// the judge.
func TestMovedMailIsNotFetchedAgain(t *testing.T) {
	const n = 500
	movers(t, func(t *testing.T, begin func(n int) *following, prefix, sep string) {
		f := begin(n)
		// Of ids that are no digests some are confirmed by fetching.
		sample := int64(3 + n/100)
		if prefix != "" {
			sample = 0
		}
		q := func(name string) string { return mailtest.Quote(prefix + strings.ReplaceAll(name, "/", sep)) }

		f.c.Cmd("SELECT INBOX")
		f.c.Cmd("UID MOVE 1:%d %s", n-100, q("Archive"))
		if p := f.pass("move", sample); p.Filed != n-100 || p.Copied != 0 {
			t.Errorf("move: %+v", p)
		}
		f.c.Cmd("UID COPY %d:* %s", n-49, q("Other"))
		f.c.Cmd(`UID STORE %d:* +FLAGS.SILENT (\Deleted)`, n-49)
		f.c.Cmd("EXPUNGE")
		f.append("INBOX", 3*n)
		if p := f.pass("copy and expunge", sample+1); p.Filed != 50 || p.Copied != 1 {
			t.Errorf("copy and expunge: %+v", p)
		}

		f.c.Cmd("UNSELECT")
		f.c.Cmd("RENAME %s %s", q("Tree"), q("Wood"))
		f.append(prefix+"Wood"+sep+"Branch", 3*n+2) // in the same step
		if p := f.pass("rename of a tree", 1); p.Renamed != 2 || p.Copied != 1 {
			t.Errorf("rename of a tree: %+v", p)
		}
		f.c.Cmd("RENAME %s %s", q("Archive"), q("Archive-2024"))
		f.c.Cmd("CREATE %s", q("Archive"))
		f.append(prefix+"Archive", 3*n+1)
		f.open() // and a restart in between
		if p := f.pass("a new one under the old name", 1); p.Renamed != 1 || p.Copied != 1 {
			t.Errorf("a new one under the old name: %+v", p)
		}
		f.c.Cmd("RENAME %s %s", q("Archive-2024"), q("tmp"))
		f.c.Cmd("RENAME %s %s", q("Other"), q("Archive-2024"))
		f.c.Cmd("RENAME %s %s", q("tmp"), q("Other"))
		if p := f.pass("a swap", 0); p.Renamed != 2 || p.Copied+p.Filed+p.Vanished != 0 {
			t.Errorf("a swap: %+v", p)
		}
		// What was moved before the renames is known still.
		f.c.Cmd("SELECT %s", q("Other"))
		f.c.Cmd("UID MOVE 1:20 %s", q("Wood"))
		if p := f.pass("move out of a renamed one", sample); p.Filed != 20 || p.Copied != 0 {
			t.Errorf("move out of a renamed one: %+v", p)
		}
		renamed := 3
		if strings.HasSuffix(t.Name(), "dbox") { // Maildir refuses it, Cyrus's imapd 3.6 ends without a word
			f.c.Cmd("UNSELECT")
			f.c.Cmd("RENAME INBOX %s", q("Inbox of old")) // INBOX stays, and is empty (RFC 9051 6.3.6)
			f.append("INBOX", 3*n+3)
			if p := f.pass("rename of INBOX", 1); p.Copied != 1 || p.Renamed != 1 {
				t.Errorf("rename of INBOX: %+v", p)
			}
			renamed++
		}
		cert := f.a.certify("compared")
		if trusted := cert.Trusted > 0; trusted != (sample > 0) {
			t.Errorf("certificate: %d trusted", cert.Trusted)
		}
		if cert.Grade != "perfect" || cert.Filed != 20 || cert.Renamed != renamed {
			t.Errorf("certificate: %s, %d filed, %d renamed", cert.Grade, cert.Filed, cert.Renamed)
		}
		f.judged()
	})
}
