package mailtest

import (
	"strings"
	"testing"
	"time"
)

func TestClients(t *testing.T) {
	d := StartDovecot(t, DovecotOptions{Separator: ".", Prefix: "INBOX."})
	c := DialIMAP(t, d.IMAP)
	c.Login("anna", "secret")
	c.Cmd("CREATE INBOX.Entw&APw-rfe")
	c.Cmd("SUBSCRIBE INBOX.Entw&APw-rfe")
	mail := Generated(12)
	for i, m := range mail.All(t) {
		c.Append([]string{"INBOX", "INBOX.Entw&APw-rfe"}[i%2], `\Seen`, time.Now(), m)
	}
	c.Cmd("LOGOUT")
	c.Close()
	for _, a := range []Account{
		{Addr: d.IMAP, User: "anna", Password: "secret"},
		{Addr: d.IMAPS, CA: d.CA, User: "anna", Password: "secret"},
	} {
		for _, m := range []*MailClient{NewMbsync(t, a), NewOfflineIMAP(t, a)} {
			before := d.Fetched(t, "anna")
			if s := m.Run(t); s.New != 12 || s.Messages != 12 {
				t.Fatalf("%s: %+v", m.Name, s)
			}
			first := d.Fetched(t, "anna")
			if n := first.Bodies - before.Bodies; n != 12 {
				t.Errorf("%s fetched %d bodies", m.Name, n)
			}
			if s := m.Run(t); s.New != 0 || s.Gone != 0 {
				t.Errorf("%s again: %+v", m.Name, s)
			}
			if n := d.Fetched(t, "anna").Bodies - first.Bodies; n != 0 {
				t.Errorf("%s fetched %d bodies again", m.Name, n)
			}
			if folders := m.Digests(t); len(folders) != 2 {
				t.Errorf("%s: folders %v", m.Name, folders)
			}
		}
		if box := MuttRead(t, a); strings.Count(box, "\nSubject: message ") != 6 {
			t.Errorf("mutt read %q", box)
		}
	}
	if got := Curl(t, d.CA, "-u", "anna:secret", "imaps://localhost:"+port(d.IMAPS)+"/INBOX;MAILINDEX=1"); !strings.Contains(got, "Subject: message 0") {
		t.Errorf("curl read %q", got)
	}
}
