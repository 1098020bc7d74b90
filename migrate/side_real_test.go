package migrate

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

const dovecotSide = `
mail_plugins = $mail_plugins acl quota
mail_attribute_dict = file:%h/attributes
protocol imap {
  mail_plugins = $mail_plugins acl quota imap_acl imap_quota
  imap_metadata = yes
}
plugin {
  acl = vfile
  acl_user = %u
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=100M:messages=5000
}
`

// putScripts gives a user Sieve scripts over ManageSieve, the first one active.
func putScripts(t *testing.T, addr, user, password string, scripts ...backend.SieveScript) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	expect := func() {
		t.Helper()
		for {
			l, err := in.ReadString('\n')
			if err != nil || strings.HasPrefix(l, "NO") || strings.HasPrefix(l, "BYE") {
				t.Fatalf("ManageSieve: %q, %v", l, err)
			}
			if strings.HasPrefix(l, "OK") {
				return
			}
		}
	}
	expect()
	fmt.Fprintf(c, "AUTHENTICATE \"PLAIN\" \"%s\"\r\n", base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))
	expect()
	for _, s := range scripts {
		fmt.Fprintf(c, "PUTSCRIPT \"%s\" {%d+}\r\n%s\r\n", s.Name, len(s.Text), s.Text)
		expect()
	}
	fmt.Fprintf(c, "SETACTIVE \"%s\"\r\n", scripts[0].Name)
	expect()
}

// TestSideDataMoves: what a user has beside mail arrives as the old store has
// it, and what has no meaning here is named.
func TestSideDataMoves(t *testing.T) {
	scripts := []backend.SieveScript{
		{Name: "main", Text: []byte("require [\"fileinto\"];\r\nif header :contains \"Subject\" \"{5}\" { fileinto \"Other\"; }\r\n"), Active: true},
		{Name: "old one", Text: []byte("# \xc3\xa4\r\nkeep;\r\n")},
	}
	run := func(t *testing.T, s *source, sieve string, prepare func(c *mailtest.IMAPConn), look func(t *testing.T, d *backend.SideData)) {
		s.user = "anna"
		_, port, _ := net.SplitHostPort(sieve)
		s.store.Ports[backend.ManageSieve], _ = strconv.Atoi(port)
		c := s.conn(t)
		c.Append("INBOX", "", time.Time{}, bodies[0])
		c.Cmd("CREATE %s", mailtest.Quote(s.box("Other")))
		prepare(c)
		putScripts(t, sieve, s.user, s.password, scripts...)
		own := ownStore(t)
		st, cert := (&popSource{source: s}).movePOP3(t, own, BatchSpec{To: "home"}, func() {
			c.Cmd("SETACL %s carl lr", mailtest.Quote(s.box("Other")))
		})
		if st.State != Final {
			t.Fatalf("%+v", st)
		}
		t.Logf("%+v hold %v", *cert.Side, cert.Pause.Hold)
		for _, e := range cert.Exception {
			t.Logf("%+v", e)
		}
		a, err := own.Account(t.Context(), s.user)
		if err != nil {
			t.Fatal(err)
		}
		d, err := a.SideData(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", d)
		if fmt.Sprint(d.Scripts) != fmt.Sprint(scripts) {
			t.Errorf("scripts %+v\nwant %+v", d.Scripts, scripts)
		}
		if !slices.ContainsFunc(cert.Exception, func(e Exception) bool { return strings.Contains(e.What, `"main" is kept`) }) {
			t.Error("the active script is not named")
		}
		acl := slices.IndexFunc(d.ACLs, func(a backend.MailboxACL) bool { return a.Mailbox == "Other" })
		if acl < 0 || !slices.Contains(d.ACLs[acl].Entries, backend.ACLEntry{Identifier: "bert", Rights: "lr"}) ||
			!slices.Contains(d.ACLs[acl].Entries, backend.ACLEntry{Identifier: "carl", Rights: "lr"}) {
			t.Errorf("access rights of Other: %+v", d.ACLs)
		}
		look(t, d)
	}
	annotation := func(t *testing.T, d *backend.SideData, mailbox backend.MailboxName, name, value string) {
		t.Helper()
		for _, m := range d.Metadata {
			if m.Mailbox != mailbox {
				continue
			}
			for _, e := range m.Entries {
				if e.Name == name && string(e.Value) == value {
					return
				}
			}
		}
		t.Errorf("no annotation %s %q of %q", name, value, mailbox)
	}
	quota := func(t *testing.T, d *backend.SideData, limit int64) {
		t.Helper()
		for _, q := range d.Quotas {
			for _, l := range q.Limits {
				if l.Resource == "STORAGE" && l.Limit == limit {
					return
				}
			}
		}
		t.Errorf("quotas %+v", d.Quotas)
	}
	t.Run("dovecot", func(t *testing.T) {
		d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: dovecotSide})
		s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
			store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster,
				User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
		run(t, s, d.Sieve, func(c *mailtest.IMAPConn) {
			c.Cmd("SETACL Other bert lr")
			c.Cmd("SETACL Other group=staff lrs")
			c.Cmd(`SETMETADATA Other (/private/comment "mine" /shared/comment "ours")`)
		}, func(t *testing.T, d *backend.SideData) {
			quota(t, d, 100<<10)
			annotation(t, d, "Other", "/private/comment", "mine")
			annotation(t, d, "Other", "/shared/comment", "ours")
		})
	})
	t.Run("cyrus", func(t *testing.T) {
		d := mailtest.StartCyrus(t, mailtest.CyrusOptions{Users: []string{"anna", "bert"}})
		s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
			store: storeAt(t, backend.StoreCyrus, d.IMAP, backend.Login{Mode: backend.LoginAuthzid,
				User: d.Admin, Secret: backend.Secret(d.AdminPassword)})}
		run(t, s, d.Sieve, func(c *mailtest.IMAPConn) {
			c.Cmd("SETACL INBOX.Other bert lr")
			c.Cmd("SETACL INBOX.Other group:staff lrs")
			c.Cmd(`SETMETADATA INBOX.Other (/private/comment "mine" /shared/comment "ours")`)
			admin := mailtest.DialIMAP(t, d.IMAP)
			admin.Login(d.Admin, d.AdminPassword)
			admin.Cmd("SETQUOTA user.anna (STORAGE 2048)")
			admin.Close()
			bert := mailtest.DialIMAP(t, d.IMAP)
			bert.Login("bert", d.Password)
			bert.Append("INBOX", "", time.Time{}, bodies[0])
			bert.Append("INBOX", `\Seen`, time.Time{}, bodies[0])
			bert.Append("INBOX", "", time.Time{}, bodies[0])
			bert.Cmd("SETACL INBOX anna lrs")
			bert.Close()
			c.Cmd("SELECT user.bert")
			c.Cmd(`UID STORE 1,3 +FLAGS (\Seen)`)
			c.Cmd("UNSELECT")
			c.Cmd("SUBSCRIBE user.bert")
		}, func(t *testing.T, d *backend.SideData) {
			quota(t, d, 2048)
			annotation(t, d, "Other", "/private/comment", "mine")
			annotation(t, d, "Other", "/shared/comment", "ours")
			if len(d.Shared) != 1 || d.Shared[0].Mailbox != "user.bert" || d.Shared[0].Seen != "1,3" {
				t.Errorf("seen of bert: %+v", d.Shared)
			}
			if !slices.Equal(d.Subscribed, []string{"user.bert"}) {
				t.Errorf("subscribed: %q", d.Subscribed)
			}
		})
	})
}
