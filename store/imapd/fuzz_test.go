package imapd_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"mailferry/internal/line"
	"mailferry/store/imapd"
)

// FuzzSession throws octets at a session in each state: before the login, after
// it, with a mailbox selected. It must end by itself when the client hangs up.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"a LOGIN anna secret\r\nb SELECT INBOX\r\nc FETCH 1:* (FLAGS BODY[1.MIME]<1.2>)\r\n",
		"a UID FETCH 1:* (UID ENVELOPE BODYSTRUCTURE RFC822)\r\nb UID SEARCH OR SEEN NOT (TEXT x) 1:*\r\n",
		"a STORE 1 (UNCHANGEDSINCE 1) +FLAGS.SILENT (\\Deleted x)\r\nb EXPUNGE\r\nc CLOSE\r\n",
		"a APPEND INBOX (\\Seen) \"17-Jul-1996 02:44:25 -0700\" {3+}\r\nabc\r\nb IDLE\r\nDONE\r\n",
		"a LIST (SUBSCRIBED) \"\" (% *) RETURN (STATUS (MESSAGES) CHILDREN)\r\nb LSUB \"\" *\r\nc STATUS INBOX (SIZE)\r\n",
		"a RESUME INBOX (UIDVALIDITY 1 MODSEQ 1 VIEW {3+}\r\n1:3 ENABLED (QRESYNC) SAVED 1)\r\nb MOVE 1:* Trash\r\n",
		"a CREATE x (USE (\\Sent))\r\nb RENAME x y\r\nc SUBSCRIBE y\r\nd DELETE y\r\n",
		"a SELECT INBOX (QRESYNC (1 1 1:4 (1 1)))\r\nb ENABLE QRESYNC\r\nc SELECT INBOX (QRESYNC (1 1 1:4 (1 1)))\r\n",
		"a AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\r\nb ID (\"name\" NIL)\r\nc NAMESPACE\r\n",
	} {
		for state := range 3 {
			f.Add(byte(state), s)
		}
	}
	f.Fuzz(func(t *testing.T, state byte, input string) {
		w := newWorld(t, func(o *imapd.Options) { o.Limits.AppendSize = 1 << 16; o.Limits.BadCommands = 1000 })
		a, b := line.Pipe()
		done := make(chan struct{})
		go func() {
			w.server.ServeConn(context.Background(), b, imapd.ConnInfo{Trusted: true})
			close(done)
		}()
		go io.Copy(io.Discard, a)
		prefix := ""
		if state%3 > 0 {
			m := mail("x")
			prefix = fmt.Sprintf("l LOGIN anna secret\r\nm APPEND INBOX {%d+}\r\n%s\r\n", len(m), m)
		}
		if state%3 > 1 {
			prefix += "n SELECT INBOX\r\n"
		}
		a.SetWriteDeadline(time.Now().Add(patience))
		io.WriteString(a, prefix+input)
		a.CloseWrite()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the session does not end")
		}
		a.Close()
	})
}
