package imapd_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/store/imapd"
)

// TestExpungeRules: FETCH, STORE and SEARCH by number never bring EXPUNGE; what
// they do bring is in the numbers that the client knows.
func TestExpungeRules(t *testing.T) {
	w := newWorld(t)
	a := w.filled(4)
	a.ok("SELECT INBOX")
	b := w.login()
	b.ok("SELECT INBOX")
	b.ok(`STORE 2,4 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	b.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	b.append("INBOX", "", mail("m5"))

	a.is(`1 FETCH (UID 1)|3 FETCH (UID 3)|5 EXISTS|4 RECENT|1 FETCH (FLAGS (\Flagged \Recent))|OK [EXPUNGEISSUED]`, "FETCH 1:* (UID)")
}

func TestChangesOfOthers(t *testing.T) {
	w := newWorld(t)
	a := w.filled(4)
	a.ok("EXAMINE INBOX")
	b := w.login()
	b.ok("SELECT INBOX")
	b.ok(`STORE 2,4 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	b.ok(`STORE 1 +FLAGS.SILENT (Work)`)
	b.append("INBOX", "", mail("m5"))

	a.is(`3 FETCH (FLAGS (\Recent))|5 EXISTS|4 RECENT|FLAGS (\Answered \Flagged \Deleted \Seen \Draft Work)|OK [PERMANENTFLAGS ()] Read-only mailbox|1 FETCH (FLAGS (Work \Recent))|OK`,
		"FETCH 3 FLAGS")
	a.is(`SEARCH 1 3 5|OK`, "SEARCH ALL")
	a.is(`OK [EXPUNGEISSUED]`, "FETCH 2 FLAGS")
	a.is(`NO [NOPERM]`, `STORE 1 FLAGS ()`)
	a.is(`2 EXPUNGE|3 EXPUNGE|OK`, "NOOP")
}

// TestRecentOfRunningSessions: what arrives is \Recent in the first session
// that hears of it, read-only ones see it as well, later ones do not.
func TestRecentOfRunningSessions(t *testing.T) {
	w := newWorld(t)
	a, b, look := w.login(), w.login(), w.login()
	a.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	look.ok("EXAMINE INBOX")
	d := w.login()
	d.append("INBOX", "", mail("m1"))
	look.is("1 EXISTS|1 RECENT|OK", "NOOP")
	a.is("1 EXISTS|1 RECENT|OK", "NOOP")
	b.is("1 EXISTS|0 RECENT|OK", "NOOP")
	a.is(`1 FETCH (FLAGS (\Recent))|OK`, "FETCH 1 FLAGS")
	b.is(`1 FETCH (FLAGS ())|OK`, "FETCH 1 FLAGS")
	d.is("STATUS INBOX (RECENT 0)|OK", "STATUS INBOX (RECENT)")
	d.append("INBOX", "", mail("m2"))
	d.is("STATUS INBOX (RECENT 1)|OK", "STATUS INBOX (RECENT)")
	b.is("2 EXISTS|1 RECENT|OK", "NOOP")
	a.is("2 EXISTS|1 RECENT|OK", "NOOP")
	a.is("SEARCH 1|OK", "SEARCH RECENT")
	for _, c := range []*conn{a, b, look} {
		c.ok("UNSELECT")
	}
	d.is("STATUS INBOX (RECENT 0)|OK", "STATUS INBOX (RECENT)")
	if u := strings.Join(d.ok("SELECT INBOX"), "|"); !strings.Contains(u, "|0 RECENT|") {
		t.Errorf("a later SELECT: %s", u)
	}
	d.append("INBOX", "", mail("m3"))
	d.is(`3 FETCH (FLAGS (\Recent))|OK`, "FETCH 3 FLAGS")
}

func TestOwnChangesAreToldOnce(t *testing.T) {
	w := newWorld(t)
	a := w.filled(2)
	a.ok("SELECT INBOX")
	b := w.login()
	b.ok("SELECT INBOX")
	a.is(`OK`, `STORE 1 +FLAGS.SILENT (\Seen)`)
	a.is(`OK`, "NOOP")
	a.is(`2 FETCH (FLAGS (\Seen \Recent))|OK`, `STORE 2 +FLAGS (\Seen)`)
	a.is(`OK`, "NOOP")
	b.is(`1 FETCH (FLAGS (\Seen))|2 FETCH (FLAGS (\Seen))|OK`, "NOOP")
	b.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	// What b did is told before what a does silently.
	a.is(`1 FETCH (FLAGS (\Seen \Flagged \Recent))|OK`, `STORE 1 +FLAGS.SILENT (\Answered)`)
	a.is(`OK`, "NOOP")
}

func TestIdleHearsAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.filled(2)
	a.ok("SELECT INBOX")
	a.send("i IDLE")
	a.expect(`^\+ idling`)
	b := w.login()
	began := time.Now()
	b.append("INBOX", "", mail("new"))
	a.expect(`^\* 3 EXISTS`)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("IDLE heard of the message after %v", d)
	}
	a.expect(`^\* 2 RECENT|^\* 3 RECENT`)
	b.ok("SELECT INBOX")
	b.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	a.expect(`^\* 1 FETCH \(FLAGS \(\\Deleted \\Recent\)\)`)
	b.ok("EXPUNGE")
	a.expect(`^\* 1 EXPUNGE`)
	a.send("DONE")
	a.expect(`^i OK`)
	a.is("OK", "NOOP")
	a.send("j IDLE")
	a.expect(`^\+ idling`)
	a.send("NOT DONE")
	a.expect(`^j BAD`)
}

func TestIdleKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login()
		c.send("i IDLE")
		c.expect(`^\+ idling`)
		c.nc.SetReadDeadline(time.Time{})
		began := time.Now()
		for range 20 {
			l, err := c.r.ReadString('\n')
			if err != nil || !strings.HasPrefix(l, "* OK Still here") {
				t.Fatalf("%q, %v", l, err)
			}
		}
		if d := time.Since(began); d != 40*time.Minute {
			t.Errorf("twenty signs of life in %v", d)
		}
		c.send("DONE")
		c.expect(`^i OK`)
		c.nc.SetReadDeadline(time.Time{})
		began = time.Now()
		l, _ := c.r.ReadString('\n')
		if d := time.Since(began); !strings.HasPrefix(l, "* BYE Idle") || d != 30*time.Minute {
			t.Errorf("%q after %v", l, d)
		}
		c.nc.Close()
		synctest.Wait()
	})
}

func TestShutdownSaysBye(t *testing.T) {
	w := newWorld(t)
	idle, quiet, fresh := w.login(), w.login(), w.dial(imapd.ConnInfo{})
	idle.send("i IDLE")
	idle.expect(`^\+ idling`)
	quiet.ok("SELECT INBOX")
	if err := w.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*conn{idle, quiet, fresh} {
		if l := c.closed(); len(l) != 1 || !strings.HasPrefix(l[0], "* BYE [UNAVAILABLE]") {
			t.Errorf("got %q", l)
		}
	}
}

func TestDeletedMailbox(t *testing.T) {
	w := newWorld(t)
	a := w.login()
	a.ok("CREATE box")
	a.append("box", "", mail("x"))
	a.ok("SELECT box")
	b := w.login()
	b.ok("DELETE box")
	a.is(`1 EXPUNGE|OK`, "NOOP")
	a.is(`OK`, "UID FETCH 1:* FLAGS")
	a.is(`NO [TRYCREATE]`, "APPEND box {3+}\r\nabc")
	a.ok("CLOSE")
}

// TestCopyFromDeletedMailbox: nothing is to be created for it.
func TestCopyFromDeletedMailbox(t *testing.T) {
	w := newWorld(t)
	a, b := w.login(), w.login()
	a.ok("CREATE x")
	a.append("x", "", mail("m1"))
	a.ok("SELECT x")
	b.ok("DELETE x")
	a.is("1 EXPUNGE|NO [NONEXISTENT]", "COPY 1 Sent")
	b.append("INBOX", "", mail("m1"))
	b.ok("SELECT INBOX")
	b.is("NO [TRYCREATE]", "COPY 1 nowhere")
}

// TestFlagsOfAppend are those that STORE takes.
func TestFlagsOfAppend(t *testing.T) {
	c := newWorld(t).login()
	c.is("BAD", `APPEND INBOX (\Nonsense) {1+}`+"\r\nx")
	c.append("INBOX", `\RECENT \Flagged $Work`, mail("m1"))
	c.ok("EXAMINE INBOX")
	c.is(`1 FETCH (FLAGS (\Flagged $Work \Recent))|OK`, "FETCH 1 FLAGS")
}

func TestCopyAndMove(t *testing.T) {
	w := newWorld(t)
	a := w.filled(3)
	a.ok("SELECT INBOX")
	a.is("NO [TRYCREATE]", "COPY 1 nowhere")
	a.is("OK [COPYUID ", "COPY 1:2 Archive")
	u, tagged := a.cmd("MOVE 2 Archive")
	if len(u) != 2 || !strings.HasPrefix(u[0], "OK [COPYUID ") || u[1] != "2 EXPUNGE" || !strings.HasPrefix(tagged, "OK") {
		t.Errorf("MOVE: %q %q", u, tagged)
	}
	a.is(`SEARCH 1 3|OK`, "UID SEARCH ALL")
	a.is(`STATUS Archive (MESSAGES 3 UIDNEXT 4 UNSEEN 3)|OK`, "STATUS Archive (MESSAGES UIDNEXT UNSEEN)")
}

func TestCondstore(t *testing.T) {
	w := newWorld(t)
	a := w.filled(3)
	a.ok("ENABLE CONDSTORE")
	a.ok("SELECT INBOX")
	b := w.login()
	b.ok("SELECT INBOX")
	b.ok(`STORE 2 +FLAGS.SILENT (\Seen)`)
	m := a.ok("NOOP")
	if len(m) != 1 || !strings.HasPrefix(m[0], `2 FETCH (FLAGS (\Seen \Recent) MODSEQ (`) {
		t.Fatalf("NOOP: %q", m)
	}
	var modseq uint64
	fmt.Sscanf(m[0][strings.Index(m[0], "MODSEQ (")+8:], "%d", &modseq)
	a.is(fmt.Sprintf("1 FETCH (FLAGS (\\Flagged \\Recent) MODSEQ (%d))|3 FETCH (FLAGS (\\Flagged \\Recent) MODSEQ (%d))|OK [MODIFIED 2]", modseq+1, modseq+1),
		`STORE 1:3 (UNCHANGEDSINCE %d) +FLAGS (\Flagged)`, modseq-1)
	a.is(fmt.Sprintf("SEARCH 1 3 (MODSEQ %d)|OK", modseq+1), "SEARCH MODSEQ %d", modseq+1)
	a.is(fmt.Sprintf("2 FETCH (UID 2 MODSEQ (%d))|OK", modseq), "UID FETCH 2 (MODSEQ) (CHANGEDSINCE %d)", modseq-1)
}

// TestCondstoreInPassing: the first command that needs modseqs is told where the
// selected mailbox is, others are not.
func TestCondstoreInPassing(t *testing.T) {
	for _, cmd := range []string{"FETCH 1 MODSEQ", "STORE 1 (UNCHANGEDSINCE 1) FLAGS ()", "SEARCH MODSEQ 1", "ENABLE CONDSTORE", "STATUS Sent (HIGHESTMODSEQ)"} {
		c := newWorld(t).filled(1)
		c.ok("SELECT INBOX")
		if u := strings.Join(c.ok("%s", cmd), "|"); !strings.Contains(u, "OK [HIGHESTMODSEQ 2]") {
			t.Errorf("%s: %s", cmd, u)
		}
		if u := strings.Join(c.ok("%s", cmd), "|"); strings.Contains(u, "OK [HIGHESTMODSEQ") {
			t.Errorf("second %s: %s", cmd, u)
		}
	}
}

// TestModSeqOfExtremes: MIN and MAX by themselves tell their own message's.
func TestModSeqOfExtremes(t *testing.T) {
	c := newWorld(t).filled(3) // modseqs 2 to 4
	c.ok("SELECT INBOX (CONDSTORE)")
	c.ok(`STORE 2 +FLAGS.SILENT (\Seen)`) // 5
	for options, want := range map[string]string{"MIN": "MIN 1 MODSEQ 2", "MAX": "MAX 3 MODSEQ 4", "MIN MAX": "MIN 1 MAX 3 MODSEQ 4",
		"MIN COUNT": "MIN 1 COUNT 3 MODSEQ 5", "ALL": "ALL 1:3 MODSEQ 5", "COUNT": "COUNT 3 MODSEQ 5"} {
		if u := c.ok("SEARCH RETURN (%s) MODSEQ 1", options); !strings.HasSuffix(u[0], ") "+want) {
			t.Errorf("%s: %q, want %s", options, u, want)
		}
	}
}

// TestSearchAddresses: comments and spaces within an address do not hide it.
func TestSearchAddresses(t *testing.T) {
	c := newWorld(t).login()
	c.append("INBOX", "", "From: <anna (comment)@ (comment) example.org>\r\nTo: b@example.org\r\n\r\nx\r\n")
	c.ok("SELECT INBOX")
	c.is("SEARCH 1|OK", "SEARCH FROM anna@example.org")
	c.is("SEARCH 1|OK", "SEARCH FROM comment")
	c.is("SEARCH|OK", "SEARCH TO anna@example.org")
	c.is("SEARCH|OK", "SEARCH HEADER From anna@example.org")
}

func TestQresync(t *testing.T) {
	w := newWorld(t)
	a := w.filled(4)
	u := a.ok("SELECT INBOX")
	validity := number(t, u, "UIDVALIDITY ")
	modseq := number(t, u, "HIGHESTMODSEQ ")
	a.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`)
	a.ok("EXPUNGE")
	a.ok(`STORE 3 +FLAGS.SILENT (\Seen)`)
	b := w.login()
	b.is("BAD", "SELECT INBOX (QRESYNC (%d %d))", validity, modseq)
	b.is("ENABLED QRESYNC|OK", "ENABLE QRESYNC X-NONE")
	got := strings.Join(b.ok("SELECT INBOX (QRESYNC (%d %d 1:4 (1,3 1,3)))", validity, modseq), "|")
	if !strings.Contains(got, "VANISHED (EARLIER) 2|3 FETCH (UID 4 FLAGS (\\Seen) MODSEQ (") {
		t.Errorf("SELECT: %s", got)
	}
	a.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	a.ok("EXPUNGE")
	b.is("VANISHED 1|OK", "NOOP")
	if got := strings.Join(b.ok("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d VANISHED)", modseq), "|"); !strings.HasPrefix(got, "VANISHED (EARLIER) 1:2|2 FETCH (UID 4 FLAGS") {
		t.Errorf("UID FETCH: %s", got)
	}
}

// number finds the number behind a word in responses.
func number(t testing.TB, lines []string, word string) (n uint64) {
	t.Helper()
	all := strings.Join(lines, "|")
	i := strings.Index(all, word)
	if i < 0 {
		t.Fatalf("no %q in %s", word, all)
	}
	fmt.Sscanf(all[i+len(word):], "%d", &n)
	return n
}
