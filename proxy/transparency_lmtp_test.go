package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// lmtpStep is what a mail server says.
type lmtpStep struct {
	text    string
	replies int
	own     string // the proxy's own code, where it differs; docs/transparency.md
}

// lmtpBare goes before the others where the store takes names without a domain.
var lmtpBare = []lmtpStep{
	{"MAIL FROM:<s@example.org>", 1, ""}, {"RCPT TO:<anna>", 1, ""}, {"DATA", 1, ""}, // no domain
	{"Subject: bare\r\nMessage-ID: <bare@example.org>\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nRCPT TO:<anna>\r\n.", 1, ""},
}

// lmtpTransparent is what a mail server says, and how many replies it waits
// for: behind the final dot there is one for each recipient that was accepted.
var lmtpTransparent = []lmtpStep{
	{"LHLO mx.example.org", 1, ""}, {"NOOP", 1, ""}, {"RSET", 1, ""}, {"FOO", 1, "501"},
	{"RCPT TO:<anna@example.org>", 1, "502"}, {"DATA", 1, "502"}, // out of order
	{"MAIL FROM:<sender@example.org>", 1, ""}, {"RCPT TO:<nobody@example.org>", 1, ""}, {"DATA", 1, "502"}, {"RSET", 1, ""}, // nobody
	{"MAIL FROM:<>", 1, ""}, {"RCPT TO:<anna@example.org>", 1, ""}, {"DATA", 1, ""}, {"Subject: one\r\nMessage-ID: <one@example.org>\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\n..dot\r\n...two\r\nx\r\n.", 1, ""}, // a bounce, dots
	{"MAIL FROM:<sender@example.org> BODY=8BITMIME", 1, ""}, {"RCPT TO:<anna@example.org>", 1, ""}, {"RCPT TO:<nobody@example.org>", 1, ""}, {"RCPT TO:<bert@example.org>", 1, ""},
	{"DATA", 1, ""}, {"Subject: two\r\nMessage-ID: <two@example.org>\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n.", 2, ""}, // several recipients
	{"MAIL FROM:<sender@example.org>", 1, ""}, {"RCPT TO:<anna@example.org>", 1, ""}, {"DATA", 1, ""}, // a line longer than RFC 5321 permits
	{"Subject: long\r\nMessage-ID: <long@example.org>\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\n" + strings.Repeat("long line ", 9000) + "\r\n.", 1, ""},
	{"MAIL FROM:<sender@example.org>\r\nRCPT TO:<anna@example.org>\r\nRCPT TO:<bert@example.org>\r\nDATA", 4, ""},
	{"Subject: three\r\nMessage-ID: <three@example.org>\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\n" + strings.Repeat("long line ", 90) + "\r\n.\r\nQUIT", 3, ""}, // a pipeline
}

// TestTransparencyLMTP: the reply to each command and for each recipient has
// the code that the store gives, and the mail is the same but for trace lines.
func TestTransparencyLMTP(t *testing.T) {
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus, "own": realOwn} {
		t.Run(name, func(t *testing.T) {
			if name != "own" {
				mailtest.Require(t, name)
			}
			r := start(t)
			r.store.TLS = backend.TLSNone
			steps := lmtpTransparent
			if !r.store.Local() { // go-smtp alone wants a domain
				steps = slices.Concat(steps[:1], lmtpBare, steps[1:])
			}
			direct := talkLMTP(t, "localhost:"+strconv.Itoa(r.store.Port(backend.LMTP)), steps, false)
			mail := map[string][]string{"anna": r.takeMail(t, "anna"), "bert": r.takeMail(t, "bert")}
			through := talkLMTP(t, r.serveLMTP(t), steps, true)
			if !slices.Equal(direct, through) {
				t.Errorf("direct            %q\nthrough the proxy %q", direct, through)
			}
			for u, want := range mail {
				if got := r.takeMail(t, u); len(got) == 0 || !slices.Equal(got, want) {
					t.Errorf("%s: direct %q\nthrough the proxy %q", u, want, got)
				}
			}
		})
	}
}

// talkLMTP takes all steps and returns the code of each reply; the proxy's own
// codes count as the others', when they are the documented ones.
func talkLMTP(t *testing.T, addr string, steps []lmtpStep, proxied bool) (codes []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	reply := func(step, own string) {
		for {
			l, err := r.ReadString('\n')
			if err != nil || len(l) < 5 {
				t.Fatalf("%q: %q %v", step, l, err)
			}
			if l[3] == ' ' {
				if own != "" && (proxied && l[:3] != own || l[0] != '5') {
					t.Errorf("%s: %s", step, l)
				} else if own != "" {
					l = "5xx"
				}
				codes = append(codes, fmt.Sprintf("%.12s %s", step, l[:3]))
				return
			}
		}
	}
	reply("greeting", "")
	for _, s := range steps {
		if _, err := io.WriteString(conn, s.text+"\r\n"); err != nil {
			t.Fatal(err)
		}
		for range s.replies {
			reply(s.text, s.own)
		}
	}
	return codes
}

// takeMail returns the user's mail without trace lines, and removes it.
func (r realStore) takeMail(t *testing.T, user string) (mail []string) {
	t.Helper()
	c := mailtest.DialIMAP(t, r.addr)
	defer c.Close()
	c.Login(user, "secret")
	c.Cmd("SELECT INBOX")
	for _, l := range c.Cmd("FETCH 1:* BODY.PEEK[]") {
		if _, text, ok := strings.Cut(l, "}\r\n"); ok {
			mail = append(mail, withoutTrace(text))
		}
	}
	c.Cmd(`STORE 1:* +FLAGS (\Deleted)`)
	c.Cmd("EXPUNGE")
	return mail
}

// withoutTrace leaves out what a delivery puts before a message (RFC 5321, 4.4).
func withoutTrace(message string) string {
	trace := false
	for {
		l, rest, ok := strings.Cut(message, "\r\n")
		name, _, _ := strings.Cut(l, ":")
		if !strings.HasPrefix(l, "\t") && !strings.HasPrefix(l, " ") {
			trace = slices.Contains([]string{"Return-Path", "Delivered-To", "Received", "X-Sieve", "X-Cyrus-Session-Id"}, name)
		}
		if !ok || !trace {
			return message
		}
		message = rest
	}
}
