package mailtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

const sample = "From: a@example.org\r\nTo: b@example.org\r\nSubject: sample\r\nMessage-ID: <sample@example.org>\r\n\r\nHello\r\n"

func TestSlapd(t *testing.T) {
	s := StartSlapd(t, SlapdOptions{Users: []LDAPUser{{UID: "anna", MailHost: "127.0.0.1"}, {UID: "ümit (x)", Mail: "umit@example.org"}}})
	if got := s.MailHost(t, "anna"); got != "127.0.0.1" {
		t.Errorf("mailHost %q", got)
	}
	s.SetAttr(t, "anna", "mailHost", "127.0.0.2")
	if got := s.MailHost(t, "anna"); got != "127.0.0.2" {
		t.Errorf("mailHost %q after the change", got)
	}
	for _, url := range []string{s.URL, s.TLSURL} {
		c, err := ldap.DialURL(url, ldap.DialWithTLSConfig(s.Client()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if url == s.URL {
			if err := c.StartTLS(s.Client()); err != nil {
				t.Fatal(err)
			}
		}
		r, err := c.Search(ldap.NewSearchRequest(s.People, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
			"(mail=anna@example.org)", nil, nil))
		if err != nil || len(r.Entries) != 1 {
			t.Fatalf("%s: %v, %v", url, r, err)
		}
		if r.Entries[0].GetAttributeValue("userPassword") != "" {
			t.Error("a password is readable")
		}
		if err := c.Bind(s.UserDN("anna"), "secret"); err != nil {
			t.Error(err)
		}
		if err := c.Bind(s.UserDN("anna"), "wrong"); !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
			t.Errorf("wrong password: %v", err)
		}
	}
	c, _ := ldap.DialURL(s.URL)
	defer c.Close()
	if err := c.Bind(s.MoverDN, s.MoverPass); err != nil {
		t.Fatal(err)
	}
	m := ldap.NewModifyRequest(s.UserDN("anna"), nil)
	m.Replace("mailHost", []string{"127.0.0.3"})
	if err := c.Modify(m); err != nil {
		t.Error("mover:", err)
	}
}

// exercise is what every store must do: append, list, fetch back.
func exercise(t *testing.T, c *IMAPConn, prefix string) {
	t.Helper()
	box := prefix + "Entw&APw-rfe alt"
	c.Cmd("CREATE %s", Quote(box))
	c.Cmd("SUBSCRIBE %s", Quote(box))
	when := time.Date(2003, 4, 5, 6, 7, 8, 0, time.FixedZone("", 7200))
	c.Append(box, `\Seen $Work`, when, []byte(sample))
	if l := strings.Join(c.Cmd(`LIST "" "*"`), "\n"); !strings.Contains(l, "Entw&APw-rfe alt") {
		t.Errorf("LIST: %s", l)
	}
	c.Cmd("SELECT %s", Quote(box))
	got := c.Cmd("FETCH 1 (UID FLAGS INTERNALDATE BODY.PEEK[])")
	for _, want := range []string{`\Seen`, "$Work", "05-Apr-2003", "Hello\r\n"} {
		if !strings.Contains(strings.ReplaceAll(got[0], `" 5`, `"05`), want) {
			t.Errorf("FETCH: %q lacks %q", got[0], want)
		}
	}
}

func TestDovecot(t *testing.T) {
	for _, o := range []DovecotOptions{
		{},
		{Format: "sdbox", Separator: ".", Prefix: "INBOX."},
		{Format: "mdbox", Users: map[string]string{"anna": "hers"}},
	} {
		t.Run(orString(o.Format, "maildir"), func(t *testing.T) {
			d := StartDovecot(t, o)
			c := DialIMAP(t, d.IMAP)
			c.Login("anna", orString(o.Users["anna"], "secret"))
			exercise(t, c, d.Prefix)
			c.Cmd("LOGOUT")
			tls := DialIMAPS(t, d.IMAPS, d.CA.Client())
			tls.Login("anna*"+d.MasterUser, d.MasterPassword)
			tls.Cmd("EXAMINE INBOX")
			tls.Close()
			start := DialIMAP(t, d.IMAP)
			start.StartTLS(d.CA.Client())
			start.AuthPlain("anna", d.MasterUser, d.MasterPassword)
			start.Cmd("EXAMINE INBOX")
			start.Close()
			f := d.Fetched(t, "anna")
			if f.Sessions != 3 || f.Bodies != 1 || f.Bytes != int64(len(sample)) {
				t.Errorf("fetched %+v\n%s", f, d.Log())
			}
			if o.Users != nil {
				DialIMAP(t, d.IMAP).CmdStatus("NO", "LOGIN nobody secret")
			}
			testLMTP(t, d.LMTP, d.IMAP, "anna", orString(o.Users["anna"], "secret"))
		})
	}
}

func TestDovecotComesBack(t *testing.T) {
	d := StartDovecot(t, DovecotOptions{})
	c := DialIMAP(t, d.IMAP)
	c.Login("anna", "secret")
	c.Append("INBOX", "", time.Time{}, []byte(sample))
	d.Kill()
	c.ExpectClosed()
	d.Start(t)
	c = DialIMAP(t, d.IMAP)
	c.Login("anna", "secret")
	if l := strings.Join(c.Cmd("STATUS INBOX (MESSAGES)"), "\n"); !strings.Contains(l, "MESSAGES 1") {
		t.Error(l)
	}
}

func TestCyrus(t *testing.T) {
	for _, o := range []CyrusOptions{{}, {UnixHierarchySep: true, AltNamespace: true}, {UnixHierarchySep: true}} {
		o.Users = []string{"anna", "bert"}
		t.Run(fmt.Sprintf("unix=%v alt=%v", o.UnixHierarchySep, o.AltNamespace), func(t *testing.T) {
			y := StartCyrus(t, o)
			c := DialIMAP(t, y.IMAP)
			c.Login("anna", y.Password)
			exercise(t, c, y.Prefix)
			c.Cmd("LOGOUT")
			tls := DialIMAPS(t, y.IMAPS, y.CA.Client())
			tls.AuthPlain("bert", y.Admin, y.AdminPassword)
			tls.Cmd("SELECT INBOX")
			tls.Cmd("LOGOUT")
			y.AddUsers(t, "carl")
			testLMTP(t, y.LMTP, y.IMAP, "carl", y.Password)
			y.Stop()
			y.Start(t)
			testLMTP(t, y.LMTP, y.IMAP, "bert", y.Password)
		})
	}
}
