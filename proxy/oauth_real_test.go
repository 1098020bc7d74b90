package proxy

import (
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestTokensAtDovecot: tokens go through to a store that has them checked, in
// all three protocols; a token of somebody else opens nothing.
func TestTokensAtDovecot(t *testing.T) {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: mailtest.NewIssuer(t).DovecotConf(t)})
	all := testStores()
	all["old"] = &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "localhost", TLSConfig: d.CA.Client(), TakesTokens: true,
		Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, d.IMAP), backend.POP3: portOf(t, d.POP3), backend.ManageSieve: portOf(t, d.Sieve)},
		Login: backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}}
	for name, dia := range tokenDialogues {
		for _, mech := range []string{"XOAUTH2", "OAUTHBEARER"} {
			t.Run(name+" "+mech, func(t *testing.T) {
				message, empty, word := xoauth2, "", mech
				if mech == "OAUTHBEARER" {
					message, empty = oauthBearer, "AQ=="
				}
				if name == "managesieve" {
					word = `"` + mech + `"`
				}
				_, addr := serveRealOf(t, dia.proto, Options{Stores: all, Connector: RemoteConnector{}, Directory: newDirectory(),
					Tokens: Tokens{Offer: true, Scope: "mail", Configuration: "https://id.example.org"}})
				c := dialPeer(t, addr)
				for !strings.HasPrefix(c.line(), dia.greeting) {
				}
				wrong := []string{mailtest.TokenOf("bernd")} // half a second each, which Dovecot takes
				if name == "imap" {
					wrong = append(wrong, "nobodys")
				}
				for _, token := range wrong {
					c.sendLine("%s%s%s", dia.begin, word, dia.initial(message("anna", token)))
					wantReason(t, mech, dia.challenge(c.line()))
					c.sendLine("%s", dia.answer(empty))
					c.expect(dia.no)
				}
				c.sendLine("%s%s%s", dia.begin, word, dia.initial(message("anna", mailtest.TokenOf("anna"))))
				c.expect(dia.ok)
				c.sendLine("%s", map[string]string{"imap": "b NOOP", "pop3": "STAT", "managesieve": "LISTSCRIPTS"}[name])
				c.expect(map[string]string{"imap": "b OK", "pop3": "+OK 0 0", "managesieve": "OK"}[name])
			})
		}
	}
}
