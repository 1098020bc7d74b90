package imapd_test

import (
	"bufio"
	"crypto/tls"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
	"mailferry/store/imapd"
)

func TestSelectAndFetch(t *testing.T) {
	w := newWorld(t)
	c := w.filled(3)
	u := strings.Join(c.ok("SELECT INBOX"), "|")
	for _, want := range []string{`FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`, "3 EXISTS", "3 RECENT", "OK [UNSEEN 1]", "OK [UIDVALIDITY ", "OK [UIDNEXT 4]", "OK [HIGHESTMODSEQ "} {
		if !strings.Contains(u, want) {
			t.Errorf("SELECT does not tell %q: %s", want, u)
		}
	}
	c.is(`1 FETCH (UID 1 FLAGS (\Recent) RFC822.SIZE 145)|OK`, "FETCH 1 (UID FLAGS RFC822.SIZE)")
	c.is(`2 FETCH (UID 2 BODY[HEADER.FIELDS (Subject)] {15}`+"\r\nSubject: m2\r\n\r\n"+` FLAGS (\Seen \Recent))|OK`, "UID FETCH 2 BODY[HEADER.FIELDS (Subject)]")
	c.is(`3 FETCH (BODY[TEXT]<2> {3}`+"\r\nllo)|OK", "FETCH 3 BODY.PEEK[TEXT]<2.3>")
	c.is(`3 FETCH (ENVELOPE ("Mon, 2 Mar 2026 10:00:00 +0100" "m3" (("Anna" NIL "anna" "example.org"))`, "FETCH * ENVELOPE")
	c.is(`3 FETCH (BODY ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 10 1))|OK`, "FETCH * BODY")
	c.is(`BAD`, "FETCH 4 FLAGS")
	c.is(`OK`, "UID FETCH 4 FLAGS")
	c.is(`3 FETCH (UID 3 FLAGS (\Recent))|OK`, "UID FETCH 9:* FLAGS")
}

func TestSynchronisingLiteral(t *testing.T) {
	c := newWorld(t).login()
	c.send("a APPEND INBOX {%d}", len(mail("x")))
	c.expect(`^\+ `)
	c.raw(mail("x") + "\r\n")
	c.expect(`^a OK \[APPENDUID \d+ 1\]`)
	c.send("b APPEND nowhere {10}")
	c.expect(`^b NO \[TRYCREATE\]`) // without asking for the octets
	c.send("c SELECT {5}")
	c.expect(`^\+ `)
	c.raw("INBOX\r\n")
	for !strings.HasPrefix(c.line(), "c OK [READ-WRITE]") {
	}
}

func TestStoreAndExpunge(t *testing.T) {
	c := newWorld(t).filled(4)
	c.ok("SELECT INBOX")
	c.is(`2 FETCH (FLAGS (\Deleted \Recent))|3 FETCH (FLAGS (\Deleted \Recent))|OK`, `STORE 2:3 +FLAGS (\Deleted)`)
	c.is(`OK`, `STORE 1 +FLAGS.SILENT (\Flagged)`)
	c.is(`FLAGS (`, `STORE 1 FLAGS (\Seen $Forwarded)`)
	c.is(`1 FETCH (FLAGS (\Seen $Forwarded \Recent))|OK`, "FETCH 1 FLAGS")
	c.is(`BAD`, `STORE 1 +FLAGS (\Nonsense)`)
	c.is(`2 EXPUNGE|2 EXPUNGE|OK`, "EXPUNGE")
	c.is(`SEARCH 1 2|OK`, "SEARCH ALL")
	c.is(`SEARCH 1 4|OK`, "UID SEARCH ALL")
	c.is(`2 FETCH (UID 4 FLAGS (\Deleted \Recent))|OK`, `UID STORE 4 +FLAGS \Deleted`)
	c.is(`OK`, "UID EXPUNGE 1")
	c.is(`2 EXPUNGE|OK`, "UID EXPUNGE 4")
}

func TestStates(t *testing.T) {
	w := newWorld(t)
	c := w.dial(imapd.ConnInfo{Trusted: true})
	c.is("BAD", "SELECT INBOX")
	c.is("NO [AUTHENTICATIONFAILED]", "LOGIN anna wrong")
	c.is("NO [AUTHENTICATIONFAILED]", `LOGIN nobody "secret"`)
	c.is("OK [CAPABILITY IMAP4rev1", "LOGIN anna secret")
	c.is("BAD", "LOGIN anna secret")
	c.is("BAD", "FETCH 1 FLAGS")
	c.is("BAD", "NONSENSE")
	c.is("NO [NONEXISTENT]", "SELECT nowhere")
	c.is("ID (", "ID NIL")
	c.is("BYE Logging out|OK", "LOGOUT")
	c.closed()
}

func TestLoginNeedsTLS(t *testing.T) {
	w := newWorld(t)
	c := w.dial(imapd.ConnInfo{})
	if u := c.ok("CAPABILITY"); !strings.Contains(u[0], "LOGINDISABLED") || strings.Contains(u[0], "AUTH=PLAIN") {
		t.Errorf("capabilities in clear: %q", u)
	}
	c.is("NO [PRIVACYREQUIRED]", "LOGIN anna secret")
	c.is("NO [PRIVACYREQUIRED]", "AUTHENTICATE PLAIN")
}

func TestAuthenticate(t *testing.T) {
	w := newWorld(t)
	c := w.dial(imapd.ConnInfo{TLS: true})
	c.send("a AUTHENTICATE PLAIN")
	c.expect(`^\+ $`)
	c.send("*")
	c.expect(`^a BAD`)
	c.send("b AUTHENTICATE LOGIN")
	c.expect(`^\+ VXNlcm5hbWU6$`)
	c.send("YW5uYQ==")
	c.expect(`^\+ UGFzc3dvcmQ6$`)
	c.send("c2VjcmV0")
	c.expect(`^b OK \[CAPABILITY`)
	c.is("BAD", "RESUME NIL")

	c = w.dial(imapd.ConnInfo{TLS: true})
	c.is("NO [AUTHENTICATIONFAILED]", "AUTHENTICATE PLAIN YW5uYQBwcm94eQB3cm9uZw==") // anna, proxy, wrong
	c.is("OK [CAPABILITY", "AUTHENTICATE PLAIN YW5uYQBwcm94eQB0b2tlbg==")            // anna, proxy, token
	c.is("OK [RESUMED]", "RESUME NIL")
}

func TestTooManyFailures(t *testing.T) {
	w := newWorld(t)
	c := w.dial(imapd.ConnInfo{Trusted: true})
	for range 5 {
		c.send("x LOGIN anna wrong")
	}
	if l := c.closed(); !strings.HasPrefix(l[len(l)-2], "* BYE") {
		t.Errorf("after five failed logins: %q", l)
	}
	c = w.dial(imapd.ConnInfo{Trusted: true})
	for range 5 {
		c.send("GET / HTTP/1.1")
	}
	if l := c.closed(); !strings.HasPrefix(l[len(l)-1], "* BYE") {
		t.Errorf("after five bad commands: %q", l)
	}
}

func TestStartTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	w := newWorld(t, func(o *imapd.Options) { o.TLSConfig = ca.ServerConfig(t) })
	c := w.dial(imapd.ConnInfo{})
	c.is("CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE STARTTLS LOGINDISABLED|OK", "CAPABILITY")
	c.is("OK", "STARTTLS")
	config := ca.Client()
	config.ServerName = "localhost"
	tc := tls.Client(c.nc, config)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
	c.is("CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE AUTH=PLAIN AUTH=LOGIN|OK", "CAPABILITY")
	c.is("OK [CAPABILITY", "LOGIN anna secret")
	c.append("INBOX", "", mail("x"))
	c.ok("SELECT INBOX")
	c.send("i IDLE")
	c.expect(`^\+`)
	d := w.login()
	d.append("INBOX", "", mail("y"))
	c.expect(`^\* 2 EXISTS`)

	e := w.dial(imapd.ConnInfo{})
	e.raw("a STARTTLS\r\nb LOGIN anna secret\r\n")
	if l := e.closed(); len(l) != 2 || !strings.HasPrefix(l[0], "* BYE") || !strings.HasPrefix(l[1], "a BAD") {
		t.Errorf("octets behind STARTTLS: %q", l)
	}
}
