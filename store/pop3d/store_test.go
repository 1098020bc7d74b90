package pop3d_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/imapd"
	"mailferry/store/pop3d"
)

func clusterNode(t testing.TB, fs vfs.FS, dir string) *cluster.Node {
	t.Helper()
	n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: dir, FS: fs, Shards: 1, Machine: store.NewMachine(),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n
}

// TestDeletesSurviveCrash lets the power fail in each moment of a session: what
// QUIT's "+OK" has told stays gone, what no QUIT has confirmed stays.
func TestDeletesSurviveCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	w := newWorldOver(t, clusterNode(t, fs, "data"))
	rnd := rand.New(rand.NewPCG(1, 2))
	left := func(when string, want int) {
		t.Helper()
		for _, unsynced := range []int{0, 50, 100} {
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rnd})
			after := newWorldOver(t, clusterNode(t, clone, "data"))
			if d, err := after.account().Maildrop(t.Context()); err != nil || len(d.Messages) != want {
				t.Errorf("%s, crash with %d%% of unsynced data: %v messages, want %d (%v)", when, unsynced, d, want, err)
			}
		}
	}
	for i := range 6 {
		w.file(mail(fmt.Sprint(i)))
	}
	for n := 6; n > 2; n -= 2 {
		c := w.login()
		c.is("+OK", "DELE 1")
		c.is("+OK", "DELE %d", n)
		left("after DELE", n)
		c.is("+OK", "QUIT")
		left("after QUIT", n-2)
	}
}

// TestUpdateFails: when the removal cannot be made durable, QUIT says so.
func TestUpdateFails(t *testing.T) {
	node := clusterNode(t, vfs.NewMem(), "data")
	w := newWorldOver(t, node)
	w.file(mail("x"))
	c := w.login()
	c.is("+OK", "DELE 1")
	node.Close(context.Background())
	c.is("-ERR [SYS/TEMP] Some deleted messages were not removed", "QUIT")
	c.gone()
}

// TestIMAPBeside has an IMAP session expunge and append while a POP3 session
// has the maildrop.
func TestIMAPBeside(t *testing.T) {
	w := newWorld(t)
	w.file(mail("1"), mail("2"), mail("3"), mail("4"))
	server, err := imapd.New(imapd.Options{Store: w.store, Authenticate: func(context.Context, string, backend.Secret) (string, error) {
		return "anna", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := line.Pipe()
	defer server.Shutdown(t.Context())
	defer a.Close()
	go server.ServeConn(context.Background(), b, imapd.ConnInfo{Trusted: true})
	im := &conn{t: t, nc: a, r: bufio.NewReader(a)}
	im.expect("* OK")
	cmd := func(text string) {
		t.Helper()
		im.raw("x " + text + "\r\n")
		for l := im.line(); !strings.HasPrefix(l, "x OK"); l = im.line() {
			if strings.HasPrefix(l, "x ") {
				im.fail("%s: %q", text, l)
			}
		}
	}
	cmd("LOGIN anna secret")
	cmd("SELECT INBOX")
	c := w.login()
	c.is("+OK", "DELE 4")
	cmd(`STORE 2,4 +FLAGS.SILENT (\Deleted)`)
	cmd("EXPUNGE")
	cmd("APPEND INBOX {3+}\r\nnew")
	c.is("+OK 3 180", "STAT") // as at the login
	if got := c.multi("LIST"); got != "1 60|2 60|3 60" {
		t.Errorf("LIST: %s", got)
	}
	c.is("-ERR no such message", "RETR 2")
	c.is("-ERR no such message", "TOP 2 0")
	c.is("+OK", "DELE 2")
	c.is("+OK 60 octets", "RETR 3")
	c.many()
	c.is("+OK", "DELE 1")
	c.is("+OK", "QUIT")
	im.raw("y NOOP\r\n")
	im.expect("* 1 EXPUNGE")
	for l := im.line(); !strings.HasPrefix(l, "y OK"); l = im.line() {
	}
	c = w.login()
	c.is("+OK 2 63", "STAT")
}

// TestConcurrentSessions has POP3 sessions fetch and delete while deliveries and
// expunges go on. No message is seen twice after a QUIT that deleted it.
func TestConcurrentSessions(t *testing.T) {
	w := newWorld(t)
	ctx, a := t.Context(), w.account()
	const total = 120
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range total {
			w.file(mail(fmt.Sprint(i)))
		}
	})
	mb, err := a.Mailbox(ctx, backend.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { // another client expunges some
		for uid := imap.UID(5); uid <= total; uid += 10 {
			if err := a.Remove(ctx, mb.ID, []imap.UID{uid}); err != nil {
				t.Error(err)
			}
		}
	})
	seen := map[string]bool{}
	for range 12 {
		c := w.login()
		list := strings.Split(c.multi("UIDL"), "|")
		for _, l := range list {
			n, id, ok := strings.Cut(l, " ")
			if !ok {
				continue
			}
			if seen[id] {
				t.Errorf("message %s is back", id)
			}
			seen[id] = true
			c.raw("RETR " + n + "\r\n")
			if strings.HasPrefix(c.line(), "+OK") {
				c.many()
			}
			c.is("+OK", "DELE %s", n)
		}
		c.is("+OK", "QUIT")
	}
	wg.Wait()
}

// TestLargeMessage streams 100 MB with flat memory.
func TestLargeMessage(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MB")
	}
	w := newWorldOver(t, clusterNode(t, vfs.Default, t.TempDir()))
	text := "." + strings.Repeat("0123456789 abcdefg", 4) + "\r\n"
	rounds := 100_000_000 / len(text)
	b, err := w.account().NewBody(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(b, "Subject: large\r\n\r\n")
	for range rounds {
		if _, err := io.WriteString(b, text); err != nil {
			t.Fatal(err)
		}
	}
	body, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.account().Append(t.Context(), store.Append{Mailbox: backend.Inbox, Body: body}); err != nil {
		t.Fatal(err)
	}
	c := w.login()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	c.is(fmt.Sprintf("+OK %d octets", body.Size()), "RETR 1")
	c.nc.SetReadDeadline(time.Now().Add(3 * patience))
	got, lines := int64(0), 0
	for {
		l, err := c.r.ReadSlice('\n')
		if err != nil {
			t.Fatal(err)
		}
		if string(l) == ".\r\n" {
			break
		}
		if l[0] == '.' {
			l = l[1:] // stuffed
		}
		got += int64(len(l))
		if lines++; lines%200_000 == 0 {
			most = max(most, heap())
		}
	}
	if got != body.Size() {
		t.Errorf("%d octets came, want %d", got, body.Size())
	}
	if most > before+24<<20 {
		t.Errorf("heap grew from %d to %d", before, most)
	}
	t.Logf("heap before %d, at most %d", before, most)
	if top := c.multi("TOP 1 2"); top != "Subject: large||."+strings.TrimSuffix(text, "\r\n")+"|."+strings.TrimSuffix(text, "\r\n") {
		t.Errorf("TOP: %q", top)
	}
}

// FuzzSession throws octets at a session before and after the login. It must end
// by itself when the client hangs up, and answer nothing but lines of POP3.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"CAPA\r\nUSER anna\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL 1\r\nRETR 1\r\nTOP 1 1\r\nDELE 1\r\nRSET\r\nNOOP\r\nQUIT\r\n",
		"AUTH PLAIN\r\nAGFubmEAc2VjcmV0\r\nRETR 2\r\nDELE 2\r\nQUIT\r\n",
		"AUTH PLAIN YW5uYQBwcm94eQB0b2tlbg==\r\nSTLS\r\nAUTH\r\nLIST 99999999999999999999\r\n",
		"USER \x00\r\nPASS \xff\r\nTOP 1 -1\n\n\nDELE 18446744073709551617\r\n",
	} {
		f.Add(false, s)
		f.Add(true, s)
	}
	f.Fuzz(func(t *testing.T, login bool, input string) {
		w := newWorld(t, func(o *pop3d.Options) { o.Limits.BadCommands = 1000 })
		w.file(mail("x"), "a\n.\nb")
		a, b := line.Pipe()
		defer a.Close()
		done := make(chan struct{})
		go func() {
			w.server.ServeConn(context.Background(), b, pop3d.ConnInfo{Trusted: true})
			close(done)
		}()
		out := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(a)
			out <- b
		}()
		if login {
			input = "USER anna\r\nPASS secret\r\n" + input
		}
		a.SetWriteDeadline(time.Now().Add(patience))
		io.WriteString(a, input)
		a.CloseWrite()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the session does not end")
		}
		if all := string(<-out); strings.Contains(strings.ReplaceAll(all, "\r\n", ""), "\n") || !strings.HasSuffix(all, "\r\n") {
			t.Errorf("not lines: %q", all)
		}
	})
}
