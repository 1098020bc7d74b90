package mailtest

import (
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

// testLMTP delivers one message and finds it in the user's INBOX.
func testLMTP(t *testing.T, lmtp, imap, user, password string) {
	t.Helper()
	conn, err := net.Dial("tcp", lmtp)
	if err != nil {
		t.Fatal(err)
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Mail("sender@example.org", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt(user, nil); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(sample))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	i := DialIMAP(t, imap)
	defer i.Close()
	i.Login(user, password)
	i.Cmd("SELECT INBOX")
	if l := strings.Join(i.Cmd("FETCH * (BODY.PEEK[])"), "\n"); !strings.Contains(l, "Hello\r\n") {
		t.Errorf("delivered %q", l)
	}
}
