package migrate

import (
	"net"
	"strconv"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestForeignPOP3: ids cannot be set at a foreign store; the report counts those
// that POP3 clients will not know again.
func TestForeignPOP3(t *testing.T) {
	start := func(name, format string, pop3 bool) (*mailtest.Dovecot, *backend.Store) {
		d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: "pop3_uidl_format = " + format})
		s := storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})
		s.Name = name
		s.Ports[backend.POP3] = 1 // nobody answers
		if pop3 {
			_, port, _ := net.SplitHostPort(d.POP3)
			s.Ports[backend.POP3], _ = strconv.Atoi(port)
		}
		return d, s
	}
	for _, k := range []struct {
		name, format string // of the target
		pop3         bool   // it serves POP3
		differ       int
	}{
		{"equal", "%u", true, 0},
		{"others", "%08Xu%08Xv", true, 2},
		{"unknown", "%u", false, 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			d, from := start("from", "%u", true)
			_, to := start("to", k.format, k.pop3)
			c := mailtest.DialIMAP(t, d.IMAP)
			c.Login("anna", d.Password)
			for range 2 {
				c.Append("INBOX", "", time.Time{}, bodies[0])
			}
			e := foreignEngine(t, t.TempDir(), from, to, nil)
			for range 2 { // the second finds nothing new, and says the same
				st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"anna"}, To: "to"}))
				cert, err := e.CertificateIn(st.ID, "anna")
				if err != nil || cert.POP3 == nil {
					t.Fatalf("%v: %+v %+v", err, cert, st.Users)
				}
				want := k.differ > 0 || !k.pop3
				if cert.POP3.Differ != k.differ || cert.POP3.Compared != k.pop3 || (len(cert.Exception) > 0) != want || (cert.Grade == "exceptions") != want {
					t.Errorf("%+v, %s: %+v", *cert.POP3, cert.Grade, cert.Exception)
				}
			}
		})
	}
}
