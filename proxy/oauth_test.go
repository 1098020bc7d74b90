package proxy

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/line"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func xoauth2(user, token string) string {
	return b64("user=" + user + "\x01auth=Bearer " + token + "\x01\x01")
}

func oauthBearer(user, token string) string {
	if user != "" {
		user = "a=" + user
	}
	return b64("n," + user + ",\x01host=mail.example.org\x01port=143\x01auth=Bearer " + token + "\x01\x01")
}

// tokenWorld is a proxy that offers tokens, and whose store old takes them.
func tokenWorld(claim string) func(*Options) {
	return func(o *Options) {
		st := testStores()
		st["old"].TakesTokens = true
		o.Stores = st
		o.Tokens = Tokens{Offer: true, Claim: claim, Scope: "mail", Configuration: "https://id.example.org/.well-known/openid-configuration"}
	}
}

// tokenDialogue is how each protocol writes the same exchange.
var tokenDialogues = map[string]struct {
	proto     *protocol
	greeting  string // its last line
	begin     string // AUTHENTICATE with the mechanism
	initial   func(msg string) string
	ask       string // for the message, when there was no initial response
	answer    func(msg string) string
	challenge func(l string) string // the base64 in a challenge
	ok, no    string
	temp      string
	unknown   string
}{
	"imap": {&imap, "* OK", "a AUTHENTICATE ", func(m string) string { return " " + m }, "+ ", func(m string) string { return m },
		func(l string) string { return strings.TrimPrefix(l, "+ ") }, "a OK", "a NO [AUTHENTICATIONFAILED]", "a NO [UNAVAILABLE]", "a NO [CANNOT]"},
	"pop3": {&pop3, "+OK", "AUTH ", func(m string) string { return " " + m }, "+ ", func(m string) string { return m },
		func(l string) string { return strings.TrimPrefix(l, "+ ") }, "+OK", "-ERR [AUTH]", "-ERR [SYS/TEMP]", "-ERR Unsupported"},
	"managesieve": {&managesieve, "OK", "AUTHENTICATE ", func(m string) string { return " \"" + m + "\"" }, `""`, func(m string) string { return `"` + m + `"` },
		func(l string) string { return strings.Trim(l, `"`) }, "OK", "NO \"Authentication failed\"", "NO (TRYLATER)", "NO \"Unsupported"},
}

func TestTokenLogin(t *testing.T) {
	for name, d := range tokenDialogues {
		for _, mech := range []string{"XOAUTH2", "OAUTHBEARER"} {
			t.Run(name+" "+mech, func(t *testing.T) {
				quotedMech := mech
				message, empty := xoauth2, ""
				if mech == "OAUTHBEARER" {
					message, empty = oauthBearer, "AQ=="
				}
				if name == "managesieve" {
					quotedMech = `"` + mech + `"`
				}
				inWorldOf(t, d.proto, tokenWorld(""), func(w *world) {
					c := newPeer(w.l.dial())
					c.t = t
					for !strings.HasPrefix(c.line(), d.greeting) {
					}
					// A token that the store refuses: the reason, the client's
					// answer, the refusal; the connection stays.
					c.sendLine("%s%s%s", d.begin, quotedMech, d.initial(message("anna", "expired")))
					wantReason(t, mech, d.challenge(c.line()))
					c.sendLine("%s", d.answer(empty))
					c.expect(d.no)
					// A store that is away says nothing of the token.
					w.con.fail(backend.NewError(backend.KindUnavailable, ""))
					c.sendLine("%s%s%s", d.begin, quotedMech, d.initial(message("anna", "secret")))
					c.expect(d.temp)
					w.con.fail(nil)
					// In two steps.
					c.sendLine("%s%s", d.begin, quotedMech)
					c.expect(d.ask)
					c.sendLine("%s", d.answer(message("anna", "secret")))
					w.backend()
					c.expect(d.ok)
					got := w.con.asked[len(w.con.asked)-1]
					if !got.Token || !got.CheckPassword || got.Password != "secret" || got.Route.User != "anna" {
						t.Errorf("the store was asked for %+v", got)
					}
				})
			})
		}
	}
}

func wantReason(t *testing.T, mech, text string) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	var reason map[string]string
	if err == nil {
		err = json.Unmarshal(raw, &reason)
	}
	status := map[string]string{"XOAUTH2": "401", "OAUTHBEARER": "invalid_token"}[mech]
	if err != nil || reason["status"] != status || reason["scope"] != "mail" || reason["openid-configuration"] == "" {
		t.Errorf("reason %q, %v", raw, err)
	}
}

func TestTokensNotOffered(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := newPeer(w.l.dial())
		c.t = t
		if l := c.line(); strings.Contains(l, "OAUTH") || strings.Contains(l, "EXTERNAL") {
			t.Errorf("offered: %s", l)
		}
		for _, mech := range []string{"XOAUTH2 " + xoauth2("anna", "secret"), "OAUTHBEARER " + oauthBearer("anna", "secret"), "EXTERNAL ="} {
			c.sendLine("a AUTHENTICATE %s", mech)
			c.expect("a NO [CANNOT]")
		}
	})
}

// TestTokensAtAStoreThatTakesNone: nobody could check the token, so nobody gets
// in with it, and the answer is that of a wrong one.
func TestTokensAtAStoreThatTakesNone(t *testing.T) {
	inWorld(t, tokenWorld(""), func(w *world) {
		c := w.client()
		for _, user := range []string{"homer", "nemo"} {
			c.sendLine("a AUTHENTICATE XOAUTH2 %s", xoauth2(user, "secret"))
			wantReason(t, "XOAUTH2", strings.TrimPrefix(c.line(), "+ "))
			c.sendLine("")
			c.expect("a NO [AUTHENTICATIONFAILED] Authentication failed")
		}
		if len(w.con.asked) > 0 {
			t.Error("a store was asked")
		}
	})
}

func TestTokenClaim(t *testing.T) {
	jwt := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"email":"anna"}`)) + ".c2ln"
	for claim, want := range map[string]string{"email": "anna", "": "", "upn": ""} {
		if got := claimOf(jwt, claim); got != want {
			t.Errorf("claim %q names %q", claim, got)
		}
	}
	for claim, found := range map[string]bool{"email": true, "": false} {
		inWorld(t, tokenWorld(claim), func(w *world) {
			c := w.client()
			c.sendLine("a AUTHENTICATE OAUTHBEARER %s", oauthBearer("", jwt))
			c.expect("+ ")
			c.sendLine("AQ==")
			c.expect("a NO [AUTHENTICATIONFAILED]") // the fake store takes "secret" alone
			if asked := len(w.con.asked) == 1 && w.con.asked[0].Route.User == "anna"; asked != found {
				t.Errorf("claim %q: asked for %+v", claim, w.con.asked)
			}
		})
	}
}

// TestTokenAnswers: whatever the client says to the reason, it is refused; what
// is no SASL at all ends nothing.
func TestTokenAnswers(t *testing.T) {
	for _, answer := range []string{"", "*", "AQ==", "====", strings.Repeat("A", 8000)} {
		inWorld(t, tokenWorld(""), func(w *world) {
			c := w.client()
			c.sendLine("a AUTHENTICATE XOAUTH2 %s", xoauth2("anna", "wrong"))
			c.expect("+ ")
			c.sendLine("%s", answer)
			c.expect("a NO [AUTHENTICATIONFAILED]")
			c.sendLine("b NOOP")
			c.expect("b OK")
		})
	}
	// A client that says nothing is sent away.
	inWorld(t, tokenWorld(""), func(w *world) {
		c := w.client()
		c.sendLine("a AUTHENTICATE XOAUTH2 %s", xoauth2("anna", "wrong"))
		c.expect("+ ")
		c.expect("* BYE Disconnected for inactivity")
		c.end()
	})
	// Long tokens fit.
	inWorld(t, tokenWorld(""), func(w *world) {
		c := w.client()
		c.sendLine("a AUTHENTICATE XOAUTH2 %s", xoauth2("anna", strings.Repeat("t", 8<<10)))
		c.expect("+ ")
		c.sendLine("")
		c.expect("a NO [AUTHENTICATIONFAILED]")
		if len(w.con.asked) != 1 || len(w.con.asked[0].Password) != 8<<10 {
			t.Error("the token did not reach the store whole")
		}
	})
}

func TestParseTokens(t *testing.T) {
	for msg, want := range map[string]string{
		"user=a@b\x01auth=Bearer t\x01\x01": "a@b", "user=a@b\x01auth=bearer t\x01\x01": "a@b",
		"user=a=b\x01auth=Bearer t\x01\x01": "a=b",
		"user=a\x01auth=Bearer t\x01":       "!", "user=a\x01\x01": "!", "auth=Bearer t\x01\x01": "!", "user=\x01auth=Bearer t\x01\x01": "!",
		"user=a\x01auth=Basic t\x01\x01": "!", "user=a\x01user=b\x01auth=Bearer t\x01\x01": "!", "": "!", "\x01\x01": "!",
		"user=a\x01auth=Bearer \x01\x01": "!", "user=a\x01auth=Bearer t\x01\x01\x01": "!", "user=a\x01x\x01auth=Bearer t\x01\x01": "!",
	} {
		checkParsed(t, msg, want)(parseXOAUTH2(msg))
	}
	for msg, want := range map[string]string{
		"n,a=a@b,\x01auth=Bearer t\x01\x01": "a@b", "n,a=a=2Cb=3Dc,\x01auth=Bearer t\x01\x01": "a,b=c", "n,,\x01auth=Bearer t\x01\x01": "",
		"y,a=a,\x01host=h\x01port=1\x01auth=Bearer t\x01\x01": "a",
		"p=tls-unique,a=a,\x01auth=Bearer t\x01\x01":          "!", "n,a=a\x01auth=Bearer t\x01\x01": "!", "n,b=a,\x01auth=Bearer t\x01\x01": "!",
		"n,a=,\x01auth=Bearer t\x01\x01": "!", "n,a=x=2c,\x01auth=Bearer t\x01\x01": "!", "n,a=a,x\x01auth=Bearer t\x01\x01": "!",
		"n,a=a,": "!", "": "!", "n,a=a,\x01\x01": "!", "\x01": "!",
	} {
		checkParsed(t, msg, want)(parseOAuthBearer(msg))
	}
}

func checkParsed(t *testing.T, msg, want string) func(credentials, error) {
	return func(c credentials, err error) {
		t.Helper()
		switch {
		case want == "!" && err != line.ErrSASL:
			t.Errorf("%q: %+v, %v", msg, c, err)
		case want != "!" && (err != nil || c.user != want || c.password != "t"):
			t.Errorf("%q: %+v, %v", msg, c, err)
		}
	}
}

// FuzzTokens: whatever a client sends as a message, what is taken out of it is
// within it, and clean or refused later on.
func FuzzTokens(f *testing.F) {
	f.Add("user=a\x01auth=Bearer t\x01\x01")
	f.Add("n,a=a=2Cb,\x01host=h\x01auth=Bearer t\x01\x01")
	f.Add("n,,\x01auth=Bearer e30.eyJlbWFpbCI6ImEifQ.x\x01\x01")
	f.Fuzz(func(t *testing.T, msg string) {
		for _, parse := range []func(string) (credentials, error){parseXOAUTH2, parseOAuthBearer} {
			c, err := parse(msg)
			if err != nil {
				continue
			}
			if c.password == "" || strings.ContainsAny(c.user+c.password.Reveal(), "\x01") || !strings.Contains(msg, c.password.Reveal()) {
				t.Errorf("%q gives %q, %q", msg, c.user, c.password.Reveal())
			}
			claimOf(c.password.Reveal(), "email")
		}
	})
}
