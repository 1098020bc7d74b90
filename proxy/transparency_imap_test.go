package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// imapStep is what a client sends, and on which of its two connections. A tag
// is put before it unless it is raw. In text and in raw, {p} is the prefix of
// mailboxes, {s} the separator, {uv} the UIDVALIDITY told last, {u} the user.
type imapStep struct {
	text   string
	raw    string // octets as they are
	until  string // what ends the answer to raw: a pattern for a line
	second bool   // on the second connection
	// own is the proxy's own answer, as a pattern, where it differs on purpose:
	// the step is for the proxy only. docs/transparency.md gives the reason.
	own string
	// needs is the capability without which the step makes no sense: commands
	// that a store does not announce get the proxy's own BAD.
	needs string
}

const (
	plainMail = "From: Anna <anna@example.org>\r\nTo: bert@example.org, \"C, D\" <c@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" +
		"Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nMessage-ID: <1@example.org>\r\n\r\nHello\r\nA1 OK not a tagged line\r\n* 5 EXISTS\r\n"
	multiMail = "From: x@example.org\r\nSubject: parts\r\nMessage-ID: <2@example.org>\r\nIn-Reply-To: <1@example.org>\r\nReferences: <1@example.org>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner body\r\n--b\r\nContent-Type: application/octet-stream; name=x\r\n" +
		"Content-Disposition: attachment; filename=x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQFBgc=\r\n--b--\r\n"
)

func sized(s string) string    { return fmt.Sprintf("{%d}\r\n%s", len(s), s) }
func nonSync(s string) string  { return fmt.Sprintf("{%d+}\r\n%s", len(s), s) }
func literal8(s string) string { return "~" + sized(s) }

// say makes steps of commands.
func say(commands ...string) (steps []imapStep) {
	for _, c := range commands {
		steps = append(steps, imapStep{text: c})
	}
	return steps
}

// with makes steps that need a capability.
func with(capability string, commands ...string) (steps []imapStep) {
	for _, c := range commands {
		steps = append(steps, imapStep{text: c, needs: capability})
	}
	return steps
}

// imapTransparent is the table of commands. Behind refused commands stands one
// that is not, because stores disconnect after several in a row.
var imapTransparent = slices.Concat(
	say("NOOP", "noop", "NAMESPACE", `LIST "" ""`, `LIST "" *`, `LIST "" "%"`, `LSUB "" "*"`,
		`CREATE {p}A`, `CREATE {p}A`, `CREATE {p}A{s}B`, `CREATE "{p}Entw&APw-rfe x"`, "CREATE {3}\r\nx y", "NOOP",
		"SUBSCRIBE {p}A", `SUBSCRIBE "{p}Entw&APw-rfe x"`, "SUBSCRIBE {p}gone", `LSUB "" *`, `LSUB "" "%"`, "UNSUBSCRIBE {p}A", "UNSUBSCRIBE {p}gone",
		`LIST "" *`, `LIST "{p}" "A%"`, `LIST {p}A *`, "LIST \"\" {1}\r\n*", "RENAME {p}A {p}C", "RENAME {p}gone {p}D", "DELETE {p}gone", "DELETE INBOX", "NOOP",
		`CREATE ""`, `CREATE "{p}bad&name"`, "NOOP", `CREATE "{p}a*b"`, `LIST`, `LIST ""`, "NOOP", "STATUS {p}gone (MESSAGES)", "STATUS INBOX (FOO)", "STATUS INBOX", "NOOP"),
	// Mail.
	say(`APPEND INBOX "07-Feb-1994 21:52:25 -0800" `+sized(plainMail),
		`APPEND INBOX (\Seen \Flagged $Work) " 5-Apr-2003 06:07:08 +0200" `+sized(multiMail),
		`APPEND "INBOX" () "07-Feb-2004 21:52:25 -0800" `+sized("Subject: three\r\n\r\n"+strings.Repeat("long line ", 500)+"\r\n"),
		`APPEND {p}gone "07-Feb-1994 21:52:25 -0800" `+sized(plainMail), "NOOP",
		`APPEND INBOX "99-Foo-1994 21:52:25 -0800" `+sized("x\r\n"), `NOOP`,
		"APPEND {5}\r\nINBOX (\\Draft) \"01-Mar-2005 00:00:00 +0000\" "+sized("Subject: four\r\n\r\nbody\r\n")),
	with("LITERAL+", `APPEND INBOX "07-Feb-1996 21:52:25 -0800" `+nonSync(plainMail), `APPEND {p}gone "07-Feb-1996 21:52:25 -0800" `+nonSync(plainMail), "NOOP"),
	with("MULTIAPPEND", `APPEND INBOX "01-Mar-2006 00:00:00 +0000" `+sized("Subject: m1\r\n\r\n1\r\n")+` (\Seen) "02-Mar-2006 00:00:00 +0000" `+sized("Subject: m2\r\n\r\n2\r\n")),
	with("BINARY", `APPEND INBOX "01-Mar-2007 00:00:00 +0000" `+literal8("Subject: bin\r\nContent-Transfer-Encoding: binary\r\n\r\nA\x01\x02\x03B\r\n")),
	say(`STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)`, "STATUS {p}C (UIDNEXT MESSAGES)", "FETCH 1 FLAGS", "NOOP", "CLOSE", "NOOP"),
	with("STATUS=SIZE", "STATUS INBOX (SIZE)"), with("CONDSTORE", "STATUS INBOX (HIGHESTMODSEQ)"),
	with("LIST-STATUS", `LIST "" "%" RETURN (STATUS (MESSAGES UNSEEN))`),
	with("LIST-EXTENDED", `LIST (SUBSCRIBED) "" "*"`, `LIST "" (INBOX "{p}C*") RETURN (CHILDREN SUBSCRIBED)`, `LIST (SUBSCRIBED RECURSIVEMATCH) "" "%"`, `LIST (FOO) "" *`, "NOOP"),
	with("SPECIAL-USE", `LIST (SPECIAL-USE) "" *`, `LIST "" * RETURN (SPECIAL-USE)`),
	with("CREATE-SPECIAL-USE", `CREATE {p}MyDrafts (USE (\Drafts))`, `CREATE {p}Bad (USE (\Foo))`, "NOOP"),
	with("ACL", "MYRIGHTS INBOX", "GETACL INBOX", "LISTRIGHTS INBOX other", "SETACL INBOX other lr", "GETACL INBOX", "DELETEACL INBOX other", "GETACL {p}gone", "NOOP"),
	with("QUOTA", "GETQUOTAROOT INBOX", `GETQUOTA ""`, `SETQUOTA "" (STORAGE 512)`, "NOOP"),
	with("METADATA", `GETMETADATA INBOX /private/comment`, `SETMETADATA INBOX (/private/comment "mine")`, `GETMETADATA INBOX (/private/comment)`, `SETMETADATA INBOX (/private/comment NIL)`, `SETMETADATA INBOX (/private/comment `+sized("two\r\nlines")+")", "GETMETADATA INBOX /private/comment", "SETMETADATA INBOX (/private/comment NIL)"),
	with("ID", "ID NIL"),
	// A selected mailbox.
	say("SELECT {p}gone", "EXAMINE INBOX", "STORE 1 +FLAGS (\\Deleted)", "EXPUNGE", "SELECT INBOX", "FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)", "FETCH 1:4 FAST", "FETCH 1 ALL", "FETCH 2 FULL",
		"FETCH 1:2 (ENVELOPE BODY BODYSTRUCTURE)", "FETCH 1 BODY[]", "FETCH 1 FLAGS", "FETCH 1:3 BODY.PEEK[HEADER]", "FETCH 2 BODY.PEEK[HEADER.FIELDS (Subject Message-ID)]",
		"FETCH 2 BODY.PEEK[HEADER.FIELDS.NOT (Subject)]", "FETCH 2 (BODY.PEEK[1] BODY.PEEK[2.MIME] BODY.PEEK[2.TEXT] BODY.PEEK[3]<2.4> BODY.PEEK[9])", "FETCH 1 BODY.PEEK[TEXT]<0.5>", "FETCH 1 BODY.PEEK[]<9999.5>",
		"FETCH 1 RFC822.HEADER", "FETCH 2 RFC822.TEXT", "FETCH 3 RFC822", "FETCH 99 FLAGS", "FETCH 1:99 UID", "UID FETCH 99 FLAGS", "UID FETCH 1:* FLAGS", "FETCH 1 FOO", "FETCH", "NOOP", "FETCH 1 (FLAGS", "FETCH 0 FLAGS", "NOOP",
		"FETCH 2 BODY.PEEK[HEADER.FIELDS ("+sized("Subject")+" "+sized("From")+")]",
		"SEARCH ALL", "SEARCH UNSEEN FROM anna", "SEARCH SUBJECT "+sized("parts"), "SEARCH CHARSET UTF-8 SUBJECT "+sized("Grüße"), "SEARCH CHARSET X-FOO ALL", "SEARCH OR SEEN (FLAGGED NOT DELETED) 1:3",
		"SEARCH BODY inner", "SEARCH HEADER Message-ID 2@ SINCE 1-Jan-2000", "UID SEARCH UID 2:*", "SEARCH KEYWORD $Work", "SEARCH LARGER 1000", "SEARCH FOO", "SEARCH", "NOOP", "SEARCH BEFORE 32-Jan-2000", "NOOP"),
	with("ESEARCH", "SEARCH RETURN (MIN MAX COUNT ALL) ALL", "UID SEARCH RETURN () SEEN", "SEARCH RETURN (COUNT) FROM nobody"),
	with("SEARCHRES", "SEARCH RETURN (SAVE) 1:2", "FETCH $ UID", "UID FETCH $ FLAGS"),
	with("SORT", "SORT (SUBJECT) UTF-8 ALL", "UID SORT (REVERSE DATE) US-ASCII 1:4", "SORT (ARRIVAL) UTF-8 FROM anna", "SORT (FOO) UTF-8 ALL", "NOOP"), with("ESORT", "SORT RETURN (COUNT ALL) (DATE) UTF-8 ALL"),
	with("THREAD=REFERENCES", "THREAD REFERENCES UTF-8 ALL", "UID THREAD REFERENCES US-ASCII 1:4"), with("THREAD=ORDEREDSUBJECT", "THREAD ORDEREDSUBJECT UTF-8 ALL"),
	with("BINARY", "FETCH 2 (BINARY.SIZE[3] BINARY.PEEK[3] BINARY.PEEK[1])", "FETCH 2 BINARY[3]<1.2>"), with("PREVIEW", "FETCH 1:2 PREVIEW"), with("SNIPPET=FUZZY", "FETCH 1 SNIPPET"), with("WITHIN", "SEARCH OLDER 10", "SEARCH YOUNGER 10"),
	say(`STORE 1 FLAGS (\Seen)`, `STORE 1:2 +FLAGS (\Answered kw)`, `STORE 2 -FLAGS.SILENT (kw)`, `UID STORE 3 +FLAGS.SILENT (\Draft)`, "FETCH 1:3 FLAGS", `STORE 99 +FLAGS (\Seen)`, `STORE 1 +FLAGS (\Foo)`, `STORE 1 FOO (x)`, "NOOP", "CHECK",
		"COPY 1:2 {p}C", "COPY 1 {p}gone", "UID COPY 3 {p}C", "UID COPY 999 {p}C", "COPY 99 {p}C", "NOOP", "STATUS {p}C (MESSAGES UIDNEXT)"),
	with("MOVE", "MOVE 3 {p}C", "UID MOVE 2 {p}C", "MOVE 1 {p}gone", "UID MOVE 999 {p}C"),
	with("CONDSTORE", "FETCH 1 MODSEQ", "FETCH 1:* (FLAGS) (CHANGEDSINCE 1)", `STORE 1 (UNCHANGEDSINCE 1) +FLAGS (\Flagged)`, `STORE 1 (UNCHANGEDSINCE 99999999) +FLAGS.SILENT (\Flagged)`, "SEARCH MODSEQ 2"),
	say(`STORE 1 +FLAGS (\Deleted)`), with("UIDPLUS", "UID EXPUNGE 1"), say("EXPUNGE", "FETCH 1:* UID", "CLOSE", "FETCH 1 FLAGS", "NOOP"), with("UNSELECT", "SELECT INBOX", "UNSELECT", "UNSELECT", "NOOP"),
	with("QRESYNC", "ENABLE QRESYNC CONDSTORE", "SELECT INBOX (QRESYNC ({uv} 1))", "UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)", "STATUS {p}C (UIDVALIDITY)", "SELECT {p}C (QRESYNC ({uv} 1 1:3))", "SELECT INBOX (QRESYNC (1 1))"),
	with("CONDSTORE", "ENABLE CONDSTORE X-NONE"),
	// Two sessions, IDLE, pipelines.
	say("SELECT INBOX"), []imapStep{
		{text: "SELECT INBOX", second: true},
		{raw: "i1 IDLE\r\n", until: `^\+ `, needs: "IDLE"},
		{text: `APPEND INBOX "01-Mar-2008 00:00:00 +0000" ` + sized("Subject: news\r\n\r\nx\r\n"), second: true},
		{raw: "", until: `^\* \d+ EXISTS`, needs: "IDLE"},
		{raw: "DONE\r\n", until: `^i1 `, needs: "IDLE"},
		{text: `STORE * +FLAGS (\Deleted)`, second: true}, {text: "EXPUNGE", second: true}, {text: "NOOP"}, {text: "LOGOUT", second: true},
		{raw: "p1 NOOP\r\np2 FETCH 1:* (UID)\r\np3 SEARCH ALL\r\np4 STATUS {p}C (MESSAGES)\r\np5 CLOSE\r\np6 SELECT INBOX\r\np7 FETCH * (FLAGS)\r\n", until: "^p7 "},
		{raw: "q1 SEARCH SUBJECT {4+}\r\nnews\r\nq2 NOOP\r\n", until: "^q2 ", needs: "LITERAL+"},
		{raw: "x1 uid fetch 1:* (flags)\r\nx2 cLoSe\r\n", until: "^x2 "},
	},
	with("NOTIFY", "NOTIFY SET (SELECTED (MessageNew MessageExpunge))", "NOTIFY SET (FOO)", "NOTIFY NONE"),
	say("DELETE {p}C{s}B", "DELETE {p}C", `DELETE "{p}Entw&APw-rfe x"`),
	// The proxy's own words.
	[]imapStep{{text: "FOO", own: "BAD Unknown command"}, {text: "NOOP"},
		{text: "LOGIN a b", own: "BAD Already logged in"}, {text: "NOOP"}, {text: "AUTHENTICATE PLAIN", own: "BAD Already logged in"}, {text: "STARTTLS", own: "BAD Already logged in"}, {text: "NOOP"},
		{text: "COMPRESS DEFLATE", own: "BAD Unknown command"}, {text: "UNAUTHENTICATE", own: "BAD Unknown command"}, {text: "NOOP"},
		{text: "ENABLE X-NONE", own: "^\\* ENABLED\r\nt\\d+ OK ", needs: "ENABLE"},
		{raw: "o1 LIST \"\" \"open\r\n", until: "^(o1|\\*) BAD", own: "o1 BAD Open quote"}, {raw: "o2 LIST \"\" a{3}\r\n", until: "^(o2|\\*) BAD", own: "o2 BAD Invalid literal"}, {text: "NOOP"},
	},
	say("LOGOUT"),
)

// TestTransparencyIMAP: the store's answers come through octet by octet, for
// every command that it announces. Two users do the same things on one store,
// one of them through the proxy.
func TestTransparencyIMAP(t *testing.T) {
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus, "courier": realCourier, "own": realOwn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // stores that wait for themselves
			if name != "own" {
				mailtest.Require(t, name)
			}
			r := start(t)
			r.store.TLS = backend.TLSNone // a store may announce less behind TLS
			through := r.serve(t, &imap)
			var direct, proxied *imapRun
			t.Run("both", func(t *testing.T) { // at once, because Courier waits two seconds in some commands
				t.Run("direct", func(t *testing.T) { t.Parallel(); direct = r.runIMAP(t, r.addr, "anna") })
				t.Run("proxied", func(t *testing.T) { t.Parallel(); proxied = r.runIMAP(t, through, "bert") })
			})
			if t.Failed() {
				return
			}
			done := 0
			for i, s := range imapTransparent {
				if direct.skipped[i] {
					continue
				}
				done++
				d, p := direct.answers[i], proxied.answers[i]
				if s.own != "" {
					if !regexp.MustCompile(s.own).MatchString(p) {
						t.Errorf("%q: the proxy says %q", s.text+s.raw, p)
					}
				} else if d != p {
					t.Errorf("%q:\ndirect            %q\nthrough the proxy %q", s.text+s.raw, d, p)
				}
			}
			t.Logf("%d of %d steps make sense here", done, len(imapTransparent))
			if !announcesOnly(proxied.caps, direct.caps) {
				t.Errorf("announced %v, through the proxy %v", direct.caps, proxied.caps)
			}
		})
	}
}

// announcesOnly: through the proxy is announced what the store announces, in
// its order, but what the proxy never carries.
func announcesOnly(through, direct []string) bool {
	return slices.Equal(through, slices.DeleteFunc(slices.Clone(direct), forbidden))
}

// imapRun is what one client heard.
type imapRun struct {
	caps    []string
	answers []string // of each step
	skipped []bool
}

// runIMAP logs in twice and takes all steps.
func (r realStore) runIMAP(t *testing.T, addr, user string) *imapRun {
	t.Helper()
	run := &imapRun{answers: make([]string, len(imapTransparent)), skipped: make([]bool, len(imapTransparent))}
	one, two := newTalker(t, addr, user), newTalker(t, addr, user)
	caps := one.command("CAPABILITY")
	line, _, _ := strings.Cut(strings.TrimPrefix(caps, "* CAPABILITY "), "\r\n")
	run.caps = strings.Fields(strings.ToUpper(line))
	fill := strings.NewReplacer("{p}", r.prefix, "{s}", r.sep, "{u}", user)
	shared := false
	for i, s := range imapTransparent {
		if s.needs != "" && !slices.Contains(run.caps, s.needs) {
			run.skipped[i] = true
			continue
		}
		if s.own != "" && addr == r.addr {
			continue
		}
		on := one
		if s.second {
			on, shared = two, true
		}
		words := fill.Replace(strings.ReplaceAll(s.text+s.raw, "{uv}", on.validity))
		var got string
		if s.until != "" {
			got = on.raw(words, s.until)
		} else {
			got = on.command(words)
		}
		if s.own != "" && s.raw == "" {
			on.tags-- // the next answer has the direct one's tag
		}
		if shared { // which of two sessions is told of a recent message is chance (RFC 3501 2.3.2)
			got = recents.ReplaceAllString(got, "")
		}
		run.answers[i] = strings.ReplaceAll(canonical(got), "bert", "anna")
	}
	return run
}

// What two users of one store cannot have in common, and clocks.
var (
	recents    = regexp.MustCompile(`\* \d+ RECENT\r\n| \\Recent|\\Recent ?`)
	validities = regexp.MustCompile(`(UIDVALIDITY|APPENDUID|COPYUID) \d+`)
	timings    = regexp.MustCompile(`\d+\.\d+ secs?\b|\d+\.\d+ \+ `) // Dovecot's and Cyrus'
	mailboxIDs = regexp.MustCompile(`MAILBOXID \([^)]*\)`)
	sessions   = regexp.MustCompile(`SESSIONID=<[^>]*>`) // Cyrus'
	validityIs = regexp.MustCompile(`UIDVALIDITY (\d+)`)
)

func canonical(s string) string {
	s = validities.ReplaceAllString(s, "$1 #")
	s = timings.ReplaceAllString(s, "")
	s = mailboxIDs.ReplaceAllString(s, "MAILBOXID #")
	return sessions.ReplaceAllString(s, "SESSIONID=#")
}

// talker is a logged-in IMAP client that keeps what it hears, octet by octet.
type talker struct {
	t        *testing.T
	conn     net.Conn
	r        *bufio.Reader
	tags     int
	validity string
}

func newTalker(t *testing.T, addr, user string) *talker {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &talker{t: t, conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	c.until(`^\* OK`)
	if got := c.command("LOGIN " + user + " secret"); !strings.Contains(got, "t1 OK") {
		t.Fatalf("login: %q", got)
	}
	return c
}

// literalEnd splits a command behind each announced synchronising literal.
var literalEnd = regexp.MustCompile(`\{\d+\}\r\n`)

// command sends one command, its synchronising literals when they are asked
// for, and returns all that comes up to the tagged answer.
func (c *talker) command(text string) string {
	c.t.Helper()
	c.tags++
	tag := "t" + strconv.Itoa(c.tags)
	rest, got := tag+" "+text+"\r\n", ""
	for {
		at := literalEnd.FindStringIndex(rest)
		if at == nil || strings.Contains(got, "\r\n"+tag+" ") || strings.HasPrefix(got, tag+" ") {
			break
		}
		c.send(rest[:at[1]])
		answer := c.until(`^(\+|` + tag + ` )`)
		got, rest = got+answer, rest[at[1]:]
		if !strings.Contains("\r\n"+answer, "\r\n+") {
			return got // refused
		}
	}
	c.send(rest)
	return got + c.until(`^(`+tag+` |\* BAD)`)
}

func (c *talker) raw(text, until string) string {
	c.t.Helper()
	c.send(text)
	return c.until(until)
}

func (c *talker) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// until reads lines, with their literals, up to one that the pattern matches.
func (c *talker) until(pattern string) string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	var got strings.Builder
	if err := c.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	for {
		start := got.Len()
		for {
			l, err := c.r.ReadString('\n')
			got.WriteString(l)
			if err != nil {
				c.t.Fatalf("waiting for %s: %v behind %q", pattern, err, got.String())
			}
			size, _, ok := literalOf([]byte(l))
			if !ok {
				break
			}
			if _, err := io.CopyN(&got, c.r, int64(size)); err != nil {
				c.t.Fatal(err)
			}
		}
		response := got.String()[start:]
		if m := validityIs.FindStringSubmatch(response); m != nil {
			c.validity = m[1]
		}
		if re.MatchString(response) {
			return got.String()
		}
	}
}
