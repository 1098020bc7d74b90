package imapd_test

import (
	"fmt"
	"strings"
	"testing"

	"mailferry/store/imapd"
)

// selected is what a proxy knows of a session: UIDVALIDITY and modseq.
func selected(t *testing.T, c *conn) (validity, modseq uint64) {
	t.Helper()
	u := c.ok("SELECT INBOX")
	return number(t, u, "UIDVALIDITY "), number(t, u, "HIGHESTMODSEQ ")
}

func TestResumeGoesOnWhereTheClientWas(t *testing.T) {
	w := newWorld(t)
	other := w.filled(5)
	validity, modseq := selected(t, other)
	other.ok(`STORE 2,4 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	other.append("INBOX", "", mail("m6"))

	c := w.login()
	c.is("OK [RESUMED]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:5)", validity, modseq)
	// The client's numbers hold until a command lets EXPUNGE pass.
	c.is(`5 FETCH (UID 5)|6 EXISTS|0 RECENT|1 FETCH (FLAGS (\Flagged))|OK`, "FETCH 5 (UID)")
	c.is(`SEARCH 1 3 5 6|OK`, "SEARCH ALL")
	c.is(`5 FETCH (FLAGS (\Seen))|OK`, `STORE 5 +FLAGS (\Seen)`)
	c.is(`2 EXPUNGE|3 EXPUNGE|OK`, "NOOP")
	c.is(`SEARCH 1 2 3 4|OK`, "SEARCH ALL")
	c.is("OK", "NOOP")
}

func TestResumeInIdle(t *testing.T) {
	w := newWorld(t)
	other := w.filled(3)
	validity, modseq := selected(t, other)
	other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	other.append("INBOX", "", mail("m4"))
	c := w.login()
	c.is("OK [RESUMED]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:3)", validity, modseq)
	c.send("i IDLE")
	c.expect(`^\+ `)
	c.expect(`^\* 1 EXPUNGE`)
	c.expect(`^\* 3 EXISTS`)
	c.send("DONE")
	for l := c.line(); !strings.HasPrefix(l, "i OK"); l = c.line() {
	}
}

func TestResumeWithFeatures(t *testing.T) {
	w := newWorld(t)
	other := w.filled(3)
	validity, modseq := selected(t, other)
	c := w.login()
	c.is("OK [RESUMED]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW {3+}\r\n1:3 READONLY ENABLED (CONDSTORE QRESYNC) SAVED 2:3)", validity, modseq)
	c.is("2 FETCH (UID 2)|3 FETCH (UID 3)|OK", "FETCH $ (UID)")
	c.is("NO [NOPERM]", `STORE 1 +FLAGS (\Seen)`)
	other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	c.is("VANISHED 1|OK", "NOOP")
	c.is("OK [RESUMED]", "RESUME NIL (ENABLED ())")
	c.is("BAD", "FETCH 1 FLAGS")
}

func TestResumeWithoutModseq(t *testing.T) {
	w := newWorld(t)
	other := w.filled(3)
	validity, _ := selected(t, other)
	other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	other.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`)
	other.ok("EXPUNGE")
	other.append("INBOX", "", mail("m4"))
	c := w.login()
	c.is("OK [RESUMED]", "RESUME INBOX (UIDVALIDITY %d MODSEQ 0 VIEW 1:3)", validity)
	c.is("2 EXPUNGE|3 EXISTS|0 RECENT|OK", "NOOP")
	other.ok(`STORE 1 -FLAGS.SILENT (\Flagged)`)
	c.is("1 FETCH (FLAGS ())|OK", "NOOP")
}

func TestResumeOfAnEmptyView(t *testing.T) {
	w := newWorld(t)
	other := w.login()
	validity, modseq := selected(t, other)
	c := w.login()
	c.is("OK [RESUMED]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d)", validity, modseq)
	c.is("OK", "NOOP")
	other.append("INBOX", "", mail("m1"))
	c.is("1 EXISTS|0 RECENT|OK", "NOOP")
	c.is("OK [RESUMED]", `RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW "")`, validity, modseq)
	c.is("1 EXISTS|0 RECENT|OK", "NOOP")
}

func TestResumeIsRefused(t *testing.T) {
	w := newWorld(t)
	other := w.filled(3)
	validity, modseq := selected(t, other)
	c := w.login()
	c.is("NO [CANNOT]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:3)", validity+1, modseq)
	c.is("NO [CANNOT]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:4)", validity, modseq)
	c.is("NO [CANNOT]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:3)", validity, modseq+100)
	c.is("NO [CANNOT]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW 1:3 ENABLED (UTF8=ACCEPT))", validity, modseq)
	c.is("NO [CANNOT]", "RESUME nowhere (UIDVALIDITY 1 MODSEQ 1)")
	c.is("BAD", "RESUME INBOX (UIDVALIDITY 1)")
	c.is("BAD", "RESUME INBOX (UIDVALIDITY 1 MODSEQ 1 VIEW 1:*)")
	c.is("BAD", "FETCH 1 FLAGS") // nothing is selected
	d := w.dial(imapd.ConnInfo{TLS: true})
	d.ok("LOGIN anna secret")
	d.is("BAD", "RESUME NIL")
}

func TestResumeOfALargeView(t *testing.T) {
	w := newWorld(t)
	other := w.login()
	validity, modseq := selected(t, other)
	var b strings.Builder // every second UID of 200,000: the largest form
	for i := 1; i < 200000; i += 2 {
		fmt.Fprintf(&b, "%d,", i)
	}
	set := strings.TrimSuffix(b.String(), ",")
	c := w.login()
	c.is("NO [CANNOT]", "RESUME INBOX (UIDVALIDITY %d MODSEQ %d VIEW {%d+}\r\n%s)", validity, modseq, len(set), set)
}
