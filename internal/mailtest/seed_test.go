package mailtest

import "testing"

// TestJudge: a filled store is equal to itself, and the judge notices one
// message that came later and one flag that changed.
func TestJudge(t *testing.T) {
	y := StartCyrus(t, CyrusOptions{Users: []string{"u001", "u002"}})
	d := StartDovecot(t, DovecotOptions{})
	j := NewJudge(t)
	for name, s := range map[string]Server{
		"dovecot": {Addr: d.IMAPS, TLS: true, POP3: d.POP3, Password: "secret"},
		"master":  {Addr: d.IMAP, Password: d.MasterPassword, Master: d.MasterUser},
		"cyrus":   {Addr: y.IMAP, POP3: y.POP3, Password: "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			users := map[string]string{"master": "m001"}[name]
			users = orString(users, "u001..u002")
			m := j.Load(t, s, users, "-messages", "60", "-big", "0")
			if v := j.Verify(t, m, s, ""); !v.IdentityPerfect {
				t.Errorf("%s", v.All)
			}
			if name != "cyrus" {
				return
			}
			c := DialIMAP(t, y.IMAP)
			c.AuthPlain("u002", y.Admin, y.AdminPassword)
			c.Cmd("SELECT INBOX")
			c.Cmd(`STORE 1 FLAGS ($Other)`)
			if v := j.Compare(t, m, j.Snapshot(t, s, "u001..u002")); v.IdentityPerfect {
				t.Errorf("a changed flag goes unnoticed: %s", v.All)
			}
			if v := j.Verify(t, m, s, "u001"); !v.IdentityPerfect {
				t.Errorf("%s", v.All)
			}
		})
	}
}
