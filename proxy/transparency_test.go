package proxy

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// What differs on purpose, and is not in these tables: greetings, the answers
// to logins, capabilities before login, commands that a session may not give
// after login, and unknown commands of POP3.
var (
	pop3Transparent = strings.Join([]string{"CAPA", "STAT", "LIST", "LIST 1", "LIST 99", "LIST x", "LIST ", "UIDL", "UIDL 2", "UIDL 0",
		"RETR 1", "RETR 2", "RETR 3", "RETR 99", "RETR", "TOP 1 0", "TOP 2 1", "TOP 3 100", "TOP 1", "TOP 1 x", "NOOP", "noop",
		"DELE 1", "DELE 1", "DELE 99", "DELE", "RETR 1", "LIST", "STAT", "UIDL 1", "RSET", "STAT", "Stat", "LAST", "QUIT"}, "\r\n") + "\r\n"
	sieveTransparent = strings.Join([]string{"CAPABILITY", "NOOP", `NOOP "tag"`, "LISTSCRIPTS", `HAVESPACE "a" 100`, `HAVESPACE "a" 99999999999`,
		"PUTSCRIPT \"a\" {22+}\r\n# comment\r\nkeep;\r\n\r\n", `PUTSCRIPT "b" "stop;"`, `PUTSCRIPT "c" "no such command;"`,
		"PUTSCRIPT {1+}\r\nd {5+}\r\nkeep;", `CHECKSCRIPT "keep;"`, `CHECKSCRIPT "if"`, `GETSCRIPT "a"`, `GETSCRIPT "none"`,
		`LISTSCRIPTS`, `SETACTIVE "a"`, `SETACTIVE "none"`, `LISTSCRIPTS`, `DELETESCRIPT "a"`, `RENAMESCRIPT "b" "e"`, `RENAMESCRIPT "a" "e"`,
		`SETACTIVE ""`, `DELETESCRIPT "a"`, `DELETESCRIPT "d"`, `DELETESCRIPT "e"`, `DELETESCRIPT "e"`, `LISTSCRIPTS`, "FOO", "LISTSCRIPTS \"x\"",
		"LOGOUT"}, "\r\n") + "\r\n"
)

// TestTransparency: the store's answers come through octet by octet.
func TestTransparency(t *testing.T) {
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus, "courier": realCourier} {
		t.Run(name, func(t *testing.T) {
			mailtest.Require(t, name)
			r := start(t)
			r.store.TLS = backend.TLSNone // a store may announce less behind TLS
			box := mailtest.DialIMAP(t, r.addr)
			box.Login(r.user, "secret")
			for _, m := range []string{"Subject: a\r\n\r\nx\r\n", "Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n", "Subject: long\r\n\r\n" + strings.Repeat("long line ", 5000) + "\r\n"} {
				box.Append("INBOX", "", time.Now(), []byte(m))
			}
			box.Cmd("LOGOUT")
			for _, tt := range []struct {
				proto    *protocol
				commands string
				login    func(*peer)
			}{
				{&pop3, pop3Transparent, func(c *peer) {
					c.expect("+OK")
					c.sendLine("USER %s", r.user)
					c.expect("+OK")
					c.sendLine("PASS secret")
					c.expect("+OK")
				}},
				{&managesieve, sieveTransparent, func(c *peer) {
					c.capabilities()
					c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", r.user, "secret"))
					c.expect("OK")
				}},
			} {
				if r.store.Ports[tt.proto.name] == 0 {
					continue // Courier has no ManageSieve
				}
				var got [2]string
				for i, c := range []*peer{dialPeer(t, "localhost:"+strconv.Itoa(r.store.Port(tt.proto.name))), r.dialReal(t, tt.proto)} {
					tt.login(c)
					c.send(tt.commands)
					c.SetReadDeadline(time.Now().Add(time.Minute))
					b, err := io.ReadAll(c.r)
					if err != nil {
						t.Fatalf("%s: %v behind %q", tt.proto.name, err, b)
					}
					got[i] = string(b)
				}
				direct, through := strings.Split(got[0], "\n"), strings.Split(got[1], "\n")
				if len(direct) < strings.Count(tt.commands, "\n") {
					t.Errorf("%s: only %d lines", tt.proto.name, len(direct))
				}
				for i := range direct {
					if i >= len(through) || direct[i] != through[i] {
						t.Fatalf("%s: line %d is %q, through the proxy %q", tt.proto.name, i, direct[i], through[min(i, len(through)-1)])
					}
				}
				if len(through) != len(direct) {
					t.Errorf("%s: more comes through the proxy: %q", tt.proto.name, through[len(direct):])
				}
			}
		})
	}
}
