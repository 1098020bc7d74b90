package migrate

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestGroupsCostFewTurns copies many small folders, by far fewer waits for the
// store than there are folders, exactly; and again without a body.
func TestGroupsCostFewTurns(t *testing.T) {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
	s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser,
			Secret: backend.Secret(d.MasterPassword)})}
	const folders = 80
	boxes, c := s.manyFolders(t, folders, 3), &wiretap{}
	fs := newFakeStore()
	for _, what := range []string{"copy", "another process"} {
		a := newAccount(s.user, s.tapped(c), fs)
		c.reset()
		p, err := a.sync(context.Background())
		if err != nil || p.err() != nil {
			t.Fatal(what, err, p)
		}
		if n := c.turns.Load(); n > folders/3 {
			t.Errorf("%s: %d turns for %d folders", what, n, folders)
		}
		t.Logf("%s: %d turns, %d commands", what, c.turns.Load(), c.commands.Load())
		s.equal(t, fs, boxes)
		if err := a.compare(context.Background(), false); err != nil {
			t.Error(what, err)
		}
		a.close()
	}
	if want := 3 * folders; fs.puts != want {
		t.Errorf("%d messages put, want %d", fs.puts, want)
	}
}

// TestGroupsAreLargerFarAway: where round trips are long the same folders cost
// fewer of them, and arrive as exactly.
func TestGroupsAreLargerFarAway(t *testing.T) {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
	s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser,
			Secret: backend.Secret(d.MasterPassword)})}
	boxes, c := s.manyFolders(t, 3*groupBoxes+4, 2), &wiretap{}
	var turns []int64
	for _, far := range []time.Duration{defaultLines.far, 0} {
		fs := newFakeStore()
		a := newAccount(s.user, s.tapped(c), fs)
		a.lines.far = far
		c.reset()
		p, err := a.sync(context.Background())
		if err != nil || p.err() != nil {
			t.Fatal(far, err, p)
		}
		turns = append(turns, c.turns.Load())
		s.equal(t, fs, boxes)
		if err := a.compare(context.Background(), false); err != nil {
			t.Error(far, err)
		}
		a.close()
	}
	// Four groups of two turns each against one, give or take two turns.
	if t.Logf("%d turns near, %d far away", turns[0], turns[1]); turns[1] > turns[0]-4 {
		t.Errorf("%d turns near, %d far away", turns[0], turns[1])
	}
}

// manyFolders fills INBOX and more folders with n messages each.
func (s *source) manyFolders(t testing.TB, folders, n int) (boxes [][]string) {
	return s.foldersOf(t, folders, func(int) int { return n })
}

// unlikeFolders are mailboxes with 1, 2, 3 and so on messages: Cyrus gives those
// that are made in one second one UIDVALIDITY, and the same modseqs.
func (s *source) unlikeFolders(t testing.TB, folders int) (boxes [][]string) {
	return s.foldersOf(t, folders, func(i int) int { return i + 1 })
}

func (s *source) foldersOf(t testing.TB, folders int, messages func(i int) int) (boxes [][]string) {
	c := s.conn(t)
	for i := range folders {
		box := []string{fmt.Sprintf("Ordner %02d", i)}
		if i == 0 {
			box[0] = "INBOX"
		} else {
			c.Cmd("CREATE %s", mailtest.Quote(s.box(box...)))
		}
		boxes = append(boxes, box)
		for k := range messages(i) {
			c.Append(s.box(box...), `\Seen`, time.Unix(int64(1e9+i), 0), fmt.Appendf(nil, "Subject: %d in %d\r\n\r\nx\r\n", k, i))
		}
	}
	return boxes
}

// TestTrapServesTheMailboxBefore: a store that refuses to open a mailbox and
// goes on answering from the one before must not have its mail filed there.
func TestTrapServesTheMailboxBefore(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 3), filled("Other", 3), filled("Third", 2)}})
	h.boxes[1].msgs[0].body, h.boxes[1].msgs[2].body = "Subject: other\r\n\r\none\r\n", "Subject: other\r\n\r\nthree\r\n"
	opened, lying := 0, false
	h.bend = func(_ int, line string, answer []string) []string {
		switch {
		case strings.HasPrefix(line, `EXAMINE "Other"`):
			if opened++; opened == 2 {
				lying = true
				return []string{"NO [INUSE] not now"}
			}
		case strings.HasPrefix(line, "EXAMINE"):
			lying = false
		case lying && strings.Contains(line, "BODY"):
			return append(h.boxes[0].fetch(strings.TrimPrefix(line, "UID ")), "OK done")
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	for _, b := range h.boxes {
		for _, m := range b.msgs {
			if got := fs.box(t, "anna", b.name).msgs; string(got[imap.UID(m.uid)].data) != m.body {
				t.Errorf("%s: UID %d is %q, want %q", b.name, m.uid, got[imap.UID(m.uid)].data, m.body)
			}
		}
	}
	if err := a.compare(context.Background(), false); err != nil {
		t.Error(err)
	}
}

// BenchmarkDistance copies through a line with 20 ms each way: one mailbox of
// 20,000 small messages, and 100 folders of 10.
func BenchmarkDistance(b *testing.B) {
	d := mailtest.StartDovecot(b, mailtest.DovecotOptions{})
	seed := filepath.Join(b.TempDir(), "mailseed")
	if out, err := exec.Command("go", "build", "-o", seed, "mailferry/bench/mailseed").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	at := func(user string) *source {
		return &source{addr: d.IMAP, user: user, password: d.Password, sep: d.Separator, prefix: d.Prefix}
	}
	at("folders").manyFolders(b, 100, 10)
	c := at("big").conn(b)
	for i := range 625 {
		c.Append("INBOX", `\Seen`, time.Unix(int64(1e9+i), 0), fmt.Appendf(nil, "Subject: %d\r\n\r\n%s\r\n", i, strings.Repeat("words and ", 200)))
	}
	c.Cmd("SELECT INBOX")
	for range 5 {
		c.Cmd("UID COPY 1:* INBOX")
		c.Cmd("NOOP")
	}
	for _, delay := range []string{"0", "20ms"} {
		b.Run("drain/"+delay, func(b *testing.B) {
			s := at("big")
			s.store = storeAt(b, backend.StoreDovecot, relayed(b, seed, d.IMAP, delay), backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})
			for b.Loop() {
				drain(b, s)
			}
			b.ReportMetric(20000*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
	for _, user := range []string{"big", "folders"} {
		for _, delay := range []string{"0", "20ms"} {
			b.Run(user+"/"+delay, func(b *testing.B) {
				s := at(user)
				s.addr = relayed(b, seed, d.IMAP, delay)
				s.store = storeAt(b, backend.StoreDovecot, s.addr, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})
				n := 0
				for b.Loop() {
					a := newAccount(user, s.dial, nowhere{})
					p, err := a.sync(context.Background())
					if err != nil || p.err() != nil {
						b.Fatal(err, p)
					}
					n += p.Copied
					a.close()
				}
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

// BenchmarkFarUsers copies 24 small mailboxes, four at a time when the store is
// near, and as many as the engine makes of that when it is 40 ms away.
func BenchmarkFarUsers(b *testing.B) {
	d := mailtest.StartDovecot(b, mailtest.DovecotOptions{})
	seed := filepath.Join(b.TempDir(), "mailseed")
	if out, err := exec.Command("go", "build", "-o", seed, "mailferry/bench/mailseed").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	login := backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}
	var users []string
	for i := range 24 {
		user := fmt.Sprintf("far%02d", i)
		users = append(users, user)
		(&source{addr: d.IMAP, user: user, password: d.Password, sep: d.Separator, prefix: d.Prefix}).manyFolders(b, 10, 40)
	}
	for _, delay := range []string{"0", "20ms"} {
		b.Run(delay, func(b *testing.B) {
			store := storeAt(b, backend.StoreDovecot, relayed(b, seed, d.IMAP, delay), login)
			store.MaxConnections = 20
			for b.Loop() {
				e, err := New(Options{Dir: b.TempDir(), Importer: ownStore(b).Importer(), Placements: newFakePlacements(),
					Stores: map[string]*backend.Store{"old": store, "home": {Name: "home", Type: backend.StoreLocal}},
					Lookup: func(_ context.Context, user string) (backend.Entry, error) {
						return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
					}})
				if err != nil {
					b.Fatal(err)
				}
				id, err := e.Start(context.Background(), BatchSpec{Users: users, To: "home", CopyOnly: true, Reread: -1})
				if err != nil {
					b.Fatal(err)
				}
				if st := wait(b, e, id); st.Failed() > 0 {
					b.Fatalf("%+v", st.Counts)
				}
				e.Close()
			}
			b.ReportMetric(float64(24*10*40*b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// relayed starts mailseed's relay.
func relayed(b testing.TB, seed, target, delay string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(seed, "relay", "-listen", addr, "-target", target, "-delay", delay)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n') // ready
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return addr
}
